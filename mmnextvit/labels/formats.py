"""What the files of each format hold, as label tools and our own datasets read them."""

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import yaml

from .choices import NAMES
from .images import LabelledImage, LabelledObject
from .outlines import compute_area, join_polygons

DIGITS = 6  # of YOLO's fractions
LABELME_VERSION = '5.5.0'  # whose files these are like


class Layout(NamedTuple):
    """The files of a format.

    Attributes:
        image_folder: Where it has the images; empty for the folder itself.
        texts: The path, with slashes, and the content, in parts, of each other file.
            They are made as they are written, so that many take no more memory.
    """

    image_folder: str
    texts: Iterable[tuple[str, Iterable[str]]]


def format_coco(images: Iterable[LabelledImage], classes: Sequence[str]) -> Layout:
    """COCO's JSON, under the name that CVAT gives it and wants."""
    categories = [
        dict(id=number, name=name, supercategory='')
        for number, name in enumerate(classes, start=1)
    ]
    about = dict(
        info=dict(description='predictions of mmnextvit'),
        licenses=[],
        categories=categories,
    )
    infos = (
        dict(id=number, file_name=i.name, width=i.width, height=i.height)
        for number, i in enumerate(images, start=1)
    )
    parts = chain(
        [f'{json.dumps(about)[:-1]}, "images": ['],
        _join_json(infos),
        ['], "annotations": ['],
        _join_json(_list_annotations(images)),
        [']}'],
    )
    return Layout('images', [('annotations/instances_default.json', parts)])


def _join_json(values: Iterable[dict]) -> Iterator[str]:
    """What stands between the brackets of a list in JSON."""
    for number, value in enumerate(values):
        yield f'{", " if number else ""}{json.dumps(value)}'


def _list_annotations(images: Iterable[LabelledImage]) -> Iterator[dict]:
    """COCO's annotations, of all images."""
    objects = (
        (image_id, found)
        for image_id, image in enumerate(images, start=1)
        for found in image.objects
    )
    for number, (image_id, found) in enumerate(objects, start=1):
        x1, y1, x2, y2 = found.box
        width, height = round(x2 - x1, 2), round(y2 - y1, 2)
        area = sum(map(compute_area, found.polygons)) or width * height
        yield dict(
            id=number,
            image_id=image_id,
            category_id=found.label + 1,
            bbox=[x1, y1, width, height],
            area=round(area, 2),
            segmentation=list(found.polygons),
            iscrowd=0,
            score=found.score,
        )


def format_yolo(images: Iterable[LabelledImage], classes: Sequence[str]) -> Layout:
    """YOLO's label files, a ``data.yaml``, and a ``classes.txt`` for other tools.

    Label Studio looks for that beside ``images``, labelImg beside the labels.
    """
    names = ''.join(f'{name}\n' for name in classes)
    data = dict(train='images', val='images', names=dict(enumerate(classes)))
    about = [
        ('data.yaml', [yaml.safe_dump(data, allow_unicode=True, sort_keys=False)]),
        ('classes.txt', [names]),
        ('labels/classes.txt', [names]),
    ]
    labels = (
        (
            f'labels/{image.stem}.txt',
            [f'{_format_line(image, found)}\n' for found in image.objects],
        )
        for image in images
    )
    return Layout('images', chain(about, labels))


def _format_line(image: LabelledImage, found: LabelledObject) -> str:
    """``class x y w h``, or ``class x1 y1 x2 y2 ...`` of an outline, in fractions."""
    if found.polygons:
        values = join_polygons(found.polygons)
    else:
        x1, y1, x2, y2 = found.box
        values = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    sides = image.width, image.height
    fractions = (value / sides[i % 2] for i, value in enumerate(values))
    return ' '.join([str(found.label), *(f'{f:.{DIGITS}f}' for f in fractions)])


def format_voc(images: Iterable[LabelledImage], classes: Sequence[str]) -> Layout:
    """Pascal VOC's XML files, which hold boxes alone."""
    texts = (
        (f'Annotations/{image.stem}.xml', [_format_xml(image, classes)])
        for image in images
    )
    return Layout('JPEGImages', texts)


def _format_xml(image: LabelledImage, classes: Sequence[str]) -> str:
    root = ET.Element('annotation')
    size = dict(width=image.width, height=image.height, depth=3)
    _add(root, dict(folder='JPEGImages', filename=image.name))
    _add(ET.SubElement(root, 'size'), size)
    _add(root, dict(segmented=0))
    for found in image.objects:
        item = ET.SubElement(root, 'object')
        about = dict(name=classes[found.label], pose='Unspecified')
        _add(item, dict(**about, truncated=0, difficult=0))
        _add(ET.SubElement(item, 'bndbox'), _count_pixels(image, found))
    ET.indent(root)
    return ET.tostring(root, encoding='unicode') + '\n'


def _add(parent: ET.Element, values: dict) -> None:
    for tag, value in values.items():
        ET.SubElement(parent, tag).text = str(value)


def _count_pixels(image: LabelledImage, found: LabelledObject) -> dict[str, int]:
    """The first and the last pixel that a box touches, counted from 1 as in VOC.

    They are different ones, since MMDetection's reader, and so ours, takes the last
    pixel's own side for the end of the box.
    """
    x1, y1, x2, y2 = found.box
    xmax = max(math.ceil(x2), min(math.floor(x1) + 2, image.width))
    ymax = max(math.ceil(y2), min(math.floor(y1) + 2, image.height))
    xmin, ymin = min(math.floor(x1) + 1, xmax - 1), min(math.floor(y1) + 1, ymax - 1)
    return dict(xmin=max(xmin, 1), ymin=max(ymin, 1), xmax=xmax, ymax=ymax)


def format_labelme(images: Iterable[LabelledImage], classes: Sequence[str]) -> Layout:
    """LabelMe's JSON, a file beside each image."""
    texts = ((f'{image.stem}.json', [_format_json(image, classes)]) for image in images)
    return Layout('', texts)


def _format_json(image: LabelledImage, classes: Sequence[str]) -> str:
    shapes = []
    for number, found in enumerate(image.objects):
        label = classes[found.label]
        if not found.polygons:
            x1, y1, x2, y2 = found.box
            shapes.append(_make_shape(label, 'rectangle', [x1, y1, x2, y2], None))
        # The parts of one object have a group of their own.
        group = number if len(found.polygons) > 1 else None
        shapes += [_make_shape(label, 'polygon', p, group) for p in found.polygons]
    content: dict[str, Any] = dict(
        version=LABELME_VERSION,
        flags={},
        shapes=shapes,
        imagePath=image.name,
        imageData=None,
        imageHeight=image.height,
        imageWidth=image.width,
    )
    return json.dumps(content, indent=2)


def _make_shape(
    label: str, shape_type: str, values: Sequence[float], group: int | None
) -> dict:
    return dict(
        label=label,
        points=[list(pair) for pair in zip(values[::2], values[1::2])],
        group_id=group,
        description='',
        shape_type=shape_type,
        flags={},
        mask=None,
    )


# The images are gone through more than once.
Format = Callable[[Iterable[LabelledImage], Sequence[str]], Layout]
FORMATS: dict[str, Format] = dict(
    zip(NAMES, (format_coco, format_yolo, format_voc, format_labelme), strict=True)
)
