"""Convert weights between layouts and file formats.

SRC is a file or an address of any layout that is known: the official release's, timm's,
the patched YOLOv5's, ours. DST gets another layout, or ours; its name may end in
.safetensors.
"""

import argparse
from functools import partial
from pathlib import Path


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
    from ..engine.configs import read_config
    from ..engine.runner import build_model
    from ..utils.messages import show
    from ..weights.conversion import convert_file
    from ..weights.layouts import FORMATS, Numbering
    from ..weights.loading import find_numbering
    from ..yolov5_import.write_back import STEPS, describe_model, make_extras

    numbering, describe = Numbering(), None
    plain = Path(args.dst).suffix != '.safetensors'
    if args.config is not None:
        cfg = read_config(args.config)
        model = build_model(cfg)
        numbering = find_numbering(model)
        if args.to == 'yolov5' and plain:
            yaml = describe_model(cfg, model)
            describe = partial(make_extras, yaml, model)
    done = convert_file(args.src, args.dst, args.to, numbering, describe)
    weights = done.weights
    print(
        f'{args.src}: {FORMATS[weights.layout].title}, {len(weights.state)} tensors\n'
        f'{args.dst}: {FORMATS[args.to].title}, {len(done.state)} tensors'
    )
    for name, value in weights.metadata.items():
        print(f'  {name}: {show(value)}')
    if describe:
        target = Path(args.dst).with_name(f'{Path(args.dst).stem}_yolov5.pt').name
        steps = STEPS.format(source=Path(args.dst).name, target=target)
        print(
            f"YOLOv5's detect.py, val.py, export.py and train.py --weights take "
            f"{target}, a pickle of YOLOv5's own classes. Put {args.dst} into YOLOv5's "
            f'folder, and run there:\n\n{steps}'
        )
    elif args.to == 'yolov5' and plain:
        print(
            "This is a state dict of YOLOv5's names. With --config, the file gets the "
            "YAML of the model too, and the lines are printed that make YOLOv5's own "
            'file of it'
        )
