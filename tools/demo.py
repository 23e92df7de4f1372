"""As ``mmnextvit demo``: tools/demo.py [--out DIR] [--train N]"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('demo')
