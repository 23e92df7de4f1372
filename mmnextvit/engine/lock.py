"""One training at a time in one folder."""

import contextlib
import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config

from ..runs import find_checkpoint_folder, is_first_process
from ..utils.errors import UserError
from ..utils.files import missing_folders, remove_empty_folders

FILE = '.training.lock'  # in a work dir, for as long as a training writes there
HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # what a lock of another fails with

_held: set[Path] = set()  # by this process, which its own locks do not stop


@contextmanager
def training_lock(cfg: Config) -> Iterator[None]:
    """Keeps every other training out of a config's ``work_dir``, which is made.

    The same is done with the folder of its checkpoints, where that is another one.

    Of several processes of one training the first has the lock for all, on any number
    of machines. The system takes it from a process that ends, however it ends. Over
    NFS it holds between machines, if the mount has locks; where the file system has
    none, a warning says so. A folder that was made, and into which nothing came, is
    removed.

    Raises:
        UserError: Another training is there, or the folder is a file.
        OSError: A folder cannot be written to.
    """
    if not is_first_process(cfg.get('launcher', 'none')):
        yield
        return
    work_dir, checkpoints = Path(cfg.work_dir), find_checkpoint_folder(cfg)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked_folder(work_dir))
        if checkpoints is not None and checkpoints.resolve() != work_dir.resolve():
            stack.enter_context(_locked_folder(checkpoints))
        yield


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """A folder that this process alone has, made where it is missing."""
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f'{folder} is a file: choose another folder for the run (--work-dir)'
        )
    with contextlib.ExitStack() as stack:
        stack.callback(remove_empty_folders, missing_folders(folder))
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_locked(folder.resolve() / FILE, folder))
        yield


@contextmanager
def _locked(path: Path, folder: Path) -> Iterator[None]:
    """
    Args:
        path: The file to lock.
        folder: Its folder, for the messages.
    """
    if path in _held:
        raise _refusal(folder, f'process {os.getpid()}, this one')
    descriptor = _open_locked(path, folder)
    _held.add(path)
    with contextlib.suppress(OSError):  # a disk may be full, and it is a help only
        os.write(descriptor, f'process {os.getpid()} on {platform.node()}'.encode())
    try:
        yield
    finally:
        _held.remove(path)
        # What opened the file before it was removed sees so once it has the lock.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _open_locked(path: Path, folder: Path) -> int:
    """A descriptor of a file that this process has locked.

    Raises:
        UserError: Another process has.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in HELD:
                owner = os.read(descriptor, 200).decode(errors='replace')
                os.close(descriptor)
                raise _refusal(folder, owner or 'another process') from error
            print(
                f'The file system of {folder} has no locks ({error.strerror}): a '
                'second training there would not be noticed',
                file=sys.stderr,
            )
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                os.ftruncate(descriptor, 0)
                return descriptor
        os.close(descriptor)  # its owner has just removed it


def _lock(descriptor: int) -> None:
    """Locks a file for this process alone, without waiting.

    These locks are not inherited: a data-loader worker that outlives a killed process
    has none. Those of ``flock``, and so of the package ``filelock``, would be.
    """
    if sys.platform == 'win32':
        import msvcrt

        os.lseek(descriptor, 2**20, os.SEEK_SET)  # what is locked cannot be read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _refusal(folder: Path, owner: str) -> UserError:
    return UserError(
        f'{folder}: another training writes there now ({owner}). Wait until it has '
        'ended, or choose another folder, of another name (--work-dir)'
    )
