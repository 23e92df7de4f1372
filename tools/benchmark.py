"""As ``mmnextvit benchmark``: tools/benchmark.py [SUITE ...] [--device cuda]"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('benchmark')
