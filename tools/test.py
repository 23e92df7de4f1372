"""As ``mmnextvit test``: tools/test.py CONFIG CHECKPOINT [--show-dir DIR]"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('test')
