"""Runs what ``mmnextvit export`` wrote, without torch and without OpenMMLab's packages.

    from mmnextvit.runtime import Detector
    for detection in Detector('model.onnx')('image.jpg'):
        print(detection['class'], detection['score'], detection['box'])

It needs NumPy, OpenCV and the runtime of the file's format: ONNX Runtime, OpenVINO or,
for TorchScript, torch. ``python -m mmnextvit.runtime MODEL IMAGE...`` prints JSON.
This file imports nothing else of mmnextvit, so that it may be copied alone.
"""

import argparse
import ctypes
import json
import os
import re
import sys
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextlib import suppress as suppress_errors
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby, islice
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import (
    Any,
    NamedTuple,
    NotRequired,
    Protocol,
    Required,
    TextIO,
    TypedDict,
    TypeVar,
)

import cv2
import numpy as np

KEY = 'mmnextvit'  # of the metadata in every format
OUTPUTS = ('num_detections', 'boxes', 'scores', 'labels')  # with NMS inside
FORMAT = 1  # of the metadata: a file with a higher one needs a newer mmnextvit
MAX_METADATA = 1 << 22  # characters
MAX_SIDE = 1 << 14  # pixels, of the network's input
MAX_PIXELS = 1 << 28  # of all images in a batch, which take 3 GiB
MAX_IMAGE_PIXELS = 178_956_970  # of one image, as Pillow has it: 0.5 GiB
NMS_BLOCK = 128  # boxes that are compared with each other at once
MAX_BATCH = 8  # images, where any number fits: more is hardly faster, takes memory
MAX_THREADS = 8  # beside the network: to read images and to write what is found

# What tells packages to send nothing and to look for no update, and the modules that
# others send with.
SEND_NOTHING = {
    'ORT_DISABLE_TELEMETRY': '1',
    'HF_HUB_DISABLE_TELEMETRY': '1',
    'NO_ALBUMENTATIONS_UPDATE': '1',
}
REPORTERS = ('openvino_telemetry',)

# The first bytes of a JPEG or PNG file, and the bytes that end its image.
END_MARKERS = {b'\xff\xd8\xff': b'\xff\xd9', b'\x89PNG': b'IEND\xaeB`\x82'}

BEST = 'best'  # in place of a minimum score: the one with the highest F1

Image = str | os.PathLike | np.ndarray
Threshold = float | str  # a minimum score, 0 to 1, or BEST
MinScores = float | list[float]  # a minimum score, or one for each label
Size = tuple[int, int]  # height, width
Number = TypeVar('Number', int, float)
Given = TypeVar('Given')
Made = TypeVar('Made')


class DetectorError(ValueError):
    """What this module raises where a file, an image or an option is at fault."""


class ImageError(DetectorError):
    """An image that is missing, empty, truncated, or no image at all."""


class ModelFileError(DetectorError):
    """A file that is damaged, of a newer format, or not from ``mmnextvit export``."""


class MissingModelError(ModelFileError, FileNotFoundError):
    """A file or folder that does not exist, or lacks a part."""


class OptionError(DetectorError):
    """A device or a size that the file or the machine does not have."""


# --------------------------------------------------------------------- metadata


class Input(TypedDict):
    """What the network takes."""

    name: str
    batch: int | None  # images at a time; any number if None
    size: list[int]  # height, width
    dynamic_size: bool  # whether it takes other sizes, too
    channels: str
    range: list[int]  # the lowest and the highest value


class Normalization(TypedDict):
    """How values are normalised, by channel."""

    mean: list[float]
    std: list[float]
    in_graph: bool  # whether the network does it


class ResizeStep(TypedDict, total=False):
    """A step on an image's way to the network: a key of :data:`STEPS`, and its own."""

    type: Required[str]
    scale: Sequence[int]  # of keep_ratio: the two sides to fit in, either way up
    size: Sequence[int]  # of letterbox, as what follows: height, width
    fill: float
    scale_up: bool
    mini_pad: bool  # to the smallest rectangle, not to `size`
    stride: int  # of whose multiples the rectangle's sides are; 32 by default
    exact: bool  # boxes come back by sizes before they are rounded, as YOLOv5's


class Thresholds(TypedDict):
    """What non-maximum suppression leaves."""

    score_thr: float
    iou_threshold: float
    max_per_img: int


class NMS(Thresholds):
    """Non-maximum suppression, and where it happens."""

    in_graph: bool
    nms_pre: NotRequired[int | None]  # how many candidates to consider; all if None
    multi_label: bool  # whether a candidate counts for every class


class BestScores(TypedDict):
    """The minimum scores with the highest F1 on the validation data."""

    all: float  # of all classes together
    classes: dict[str, float]  # by name; not of classes of which nothing was found


class Metadata(TypedDict):
    """What ``mmnextvit export`` writes into a file."""

    format: int
    config: str
    classes: list[str]
    strides: list[int]
    anchors: list[list[list[float]]] | None  # (width, height) of each, by level
    precision: str
    input: Input
    normalization: Normalization
    resize: list[ResizeStep]
    nms: NMS
    versions: dict[str, str]  # by package
    best_scores: NotRequired[BestScores]


# Raises ValueError, which names the key, unless a value is what is wanted.
Check = Callable[[str, Any], None]


def wanting(wanted: str, holds: Callable[[Any], bool]) -> Check:
    """A check of one value; ``holds`` gets values of any type that JSON has."""

    def check(key: str, value: Any) -> None:
        if not holds(value):
            shown = ascii(value)  # escapes what a terminal would obey
            shown = shown if len(shown) < 60 else f'{shown[:50]}...'
            raise ValueError(f'{key} is {shown}, and must be {wanted}')

    return check


def whole(low: int, high: int) -> Check:
    """A whole number, which true and 1.0 are not."""
    return wanting(
        f'a whole number from {low} to {high}',
        lambda value: type(value) is int and low <= value <= high,
    )


def number(low: float, high: float) -> Check:
    return wanting(  # NaN lies between no two numbers
        f'a number from {low:g} to {high:g}',
        lambda value: type(value) in (int, float) and low <= value <= high,
    )


def one_of(*values: object) -> Check:
    texts = [json.dumps(value) for value in values]  # where 1, 1.0 and true differ
    return wanting(' or '.join(texts), lambda value: json.dumps(value) in texts)


def optional(check: Check) -> Check:
    """Null, or what another check wants."""
    return lambda key, value: None if value is None else check(key, value)


def each(check: Check, low: int, high: int) -> Check:
    """A list of that many values, each of which is checked."""
    count = str(low) if low == high else f'{low} to {high}'
    is_list = wanting(
        f'a list of {count}',
        lambda value: isinstance(value, list) and low <= len(value) <= high,
    )

    def check_each(key: str, value: Any) -> None:
        is_list(key, value)
        for i, item in enumerate(value):
            check(f'{key}[{i}]', item)

    return check_each


