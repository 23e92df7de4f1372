"""Train a detector."""

import argparse
from typing import TYPE_CHECKING

from .arguments import add_config, add_run, load_config

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
        help="continue a run: the work dir's last one, or that of a checkpoint file or "
        "of another run's folder",
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size over all processes',
    )
    parser.add_argument(
        '--log',
        nargs='+',
        action='extend',
        default=[],
        metavar='NAME',
        help='log to tensorboard, wandb, mlflow, clearml as well',
    )
    parser.add_argument(
        '--no-report', action='store_true', help='write no report at the end'
    )


def run(args: argparse.Namespace) -> 'Runner':
    from ..apis import train

    cfg = load_config(args)
    return train(
        cfg,
        resume=args.resume,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        loggers=args.log,
        report=not args.no_report,
    )
