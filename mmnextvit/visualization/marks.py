"""Boxes of several kinds on an image, each with a short text."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageColor, ImageDraw, ImageFont


class Mark(NamedTuple):
    """A box that is drawn.

    Attributes:
        box: x1, y1, x2, y2 in pixels.
        colour: As Pillow takes it.
        text: What is written at it.
        dashed: Whether its line is dashed.
        width: Of its line in pixels.
    """

    box: Sequence[float] | np.ndarray
    colour: str
    text: str = ''
    dashed: bool = False
    width: int = 2


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own font, which has the letters of most alphabets."""
    return ImageFont.truetype(font_manager.findfont('DejaVu Sans'), size)


def draw_marks(
    image: np.ndarray,
    marks: Sequence[Mark],
    side: int = 640,
    font_size: int = 12,
) -> np.ndarray:
    """An image of a certain size with boxes; texts are drawn above all of them.

    Args:
        image: (H, W, 3), RGB, uint8.
        marks: In pixels of ``image``; later ones cover earlier ones.
        side: Pixels that the longer side is resized to.
        font_size: Of the texts, in pixels.

    Returns:
        (h, w, 3), RGB, uint8.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shown = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    drawing = ImageDraw.Draw(shown)
    scaled = [(mark, [float(v) * scale for v in mark.box]) for mark in marks]
    for mark, box in scaled:
        _draw_box(drawing, box, mark)
    font = load_font(font_size)
    for mark, (left, top, _, bottom) in scaled:
        if mark.text:
            _draw_text(drawing, size, left, top, bottom, mark, font)
    return np.asarray(shown)


def _draw_box(drawing: ImageDraw.ImageDraw, box: list[float], mark: Mark) -> None:
    x1, y1, x2, y2 = box
    if not mark.dashed:
        corners = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
        drawing.rectangle(corners, outline=mark.colour, width=mark.width)
        return
    for start, end in (
        ((x1, y1), (x2, y1)),
        ((x2, y1), (x2, y2)),
        ((x2, y2), (x1, y2)),
        ((x1, y2), (x1, y1)),
    ):
        _draw_dashes(drawing, np.array(start), np.array(end), mark)


def _draw_dashes(
    drawing: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray, mark: Mark
) -> None:
    length = float(np.hypot(*(end - start)))
    count = max(1, int(length // 9))
    for number in range(count):
        ends = [
            tuple(start + (end - start) * (number + share) / count)
            for share in (0.0, 0.6)
        ]
        drawing.line(ends, fill=mark.colour, width=mark.width)


def _draw_text(
    drawing: ImageDraw.ImageDraw,
    size: tuple[int, int],
    left: float,
    top: float,
    bottom: float,
    mark: Mark,
    font: ImageFont.FreeTypeFont,
) -> None:
    """Writes a text above a box, or below it where there is no space above."""
    x1, y1, x2, y2 = font.getbbox(mark.text)
    width, height = x2 - x1 + 4, y2 - y1 + 4
    x = min(max(left, 0), max(size[0] - width, 0))
    y = top - height if top >= height else min(bottom, size[1] - height)
    drawing.rectangle([x, y, x + width, y + height], fill=mark.colour)
    red, green, blue = ImageColor.getrgb(mark.colour)[:3]
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    ink = '#000000' if bright else '#ffffff'
    drawing.text((x + 2 - x1, y + 2 - y1), mark.text, fill=ink, font=font)
