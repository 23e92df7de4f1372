"""Pascal VOC's annotation of an image, read from XML."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..utils.errors import UserError
from ..utils.messages import shorten, show
from .values import Number, read_flag, read_number, read_side

SIDES = ('xmin', 'ymin', 'xmax', 'ymax')


class VOCObject(NamedTuple):
    """An object of an image.

    Attributes:
        name: Of its class.
        box: ``x1, y1, x2, y2`` in pixels, counted from 1.
        difficult: Whether it is not to be counted.
    """

    name: str
    box: list[Number]
    difficult: int


class VOCAnnotation(NamedTuple):
    """What an annotation says of an image.

    Attributes:
        size: Width and height in pixels; some tools write none, or 0.
        objects: What is in it.
        file_name: The image's name, without the folders that some tools write; empty
            where there is none.
    """

    size: tuple[int, int] | None
    objects: list[VOCObject]
    file_name: str


def parse_voc(content: bytes) -> VOCAnnotation:
    """Reads an annotation file.

    Raises:
        UserError: It is none; the error lacks the file's name.
    """
    what = 'the file is no Pascal VOC annotation'
    try:
        root = ET.fromstring(content)
    except (ET.ParseError, LookupError, ValueError) as error:  # of XML, or its encoding
        line = error.position[0] if isinstance(error, ET.ParseError) else None
        raise UserError(f'{what}: {shorten(error)}', line=line) from error
    if root.tag != 'annotation':
        raise UserError(f'{what}: it holds <{shorten(root.tag)}>, not <annotation>')
    try:
        size = _read_size(root)
    except UserError as error:
        raise UserError(f'{what}: its size: {error}') from error
    objects = []
    for number, item in enumerate(root.findall('object'), start=1):
        try:
            objects.append(_read_object(item))
        except UserError as error:
            raise UserError(f'{what}: object {number}: {error}') from error
    file_name = (root.findtext('filename') or '').replace('\\', '/').strip()
    return VOCAnnotation(size, objects, file_name.rpartition('/')[2])


def _read_text(item: ET.Element, tag: str) -> str:
    text = (item.findtext(tag) or '').strip()
    if not text:
        raise UserError(f'it has no {tag}')
    return text


def _read_size(root: ET.Element) -> tuple[int, int] | None:
    texts = [root.findtext(f'size/{tag}') or '0' for tag in ('width', 'height')]
    if not all(read_number(text) for text in texts):
        return None
    width, height = map(read_side, texts)
    return width, height


def _read_object(item: ET.Element) -> VOCObject:
    name = _read_text(item, 'name')
    try:
        box = [read_number(_read_text(item, f'bndbox/{side}')) for side in SIDES]
        difficult = read_flag(item.findtext('difficult'))
    except UserError as error:
        raise UserError(f'{show(name)}: {error}') from error
    return VOCObject(name, box, difficult)


def build_instances(
    objects: Iterable[VOCObject],
    labels: Mapping[str, int],
    min_size: float | None = None,
) -> list[dict]:
    """The objects of the classes, as MMDetection's ``XMLDataset`` lists them.

    Args:
        objects: As the annotation has them.
        labels: Of each class.
        min_size: Width and height under which a box is not to be counted.
    """
    instances = []
    for item in objects:
        if item.name not in labels:
            continue
        box = item.box
        if all(map(math.isfinite, box)):
            box = [int(side) - 1 for side in box]
        small = min(box[2] - box[0], box[3] - box[1]) < (min_size or -math.inf)
        instances.append(
            dict(
                bbox=box,
                bbox_label=labels[item.name],
                ignore_flag=int(bool(item.difficult) or small),
            )
        )
    return instances
