"""Images as a program has them, in the form that detectors take.

What a file, an array and an image of Pillow's say of the same picture is the same.
"""

import os
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps

from ..runtime import ImageError, read
from ..utils.messages import tell
from .images import BrokenImageError, read_image

Input: TypeAlias = str | os.PathLike | np.ndarray | Image.Image

# Pillow's modes of 16 bits, whose ``convert`` would cut off all above 255.
SIXTEEN_BITS = ('I;16', 'I;16L', 'I;16B', 'I;16N', 'I')


def load_input(image: Input, color_type: str = 'color') -> np.ndarray:
    """An image as H x W x 3, BGR, uint8.

    Of 16 bits the upper 8 are taken, alpha is dropped, and EXIF's orientation is
    applied, as where a file is read.

    Args:
        image: A path; an image of Pillow's, of any mode; or an array of uint8 or
            uint16: H x W or H x W x 1 (grey), H x W x 3 (BGR, as OpenCV has it) or
            H x W x 4 (BGR and alpha).
        color_type: 'bgra' for H x W x 4, which the image must have; of others the
            pipeline makes grey images.

    Raises:
        BrokenImageError: It is none of these, or cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(os.fspath(image), color_type=with_colours(color_type))
    channels = 'RGBA' if color_type == 'bgra' else 'RGB'
    try:
        if isinstance(image, Image.Image):
            image = convert_pillow(image, channels)
        elif not isinstance(image, np.ndarray):
            raise ImageError(
                f'{type(image).__name__} is no image: a path, a NumPy array (BGR, '
                'uint8) or an image of Pillow is wanted'
            )
        return np.ascontiguousarray(read(image, channels))
    except ImageError as error:
        raise BrokenImageError(str(error)) from error


def with_colours(color_type: str) -> str:
    """How to load an image that is drawn on, too, from which a grey one is made."""
    return color_type if color_type == 'bgra' else 'color'


def convert_pillow(image: Image.Image, mode: str = 'RGB') -> np.ndarray:
    """An image of Pillow's as an array that :func:`~mmnextvit.runtime.read` takes.

    Args:
        image: The image.
        mode: 'RGB', or 'RGBA' to keep a fourth channel, if there is one.

    Raises:
        ImageError: Its file is broken, or it holds numbers of no known range.
    """
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode not in SIXTEEN_BITS:
            if image.mode == 'F':
                raise ImageError(
                    "the image is one of Pillow's mode F, whose numbers have no known "
                    'range: convert it to L or RGB'
                )
            # OpenCV reads a grey PNG with one transparent value as grey.
            transparent = image.has_transparency_data and image.mode not in ('1', 'L')
            if mode == 'RGBA' and transparent:
                return np.asarray(image.convert('RGBA'))[..., [2, 1, 0, 3]]
            return np.asarray(image.convert('RGB'))[..., ::-1]
        grey = np.asarray(image)
    except OSError as error:
        raise ImageError(f'the image cannot be read: {tell(error)}') from error
    if grey.size and (grey.min() < 0 or grey.max() >= 1 << 16):
        raise ImageError(
            "the image is one of Pillow's mode I with values outside 0 to 65535: "
            'convert it to L or RGB'
        )
    return grey.astype(np.uint16)
