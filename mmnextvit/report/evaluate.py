"""One evaluation of a checkpoint, from which a report takes all its numbers."""

import contextlib
import copy
import io
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import Progress

from ..engine.best_scores import find_matching
from ..engine.hooks import can_be_deployed
from ..engine.runner import build_runner, unwrap_model
from ..engine.terminal import at_level
from ..evaluation.curves import BestScores, find_best_scores
from ..evaluation.matching import Matching
from ..models.fold import copy_folded
from ..visualization.predictions import ContactSheetHook
from .speed import Speed, measure_speed


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint does on a config's validation data.

    Attributes:
        metrics: The evaluator's numbers, such as ``{'coco/bbox_mAP': 0.41}``.
        matching: Of detections to truth; ``None`` where the evaluator has none.
        best: Of the matching.
        speed: Of single images.
        dataset: The validation data.
        preprocessor: The model's data preprocessor.
    """

    metrics: Mapping[str, float]
    matching: Matching | None
    best: BestScores | None
    speed: Speed
    dataset: BaseDataset
    preprocessor: torch.nn.Module | None


class ProgressHook(Hook):
    """Shows how far a test is."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            console=console, transient=True, disable=not console.is_terminal
        )

    def before_test_epoch(self, runner: Runner) -> None:
        self._progress.start()
        total = len(runner.test_dataloader)
        self._task = self._progress.add_task('Evaluating for the report', total=total)

    def after_test_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._progress.advance(self._task)

    def after_test_epoch(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar away."""
        self._progress.stop()


def make_test_config(cfg: Config, checkpoint: str, work_dir: str) -> Config:
    """A copy of a config that tests a checkpoint on the validation data, quietly."""
    cfg = copy.deepcopy(cfg)
    val_cfg = cfg.get('val_cfg') or {}
    cfg.test_dataloader = cfg.val_dataloader
    cfg.test_evaluator = cfg.val_evaluator
    cfg.test_cfg = dict(type='TestLoop', fp16=bool(val_cfg.get('fp16')))
    for key in ('train', 'val'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            cfg.pop(f'{key}_{part}', None)
    for key in ('optim_wrapper', 'param_scheduler', 'auto_scale_lr'):
        cfg.pop(key, None)
    hooks = cfg.get('default_hooks') or {}
    for name in [n for n, hook in hooks.items() if hook and is_contact_sheet(hook)]:
        del hooks[name]  # the report draws more
    cfg.load_from, cfg.resume, cfg.launcher = checkpoint, False, 'none'
    cfg.work_dir, cfg.log_level = work_dir, 'ERROR'
    cfg.experiment_name = f'report_of_{work_dir.rpartition("/")[2]}'  # a logger's name
    cfg.visualizer = None  # with another one's name it would be that one
    return cfg


def is_contact_sheet(hook: Mapping[str, Any]) -> bool:
    """Whether the config of a hook is that which draws the first images of a test."""
    return str(hook.get('type', '')).rpartition('.')[2] == ContactSheetHook.__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what is printed of an evaluation, which the report says better."""
    with at_level('ERROR'), contextlib.redirect_stdout(io.StringIO()):
        yield


def evaluate(cfg: Config, checkpoint: str) -> Evaluation:
    """Evaluates a checkpoint on a config's validation data, once.

    Args:
        cfg: Config with validation data and an evaluator.
        checkpoint: All of it must fit.

    Raises:
        UserError: The config, its data or the checkpoint is at fault.
    """
    with tempfile.TemporaryDirectory(prefix='mmnextvit_report_') as folder:
        bar = ProgressHook()
        with _quiet(), contextlib.closing(bar):
            runner = build_runner(make_test_config(cfg, checkpoint, folder))
            runner.register_hook(bar, 'VERY_LOW')
            metrics = runner.test()
        dataset = runner.test_dataloader.dataset
        model = unwrap_model(runner)
        matching = find_matching(runner, 'test')
        return Evaluation(
            metrics=metrics,
            matching=matching,
            best=None if matching is None else find_best_scores(matching),
            speed=measure_speed(
                copy_folded(model) if can_be_deployed(runner) else model.eval(),
                dataset,
            ),
            dataset=dataset,
            preprocessor=getattr(model, 'data_preprocessor', None),
        )
