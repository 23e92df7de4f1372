"""Images side by side, and lines of text above an image."""

from collections.abc import Sequence

import cv2
import numpy as np


def draw_contact_sheet(
    images: Sequence[np.ndarray], columns: int, gap: int = 8, colour: int = 255
) -> np.ndarray:
    """Lays images out in rows, each in the middle of a cell of the largest size.

    Args:
        images: H x W x 3 each, uint8; sizes may differ.
        columns: Images in a row.
        gap: Pixels between them and around all.
        colour: Grey value of what they leave free, 0 to 255.

    Returns:
        The sheet, H x W x 3, uint8.
    """
    height = max(p.shape[0] for p in images) + gap
    width = max(p.shape[1] for p in images) + gap
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full(
        (rows * height + gap, columns * width + gap, 3), colour, dtype=np.uint8
    )
    for i, image in enumerate(images):
        h, w = image.shape[:2]
        y = i // columns * height + gap + (height - gap - h) // 2
        x = i % columns * width + gap + (width - gap - w) // 2
        sheet[y : y + h, x : x + w] = image
    return sheet


def draw_captioned(
    image: np.ndarray,
    lines: Sequence[str],
    size: float = 0.5,
    min_width: int = 0,
    indent: int = 1,
) -> np.ndarray:
    """An image below lines of text, widened in white to the text where it is longer.

    Args:
        image: H x W x 3, uint8.
        lines: What to write, ASCII; OpenCV's fonts have nothing else.
        size: Of the letters; 0.5 is about 11 pixels high.
        min_width: Of the whole in pixels.
        indent: Pixels left of the text.

    Returns:
        H x W x 3, uint8.
    """
    font, step = cv2.FONT_HERSHEY_SIMPLEX, round(40 * size)
    widths = [cv2.getTextSize(line, font, size, 1)[0][0] for line in lines]
    height, width = image.shape[:2]
    top = len(lines) * step + 6
    width_of_all = max(width, min_width, 2 * indent + max(widths))
    sheet = np.full((top + height, width_of_all, 3), 255, dtype=np.uint8)
    sheet[top:, :width] = image
    for i, line in enumerate(lines, start=1):
        at = indent, i * step - 2
        cv2.putText(sheet, line, at, font, size, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet
