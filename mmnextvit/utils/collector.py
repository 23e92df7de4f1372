"""Python's garbage collector, at rest while millions of objects are made."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def resting_collector() -> Iterator[None]:
    """Keeps the garbage collector from looking through what is being read.

    Annotations become millions of small objects, none of them garbage. The collector
    looks through all of them again and again, and through those of torch and
    MMDetection where MMEngine calls it: two thirds of the time of reading. In the
    block it sees neither what was there before nor, unless it is called, what is new.
    Where it rests already, that stays as it is; where objects are frozen, as what
    mmnextvit imports is in its commands, these alone stay unseen.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    were_frozen = gc.get_freeze_count() > 0
    if not were_frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not were_frozen:
            gc.unfreeze()
        gc.enable()
