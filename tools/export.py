"""As ``mmnextvit export``: tools/export.py CONFIG CHECKPOINT --to FORMAT"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('export')
