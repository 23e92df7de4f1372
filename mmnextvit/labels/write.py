"""Folders of labels and their images, written whole."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..utils.files import atomic_write
from .formats import FORMATS, Layout
from .images import LabelledImage, LabelledImages, is_of_image


def write_labels(
    folder: Path,
    entries: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    formats: Sequence[str],
) -> None:
    """Writes predictions as labels: all of them, or nothing.

    Each format gets a folder of its name, with its label files and the images, so that
    a tool or ``mmnextvit new`` opens it as it is. The images are hard links where the
    disk has them, which take no space, and copies elsewhere.

    Args:
        folder: Where the folders go; it is made.
        entries: Of ``predictions.json``, those of frames of videos left out.
        classes: Names of the classes, by number.
        formats: Keys of `FORMATS`.

    Raises:
        OSError: An image has gone, or something cannot be written.
    """
    if not any(map(is_of_image, entries)):
        return
    images = LabelledImages(entries, classes)
    with atomic_write(folder) as scratch:
        for name in dict.fromkeys(formats):
            write_layout(scratch / name, images, FORMATS[name](images, classes))


def write_layout(folder: Path, images: Iterable[LabelledImage], layout: Layout) -> None:
    """Writes the files of a format, and puts the images to them."""
    for name, parts in layout.texts:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('w', encoding='utf-8') as file:
            file.writelines(parts)
    for image in images:
        _put_image(image.path, folder / layout.image_folder / image.name)


def _put_image(path: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    source = os.path.realpath(path)
    try:
        os.link(source, place)
    except OSError:  # of another disk, or of another user, or no disk has links
        shutil.copyfile(source, place)
