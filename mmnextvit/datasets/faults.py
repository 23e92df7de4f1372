"""Faults of data: an error, or a warning where a dataset goes on without them."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

from mmengine.logging import print_log

from ..utils.errors import MissingFileError, UserError
from ..utils.messages import first_few, list_lines
from .images import REMARKS, BrokenImageError

Item = TypeVar('Item')
Result = TypeVar('Result')


class Fault(NamedTuple):
    """What is wrong with some of the data.

    Attributes:
        error: It, and how to mend it.
        warning: It, and that a dataset goes on without; empty where none can.
        kind: What it is about, as of `Told`.
        places: As of `Told`.
    """

    error: UserError
    warning: str = ''
    kind: str = 'annotations'
    places: Collection[str] = ()


class Told(NamedTuple):
    """What a dataset says of its data, for `listen`.

    Attributes:
        kind: What it is about: ``'missing'`` or ``'broken'`` images, ``'boxes'`` that
            are dropped, an ``'unreadable'`` file, ``'absent'`` classes, label files
            without an image, ``'imageless'``, or other ``'annotations'``.
        text: The message.
        places: The images, files or lines that it is about, where these are known.
        stops: Whether a training would end with it.
    """

    kind: str
    text: str
    places: Collection[str] = ()
    stops: bool = False


_told: ContextVar[list[Told] | None] = ContextVar('told', default=None)


@contextmanager
def listen() -> Iterator[list[Told]]:
    """Gives all that datasets say while they load their data, in place of the log.

    They go on without what is faulty, even where a training would end with it, so that
    every fault is said at once.
    """
    told: list[Told] = []
    token = _told.set(told)
    try:
        yield told
    finally:
        _told.reset(token)


def warn(message: str, kind: str = 'annotations', places: Collection[str] = ()) -> None:
    """Logs a warning with the run's logger.

    Args:
        message: The warning.
        kind: As of `Told`.
        places: As of `Told`.
    """
    told = _told.get()
    if told is None:
        print_log(message, logger='current', level=logging.WARNING)
    else:
        told.append(Told(kind, message, places))


def read_all(read: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What is read of each of many files or entries.

    Raises:
        UserError: One cannot be read, and nobody listens for all that cannot.
    """
    results = []
    for item in items:
        try:
            results.append(read(item))
        except UserError as error:
            told = _told.get()
            if told is None:
                raise
            place = str(error.file or error.key or '')
            told.append(Told('unreadable', str(error), [place], stops=True))
    return results


def settle(fault: Fault | None, skip: bool) -> None:
    """Raises a fault's error, or logs its warning where faulty data are skipped.

    Args:
        fault: What is wrong, if anything is.
        skip: Whether the dataset goes on without.

    Raises:
        UserError: The fault's.
    """
    if fault is None:
        return
    stops, told = not skip or not fault.warning, _told.get()
    if told is not None:
        told.append(Told(fault.kind, str(fault.error), fault.places, stops))
    elif stops:
        raise fault.error
    else:
        warn(fault.warning)


def describe_missing(
    missing: Sequence[str], paths: Sequence[str], ann_file: str, place: str
) -> Fault | None:
    """Of images that do not exist.

    Args:
        missing: Those that are missing.
        paths: All.
        ann_file: What names them.
        place: Where the dataset looks for them.
    """
    if not missing:
        return None
    message = (
        f'{len(missing)} of the {len(paths)} images that {ann_file} names are missing: '
        f'{first_few(missing)}'
    )
    error = MissingFileError(f'{message}. {place}')
    none_left = len(missing) == len(set(paths))
    warning = '' if none_left else f'{message}: skipped'
    return Fault(error, warning, 'missing', missing)


def describe_broken(broken: Mapping[str, BrokenImageError], count: int) -> Fault | None:
    """Of images that cannot be used.

    Args:
        broken: What is wrong with them, by path.
        count: How many images there are in all.
    """
    if not broken:
        return None
    message = f'{len(broken)} of {count} images are broken'
    lines = '\n  '.join([f'{message}:', *map(str, broken.values())])
    none_left = len(broken) == count
    warning = '' if none_left else f'{lines}\n{message}: skipped'
    return Fault(BrokenImageError(lines), warning, 'broken', list(broken))


def describe_broken_lines(broken: Sequence[UserError], place: str) -> Fault | None:
    """Of lines that cannot be read.

    Args:
        broken: What is wrong with each, with its file and line.
        place: Where they stand.
    """
    if not broken:
        return None
    message = f'{len(broken)} broken lines in {place}:\n  {list_lines(broken)}\n'
    error = UserError(
        f'{message}Repair them; skip_broken=True in the training dataset goes on '
        'without these lines',
        file=broken[0].file,
        line=broken[0].line,
    )
    places = [f'{line.file}:{line.line}' for line in broken]
    return Fault(error, f'{message}dropped', 'unreadable', places)


def describe_remarks(
    remarks: Mapping[str, Sequence[str]], count: int, ann_file: str
) -> list[str]:
    """What is to be told of images: how many, of which data set, and the first few.

    Args:
        remarks: Paths of images by key of `REMARKS`.
        count: How many images there are in all.
        ann_file: What names them.
    """
    return [
        f'{len(paths)} of {count} images of {ann_file} {REMARKS[key]}: '
        f'{first_few(paths)}'
        for key, paths in remarks.items()
        if paths
    ]
