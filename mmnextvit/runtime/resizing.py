"""From an image to the network's input, and boxes back."""

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from .images import Size
from .metadata import ResizeStep

Number = TypeVar('Number', int, float)


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
    elif steps[-1].get('half_pad'):
        origin = to_pair((whole - side) / 2 for whole, side in zip(canvas, size))
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
    """The network's input: (count, C, H, W), float32, 0 to 255; of colours RGB.

    Args:
        prepared: Resized images, whose layouts have the same canvas.
        count: Size of the batch. Places that no image takes are filled evenly.
    """
    image, layout = prepared[0]
    channels = 1 if image.ndim == 2 else image.shape[2]
    shape = (count, channels, *layout.canvas)
    inputs: np.ndarray = np.full(shape, layout.fill, np.float32)
    order = [2, 1, 0, 3] if channels >= 3 else [0]  # of B, G, R and what follows
    for target, (image, layout) in zip(inputs, prepared):
        (top, left), (height, width) = layout.pad, image.shape[:2]
        # Plane by plane is the fastest: OpenCV splits, and NumPy copies whole rows.
        for place, values in zip(order, cv2.split(image)):
            target[place, top : top + height, left : left + width] = values
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
