"""Ctrl-C and SIGTERM in a training: what was trained is saved, then it ends."""

import os
import signal
import socket
import sys
import threading
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

from ..utils.errors import Terminated
from ..utils.files import atomic_write_text, read_short_text
from .checkpoints import INTERRUPTED, LAST, WholeCheckpointHook
from .hooks import DeployHook
from .loops import ResumableLoop
from .progress import collect_progress
from .runner import unwrap_model

# What comes within so many seconds is the same signal: a launcher, or a command such as
# timeout, hands it on to processes that may have had it already.
SAME_SIGNAL = 0.2
SAME_SIGNAL_OF_LAUNCHER = 2.0
SIGNALS = [
    getattr(signal, name)
    for name in ('SIGINT', 'SIGTERM', 'SIGHUP')
    if hasattr(signal, name)  # Windows has no SIGHUP
]


class Signals:
    """The first of the signals that ask this process to end.

    Attributes:
        number: Its number, 0 before it came.
        waits: Whether it is only noted; otherwise it raises what :func:`interrupt`
            gives.
    """

    def __init__(self) -> None:
        self.number = 0
        self.waits = False
        self._process = os.getpid()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Notes the first signal, or ends what it interrupts."""
        if os.getpid() != self._process:  # a data-loader worker, which was forked
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return  # Ctrl-C goes to all processes, and ours ends its workers
        first, self.number = not self.number, self.number or number
        if first and not self.waits:
            raise interrupt(number)


def interrupt(number: int, text: str = '') -> KeyboardInterrupt:
    """What is raised for a signal; the command's last line ends with the text."""
    if number == signal.SIGINT:
        return KeyboardInterrupt(*[text] if text else [])
    return Terminated(text, number)


@contextmanager
def catch_signals() -> Iterator[Signals]:
    """Handles the signals in the block, if this is the main thread.

    One that is ignored, as SIGHUP is under ``nohup``, stays so.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {n: signal.getsignal(n) for n in SIGNALS}
    heeded = [n for n, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, signals.handle)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=end_at_second, args=(reader,), daemon=True).start()
    try:
        yield signals
    finally:
        signal.set_wakeup_fd(descriptor)
        writer.close()  # which ends the thread
        for number in heeded:
            signal.signal(number, before[number])


def end_at_second(reader: socket.socket) -> None:
    """Ends the process at its second signal, wherever it is, in torch's code too.

    Under a launcher that is a second Ctrl-C only: it sends SIGTERM once more where the
    first of its processes has ended.

    Args:
        reader: Gives the number of each signal as a byte, once it comes.
    """
    launched = int(os.environ.get('WORLD_SIZE', '1')) > 1
    same = SAME_SIGNAL_OF_LAUNCHER if launched else SAME_SIGNAL
    first: float | None = None
    with reader:
        while received := reader.recv(1):
            number, now = received[0], time.monotonic()
            if number not in SIGNALS:
                continue
            ends = number == signal.SIGINT or not launched
            if first is not None and ends and now - first > same:
                os._exit(128 + number)
            first = now if first is None else first


class InterruptHook(Hook):
    """Ends a training after a signal, at its next iteration, with a checkpoint.

    All processes end after the same iteration. A validation ends after the next image
    of each process, and is made up for when the run goes on.

    Args:
        signals: Those of this process.

    Raises:
        KeyboardInterrupt: A signal came, of SIGTERM and SIGHUP as ``Terminated``.
    """

    priority = 'LOWEST'  # after all that belongs to the iteration

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self._progress: dict[str, Any] | None = None  # before the validation

    def before_train(self, runner: Runner) -> None:
        self.signals.waits = True

    def after_train(self, runner: Runner) -> None:
        self.signals.waits = False
        remove_interrupted(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        remove_interrupted(runner)

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
        path = checkpoint_folder(runner) / INTERRUPTED
        meta = dict(meta, epoch=runner.epoch, iter=iteration)
        runner.save_checkpoint(str(path.parent), path.name, meta=meta, by_epoch=False)
        if not is_main_process():
            sys.exit(128 + self.signals.number)  # the first process says all
        atomic_write_text(Path(runner.work_dir, LAST), str(path))
        for hook in runner.hooks:
            if isinstance(hook, WholeCheckpointHook):
                hook.name_checkpoints(path)
        raise interrupt(
            self.signals.number,
            f'{iteration} iterations are saved in {path}, from where --resume goes on',
        )


def checkpoint_folder(runner: Runner) -> Path:
    """The local folder of a run's checkpoints, else its own."""
    folders = [
        hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook)
    ]
    local = [folder for folder in folders if '://' not in folder]
    return Path(*local[:1] or [runner.work_dir])


def remove_interrupted(runner: Runner) -> None:
    """Removes the checkpoint of an interruption once a later one is the last."""
    last = Path(runner.work_dir, LAST)
    path = checkpoint_folder(runner) / INTERRUPTED
    if not is_main_process() or not path.exists() or not last.is_file():
        return
    if not read_short_text(last).endswith(INTERRUPTED):
        path.unlink()


def put_back_model(runner: Runner) -> None:
    """Undoes what hooks did to a runner's model for a validation."""
    for hook in runner.hooks:
        if isinstance(hook, DeployHook):
            hook.after_val_epoch(runner)
        elif isinstance(hook, EMAHook):
            hook._swap_ema_parameters()
