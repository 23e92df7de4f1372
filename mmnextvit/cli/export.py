"""Export a detector to ONNX, OpenVINO, TensorRT, a web page and others.

Normalisation, network and decoding are inside, and non-maximum suppression where the
format has it. The file is compared with torch on real images, and one that differs is
not kept. In half precision or int8 it differs, and its mAP on the config's test data is
reported beside torch's.
"""

import argparse
from typing import TYPE_CHECKING

from ..deploy.formats import FORMATS, check_format
from ..utils.errors import UserError
from .arguments import add_detector, begin, bind_print, load_config

if TYPE_CHECKING:
    from ..deploy.export import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_detector(parser, 'checkpoint file')
    parser.add_argument(
        '--to', required=True, type=parse_format, help=', '.join(FORMATS)
    )
    parser.add_argument(
        '--imgsz',
        nargs='+',
        default=[],
        metavar=('H', 'W'),
        help="height and width, or 'dynamic' (the config's test pipeline's, fixed)",
    )
    parser.add_argument('--batch', default='1', help="images at a time, or 'dynamic'")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument('--half', action='store_true', help='float16')
    precision.add_argument(
        '--int8', action='store_true', help='8 bits, calibrated by --calib'
    )
    parser.add_argument('--calib', help='images to calibrate with: folder or pattern')
    parser.add_argument(
        '--max-drop',
        type=float,
        metavar='X',
        help='by how much no mAP of int8 may fall: leaves layers in float',
    )
    parser.add_argument(
        '--max-minutes',
        type=float,
        default=60,
        metavar='N',
        help='how long these layers are looked for (60)',
    )
    parser.add_argument('--no-nms', action='store_true', help='give all candidates')
    parser.add_argument(
        '--efficient-nms',
        action='store_true',
        help="TensorRT's plugin EfficientNMS in place of ONNX's operator",
    )
    parser.add_argument(
        '--images', help="images to compare on (the config's test images)"
    )
    parser.add_argument(
        '--onnxruntime-web',
        metavar='PACKAGE',
        help='for web: what `npm pack onnxruntime-web@VERSION` writes, or a folder in '
        'node_modules (fetched by npm, once)',
    )
    parser.add_argument('--no-map', action='store_true', help="don't measure mAP")
    parser.add_argument('--force', action='store_true', help='replace what exists')
    parser.add_argument('-o', '--out', help='file or folder (beside the checkpoint)')


def run(args: argparse.Namespace) -> 'Report':
    size, batch = parse_size(args.imgsz), parse_batch(args.batch)
    begin(args)

    from ..deploy.export import Options, export

    options = Options(
        to=args.to,
        size=size,
        dynamic_size=args.imgsz == ['dynamic'],
        batch=batch,
        precision='half' if args.half else 'int8' if args.int8 else 'float32',
        calibration=args.calib,
        nms=not args.no_nms,
        efficient_nms=args.efficient_nms,
        images=args.images,
        with_map=not args.no_map,
        max_drop=args.max_drop,
        max_minutes=args.max_minutes,
        onnxruntime_web=args.onnxruntime_web,
        overwrite=args.force,
        out=args.out,
    )
    report = export(load_config(args), args.checkpoint, options, bind_print())
    print(report)
    return report


def parse_format(name: str) -> str:
    """A format's name, for argparse."""
    try:
        return check_format(name)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_size(words: list[str]) -> tuple[int, int] | None:
    """Height and width of ``--imgsz``, ``None`` for those of the config.

    Raises:
        UserError: It is neither one or two numbers nor 'dynamic'.
    """
    if words in ([], ['dynamic']):
        return None
    if len(words) > 2 or not all(map(is_number, words)):
        raise UserError(
            f"--imgsz {' '.join(words)}: write a height and a width, or 'dynamic'"
        )
    return int(words[0]), int(words[-1])


def parse_batch(word: str) -> int | None:
    """``--batch`` as a number, ``None`` for any number.

    Raises:
        UserError: It is neither a positive number nor 'dynamic'.
    """
    if word == 'dynamic':
        return None
    if not is_number(word) or int(word) < 1:
        raise UserError(f"--batch {word}: write a number, or 'dynamic'")
    return int(word)


def is_number(word: str) -> bool:
    """Whether a word is a whole number that Python reads: it refuses very long ones."""
    return word.isdecimal() and len(word) < 20
