"""How long a training still takes, and how much memory it needs."""

import sys
import time
from typing import Any

import torch
from mmengine.device import is_cuda_available
from mmengine.hooks import IterTimerHook
from mmengine.registry import HOOKS, LOG_PROCESSORS
from mmengine.runner import EpochBasedTrainLoop, LogProcessor, Runner
from mmengine.runner.base_loop import BaseLoop


@HOOKS.register_module(name='IterTimerHook', force=True)
class TimeLeftHook(IterTimerHook):
    """MMEngine's ``IterTimerHook``, whose ``eta`` holds for a run that was resumed.

    MMEngine subtracts the iterations that are behind from those of the whole training.
    Where a run goes on with another batch size the two are counted in batches of
    different sizes, and the difference may be negative. Here what is left is counted
    from the place in the epochs, and validations count, too, once one was timed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._validations: list[float] = []  # seconds of each
        self._begun = 0.0  # the validation that is under way

    def before_val(self, runner: Runner) -> None:
        self._begun = time.monotonic()

    def after_val(self, runner: Runner) -> None:
        self._validations.append(time.monotonic() - self._begun)

    def _after_iter(
        self, runner: Runner, batch_idx: int, *args: Any, mode: str = 'train', **kw: Any
    ) -> None:
        super()._after_iter(runner, batch_idx, *args, mode=mode, **kw)
        if mode != 'train':
            return
        seconds = self.time_sec_tot / (runner.iter - self.start_iter + 1)
        left = seconds * count_iterations_left(runner.train_loop, batch_idx)
        if self._validations and runner.val_loop is not None:
            mean = sum(self._validations) / len(self._validations)
            left += mean * count_validations_left(runner.train_loop)
        runner.message_hub.update_info('eta', left)


def count_iterations_left(loop: BaseLoop, batch_idx: int) -> int:
    """How many iterations follow one of a training loop.

    Args:
        loop: The loop, which is in that iteration.
        batch_idx: The number of its batch in the epoch, from 0.
    """
    if isinstance(loop, EpochBasedTrainLoop):
        batches = len(loop.dataloader)
        done, total = loop.epoch * batches + batch_idx + 1, loop.max_epochs * batches
    else:
        done, total = loop.iter + 1, loop.max_iters
    end = getattr(loop, 'end', None)  # where it ends before its recipe does
    return max((total if end is None else min(total, end)) - done, 0)


def count_validations_left(loop: BaseLoop) -> int:
    """How many validations follow in a training loop, which is not in one."""
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    done, last = (
        (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    )
    first = max(done + 1, loop.val_begin)
    if first > last:
        return 0
    every = loop.val_interval
    return last // every - (first - 1) // every + bool(last % every)


@LOG_PROCESSORS.register_module(name='LogProcessor', force=True)
class MemoryLogProcessor(LogProcessor):
    """MMEngine's ``LogProcessor``, which tells the memory on a CPU, too."""

    def get_log_after_iter(
        self, runner: Runner, batch_idx: int, mode: str
    ) -> tuple[dict, str]:
        tag, text = super().get_log_after_iter(runner, batch_idx, mode)
        memory = read_peak_memory()
        if mode == 'train' and 'memory' not in tag and memory is not None:
            tag['memory'] = memory
            text = f'{text}  memory: {memory}'
        return tag, text


def read_peak_memory() -> int | None:
    """The most memory that torch has had on a GPU, or else this process, in MiB.

    Returns:
        ``None`` where the system does not say.
    """
    if is_cuda_available():
        return torch.cuda.max_memory_allocated() // 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 2**20 if sys.platform == 'darwin' else peak // 2**10
