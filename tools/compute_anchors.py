"""As ``mmnextvit compute_anchors``: tools/compute_anchors.py CONFIG -o NEW.py"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('compute_anchors')
