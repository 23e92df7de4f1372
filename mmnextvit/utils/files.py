"""Files that must exist, and files and folders that are written whole or not at all."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard, TypeVar

from .errors import FULL, MissingFileError, UserError

Name = TypeVar('Name', bound=str | os.PathLike)

SHORT = 5000  # bytes of a file that holds a path or a number
PICKLES = ('.pkl', '.pickle')  # what MMEngine's `dump` writes as pickle

TYPES = {stat.S_IFDIR: 'a folder', stat.S_IFIFO: 'a FIFO', stat.S_IFSOCK: 'a socket'}


def require_file(path: str, what: str) -> str:
    """``path``, if it is a file or an address.

    Raises:
        MissingFileError: It is neither; the message says ``what`` was looked for.
    """
    if not path:  # as where a script's variable is not set
        raise MissingFileError(f'{what}: its name is empty. Give a file')
    if '://' not in path and not Path(path).expanduser().is_file():
        problem = 'is a folder, not a file' if is_folder(path) else 'does not exist'
        raise MissingFileError(f'{what} {path} {problem}')
    return path


def check_writable(path: str | os.PathLike) -> None:
    """Tries whether a file can be written, before there is anything to write.

    Nothing of it is left, also not of folders that it would lie in.

    Raises:
        IsADirectoryError: It is a folder.
        OSError: It cannot be written; see :func:`atomic_write`.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with _scratch(path) as new:
        (new / path.name).write_bytes(b'x')
        _sync(new / path.name)


def check_new_file(
    path: str | os.PathLike, option: str = '', suffixes: Sequence[str] = ()
) -> Path:
    """``path``, if a new file can be written there, which is tried.

    Args:
        path: The file.
        option: The option that named it, for the messages.
        suffixes: What its name must end in, one of them.

    Raises:
        UserError: Something of that name exists, the name ends in something else, or
            the folder is a file.
        OSError: It cannot be written.
    """
    named = f'{option} {os.fspath(path)}'.strip()
    if suffixes and Path(path).suffix not in suffixes:
        raise UserError(f'{named}: the name must end in {" or ".join(suffixes)}')
    if os.path.lexists(path):
        raise UserError(f'{named} exists, and nothing is overwritten: choose another')
    try:
        check_writable(path)
    except NotADirectoryError as error:
        raise UserError(f'{named}: its folder is a file') from error
    return Path(path)


def check_folder(path: str | os.PathLike, option: str = '') -> None:
    """Tries whether files can be written into a folder, which need not exist.

    Args:
        path: The folder.
        option: The option that named it, for the messages.

    Raises:
        UserError: It, or a folder that it lies in, is a file.
        OSError: Nothing can be written into it.
    """
    try:
        check_writable(Path(path, 'file'))
    except NotADirectoryError as error:
        named = f'{option} {os.fspath(path)}'.strip()
        raise UserError(
            f'{named}: {error.strerror}, since {error.filename} is a file: choose '
            'another folder'
        ) from error
    except OSError as error:
        error.filename = os.path.realpath(path)  # what a user has named
        raise


def check_new_folder(path: str | os.PathLike) -> Path:
    """``path``, if it is empty or missing, and can be written into, which is tried.

    Raises:
        UserError: It is not empty, or not a folder, or lies in a file.
        OSError: Nothing can be written into it.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise UserError(f'{folder} is not a folder: choose a new folder')
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f'{folder} is not empty: choose a new folder')
    check_folder(folder)
    return folder


def missing_folders(path: Path) -> list[Path]:
    """Of ``path`` and its parents those that are missing, the innermost first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def remove_empty_folders(folders: Iterable[Path]) -> None:
    """Removes folders as long as they are empty, in the order that they are given."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def make_numbered_folder(path: Path) -> Path:
    """Makes ``path``, or ``path`` with the first number that makes it a new folder.

    Of several processes each gets a folder of its own.

    Raises:
        UserError: There are too many.
        OSError: It cannot be made.
    """
    for number in range(1, 10_000):
        folder = path if number == 1 else path.with_name(f'{path.name}_{number}')
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise UserError(f'{path} to {folder} exist all: remove some')


def find_user_cache() -> Path:
    """The folder of this package in the user's cache, which need not exist."""
    base = os.environ.get('XDG_CACHE_HOME') or os.environ.get('LOCALAPPDATA')
    folder = Path(base) if base else Path(os.path.expanduser('~'), '.cache')
    return folder / 'mmnextvit'


