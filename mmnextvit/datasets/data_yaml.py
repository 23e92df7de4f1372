"""YOLO's ``data.yaml``: class names, and where the images of each split lie."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypedDict

from ..utils.errors import MissingFileError, UserError, naming_file
from ..utils.files import check_is_file
from ..utils.messages import list_lines, shorten, show
from ..utils.yaml_reader import YAMLFile, read_yaml
from .files import find_files_below
from .places import choose_way, follow, list_ends, list_places
from .values import WHOLE, read_lines

SPLITS = ('train', 'val', 'test')
SUFFIXES = ('.bmp', '.dng', '.jp2', '.jpeg', '.jpg', '.mpo', '.pbm', '.pgm', '.png',
            '.ppm', '.tif', '.tiff', '.webp')  # fmt: skip


class DataYAML(TypedDict):
    """What a ``data.yaml`` says.

    Attributes:
        classes: The names.
        splits: What stands at ``train``, ``val`` and ``test``, without those that are
            absent.
        path: What stands at ``path``, or an empty text.
        lines: Line number of each key.
    """

    classes: tuple[str, ...]
    splits: dict[str, list[str]]
    path: str
    lines: dict[str, int]


def read_data_yaml(path: str | Path, may_repeat: bool = False) -> DataYAML:
    """Reads a ``data.yaml``. Nothing is downloaded or run, no image is looked for.

    Args:
        path: The file.
        may_repeat: Whether two classes may have one name.

    Raises:
        MissingFileError: There is no such file.
        UserError: It is unusable; the error has file, line and key.
    """
    file = read_yaml(path)
    if 'kpt_shape' in file.content:
        raise file.error('key points are not read', 'kpt_shape')
    root = file.content.get('path') or ''
    if not isinstance(root, str):
        raise file.error(f'{show(root)} is no folder', 'path')
    splits = {}
    for key in SPLITS:
        value = file.content.get(key) or []  # `test:` without a value is usual
        sources = [value] if isinstance(value, str) else value
        if not isinstance(sources, list) or not all(
            isinstance(source, str) and source for source in sources
        ):
            raise file.error(
                f'{show(value)} is neither a folder nor a .txt list, nor a list of '
                'these',
                key,
            )
        if sources:
            splits[key] = sources
    if not splits:
        raise file.error(f'the file has none of the keys {", ".join(SPLITS)}')
    lines = {keys[0]: line for keys, line in file.lines.items() if len(keys) == 1}
    names = _read_class_names(file, may_repeat)
    return DataYAML(classes=names, splits=splits, path=root, lines=lines)


def _read_class_names(file: YAMLFile, may_repeat: bool) -> tuple[str, ...]:
    names = file.content.get('names')
    if not isinstance(names, (list, dict)) or not names:
        raise file.error(
            f"{show(names)} is no list of class names, as in `names: ['cat', 'dog']`",
            'names',
        )
    keyed = isinstance(names, dict)
    names = dict(
        ((_read_key(key), name) for key, name in names.items())
        if isinstance(names, dict)
        else enumerate(names)
    )
    wrong = [key for key in names if type(key) is not int]
    missing = sorted(set(range(len(names))) - set(names))
    if wrong or missing:
        fault = (
            f'{show(wrong[0])} is no integer' if wrong else f'{missing[0]} is missing'
        )
        raise file.error(f'the keys must be 0 to {len(names) - 1}: {fault}', 'names')
    for key, name in names.items():
        if type(name) not in (str, int) or name == '':  # YAML takes `no` for False
            raise file.error(
                f'class {key} of names is {show(name)}: write it in quotes',
                *('names', str(key) if keyed else key),
            )
    names = tuple(str(names[key]) for key in sorted(names))
    name, times = Counter(names).most_common(1)[0]
    if times > 1 and not may_repeat:
        raise file.error(f'{show(name)} stands here {times} times', 'names')
    number = _read_key(file.content.get('nc', len(names)))
    if type(number) is not int or number != len(names):
        raise file.error(
            f'it is {show(number)}, but names (line {file.find_line("names")}) has '
            f'{len(names)}: write nc: {len(names)}',
            'nc',
        )
    return names


def _read_key(key: object) -> object:
    """A whole number, which may stand in quotes; anything else as it is."""
    return int(key) if isinstance(key, str) and WHOLE.fullmatch(key) else key


class Sources(NamedTuple):
    """Where the images of a split lie.

    Attributes:
        paths: Folders and list files.
        bases: Folders that relative paths may count from.
        notes: Which places were taken, where it is not what the file says at first.
    """

    paths: list[str]
    bases: list[str]
    notes: list[str]


def find_sources(path: str | Path, split: str, data_root: str | None = None) -> Sources:
    """The folders and list files of a split of a ``data.yaml``.

    A source is looked for from the folders of `list_bases`, in each of the ways to read
    it that `list_places` knows. The first that exists is taken.

    Raises:
        MissingFileError: All places where it has been looked for.
        UserError: There is no such split.
    """
    content = read_data_yaml(path, may_repeat=True)  # names are another function's
    if split not in content['splits']:
        raise UserError(
            f'the file has no {split!r}: set split of the dataset to one of '
            f'{", ".join(content["splits"])}, or write {split}: into the file',
            file=path,
        )
    bases = list_bases(path, content['path'], data_root)
    paths, notes = [], []
    for source in content['splits'][split]:
        places = list_places(source, bases)
        place = next(filter(os.path.exists, places), None)
        if place is None:
            download = (
                ' (download: is not run: fetch the data yourself)'
                if 'download' in content['lines']
                else ''
            )
            raise MissingFileError(
                f'{shorten(source)} does not exist, looked for\n  '
                f'{list_lines(places, len(places))}\n'
                f'Set path: in the file or data_root (now {data_root!r}) of the dataset'
                f'{download}',
                file=path,
                line=content['lines'][split],
                key=split,
            )
        if place != places[0]:
            notes.append(f'{split}: {shorten(source)} is {place}')
        paths.append(place)
    return Sources(paths, bases, notes)


def list_bases(path: str | Path, root: str, data_root: str | None) -> list[str]:
    """The folders that a ``data.yaml``'s relative paths may count from, in order.

    They are ``path`` of the file below each of: the file's folder, ``data_root``, the
    folder that the file's lies in, the working folder; then ``path`` below the folder
    ``datasets`` beside each of them, where YOLOv5's own files draw the data; then these
    folders themselves. Of a ``path`` that is absolute, and may be another machine's,
    the ends are tried in place of that.

    Args:
        path: The ``data.yaml``.
        root: What stands in it at ``path``.
        data_root: The dataset's.
    """
    root = os.path.expanduser(root)
    here = os.path.dirname(os.path.abspath(path))
    there = os.path.abspath(data_root) if data_root else here
    folders = here, there, os.path.dirname(here), os.getcwd()
    beside = [os.path.join('..', 'datasets', root)] if root else []
    ways = (root, *(list_ends(root) or beside), '')
    return list(
        dict.fromkeys(
            os.path.abspath(os.path.join(folder, name))
            for name in ways
            for folder in folders
        )
    )


def find_images(
    source: str, bases: Iterable[str] = (), suffix: str = '.txt'
) -> list[str]:
    """The images in a folder and all below it, or those that a list file names.

    Relative entries of a list count from its folder, one of ``bases`` or the working
    folder, in one of the ways to read them that `list_places` knows: the first entry
    that lies anywhere decides for all, and of those that start with ``./`` the first
    of these.

    Args:
        source: The folder, or the list file.
        bases: Folders that the list's relative entries may count from.
        suffix: That a list file must have.

    Raises:
        UserError: There is none, or ``source`` is another type of file.
    """
    if os.path.isdir(source):
        return _find_images_below(source)
    if source.endswith(suffix):
        return _read_image_list(source, bases)
    raise UserError(
        f'this is neither a folder nor a {suffix} list of images', file=source
    )


def _find_images_below(folder: str) -> list[str]:
    images = find_files_below(folder, SUFFIXES)
    if not images:
        raise UserError(
            f'the folder holds no image ({", ".join(SUFFIXES)})', file=folder
        )
    return images


def _read_image_list(file: str, bases: Iterable[str]) -> list[str]:
    check_is_file(file)
    with naming_file(file):
        lines = read_lines(Path(file).read_bytes())
    if not lines:
        raise UserError('the file lists no images', file=file)
    places = list(dict.fromkeys((os.path.dirname(file), *bases, os.getcwd())))
    relative = [name for name in lines if not os.path.isabs(name)]
    ways = {
        kind: choose_way([n for n in relative if _tell_kind(n) == kind], places)
        for kind in {(False, False), *map(_tell_kind, relative)}
    }
    return [follow(n, *ways.get(_tell_kind(n), ways[False, False])) for n in lines]


def _tell_kind(name: str) -> tuple[bool, bool]:
    """Whether a path of a list counts from the list, and whether Windows wrote it."""
    return name.startswith('./'), '\\' in name
