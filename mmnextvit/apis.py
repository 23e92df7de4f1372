"""What the commands do, as functions and classes for a notebook or another program::

    from mmnextvit.apis import Predictor, train

    run = train('data/my_images')
    predictor = Predictor(run)
    objects = predictor('image.jpg')

Configs that are given stay as they are. docs/python.md has more.
"""

import copy
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from mmdet.evaluation import DumpDetResults
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader, Runner

from .deploy.exported import is_exported, use_exported, user_errors
from .deploy.finite import check_finite
from .engine.batch_size import choose_batch_size
from .engine.best_scores import find_matching
from .engine.configs import open_config
from .engine.interrupt import InterruptHook, catch_signals
from .engine.lock import training_lock
from .engine.loggers import add_loggers, check_logger
from .engine.peers import watch_peers
from .engine.precision import Amp
from .engine.runner import (
    build_runner,
    check_amp,
    computing_on,
    read_test_metainfo,
    unwrap_model,
)
from .engine.training import make_training_config
from .evaluation.curves import draw_counts
from .folder_import.trained import read_folder_config
from .models.nms_limits import find_max_detections
from .predictors import Predictor
from .report.after_training import report_training
from .report.batches import BatchesHook
from .runtime import (
    BEST,
    MinScores,
    Slicing,
    Threshold,
    find_thresholds,
    to_slicing,
)
from .utils.errors import UserError
from .utils.files import (
    PICKLES,
    atomic_write,
    check_folder,
    check_new_file,
    require_file,
)
from .weights.contents import read_best_scores

__all__ = ['Predictor', 'test', 'train']


def train(
    config: Config | str | os.PathLike,
    *,
    work_dir: str | os.PathLike | None = None,
    resume: str | None = None,
    amp: Amp = False,
    auto_scale_lr: bool = False,
    loggers: Sequence[str] = (),
    device: str | None = None,
    patience: int | None = None,
    hours: float | None = None,
    report: bool = True,
) -> Runner:
    """Trains a detector.

    Args:
        config: Config of a detector and its data, or the path of one; or a folder of
            images and annotations, for which a config is written as ``mmnextvit new``
            does, into ``config/`` in ``work_dir``.
        work_dir: Folder for logs and checkpoints; by default the config's, else
            ``./work_dirs/`` and the config's name. For a folder of images it is a new
            one each time, with a number behind the name from the second on.
        resume: A checkpoint file to continue from, or 'latest' for the last one of
            ``work_dir``.
        amp: Whether to train in mixed precision (bfloat16 on a CPU, float32 on one
            where that is slower, unless it is 'force').
        auto_scale_lr: Whether to scale the learning rate with the batch size over all
            processes.
        loggers: 'tensorboard', 'wandb', 'mlflow' or 'clearml', which get the losses
            and scores as well. One that fails is told of, and left out.
        device: 'cpu', 'cuda:1', ...; a GPU where there is one if ``None``.
        patience: Epochs without a better metric after which the training ends, with a
            last phase in which the learning rate goes to its end.
        hours: The time after which it ends, likewise, counted over all resumptions.
        report: Whether to write a report at the end, into ``report`` in the folder. A
            config with ``report = None`` has none. Where it fails, there is a warning.

    Returns:
        The runner when it has finished, with ``model`` and ``work_dir``.

    Raises:
        UserError: The config, its data or a checkpoint is at fault, or ``work_dir``
            holds another run, or another training writes there now; or there is no such
            device.
        KeyboardInterrupt: A signal ended the training, after a checkpoint was saved.
    """
    for name in loggers:
        check_logger(name)
    if isinstance(config, (str, os.PathLike)) and os.path.isdir(config):
        cfg = read_folder_config(config, work_dir, resume)
    else:
        cfg = open_config(config)
        cfg.work_dir = str(work_dir or choose_work_dir(cfg))
    with computing_on(device, cfg.get('launcher', 'none')):
        with training_lock(cfg), catch_signals() as signals:
            runner = build_runner(
                make_training_config(cfg, resume, amp, auto_scale_lr, patience, hours)
            )
            runner.register_hook(BatchesHook())
            runner.register_hook(InterruptHook(signals))
            add_loggers(runner, loggers)
            with watch_peers(runner.launcher):
                runner.train()
        if report and cfg.get('report', True):
            report_training(runner, cfg)
    return runner


def find_batch_size(
    cfg: Config,
    *,
    work_dir: str | os.PathLike | None = None,
    resume: str | None = None,
    amp: Amp = False,
    device: str | None = None,
) -> int:
    """The largest batch that a training of a config takes here, by real steps.

    Args:
        cfg: As of :func:`train`, and so are the others.
        work_dir: Folder of the run.
        resume: What the run would continue from.
        amp: Whether to train in mixed precision.
        device: Where to train.

    Returns:
        Images in a batch of each process.

    Raises:
        UserError: As of :func:`train`, or not even one image fits.
    """
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = str(work_dir or choose_work_dir(cfg))
    with computing_on(device, cfg.get('launcher', 'none')):
        return choose_batch_size(make_training_config(cfg, resume, amp))


