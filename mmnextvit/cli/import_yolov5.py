"""Write a config, and weights, from a YOLOv5 model's files.

A trained .pt alone suffices: it holds the YAML of its model, its classes and anchors.
The config inherits from ours; the weights are written beside it under its name. What
has no counterpart here is listed with its file and line.
"""

import argparse
from typing import TYPE_CHECKING

from .arguments import check_new_config

if TYPE_CHECKING:
    from ..yolov5_import.import_model import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('model', help="YOLOv5's trained .pt, or its YAML of the model")
    add('-o', '--out', required=True, help='config to write (.py), new')
    add('--data', help="YOLOv5's data.yaml")
    add('--data-root', help='folder that paths in data.yaml may count from, too')
    add('--hyp', help="YOLOv5's hyperparameters")
    add('--weights', help='trained .pt, where the model is a YAML of your own')
    add(
        '--modules',
        action='append',
        default=[],
        metavar='FILE',
        help='Python file of your own with @register_row(), which is run; repeatable',
    )
    add('--imgsz', type=int, help='side in pixels (that of the .pt, else 640)')
    add('--epochs', type=int, default=300, help='length of the training (300)')
    add('--batch-size', type=int, default=16, help='images per process (16)')


def run(args: argparse.Namespace) -> 'Report':
    from ..yolov5_import.import_model import Options, import_model

    options = Options(
        model=args.model,
        out=check_new_config(args.out),
        data=args.data,
        data_root=args.data_root,
        hyp=args.hyp,
        weights=args.weights,
        img_size=args.imgsz,
        epochs=args.epochs,
        batch_size=args.batch_size,
        modules=args.modules,
    )
    report = import_model(options)
    print(report)
    return report
