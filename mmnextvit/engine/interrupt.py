"""Ctrl-C and SIGTERM in a training: what was trained is saved, then the process ends."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import Runner

from ..utils.errors import Interrupted
from ..utils.files import atomic_write_text
from .hooks import DeployHook
from .loops import ResumableLoop
from .progress import collect_progress
from .runner import unwrap_model

NAME = 'interrupted.pth'  # what is saved, in the folder of the checkpoints
# A launcher hands on a signal that its processes may have had already.
SAME_SIGNAL = 1.0  # seconds


class Signals:
    """SIGINT and SIGTERM of this process, from the first one on.

    Attributes:
        number: The first signal that came, 0 for none.
        waits: Whether it is only noted; otherwise it raises :class:`Interrupted`.
    """

    def __init__(self) -> None:
        self.number = 0
        self.waits = False
        self._process = os.getpid()
        self._came = 0.0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Notes the first signal, or ends what it interrupts; a second one ends all."""
        if os.getpid() != self._process:  # a data-loader worker, which was forked
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return  # Ctrl-C goes to all processes; the first one ends its workers
        if self.number:
            if time.monotonic() - self._came > SAME_SIGNAL:
                os._exit(128 + number)
            return
        self.number, self._came = number, time.monotonic()
        if get_world_size() == 1:
            # The second one ends the process wherever it is, in torch's code too.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if not self.waits:
            raise Interrupted(number)


@contextmanager
def catch_signals() -> Iterator[Signals]:
    """Handles SIGINT and SIGTERM in the block, where this is the main thread."""
    signals = Signals()
    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # another thread gets no signals
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, signals.handle)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class InterruptHook(Hook):
    """Ends a training after a signal, at its next iteration, with a checkpoint.

    All processes end after the same iteration. A validation ends after the next image
    of each process, and is made up for when the run goes on.

    Args:
        signals: Those of this process.

    Raises:
        Interrupted: A signal came; its message names the checkpoint.
    """

    priority = 'LOWEST'  # after all that belongs to the iteration

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self._saved = -1  # iterations that the last checkpoint has behind it
        self._progress: dict[str, Any] | None = None  # before the validation

    def before_train(self, runner: Runner) -> None:
        self.signals.waits = True

    def after_train(self, runner: Runner) -> None:
        self.signals.waits = False
        remove_interrupted(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        remove_interrupted(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if 'optimizer' in checkpoint:
            self._saved = checkpoint['meta']['iter']

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        self._end_together(runner, runner.iter + 1)

    def before_val(self, runner: Runner) -> None:
        if isinstance(runner._train_loop, ResumableLoop):
            # Later the processes are no longer at one point, as this needs.
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            self._progress = collect_progress(runner, unwrap_model(runner), meta)

    def after_val_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        if self.signals.number and self._progress is not None:
            put_back_model(runner)
            self._end(runner, runner.iter, dict(progress=self._progress))

    def after_val(self, runner: Runner) -> None:
        if isinstance(runner._train_loop, ResumableLoop):
            self._end_together(runner, runner.iter)

    def _end_together(self, runner: Runner, iteration: int) -> None:
        """Ends all processes where one of them had a signal."""
        number = self.signals.number
        if get_world_size() > 1:
            device = next(runner.model.parameters()).device
            shared = torch.tensor(number, device=device)
            all_reduce(shared, 'max')
            number = int(shared.item())
        if number:
            self.signals.number = number
            self._end(runner, iteration, {})

    def _end(self, runner: Runner, iteration: int, meta: dict[str, Any]) -> None:
        path = checkpoint_folder(runner) / NAME
        if self._saved != iteration:
            meta = dict(meta, epoch=runner.epoch, iter=iteration)
            runner.save_checkpoint(
                str(path.parent), path.name, meta=meta, by_epoch=False
            )
            if is_main_process():
                atomic_write_text(Path(runner.work_dir, 'last_checkpoint'), str(path))
        message = f'what was trained in {iteration} iterations is saved'
        raise Interrupted(
            self.signals.number,
            f'{message}; --resume goes on from there' if is_main_process() else '',
        )


def checkpoint_folder(runner: Runner) -> Path:
    """Where a run's checkpoints are."""
    hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    return Path(hooks[0].out_dir if hooks else runner.work_dir)


def remove_interrupted(runner: Runner) -> None:
    """Removes the checkpoint of an interruption once a later one is the last."""
    last = Path(runner.work_dir, 'last_checkpoint')
    path = checkpoint_folder(runner) / NAME
    if is_main_process() and path.exists() and last.is_file():
        if not last.read_text(errors='replace').strip().endswith(NAME):
            path.unlink()


def put_back_model(runner: Runner) -> None:
    """Undoes what hooks did to a runner's model for a validation."""
    for hook in runner.hooks:
        if isinstance(hook, DeployHook):
            hook.after_val_epoch(runner)
        elif isinstance(hook, EMAHook):
            hook._swap_ema_parameters()