def is_folder(path: Name | None) -> TypeGuard[Name]:
    """Whether a path is a folder; an empty name, an address and ``None`` are none."""
    return bool(path) and Path(path or '').expanduser().is_dir()


def check_is_file(path: str | os.PathLike) -> None:
    """Refuses what is there but no plain file: reading a FIFO or a device may not end.

    Raises:
        UserError: It is a folder, a FIFO, a socket or a device.
        OSError: It does not exist, or cannot be looked at.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        file_type = TYPES.get(stat.S_IFMT(mode), 'a device')
        raise UserError(f'this is {file_type}, not a file', file=path)


def read_short_text(path: str | os.PathLike) -> str:
    """A file's text up to a few thousand bytes, without the space around it.

    What is not UTF-8 becomes U+FFFD.

    Raises:
        UserError: It is no plain file.
        OSError: It does not exist, or cannot be read.
    """
    check_is_file(path)
    with open(path, 'rb') as file:
        return file.read(SHORT).decode(errors='replace').strip()


@contextmanager
def atomic_write(path: str | os.PathLike, overwrite: bool = True) -> Iterator[Path]:
    """A path to write a file or a folder to, which gets its name once it is complete.

    It lies in a hidden folder beside the final path. What the block writes beside it
    under other names comes along: all of it, or none. Where the block raises, nothing
    of it is left, and what stood there before stands there still. Missing parent
    folders are made; links are followed; devices, such as ``/dev/stdout``, are written
    to directly.

    Args:
        path: File or folder to write.
        overwrite: Whether what stands there is replaced. Otherwise, of several
            processes that write it at once exactly one succeeds. A folder takes the
            place of an empty one in either case.

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
    with _scratch(path) as new:
        yield new / path.name
        for written in new.iterdir():
            _sync(written)
        _publish(new, path.parent, overwrite)
        _sync(path.parent, contents=False)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder inside a hidden one beside ``path``, removed with what is left in it.

    Its parents are made where they are missing, and removed where nothing came into
    them. An ``OSError`` of the block is made one about the final path.

    Raises:
        NotADirectoryError: One of its parents is a file.
        OSError: It cannot be made.
    """
    made = missing_folders(path.parent)
    first = next(parent for parent in path.parents if parent not in made)
    if not first.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(first))
    with contextlib.ExitStack() as left:
        left.callback(remove_empty_folders, made)
        folder = _make_hidden(path)
        left.callback(_remove_folder, folder)
        new = folder / 'new'
        try:
            new.mkdir()
            yield new
        except OSError as error:
            _name_target(error, path, new)
            raise


def atomic_write_text(
    path: str | os.PathLike, text: str, overwrite: bool = True
) -> None:
    """Writes a text in UTF-8, whole or not at all; see :func:`atomic_write`."""
    with atomic_write(path, overwrite) as scratch:
        scratch.write_text(text, encoding='utf-8')


def give_name(file: Path, path: Path) -> None:
    """Gives a file a second name, in the place of whatever file has it.

    It is a hard link: it takes no space, never dangles, and stays a file where its
    folder is moved, packed or uploaded. Where the file system has none it is a copy.
    At every moment the name stands for a whole file, the one before or this one.

    Raises:
        OSError: It cannot be written.
    """
    path = Path(os.path.realpath(path.parent), path.name)  # a link is not followed
    if not path.is_symlink() and path.exists() and path.samefile(file):
        return
    with _scratch(path) as new:
        try:
            os.link(os.path.realpath(file), new / path.name)
        except OSError:
            shutil.copyfile(file, new / path.name)
            _sync(new / path.name)
        os.replace(new / path.name, path)
    _sync(path.parent, contents=False)


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


def _remove_folder(folder: Path) -> None:
    """Removes a folder, also where a signal interrupts that."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _make_hidden(path: Path) -> Path:
    """A hidden folder beside ``path``, with the parents that are missing."""
    # A name has at most 255 bytes, and a character up to four.
    prefix = f'.{path.name[:60]}.'
    for attempt in range(100):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
        except OSError as error:
            # Another process may have removed the folder, which it had made, too.
            if isinstance(error, FileNotFoundError) and attempt < 99:
                continue
            error.filename = str(path)
            raise
    raise AssertionError('the last attempt returns or raises')


