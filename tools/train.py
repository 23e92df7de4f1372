"""Train a detector: tools/train.py CONFIG [--work-dir DIR] [--amp] [--resume [FILE]]"""

import os
from pathlib import Path

import mmnextvit  # noqa: F401  (first, also in data-loader workers that are spawned)
from mmnextvit.cli.arguments import existing_file, load_config
from mmnextvit.engine.runner import build_runner, parser, run


def parse_args():
    p = parser('Train a detector.')
    p.add_argument(
        '--amp', action='store_true', help='mixed precision (bfloat16 on a CPU)'
    )
    p.add_argument(
        '--resume',
        nargs='?',
        const='latest',
        metavar='FILE',
        help="continue a run: the work dir's last one, or that of a checkpoint file",
    )
    p.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size over all processes',
    )
    return p.parse_args()


def checkpoint_to_resume(work_dir: Path, resume: str | None) -> str | None:
    """The checkpoint to go on from, or None for a new run.

    Raises:
        ValueError: The folder holds a run that a new one would write over.
    """
    last = work_dir / 'last_checkpoint'
    held = sorted(p.name for p in work_dir.glob('*.pth')) or last.is_file()
    if resume == 'latest':
        if last.is_file():
            path = Path(last.read_text().strip())
            moved = work_dir / path.name  # the folder may have been moved or copied
            return existing_file(
                str(moved if moved.is_file() else path), f'{last} names a file that'
            )
        if held:
            raise ValueError(
                f'{work_dir} has no file last_checkpoint: say which of its checkpoints '
                f'({", ".join(held)}) to go on from with --resume FILE'
            )
        print(f'{work_dir} holds no checkpoint: a new run begins')
        return None
    if resume:
        existing_file(resume, 'checkpoint')
    own = resume and Path(resume).resolve().parent == work_dir.resolve()
    if held and not own and os.environ.get('RANK', '0') == '0':
        raise ValueError(
            f'{work_dir} holds another run, which this one would write over. Continue '
            'that one with --resume, or choose another folder with --work-dir.'
        )
    return resume


def main():
    args = parse_args()
    cfg = load_config(args)
    wanted = args.resume
    if cfg.get('resume') and not wanted:
        wanted = cfg.get('load_from') or 'latest'
    resume = checkpoint_to_resume(Path(cfg.work_dir), wanted)
    if resume:
        cfg.load_from = resume
    elif cfg.get('load_from'):
        existing_file(cfg.load_from, 'load_from: checkpoint')
    cfg.resume = bool(resume)

    if args.amp:
        cfg.optim_wrapper.type = 'AnyDeviceAmpOptimWrapper'
    optimizer = cfg.optim_wrapper.optimizer
    if 'batch_size_per_gpu' in optimizer:  # the weight decay follows it
        optimizer.batch_size_per_gpu = cfg.train_dataloader.batch_size
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ValueError(
                f'--auto-scale-lr: {args.config} does not say for which batch size '
                'its learning rate is. Add auto_scale_lr = dict(base_batch_size=128).'
            )
        cfg.auto_scale_lr.enable = True
        schedule = cfg.default_hooks.param_scheduler
        if schedule and 'nominal_batch_size' in schedule:
            schedule.nominal_batch_size = None  # the other answer to small batches
    build_runner(cfg).train()


if __name__ == '__main__':
    run(main)
