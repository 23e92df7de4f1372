"""Convert weights between layouts and file formats.

SRC is a file or an address of any layout that is known: the official release's, timm's,
the patched YOLOv5's, ours. DST gets another layout, or ours; its name may end in
.safetensors.
"""

import argparse

from .arguments import read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument('src', help="checkpoint to read, or a run's folder")
    parser.add_argument('dst', help='file to write, which must not exist')
    parser.add_argument(
        '--to',
        choices=['yolov5', 'ours', 'official', 'timm'],
        default='ours',
        help='its layout',
    )
    parser.add_argument(
        '--config',
        help='config of the detector, where it is not NextViT with rows 5 to 19',
    )


def run(args: argparse.Namespace) -> None:
    """Converts the file, and prints what was read and written."""
    from ..engine.runner import build_model
    from ..utils.messages import show
    from ..weights.conversion import convert_file
    from ..weights.layouts import FORMATS, Numbering
    from ..weights.loading import find_numbering

    numbering = Numbering()
    if args.config is not None:
        numbering = find_numbering(build_model(read_config(args.config)))
    done = convert_file(args.src, args.dst, args.to, numbering)
    weights = done.weights
    print(
        f'{args.src}: {FORMATS[weights.layout].title}, {len(weights.state)} tensors\n'
        f'{args.dst}: {FORMATS[args.to].title}, {len(done.state)} tensors'
    )
    for name, value in weights.metadata.items():
        print(f'  {name}: {show(value)}')