def test(
    cfg: Config,
    checkpoint: str | os.PathLike,
    *,
    work_dir: str | os.PathLike | None = None,
    amp: Amp = False,
    out: str | os.PathLike | None = None,
    show_dir: str | os.PathLike | None = None,
    score_thr: Threshold = 0.3,
    slicing: Slicing | int | None = None,
) -> dict[str, float]:
    """Evaluates a checkpoint on a config's test data.

    Args:
        cfg: Config of the detector and its data.
        checkpoint: Checkpoint, or what ``mmnextvit export`` wrote: it is tested as it
            will be used, with its own resizing.
        work_dir: Folder for logs; by default ``test`` in the run's own folder, so that
            the config that training wrote there stays.
        amp: As of :func:`train`.
        out: New file for the predictions, which ends in ``.pkl``.
        show_dir: Folder for drawings of the predictions beside the truth.
        score_thr: Minimum score of the predictions that are drawn, and whose precision,
            recall and F1 are logged, by class; 'best' for each class's own.
        slicing: How images that are larger than a tile are cut into tiles, or the size
            of these. They are tested without, too, and what tiles gain is logged.

    Returns:
        The metrics, as ``{'coco/bbox_mAP': 0.41, ...}``; with ``slicing`` also those of
        the images as they are, as ``{'whole/coco/bbox_mAP': 0.37, ...}``, and the time
        with tiles over that without as ``'slice/time_ratio'``.

    Raises:
        UserError: The arguments do not go together, or the config, its data or the
            checkpoint is at fault.
        OSError: ``out``, ``show_dir`` or ``work_dir`` cannot be written, which is tried
            at first.
    """
    checkpoint = os.fspath(checkpoint)
    if out is not None:
        check_new_file(out, '--out', PICKLES)
    if show_dir is not None:
        check_folder(show_dir, '--show-dir')
    exported = is_exported(checkpoint)
    if exported and amp:
        raise UserError('--amp: an exported file computes as it was exported')
    if exported and cfg.get('launcher', 'none') != 'none':
        raise UserError('launcher (--launcher): one process tests an exported file')
    cfg = use_exported(cfg, checkpoint) if exported else copy.deepcopy(cfg)
    if exported:
        check_finite(checkpoint)
    else:
        cfg.load_from = require_file(checkpoint, 'checkpoint')
    cfg.resume = False
    cfg.work_dir = str(work_dir or Path(choose_work_dir(cfg), 'test'))
    check_folder(cfg.work_dir, 'work_dir (--work-dir)')
    if amp:
        cfg.test_cfg.fp16 = amp  # MMEngine's name of it
    thresholds = read_thresholds(cfg, checkpoint, score_thr)
    with user_errors():
        tiles = to_slicing(slicing)
    if tiles is not None:
        cfg.test_cfg = with_tiles(cfg, tiles)
    if show_dir is not None:
        cfg.default_hooks.visualization = dict(
            type='mmdet.DrawTestHook',
            out_dir=str(Path(show_dir).resolve()),
            score_thr=thresholds,
        )
    runner = build_runner(cfg)
    if runner.cfg.test_cfg.get('fp16'):
        check_amp(unwrap_model(runner))
    if out is not None:
        runner.test_evaluator.metrics.append(SavedPredictions(str(out)))
    numbers = runner.test()
    matching = find_matching(runner, 'test')
    if matching is not None:
        print_log(f'\n{draw_counts(matching, thresholds)}', logger='current')
    return numbers


def with_tiles(cfg: Config, slicing: Slicing) -> dict:
    """The ``test_cfg`` of a config that tests with tiles, besides."""
    opened = getattr(cfg.model.get('path'), 'detector', None)  # of an exported file
    limit = (
        opened.metadata['nms']['max_per_img']
        if opened
        else find_max_detections(cfg.model)
    )
    return dict(
        type='mmengine.SlicedTestLoop',
        slicing=dataclasses.asdict(slicing),
        limit=limit,
        fp16=cfg.test_cfg.get('fp16', False),
    )


def read_thresholds(cfg: Config, checkpoint: str, score_thr: Threshold) -> MinScores:
    """The minimum score for a checkpoint or an exported file, or each label's.

    Args:
        cfg: Config that tests it.
        checkpoint: Either.
        score_thr: A number from 0 to 1, or 'best'.

    Raises:
        UserError: It is neither, or the file has no best scores.
    """
    if is_exported(checkpoint):
        with user_errors(checkpoint):
            return cfg.model.path.detector.find_thresholds(score_thr)
    best, classes = None, ()
    if score_thr == BEST:
        content = CheckpointLoader.load_checkpoint(checkpoint, 'cpu', logger='silent')
        best = read_best_scores(content, checkpoint)
        classes = read_test_metainfo(cfg)['classes']
    with user_errors(checkpoint):
        return find_thresholds(score_thr, best, classes)


def choose_work_dir(cfg: Config) -> Path:
    """The folder of a config's run where none is named."""
    return Path(cfg.get('work_dir') or Path('work_dirs', Path(cfg.filename).stem))


class SavedPredictions(DumpDetResults):
    """MMDetection's ``DumpDetResults``, whose file is written whole or not at all."""

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        with atomic_write(self.out_file_path, overwrite=False) as scratch:
            dump(results, scratch)
        print_log(f'The predictions are in {self.out_file_path}', logger='current')
        return {}
