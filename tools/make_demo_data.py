"""As ``mmnextvit make_demo_data``: tools/make_demo_data.py [--out DIR] [--train N]"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('make_demo_data')
