"""Files that must exist, and files and folders that are written whole or not at all."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import MissingFileError

# What writing fails with, without a file's name, where there is no space for more.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def existing_file(path: str, what: str) -> str:
    """``path``, if it is a file or an address.

    Raises:
        MissingFileError: It is neither; the message says ``what`` was looked for.
    """
    if '://' not in path and not Path(path).expanduser().is_file():
        is_folder = Path(path).expanduser().is_dir()
        problem = 'is a folder, not a file' if is_folder else 'does not exist'
        raise MissingFileError(f'{what} {path} {problem}')
    return path


@contextmanager
def atomic_write(path: str | os.PathLike, overwrite: bool = True) -> Iterator[Path]:
    """A path to write a file or a folder to, which gets its name once it is complete.

    It lies in a hidden folder beside the final path. What the block writes beside it
    under other names comes along. Where the block raises, nothing of it is left, and
    what stood there before stands there still. Missing parent folders are made; links
    are followed; devices, such as ``/dev/stdout``, are written to directly.

    Args:
        path: File or folder to write.
        overwrite: Whether what stands there is replaced.

    Raises:
        FileExistsError: It exists, and is not to be replaced.
        IsADirectoryError: It is a folder, which no file replaces.
        NotADirectoryError: One of its folders is a file, which ``filename`` says.
        OSError: It cannot be written. ``filename`` is the path of the file or folder
            that was to be written, also where the block raises it about the path that
            it got, or about a full disk without any path.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(
                errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent)
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name has at most 255 bytes, and a character up to four.
    prefix = f'.{path.name[:60]}.'
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    except OSError as error:
        error.filename = str(path)
        raise
    new = folder / 'new'
    try:
        new.mkdir()
        yield new / path.name
        for written in sorted(new.iterdir()):
            _sync(written)
            _put(written, path.with_name(written.name), folder / 'before', overwrite)
        _sync(path.parent, contents=False)
    except OSError as error:
        _name_target(error, path, new)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def atomic_write_text(
    path: str | os.PathLike, text: str, overwrite: bool = True
) -> None:
    """Writes a text in UTF-8, whole or not at all; see :func:`atomic_write`."""
    with atomic_write(path, overwrite) as scratch:
        scratch.write_text(text, encoding='utf-8')


def _name_target(error: OSError, path: Path, new: Path) -> None:
    """Names in an error what the user knows, in place of what is hidden.

    Args:
        error: What was raised while the path was written.
        path: The final path.
        new: The folder in the hidden folder that is written to.
    """
    if error.filename is None:
        if error.errno in FULL:
            error.filename = str(path)
        return
    if isinstance(error.filename, int):  # a descriptor
        return
    file = Path(os.path.abspath(os.fsdecode(error.filename)))
    if file.is_relative_to(new) and file != new:
        error.filename = str(path.parent / file.relative_to(new))
    elif file.is_relative_to(new.parent):
        error.filename = str(path)
    else:
        return
    del error.filename2  # where it was to go to, which has the same name


def _put(written: Path, target: Path, before: Path, overwrite: bool) -> None:
    """Gives what is complete its name."""
    if not overwrite:
        if written.is_dir() or not _can_link(written):
            if target.exists():
                raise FileExistsError(
                    errno.EEXIST, os.strerror(errno.EEXIST), str(target)
                )
            os.rename(written, target)
        else:
            os.link(written, target)  # fails where another process was faster
        return
    if not target.is_dir():
        os.replace(written, target)
        return
    if not written.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    os.replace(target, before)  # a folder is not replaced by another
    try:
        os.replace(written, target)
    except BaseException:
        os.replace(before, target)
        raise
    shutil.rmtree(before)


def _can_link(file: Path) -> bool:
    """Whether the file system has hard links."""
    link = file.with_name(f'{file.name}.link')
    try:
        os.link(file, link)
    except OSError:
        return False
    link.unlink()
    return True


def _sync(path: Path, contents: bool = True) -> None:
    """Has the system bring a file, or all of a folder, to the disk."""
    if contents and path.is_dir():
        for part in path.rglob('*'):
            if part.is_file():
                _sync(part)
    # Windows opens no folders, and some file systems sync none.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
