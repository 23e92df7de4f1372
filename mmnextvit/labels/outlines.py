"""Masks as polygons, which all tools have, while few take run-length codes."""

from collections.abc import Sequence

import cv2
import numpy as np

from .images import Polygon


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


def join_polygons(polygons: Sequence[Polygon]) -> Polygon:
    """One polygon of all parts, for formats that give an object no more.

    It goes from the end of the first part to each other one, around that, and the same
    way back, so that nothing is added to their area.
    """
    first, *others = polygons
    joined = list(first)
    for other in others:
        joined += [*other, *other[:2], *first[-2:]]
    return joined


def compute_area(polygon: Polygon) -> float:
    """In square pixels."""
    points: np.ndarray = np.reshape(polygon, (-1, 2))
    x, y = points[:, 0], points[:, 1]
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)
