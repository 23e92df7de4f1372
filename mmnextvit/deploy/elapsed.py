"""A line now and then while something takes long, with the time that it has taken."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .choices import Say

FIRST = 30.0  # seconds until the first line; each next one comes after twice the time


@contextmanager
def telling_time(say: Say, task: str, first: float = FIRST) -> Iterator[None]:
    """Says that the block goes on, after 30 s, 1 min, 2 min and so on.

    Args:
        say: Gets the lines, from another thread.
        task: What the block does, as in 'Writing best.onnx'.
        first: Seconds until the first line.
    """
    ended = threading.Event()

    def tell() -> None:
        start, wait = time.monotonic(), first
        while not ended.wait(wait):
            wait = time.monotonic() - start
            with suppress(OSError):  # of an output that is gone
                say(f'{task}: not done after {describe_time(wait)} ...')

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def describe_time(seconds: float) -> str:
    """Seconds as '45 s' or '3 min 20 s'."""
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'