def record(must: Mapping[str, Check], may: Mapping[str, Check] = {}) -> Check:
    """An object with the keys ``must``, and perhaps ``may``; others do not matter."""
    is_object = wanting('an object', lambda value: isinstance(value, dict))

    def check_keys(key: str, value: Any) -> None:
        is_object(key, value)
        for name, check in {**must, **may}.items():
            path = f'{key}.{name}' if key else name
            if name in value:
                check(path, value[name])
            elif name in must:
                raise ValueError(f'{path} is missing')

    return check_keys


def each_value(check: Check) -> Check:
    """An object whose values are checked, whatever its keys."""
    is_object = wanting('an object', lambda value: isinstance(value, dict))

    def check_each(key: str, value: Any) -> None:
        is_object(key, value)
        for name, item in value.items():
            check(f'{key}[{ascii(name)[:60]}]', item)

    return check_each


def check_step(key: str, value: Any) -> None:
    """A step on an image's way to the network."""
    record({'type': one_of(*STEP_CHECKS)})(key, value)
    STEP_CHECKS[value['type']](key, value)


# Characters that end a line, move a terminal's cursor or turn the direction of a text,
# and halves of characters, which no file can be written with.
UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
TEXT = wanting(
    'a text of 1 to 1000 printable characters',
    lambda value: (
        type(value) is str and 0 < len(value) <= 1000 and not UNPRINTABLE.search(value)
    ),
)
FLAG = wanting('true or false', lambda value: type(value) is bool)
SIZE = each(whole(1, MAX_SIDE), 2, 2)
STEP_CHECKS = {
    'keep_ratio': record({'scale': SIZE}),
    'letterbox': record(
        {'size': SIZE, 'fill': number(0, 255), 'scale_up': FLAG, 'mini_pad': FLAG},
        {'stride': whole(1, 1024), 'exact': FLAG},
    ),
}
CHANNELS = each(number(-1e6, 1e6), 3, 3)
METADATA = record(
    {
        'format': whole(1, FORMAT),
        'classes': each(TEXT, 1, 100_000),
        'strides': each(whole(1, 1024), 1, 16),
        'input': record(
            {'batch': optional(whole(1, 4096)), 'size': SIZE, 'dynamic_size': FLAG},
            {'name': TEXT, 'channels': one_of('RGB'), 'range': one_of([0, 255])},
        ),
        'resize': each(check_step, 1, 8),
        'nms': record(
            {
                'in_graph': FLAG,
                'score_thr': number(0, 1),
                'iou_threshold': number(0, 1),
                'max_per_img': whole(1, 1_000_000),
                'multi_label': FLAG,
            },
            {'nms_pre': optional(whole(1, 1 << 31))},
        ),
    },
    {
        'config': TEXT,
        'anchors': optional(each(each(each(number(0, 1e6), 2, 2), 1, 64), 1, 16)),
        'precision': one_of('float32', 'half', 'int8'),
        'best_scores': record(
            {'all': number(0, 1), 'classes': each_value(number(0, 1))}
        ),
        'normalization': record(
            {'mean': CHANNELS, 'std': CHANNELS, 'in_graph': one_of(True)}
        ),
        'versions': wanting(
            'an object of texts',
            lambda value: (
                isinstance(value, dict) and all(type(v) is str for v in value.values())
            ),
        ),
    },
)


def check_metadata(metadata: Any) -> None:
    """Makes sure that metadata are complete and go together.

    Args:
        metadata: What JSON has made of a text.

    Raises:
        ValueError: They are not; it names the key, what is there and what must be.
    """
    METADATA('', metadata)
    wanted, last = metadata['input'], metadata['resize'][-1]
    height, width = wanted['size']
    if height * width * (wanted['batch'] or 1) > MAX_PIXELS:
        raise ValueError(
            f'input has {wanted["batch"] or 1} x {height} x {width} pixels, and must '
            f'have at most {MAX_PIXELS}'
        )
    if last['type'] != 'letterbox' or last['size'] != wanted['size']:
        raise ValueError(
            f'resize must end in a letterbox of the size of the input, {wanted["size"]}'
        )
    if last['mini_pad'] and not wanted['dynamic_size']:
        raise ValueError(
            'resize makes images of many sizes (mini_pad), and input.dynamic_size is '
            'false'
        )
    of_classes = metadata.get('best_scores', {}).get('classes', {})
    unknown = [name for name in of_classes if name not in metadata['classes']]
    if unknown:
        raise ValueError(
            f'best_scores.classes has {ascii(unknown[0])[:60]}, and must have names of '
            'classes only'
        )


def parse_metadata(text: Any, path: str | os.PathLike) -> Metadata:
    """The metadata of an exported file, from its text.

    Raises:
        ModelFileError: There is none, it is not ours, it is newer than this code, or
            a value in it is none that it can have.
    """
    try:
        metadata: Any = json.loads(text) if len(text) <= MAX_METADATA else None
        number, keys = metadata['format'], metadata.keys()
        newer = type(number) is int and number > FORMAT
        complete = {'classes', 'strides', 'input', 'resize', 'nms'} <= keys
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        complete = newer = False
    if newer:
        raise ModelFileError(
            f'{path} has metadata of format {str(number)[:20]}, and this mmnextvit '
            f'reads up to {FORMAT}: install the mmnextvit that wrote it, or export it '
            'again'
        )
    if not complete:
        raise ModelFileError(
            f'{path} was not written by mmnextvit export: it lacks the metadata that '
            'this needs (classes, sizes, thresholds). Export the checkpoint with it'
        )
    try:
        check_metadata(metadata)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f'{path} has metadata that cannot be: {error}. Export the checkpoint again'
        ) from error
    return metadata


# ---------------------------------------------------------------------- threads


