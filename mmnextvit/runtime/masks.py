"""Masks of detections, made of what the network gives of them.

The network gives prototypes, which are maps of the whole image, and coefficients of
each detection: a mask is where their weighted sum is positive, or beyond another
threshold, inside of its box. They are computed as MMYOLO's ``YOLOv5InsHead`` does.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import cv2
import numpy as np

from .images import Size
from .metadata import MaskSettings
from .resizing import Layout

MAX_LOGIT = 80  # beyond, a sigmoid in float32 changes no more

Polygon = list[float]  # x1, y1, x2, y2, ... in pixels


class RLE(TypedDict):
    """A mask as COCO's uncompressed run-length code."""

    size: list[int]  # height, width
    counts: list[int]  # pixels off and on in turn, column by column


class Masks(Sequence[np.ndarray]):
    """The masks in an image, in its pixels, each made when it is asked for.

    ``masks[i]`` is that of a detection, (H, W), bool; ``len(masks)`` is N. What selects
    several of an array's rows, as a slice, their numbers or N bools, selects masks.

    Attributes:
        size: The image's height and width.
    """

    size: Size

    def __getitem__(self, index: Any) -> Any:
        """The mask of a number, (H, W), bool, or those of several, which are ``Masks``.

        Raises:
            IndexError: There are fewer masks, or it selects no rows of an array.
        """
        rows = np.arange(len(self))[index]
        if np.ndim(rows) > 1:
            raise IndexError(f'masks have one axis, and the index has {np.ndim(rows)}')
        return self.take(rows) if np.ndim(rows) else self.make(int(rows))

    @abstractmethod
    def make(self, row: int) -> np.ndarray:
        """The mask of a row from 0 to N - 1: (H, W), bool."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> 'Masks':
        """The masks of some rows (M,) from 0 to N - 1."""

    @staticmethod
    @abstractmethod
    def cat(parts: Sequence[Any]) -> 'Masks':
        """The masks of several objects of this class, of one image.

        MMEngine's ``InstanceData`` asks what it holds for this, to select some of it.
        """

    def to_array(self) -> np.ndarray:
        """(N, H, W), bool: all masks at once."""
        masks: np.ndarray = np.empty((len(self), *self.size), bool)
        for one, mask in zip(masks, self):
            one[:] = mask
        return masks

    def to_polygons(self) -> list[list[Polygon]]:
        """The outlines of each mask's parts; see :func:`outline_mask`."""
        return [outline_mask(mask) for mask in self]

    def to_rles(self) -> list[RLE]:
        """Each mask as a run-length code; see :func:`encode_mask`."""
        return [encode_mask(mask) for mask in self]


@dataclass(frozen=True)
class ComputedMasks(Masks):
    """Masks that are computed of what the network gives.

    Args:
        coefficients: (N, M).
        prototypes: (M, h, w).
        boxes: (N, 4), x1, y1, x2, y2 in pixels of the network's input.
        layout: Where the image lies there.
        settings: ``masks`` of the metadata.
    """

    coefficients: np.ndarray
    prototypes: np.ndarray
    boxes: np.ndarray
    layout: Layout
    settings: MaskSettings

    @property
    def size(self) -> Size:  # type: ignore[override]
        return self.layout.image

    def __len__(self) -> int:
        return len(self.coefficients)

    def take(self, rows: np.ndarray) -> 'ComputedMasks':
        coefficients, boxes = self.coefficients[rows], self.boxes[rows]
        return replace(self, coefficients=coefficients, boxes=boxes)

    @staticmethod
    def cat(parts: Sequence['ComputedMasks']) -> 'ComputedMasks':
        coefficients = np.concatenate([one.coefficients for one in parts])
        boxes = np.concatenate([one.boxes for one in parts])
        return replace(parts[0], coefficients=coefficients, boxes=boxes)

    def make(self, row: int) -> np.ndarray:
        threshold = self.settings['threshold']
        values = self._compute(row)
        size = self.layout.image[::-1]
        if self.settings['smooth']:
            return cv2.resize(values, size, interpolation=cv2.INTER_LINEAR) > threshold
        mask = (values > threshold).astype(np.uint8)
        return cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR) > 0

    def _compute(self, row: int) -> np.ndarray:
        """Probabilities of a mask in the input, without its padding; 0 off its box."""
        height, width = self.layout.canvas
        logits = np.tensordot(self.coefficients[row], self.prototypes, 1)
        values = 1 / (1 + np.exp(-logits.clip(-MAX_LOGIT, MAX_LOGIT)))
        values = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
        x1, y1, x2, y2 = self.boxes[row]
        columns, rows = np.arange(width), np.arange(height)
        values[(rows < y1) | (rows >= y2)] = 0
        values[:, (columns < x1) | (columns >= x2)] = 0
        # Of a padding that is no whole pixels, or of which one side has a pixel more,
        # MMYOLO cuts as much off both sides.
        top, left = (np.float32(side) for side in self.layout.origin)
        bottom, right = int(height - top), int(width - left)
        return values[int(top) : bottom, int(left) : right]


def outline_mask(mask: np.ndarray) -> list[Polygon]:
    """The outlines of a mask's parts, along their pixels' edges; holes are filled.

    Args:
        mask: (H, W), bool.

    Returns:
        ``[x1, y1, x2, y2, ...]`` of each part, in pixels from the upper left corner.
    """
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    inside: np.ndarray = mask[top : top + height, left : left + width].astype(np.uint8)
    if not width:
        return []
    # OpenCV's contours are through the middles of pixels. In an image of twice the size
    # they are at 2 n and 2 n + 1, for the edges n and n + 1 of the pixel n.
    large = cv2.resize(inside, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    parts, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((part[:, 0] + 1) // 2 + (left, top)).ravel().tolist() for part in parts]


def encode_mask(mask: np.ndarray) -> RLE:
    """A mask (H, W), bool, as COCO's uncompressed run-length code."""
    pixels = mask.ravel(order='F')
    changes: np.ndarray = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(np.concatenate(([0], changes, [pixels.size]))).tolist()
    first = [0] if pixels.size and pixels[0] else []  # they begin with what is off
    return {'size': list(mask.shape), 'counts': [*first, *counts]}
