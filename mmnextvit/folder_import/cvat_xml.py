"""CVAT's XML ("CVAT for images 1.1"), read as its documentation describes it."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from xml.parsers import expat

from ..datasets.values import Number, read_file_name, read_flag, read_number, read_side
from ..utils.errors import UserError
from ..utils.messages import shorten, show
from .shapes import (
    AnnotatedImage,
    Annotations,
    Shape,
    make_box,
    make_ellipse,
    make_mask,
    make_polygon,
    read_key,
)

Size = tuple[int, int]
LINE = '#line'  # an attribute that no XML can have
WHAT = 'the file is no annotation of CVAT for images'
NO_SHAPES = ('attribute', 'tag')  # what else stands in an image


def parse_xml(content: bytes) -> ET.Element:
    """The elements of an XML file, each with its line as the attribute `LINE`.

    Raises:
        UserError: It is none, or declares a type, by which an entity could be made
            that never ends; the error lacks the file's name.
    """
    parser = expat.ParserCreate()
    builder = ET.TreeBuilder()

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, {**attributes, LINE: str(parser.CurrentLineNumber)})

    def refuse(*_: object) -> None:
        problem = f'{WHAT}: it declares a document type'
        raise UserError(problem, line=parser.CurrentLineNumber)

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise UserError(f'{WHAT}: {shorten(error)}', line=error.lineno) from error
    except UserError:
        raise
    except (LookupError, ValueError) as error:  # of the encoding
        raise UserError(f'{WHAT}: {shorten(error)}') from error
    return builder.close()


def parse_cvat(content: bytes) -> Annotations:
    """Reads an annotation file.

    A turned box becomes the upright one around it; what is marked as outside the image
    is left out, and so are lines, points, cuboids, skeletons and tags.

    Raises:
        UserError: It is none; the error lacks the file's name.
    """
    root = parse_xml(content)
    if root.tag != 'annotations':
        raise UserError(f'{WHAT}: it holds <{shorten(root.tag)}>, not <annotations>')
    items = root.findall('image')
    if not items and root.find('track') is not None:
        raise UserError(
            'the file is an annotation of CVAT for video, with tracks and no images: '
            'export the task again as CVAT for images 1.1, or as COCO 1.0'
        )
    tasks = {
        task.findtext('id', ''): (
            task.findtext('subset', ''),
            task.findtext('name', ''),
        )
        for task in root.findall('meta//task')
    }
    images = []
    for number, item in enumerate(items):
        try:
            images.append(_read_image(item, tasks))
        except UserError as error:
            name = shorten(item.get('name') or f'image {number}')
            line = error.line or _get_line(item)
            raise UserError(f'{WHAT}: {name}: {error.problem}', line=line) from error
    labels = (label.findtext('name') or '' for label in root.findall('meta//label'))
    names = dict.fromkeys(label.strip() for label in labels if label.strip())
    return Annotations(images, tuple(names), ('', 'images'))


def _get_line(item: ET.Element) -> int:
    return int(item.get(LINE, '0'))


def _read_image(
    item: ET.Element, tasks: Mapping[str, tuple[str, str]]
) -> AnnotatedImage:
    """An image of the file.

    Args:
        item: Its element.
        tasks: Subset and name of each task, by id.
    """
    name = read_key(item.attrib, 'name', read_file_name)
    size = (
        read_key(item.attrib, 'width', read_side),
        read_key(item.attrib, 'height', read_side),
    )
    only = next(iter(tasks)) if len(tasks) == 1 else ''
    subset, task = tasks.get(item.get('task_id') or only, ('', ''))
    shapes, skipped = [], []
    for part in item:
        reader = READERS.get(part.tag)
        if reader is None and part.tag not in NO_SHAPES:
            skipped.append(part.tag)
        if reader is None:
            continue
        label = (part.get('label') or '').strip()
        try:
            if not label:
                raise UserError('it has no label')
            if not read_flag(part.get('outside')):
                shapes.append(reader(part, label, size))
        except UserError as error:
            problem = f'<{part.tag}> {show(label)}: {error.problem}'
            raise UserError(problem, line=_get_line(part)) from error
    hints = (item.get('subset') or subset, task)
    return AnnotatedImage(name, size, shapes, hints, tuple(skipped))


def _read_numbers(item: ET.Element, *keys: str) -> list[Number]:
    return [read_key(item.attrib, key, read_number) for key in keys]


def _read_angle(item: ET.Element) -> float:
    """How far a shape is turned, in radians."""
    angle = read_key({'rotation': '0', **item.attrib}, 'rotation', read_number)
    if not math.isfinite(angle):
        raise UserError(f'rotation: {angle} is no angle')
    return math.radians(angle)


def _read_box(item: ET.Element, label: str, size: Size) -> Shape:
    corners = _read_numbers(item, 'xtl', 'ytl', 'xbr', 'ybr')
    return make_box(label, corners, _read_angle(item))


def _read_polygon(item: ET.Element, label: str, size: Size) -> Shape:
    return make_polygon(label, read_key(item.attrib, 'points', _split_points))


def _split_points(text: object) -> list[list[Number]]:
    """Points of a text such as ``'1,2;3,4'``."""
    pairs = [pair.split(',') for pair in str(text).split(';') if pair.strip()]
    for pair in pairs:
        if len(pair) != 2:
            raise UserError(f'{show(",".join(pair))} is no point')
    return [list(map(read_number, pair)) for pair in pairs]


def _read_ellipse(item: ET.Element, label: str, size: Size) -> Shape:
    x, y, a, b = _read_numbers(item, 'cx', 'cy', 'rx', 'ry')
    return make_ellipse(label, (x, y), (a, b), _read_angle(item))


def _read_mask(item: ET.Element, label: str, size: Size) -> Shape:
    runs = [_read_whole(run) for run in read_key(item.attrib, 'rle', str).split(',')]
    corner = [read_key(item.attrib, key, _read_whole) for key in ('left', 'top')]
    sides = [read_key(item.attrib, key, read_side) for key in ('width', 'height')]
    return make_mask(label, runs, corner, sides, size)


def _read_whole(text: object) -> int:
    try:
        return int(str(text))
    except ValueError:
        raise UserError(f'{show(text)} is no whole number') from None


READERS: dict[str, Callable[[ET.Element, str, Size], Shape]] = {
    'box': _read_box,
    'polygon': _read_polygon,
    'ellipse': _read_ellipse,
    'mask': _read_mask,
}
