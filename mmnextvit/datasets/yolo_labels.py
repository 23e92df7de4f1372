"""Label files in YOLO's txt format, and the samples that MMDetection makes of them.

Written from the documented format. A line of a label file is ``class x y w h`` (centre
and size of a box) or ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon), all values fractions
of the image's width and height.
"""

import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np

from ..utils.errors import UserError
from ..utils.messages import shorten
from .checks import find_box_fault

PIXELS = 2  # a box has no such centre or size in fractions; in pixels nearly all do
TOLERANCE = 1e-6  # six decimals of centre and size move a side by 0.75e-6
LANDMARKS = {13, 15}  # columns of a box with four or five points
LANDMARK_SLACK = 0.01  # of the image, by which a point may lie outside its box
NO_ROW = [math.nan] * 6
CLIPPED = 'lines with values out of range (clipped to the image)'
REPEATED = 'repeated lines (dropped)'
LEFT_OUT = 'lines of other numbers than class_ids (left out)'
IMAGE_FOLDERS = ('images', 'JPEGImages')  # beside which a folder of labels may lie
NAMES_FILE = 'classes.txt'  # which labelImg and Label Studio put among the labels


class Labels(TypedDict):
    """What a label file holds, in types that JSON has.

    Attributes:
        rows: Line number, class and values of each line, as one list each.
        broken: Line numbers with what is wrong.
        repeated: Numbers of lines that say what an earlier line says.
    """

    rows: list[list]
    broken: list[list]
    repeated: list[int]


class Record(NamedTuple):
    """An image's size, and its labels if it has a label file.

    Attributes:
        width: In pixels.
        height: In pixels.
        labels: What the label file holds.
        file: The label file, whether or not there is one.
    """

    width: int
    height: int
    labels: Labels | None
    file: str

    @property
    def rows(self) -> list[list]:
        return self.labels['rows'] if self.labels else []


class Sample(NamedTuple):
    """An image as MMDetection's datasets list it, and what is to be reported of it.

    Attributes:
        info: Path, id, size and instances.
        dropped: What is wrong with each box left out, with its ``file:line``.
        remarks: What else is worth telling, with its ``file:line``.
    """

    info: dict
    dropped: list[tuple[str, str]]
    remarks: list[tuple[str, str]]


def find_label_file(image: str) -> str:
    """Where an image's labels lie, as `find_label_files` says of many."""
    return find_label_files([image])[image]


def find_label_files(
    images: Iterable[str], texts: Collection[str] = ()
) -> dict[str, str]:
    """Where the labels of many images lie, or would lie.

    They lie where the last ``images`` or ``JPEGImages`` of an image's folder is
    ``labels`` if there is such a folder, else beside the image. Each folder is looked
    for once.

    Args:
        images: Image files.
        texts: Files that hold no labels, whatever images are called: lists of images,
            names of classes. ``classes.txt`` is always one.

    Returns:
        The label file of each image; an empty text if it can have none.
    """
    folders: dict[str, str] = {}
    files = {}
    for image in images:
        folder, name = os.path.split(image)
        if folder not in folders:
            folders[folder] = os.path.join(_find_label_folder(folder), '')
        name = os.path.splitext(name)[0] + '.txt'
        file = folders[folder] + name
        files[image] = '' if name == NAMES_FILE or file in texts else file
    return files


def _find_label_folder(folder: str) -> str:
    parallel = [_replace_last(folder, name, 'labels') for name in IMAGE_FOLDERS]
    places = [path for path in (*parallel, folder) if path]
    return next(filter(os.path.isdir, places), places[0])


def _replace_last(path: str, old: str, new: str) -> str | None:
    """A path in which the last folder of a name has another one."""
    before, found, after = f'{path}{os.sep}'.rpartition(f'{os.sep}{old}{os.sep}')
    return os.path.join(before, new, after).rstrip(os.sep) if found else None


def is_column_count(columns: int) -> bool:
    """Whether a line may have so many columns, for a box or a polygon."""
    return columns == 5 or (columns >= 7 and columns % 2 == 1)


def are_landmarks(values: Sequence[float]) -> bool:
    """Whether a line is a box and points inside it, not a polygon.

    Args:
        values: Of the line, without the class. A point that is not seen is negative,
            and of small faces all are, as in most files of WIDER FACE.
    """
    (x, y, w, h), points = values[:4], values[4:]
    if all(value < 0 for value in points):
        return True
    pairs = zip(points[::2], points[1::2])
    seen = [(px, py) for px, py in pairs if px >= 0 and py >= 0]
    return bool(seen) and all(
        abs(px - x) <= w / 2 + LANDMARK_SLACK and abs(py - y) <= h / 2 + LANDMARK_SLACK
        for px, py in seen
    )


def parse_line(line: str, num_classes: int) -> tuple[int | float, ...]:
    """``(class, x, y, w, h)`` or ``(class, x1, y1, x2, y2, x3, y3, ...)``.

    Raises:
        ValueError: What is wrong with the line.
    """
    try:
        values = [float(column) for column in line.split()]
    except ValueError as error:
        raise UserError(
            f'{shorten(error)}. Values are numbers, separated by spaces'
        ) from None
    if not is_column_count(len(values)):
        raise UserError(
            f'{len(values)} columns: 5 (class x y w h) or an odd number from 7 (class '
            'and the points of a polygon) are wanted'
        )
    if not all(map(math.isfinite, values)):
        raise UserError('NaN or infinite')
    label = int(values[0])
    if label != values[0]:
        raise UserError(f'class {values[0]} is no integer')
    if not 0 <= label < num_classes:
        raise UserError(f'class {label} is not in 0 to {num_classes - 1}')
    return label, *values[1:]


