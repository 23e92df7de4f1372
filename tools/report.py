"""As ``mmnextvit report``: tools/report.py CONFIG CHECKPOINT [--out FOLDER]"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('report')
