"""Evaluate a checkpoint or an exported file on the test data.

An exported file is tested as it will be used, with its own resizing. Beside the average
precisions it says the precision, recall and F1 of the detections that have at least the
score of --score-thr, by class.

--slice 640 tests with large images cut into tiles, and says what that gains over the
same images as they are, also for small objects, and how much longer it takes.
"""

import argparse

from ..utils.files import PICKLES, check_folder, check_new_file
from .arguments import (
    add_amp,
    add_detector,
    add_run,
    add_slicing,
    add_threshold,
    begin,
    load_config,
    read_slicing,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_detector(parser, 'checkpoint, or exported file or folder')
    add_run(parser)
    add_amp(parser)
    add_threshold(parser, 'minimum score of what is drawn and counted by itself')
    add_slicing(parser)
    parser.add_argument(
        '--out', metavar='FILE.pkl', help='a new file for the predictions'
    )
    parser.add_argument(
        '--show-dir', help='save drawn predictions beside the truth there'
    )


def run(args: argparse.Namespace) -> dict[str, float]:
    if args.out:
        check_new_file(args.out, '--out', PICKLES)
    if args.show_dir:
        check_folder(args.show_dir, '--show-dir')
    if args.work_dir:
        check_folder(args.work_dir, '--work-dir')
    begin(args)

    from ..apis import test

    slicing = read_slicing(args)
    return test(
        load_config(args),
        args.checkpoint,
        work_dir=args.work_dir,
        amp=args.amp,
        out=args.out,
        show_dir=args.show_dir,
        score_thr=args.score_thr,
        slicing=slicing,
    )
