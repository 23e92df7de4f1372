"""Evaluate: tools/test.py CONFIG CHECKPOINT [--show-dir DIR] [--out FILE.pkl]

CHECKPOINT may be what tools/export.py wrote: it is tested as it will be used, with its
own resizing.
"""

from pathlib import Path

import mmnextvit  # noqa: F401  (first, also in data-loader workers that are spawned)
from mmnextvit.cli.arguments import existing_file, load_config
from mmnextvit.deploy.exported import is_exported, with_exported
from mmnextvit.engine.hooks import unwrapped
from mmnextvit.engine.runner import build_runner, check_amp, parser, run

from mmdet.evaluation import DumpDetResults


def parse_args():
    p = parser('Evaluate a checkpoint on the test data of a config.')
    p.add_argument('checkpoint', help='checkpoint, or exported file or folder')
    p.add_argument(
        '--amp', action='store_true', help='mixed precision (bfloat16 on a CPU)'
    )
    p.add_argument('--out', metavar='FILE.pkl', help='save the predictions there')
    p.add_argument('--show-dir', help='save drawn predictions beside the truth there')
    return p.parse_args()


def main():
    args = parse_args()
    cfg = load_config(args)
    # A folder of its own keeps the config that the training run wrote.
    cfg.work_dir = args.work_dir or str(Path(cfg.work_dir, 'test'))
    if is_exported(args.checkpoint):
        if args.amp:
            raise ValueError('--amp: an exported file computes as it was exported')
        if args.launcher != 'none':
            raise ValueError('--launcher: an exported file is tested by one process')
        cfg = with_exported(cfg, args.checkpoint)
    else:
        cfg.load_from = existing_file(args.checkpoint, 'checkpoint')
    cfg.resume = False
    if args.amp:
        cfg.test_cfg.fp16 = True  # MMEngine's name of it
    if args.show_dir:
        cfg.default_hooks.visualization = dict(
            type='mmdet.DetVisualizationHook',
            draw=True,
            test_out_dir=str(Path(args.show_dir).resolve()),
        )
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out {args.out}: the name must end in .pkl')
    runner = build_runner(cfg)
    if args.amp:
        check_amp(unwrapped(runner))
    if args.out:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.test()


if __name__ == '__main__':
    run(main)
