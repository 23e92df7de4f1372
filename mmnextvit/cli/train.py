"""Train a detector."""

import argparse
from typing import TYPE_CHECKING

from .arguments import add_config, add_run, load_config, to_count, to_hours

if TYPE_CHECKING:
    from mmengine.runner import Runner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_run(parser)
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision (bfloat16 on a CPU)'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='latest',
        metavar='FILE',
        help="continue a run: the work dir's last one, or that of a checkpoint file",
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size over all processes',
    )
    parser.add_argument(
        '--patience',
        type=to_count,
        metavar='EPOCHS',
        help='end, with a last phase of falling rate, after so many epochs without a '
        'better metric',
    )
    parser.add_argument(
        '--hours',
        type=to_hours,
        metavar='N',
        help='end, with a last phase of falling rate, within so many hours, as in 1.5',
    )


def run(args: argparse.Namespace) -> 'Runner':
    from ..apis import train

    cfg = load_config(args)
    return train(
        cfg,
        resume=args.resume,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        patience=args.patience,
        hours=args.hours,
    )
