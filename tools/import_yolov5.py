"""As ``mmnextvit import_yolov5``: tools/import_yolov5.py MODEL.yaml -o CONFIG.py"""

from mmnextvit.cli import main

if __name__ == '__main__':
    main('import_yolov5')
