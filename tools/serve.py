"""As ``mmnextvit serve``: tools/serve.py FOLDER"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('serve')
