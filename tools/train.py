"""As ``mmnextvit train``: tools/train.py CONFIG [--amp] [--resume [FILE]]"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('train')
