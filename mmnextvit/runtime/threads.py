"""What threads do beside the network."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice, repeat, takewhile
from typing import TypeVar

MAX_THREADS = 8  # beside the network: to read images and to write what is found
Given = TypeVar('Given')
Made = TypeVar('Made')


def count_cores() -> int:
    """The cores of the CPU that this process may use."""
    can_tell = hasattr(os, 'sched_getaffinity')  # Linux
    return len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1


@contextmanager
def open_threads(count: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads for the block; what they have not begun at its end is not done.

    Args:
        count: How many; as many as this process may use cores if ``None``, up to
            `MAX_THREADS`.
    """
    threads = ThreadPoolExecutor(count or min(count_cores(), MAX_THREADS))
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def map_ahead(
    threads: ThreadPoolExecutor,
    call: Callable[[Given], Made],
    items: Iterable[Given],
    ahead: int | None = None,
) -> Iterator[Made]:
    """What ``call`` makes of each item, in order, made by threads ahead of its use.

    Where ``items`` raises, or Ctrl-C comes while this waits, what was begun before is
    given first.

    Args:
        threads: They make it.
        call: May raise, which then takes the place of what it would have made.
        items: Are taken in the thread that uses the results.
        ahead: How many results there may be, made or being made, that are not used
            yet; as many as there are threads if ``None``.
    """
    limit = ahead or threads._max_workers
    begun: deque[Future[Made]] = deque()
    source = iter(items)
    end: BaseException | None = None
    while end is None:
        try:
            begun.append(threads.submit(call, next(source)))
            if len(begun) == limit:
                wait([begun[0]])
        except BaseException as error:
            end = error
        if len(begun) == limit:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
    if not isinstance(end, StopIteration):
        raise end


def iterate_ahead(
    threads: ThreadPoolExecutor,
    call: Callable[[Given], Made],
    items: Iterable[Given],
    ahead: int,
) -> Iterator[Made]:
    """As :func:`map_ahead` of one thread, which also takes the items.

    Args:
        threads: A single thread, since item follows item.
        call: Makes something else than ``None``.
        items: As a video gives its frames.
        ahead: As there.
    """
    source, ended = iter(items), threading.Event()

    def make_next(_: None) -> Made | None:
        for item in source:
            return call(item)
        ended.set()
        return None

    # Nothing is asked for beyond the last item, however much may be ahead.
    asked = takewhile(lambda _: not ended.is_set(), repeat(None))
    for made in map_ahead(threads, make_next, asked, ahead):
        if made is None:
            return
        yield made


def in_batches(items: Iterable[Given], size: int) -> Iterator[list[Given]]:
    """Lists of so many items, in order; the last one may be shorter."""
    source = iter(items)
    while some := list(islice(source, size)):
        yield some
