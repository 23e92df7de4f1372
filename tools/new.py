"""As ``mmnextvit new``: tools/new.py FOLDER -o CONFIG.py"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('new')
