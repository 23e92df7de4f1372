"""Darknet's ``obj.data``, and files that hold nothing but the names of classes.

Written from the documented format of Darknet; CVAT's "YOLO 1.1" and Roboflow's "YOLO
Darknet" are of it.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..utils.errors import MissingFileError, UserError, naming_file
from ..utils.messages import first_few, shorten, show
from .data_yaml import SUFFIXES
from .files import read_bytes
from .places import find_place, list_places
from .values import OTHER_FORMAT, WHOLE, decode_text

SPLITS = {'train': 'train', 'valid': 'val', 'val': 'val', 'test': 'test'}


class Option(NamedTuple):
    """A line ``key = value``.

    Attributes:
        key: What stands before ``=``.
        value: What stands behind it.
        line: Its number.
    """

    key: str
    value: str
    line: int


class Darknet(NamedTuple):
    """What an ``obj.data`` says.

    Attributes:
        names: Of the classes, in the order of their numbers.
        names_file: Where they stand.
        splits: The list of images of ``'train'``, ``'val'`` and ``'test'``, without
            those that are absent. None is looked for.
        bases: The folders that relative paths may count from.
    """

    names: tuple[str, ...]
    names_file: str
    splits: Mapping[str, Option]
    bases: Sequence[str]


def read_names_file(path: str | Path, may_repeat: bool = False) -> tuple[str, ...]:
    """The names of classes, one a line; empty lines at the end do not count.

    Args:
        path: ``obj.names``, ``classes.txt``, ``_darknet.labels``.
        may_repeat: Whether two classes may have one name.

    Raises:
        UserError: It is no such file.
        OSError: It cannot be read.
    """
    with naming_file(path):
        lines = [line.strip() for line in decode_text(read_bytes(path)).split('\n')]
        while lines and not lines[-1]:
            lines.pop()
        if not lines:
            raise UserError('the file names no class: write one on each line')
        other = _find_other_meaning(lines)
        if other:
            raise UserError(
                f'names of classes are wanted, one on each line; the file {other}, as '
                f'{show(lines[0])}'
            )
        if '' in lines:
            number = lines.index('') + 1
            raise UserError(
                f'the line is empty, so that class {number - 1} has no name: write '
                'one, or delete the line if it counts for no class',
                line=number,
            )
        name, times = Counter(lines).most_common(1)[0]
        if times > 1 and not may_repeat:
            raise UserError(
                f'{show(name)} stands here {times} times',
                line=len(lines) - lines[::-1].index(name),
            )
    return tuple(lines)


def _find_other_meaning(lines: Sequence[str]) -> str | None:
    """What a file is that lists no names, if it shows."""
    if OTHER_FORMAT.match(lines[0]):
        return 'is JSON or XML'
    if all(line.lower().endswith(SUFFIXES) for line in lines):
        return 'lists images'
    if all(_is_label_line(line) for line in lines if line):
        return "holds an image's labels"
    return None


def _is_label_line(line: str) -> bool:
    try:
        return len([float(column) for column in line.split()]) >= 5
    except ValueError:
        return False


def read_darknet(
    path: str | Path, data_root: str | None = None, may_repeat: bool = False
) -> Darknet:
    """Reads an ``obj.data`` and the names that it points to; no list of images.

    A relative path is tried as it is written from the file's folder, from the folder
    that it lies in and from ``data_root``; then without its leading ``data/`` (or
    ``../``) from the same.

    Args:
        path: The file.
        data_root: The dataset's.
        may_repeat: Whether two classes may have one name.

    Raises:
        MissingFileError: There are no names where it says.
        UserError: It is no such file; the error has its line and key.
    """
    options = _read_options(path)
    here = os.path.dirname(os.path.abspath(path))
    roots = [os.path.abspath(data_root)] if data_root else []
    bases = list(dict.fromkeys((here, os.path.dirname(here), *roots)))
    splits = {SPLITS[key]: options[key] for key in SPLITS if key in options}
    if not splits:
        raise UserError(f'the file has none of the keys {", ".join(SPLITS)}', file=path)
    if 'names' not in options:
        raise UserError(
            'the file has no names: write `names = obj.names`, a file with the name of '
            'a class on each line',
            file=path,
        )
    names_file = find_option(options['names'], path, bases)
    names = read_names_file(names_file, may_repeat)
    if 'classes' in options:
        _, value, line = options['classes']
        if not WHOLE.fullmatch(value) or int(value) != len(names):
            raise UserError(
                f'it is {show(value)}, but {names_file} has {len(names)} names: write '
                f'classes = {len(names)}',
                file=path,
                line=line,
                key='classes',
            )
    return Darknet(names, names_file, splits, bases)


def _read_options(path: str | Path) -> dict[str, Option]:
    options: dict[str, Option] = {}
    with naming_file(path):
        lines = decode_text(read_bytes(path)).split('\n')
        for number, line in enumerate(map(str.strip, lines), start=1):
            if not line or line.startswith(('#', ';')):
                continue
            key, sign, value = map(str.strip, line.partition('='))
            if not (key and sign):
                raise UserError(
                    f'{show(line)} is no line of Darknet: write `key = value`',
                    line=number,
                )
            if key in options:
                raise UserError(
                    f'{shorten(key)} stands here a second time', line=number
                )
            if value:  # `valid =` without one is usual
                options[key] = Option(key, value, number)
    return options


def find_option(option: Option, path: str | Path, bases: Sequence[str]) -> str:
    """The file or folder that an option names.

    Args:
        option: The option.
        path: The ``obj.data``.
        bases: Folders that it may count from.

    Raises:
        MissingFileError: It lies nowhere; the message has all places.
    """
    place = find_place(option.value, bases)
    if place is None:
        raise MissingFileError(
            f'{shorten(option.value)} does not exist, looked for '
            f'{first_few(list_places(option.value, bases), 16)}. Correct the path, or '
            'set data_root of the dataset',
            file=path,
            line=option.line,
            key=option.key,
        )
    return place


def find_list(darknet: Darknet, path: str | Path, split: str) -> str:
    """The list of a split's images, or a folder of them.

    Raises:
        MissingFileError: It lies nowhere.
        UserError: There is no such split.
    """
    if split not in darknet.splits:
        key = next(key for key in SPLITS if SPLITS[key] == split)
        raise UserError(
            f'the file has no {split!r}: set split of the dataset to one of '
            f'{", ".join(darknet.splits)}, or write a line such as `{key} = {key}.txt` '
            'into the file',
            file=path,
        )
    return find_option(darknet.splits[split], path, darknet.bases)
