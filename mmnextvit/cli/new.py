"""Write a config for a folder of images, whatever its layout.

Beside the config are written lists of images where the folder has none for validation,
and COCO's JSON where annotations are of a type that is converted. Nothing of yours is
moved or changed.
"""

import argparse

from .arguments import check_new_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('folder', help='folder with images and annotations, or its annotation file')
    add('-o', '--out', help='config to write (.py), new (the name of the folder)')
    add('--imgsz', type=int, help='side of the images in training in pixels, 32 n')
    add(
        '--model',
        default='s',
        help="s, b or l (NextViT, with YOLOv5's neck and head), timm:NAME (any timm "
        'backbone with them), yolov8 or rtmdet (s)',
    )
    add('--weights', help='weights to start from: a file, timm://NAME, hf://..., a URL')
    add('--all-classes', action='store_true', help='keep classes that own no box')
    add('--skip-missing', action='store_true', help='leave out images that are missing')


def run(args: argparse.Namespace) -> None:
    from ..folder_import.new import Options, write_config
    from ..folder_import.trained import name_config

    options = Options(
        folder=args.folder,
        out=check_new_config(args.out or name_config(args.folder)),
        image_size=args.imgsz,
        model=args.model,
        weights=args.weights,
        all_classes=args.all_classes,
        skip_missing=args.skip_missing,
    )
    print(write_config(options))