@contextmanager
def open_threads(count: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads for the block; what they have not begun at its end is not done.

    Args:
        count: How many; as many as the machine has cores if ``None``, up to
            `MAX_THREADS`.
    """
    threads = ThreadPoolExecutor(count or min(os.cpu_count() or 1, MAX_THREADS))
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def map_ahead(
    threads: ThreadPoolExecutor,
    call: Callable[[Given], Made],
    items: Iterable[Given],
    ahead: int | None = None,
) -> Iterator[Made]:
    """What ``call`` makes of each item, in order, made by threads ahead of its use.

    Where ``items`` raises, or Ctrl-C comes while this waits, what was begun before is
    given first.

    Args:
        threads: They make it.
        call: May raise, which then takes the place of what it would have made.
        items: Are taken in the thread that uses the results.
        ahead: How many results there may be, made or being made, that are not used
            yet; as many as there are threads if ``None``.
    """
    limit = ahead or threads._max_workers
    begun: deque[Future[Made]] = deque()
    source = iter(items)
    end: BaseException | None = None
    while end is None:
        try:
            begun.append(threads.submit(call, next(source)))
            if len(begun) == limit:
                wait([begun[0]])
        except BaseException as error:
            end = error
        if len(begun) == limit:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
    if not isinstance(end, StopIteration):
        raise end


# ----------------------------------------------------------------------- images


def has_end(content: bytes) -> bool:
    """Whether a JPEG or PNG reaches its end marker: older OpenCV doesn't mind.

    Other formats count as whole. What follows the end, as phones append, is ignored.
    """
    end = next(
        (e for start, e in END_MARKERS.items() if content.startswith(start)), b''
    )
    if content.endswith(end):
        return True
    # Past the segments before the scan: EXIF's thumbnail has an end of its own.
    at = max(iterate_segments(content), default=2)
    return content.find(end, at) >= 0


def iterate_segments(content: bytes) -> Iterator[int]:
    """Where the segments of a JPEG before its scan begin, and last, where they end."""
    at = 2
    while content[at : at + 1] == b'\xff' and content[at : at + 2] != b'\xff\xda':
        yield at
        at += 2 + int.from_bytes(content[at + 2 : at + 4], 'big')
    yield at


def read_stated_size(content: bytes) -> Size | None:
    """The size that the header of a JPEG or PNG states; ``None`` of other formats."""
    if content.startswith(b'\x89PNG'):
        width, height = content[16:20], content[20:24]
        return int.from_bytes(height, 'big'), int.from_bytes(width, 'big')
    if not content.startswith(b'\xff\xd8\xff'):
        return None
    for at in iterate_segments(content):
        marker = content[at + 1 : at + 2]
        if b'\xc0' <= marker <= b'\xcf' and marker not in b'\xc4\xc8\xcc':
            height, width = content[at + 5 : at + 7], content[at + 7 : at + 9]
            return int.from_bytes(height, 'big'), int.from_bytes(width, 'big')
    return None


def check_number_of_pixels(path: str | os.PathLike, size: Size) -> None:
    """Refuses an image that would fill the memory.

    Raises:
        ImageError: It has more pixels than `MAX_IMAGE_PIXELS`.
    """
    height, width = size
    if height * width > MAX_IMAGE_PIXELS:
        raise ImageError(
            f'{path} is too large: {height} x {width} pixels (height x width), and '
            f'{MAX_IMAGE_PIXELS} in all are allowed. Scale it down'
        )


def decode(path: str | os.PathLike) -> np.ndarray:
    """An image file as H x W x 3, BGR, uint8, turned as its EXIF says.

    Of a JPEG or PNG the number of pixels is checked before it is decoded, of another
    format afterwards; OpenCV decodes 2 ** 30 pixels at most.

    Raises:
        ImageError: It names the file and what is wrong with it.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            # Reading a FIFO or a device may not end.
            raise ImageError(f'{path} cannot be read: it is no regular file')
        content = Path(path).read_bytes()
        if not content:
            raise ImageError(f'{path} is empty')
        if not has_end(content):
            raise ImageError(f'{path} is truncated: copy or download it again')
        if size := read_stated_size(content):
            check_number_of_pixels(path, size)
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise ImageError(f'{path} cannot be read: {error}') from error
    if image is None:
        raise ImageError(f'{path} is truncated, or no image that OpenCV reads')
    check_number_of_pixels(path, image.shape[:2])
    return image


def read(image: Image) -> np.ndarray:
    """A file or an array as H x W x 3, BGR, uint8.

    Args:
        image: Path, or array of uint8 or uint16: H x W or H x W x 1 (grey),
            H x W x 3 (BGR) or H x W x 4 (BGR and alpha, which is dropped).

    Raises:
        ImageError: The file cannot be read, or the array is none of these.
    """
    if isinstance(image, (str, os.PathLike)):
        return decode(image)
    if not isinstance(image, np.ndarray):
        raise ImageError(f'{type(image)} is neither a path nor a NumPy array')
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or not image.size:
        raise ImageError(
            f'The image is an array of shape {image.shape}: H x W, H x W x 1, '
            'H x W x 3 (BGR) or H x W x 4 (BGR and alpha) is wanted'
        )
    pixels: np.ndarray = image
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)  # as OpenCV reads PNGs
    if pixels.dtype != np.uint8:
        raise ImageError(
            f'The image is an array of {pixels.dtype}: uint8 (0 to 255) or uint16 '
            '(0 to 65535) is wanted'
        )
    to_bgr = {1: cv2.COLOR_GRAY2BGR, 4: cv2.COLOR_BGRA2BGR}.get(channels)
    return pixels if to_bgr is None else cv2.cvtColor(pixels, to_bgr)


# ------------------------------------------------------------------------- layout


class Layout(NamedTuple):
    """Where an image lies in the network's input, in pixels."""

    image: Size
    resizes: list[tuple[Size, int]]  # one after another, with OpenCV's interpolation
    canvas: Size
    pad: Size  # above and to the left
    factor: tuple[float, float]  # vertical, horizontal: size in the canvas / before
    fill: float  # of the canvas around the image
    origin: tuple[float, float]  # vertical, horizontal: the image's corner for boxes


def to_pair(sides: Iterable[Number]) -> tuple[Number, Number]:
    """A number for the height and one for the width."""
    height, width = sides
    return height, width


def compute_keep_ratio(size: Size, step: ResizeStep) -> tuple[Size, int, Size]:
    """MMYOLO's ``YOLOv5KeepRatioResize``: size, interpolation and canvas after it."""
    long, short = max(step['scale']), min(step['scale'])  # either way up
    ratio = min(long / max(size), short / min(size))
    resized = to_pair(max(int(side * ratio), 1) for side in size)
    return resized, cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR, resized


def compute_letterbox(size: Size, step: ResizeStep) -> tuple[Size, int, Size]:
    """MMYOLO's ``LetterResize``: size, interpolation and canvas after it."""
    canvas = to_pair(step['size'])
    ratio = min(whole / side for whole, side in zip(canvas, size))
    ratio = ratio if step['scale_up'] else min(ratio, 1.0)
    resized = to_pair(max(round(side * ratio), 1) for side in size)
    if step['mini_pad']:
        canvas = to_pair(
            new + (whole - new) % step.get('stride', 32)
            for whole, new in zip(canvas, resized)
        )
    return resized, cv2.INTER_LINEAR, canvas


STEPS = {'keep_ratio': compute_keep_ratio, 'letterbox': compute_letterbox}


