"""Make data, train, evaluate and draw, once and on small images."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..demo import DemoRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs'), help='folder for data and runs'
    )
    parser.add_argument('--train', type=int, default=1000, help='images to train on')
    parser.add_argument('--val', type=int, default=100, help='images to validate on')
    parser.add_argument('--size', type=int, default=128, help='their height and width')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        dest='options',
        metavar='KEY=VALUE',
        help='change the config',
    )


def run(args: argparse.Namespace) -> 'DemoRun':
    from ..demo import run_demo

    try:
        result = run_demo(**vars(args))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # it has said why
    print(result.summarize())
    return result
