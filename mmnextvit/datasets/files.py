"""Files of data sets: where they are missing, and reading none that never ends."""

import os
from collections import defaultdict
from collections.abc import Iterable

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