def parse_labels(content: bytes, num_classes: int) -> Labels:
    """Reads a label file.

    Args:
        content: What the file holds.
        num_classes: Number of classes, which the labels lie below.
    """
    parsed = Labels(rows=[], broken=[], repeated=[])
    try:
        lines = content.decode('utf-8-sig').replace('\r\n', '\n').split('\n')
    except UnicodeDecodeError:
        lines = []
        parsed['broken'].append([1, 'the file is not text'])
    seen = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_line(line, num_classes)
        except ValueError as error:
            parsed['broken'].append([number, shorten(error)])
            continue
        if row in seen:
            parsed['repeated'].append(number)
        else:
            parsed['rows'].append([number, *row])
        seen.add(row)
    return parsed


def find_bounding_box(points: Sequence[float]) -> Sequence[float]:
    """``x1, y1, x2, y2`` around a polygon; a box itself, which may be turned over."""
    if len(points) == 4:
        return points
    xs, ys = points[::2], points[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def clip_values(values: Sequence[float]) -> tuple[Sequence[float], str | None, bool]:
    """A line's box or polygon inside the image.

    Args:
        values: ``x, y, w, h``, or the points of a polygon.

    Returns:
        ``x1, y1, x2, y2`` or the points, all in 0..1; what makes them useless, or
        ``None``; whether they were out of range by more than rounding.
    """
    if len(values) == 4:
        x, y, w, h = values
        values = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    low, high = min(values), max(values)
    fault = find_box_fault(find_bounding_box(values), 1, 1)
    if low < 0 or high > 1:
        values = [min(max(value, 0), 1) for value in values]
        fault = fault or find_box_fault(find_bounding_box(values), 1, 1)
    return values, fault, low < -TOLERANCE or high > 1 + TOLERANCE


def build_samples(
    records: Mapping[str, Record], labels: Mapping[int, int]
) -> list[Sample]:
    """Makes the records of images samples of MMDetection's.

    Args:
        records: Size and labels of each image; their order numbers the images.
        labels: Of each number that lines begin with; those of other numbers are left
            out.
    """
    inside = iter(_scale_boxes(records.values()))
    return [
        _build_sample(number, path, record, labels, inside)
        for number, (path, record) in enumerate(records.items())
    ]


def _scale_boxes(records: Collection[Record]) -> list[list[float] | None]:
    """``x1, y1, x2, y2`` in pixels of all boxes that lie in their images.

    Nearly all do. NumPy takes them together, as `clip_values` would take each.

    Returns:
        One for each row of the records; ``None`` for polygons and other boxes.
    """
    rows = [row for record in records for row in record.rows]
    boxes = np.array([row if len(row) == 6 else NO_ROW for row in rows], float)
    x, y, w, h = boxes.reshape(-1, 6)[:, 2:].T
    sizes = np.array([record[:2] * 2 for record in records], float).reshape(-1, 4)
    sides = sizes.repeat([len(record.rows) for record in records], axis=0)
    with np.errstate(over='ignore', invalid='ignore'):
        corners = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
        pixels = (corners * sides).tolist()
    x1, y1, x2, y2 = corners.T
    inside = (x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= 1) & (y2 <= 1)
    return [box if fits else None for box, fits in zip(pixels, inside.tolist())]


def _build_sample(
    number: int,
    path: str,
    record: Record,
    labels: Mapping[int, int],
    inside: Iterator[list[float] | None],
) -> Sample:
    """A sample, whose rows take what `_scale_boxes` gives, one for each."""
    file = record.file
    width, height = sides = record.width, record.height
    instances, dropped, remarks = [], [], []
    for row, bbox in zip(record.rows, inside):
        class_id = row[1]
        if class_id not in labels:
            remarks.append((LEFT_OUT, f'{file}:{row[0]}'))
            continue
        instance: dict[str, Any] = dict(
            bbox=bbox, bbox_label=labels[class_id], ignore_flag=0
        )
        if bbox is None:
            values, fault, is_clipped = clip_values(row[2:])
            if is_clipped:
                remarks.append((CLIPPED, f'{file}:{row[0]}'))
            if fault:
                dropped.append((fault, f'{file}:{row[0]}'))
                continue
            x1, y1, x2, y2 = find_bounding_box(values)
            instance['bbox'] = [x1 * width, y1 * height, x2 * width, y2 * height]
            if len(values) > 4:
                instance['mask'] = [[v * sides[i % 2] for i, v in enumerate(values)]]
        instances.append(instance)
    repeated = record.labels['repeated'] if record.labels else []
    remarks += [(REPEATED, f'{file}:{line}') for line in repeated]
    info = dict(
        img_path=path,
        img_id=number,
        width=record.width,
        height=record.height,
        size_measured=True,  # YOLO's labels say none
        instances=instances,
    )
    return Sample(info, dropped, remarks)
