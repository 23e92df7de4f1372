"""What an exported file says of itself, and whether it can be."""

import json
import os
from collections.abc import Sequence
from typing import Any, NotRequired, Required, TypedDict

from .errors import ModelFileError
from .images import CHANNELS
from .json_checks import (
    FLAG,
    TEXT,
    each,
    each_value,
    number,
    one_of,
    optional,
    record,
    wanting,
    whole,
)

KEY = 'mmnextvit'  # of the metadata in every format
FORMAT = 1  # of the metadata: a file with a higher one needs a newer mmnextvit
MAX_METADATA = 1 << 22  # characters
MAX_SIDE = 1 << 14  # pixels, of the network's input
MAX_PIXELS = 1 << 28  # of all images in a batch, which take 3 GiB


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
    half_pad: bool  # boxes come back by half of the padding, if it is no whole pixels


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


class MaskSettings(TypedDict):
    """What masks are made of, and how."""

    channels: int  # how many prototypes there are
    threshold: float  # of a pixel's probability, 0 to 1
    smooth: bool  # whether it is applied in the image's size, or before that


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
    masks: NotRequired[MaskSettings]  # of a network that finds masks


def check_step(key: str, value: Any) -> None:
    """A step on an image's way to the network."""
    record({'type': one_of(*STEP_CHECKS)})(key, value)
    STEP_CHECKS[value['type']](key, value)


SIZE = each(whole(1, MAX_SIDE), 2, 2)

STEP_CHECKS = {
    'keep_ratio': record({'scale': SIZE}),
    'letterbox': record(
        {'size': SIZE, 'fill': number(0, 255), 'scale_up': FLAG, 'mini_pad': FLAG},
        {'stride': whole(1, 1024), 'exact': FLAG, 'half_pad': FLAG},
    ),
}

CHANNEL_VALUES = each(number(-1e6, 1e6), 1, 4)

METADATA = record(
    {
        'format': whole(1, FORMAT),
        'classes': each(TEXT, 1, 100_000),
        'strides': each(whole(1, 1024), 1, 16),
        'input': record(
            {'batch': optional(whole(1, 4096)), 'size': SIZE, 'dynamic_size': FLAG},
            {'name': TEXT, 'channels': one_of(*CHANNELS), 'range': one_of([0, 255])},
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
        'masks': record(
            {'channels': whole(1, 4096), 'threshold': number(0, 1), 'smooth': FLAG}
        ),
        'normalization': record(
            {'mean': CHANNEL_VALUES, 'std': CHANNEL_VALUES, 'in_graph': one_of(True)}
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
    count = count_channels(metadata)
    normalization = metadata.get('normalization', {})
    for key in ('mean', 'std'):
        values = normalization.get(key, [0] * count)
        if len(values) != count:
            raise ValueError(
                f'normalization.{key} has {len(values)} values, and the images have '
                f'{count} channels'
            )
    of_classes = metadata.get('best_scores', {}).get('classes', {})
    unknown = [name for name in of_classes if name not in metadata['classes']]
    if unknown:
        raise ValueError(
            f'best_scores.classes has {ascii(unknown[0])[:60]}, and must have names of '
            'classes only'
        )


def get_channels(metadata: Metadata) -> str:
    """What a network's images are: a key of :data:`~.images.CHANNELS`."""
    return metadata['input'].get('channels', 'RGB')


def count_channels(metadata: Metadata) -> int:
    """How many channels a network's images have."""
    return CHANNELS[get_channels(metadata)]


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
