"""What the commands do, as functions and classes for a notebook or another program::

    from mmnextvit import get_config
    from mmnextvit.apis import test, train

    cfg = get_config('yolov5_nextvit_s_demo')
    runner = train(cfg, work_dir='my_run', amp=True)
    metrics = test(cfg, 'my_run/epoch_30.pth')

Configs that are given stay as they are.
"""

import copy
import os
from pathlib import Path

from mmdet.evaluation import DumpDetResults
from mmengine.config import Config
from mmengine.runner import Runner

from .deploy.exported import is_exported, with_exported
from .engine.hooks import unwrapped
from .engine.runner import build_runner, check_amp
from .engine.training import config_to_train
from .utils.errors import UserError
from .utils.files import existing_file


def train(
    cfg: Config,
    *,
    work_dir: str | os.PathLike | None = None,
    resume: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
) -> Runner:
    """Trains a config's detector.

    Args:
        cfg: Config of a detector and its data.
        work_dir: Folder for logs and checkpoints; by default the config's, else
            ``./work_dirs/`` and the config's name.
        resume: A checkpoint file to continue from, or 'latest' for the last one of
            ``work_dir``.
        amp: Whether to train in mixed precision (bfloat16 on a CPU).
        auto_scale_lr: Whether to scale the learning rate with the batch size over all
            processes.

    Returns:
        The runner when it has finished, with ``model`` and ``work_dir``.

    Raises:
        UserError: The config, its data or a checkpoint is at fault, or ``work_dir``
            holds another run.
    """
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = str(work_dir or default_work_dir(cfg))
    runner = build_runner(config_to_train(cfg, resume, amp, auto_scale_lr))
    runner.train()
    return runner


def test(
    cfg: Config,
    checkpoint: str | os.PathLike,
    *,
    work_dir: str | os.PathLike | None = None,
    amp: bool = False,
    out: str | os.PathLike | None = None,
    show_dir: str | os.PathLike | None = None,
) -> dict[str, float]:
    """Evaluates a checkpoint on a config's test data.

    Args:
        cfg: Config of the detector and its data.
        checkpoint: Checkpoint, or what ``mmnextvit export`` wrote: it is tested as it
            will be used, with its own resizing.
        work_dir: Folder for logs; by default ``test`` in the run's own folder, so that
            the config that training wrote there stays.
        amp: Whether to compute in mixed precision (bfloat16 on a CPU).
        out: File for the predictions, which ends in ``.pkl``.
        show_dir: Folder for drawings of the predictions beside the truth.

    Returns:
        The metrics, as ``{'coco/bbox_mAP': 0.41, ...}``.

    Raises:
        UserError: The arguments do not go together, or the config, its data or the
            checkpoint is at fault.
    """
    checkpoint = os.fspath(checkpoint)
    if out is not None and Path(out).suffix not in ('.pkl', '.pickle'):
        raise UserError(f'--out {out}: the name must end in .pkl')
    exported = is_exported(checkpoint)
    if exported and amp:
        raise UserError('--amp: an exported file computes as it was exported')
    if exported and cfg.get('launcher', 'none') != 'none':
        raise UserError('--launcher: an exported file is tested by one process')
    cfg = with_exported(cfg, checkpoint) if exported else copy.deepcopy(cfg)
    if not exported:
        cfg.load_from = existing_file(checkpoint, 'checkpoint')
    cfg.resume = False
    cfg.work_dir = str(work_dir or Path(default_work_dir(cfg), 'test'))
    if amp:
        cfg.test_cfg.fp16 = True  # MMEngine's name of it
    if show_dir is not None:
        cfg.default_hooks.visualization = dict(
            type='mmdet.DetVisualizationHook',
            draw=True,
            test_out_dir=str(Path(show_dir).resolve()),
        )
    runner = build_runner(cfg)
    if amp:
        check_amp(unwrapped(runner))
    if out is not None:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=str(out)))
    return runner.test()


def default_work_dir(cfg: Config) -> Path:
    """The folder of a config's run where none is named."""
    return Path(cfg.get('work_dir') or Path('work_dirs', Path(cfg.filename).stem))
