"""Where images come from: files, folders, patterns, lists, and what has frames."""

import glob
import os
import re
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from .errors import SourceError

IMAGE_SUFFIXES = (
    *('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp'),
)
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
STDIN = '-'
SECRET = re.compile(
    r'(?i)((?:pass(?:word|wd|phrase)?|pwd|token|secret|key|auth|sig(?:nature)?)=)[^&/#]*'
)


def hide_secrets(address: str) -> str:
    """An address without the user and the password in it, and without tokens."""
    start, mark, rest = address.partition('://')
    if not mark:
        return address
    if '@' in rest:
        rest = f'***@{rest.rpartition("@")[2]}'
    return start + mark + SECRET.sub(r'\1***', rest)


class Stream(NamedTuple):
    """A webcam by its number, or an address.

    As a text it is a name without passwords, which may be printed.
    """

    address: int | str

    def __str__(self) -> str:
        if isinstance(self.address, int):
            return f'webcam {self.address}'
        return hide_secrets(self.address)


Source = Path | Stream


def is_video(source: Source) -> bool:
    """Whether a source has frames: a stream, or a video by its name."""
    return isinstance(source, Stream) or source.suffix.lower() in VIDEO_SUFFIXES


def to_stream(text: str) -> Stream | None:
    """What an address or a number stands for; ``None`` of the name of a file."""
    if '://' in text:
        return Stream(text)
    is_number = text.isascii() and text.isdigit() and len(text) < 5
    return Stream(int(text)) if is_number and not os.path.lexists(text) else None


def find_sources(inputs: Iterable[str], stdin: IO[bytes] | None = None) -> list[Source]:
    """What each input stands for, in the order of the inputs.

    Args:
        inputs: Images, videos, folders of them, patterns such as ``'a/**/*.jpg'``,
            list files (``.txt``), ``-`` for a list from standard input, numbers of
            webcams and addresses.
        stdin: As of :func:`read_list`.

    Returns:
        The sources; what stands for none stays as it is, as a path.

    Raises:
        SourceError: A list cannot be used, or a folder holds nothing.
    """
    sources: list[Source] = []
    for text in inputs:
        if text == STDIN or (text.lower().endswith('.txt') and not os.path.isdir(text)):
            sources += read_list(text, stdin)
        elif stream := to_stream(text):
            sources.append(stream)
        else:
            sources += find_files(text) or [Path(text)]
    return sources


def find_files(text: str) -> list[Path]:
    """Images and videos that a path or a pattern stands for, sorted; maybe none.

    Raises:
        SourceError: It is a folder that holds nothing.
    """
    if os.path.isdir(text):
        known = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
        found = [path for path in Path(text).iterdir() if path.suffix.lower() in known]
        if not found:
            raise SourceError(
                f'There is no image or video in {text} ({", ".join(known)})'
            )
        return sorted(found)
    if os.path.lexists(text):  # though its name may look like a pattern
        return [Path(text)]
    return sorted(Path(p) for p in glob.glob(text, recursive=True) if os.path.isfile(p))


def read_list(text: str, stdin: IO[bytes] | None = None) -> list[Source]:
    """The sources in a list: a path, an address or a webcam's number in each line.

    Paths are relative to the list's folder, or else to the current one. Empty lines
    are left out.

    Args:
        text: A file, or ``-`` for standard input, which is read to its end.
        stdin: Standard input, as bytes; that of the process if ``None``.

    Raises:
        SourceError: The list cannot be read, is empty, or has a path that does not
            exist; it has the first such line.
    """
    name, folder = (
        ('standard input', Path()) if text == STDIN else (text, Path(text).parent)
    )
    try:
        if text == STDIN:
            content = (stdin or open_stdin()).read()
        elif not stat.S_ISREG(os.stat(text).st_mode):
            raise SourceError('this list is no regular file', file=text)
        else:
            content = Path(text).read_bytes()
    except OSError as error:
        problem = f'this list of images cannot be read: {error.strerror}'
        raise SourceError(problem, file=name) from error
    sources: list[Source] = []
    for number, line in enumerate(
        content.removeprefix(b'\xef\xbb\xbf').split(b'\n'), 1
    ):
        entry = os.fsdecode(line.strip())
        if not entry:
            continue
        places = (Path(folder, entry), Path(entry))
        path = next(
            (p for p in places if '\0' not in entry and os.path.lexists(p)), None
        )
        source = path or to_stream(entry)
        if source is None:
            problem = (
                f'{entry[:200]!r} does not exist: give a path in each line, relative '
                'to the list or to the current folder'
            )
            raise SourceError(problem, file=name, line=number)
        sources.append(source)
    if not sources:
        problem = 'this list is empty: give a path in each line'
        raise SourceError(problem, file=name)
    return sources


def open_stdin() -> IO[bytes]:
    """Standard input of the process.

    Raises:
        SourceError: There is none, as of a service; it was closed.
    """
    if sys.stdin is None:
        problem = 'there is none here: give a list file, or pipe a list into it'
        raise SourceError(problem, file='standard input')
    return sys.stdin.buffer


def name_sources(sources: Sequence[Source]) -> list[str]:
    """A path for each source, to name what is made of it in a folder.

    Files keep what differs in their folders: ``a/1.jpg`` and ``b/1.jpg``. Of streams it
    is the address, with underscores.
    """
    folders = [os.path.abspath(s.parent) for s in sources if isinstance(s, Path)]
    try:
        root = os.path.commonpath(folders) if folders else ''
    except ValueError:  # several drives of Windows
        root = ''
    names = []
    for source in sources:
        if isinstance(source, Stream):
            name = re.sub(r'[^\w.-]+', '_', str(source).replace('***@', '')).strip('_.')
        else:
            path = os.path.abspath(source)
            name = os.path.relpath(path, root) if root else source.name
        names.append(name)
    return names
