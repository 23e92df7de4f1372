"""The command: images in, lines of JSON out."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextlib import suppress as suppress_errors
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

from .detector import Detector
from .drawing import draw_objects, write_drawing
from .errors import ImageError
from .resizing import Layout
from .slicing import MERGES, read_slicing
from .threads import map_ahead, open_threads
from .thresholds import BEST, Threshold

RECT = "pad to the smallest rectangle, as YOLOv5's detect.py (the file's own way)"
SQUARE = 'pad to a square'


def main(arguments: list[str] | None = None) -> int:
    """``python -m mmnextvit.runtime``; returns the exit code."""
    p = argparse.ArgumentParser('python -m mmnextvit.runtime', description='Predict.')
    p.add_argument('model', help='exported file, or folder of OpenVINO or NCNN')
    p.add_argument('images', nargs='+', metavar='image')
    p.add_argument(
        '--score-thr',
        type=to_threshold,
        default=0.3,
        help="minimum score, 0 to 1, or 'best': each class's own (0.3)",
    )
    p.add_argument('--device', default='cpu', help='cpu, cuda, or as OpenVINO calls it')
    p.add_argument('--threads', type=int, help='of the CPU')
    shape = p.add_mutually_exclusive_group()
    shape.add_argument('--rect', action='store_true', default=None, help=RECT)
    shape.add_argument('--square', dest='rect', action='store_false', help=SQUARE)
    add_slicing(p)
    p.add_argument(
        '--draw', metavar='FOLDER', help='where drawings go: boxes, masks and classes'
    )
    p.add_argument('-o', metavar='FILE', help='a new file for the lines of JSON')
    args = p.parse_args(arguments)
    try:
        options = {'device': args.device, 'threads': args.threads, 'rect': args.rect}
        detector = Detector(args.model, **options, slicing=read_slicing(vars(args)))
        detector.find_thresholds(args.score_thr)  # errors come before any image
        given = (detector, args.images, args.score_thr)
        if not args.o:
            return print_objects(*given, sys.stdout, args.draw)
        with new_file(args.o) as out:
            return print_objects(*given, out, args.draw)
    except KeyboardInterrupt:
        p.exit(130, 'interrupted\n')
    except (OSError, ValueError, ImportError) as error:
        p.exit(1, f'{error}\n')


def add_slicing(parser: argparse.ArgumentParser) -> None:
    """Adds ``--slice`` and what goes with it."""
    add = parser.add_argument_group('large images').add_argument
    add(
        '--slice',
        type=int,
        metavar='SIZE',
        help='cut images larger than this into tiles of this height and width',
    )
    add(
        '--overlap',
        type=float,
        metavar='SHARE',
        help='what neighbours have in common, as a share of a tile (0.2)',
    )
    add(
        '--merge',
        choices=MERGES,
        help='compare boxes of several tiles by the share of the smaller one (ios, the '
        'default) or by intersection over union',
    )
    add(
        '--merge-thr',
        type=float,
        dest='threshold',
        metavar='SHARE',
        help='from which on they are one object (0.5)',
    )
    add(
        '--tiles-only',
        action='store_false',
        default=None,
        dest='whole',
        help='leave the whole image out, in which larger objects are found',
    )


def to_threshold(text: str) -> Threshold:
    """A minimum score, for argparse."""
    if text == BEST:
        return BEST
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1, nor 'best'")
    return value


@contextmanager
def new_file(path: str) -> Iterator[TextIO]:
    """A file that did not exist. What Ctrl-C ends keeps its lines, if there are any.

    Raises:
        FileExistsError: It exists.
        OSError: It cannot be written, which ``filename`` says. Half of a line, or none,
            does not stay to stand in the way of the next try.
    """
    file = open(path, 'x', encoding='utf-8')  # noqa: SIM115  (closing may fail, too)
    try:
        yield file
        file.close()
    except BaseException as error:
        with suppress_errors(OSError):
            file.close()
        if not isinstance(error, KeyboardInterrupt) or not os.path.getsize(path):
            os.remove(path)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = path
        raise


def print_objects(
    detector: Detector,
    images: Iterable[str],
    score_thr: Threshold,
    out: TextIO,
    drawings: str | None = None,
) -> int:
    """Prints a line of JSON for each image; returns the exit code.

    With ``drawings`` each is drawn into that folder, too.

    What is wrong with an image is printed, and the others go on. Threads read the next
    images while the network works.
    """
    code = 0
    files = list(images)
    with open_threads() as threads:
        prepared = map_ahead(threads, partial(try_to_prepare, detector), files)
        for file, one in zip(files, prepared, strict=True):
            if isinstance(one, ImageError):
                print(one, file=sys.stderr)
                code = 1
                continue
            (found,) = detector.detect_prepared([one], score_thr)
            objects = detector.list_objects(found)
            line: dict[str, object] = {'file': file, 'objects': objects.add_polygons()}
            if drawings:
                drawn = draw_objects(file, objects)
                line['drawn'] = str(write_drawing(Path(drawings), file, drawn))
            print(json.dumps(line), file=out, flush=True)
    return code


def try_to_prepare(
    detector: Detector, file: str
) -> tuple[np.ndarray, Layout] | ImageError:
    """An image as :meth:`Detector.preprocess` makes it, or what is wrong with it."""
    try:
        return detector.preprocess(file)
    except ImageError as error:
        return error
