"""Workers of data loaders: how many, and what ends them."""

import os
import signal
from collections.abc import Callable, Mapping
from ctypes import c_bool
from functools import cache
from multiprocessing import RawValue, parent_process
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

from ..runtime import count_cores


def count_local_processes() -> int:
    """The processes of this training on this machine, as torchrun tells them."""
    return int(os.environ.get('LOCAL_WORLD_SIZE', 1))


def fit_workers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a data loader, with no more workers than there are cores.

    More of them load no faster, each takes memory, and torch would warn. The processes
    that a launcher started on this machine share its cores.

    Args:
        settings: Of ``train_dataloader`` or another, as in a config.
    """
    cores = max(count_cores() // count_local_processes(), 1)
    return dict(settings, num_workers=min(settings.get('num_workers', 0), cores))


def end_workers(loader: DataLoader) -> None:
    """Ends the workers that a loader keeps from epoch to epoch.

    Those of a loader that the garbage collector finds do not hear of its end: torch
    waits for five seconds for each of them.
    """
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()
        loader._iterator = None


class OutliveSignals:
    """A ``worker_init_fn`` of a data loader; the main process ends its workers.

    Ctrl-C goes to all processes of a terminal, and what ``timeout`` and the managers of
    clusters send to all of a job. A worker that ended at once would have torch raise in
    the main process, before the iteration is saved. One whose main process has
    ended ends by itself, as torch has it. The workers of a process that was forked with
    the loader, and so cannot tell them its end, end as torch's do.

    Args:
        init: What the loader had in its place.
    """

    def __init__(self, init: Callable[[int], object] | None) -> None:
        self.init = init
        self._main = os.getpid()
        self._main_ends = _tell_end(self._main)

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)  # the main process counts what it gets there
        main = parent_process()
        is_told = main is not None and main.pid == self._main
        for name in ('SIGTERM', 'SIGHUP') if is_told else ():
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._end)
        if self.init is not None:
            self.init(worker)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self._main_ends.value:
            os._exit(0)  # with another status torch would raise in the main process


@cache
def _tell_end(process: int) -> Any:
    """A value, shared with the workers, that is true once this process ends.

    At its end multiprocessing sends SIGTERM to the workers that are left, and waits for
    them; it runs finalizers before.
    """
    ends = RawValue(c_bool, False)
    Finalize(None, setattr, (ends, 'value', True), exitpriority=0)
    return ends
