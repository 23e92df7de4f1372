"""Label files of YOLO's txt format that have no image, and what lies in its place."""

import os
from collections.abc import Collection, Mapping
from typing import NamedTuple

from ..utils.errors import UserError
from ..utils.messages import first_few
from .files import read_bytes
from .yolo_labels import NAMES_FILE, parse_labels


class Imageless(NamedTuple):
    """What `find_imageless` found.

    Attributes:
        files: Label files with boxes, whose image is not there.
        folders: Where their images were looked for.
        others: Files of these images' names that are of a type that is not read.
    """

    files: list[str]
    folders: list[str]
    others: list[str]


def find_imageless(
    label_files: Mapping[str, str], texts: Collection[str], num_classes: int
) -> Imageless:
    """Looks for label files without an image, in the folders of those that have one.

    Args:
        label_files: All images of a data set, and where the labels of each lie.
        texts: Files that hold no labels.
        num_classes: Number of classes, which the labels lie below.
    """
    pairs = {
        (os.path.dirname(labels), os.path.dirname(image))
        for image, labels in label_files.items()
        if labels
    }
    known = {*label_files.values(), *texts}
    found, folders, others = [], [], []
    for label_folder, image_folder in sorted(pairs):
        files = [
            path
            for path in _list_files(label_folder)
            if path.endswith('.txt')
            and os.path.basename(path) != NAMES_FILE
            and path not in known
            and _has_boxes(path, num_classes)
        ]
        if not files:
            continue
        stems = {os.path.basename(path).removesuffix('.txt') for path in files}
        found += files
        folders.append(image_folder)
        others += [
            path
            for path in _list_files(image_folder)
            if os.path.splitext(os.path.basename(path))[0] in stems
            and path not in files
        ]
    return Imageless(found, folders, others)


def describe_imageless(imageless: Imageless, title: str) -> str:
    """What is told of label files without an image; empty if there are none."""
    files, folders, others = imageless
    if not files:
        return ''
    have = 'label file has' if len(files) == 1 else 'label files have'
    message = (
        f'{title}: {len(files)} {have} no image in {first_few(folders, 2)}, and their '
        f'boxes are not used: {first_few(map(os.path.basename, files))}'
    )
    if not others:
        return message
    names = first_few(map(os.path.basename, others))
    return f'{message}. Convert to JPEG or PNG what is of another type: {names}'


def _list_files(folder: str) -> list[str]:
    """The files in a folder, sorted; none if it is not there. Hidden ones are not."""
    try:
        with os.scandir(folder) as entries:
            names = [e.path for e in entries if e.name[0] != '.' and e.is_file()]
    except OSError:
        return []
    return sorted(names)


def _has_boxes(path: str, num_classes: int) -> bool:
    try:
        return bool(parse_labels(read_bytes(path), num_classes)['rows'])
    except (OSError, UserError):
        return False
