"""The images that labels are written for: their files, names and objects."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

MIN_SIDE = 1  # pixels: COCO's readers, and so ours, take a smaller box for a slip

NO_STEMS = ('classes',)  # whose label file would be that of the classes' names
MAX_STEM = 200  # bytes; a file's name has 255 at most

Polygon = list[float]  # x1, y1, x2, y2, ...


class LabelledObject(NamedTuple):
    """An object of an image.

    Attributes:
        label: The number of its class, from 0.
        score: The model's.
        box: ``x1, y1, x2, y2`` in pixels, inside the image.
        polygons: Outlines of its parts, of a model with masks; else none.
    """

    label: int
    score: float
    box: tuple[float, float, float, float]
    polygons: tuple[Polygon, ...] = ()


class LabelledImage(NamedTuple):
    """An image with what a model finds in it.

    Attributes:
        path: The file.
        name: Of its file among the labels: ``'a__x.jpg'``.
        width: In pixels, of the image as EXIF turns it.
        height: Likewise.
        objects: By falling score.
    """

    path: str
    name: str
    width: int
    height: int
    objects: tuple[LabelledObject, ...]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return os.path.splitext(self.name)[0]


def is_of_image(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of ``predictions.json`` is of an image, not of a frame."""
    return 'frame' not in entry


@dataclass(frozen=True)
class LabelledImages:
    """The images among the entries of ``predictions.json``, made anew each time.

    Frames of videos have no file that labels could belong to, and are left out.

    Attributes:
        entries: With ``width`` and ``height``, and objects that may have ``polygons``.
        classes: Names of the classes, by number.
    """

    entries: Sequence[Mapping[str, Any]]
    classes: Sequence[str]

    @cached_property
    def names(self) -> list[str]:
        """Their files' names among the labels."""
        return name_images([e['file'] for e in self.entries if is_of_image(e)])

    def __iter__(self) -> Iterator[LabelledImage]:
        names = self.names  # which reads the entries, too
        for entry, name in zip(filter(is_of_image, self.entries), names):
            yield LabelledImage(
                path=entry['file'],
                name=name,
                width=entry['width'],
                height=entry['height'],
                objects=tuple(_list_objects(entry, self.classes)),
            )


def _list_objects(
    entry: Mapping[str, Any], classes: Sequence[str]
) -> Iterable[LabelledObject]:
    """Boxes inside the image that readers take: each once, and none of no size."""
    width, height = entry['width'], entry['height']
    seen = set()
    for found in entry['objects']:
        x1, y1, x2, y2 = found['box']
        x1, x2 = max(x1, 0), min(x2, width)
        y1, y2 = max(y1, 0), min(y2, height)
        place = found['class'], x1, y1, x2, y2
        if min(x2 - x1, y2 - y1) <= MIN_SIDE or place in seen:
            continue
        seen.add(place)
        polygons: Sequence[Polygon] = found.get('polygons', ())
        if 'polygons' in found and not polygons:  # no pixel of its mask is set
            polygons = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        label = classes.index(found['class'])
        yield LabelledObject(label, found['score'], (x1, y1, x2, y2), tuple(polygons))


def name_images(paths: Sequence[str]) -> list[str]:
    """A file name for each image, all for one folder: ``a__x.jpg`` of ``a/x.jpg``.

    Many tools look into no folder below that of the images. No two names are equal up
    to their suffix, also where a system knows no upper case, since label files are
    named after images; and none is one that label files of class names have.

    Args:
        paths: Of the images. The folder that holds them all is left out.
    """
    if not paths:
        return []
    root = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])
    plain = [_join_folders(Path(os.path.relpath(path, root))) for path in paths]
    wanted = {stem.casefold() for stem, _ in plain}
    taken = {*NO_STEMS}
    names = []
    for stem, suffix in plain:
        if stem.casefold() in taken:
            stem = _choose_stem(f'{stem}_{suffix[1:].lower()}', taken | wanted)
        taken.add(stem.casefold())
        names.append(stem + suffix)
    return names


def _join_folders(path: Path) -> tuple[str, str]:
    """A stem and a suffix that all systems, XML and UTF-8 can hold."""
    parts = '__'.join([*path.parent.parts, path.stem])
    stem = ''.join(char if char.isprintable() else '_' for char in parts)
    while len(stem.encode()) > MAX_STEM:
        stem = stem[1:]
    return stem, path.suffix


def _choose_stem(first: str, taken: Collection[str]) -> str:
    """The first free one of ``x_png``, ``x_png_2``, ``x_png_3``, ..."""
    stem, number = first, 1
    while stem.casefold() in taken:
        number += 1
        stem = f'{first}_{number}'
    return stem
