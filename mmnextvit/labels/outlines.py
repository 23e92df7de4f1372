"""Polygons of masks, which all tools have, while few take run-length codes."""

from collections.abc import Sequence

import numpy as np

from ..runtime import outline_mask
from .images import Polygon

__all__ = ['compute_area', 'join_polygons', 'outline_mask']


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
