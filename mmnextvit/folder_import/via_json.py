"""VIA's JSON, of versions 1 and 2: annotations as exported, and whole projects."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..datasets.checks import describe_counts
from ..datasets.json_reader import parse_json
from ..datasets.values import Number, read_file_name, read_name, read_number
from ..utils.errors import UserError, naming_file
from ..utils.messages import shorten, show
from .shapes import (
    AnnotatedImage,
    Annotations,
    Shape,
    make_box,
    make_ellipse,
    make_polygon,
    read_key,
)

WHAT = 'the file is no annotation of VIA'
ONLY_CLASS = 'object'  # where no region says what it is
# Of attributes that are used as often, one that is called so names the class.
CLASS_KEYS = ('class', 'label', 'name', 'category', 'type', 'object')


class Region(NamedTuple):
    """A region of an image as it stands in the file.

    Attributes:
        key: Where it stands in the entry of its image.
        kind: What was drawn: ``'rect'``.
        shape: Its ``shape_attributes``.
        attributes: Its ``region_attributes`` that may name a class, as texts.
    """

    key: str
    kind: str
    shape: Mapping[str, object]
    attributes: Mapping[str, str]


class File(NamedTuple):
    """What a file holds, before it is known what names the class.

    Attributes:
        images: The regions of each image, by its name.
        folder: Where the project says that its images lie, or ``''``.
        options: The values that the project lists for each attribute.
    """

    images: list[tuple[str, list[Region]]]
    folder: str
    options: Mapping[str, tuple[str, ...]]


def parse_via(contents: Iterable[tuple[str, bytes]]) -> dict[str, Annotations]:
    """Reads annotation files.

    The class is the attribute of the regions that most of them have, whatever it is
    called; where none has any, all are of one class. Lines and points are left out.

    Args:
        contents: Name and content of each file.

    Returns:
        What each of them says, by its name.

    Raises:
        UserError: One is none; the error names the file.
    """
    files = {}
    for path, content in contents:
        with naming_file(path):
            files[path] = _read_file(content)
    usable = [
        region
        for file in files.values()
        for _, regions in file.images
        for region in regions
        if region.kind in READERS
    ]
    class_key = choose_class_key(region.attributes for region in usable)
    annotations = {}
    for path, file in files.items():
        with naming_file(path):
            images = [_read_image(*image, class_key) for image in file.images]
        classes = file.options.get(class_key, ()) if class_key else ()
        folders = tuple(dict.fromkeys(('', file.folder, 'images')))
        annotations[path] = Annotations(images, classes, folders)
    notes = _describe_class_key(class_key, usable)
    first = next(iter(annotations))
    return annotations | {first: annotations[first]._replace(notes=notes)}


def _read_file(content: bytes) -> File:
    data = parse_json(content)
    entries = data.get('_via_img_metadata', data) if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(entries, dict):
        raise UserError(f'{WHAT}: images by name are wanted, it has {show(data)}')
    images = []
    for key, entry in entries.items():
        try:
            if not isinstance(entry, dict):
                raise UserError(f'{show(entry)} is no image')
            name = read_key(entry, 'filename', read_file_name)
            images.append((name, _read_regions(entry.get('regions'))))
        except UserError as error:
            place = shorten(key) + (f': {error.key}' if error.key else '')
            raise UserError(f'{WHAT}: {error.problem}', key=place) from error
    folder = _look_up(data, '_via_settings', 'core', 'default_filepath')
    attributes = _look_up(data, '_via_attributes', 'region')
    options = {
        key: tuple(_look_up(attributes, key, 'options') or ())
        for key in (attributes if isinstance(attributes, dict) else ())
        if isinstance(_look_up(attributes, key, 'options'), dict)
    }
    return File(images, folder if isinstance(folder, str) else '', options)


def _look_up(data: object, *keys: str) -> Any:
    """A value inside dicts, or ``None`` where a key is missing."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _read_regions(value: object) -> list[Region]:
    """The regions of an image, which are numbered in a dict in version 1."""
    if value is None:
        return []
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        raise UserError(f'{show(value)} are no regions')
    regions = []
    for number, item in enumerate(value):
        shape = _look_up(item, 'shape_attributes')
        if not isinstance(shape, dict):
            raise UserError('shape_attributes is missing', key=f'regions[{number}]')
        attributes = _look_up(item, 'region_attributes')
        texts = (
            {
                key: _read_attribute(attribute)
                for key, attribute in (attributes or {}).items()
            }
            if isinstance(attributes, dict)
            else {}
        )
        named = {key: text for key, text in texts.items() if text}
        kind = str(shape.get('name'))
        regions.append(Region(f'regions[{number}]', kind, shape, named))
    return regions


