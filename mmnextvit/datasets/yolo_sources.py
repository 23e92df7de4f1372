"""What describes a data set of YOLO's txt format, and the images that it is of.

A ``data.yaml``, Darknet's ``obj.data``, or a file of nothing but names.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..utils.errors import MissingFileError, UserError
from ..utils.messages import first_few, show
from .checks import show_classes, write_classes
from .darknet import find_list, read_darknet, read_names_file
from .data_yaml import find_images, find_sources, read_data_yaml


class Names(NamedTuple):
    """The names of classes, in the order of their numbers, and where they stand."""

    names: tuple[str, ...]
    file: str
    line: int | None = None
    key: str | None = None


class Images(NamedTuple):
    """The images of a split.

    Attributes:
        paths: Absolute ones; an image may stand here twice.
        sources: The folders and list files that they come from.
        texts: Files beside these that hold no labels.
        bases: Folders that relative paths of the list files may count from.
        notes: What else there is to tell.
    """

    paths: list[str]
    sources: list[str]
    texts: Sequence[str] = ()
    bases: Sequence[str] = ()
    notes: Sequence[str] = ()


class SourceType(NamedTuple):
    """How one type of file that describes a data set is read.

    Attributes:
        read_names: Gets the file, ``data_root`` and whether a name may repeat.
        find_images: Gets the file, the split, ``data_root`` and the ``img`` of
            ``data_prefix``.
        has_splits: Whether the file says where the images of each split lie.
    """

    read_names: Callable[[str, str | None, bool], Names]
    find_images: Callable[[str, str, str | None, str | Sequence[str] | None], Images]
    has_splits: bool = True


def match_classes(
    names: Names, classes: str | Sequence[str] | None, class_ids: Sequence[int] | None
) -> str | tuple[str, ...]:
    """The classes of a dataset, if they agree with what its files name.

    Args:
        names: What the files name.
        classes: What the config names; by default what the files do.
        class_ids: The number of each class in the files; by default all, in order.

    Raises:
        UserError: What differs, and what to write.
    """
    if class_ids is not None:
        _check_class_ids(class_ids, names)
    numbers = range(len(names.names)) if class_ids is None else class_ids
    wanted = tuple(names.names[number] for number in numbers)
    if classes is None:
        return wanted
    if isinstance(classes, str) or tuple(classes) == wanted:
        return classes if isinstance(classes, str) else wanted
    at = '' if class_ids is None else f' at class_ids={show(list(class_ids))}'
    raise UserError(
        f'they are {show_classes(wanted)}{at}, the config has '
        f'{show_classes(classes)}. Write {write_classes(wanted)}',
        file=names.file,
        line=names.line,
        key=names.key,
    )


def _check_class_ids(class_ids: Sequence[int], names: Names) -> None:
    if isinstance(class_ids, int | str) or not class_ids:
        raise UserError(
            f'class_ids={show(class_ids)}: write the numbers of the classes, as in '
            'class_ids=(0, 2)'
        )
    last = len(names.names) - 1
    wrong = [n for n in class_ids if type(n) is not int or not 0 <= n <= last]
    counts = Counter(() if wrong else class_ids)
    repeated = [n for n, count in counts.items() if count > 1]
    if wrong or repeated:
        fault = (
            f'{first_few(wrong)}: no class has it, they are 0 to {last}'
            if wrong
            else f'{first_few(repeated)} twice'
        )
        raise UserError(f'class_ids names the number {fault}', file=names.file)


# -------------------------------------------------------------------- types of files


def _read_yaml_names(path: str, data_root: str | None, may_repeat: bool) -> Names:
    content = read_data_yaml(path, may_repeat)
    return Names(content['classes'], path, content['lines']['names'], 'names')


def _find_yaml_images(
    path: str, split: str, data_root: str | None, prefix: str | Sequence[str] | None
) -> Images:
    content = read_data_yaml(path, may_repeat=True)
    sources, bases, notes = find_sources(path, split, data_root)
    if 'download' in content['lines']:
        notes = [*notes, 'download: is not run']
    return Images(
        [image for source in sources for image in find_images(source, bases)],
        sources,
        bases=_name_bases(sources, bases),
        notes=notes,
    )


def _read_darknet_names(path: str, data_root: str | None, may_repeat: bool) -> Names:
    darknet = read_darknet(path, data_root, may_repeat)
    return Names(darknet.names, darknet.names_file)


def _find_darknet_images(
    path: str, split: str, data_root: str | None, prefix: str | Sequence[str] | None
) -> Images:
    darknet = read_darknet(path, data_root, may_repeat=True)
    source = find_list(darknet, path, split)
    return Images(
        find_images(source, darknet.bases, ''),
        [source],
        [darknet.names_file],
        _name_bases([source], darknet.bases),
    )


def _read_names_alone(path: str, data_root: str | None, may_repeat: bool) -> Names:
    return Names(read_names_file(path, may_repeat), path)


def _find_images_of_prefix(
    path: str, split: str, data_root: str | None, prefix: str | Sequence[str] | None
) -> Images:
    if not prefix:
        raise UserError(
            'the file says where no images lie: set data_prefix=dict(img=...) of the '
            'dataset to their folder, a list of folders, or a file that lists them',
            file=path,
        )
    given = [prefix] if isinstance(prefix, str) else list(prefix)
    sources = [os.path.abspath(source) for source in given]
    missing = [source for source in sources if not os.path.exists(source)]
    if missing:
        raise MissingFileError(
            f'{first_few(missing)} does not exist. Set data_prefix=dict(img=...) or '
            f'data_root (now {data_root!r}) of the dataset to where the images lie',
        )
    roots = [os.path.abspath(data_root)] if data_root else []
    bases = [*roots, os.path.dirname(os.path.abspath(path))]
    paths = [image for source in sources for image in find_images(source, bases, '')]
    return Images(paths, sources, bases=_name_bases(sources, bases))


def _name_bases(sources: Sequence[str], bases: Sequence[str]) -> list[str]:
    """The folders that relative paths of the lists among ``sources`` count from."""
    lists = [os.path.dirname(source) for source in sources if os.path.isfile(source)]
    return list(dict.fromkeys((*lists, *bases))) if lists else []


YAML = SourceType(_read_yaml_names, _find_yaml_images)
NAMES = SourceType(_read_names_alone, _find_images_of_prefix, has_splits=False)
SOURCE_TYPES = {
    '.data': SourceType(_read_darknet_names, _find_darknet_images),
    '.names': NAMES,
    '.labels': NAMES,
    '.txt': NAMES,
}


def get_source_type(path: str) -> SourceType:
    """What a file is by its suffix; a ``data.yaml`` if that is no other's."""
    return SOURCE_TYPES.get(Path(path).suffix.lower(), YAML)