def lay_out(image: Size, steps: list[ResizeStep]) -> Layout:
    """Follows the metadata's ``resize`` for an image of that height and width.

    This is where the letterbox is computed; whoever needs it takes it from here. No
    side gets shorter than one pixel, where MMYOLO's transforms fail.
    """
    size, canvas, factor = image, image, (1.0, 1.0)
    resizes: list[tuple[Size, int]] = []
    for step in steps:
        resized, interpolation, canvas = STEPS[step['type']](size, step)
        if resized != size:
            resizes.append((resized, interpolation))
        factor = to_pair(f * (new / old) for f, new, old in zip(factor, resized, size))
        size = resized
    pad = to_pair((whole - side) // 2 for whole, side in zip(canvas, size))
    origin: tuple[float, float] = pad
    if steps[-1].get('exact'):
        gain = min(whole / side for whole, side in zip(canvas, image))
        factor = gain, gain
        origin = to_pair((whole - s * gain) / 2 for whole, s in zip(canvas, image))
    fill = steps[-1].get('fill', 0)
    return Layout(image, resizes, canvas, pad, factor, fill, origin)


def resize(image: np.ndarray, layout: Layout) -> np.ndarray:
    """The image (H x W x 3) in the size that it has within the canvas."""
    for (height, width), interpolation in layout.resizes:
        image = cv2.resize(image, (width, height), interpolation=interpolation)
    return image


def fit(image: np.ndarray, steps: list[ResizeStep]) -> tuple[np.ndarray, Layout]:
    """An image (H x W x 3) resized by the metadata's ``resize``, and where it goes."""
    layout = lay_out(image.shape[:2], steps)
    return resize(image, layout), layout


def stack(prepared: list[tuple[np.ndarray, Layout]], count: int = 1) -> np.ndarray:
    """The network's input: (count, 3, H, W), float32, RGB, 0 to 255.

    Args:
        prepared: Resized images, whose layouts have the same canvas.
        count: Size of the batch. Places that no image takes are filled evenly.
    """
    _, layout = prepared[0]
    inputs: np.ndarray = np.full((count, 3, *layout.canvas), layout.fill, np.float32)
    for target, (image, layout) in zip(inputs, prepared):
        (top, left), (height, width) = layout.pad, image.shape[:2]
        # Plane by plane is the fastest: OpenCV splits, and NumPy copies whole rows.
        for plane, values in zip(target[::-1], cv2.split(image)):
            plane[top : top + height, left : left + width] = values
    return inputs


def group(
    prepared: Iterable[tuple[np.ndarray, Layout]], size: int
) -> Iterator[list[tuple[np.ndarray, Layout]]]:
    """Batches of at most ``size`` resized images in a row with the same canvas."""
    for _, alike in groupby(prepared, lambda one: one[1].canvas):
        while batch := list(islice(alike, size)):
            yield batch


def to_image(boxes: np.ndarray, layout: Layout) -> np.ndarray:
    """Boxes (N, 4) of the network's input in the image's pixels, inside of it."""
    (top, left), (vertical, horizontal) = layout.origin, layout.factor
    boxes = boxes - np.array((left, top, left, top), np.float32)
    boxes /= np.array((horizontal, vertical, horizontal, vertical), np.float32)
    return boxes.clip(0, np.array(layout.image[::-1] * 2, np.float32))


# --------------------------------------------------------------------- detections


class Detections(NamedTuple):
    """The detections in one image, by falling score."""

    boxes: np.ndarray  # (N, 4), float32: x1, y1, x2, y2 in pixels
    scores: np.ndarray  # (N,), float32
    labels: np.ndarray  # (N,): index into the classes


class Array(Protocol):
    """An array of NumPy or a tensor of torch."""

    def tolist(self) -> list: ...


class Objects(list[dict[str, Any]]):
    """The objects in an image by falling score: a list of dicts, and their arrays.

    An entry is ``{'class': name, 'score': 0.9876, 'box': [x1, y1, x2, y2]}``, rounded
    to four and two digits, with the box in pixels from the image's top left corner.

    Args:
        boxes: (N, 4).
        scores: (N,).
        labels: (N,), integers.
        classes: Names of the labels.
        masks: (N, H, W), bool, of a detector that finds masks.

    Attributes:
        boxes: (N, 4), float32, not rounded; and so are the others.
        scores: (N,), float32.
        labels: (N,), int64.
        names: The class of each object.
        masks: (N, H, W), bool, or ``None``.
    """

    def __init__(
        self,
        boxes: Array,
        scores: Array,
        labels: Array,
        classes: Sequence[str],
        masks: np.ndarray | None = None,
    ) -> None:
        self.boxes = np.array(boxes.tolist(), np.float32).reshape(-1, 4)
        self.scores = np.array(scores.tolist(), np.float32)
        self.labels = np.array(labels.tolist(), np.int64)
        self.names = [classes[label] for label in self.labels.tolist()]
        self.masks = masks
        rows = zip(self.names, scores.tolist(), boxes.tolist())
        super().__init__(
            {
                'class': name,
                'score': round(score, 4),
                'box': [round(x, 2) for x in box],
            }
            for name, score, box in rows
        )

    def to_supervision(self) -> Any:
        """The same as ``supervision.Detections``, names in ``.data['class_name']``.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            supervision = import_module('supervision')
        except ImportError as error:
            raise ImportError(
                f'to_supervision() needs supervision, which is not installed or does '
                f'not start ({error}): pip install "supervision>=0.31.2"',
                name='supervision',
            ) from error
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels,
            mask=self.masks,
            data={'class_name': np.array(self.names, str)},
        )


def find_thresholds(
    score_thr: Threshold, best_scores: BestScores | None, classes: Sequence[str]
) -> MinScores:
    """The minimum score of all labels, or that of each.

    Args:
        score_thr: A number from 0 to 1, or 'best' for each class's best score, and
            that of all for a class without one.
        best_scores: What a file has of them.
        classes: Names of the labels.

    Raises:
        OptionError: It is neither, or the file has no best scores.
    """
    if score_thr == BEST:
        if best_scores is None:
            raise OptionError(
                "score_thr='best' (--score-thr): the file has no best scores. The best "
                'checkpoint of a training has them, mmnextvit report writes them into '
                'another one, and mmnextvit export takes them along'
            )
        own, other = best_scores['classes'], best_scores['all']
        return [own.get(name, other) for name in classes]
    value = float(score_thr) if isinstance(score_thr, Real) else float('nan')
    if not 0 <= value <= 1:
        raise OptionError(
            f'score_thr={score_thr!r} (--score-thr): it is a number from 0 to 1, or '
            "'best'"
        )
    return value


def are_high(
    scores: np.ndarray, labels: np.ndarray, thresholds: MinScores
) -> np.ndarray:
    """(N,): which scores are at least the minimum, both in single precision.

    Args:
        scores: (N,).
        labels: (N,).
        thresholds: As of :func:`find_thresholds`.
    """
    lowest = np.float32(thresholds)
    return np.float32(scores) >= (lowest[labels] if lowest.ndim else lowest)


def suppress(boxes: np.ndarray, scores: np.ndarray, nms: NMS) -> Detections:
    """NMS class by class, for files that leave it to us.

    Args:
        boxes: (N, 4), of all candidates.
        scores: (N, classes).
        nms: The metadata's ``score_thr``, ``iou_threshold``, ``max_per_img``,
            ``multi_label`` and, if not all candidates get here, ``nms_pre``.
    """
    values, classes = scores.ravel(), scores.shape[1]
    if nms['multi_label']:
        pairs = np.flatnonzero(values > nms['score_thr'])  # of a box and a class
    else:
        pairs = np.arange(0, len(values), classes) + scores.argmax(1)
        pairs = pairs[values[pairs] > nms['score_thr']]
    # What comes later decides nothing: most often some of the best are enough.
    total = min(len(pairs), nms.get('nms_pre') or len(pairs))
    count = 4 * nms['max_per_img']
    while True:
        best = pairs[find_best(values[pairs], min(count, total))]
        rows, labels = np.divmod(best, classes)
        found = Detections(boxes[rows], values[best], labels)
        kept = keep_best(found, nms['iou_threshold'], nms['max_per_img'])
        if len(kept) == nms['max_per_img'] or count >= total:
            return Detections(*(parts[kept] for parts in found))
        count *= 4


def find_best(scores: np.ndarray, count: int) -> np.ndarray:
    """The indices of the best scores, falling; of equal ones the first comes first."""
    if count == 0:
        return np.arange(0)
    lowest = np.partition(scores, -count)[-count]
    best = np.flatnonzero(scores >= lowest)
    return best[np.argsort(-scores[best], kind='stable')[:count]]


def keep_best(found: Detections, iou_threshold: float, limit: int) -> list[int]:
    """The indices of what NMS keeps, class by class.

    Args:
        found: Detections by falling score.
        iou_threshold: What overlaps a better one by more is not kept.
        limit: How many are kept at most.
    """
    kept: list[int] = []
    for start in range(0, len(found.scores), NMS_BLOCK):
        block = range(start, min(start + NMS_BLOCK, len(found.scores)))
        alive: np.ndarray = np.logical_not(
            find_overlaps(found, kept, block, iou_threshold).any(0)
        )
        overlaps = find_overlaps(found, block, block, iou_threshold)
        for i, index in enumerate(block):
            if alive[i]:
                kept.append(index)
                if len(kept) == limit:
                    return kept
                alive &= ~overlaps[i]
    return kept


def find_overlaps(
    found: Detections,
    better: Sequence[int],
    others: Sequence[int],
    iou_threshold: float,
) -> np.ndarray:
    """(A, B): which of A detections suppress which of B others.

    Args:
        found: Detections.
        better: The indices of A of them.
        others: The indices of B of them.
        iou_threshold: What overlaps one of the same class by more is suppressed.
    """
    (first, _, label), (second, _, other_label) = (
        Detections(*(parts[list(rows)] for parts in found)) for rows in (better, others)
    )
    x1, y1, x2, y2 = np.ascontiguousarray(first.T)[..., None]
    u1, v1, u2, v2 = np.ascontiguousarray(second.T)
    width = np.minimum(x2, u2) - np.maximum(x1, u1)
    height = np.minimum(y2, v2) - np.maximum(y1, v1)
    common = width.clip(min=0) * height.clip(min=0)
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common
    return (common > iou_threshold * union) & (label[:, None] == other_label)


# ------------------------------------------------------------------------ outputs

# The shape of each output for B images and C classes. K and N are any numbers.
SHAPES: dict[bool, dict[str, tuple[str | int, ...]]] = {
    True: {
        'num_detections': ('B', 1),
        'boxes': ('B', 'K', 4),
        'scores': ('B', 'K'),
        'labels': ('B', 'K'),
    },
    False: {'boxes': ('B', 'N', 4), 'scores': ('B', 'N', 'C')},
}
TYPES = {'boxes': 'f', 'scores': 'f', 'num_detections': 'iu', 'labels': 'iu'}


def check_outputs(
    outputs: Mapping[str, np.ndarray], count: int, classes: int, in_graph: bool
) -> None:
    """Makes sure that a network gave what it must.

    Args:
        outputs: By name.
        count: How many images it was given.
        classes: How many the metadata name.
        in_graph: Whether it has non-maximum suppression inside.

    Raises:
        ValueError: An output is missing, of another type or shape, has values that are
            no numbers, or counts or labels that cannot be.
    """
    sizes: dict[str | int, int] = {'B': count, 'C': classes, 1: 1, 4: 4}
    for name, shape in SHAPES[in_graph].items():
        if name not in outputs:
            raise ValueError(f'it has no output {name!r}')
        values = outputs[name]
        fits = values.ndim == len(shape) and values.dtype.kind in TYPES[name]
        if not fits or any(
            sizes.setdefault(side, has) != has for side, has in zip(shape, values.shape)
        ):
            wanted = ', '.join(str(sizes.get(side, side)) for side in shape)
            raise ValueError(
                f'its output {name!r} has the shape {values.shape} and the type '
                f'{values.dtype}, and must have ({wanted}) and '
                f'{"float32" if TYPES[name] == "f" else "int32"}'
            )
    boxes, scores = outputs['boxes'], outputs['scores']
    if in_graph:
        counts, limit = outputs['num_detections'][:, 0], scores.shape[1]
        if not ((counts >= 0) & (counts <= limit)).all():
            raise ValueError(f'it counts {counts.max()} detections, of {limit} at most')
        real = np.arange(limit) < counts[:, None]
        boxes, labels = boxes[real], outputs['labels'][real]
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f'its labels reach from {labels.min()} to {labels.max()}, and the '
                f'metadata name {classes} classes'
            )
    for name, values in (('scores', scores), ('boxes', boxes)):
        if not np.isfinite(values).all():
            raise ValueError(f'its {name} are not all finite, as with broken weights')


# ----------------------------------------------------------------------- sessions


def send_nothing() -> None:
    """Keeps what is imported after this from sending data or looking for updates.

    ONNX Runtime and OpenVINO report their use to their makers, from their import on. In
    this process, and in what it starts, the one is told not to, and the other's
    reporter cannot be imported, as if it were not installed. The environment variable
    ``MMNEXTVIT_TELEMETRY=1`` leaves the choice to them.
    """
    if os.environ.get('MMNEXTVIT_TELEMETRY') == '1':
        return
    os.environ.update(SEND_NOTHING)
    for name in REPORTERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # import fails


def import_runtime(package: str, extra: str | None = None) -> ModuleType:
    """Imports a runtime, which sends nothing, or says how to install it."""
    send_nothing()
    try:
        return import_module(package)
    except ImportError as error:
        ours = f', or pip install "mmnextvit[{extra}]"' if extra else ''
        raise ImportError(
            f'This file needs {package}, which is not installed or does not start '
            f'({error}): pip install {package}{ours}',
            name=package,
        ) from error


@contextmanager
def name_file(path: Path, package: str) -> Iterator[None]:
    """Names the file in whatever error a runtime raises on it.

    Raises:
        ModelFileError: In the place of any error but those of this module.
    """
    try:
        yield
    except DetectorError:
        raise
    except Exception as error:  # each runtime has types of its own
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ModelFileError(
            f'{path} is damaged, or too new for the installed {package}: export it '
            f'again with mmnextvit export. {package} says: {reason[:500]}'
        ) from error


class Session(Protocol):
    """A file that its runtime has loaded.

    Attributes:
        package: The runtime.
        metadata: What the exporter wrote into the file.
    """

    package: str
    metadata: Metadata

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name, for the network's input (B, 3, H, W)."""
        ...


def check_inputs(
    shapes: Sequence[Sequence[int | None]], metadata: Metadata, path: Path
) -> None:
    """Makes sure that a network takes what its metadata say.

    Args:
        shapes: Of its inputs; ``None`` stands for any number.
        metadata: Of the same file.
        path: The file.

    Raises:
        ModelFileError: It has not one input, or one of another shape.
    """
    wanted = metadata['input']
    size = [None, None] if wanted['dynamic_size'] else wanted['size']
    asked = (wanted['batch'], 3, *size)
    fits = len(shapes) == 1 and len(shapes[0]) == len(asked)
    if fits and all(has in (None, side) for has, side in zip(shapes[0], asked)):
        return
    texts = (
        ' x '.join('any' if side is None else str(side) for side in shape) or 'a number'
        for shape in (*shapes[:3], asked)
    )
    *has, asked_text = texts
    raise ModelFileError(
        f'{path} has a network that takes {" and ".join(has) or "nothing"}, and '
        f'metadata that say {asked_text}: export the checkpoint again'
    )


class ONNXSession:
    """ONNX Runtime on ``'cpu'``, ``'cuda'`` or ``'cuda:1'``."""

    package = 'onnxruntime'

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        ort = import_runtime(self.package, 'onnx')
        name, _, index = device.lower().partition(':')
        wanted = {'cpu': 'CPU', 'cuda': 'CUDA'}.get(name, device) + 'ExecutionProvider'
        options = ort.SessionOptions()
        options.log_severity_level = 4  # only what ends the process: errors are raised
        options.intra_op_num_threads = threads or 0
        has = ort.get_available_providers()
        if wanted in has:
            provider = (wanted, {'device_id': index} if index else {})
            with name_file(path, self.package):
                # It would try the CPU next, and print that; there is no other for it.
                self.session = ort.InferenceSession(
                    str(path), options, [provider], enable_fallback=name != 'cpu'
                )
            has = self.session.get_providers()  # without those that do not start
        if wanted not in has:
            raise OptionError(
                f'device={device!r}: ONNX Runtime has no {wanted} here, or it does not '
                f'start, but {", ".join(has)}. For CUDA: pip install onnxruntime-gpu '
                'in place of onnxruntime, and the CUDA and cuDNN that it wants'
            )
        with name_file(path, self.package):
            text = self.session.get_modelmeta().custom_metadata_map.get(KEY, '')
            inputs = self.session.get_inputs()
            shapes = [
                [side if isinstance(side, int) else None for side in one.shape]
                for one in inputs
            ]
            self.outputs = [output.name for output in self.session.get_outputs()]
        self.metadata = parse_metadata(text, path)
        check_inputs(shapes, self.metadata, path)
        self.input = inputs[0].name

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self.session.run(None, {self.input: images})))


