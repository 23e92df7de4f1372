"""As ``mmnextvit convert_weights``: tools/convert_weights.py SRC DST [--to LAYOUT]"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('convert_weights')