def _read_attribute(value: object) -> str:
    """The text of an attribute, ``''`` where it has none or several.

    Boxes to be ticked are a dict of those that are.
    """
    if isinstance(value, dict):
        ticked = [str(key) for key, is_ticked in value.items() if is_ticked]
        value = ticked[0] if len(ticked) == 1 else ''
    try:
        return read_name(value).strip()
    except UserError:
        return ''


def _read_image(
    name: str, regions: Iterable[Region], class_key: str | None
) -> AnnotatedImage:
    """An image and its regions; those without a class are left out."""
    shapes, skipped = [], []
    for region in regions:
        label = region.attributes.get(class_key, '') if class_key else ONLY_CLASS
        reader = READERS.get(region.kind)
        if reader is None:
            skipped.append(region.kind)
        elif label:
            try:
                shapes.append(reader(label, region.shape))
            except UserError as error:
                problem = f'{shorten(name)}: {error.problem}'
                raise UserError(problem, key=region.key) from error
    return AnnotatedImage(name, None, shapes, (), tuple(skipped))


def _describe_class_key(
    class_key: str | None, regions: Sequence[Region]
) -> tuple[str, ...]:
    """Which attribute is the class, for whom none is meant to be."""
    if class_key is None:
        return (f'no region says what it is: all are of one class, {ONLY_CLASS!r}',)
    others = Counter(key for r in regions for key in r.attributes if key != class_key)
    unnamed = sum(class_key not in region.attributes for region in regions)
    notes = [f'the class of a region is its attribute {show(class_key)}']
    if others:
        notes[0] += ', which most have; also there: ' + describe_counts(others)
    if unnamed:
        notes.append(f'{unnamed} regions without {show(class_key)} are left out')
    return tuple(notes)


def choose_class_key(regions: Iterable[Mapping[str, str]]) -> str | None:
    """The attribute that most regions have, or ``None`` where none has any.

    Args:
        regions: The attributes of each that may name a class.
    """
    counts = Counter(key for attributes in regions for key in attributes)
    if not counts:
        return None
    most = max(counts.values())
    known = [key for key in counts if counts[key] == most]
    ranks = {key: rank for rank, key in enumerate(CLASS_KEYS)}
    return min(known, key=lambda key: ranks.get(key.strip().lower(), len(ranks)))


def _read_numbers(shape: Mapping[str, object], *keys: str) -> list[Number]:
    return [read_key(shape, key, read_number) for key in keys]


def _read_rect(label: str, shape: Mapping[str, object]) -> Shape:
    x, y, width, height = _read_numbers(shape, 'x', 'y', 'width', 'height')
    return make_box(label, (x, y, x + width, y + height))


def _read_circle(label: str, shape: Mapping[str, object]) -> Shape:
    x, y, radius = _read_numbers(shape, 'cx', 'cy', 'r')
    return make_ellipse(label, (x, y), (radius, radius))


def _read_ellipse(label: str, shape: Mapping[str, object]) -> Shape:
    x, y, a, b, angle = _read_numbers(
        {'theta': 0, **shape}, 'cx', 'cy', 'rx', 'ry', 'theta'
    )
    if not math.isfinite(angle):
        raise UserError(f'theta: {angle} is no angle')
    return make_ellipse(label, (x, y), (a, b), angle)


def _read_polygon(label: str, shape: Mapping[str, object]) -> Shape:
    xs = read_key(shape, 'all_points_x', _read_list)
    ys = read_key(shape, 'all_points_y', _read_list)
    if len(xs) != len(ys):
        raise UserError(f'all_points_x has {len(xs)} numbers, all_points_y {len(ys)}')
    return make_polygon(label, list(zip(xs, ys)))


def _read_list(value: object) -> list[Number]:
    if not isinstance(value, list):
        raise UserError(f'{show(value)} is no list of numbers')
    return [read_number(item) for item in value]


READERS: dict[str, Callable[[str, Mapping[str, object]], Shape]] = {
    'rect': _read_rect,
    'circle': _read_circle,
    'ellipse': _read_ellipse,
    'polygon': _read_polygon,
}
