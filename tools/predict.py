"""As ``mmnextvit predict``: tools/predict.py CONFIG CHECKPOINT INPUT [--out-dir DIR]"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('predict')