def _publish(new: Path, folder: Path, overwrite: bool) -> None:
    """Gives all that is complete its names in ``folder``, or nothing of it.

    Args:
        new: Folder of what is complete; what it replaces is kept beside it.
        folder: Where it goes.
        overwrite: Whether what stands there is replaced.
    """
    before = new.with_name('before')
    before.mkdir()
    names = sorted(os.listdir(new))
    try:
        for name in names:
            if overwrite and len(names) > 1 and (folder / name).is_file():
                _keep(folder / name, before / name)
            _put(new / name, folder / name, before / name, overwrite)
    except BaseException:
        if len(names) > 1:  # one alone is whole wherever it stands
            for name in names:
                _take_back(new / name, folder / name, before / name)
        raise


def _put(written: Path, target: Path, before: Path, overwrite: bool) -> None:
    """Gives what is complete its name."""
    if not overwrite:
        _claim(written, target)
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


def _claim(written: Path, target: Path) -> None:
    """Gives what is complete a name that nothing has.

    Each way fails where another process was faster, be it by a moment.

    Raises:
        FileExistsError: Something has the name.
    """
    try:
        if written.is_dir():
            with contextlib.suppress(OSError):
                target.rmdir()  # if it is empty
            _rename_folder(written, target)
            return
        try:
            os.link(written, target)
        except FileExistsError:
            raise
        except OSError:  # as a rule since the file system has no hard links
            os.close(os.open(target, os.O_CREAT | os.O_EXCL))
            try:
                os.replace(written, target)
            except BaseException:
                target.unlink()
                raise
    except FileExistsError:
        problem = 'this exists by now, and nothing is overwritten: choose another name'
        raise FileExistsError(errno.EEXIST, problem, str(target)) from None


def _rename_folder(folder: Path, target: Path) -> None:
    """Renames a folder, which no system does where a file or a full folder stands."""
    try:
        os.rename(folder, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(
                errno.EEXIST, os.strerror(errno.EEXIST), str(target)
            ) from error
        raise


def _keep(file: Path, before: Path) -> None:
    """Keeps a file that is to be replaced, by a second name if there can be one."""
    try:
        os.link(file, before)
    except OSError:
        shutil.copy2(file, before)


def _take_back(written: Path, target: Path, before: Path) -> None:
    """Undoes :func:`_put`, as far as it got."""
    moved = not written.exists()
    if moved and target.is_dir():
        shutil.rmtree(target)
    elif moved or (target.exists() and target.samefile(written)):
        target.unlink(missing_ok=True)
    if before.exists():
        os.replace(before, target)


def _sync(path: Path, contents: bool = True) -> None:
    """Has the system bring a file, or all of a folder, to the disk."""
    if contents and path.is_dir():
        for part in path.rglob('*'):
            if part.is_file():
                _sync(part)
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Windows opens no folders, and some file systems sync none. Others notice only
        # now that there is no space.
        if error.errno in (*FULL, errno.EIO):
            error.filename = str(path)
            raise
