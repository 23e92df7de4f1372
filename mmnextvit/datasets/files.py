"""Files of data sets: where they are missing, and reading none that never ends."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator

from mmengine import fileio
from mmengine.fileio.backends import LocalBackend

from ..utils.files import check_is_file


def is_local(path: str, backend_args: dict | None = None) -> bool:
    """Whether a path is one of the local disk, for MMEngine's file backends."""
    backend = fileio.get_file_backend(path, backend_args=backend_args)
    return isinstance(backend, LocalBackend)


def read_bytes(path: str | os.PathLike, backend_args: dict | None = None) -> bytes:
    """What a file holds.

    Args:
        path: File, local or of a backend that MMEngine knows.
        backend_args: MMEngine's file backend.

    Raises:
        UserError: It is a folder, a FIFO or a device.
        OSError: It cannot be read.
    """
    backend = fileio.get_file_backend(path, backend_args=backend_args)
    if isinstance(backend, LocalBackend):
        check_is_file(path)
    return backend.get(path)


def find_missing_files(paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` that don't exist; each folder is listed once."""
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for path in paths:
        folder, name = os.path.split(path)
        folders[folder][name] = path
    missing = []
    for folder, files in folders.items():
        if os.path.isdir(folder or '.'):
            with os.scandir(folder or '.') as entries:
                for entry in entries:
                    files.pop(entry.name, None)
        # Some file systems spell a name otherwise than the annotations do.
        missing += [path for path in files.values() if not os.path.exists(path)]
    return sorted(missing)


def find_files_below(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files in a folder and all below it, in the order of their folders and names.

    Hidden ones are left out. Links are followed, also where they form a circle.

    Args:
        folder: A local folder.
        suffixes: In lower case; files may have them in upper case too.
    """
    files = []
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith('.'))
        files += [
            os.path.join(here, name)
            for name in sorted(names)
            if name.lower().endswith(suffixes) and not name.startswith('.')
        ]
    return files


def find_namesake(path: str, folders: Iterable[str]) -> str | None:
    """A file that has the name of one that is missing, or nearly.

    Upper and lower case count as one, and so do the ways to write an accent.

    Args:
        path: The missing file. Backslashes separate folders, too.
        folders: Looked through with the folders in them, but no deeper.
    """

    def fold(name: str) -> str:
        return unicodedata.normalize('NFC', name).casefold()

    def look(folder: str, deeper: bool) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (OSError, ValueError):
            return
        for entry in entries:
            if fold(entry.name) == wanted and entry.is_file():
                yield entry.path
        if deeper:
            for entry in entries:
                if entry.is_dir() and not entry.name.startswith('.'):
                    yield from look(entry.path, False)

    wanted = fold(re.split(r'[\\/]', path)[-1])
    found = (file for folder in folders for file in look(folder or '.', True))
    return next(found, None)
