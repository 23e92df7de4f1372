"""Annotations that none of our datasets reads, written anew as COCO's JSON.

CVAT's XML, VIA's JSON and LabelMe's JSON. The files lie beside the config; the images
stay where they are.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from ..datasets.data_yaml import SPLITS
from ..datasets.files import read_bytes
from ..utils.errors import UserError, naming_file
from .coco_files import build_coco, write_coco
from .cvat_xml import parse_cvat
from .entries import (
    describe_entries,
    describe_paths,
    drop_repeated,
    list_classes,
    list_entries,
)
from .image_finder import ImageFinder
from .labelme_json import parse_labelme
from .reading import Reading
from .shapes import Annotations
from .tree import Tree, get_stem, read_head
from .via_json import parse_via

LONG = 1000  # files from which on a progress bar stands there
FIRST = 20  # files of a folder that are looked into before the rest of it

CVAT = re.compile(r'\s*(<[?!][^<]*)*<annotations[\s>]')
VIA = re.compile(
    r'\s*\{.*"(_via_img_metadata|_via_settings|shape_attributes|file_attributes)"\s*:',
    re.S,
)
LABELME = re.compile(r'\s*\{.*("(imagePath|imageData)"\s*:|"shapes"\s*:\s*\[)', re.S)

Parser = Callable[[Iterable[tuple[str, bytes]]], Mapping[str, Annotations | None]]


class Conversion(NamedTuple):
    """A format that is converted.

    Attributes:
        layout: What its users call it.
        recognise: Gives the files of the format in a folder, none where it is another.
        convert: Writes these files as COCO's JSON, ``out_stem`` and ``_train.json`` and
            so on, and gives the datasets that read it.
    """

    layout: str
    recognise: Callable[[Tree], tuple[str, ...]]
    convert: Callable[[Tree, Sequence[str], Path], Reading]


# ---------------------------------------------------------------------- recognition


def find_by_head(
    tree: Tree, suffix: str, pattern: re.Pattern[str], whole_folders: bool = False
) -> tuple[str, ...]:
    """Files that begin as a pattern says.

    Where none of the first files of a folder does, the others are not looked into: a
    folder may hold one for each of a hundred thousand images. Files that are not
    called as an image come first.

    Args:
        tree: The folder.
        suffix: Of the files.
        pattern: What their beginning matches.
        whole_folders: Whether a file that matches stands for all in its folder, those
            that are broken included.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in tree.by_suffix.get(suffix, ()):
        by_folder[os.path.dirname(path)].append(path)
    images = set(map(get_stem, tree.images))
    found: list[str] = []
    for paths in by_folder.values():
        paths.sort(key=lambda path: get_stem(path) in images)
        first = [path for path in paths[:FIRST] if pattern.match(read_head(path))]
        if first and whole_folders:
            found += paths
        elif first:
            rest = paths[FIRST:]
            found += first + [path for path in rest if pattern.match(read_head(path))]
    return tuple(sorted(found))


def find_cvat(tree: Tree) -> tuple[str, ...]:
    """CVAT's XML files."""
    return find_by_head(tree, '.xml', CVAT)


def find_via(tree: Tree) -> tuple[str, ...]:
    """VIA's JSON files, of versions 1 and 2."""
    return find_by_head(tree, '.json', VIA)


def find_labelme(tree: Tree) -> tuple[str, ...]:
    """LabelMe's JSON files, and what JSON lies beside them."""
    return find_by_head(tree, '.json', LABELME, whole_folders=True)


# -------------------------------------------------------------------------- reading


def read_files(files: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Each file and its content, with progress where there are many.

    Raises:
        UserError: One is no plain file.
        OSError: One cannot be read.
    """
    steps = track(files, 'Reading annotations', disable=len(files) < LONG)
    for file in steps:
        yield file, read_bytes(file)


def parse_each(
    parse: Callable[[bytes], Annotations | None],
    contents: Iterable[tuple[str, bytes]],
) -> dict[str, Annotations | None]:
    """What each file says, parsed by itself.

    Raises:
        UserError: One is broken; the error names it.
    """
    parsed = {}
    for file, content in contents:
        with naming_file(file):
            parsed[file] = parse(content)
    return parsed


# ----------------------------------------------------------------------- conversions


def convert(
    layout: str,
    parse: Parser,
    is_of_image: bool,
    tree: Tree,
    files: Sequence[str],
    out_stem: Path,
) -> Reading:
    """Writes annotation files as COCO's JSON, one a split.

    Args:
        layout: Its name.
        parse: Reads the files; ``None`` of one that is of another format.
        is_of_image: Whether there is a file for each image.
        tree: The folder.
        files: Of the format.
        out_stem: What the paths of the new files begin with: ``my`` of
            ``my_train.json``.

    Raises:
        UserError: A file is broken, or one that is to be written exists.
        OSError: One cannot be read or written.
    """
    parsed = parse(read_files(files))
    known = {file: found for file, found in parsed.items() if found is not None}
    finder = ImageFinder(tree)
    entries = [
        entry
        for file, annotations in known.items()
        for entry in list_entries(finder, file, annotations, is_of_image)
    ]
    if not entries:
        raise UserError('the file lists no images', file=files[0])
    splits, repeated = drop_repeated(entries)
    classes = list_classes(known.values())
    out = Path(os.path.abspath(out_stem))
    paths = {split: out.with_name(f'{out.name}_{split}.json') for split in SPLITS}
    built = {
        split: build_coco(splits[split], classes, tree.root, layout)
        for split in SPLITS
        if split in splits
    }
    write_coco({paths[split]: content for split, (content, _) in built.items()})
    unmeasured = [path for _, missing in built.values() for path in missing]
    others = [file for file in files if file not in known]
    return Reading(
        layout=layout,
        classes=classes,
        datasets={
            split: dict(
                type='VerifiedCocoDataset',
                data_root=tree.root,
                ann_file=str(paths[split]),
                data_prefix=dict(img=tree.root),
            )
            for split in built
        },
        class_ids=tuple(range(1, len(classes) + 1)),
        notes=(
            'the annotations are written as COCO: '
            + ', '.join(paths[split].name for split in built),
            *(note for found in known.values() for note in found.notes),
            *describe_entries(entries, repeated, unmeasured),
            *describe_paths(others, 'JSON files beside them are none of LabelMe'),
        ),
    )


def _build_conversion(
    layout: str,
    recognise: Callable[[Tree], tuple[str, ...]],
    parse: Parser,
    is_of_image: bool = False,
) -> Conversion:
    return Conversion(layout, recognise, partial(convert, layout, parse, is_of_image))


CONVERSIONS = (
    _build_conversion('CVAT XML', find_cvat, partial(parse_each, parse_cvat)),
    _build_conversion('VIA JSON', find_via, parse_via),
    _build_conversion(
        'LabelMe JSON', find_labelme, partial(parse_each, parse_labelme), True
    ),
)
