"""All files of a folder, looked through once, and cheap looks into some of them."""

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice

from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..datasets.data_yaml import SUFFIXES
from ..utils.errors import MissingFileError, UserError
from ..utils.files import check_is_file

LONG = 10_000  # files from which on a progress bar stands there
LEFT_OUT = ('__MACOSX', '__pycache__', 'node_modules')  # folders that hold no data
CACHES = '.mmnextvit-cache.json'  # what our own scans leave behind
HEAD = 1 << 16  # bytes, which hold a hundred lines of any list


@dataclass(frozen=True)
class Tree:
    """The files of a folder and all below it; hidden ones are left out.

    All paths are absolute, and all lists of them sorted.

    Attributes:
        root: The folder.
        files: All files.
        folders: All folders, ``root`` included.
        unreadable: Those of ``folders`` that could not be listed.
    """

    root: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    unreadable: tuple[str, ...] = ()

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The images, by their suffixes."""
        return tuple(file for file in self.files if is_image(file))

    @cached_property
    def by_folder(self) -> dict[str, tuple[str, ...]]:
        """The files of each folder that holds any."""
        return _group((os.path.dirname(file), file) for file in self.files)

    @cached_property
    def by_suffix(self) -> dict[str, tuple[str, ...]]:
        """Files by suffix, which is in lower case: ``'.json'``, or ``''``."""
        return _group((get_suffix(file), file) for file in self.files)

    @cached_property
    def by_name(self) -> dict[str, tuple[str, ...]]:
        """Files by their names in lower case, folders left out: ``'data.yaml'``."""
        return _group((os.path.basename(file).lower(), file) for file in self.files)

    @cached_property
    def images_by_folder(self) -> dict[str, tuple[str, ...]]:
        """The images of each folder that holds any."""
        return _group((os.path.dirname(file), file) for file in self.images)

    @cached_property
    def images_by_name(self) -> dict[str, tuple[str, ...]]:
        """Images by their names as they are spelt, folders left out."""
        return _group((os.path.basename(file), file) for file in self.images)

    @cached_property
    def images_by_stem(self) -> dict[str, tuple[str, ...]]:
        """Images by their names without folder and suffix."""
        return _group((get_stem(file), file) for file in self.images)

    @cached_property
    def file_set(self) -> frozenset[str]:
        """The files, to ask whether there is one."""
        return frozenset(self.files)

    def below(self, folder: str) -> 'Tree':
        """The part of the tree that a folder of it is the root of."""
        inside = _take_below(self.folders, folder)
        return Tree(
            root=folder,
            files=_take_below(self.files, folder),
            folders=(folder, *inside),
            unreadable=_take_below(self.unreadable, folder),
        )

    def shorten_path(self, path: str) -> str:
        """A path as it stands in a message: relative to the root, with slashes."""
        return os.path.relpath(path, self.root).replace(os.sep, '/')


def get_suffix(path: str) -> str:
    """A file's suffix in lower case: ``'.jpg'`` of ``'a/b.tar.JPG'``."""
    return os.path.splitext(path)[1].lower()


def get_stem(path: str) -> str:
    """A file's name without folders and suffix."""
    return os.path.splitext(os.path.basename(path))[0]


def is_image(path: str) -> bool:
    """Whether a file is an image, by its suffix."""
    return get_suffix(path) in SUFFIXES


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, file in pairs:
        groups[key].append(file)
    return {key: tuple(files) for key, files in groups.items()}


def _take_below(paths: tuple[str, ...], folder: str) -> tuple[str, ...]:
    """Of sorted paths those inside a folder, which follow one another."""
    start = folder.rstrip(os.sep) + os.sep
    after = start[: -len(os.sep)] + chr(ord(os.sep) + 1)
    return paths[bisect_left(paths, start) : bisect_left(paths, after)]


# ---------------------------------------------------------------------------- walk


def read_tree(folder: str | os.PathLike) -> Tree:
    """Looks through a folder and all below it, once, with progress where it is long.

    Links are followed; a folder that several lead to stands in the tree once, so that
    links in a circle end. Nothing is opened.

    Raises:
        MissingFileError: There is no such folder.
        UserError: It is no folder.
        OSError: It cannot be listed.
    """
    root = os.path.abspath(folder)
    if not os.path.lexists(root):
        raise MissingFileError('there is no such folder', file=root)
    if not os.path.isdir(root):
        raise UserError('this is no folder', file=root)
    with os.scandir(root):  # what cannot be listed is an error for the root alone
        pass
    files: list[str] = []
    folders: list[str] = []
    unreadable: list[str] = []
    for path, kind in _show_progress(_walk(root), f'Looking through {root}'):
        dict(file=files, folder=folders, unreadable=unreadable)[kind].append(path)
    return Tree(
        root=root,
        files=tuple(sorted(files)),
        folders=tuple(sorted(folders)),
        unreadable=tuple(sorted(unreadable)),
    )


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """Each path, with what it is: ``'file'``, ``'folder'`` or ``'unreadable'``."""
    pending = [root]
    seen: set[tuple[int, int]] = set()
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            yield folder, 'folder'
            with os.scandir(folder) as entries:
                inside = []
                for entry in entries:
                    if entry.name.startswith('.') or entry.name.endswith(CACHES):
                        continue
                    kind = _find_kind(entry)
                    if kind == 'folder' and entry.name not in LEFT_OUT:
                        inside.append(entry.path)
                    elif kind == 'file':
                        yield entry.path, kind
        except OSError:
            yield folder, 'unreadable'
            continue
        pending += sorted(inside, reverse=True)


def _find_kind(entry: os.DirEntry[str]) -> str:
    """``'folder'``, ``'file'``, or neither: a FIFO, a link to nothing or itself."""
    try:
        return 'folder' if entry.is_dir() else 'file' if entry.is_file() else ''
    except OSError:
        return ''


def _show_progress(
    steps: Iterable[tuple[str, str]], title: str
) -> Iterator[tuple[str, str]]:
    """The same steps, with a progress bar where there are many."""
    steps = iter(steps)
    yield from islice(steps, LONG)
    for step in steps:
        columns = TextColumn('{task.description}', markup=False), MofNCompleteColumn()
        with Progress(*columns, TimeElapsedColumn()) as progress:
            yield from progress.track(
                chain([step], steps), description=title, completed=LONG
            )


# --------------------------------------------------------------------------- looks


def read_head(path: str, max_bytes: int = HEAD) -> str:
    """The beginning of a text file; ``''`` where it cannot be read or is binary.

    What is not UTF-8 becomes U+FFFD, and UTF-8's mark at the beginning is left out.
    """
    try:
        check_is_file(path)
        with open(path, 'rb') as file:
            head = file.read(max_bytes)
    except (OSError, UserError):
        return ''
    return '' if b'\0' in head else head.decode('utf-8-sig', errors='replace')
