"""LabelMe's JSON, one file for each image, read as its documentation describes it."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from ..datasets.json_reader import parse_json
from ..datasets.values import read_file_name, read_name, read_number, read_side
from ..utils.errors import UserError
from ..utils.messages import show
from .shapes import (
    AnnotatedImage,
    Annotations,
    Shape,
    enclose,
    join_shapes,
    make_ellipse,
    make_polygon,
    read_key,
)


def parse_labelme(content: bytes) -> Annotations | None:
    """Reads the annotation of an image.

    Polygons, circles and masks of one label and one ``group_id`` are one object, as
    LabelMe means them. Lines and points are left out.

    Returns:
        What it says, or ``None`` if it is JSON of something else.

    Raises:
        UserError: It is no JSON, or its values are none; the error lacks the file's
            name.
    """
    data = parse_json(content)
    if not isinstance(data, dict) or not isinstance(data.get('shapes'), list):
        return None
    name = read_key(data, 'imagePath', read_file_name)
    size = None
    if data.get('imageWidth') is not None and data.get('imageHeight') is not None:
        size = (
            read_key(data, 'imageWidth', read_side),
            read_key(data, 'imageHeight', read_side),
        )
    parts: dict[object, list[Shape]] = defaultdict(list)
    skipped = []
    for number, item in enumerate(data['shapes']):
        try:
            shape = _read_shape(item)
        except UserError as error:
            raise UserError(error.problem, key=f'shapes[{number}]') from error
        if shape is None:
            skipped.append(str(item['shape_type']))
            continue
        group = item.get('group_id')
        alone = group is None or item.get('shape_type') == 'rectangle'
        parts[number if alone else (shape.name, str(group))].append(shape)
    shapes = [p[0] if len(p) == 1 else join_shapes(p) for p in parts.values()]
    embedded = bool(data.get('imageData'))
    image = AnnotatedImage(name, size, shapes, (), tuple(skipped), embedded)
    return Annotations([image])


def _read_shape(item: object) -> Shape | None:
    """An object, or ``None`` where it is of a type without a box."""
    if not isinstance(item, dict):
        raise UserError(f'{show(item)} is no object')
    # Files of before 2019 hold polygons alone, and say no type.
    reader = READERS.get(str(item.get('shape_type') or 'polygon'))
    if reader is None:
        return None
    name = read_key(item, 'label', read_name).strip()
    if not name:
        raise UserError('label: it is empty')
    return reader(name, read_key(item, 'points', _read_points))


def _read_points(value: object) -> np.ndarray:
    """Points (n, 2), at least two."""
    if not isinstance(value, list) or len(value) < 2:
        raise UserError(f'{show(value)} are not two points or more')
    for point in value:
        if not isinstance(point, list) or len(point) != 2:
            raise UserError(f'{show(point)} is no point')
    return np.array([list(map(read_number, point)) for point in value], float)


def _make_rectangle(name: str, points: np.ndarray) -> Shape:
    return Shape(name, enclose(points))


@np.errstate(all='ignore')  # the dataset refuses what is infinite
def _make_circle(name: str, points: np.ndarray) -> Shape:
    """A circle from its middle and a point on its edge."""
    radius = float(np.hypot(*(points[1] - points[0])))
    return make_ellipse(name, points[0].tolist(), (radius, radius))


def _make_mask_box(name: str, points: np.ndarray) -> Shape:
    """The box of a mask, whose corners are its first and its last pixel."""
    x1, y1, x2, y2 = enclose(points)
    return Shape(name, (x1, y1, x2 + 1, y2 + 1))


READERS: dict[str, Callable[[str, np.ndarray], Shape]] = {
    'polygon': make_polygon,
    'rectangle': _make_rectangle,
    'circle': _make_circle,
    'mask': _make_mask_box,
    'oriented_rectangle': make_polygon,
    'rotation': make_polygon,  # as AnyLabeling calls a turned box
}
