"""A full disk, where a library that writes by itself does not say that it is full."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def explain_full_disk(folder: Path, size: int) -> Iterator[None]:
    """Raises what the system says where something fails for want of space.

    OpenVINO and coremltools write files by themselves, also in the system's folder for
    temporary files, and on a full disk raise errors that do not say so.

    Args:
        folder: Where is written.
        size: How many bytes must fit, about. What was written before the failure is
            still there.

    Raises:
        OSError: In the place of what the block raises, where there is no such space.
            ``filename`` is the system's folder, or ``None`` for ``folder``.
    """
    try:
        yield
    except Exception as error:
        for place in (folder, None):
            try:
                reserve(place, size)
            except OSError as full:
                # Where there is no space at all, no folder is the system's.
                system = tempfile.tempdir or 'the folder for temporary files (TMPDIR)'
                full.filename = system if place is None else None
                raise full from error
        raise


def reserve(folder: Path | None, size: int) -> None:
    """Takes space in a folder, or in the system's for temporary files, for a moment.

    Raises:
        OSError: There is not as much, or nothing may be written there.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, 'posix_fallocate'):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(bytes(size))
