"""Images with one red box on grey, stored in every orientation that EXIF knows."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SIDEWAYS = (5, 6, 7, 8)


def write_turned(
    path: Path, orientation: int, size: tuple[int, int] = (64, 48)
) -> tuple[np.ndarray, np.ndarray]:
    """Writes an image; Pillow says what it looks like.

    Args:
        path: The file, of a format without loss to speak of.
        orientation: What EXIF says, 1 to 8.
        size: Width and height as stored.

    Returns:
        The image as stored and as shown, (H, W, 3), RGB.
    """
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    pixels[8:24, 16:40] = 255, 0, 0
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=100, subsampling=0)
    with Image.open(path) as image:
        shown = ImageOps.exif_transpose(image)
        return np.asarray(image), np.asarray(shown)


def find_red(image: np.ndarray, channel: int = 0) -> list[int]:
    """The box around what is red, x1, y1, x2, y2.

    Args:
        image: (H, W, 3).
        channel: Which of the channels is red.
    """
    others = [c for c in range(3) if c != channel]
    red = (image[..., channel] > 200) & (image[..., others] < 60).all(axis=2)
    ys, xs = red.nonzero()
    return [*map(int, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))]
