"""Make a small data set of drawn shapes, in COCO format."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--out', type=Path, default=Path('data/demo'), help='folder')
    parser.add_argument('--train', type=int, default=200, help='images to train on')
    parser.add_argument('--val', type=int, default=50, help='images to validate on')
    parser.add_argument('--size', type=int, default=128, help='height and width')
    parser.add_argument('--seed', type=int, default=0, help='of the randomness')


def run(args: argparse.Namespace) -> None:
    from ..datasets.demo_data import make_demo_data

    written = make_demo_data(**vars(args))
    state = 'written' if written else 'there already, nothing written'
    print(f'{args.out}: {args.train} + {args.val} images, {state}')