@contextmanager
def keeping_signal_stack() -> Iterator[None]:
    """Leaves the stack on which this thread handles signals as it is.

    OpenVINO's compiler sets one of its own and frees it with the model: the next
    signal, as of Ctrl-C, ended the process with a segmentation fault.
    """
    if sys.platform != 'linux':
        yield
        return
    change, before = ctypes.CDLL(None).sigaltstack, ctypes.create_string_buffer(64)
    known = change(None, before) == 0
    try:
        yield
    finally:
        if known:
            change(before, None)


class OpenVINOSession:
    """OpenVINO on ``'cpu'``, ``'gpu'``, ``'auto'``: any device that it has."""

    package = 'openvino'

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        ov = import_runtime(self.package, 'openvino')
        core, device = ov.Core(), device.upper()
        with name_file(path, self.package):
            model = core.read_model(path)
            text = read_openvino_metadata(model)
            shapes = [
                [side.get_length() if side.is_static else None for side in shape]
                for shape in (one.get_partial_shape() for one in model.inputs)
            ]
        self.metadata = parse_metadata(text, path)
        check_inputs(shapes, self.metadata, path)
        options: dict[str, str | int] = {'PERFORMANCE_HINT': 'LATENCY'}
        if self.metadata.get('precision') != 'half':
            # Unasked, it takes bfloat16 where the processor has that.
            options['INFERENCE_PRECISION_HINT'] = 'f32'
        elif device == 'CPU':
            able = core.get_property(device, 'OPTIMIZATION_CAPABILITIES')
            options['INFERENCE_PRECISION_HINT'] = 'bf16' if 'BF16' in able else 'f32'
        if threads:
            options['INFERENCE_NUM_THREADS'] = threads
        try:
            with keeping_signal_stack():
                self.model = core.compile_model(model, device, options)
        except RuntimeError as error:
            raise OptionError(
                f'OpenVINO does not run {path} on device={device!r} (it has '
                f'{", ".join(core.available_devices)}): {error}'
            ) from error

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = self.model({0: images}, share_inputs=True)
        return {name: outputs[o] for o in self.model.outputs for name in o.names}


