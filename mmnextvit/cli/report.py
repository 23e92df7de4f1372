"""Write a page on how well a run detects, and what it gets wrong.

CONFIG CHECKPOINT, or the folder of a run alone. The report is a folder: `index.html`,
which needs no other file and no network, its images, and all numbers as CSV files.
"""

import argparse
from pathlib import Path

from ..utils.files import require_file
from .arguments import add_detector, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_detector(parser, 'checkpoint')
    parser.add_argument(
        '--out', metavar='FOLDER', help="a new folder (report in the run's folder)"
    )


def run(args: argparse.Namespace) -> Path:
    require_file(args.checkpoint, 'checkpoint')
    # Importing takes seconds.
    from ..apis import choose_work_dir
    from ..report.history import has_logs
    from ..report.report import NAME, write_report

    cfg = load_config(args)
    beside = Path(args.checkpoint).expanduser().parent
    folder = getattr(args, 'run_folder', beside if has_logs(beside) else None)
    # Of a checkpoint that is of no run, it must not take the place of a run's.
    alone = choose_work_dir(cfg) / f'{NAME}_{Path(args.checkpoint).stem}'
    out = Path(args.out or (folder / NAME if folder else alone))
    page = write_report(cfg, args.checkpoint, out, folder)
    print(f'The report is in {page}')
    return page
