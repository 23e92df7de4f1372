"""Objects drawn by OpenCV alone."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

Colour = tuple[int, int, int]  # BGR


def choose_colour(number: int) -> Colour:
    """A colour for a label or a track; those of near numbers are easy to tell apart."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.9, 0.95)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_objects(
    image: np.ndarray,
    objects: Sequence[Mapping[str, Any]],
    labels: Sequence[int],
    trails: Mapping[int, np.ndarray] = {},
) -> np.ndarray:
    """An image with boxes, classes, scores in percent and tracks.

    OpenCV's letters are ASCII alone; others become question marks.

    Args:
        image: (H, W, 3), BGR, uint8.
        objects: By falling score, as of :class:`~mmnextvit.runtime.Detector`.
        labels: The label of each, which decides on the colour.
        trails: As of :func:`draw_trails`.

    Returns:
        A new image.
    """
    drawn = np.ascontiguousarray(image).copy()
    draw_trails(drawn, trails)
    size = float(np.sqrt(image.shape[0] * image.shape[1]))
    width, scale = max(1, round(size / 300)), max(size / 1200, 0.35)
    # The most certain one comes last, over the others.
    for found, label in reversed(list(zip(objects, labels))):
        x1, y1, x2, y2 = (round(side) for side in found['box'])
        colour = choose_colour(label)
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, width, cv2.LINE_AA)
        text = f'{found["class"]} {100 * found["score"]:.0f}'
        if found.get('track') is not None:
            text += f' #{found["track"]}'
        text = text.encode('ascii', 'replace').decode()
        font = cv2.FONT_HERSHEY_SIMPLEX
        (wide, high), low = cv2.getTextSize(text, font, scale, 1)
        bottom = max(y1, high + low)
        left = max(min(x1, image.shape[1] - wide), 0)
        corner = left + wide, bottom - high - low
        cv2.rectangle(drawn, (left, bottom), corner, colour, cv2.FILLED)
        white = (255, 255, 255)
        place = left, bottom - low // 2 - 1
        cv2.putText(drawn, text, place, font, scale, white, 1, cv2.LINE_AA)
    return drawn


def draw_trails(image: np.ndarray, trails: Mapping[int, np.ndarray]) -> None:
    """Draws the ways of objects on an image, each track in a colour of its own.

    Args:
        image: (H, W, 3), BGR, uint8, which is drawn on.
        trails: (N, 2), int32, in pixels, by track.
    """
    size = float(np.sqrt(image.shape[0] * image.shape[1]))
    for track, trail in trails.items():
        colour, width = choose_colour(track), max(1, round(size / 200))
        cv2.polylines(image, [trail[:, None]], False, colour, width, cv2.LINE_AA)