class TorchScriptSession:
    """torch on the CPU, on which the file was traced.

    TorchScript is a program: loading it runs what it holds, so that a file from someone
    else needs as much trust as theirs. Stray files are refused before that.
    """

    package = 'torch'

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        if device.lower() != 'cpu':
            raise OptionError(f'device={device!r}: {path} was made for the CPU')
        self.torch = import_runtime(self.package)
        if find_spec('torchvision') is not None:
            import_module('torchvision')  # its NMS may be in the file
        if threads:
            self.torch.set_num_threads(threads)  # of the whole process
        with name_file(path, self.package):
            text = read_torchscript_metadata(path)
        self.metadata = parse_metadata(text, path)
        with name_file(path, self.package):
            self.model = self.torch.jit.load(str(path), 'cpu')

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        with self.torch.inference_mode():
            outputs = self.model(self.torch.from_numpy(images))
        names = OUTPUTS if len(outputs) == len(OUTPUTS) else ('boxes', 'scores')
        return {name: values.numpy() for name, values in zip(names, outputs)}


def read_openvino_metadata(model: Any) -> Any:
    """The metadata of a model of OpenVINO's: a text, unless the file is not ours."""
    return model.get_rt_info([KEY]).value if model.has_rt_info([KEY]) else ''


def read_torchscript_metadata(path: Path) -> str:
    """The text of a TorchScript file's metadata, without running what it holds."""
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            if entry.filename.endswith(f'/extra/{KEY}.json'):
                with file.open(entry) as content:  # which may be packed terabytes
                    return content.read(4 * MAX_METADATA).decode()
    return ''


