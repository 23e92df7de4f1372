"""Faults of data: an error, or a warning where a dataset goes on without them."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmengine.logging import print_log

from ..utils.errors import MissingFileError, UserError
from ..utils.messages import first_few, list_lines
from .images import REMARKS, BrokenImageError


class Fault(NamedTuple):
    """What is wrong with some of the data.

    Attributes:
        error: It, and how to mend it.
        warning: It, and that a dataset goes on without; empty where none can.
    """

    error: UserError
    warning: str = ''


def warn(message: str) -> None:
    """Logs a warning with the run's logger."""
    print_log(message, logger='current', level=logging.WARNING)


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
    if not skip or not fault.warning:
        raise fault.error
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
    return Fault(error, '' if none_left else f'{message}: skipped')


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
    return Fault(
        BrokenImageError(lines), '' if none_left else f'{lines}\n{message}: skipped'
    )


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
    return Fault(error, f'{message}dropped')


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
