"""Ending by a key or a signal: both raise what Ctrl-C does; files stay whole."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__('terminated')
        self.number = number


@contextmanager
def stop_by_signal() -> Iterator[None]:
    """Has SIGTERM raise :class:`Stopped` in the block, if nobody else handles it."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    in_main = threading.current_thread() is threading.main_thread()
    free = in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if free:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if free:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def stop_by_key(terminal: int | None = None) -> Iterator[None]:
    """Has q and Enter on the terminal interrupt the block as Ctrl-C does.

    Args:
        terminal: Descriptor of what is typed into; standard input if ``None``, and that
            is not watched if it is no terminal.
    """
    before = None
    in_main = threading.current_thread() is threading.main_thread()
    if terminal is None:
        terminal = find_terminal()
    if terminal is not None and in_main and os.name == 'posix':
        # Reading in the background would suspend the process: so it fails instead.
        before = signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        left = threading.Event()
        watch = threading.Thread(target=wait_for_q, args=[terminal, left], daemon=True)
        watch.start()
    try:
        yield
    finally:
        if before is not None:
            left.set()
            signal.signal(signal.SIGTTIN, before)


def find_terminal() -> int | None:
    """Standard input, if somebody can type there."""
    try:
        return sys.stdin.fileno() if sys.stdin.isatty() else None
    except (AttributeError, ValueError, OSError):  # it is closed, or there is none
        return None


def wait_for_q(terminal: int, left: threading.Event) -> None:
    """Interrupts the main thread once a line q was typed, unless it went on by then."""
    from select import select

    # Without a buffer, whose lock would be held when the process ends.
    try:
        while not left.is_set():
            if not select([terminal], [], [], 0.2)[0]:
                continue
            typed = os.read(terminal, 1024)
            if not typed:
                return
            if b'q' in typed.lower().split() and not left.is_set():
                # Also where it waits, which `_thread.interrupt_main` does not end.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return
    except (OSError, ValueError):  # the terminal has gone, or is another process's
        return