SESSIONS: dict[str, Callable[[Path, str, int | None], Session]] = {
    '.onnx': ONNXSession,
    '.xml': OpenVINOSession,
    '.torchscript': TorchScriptSession,
}


def find_model(path: Path) -> Path:
    """The file to load: ``path``, or the ``.xml`` in an OpenVINO folder.

    Raises:
        MissingModelError: There is no such file or folder, or a part of it is missing.
        ModelFileError: It is of no type that is known here.
    """
    try:
        exists = path.exists()
    except OSError as error:  # too long a name, or a folder that may not be searched
        raise MissingModelError(f'{path} cannot be read: {error.strerror}') from error
    if not exists:
        raise MissingModelError(f'{path} does not exist: mmnextvit export writes it')
    known = f'{", ".join(SESSIONS)} and OpenVINO folders with one .xml are known'
    models = list(path.glob('*.xml')) if path.is_dir() else [path]
    if len(models) != 1:
        raise ModelFileError(
            f'{path} is a folder with {len(models)} .xml files: {known}'
        )
    (path,) = models
    if path.suffix not in SESSIONS:
        raise ModelFileError(
            f'{path} has the suffix {path.suffix!r}: {known}. mmnextvit export makes '
            'them of a checkpoint'
        )
    if path.suffix == '.xml' and not path.with_suffix('.bin').is_file():
        raise MissingModelError(f'{path} lacks {path.stem}.bin, which lay beside it')
    if not path.is_file():
        raise ModelFileError(f'{path} is no file')
    try:
        path.open('rb').close()
    except OSError as error:
        raise ModelFileError(f'{path} cannot be read: {error.strerror}') from error
    return path


# ----------------------------------------------------------------------- detector


class Detector:
    """A detector from an exported file. Use it from one thread at a time.

    Args:
        path: ``model.onnx``, an OpenVINO folder or its ``.xml``, or a ``.torchscript``.
        device: ``'cpu'``; for ONNX Runtime also ``'cuda'`` or ``'cuda:1'``, for
            OpenVINO whatever it calls a device.
        threads: How many the CPU may use; the runtime's own choice if ``None``.
        imgsz: Height and width to work at, if not those of the file's metadata. Only
            for files of dynamic size.
        rect: Whether each image is padded to the smallest rectangle around it, as
            YOLOv5's ``detect.py`` does, or to a square; the file's own way if ``None``,
            which is YOLOv5's where the config was imported. Files of fixed size take
            images of that size alone.

    Attributes:
        metadata: What the exporter wrote into the file.
        classes: Names of the labels.

    Raises:
        MissingModelError: There is no such file; it is a ``FileNotFoundError``, too.
        ModelFileError: The file is damaged, or not from ``mmnextvit export``.
        OptionError: There is no such device, or the size does not fit the file.
        ImportError: The format's runtime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        device: str = 'cpu',
        threads: int | None = None,
        imgsz: Size | None = None,
        rect: bool | None = None,
    ) -> None:
        if threads is not None and (type(threads) is not int or threads < 1):
            raise OptionError(f'threads={threads!r} is not a whole number from 1 on')
        self.path = find_model(Path(path))
        self._use(SESSIONS[self.path.suffix](self.path, device, threads))
        if imgsz is not None:
            self.steps = self._list_steps(*imgsz)
        if rect is not None:
            self.steps = self._list_rectangles(rect)

    def _use(self, session: Session) -> None:
        self.session = session
        self.metadata = session.metadata
        self.classes = tuple(self.metadata['classes'])
        self.steps = self.metadata['resize']

    def _list_steps(self, height: int, width: int) -> list[ResizeStep]:
        """The metadata's ``resize`` for another size of the network's input."""
        own, stride = self.metadata['input'], max(self.metadata['strides'])
        wrong = f'imgsz=({height}, {width}): {self.path}'
        if not own['dynamic_size']:
            raise OptionError(f'{wrong} has the fixed height and width {own["size"]}')
        if any(
            type(side) is not int or not 0 < side <= MAX_SIDE or side % stride
            for side in (height, width)
        ):
            raise OptionError(f'{wrong} takes multiples of {stride} up to {MAX_SIDE}')
        return [
            {**step, 'scale': (width, height), 'size': (height, width)}
            for step in self.steps
        ]

    def _list_rectangles(self, rect: bool) -> list[ResizeStep]:
        """The steps to rectangles, or to squares."""
        own = self.metadata['input']
        if rect and not own['dynamic_size']:
            raise OptionError(
                f'rect=True: {self.path} takes images of the fixed height and width '
                f'{own["size"]} only: export it with --imgsz dynamic'
            )
        stride = max(32, *self.metadata['strides'])
        return [
            {'stride': stride, **step, 'mini_pad': rect}
            if step['type'] == 'letterbox'
            else step
            for step in self.steps
        ]

    def __call__(self, image: Image, score_thr: Threshold = 0.3) -> Objects:
        """Detects in one image; the result is that in JSON of ``mmnextvit predict``.

        Args:
            image: Path or array, see :func:`read`.
            score_thr: Minimum score, 0 to 1, or 'best' for each class's own.

        Returns:
            By falling score ``{'class': name, 'score': 0.9876, 'box': [x1, y1, x2,
            y2]}``, in pixels from the image's top left corner.

        Raises:
            ImageError: The image cannot be read.
            ModelFileError: As of :meth:`run`.
            OptionError: As of :meth:`detect`.
        """
        (detections,) = self.detect([image], score_thr)
        return Objects(*detections, self.classes)

    def detect(
        self, images: Iterable[Image], score_thr: Threshold | None = None
    ) -> list[Detections]:
        """Detects in many images, which go through the network in batches.

        Args:
            images: Paths or arrays, see :func:`read`, of any sizes.
            score_thr: Minimum score, 0 to 1; or 'best' for each class's own, which had
                the highest F1 on the validation data. Nothing lies below the file's
                own, which is in ``metadata``.

        Returns:
            An entry for each image.

        Raises:
            ImageError: One cannot be read.
            ModelFileError: As of :meth:`run`.
            OptionError: ``score_thr`` is none, or the file has no best scores.
            TypeError: It is a single image.
        """
        single = isinstance(images, np.ndarray) and images.ndim < 4
        if single or isinstance(images, (str, os.PathLike)):
            raise TypeError('detect() takes a list of images: detect([image])')
        thresholds = self.find_thresholds(score_thr)
        return list(self._detect(map(self.preprocess, images), thresholds))

    def detect_prepared(
        self,
        prepared: Iterable[tuple[np.ndarray, Layout]],
        score_thr: Threshold | None = None,
    ) -> Iterator[Detections]:
        """As :meth:`detect`, of what :meth:`preprocess` has made in another thread."""
        return self._detect(prepared, self.find_thresholds(score_thr))

    def _detect(
        self, prepared: Iterable[tuple[np.ndarray, Layout]], thresholds: MinScores
    ) -> Iterator[Detections]:
        size = self.metadata['input']['batch']
        for batch in group(prepared, size or MAX_BATCH):
            outputs = self.run(stack(batch, size or len(batch)))
            for row, (_, layout) in enumerate(batch):
                one = {name: values[row] for name, values in outputs.items()}
                boxes, scores, labels = self.postprocess(one, thresholds)
                yield Detections(to_image(boxes, layout), scores, labels)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The network's outputs by name, checked; see :func:`check_outputs`.

        Args:
            images: Its input, (B, 3, H, W).

        Raises:
            ModelFileError: The runtime fails on it, or the outputs cannot be.
        """
        with name_file(self.path, self.session.package):
            outputs = self.session.run(images)
        try:
            in_graph = self.metadata['nms']['in_graph']
            check_outputs(outputs, len(images), len(self.classes), in_graph)
        except ValueError as error:
            raise ModelFileError(
                f'{self.path} gives wrong results: {error}. Export the checkpoint again'
            ) from error
        return outputs

    def preprocess(self, image: Image) -> tuple[np.ndarray, Layout]:
        """The resized image and where it goes; :func:`stack` makes the input of it.

        Raises:
            ImageError: It cannot be read.
        """
        return fit(read(image), self.steps)

    def find_thresholds(self, score_thr: Threshold | None) -> MinScores:
        """The minimum score, or each label's; see :func:`find_thresholds`.

        Raises:
            OptionError: It is none, or the file has no best scores.
        """
        best = self.metadata.get('best_scores')
        return find_thresholds(
            0 if score_thr is None else score_thr, best, self.classes
        )

    def postprocess(
        self,
        outputs: dict[str, np.ndarray],
        thresholds: MinScores = 0,
    ) -> Detections:
        """Detections of one image after NMS, in pixels of the network's input.

        Args:
            outputs: One image's row of every output of the session.
            thresholds: Minimum score, or each label's.
        """
        nms, min_score = self.metadata['nms'], float(np.min(thresholds))
        if nms['in_graph']:
            count = int(outputs['num_detections'][0])
            boxes, scores, labels = (outputs[n][:count] for n in Detections._fields)
        else:
            # Lower scores suppress no higher ones. Those of just `min_score` must pass.
            nms = {**nms, 'score_thr': max(nms['score_thr'], min_score - 1e-6)}
            boxes, scores, labels = suppress(outputs['boxes'], outputs['scores'], nms)
        wanted = are_high(scores, labels, thresholds)
        return Detections(boxes[wanted], scores[wanted], labels[wanted])


