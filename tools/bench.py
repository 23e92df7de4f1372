"""As ``mmnextvit bench``: tools/bench.py RUN [--formats FORMAT ...]"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('bench')
