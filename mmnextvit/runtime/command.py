"""The command: images and videos in, lines of JSON out."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextlib import suppress as suppress_errors
from pathlib import Path
from typing import TextIO

from .choices import read_choices
from .detector import Detector
from .errors import ImageError, OptionError
from .predicting import Sink, predict
from .slicing import MERGES, read_slicing
from .sources import Source, find_sources
from .stopping import Stopped, stop_by_key, stop_by_signal
from .thresholds import BEST, Threshold

SOURCES = (
    'image, video, folder, quoted pattern, list of them (.txt, or - for standard '
    "input), webcam's number, or address (rtsp://, http://)"
)
RECT = "pad to the smallest rectangle, as YOLOv5's detect.py (the file's own way)"
SQUARE = 'pad to a square'


def main(arguments: list[str] | None = None) -> int:
    """``python -m mmnextvit.runtime``; returns the exit code."""
    p = argparse.ArgumentParser('python -m mmnextvit.runtime', description='Predict.')
    p.add_argument('model', help='exported file, or folder of OpenVINO or NCNN')
    p.add_argument('sources', nargs='+', metavar='source', help=SOURCES)
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
    add_sources(p)
    p.add_argument(
        '--draw', metavar='FOLDER', help='where drawings go: boxes, masks and classes'
    )
    p.add_argument('-o', metavar='FILE', help='a new file for the lines of JSON')
    p.add_argument(
        '--out-dir',
        metavar='FOLDER',
        help='a new folder for all: predictions.jsonl, drawn/ and crops/',
    )
    args = p.parse_args(arguments)
    try:
        sink = choose_sink(args)
        sources = find_sources(args.sources)
        sink.choices.check(sources)
        options = {'device': args.device, 'threads': args.threads, 'rect': args.rect}
        detector = Detector(args.model, **options, slicing=read_slicing(vars(args)))
        detector.find_thresholds(args.score_thr)  # errors come before any image
        given = (detector, sources, args.score_thr)
        with stop_by_signal(), stop_by_key():
            if not sink.lines:
                return print_objects(*given, sys.stdout, sink)
            with new_file(sink.lines, keep=bool(args.out_dir)) as out:
                return print_objects(*given, out, sink)
    except Stopped as error:
        p.exit(128 + error.number, 'terminated\n')
    except KeyboardInterrupt:
        p.exit(130, 'interrupted\n')
    except (OSError, ValueError, ImportError) as error:
        p.exit(1, f'{error}\n')


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Adds how sources are read, and what is written of them.

    The values are checked by :func:`~.choices.read_choices`.
    """
    add = parser.add_argument_group('videos, webcams and streams').add_argument
    add(
        '--fps',
        type=float,
        metavar='RATE',
        help='look at so many frames a second, at most',
    )
    add(
        '--reconnect',
        type=int,
        metavar='N',
        default=5,
        help='tries in a row to connect again to a stream (5)',
    )
    add(
        '--track',
        action='store_true',
        help='give each object a number that it keeps from frame to frame',
    )
    add(
        '--save-video',
        action='store_true',
        help='draw streams, too, as a video, and keep what an interrupt leaves of one',
    )
    add = parser.add_argument_group('results').add_argument
    add('--no-draw', action='store_true', help='draw nothing')
    add(
        '--save-crops',
        action='store_true',
        help='write each object as an image of its own, under crops/<class>/',
    )
    add(
        '--batch',
        type=int,
        metavar='N',
        default=1,
        help='images or frames that go through the network at once (1)',
    )


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


def choose_sink(args: argparse.Namespace) -> Sink:
    """Where results go, of the command's options.

    Raises:
        OptionError: Two of them say the same, or one needs another one; or the folder
            is not empty.
        OSError: The folder cannot be made.
    """
    choices = read_choices(vars(args))
    if not args.out_dir:
        for option in ('save_video', 'save_crops'):
            if getattr(choices, option):
                name = option.replace('_', '-')
                raise OptionError(
                    f'--{name} needs a folder to write to: --out-dir FOLDER'
                )
        if args.draw and choices.no_draw:
            raise OptionError(
                '--draw and --no-draw contradict each other: leave one out'
            )
        return Sink(choices, args.o, Path(args.draw) if args.draw else None)
    for option, value in {'-o': args.o, '--draw': args.draw}.items():
        if value:
            raise OptionError(f'{option} is a part of --out-dir: leave one out')
    folder = Path(args.out_dir)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise OptionError(
            f'--out-dir {folder} is not an empty folder: choose a new one'
        )
    folder.mkdir(parents=True, exist_ok=True)
    return Sink(
        choices,
        str(folder / 'predictions.jsonl'),
        None if choices.no_draw else folder / 'drawn',
        folder / 'crops' if choices.save_crops else None,
    )


def to_threshold(text: str) -> Threshold:
    """A minimum score, for argparse."""
    if text == BEST:
        return BEST
    with suppress_errors(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1, nor 'best'")


@contextmanager
def new_file(path: str, keep: bool = False) -> Iterator[TextIO]:
    """A file that did not exist. What Ctrl-C ends keeps its lines, if there are any.

    Args:
        path: The file.
        keep: Whether its whole lines are kept where anything else ends it, too.

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
        if keep:
            cut_half_line(Path(path))
        elif not isinstance(error, KeyboardInterrupt):
            os.remove(path)
        if os.path.exists(path) and not os.path.getsize(path):
            os.remove(path)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = path
        raise


def cut_half_line(path: Path) -> None:
    """Cuts what follows the last whole line, as a full disk leaves it."""
    with path.open('rb+') as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - (1 << 24), 0))
        tail = file.read()
        file.truncate(end - len(tail) + tail.rfind(b'\n') + 1)


def print_objects(
    detector: Detector,
    sources: Iterable[str | Source],
    score_thr: Threshold,
    out: TextIO,
    sink: Sink | None = None,
) -> int:
    """Prints a line of JSON for each image or frame; returns the exit code.

    What is wrong with a source is printed, and the others go on.

    Args:
        detector: What detects.
        sources: Images by their paths, and sources.
        score_thr: Minimum score, 0 to 1, or 'best' for each class's own.
        out: Gets the lines.
        sink: Where what is drawn and cropped goes, if anywhere.
    """
    code = 0
    for found in predict(detector, sources, score_thr, sink or Sink()):
        if isinstance(found, ImageError):
            print(found, file=sys.stderr)
            code = 1
        else:
            print(json.dumps(found), file=out, flush=True)
    return code