RECT = "pad to the smallest rectangle, as YOLOv5's detect.py (the file's own way)"
SQUARE = 'pad to a square'


def main(arguments: list[str] | None = None) -> int:
    """``python -m mmnextvit.runtime``; returns the exit code."""
    p = argparse.ArgumentParser('python -m mmnextvit.runtime', description='Predict.')
    p.add_argument('model', help='exported file, or OpenVINO folder')
    p.add_argument('images', nargs='+', metavar='image')
    p.add_argument(
        '--score-thr',
        type=to_threshold,
        default=0.3,
        help="minimum score, 0 to 1, or 'best': each class's own (0.3)",
    )
    p.add_argument('--device', default='cpu', help='cpu, cuda, or as OpenVINO calls it')
    p.add_argument('--threads', type=int, help='of the CPU')
    shape = p.add_mutually_exclusive_group()
    shape.add_argument('--rect', action='store_true', default=None, help=RECT)
    shape.add_argument('--square', dest='rect', action='store_false', help=SQUARE)
    p.add_argument('-o', metavar='FILE', help='a new file for the lines of JSON')
    args = p.parse_args(arguments)
    try:
        options = {'device': args.device, 'threads': args.threads, 'rect': args.rect}
        detector = Detector(args.model, **options)
        detector.find_thresholds(args.score_thr)  # errors come before any image
        if not args.o:
            return print_objects(detector, args.images, args.score_thr, sys.stdout)
        with new_file(args.o) as out:
            return print_objects(detector, args.images, args.score_thr, out)
    except KeyboardInterrupt:
        p.exit(130, 'interrupted\n')
    except (OSError, ValueError, ImportError) as error:
        p.exit(1, f'{error}\n')


def to_threshold(text: str) -> Threshold:
    """A minimum score, for argparse."""
    if text == BEST:
        return BEST
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1, nor 'best'")
    return value


@contextmanager
def new_file(path: str) -> Iterator[TextIO]:
    """A file that did not exist. What Ctrl-C ends keeps its lines, if there are any.

    Raises:
        FileExistsError: It exists.
        OSError: It cannot be written, which ``filename`` says. Half of a line, or none,
            does not stay to stand in the way of the next try.
    """
    file = open(path, 'x', encoding='utf-8')  # noqa: SIM115  (closing may fail, too)
    try:
        yield file
        file.close()
    except BaseException as error:
        with suppress_errors(OSError):
            file.close()
        if not isinstance(error, KeyboardInterrupt) or not os.path.getsize(path):
            os.remove(path)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = path
        raise


def print_objects(
    detector: Detector, images: Iterable[str], score_thr: Threshold, out: TextIO
) -> int:
    """Prints a line of JSON for each image; returns the exit code.

    What is wrong with an image is printed, and the others go on. Threads read the next
    images while the network works.
    """
    code = 0
    files = list(images)
    with open_threads() as threads:
        prepared = map_ahead(threads, partial(try_to_prepare, detector), files)
        for file, one in zip(files, prepared, strict=True):
            if isinstance(one, ImageError):
                print(one, file=sys.stderr)
                code = 1
                continue
            (found,) = detector.detect_prepared([one], score_thr)
            line = {'file': file, 'objects': Objects(*found, detector.classes)}
            print(json.dumps(line), file=out, flush=True)
    return code


def try_to_prepare(
    detector: Detector, file: str
) -> tuple[np.ndarray, Layout] | ImageError:
    """An image as :meth:`Detector.preprocess` makes it, or what is wrong with it."""
    try:
        return detector.preprocess(file)
    except ImageError as error:
        return error


if __name__ == '__main__':
    sys.exit(main())
