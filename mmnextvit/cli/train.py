"""Train a detector."""

import argparse
from typing import TYPE_CHECKING

from ..runs import is_first_process
from ..utils.files import check_folder
from .arguments import (
    AUTO,
    add_amp,
    add_config,
    add_run,
    add_settings,
    begin,
    load_config,
    read_settings,
    to_count,
    to_name,
    to_positive,
)

if TYPE_CHECKING:
    from mmengine.runner import Runner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    folder = add_run(parser)
    folder.add_argument('--name', type=to_name, help='the same, in ./work_dirs/')
    add_settings(parser)
    parser.add_argument(
        '--device', help='cpu, cuda or cuda:1 (a GPU where there is one)'
    )
    add_amp(parser)
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
        '--patience',
        type=to_count,
        metavar='EPOCHS',
        help='end, with a last phase of falling rate, after so many epochs without a '
        'better metric',
    )
    parser.add_argument(
        '--hours',
        type=to_positive,
        metavar='N',
        help='end, with a last phase of falling rate, within so many hours, as in 1.5',
    )
    parser.add_argument(
        '--no-report', action='store_true', help='write no report at the end'
    )


def run(args: argparse.Namespace) -> 'Runner':
    if args.name is not None:
        args.work_dir = f'./work_dirs/{args.name}'
    if args.work_dir and is_first_process(args.launcher):
        check_folder(args.work_dir, '--work-dir')
    settings = read_settings(args)
    begin(args)

    from ..apis import find_batch_size, train

    cfg = load_config(args, settings)
    if args.batch == AUTO:
        asked = dict(resume=args.resume, amp=args.amp, device=args.device)
        settings['batch_size'] = find_batch_size(cfg, **asked)
        cfg = load_config(args, settings)
    return train(
        cfg,
        resume=args.resume,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        loggers=args.log,
        device=args.device,
        patience=args.patience,
        hours=args.hours,
        report=not args.no_report,
    )
