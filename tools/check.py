"""As ``mmnextvit check``: tools/compute_anchors.py CONFIG"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('check')
