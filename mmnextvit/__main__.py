"""``python -m mmnextvit COMMAND``: the same as ``mmnextvit COMMAND``."""

from mmnextvit.cli import main

if __name__ == '__main__':
    main()
