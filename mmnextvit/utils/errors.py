"""What a user did wrong, or can mend, as one exception type.

Code raises :class:`UserError` with what it knows as data; the text is made when it is
printed. :mod:`mmnextvit.cli` turns one into a message and exit code 1. Every other
exception is a bug of ours, and keeps its traceback.
"""

import errno
import os
import re
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import overload

from .messages import escape, shorten

# What torch makes of the text of an error of a data-loader worker.
WORKER_ERROR = re.compile(
    r'Caught \w+ in DataLoader worker .*\nOriginal Traceback .*\n[\w.]+: (.+?)\s*', re.S
)

# What writing fails with, without a file's name, where there is no space for more.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

SHARED_MEMORY_FULL = (
    'there is no space left in the shared memory (/dev/shm), through which data-loader '
    'workers hand over their batches. Give it more (docker run --shm-size=8g), or load '
    'without workers: --cfg-options train_dataloader.num_workers=0 '
    'train_dataloader.persistent_workers=False, and likewise for val_dataloader and '
    'test_dataloader'
)
# How torch says so; other errors about shared memory, as a GPU's, are another matter.
SHARED_MEMORY_ERROR = re.compile(
    r'unable to allocate shared memory|workers are out of shared memory'
    r'|shared memory.*(No space left|Cannot allocate memory)',
    re.S,
)

TOO_MANY_FILES = (
    'this process may not open more files, through which data-loader workers hand over '
    'their batches. Allow more (ulimit -n 65536), or take fewer workers: '
    '--cfg-options train_dataloader.num_workers=1, and likewise for val_dataloader and '
    'test_dataloader'
)
# torch's errors where a file of the shared memory is opened, and where one is received.
TOO_MANY_FILES_ERROR = re.compile(
    r'shared memory.*Too many open files|received 0 items of ancdata', re.S
)

MISSING_OP = "mmcv's op "  # how `_mmcv` begins to say that one is not there


class UserError(ValueError):
    """Something that the user can mend, with where it stands as data.

    The first argument alone makes a complete error, since MMEngine's registries and
    torch's data loader raise an error again by calling its class with a text.

    Args:
        problem: What is wrong and how to mend it, as whole sentences.
        file: The file that it stands in.
        line: The line in that file, from 1.
        row: The number of a row of YOLOv5's YAML.
        key: The key of a config, of a YAML or JSON file, or of a checkpoint.
    """

    def __init__(
        self,
        problem: object = '',
        *,
        file: str | os.PathLike | None = None,
        line: int | None = None,
        row: int | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = str(problem)
        self.file = file
        self.line = line
        self.row = row
        self.key = key

    def __str__(self) -> str:
        # Both may be what another file says.
        place = '' if self.file is None else shorten(os.fspath(self.file), 400)
        if place and self.line is not None:
            place = f'{place}:{self.line}'
        row = '' if self.row is None else f'row {self.row}'
        parts = [place, row, shorten(self.key or ''), self.problem]
        return escape(': '.join(part for part in parts if part), keep='\n')


@contextmanager
def naming_file(file: str | os.PathLike | None) -> Iterator[None]:
    """Has a :class:`UserError` of the block name the file that it is about."""
    try:
        yield
    except UserError as error:
        error.file = file
        raise


@contextmanager
def naming_key(key: str) -> Iterator[None]:
    """Has a :class:`UserError` of the block name the key that it is about.

    One that names a key inside of it already keeps that.
    """
    try:
        yield
    except UserError as error:
        if not str(error.key or '').startswith(f'{key}.'):
            error.key = key
        raise


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


class MissingPackageError(UserError, ImportError):
    """A package that is not installed is needed; the message has the command."""


class Terminated(KeyboardInterrupt):
    """A signal asks the process to end, as ``kill`` and job schedulers do.

    It is handled wherever Ctrl-C is, since it is a ``KeyboardInterrupt``. Both may have
    a text about what is kept, which the command's last line ends with.

    Args:
        text: What is kept.
        number: The signal's number.
    """

    def __init__(self, text: str = '', number: int = signal.SIGTERM) -> None:
        super().__init__(*[text] if text else [])
        self.number = number


def follow_causes(
    error: BaseException, is_followed: Callable[[BaseException], bool] = lambda _: True
) -> Iterator[BaseException]:
    """An error, and those behind it: each once, even where they are a ring.

    They are one where an error is raised ``from`` itself, or from one behind it.

    Args:
        error: The first.
        is_followed: Whether what was handled while an error was raised counts, if it
            was not raised ``from`` anything.
    """
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and not any(link is one for one in seen):
        seen.append(link)
        yield link
        link = link.__cause__ or (link.__context__ if is_followed(link) else None)


@overload
def find_user_error(error: UserError) -> UserError: ...


@overload
def find_user_error(error: BaseException) -> UserError | OSError | None: ...


def find_user_error(error: BaseException) -> UserError | OSError | None:
    """The error behind another that a user can mend, or ``None``.

    It is the first :class:`UserError` of the chain. Where MMEngine's registries raised
    it again, with the class that they were building before its text, it is the
    original, which has the fields; of one that torch raised again for a data-loader
    worker, with the worker's traceback in its text, it has the text alone. Without any,
    it is the first ``OSError`` that names a file, as that of a missing permission does,
    or that is about a full disk. A full shared memory and too many open files, of which
    torch says so in other words each time, have messages of their own. So has an op of
    mmcv's that is not there, which a config can do without.

    Another exception that is raised while such an error is handled, and not ``from``
    it, is a bug.
    """
    chain = list(follow_causes(error, _is_mendable))
    ours = [one for one in chain if isinstance(one, UserError)]
    if ours:
        error = next((e for e in ours if not _is_repetition(e)), ours[-1])
        worker = WORKER_ERROR.fullmatch(str(error))
        return type(error)(worker[1]) if worker else error
    if any(map(_is_shared_memory_full, chain)):
        return UserError(SHARED_MEMORY_FULL)
    if any(map(_are_files_too_many, chain)):
        return UserError(TOO_MANY_FILES)
    missing = [e for e in chain if isinstance(e, NotImplementedError)]
    if missing and str(missing[0]).startswith(MISSING_OP):
        return UserError(str(missing[0]))
    of_system = (e for e in chain if isinstance(e, OSError))
    return next((e for e in of_system if e.filename or e.errno in FULL), None)


def _is_mendable(error: BaseException) -> bool:
    """Whether what was handled when an error was raised may be what is to be mended."""
    return isinstance(error, (UserError, OSError)) and not error.__suppress_context__


def _is_shared_memory_full(error: BaseException) -> bool:
    """Whether torch, or Python for a lock, found no space in the shared memory."""
    if isinstance(error, RuntimeError):
        return SHARED_MEMORY_ERROR.search(str(error)) is not None
    frames = traceback.extract_tb(error.__traceback__)
    of_locks = (
        bool(frames) and os.path.basename(frames[-1].filename) == 'synchronize.py'
    )
    return of_locks and isinstance(error, OSError) and error.errno in FULL


def _are_files_too_many(error: BaseException) -> bool:
    """Whether the process has as many files open as the system allows."""
    if isinstance(error, RuntimeError):
        return TOO_MANY_FILES_ERROR.search(str(error)) is not None
    return isinstance(error, OSError) and error.errno == errno.EMFILE


def _is_repetition(error: UserError) -> bool:
    """Whether a registry raised the error behind this one again, as a text."""
    return re.match(r'class `\w+` in .*: ', str(error)) is not None
