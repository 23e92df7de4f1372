"""A config made ready for training: what to go on from, and what options change."""

import copy
import os
from pathlib import Path

from mmengine.config import Config

from ..runs import (
    BEST_FILE,
    LAST_FILE,
    check_is_folder,
    describe_missing,
    find_checkpoint_folder,
    find_run_checkpoint,
    list_places,
)
from ..utils.errors import UserError
from ..utils.files import check_is_file, is_folder, require_file
from .checkpoints import (
    INTERRUPTED,
    LAST,
    LAST_VALIDATION,
    find_last_checkpoint,
    find_own_name,
    list_checkpoints,
    read_whole,
)
from .hooks import CheckpointFitHook
from .loops import resumable
from .precision import FORCE, Amp

# What a run's config has already, which is that of a training.
OURS = 'BestScoresHook', 'FinishHook', 'ResumeHook', 'TrainingStateHook'
FIT_HOOKS = 'CheckpointFitHook', 'mmdet.CheckpointFitHook', CheckpointFitHook


def find_checkpoint_to_resume(
    work_dir: Path, resume: str | None, folder: Path | None = None
) -> str | None:
    """The checkpoint to continue from, or ``None`` for a new run.

    Args:
        work_dir: The folder of the run.
        resume: A checkpoint file, or the folder of a run for its last one; 'latest'
            for the last one of ``work_dir``, or ``None`` for a new run.
        folder: The folder of the run's checkpoints, if it is another one.

    Raises:
        UserError: The folder holds a run that a new one would overwrite, or the
            checkpoint is damaged, or no run can go on from it.
        MissingFileError: The checkpoint does not exist; of 'latest', no whole one.
    """
    folder = folder or work_dir
    first = os.environ.get('RANK', '0') == '0'
    check_run_files(work_dir, folder)
    # What is empty holds nothing of a run: a disk may have been full.
    held = [p for p in (*folder.glob('*.pth'), work_dir / LAST) if has_content(p)]
    if resume == 'latest':
        if not held:
            print(f'{work_dir} holds no checkpoint: a new run begins')
            return None
        path, skipped = find_last_checkpoint(work_dir, folder)
        if skipped and first:
            print(f'Resuming {path}, the newest whole checkpoint of {folder}, since:')
            print(*(f'- {reason}' for reason in skipped), sep='\n', flush=True)
        return str(path)
    if resume is not None and is_folder(resume):
        resume = str(find_last_of_run(resume))
    if resume is not None:
        require_file(resume, 'checkpoint')
    own = resume and Path(resume).resolve().parent == folder.resolve()
    if held and not own and first:
        other = 'folder' if folder == work_dir else 'name of the folder'
        raise UserError(
            f'{held[0].parent} holds another run, which this one would overwrite: '
            f'resume that one (--resume), or choose another {other} (--work-dir)'
        )
    if resume and '://' not in resume:
        read_whole(Path(resume).expanduser())
        resume = str(find_own_name(Path(resume).expanduser()))
    return resume


def find_last_of_run(path: str) -> Path:
    """The checkpoint that the run in a folder is to go on from.

    Raises:
        MissingFileError: There is none.
    """
    folder = check_is_folder(path)
    for place in list_places(folder):
        if list_checkpoints(place):
            return find_last_checkpoint(folder, place)[0]
    raise describe_missing(folder, folder, None)


def check_run_files(work_dir: Path, folder: Path) -> None:
    """Checks that what a run writes under fixed names can be read and replaced.

    Args:
        work_dir: The folder of the run.
        folder: The folder of its checkpoints.

    Raises:
        UserError: Something of that name is no plain file.
    """
    written = INTERRUPTED, BEST_FILE, LAST_FILE
    paths = work_dir / LAST, work_dir / LAST_VALIDATION, *(folder / n for n in written)
    for path in paths:
        try:
            if path.exists():
                check_is_file(path)
        except UserError as error:
            error.problem = f'{error.problem}: remove it, as the run writes a file here'
            raise


def has_content(path: Path) -> bool:
    """Whether a path is a file that is not empty."""
    return path.is_file() and path.stat().st_size > 0


def make_training_config(
    cfg: Config,
    resume: str | None = None,
    amp: Amp = False,
    auto_scale_lr: bool = False,
    patience: int | None = None,
    hours: float | None = None,
) -> Config:
    """A copy of a config that trains as asked.

    Args:
        cfg: Config with a ``work_dir``.
        resume: As of :func:`find_checkpoint_to_resume`. Without it the config's own
            ``resume`` and ``load_from`` count.
        amp: Whether to train in mixed precision; 'force' where it is slower, too.
        auto_scale_lr: Whether to scale the learning rate with the batch size over all
            processes.
        patience: Epochs without a better metric after which the training ends, with a
            last phase; see :class:`~mmnextvit.engine.finishing.FinishHook`.
        hours: The time after which it ends, likewise. Of a run that is resumed both are
            those that it had, unless they are given.

    Raises:
        UserError: The config does not say for which batch size its learning rate is,
            or as in :func:`find_checkpoint_to_resume`.
        MissingFileError: A checkpoint does not exist.
    """
    cfg = copy.deepcopy(cfg)
    load_from = cfg.get('load_from')
    if cfg.get('resume') and resume is None:
        resume = 'latest' if load_from is None else load_from
    checkpoint = find_checkpoint_to_resume(
        Path(cfg.work_dir), resume, find_checkpoint_folder(cfg)
    )
    if checkpoint:
        cfg.load_from = checkpoint
    elif load_from is not None:
        if is_folder(load_from):
            cfg.load_from = str(find_run_checkpoint(load_from))
        require_file(cfg.load_from, 'load_from: checkpoint')
    cfg.resume = bool(checkpoint)
    cfg.train_cfg = resumable(cfg.train_cfg)
    finish = dict(type='FinishHook', patience=patience, hours=hours)
    own = [finish, dict(type='ResumeHook'), dict(type='BestScoresHook')]
    kept = [h for h in cfg.get('custom_hooks') or [] if h['type'] not in OURS]
    custom = [*kept, *own]
    hooks = [*(cfg.get('default_hooks') or {}).values(), *custom]
    if not any(hook and hook['type'] in FIT_HOOKS for hook in hooks):
        custom.append(dict(type='TrainingStateHook'))
    cfg.custom_hooks = custom
    if amp or cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'AnyDeviceAmpOptimWrapper'
    if amp == FORCE:
        cfg.optim_wrapper.force = True
    optimizer = cfg.optim_wrapper.optimizer
    if 'batch_size_per_gpu' in optimizer:  # the weight decay follows it
        optimizer.batch_size_per_gpu = cfg.train_dataloader.batch_size
    if auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise UserError(
                'the config does not say for which batch size its learning rate is, '
                'which is to be scaled. Add auto_scale_lr = dict(base_batch_size=128)',
                file=cfg.filename,
                key='auto_scale_lr.base_batch_size',
            )
        cfg.auto_scale_lr.enable = True
        schedule = (cfg.get('default_hooks') or {}).get('param_scheduler')
        if schedule and 'nominal_batch_size' in schedule:
            schedule.nominal_batch_size = None  # the other answer to small batches
    return cfg
