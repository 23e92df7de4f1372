"""Workers of data loaders, which outlive the signals that go to all processes."""

import signal
from collections.abc import Callable
from types import FrameType

GRACE = 20  # seconds in which the main process ends its iteration, and its workers


class OutliveSignals:
    """A ``worker_init_fn`` of a data loader; the main process ends its workers.

    Ctrl-C goes to all processes of a terminal, and what ``timeout`` and the managers of
    clusters send to all of a job. A worker that ended at once would have torch raise in
    the main process, before the iteration is saved. One whose main process has
    ended ends by itself, as torch has it.

    Args:
        init: What the loader had in its place.
    """

    def __init__(self, init: Callable[[int], object] | None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)  # the main process counts what it gets there
        numbers = (getattr(signal, name, None) for name in ('SIGTERM', 'SIGHUP'))
        for number in filter(None, numbers if hasattr(signal, 'alarm') else ()):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, end_later)
        if self.init is not None:
            self.init(worker)


def end_later(number: int, frame: FrameType | None) -> None:
    """Ends this process some time after a signal, and at once at a second one."""
    signal.signal(number, signal.SIG_DFL)
    signal.alarm(GRACE)
