"""Annotations of any origin, written as COCO's JSON."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.progress import track

from ..datasets.images import read_image_size
from ..utils.errors import UserError
from ..utils.files import atomic_write, check_new_file
from .entries import Entry
from .shapes import Shape, compute_area

LONG = 1000  # images from which on a progress bar stands there


def build_coco(
    entries: Sequence[Entry], classes: Sequence[str], root: str, layout: str
) -> tuple[dict, list[str]]:
    """A COCO detection file's content, and the images whose size is unknown.

    These are missing or broken, which the dataset says; they are as large as their
    objects reach.

    Args:
        entries: Of a split.
        classes: Names, whose ids are 1, 2, ...
        root: What the images' names are relative to.
        layout: Where the annotations came from.
    """
    ids = {name: number for number, name in enumerate(classes, start=1)}
    images: list[dict] = []
    annotations: list[dict] = []
    unmeasured = []
    steps = track(entries, 'Converting annotations', disable=len(entries) < LONG)
    for number, entry in enumerate(steps, start=1):
        size = entry.image.size or measure(entry.path)
        if size is None:
            unmeasured.append(entry.path)
            size = reach(entry.image.shapes)
        name = os.path.relpath(entry.path, root).replace(os.sep, '/')
        images.append(dict(id=number, file_name=name, width=size[0], height=size[1]))
        for shape in entry.image.shapes:
            x1, y1, x2, y2 = shape.box
            annotation = dict(
                id=len(annotations) + 1,
                image_id=number,
                category_id=ids[shape.name],
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=compute_area(shape),
                iscrowd=0,
            )
            if shape.segmentation is not None:
                annotation['segmentation'] = shape.segmentation
            annotations.append(annotation)
    # Tools for COCO's files look at `licenses` and `supercategory`, too.
    content = dict(
        info=dict(description=f'{layout}, converted by mmnextvit new'),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=[
            dict(id=ids[name], name=name, supercategory='') for name in classes
        ],
    )
    return content, unmeasured


def measure(path: str) -> tuple[int, int] | None:
    """Width and height of an image, ``None`` where it is missing or broken."""
    try:
        return read_image_size(path)
    except (OSError, UserError):
        return None


def reach(shapes: Iterable[Shape]) -> tuple[int, int]:
    """Width and height that hold shapes, at least 1."""
    boxes = [s.box for s in shapes if all(abs(side) < 2**30 for side in s.box)]
    corners = [box[2:] for box in boxes]
    width, height = (max(sides) for sides in zip((1, 1), *corners))
    return int(width + 1), int(height + 1)


def write_coco(contents: Mapping[Path, dict]) -> None:
    """Writes files of one folder, all or none, where nothing stands yet.

    Raises:
        UserError: One of them exists.
        OSError: They cannot be written.
    """
    first, *_ = [check_new_file(path) for path in contents]
    with atomic_write(first, overwrite=False) as scratch:
        for path, content in contents.items():
            with open(scratch.with_name(path.name), 'w', encoding='utf-8') as file:
                json.dump(content, file)
