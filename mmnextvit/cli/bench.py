"""Compare your model's formats: size, speed and mAP on your data.

RUN is a run's folder, or CONFIG CHECKPOINT. The detector is exported to each format and
compared with torch on the config's test data, in turn. A format that fails, or whose
package is not installed, is a row that says why. The run itself stays as it is: -o
keeps the exported files. To measure the backbone beside timm's, see `mmnextvit
benchmark`.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.files import atomic_write_text, check_new_folder
from .arguments import add_detector, begin, bind_print, load_config, to_count

if TYPE_CHECKING:
    from ..benchmark.formats import Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_detector(parser, 'checkpoint file')
    parser.add_argument(
        '--formats',
        nargs='+',
        default=[],
        metavar='FORMAT',
        help='torch, onnx, openvino, tensorrt, ncnn, pt2, torchscript, also with -half '
        'or -int8, as in openvino-int8 (all in float32 that can run here)',
    )
    parser.add_argument(
        '--images',
        type=to_count,
        default=20,
        metavar='N',
        help='how many images of the test data are timed (20)',
    )
    parser.add_argument(
        '--threads', type=to_count, metavar='N', help="of the CPU (torch's own choice)"
    )
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument(
        '--calib',
        metavar='IMAGES',
        help="images to calibrate int8 with: folder or pattern (the config's training "
        'data)',
    )
    parser.add_argument('--no-map', action='store_true', help="don't measure mAP")
    parser.add_argument(
        '-o',
        '--out',
        metavar='FOLDER',
        help='a new folder for the exported files, bench.md and bench.json',
    )


def run(args: argparse.Namespace) -> 'Comparison':
    if args.out:
        check_new_folder(args.out)
    begin(args)

    from ..benchmark.formats import (
        check_any_worked,
        check_names,
        choose_names,
        compare_formats,
        describe_comparison,
        make_formats_table,
    )
    from ..engine.runner import choose_device

    asked = [name for text in args.formats for name in text.split(',') if name]
    names = check_names(asked) if asked else choose_names()
    choose_device(args.device)
    cfg = load_config(args)
    with open_folder(args.out) as folder:
        comparison = compare_formats(
            cfg,
            args.checkpoint,
            names,
            folder,
            max_images=args.images,
            threads=args.threads,
            device=args.device,
            calibration=args.calib,
            with_map=not args.no_map,
            say=bind_print(),
        )
        if args.out:
            write(comparison, folder)
    table = make_formats_table(comparison)
    print(f'\n{table.to_text()}\n\n{describe_comparison(comparison)}')
    check_any_worked(comparison)
    return comparison


@contextmanager
def open_folder(out: str | None) -> Iterator[Path]:
    """The folder to keep, or one that is removed behind the block."""
    if out:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def write(comparison: 'Comparison', folder: Path) -> None:
    """Writes bench.md and bench.json."""
    from ..benchmark.formats import (
        describe_comparison,
        list_content,
        make_formats_table,
    )

    table = make_formats_table(comparison).to_markdown()
    text = f'{table}\n\n{describe_comparison(comparison)}\n'
    atomic_write_text(folder / 'bench.md', text)
    content = json.dumps(list_content(comparison), indent=2)
    atomic_write_text(folder / 'bench.json', f'{content}\n')
