"""ONNX Runtime Web, out of its package of npm, checked by its files' digests."""

import contextlib
import gzip
import hashlib
import lzma
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from ..utils.errors import MissingFileError, MissingPackageError, UserError
from ..utils.files import atomic_write, find_user_cache
from ..utils.messages import shorten
from .web_folder import RUNTIME_FILES, VERSION

PACKAGE = f'onnxruntime-web@{VERSION}'
MAX_BYTES = 1 << 26  # of a file in the package; the largest has 14 MB
LIMIT = 600  # seconds, for npm
# What reading a tarball fails with that is none, or is not whole.
DAMAGED = (
    tarfile.TarError,
    EOFError,
    KeyError,
    zlib.error,
    gzip.BadGzipFile,
    lzma.LZMAError,
)
ELSEWHERE = (
    f'run "npm pack {PACKAGE}" on a machine that has both, and name the file that it '
    'writes (--onnxruntime-web FILE)'
)


def read_runtime(
    source: str | Path | None, say: Callable[[str], None]
) -> dict[str, bytes]:
    """The files of ONNX Runtime Web that the page needs, by name.

    They come from ``source``, or from the user's cache, or else by npm, which are then
    kept in the cache.

    Args:
        source: What ``npm pack`` writes, or the package's folder in ``node_modules``.
        say: Gets a line where npm fetches them.

    Raises:
        MissingFileError: There is no ``source``, or npm cannot fetch the package.
        MissingPackageError: npm is needed and not installed.
        UserError: ``source`` is no such package, or has another version.
    """
    if source is not None:
        return read_package(Path(source).expanduser())
    cached = find_cache()
    with contextlib.suppress(UserError, OSError):
        return read_package(cached)
    files = fetch(say)
    # A cache that is full or may not be written only means to fetch them again.
    with contextlib.suppress(OSError), atomic_write(cached) as folder:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return files


def find_cache() -> Path:
    """Where the files are kept once npm has fetched them; it need not exist."""
    return find_user_cache() / PACKAGE.replace('@', '-')


def read_package(path: Path) -> dict[str, bytes]:
    """The files that are needed out of a package, a folder or a packed one.

    Raises:
        MissingFileError: It does not exist.
        UserError: It is no such package, or has another version.
        OSError: It cannot be read.
    """
    if not path.exists():
        raise MissingFileError(f'{path} does not exist: {ELSEWHERE}')
    try:
        files = read_folder(path) if path.is_dir() else read_tarball(path)
    except DAMAGED as error:
        raise UserError(
            f'{path} is not the package onnxruntime-web, or is damaged '
            f'({shorten(error)}): {ELSEWHERE}'
        ) from error
    check_digests(files, path)
    return files


def read_folder(path: Path) -> dict[str, bytes]:
    """The files in a folder, or in its folder ``dist``.

    Raises:
        KeyError: One is missing.
    """
    folder = path / 'dist' if (path / 'dist').is_dir() else path
    missing = [name for name in RUNTIME_FILES if not (folder / name).is_file()]
    if missing:
        raise KeyError(f'{missing[0]} is missing')
    return {name: read(open(folder / name, 'rb')) for name in RUNTIME_FILES}


def read_tarball(path: Path) -> dict[str, bytes]:
    """The files in what ``npm pack`` writes.

    Raises:
        KeyError: One is missing.
        tarfile.TarError: It is no such file.
    """
    files = {}
    with tarfile.open(path) as package:
        for name in RUNTIME_FILES:
            file = package.extractfile(f'package/dist/{name}')
            if file is None:
                raise KeyError(f'{name} is no file')
            files[name] = read(file)
    return files


def read(file: IO[bytes]) -> bytes:
    with file:
        return file.read(MAX_BYTES)


def check_digests(files: Mapping[str, bytes], path: Path) -> None:
    """Makes sure that files are those of the version that the page is made for.

    Raises:
        UserError: One is another.
    """
    for name, digest in RUNTIME_FILES.items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise UserError(
                f'{path} has another {name} than {PACKAGE}, which the page needs: '
                f'{ELSEWHERE}'
            )


def fetch(say: Callable[[str], None]) -> dict[str, bytes]:
    """The files, by npm.

    Raises:
        MissingPackageError: npm is not installed.
        MissingFileError: It cannot fetch the package.
        UserError: What it gives is another package.
    """
    npm = shutil.which('npm')
    if npm is None:
        raise MissingPackageError(
            f'the page needs {PACKAGE}, which npm fetches once, and npm is not '
            f'installed: install Node.js, or {ELSEWHERE}'
        )
    say(f'Fetching {PACKAGE} ...')
    options = '--ignore-scripts --fetch-retries=1 --fetch-timeout=60000'
    with TemporaryDirectory() as folder:
        command = [npm, 'pack', PACKAGE, *options.split(), '--pack-destination', folder]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=LIMIT
            )
            problem = done.stderr if done.returncode else ''
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        packed = list(Path(folder).glob('*.tgz'))
        if problem or not packed:
            raise MissingFileError(
                f'the page needs {PACKAGE}, and npm could not fetch it '
                f'({shorten(pick_reason(problem))}): try again where there is a '
                f'network, or {ELSEWHERE}'
            )
        return read_package(packed[0])


def pick_reason(output: str) -> str:
    """The line of npm's output that says most: not its code, nor where its log lies."""
    lines = [line.strip().removeprefix('npm error ') for line in output.splitlines()]
    said = [x for x in lines if x and not x.startswith(('code ', 'errno ', 'npm '))]
    return said[0] if said else 'it does not say why'
