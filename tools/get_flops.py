"""As ``mmnextvit get_flops``: tools/get_flops.py CONFIG [--shape H W] [--profile]"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('get_flops')
