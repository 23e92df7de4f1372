"""What annotation tools draw, as boxes and outlines in pixels."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..utils.errors import UserError
from ..utils.messages import show

CORNERS = 36  # of the polygon that stands for an ellipse
MAX_MASK = 1 << 28  # pixels of a mask
Value = TypeVar('Value')
Box = tuple[float, float, float, float]
Segmentation = list[list[float]] | dict


def read_key(
    data: Mapping[str, Any], key: str, reader: Callable[[object], Value]
) -> Value:
    """The value of a key of a file, or of an attribute.

    Raises:
        UserError: It is not there, or no such value.
    """
    if key not in data:
        raise UserError(f'{key} is missing')
    try:
        return reader(data[key])
    except UserError as error:
        raise UserError(f'{key}: {error.problem}') from error


class Shape(NamedTuple):
    """An object of an image.

    Attributes:
        name: Of its class.
        box: Its left, upper, right and lower side in pixels.
        segmentation: As COCO has it; ``None`` for an upright box.
    """

    name: str
    box: Box
    segmentation: Segmentation | None = None


class AnnotatedImage(NamedTuple):
    """An image as an annotation file lists it.

    Attributes:
        name: Of its file, maybe with folders, or that of another computer.
        size: Width and height in pixels, if the file says them.
        shapes: What is in it.
        hints: What may name its split, the surest first: ``('Train', 'task 3')``.
        skipped: What else was drawn in it, which has no box: ``('polyline',)``.
        embedded: Whether the file holds the image itself.
    """

    name: str
    size: tuple[int, int] | None
    shapes: list[Shape]
    hints: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    embedded: bool = False


class Annotations(NamedTuple):
    """What an annotation file says.

    Attributes:
        images: All that it lists.
        classes: The names that it declares, in its order; there may be others.
        folders: Where it says that the images lie.
        notes: What else is to be told.
    """

    images: list[AnnotatedImage]
    classes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def enclose(points: np.ndarray) -> Box:
    """The upright box around points (n, 2); NaN where one is."""
    x1, y1 = points.min(0).tolist()
    x2, y2 = points.max(0).tolist()
    return x1, y1, x2, y2


@np.errstate(all='ignore')  # the dataset refuses what is infinite
def turn(points: np.ndarray, middle: Sequence[float], angle: float) -> np.ndarray:
    """Points (n, 2) turned clockwise, as one sees it, by an angle in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return (points - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle


def make_polygon(name: str, points: Sequence[Sequence[float]] | np.ndarray) -> Shape:
    """A polygon; fewer than three points have a box alone.

    Raises:
        UserError: There is no point.
    """
    if not len(points):
        raise UserError('the outline has no point')
    array = np.array(points, float)
    outline = [array.ravel().tolist()] if len(array) > 2 else None
    return Shape(name, enclose(array), outline)


@np.errstate(all='ignore')  # the dataset refuses what is infinite
def make_box(name: str, corners: Sequence[float], angle: float = 0) -> Shape:
    """A box from two opposite corners, in any order, turned around its middle.

    Args:
        name: Of its class.
        corners: x1, y1, x2, y2 of the box before it is turned.
        angle: In radians, clockwise. The box is then the upright one around it.
    """
    x1, y1, x2, y2 = corners
    if not angle:
        return Shape(name, enclose(np.array([(x1, y1), (x2, y2)], float)))
    points = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float)
    return make_polygon(name, turn(points, points.mean(0), angle))


@np.errstate(all='ignore')  # the dataset refuses what is infinite
def make_ellipse(
    name: str, middle: Sequence[float], radii: Sequence[float], angle: float = 0
) -> Shape:
    """An ellipse: its box exactly, its outline as a polygon.

    Args:
        name: Of its class.
        middle: x and y.
        radii: Along its own two axes.
        angle: In radians, clockwise, by which the axes are turned.
    """
    (x, y), (a, b) = middle, radii
    width = math.hypot(a * math.cos(angle), b * math.sin(angle))
    height = math.hypot(a * math.sin(angle), b * math.cos(angle))
    turns = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)
    points = np.stack([x + a * np.cos(turns), y + b * np.sin(turns)], axis=1)
    outline = turn(points, (x, y), angle).ravel().tolist()
    return Shape(name, (x - width, y - height, x + width, y + height), [outline])


def make_mask(
    name: str, runs: Sequence[int], corner: Sequence[int], size: Sequence[int],
    image_size: Sequence[int],
) -> Shape:  # fmt: skip
    """A mask: the box around its pixels, and COCO's run-length code.

    Args:
        name: Of its class.
        runs: Pixels outside and inside the mask in turn, row by row.
        corner: x and y of the upper left corner of the part that the runs cover.
        size: Width and height of that part.
        image_size: Width and height of the image.

    Raises:
        UserError: The runs do not fill the part, or it lies outside the image.
    """
    (left, top), (width, height) = corner, size
    if min(runs, default=-1) < 0 or sum(runs) != width * height or sum(runs) > MAX_MASK:
        raise UserError(f'the runs {show(list(runs))} are none of {width} x {height}')
    ends = left + width, top + height
    if min(left, top) < 0 or ends[0] > image_size[0] or ends[1] > image_size[1]:
        raise UserError('the mask reaches out of the image')
    is_inside = np.arange(len(runs)) % 2 == 1
    inside: np.ndarray = np.repeat(is_inside, runs).reshape(height, width)
    columns, rows = np.nonzero(inside.T)
    if not len(rows):
        raise UserError('the mask has no pixel')
    columns, rows = columns + left, rows + top
    places = columns * image_size[1] + rows  # COCO counts column by column
    breaks = np.flatnonzero(np.diff(places) != 1)
    starts = places[np.append(0, breaks + 1)]
    stops = places[np.append(breaks, -1)] + 1
    changes = np.stack([starts, stops], axis=1).ravel()
    counts = np.diff(changes, prepend=0, append=image_size[0] * image_size[1])
    code = dict(size=list(image_size[::-1]), counts=counts.tolist())
    x1, y1, x2, y2 = enclose(np.stack([columns, rows], axis=1))
    return Shape(name, (x1, y1, x2 + 1, y2 + 1), code)


def join_shapes(shapes: Iterable[Shape]) -> Shape:
    """Parts of one object, seen apart, as one: the box around all of them."""
    shapes = list(shapes)
    corners = np.array([shape.box for shape in shapes]).reshape(-1, 2)
    outlines = [part for s in shapes if isinstance(s.segmentation, list)
                for part in s.segmentation]  # fmt: skip
    return Shape(shapes[0].name, enclose(corners), outlines or None)


def compute_area(shape: Shape) -> float:
    """Of a shape, in square pixels: of its outlines, its mask, or its box."""
    x1, y1, x2, y2 = shape.box
    if shape.segmentation is None:
        return (x2 - x1) * (y2 - y1)
    if isinstance(shape.segmentation, dict):
        return float(sum(shape.segmentation['counts'][1::2]))
    return sum(map(_compute_polygon_area, shape.segmentation))


@np.errstate(all='ignore')  # the dataset refuses what is infinite
def _compute_polygon_area(polygon: Sequence[float]) -> float:
    points: np.ndarray = np.reshape(polygon, (-1, 2))
    x, y = points[:, 0], points[:, 1]
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)
