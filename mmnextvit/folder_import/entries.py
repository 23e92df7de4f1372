"""The images of annotation files: where they lie, their splits, each of them once."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..datasets.checks import describe_counts
from ..datasets.data_yaml import SPLITS
from ..utils.errors import UserError, naming_file
from ..utils.messages import first_few
from .image_finder import ImageFinder
from .locate import find_split, read_split
from .shapes import AnnotatedImage, Annotations
from .tree import get_stem


class Entry(NamedTuple):
    """An image with the annotations of one file.

    Attributes:
        path: Of the image, whether it is there or not.
        image: What the file says of it.
        split: What the file or its folders say, or ``None``.
        file: The file.
    """

    path: str
    image: AnnotatedImage
    split: str | None
    file: str


def list_entries(
    finder: ImageFinder, file: str, annotations: Annotations, is_of_image: bool
) -> list[Entry]:
    """The images of a file, with the paths and the splits that they have.

    Args:
        finder: Finds the images.
        file: The file.
        annotations: What it says.
        is_of_image: Whether there is a file for each image, whose name names no split.

    Raises:
        UserError: It is not clear which image is meant; the error names the file.
    """
    root, here = finder.tree.root, os.path.dirname(file)
    of_file = find_split(root, here if is_of_image else file)
    stem = get_stem(file) if is_of_image else ''
    entries = []
    with naming_file(file):
        for image in annotations.images:
            places = [
                os.path.join(here, folder, part)
                for folder in annotations.folders
                for part in ('', *image.hints[:1])
            ]
            path = finder.find(image.name, [here, *places], stem)
            inside = path.startswith(os.path.join(root, ''))
            of_image = find_split(root, os.path.dirname(path)) if inside else None
            hints = filter(None, map(read_split, image.hints))
            split = next(hints, None) or of_file or of_image
            entries.append(Entry(path, image, split, file))
    return entries


def drop_repeated(entries: Iterable[Entry]) -> tuple[dict[str, list[Entry]], int]:
    """The images by split, each once in it, and how often one was met again.

    Two files may list one image, as a project and what was exported of it; an empty
    list of objects gives way. What names no split is for training, if no split has it;
    so is the only split, whatever it is called.

    Raises:
        UserError: Two files say different things of an image, or nothing is for
            training.
    """
    kept: dict[str, dict[str | None, Entry]] = defaultdict(dict)
    repeated = 0
    for entry in sorted(entries, key=lambda entry: entry.split is None):
        there = kept[entry.path]
        split = entry.split
        if split is None and there:
            split = next(iter(there))
        before = there.get(split)
        if before is None:
            there[split] = entry
            continue
        repeated += 1
        if not before.image.shapes:
            there[split] = entry._replace(split=split)
        elif entry.image.shapes and _differ(before, entry):
            where = 'further up' if before.file == entry.file else f'in {before.file}'
            raise UserError(
                f'{entry.path} has other objects {where}: keep one of the two',
                file=entry.file,
            )
    by_split: dict[str | None, list[Entry]] = defaultdict(list)
    for there in kept.values():
        for split, entry in there.items():
            by_split[split].append(entry)
    if len(by_split) == 1:
        return {'train': next(iter(by_split.values()))}, repeated
    train = by_split.pop('train', []) + by_split.pop(None, [])
    if not train:
        raise UserError(
            'there is nothing to train on, only '
            + first_few(split for split in SPLITS if split in by_split)
            + ': call the part to train on train'
        )
    named = {split: found for split, found in by_split.items() if split is not None}
    return {'train': train, **named}, repeated


def _differ(one: Entry, other: Entry) -> bool:
    return Counter(map(repr, one.image.shapes)) != Counter(
        map(repr, other.image.shapes)
    )


def list_classes(annotations: Iterable[Annotations]) -> tuple[str, ...]:
    """The names of all classes: those that are declared, then the others by name."""
    annotations = list(annotations)
    declared = dict.fromkeys(name for found in annotations for name in found.classes)
    used = {s.name for found in annotations for i in found.images for s in i.shapes}
    return *declared, *sorted(used - declared.keys())


def describe_entries(
    entries: Sequence[Entry], repeated: int, unmeasured: Sequence[str]
) -> list[str]:
    """What is to be told of what was read.

    Args:
        entries: All images of all files.
        repeated: How many of them were met again.
        unmeasured: Paths of images whose size is unknown.
    """
    skipped = Counter(kind for entry in entries for kind in entry.image.skipped)
    embedded = [
        e.path for e in entries if e.image.embedded and not os.path.exists(e.path)
    ]
    notes = []
    if skipped:
        notes.append(f'left out, since they are no boxes: {describe_counts(skipped)}')
    if repeated:
        notes.append(f'{repeated} images are listed twice with the same objects')
    notes += describe_paths(
        embedded, 'images are missing, but stand in their JSON as imageData: '
        'write them out, with labelme_export_json or in LabelMe'
    )  # fmt: skip
    notes += describe_paths(
        unmeasured, 'images are missing or broken, and the annotations say no '
        'sizes: convert again once they are there'
    )  # fmt: skip
    return notes


def describe_paths(paths: Sequence[str], what: str) -> list[str]:
    return [f'{len(paths)} {what}: {first_few(paths)}'] if paths else []
