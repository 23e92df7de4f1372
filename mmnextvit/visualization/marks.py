"""Boxes of several kinds on an image, each with a short text."""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

MARGIN = 2  # pixels around a text


class Mark(NamedTuple):
    """A box that is drawn.

    Attributes:
        box: x1, y1, x2, y2 in pixels.
        colour: As Pillow takes it.
        text: What is written at it.
        dashed: Whether its line is dashed.
        width: Of its line in pixels.
        font_size: Of the text in pixels; that of all if ``None``.
    """

    box: Sequence[float] | np.ndarray
    colour: str
    text: str = ''
    dashed: bool = False
    width: int = 2
    font_size: int | None = None


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own font, which has the letters of most alphabets."""
    path = Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    return ImageFont.truetype(str(path), size)


def draw_marks(
    image: np.ndarray,
    marks: Sequence[Mark],
    side: int = 640,
    font_size: int = 12,
) -> np.ndarray:
    """An image of a certain size with boxes; texts are drawn above all of them.

    Args:
        image: (H, W, 3), RGB, uint8.
        marks: In pixels of ``image``; later ones cover earlier ones. What lies beyond
            the image's border is drawn at the border.
        side: Pixels that the longer side is resized to.
        font_size: Of the texts, in pixels.

    Returns:
        (h, w, 3), RGB, uint8.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shown = Image.fromarray(image)
    if size != shown.size:
        shown = shown.resize(size, Image.Resampling.LANCZOS)
    drawing = ImageDraw.Draw(shown)
    last = np.array(size * 2) - 1
    boxes = [np.clip(np.multiply(mark.box, scale), 0, last).tolist() for mark in marks]
    for mark, box in zip(marks, boxes):
        _draw_box(drawing, box, mark)
    texts = [render_text(mark.text, mark.font_size or font_size) for mark in marks]
    corners = place_texts(boxes, [text.size for text in texts], size)
    for mark, text, corner in zip(marks, texts, corners):
        if mark.text:
            _draw_text(shown, drawing, text, corner, mark.colour)
    return np.asarray(shown)


@lru_cache(maxsize=4096)
def render_text(text: str, size: int) -> Image.Image:
    """A text with a margin, white on black, in grey (mode ``L``).

    Many are drawn more than once, and rendering takes most of a drawing's time.

    Args:
        text: Of one line; an empty one has no size.
        size: Of its font in pixels.
    """
    if not text:
        return Image.new('L', (0, 0))
    font = load_font(size)
    x1, y1, x2, y2 = map(int, font.getbbox(text))
    rendered = Image.new('L', (x2 - x1 + 2 * MARGIN, y2 - y1 + 2 * MARGIN))
    at = MARGIN - x1, MARGIN - y1
    ImageDraw.Draw(rendered).text(at, text, fill=255, font=font)
    return rendered


def place_texts(
    boxes: Sequence[Sequence[float]],
    sizes: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
) -> list[tuple[int, int]]:
    """Where the text of each box goes, so that it covers other texts least.

    That is above the box if there is space, else inside it or below. Later ones choose
    first. What is taken is noted by pixel, so that each text costs the same, however
    many there are.

    Args:
        boxes: x1, y1, x2, y2 of each, inside the image.
        sizes: Width and height of each text.
        image_size: Width and height of the image.

    Returns:
        The left upper corner of each, x and y.
    """
    taken: np.ndarray = np.zeros(image_size[::-1], bool)
    corners = []
    for (x1, y1, x2, y2), (width, height) in reversed(list(zip(boxes, sizes))):
        rows, columns = (y1 - height, y1, y2 - height, y2), (x1, x2 - width)
        corner, place = (0, 0), taken[:0]
        least: float = math.inf
        for y, x in product(rows, columns):
            top = int(min(max(y, 0), max(image_size[1] - height, 0)))
            left = int(min(max(x, 0), max(image_size[0] - width, 0)))
            area = taken[top : top + height, left : left + width]
            covered = int(np.count_nonzero(area))
            if covered < least:
                least, corner, place = covered, (left, top), area
            if not covered:
                break
        place[:] = True
        corners.append(corner)
    return corners[::-1]


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
    shown: Image.Image,
    drawing: ImageDraw.ImageDraw,
    text: Image.Image,
    corner: tuple[int, int],
    colour: str,
) -> None:
    """Writes a rendered text on a background of its mark's colour."""
    (x, y), (width, height) = corner, text.size
    drawing.rectangle([x, y, x + width - 1, y + height - 1], fill=colour)
    red, green, blue = ImageColor.getrgb(colour)[:3]
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    shown.paste('#000000' if bright else '#ffffff', corner, text)
