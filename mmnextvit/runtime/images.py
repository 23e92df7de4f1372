"""Images from files and arrays."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from .errors import ImageError
from .image_tags import keep_colours, read_orientation

MAX_IMAGE_PIXELS = 178_956_970  # of one image, as Pillow has it: 0.5 GiB

# The first bytes of a JPEG or PNG file, and the bytes that end its image.
END_MARKERS = {b'\xff\xd8\xff': b'\xff\xd9', b'\x89PNG': b'IEND\xaeB`\x82'}

# What EXIF's orientations do to an image as it is stored, to show it upright.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}

Image = str | os.PathLike | np.ndarray
Size = tuple[int, int]  # height, width


# What images can be of, as the network's input names it, and how many channels that is.
CHANNELS = {'RGB': 3, 'GRAY': 1, 'RGBA': 4}
CONVERSIONS = {  # from so many channels to so many
    (1, 3): cv2.COLOR_GRAY2BGR,
    (4, 3): cv2.COLOR_BGRA2BGR,
    (3, 1): cv2.COLOR_BGR2GRAY,
    (4, 1): cv2.COLOR_BGRA2GRAY,
}


def has_end(content: bytes) -> bool:
    """Whether a JPEG or PNG reaches its end marker: older OpenCV doesn't mind.

    Other formats count as whole. What follows the end, as phones append, is ignored.
    """
    end = next(
        (e for start, e in END_MARKERS.items() if content.startswith(start)), b''
    )
    if content.endswith(end):
        return True
    # Past the segments before the scan: EXIF's thumbnail has an end of its own.
    at = max(iterate_segments(content), default=2)
    return content.find(end, at) >= 0


def iterate_segments(content: bytes) -> Iterator[int]:
    """Where the segments of a JPEG before its scan begin, and last, where they end."""
    at = 2
    while content[at : at + 1] == b'\xff' and content[at : at + 2] != b'\xff\xda':
        yield at
        at += 2 + int.from_bytes(content[at + 2 : at + 4], 'big')
    yield at


def read_stated_size(content: bytes) -> Size | None:
    """The size that the header of a JPEG or PNG states; ``None`` of other formats."""
    if content.startswith(b'\x89PNG'):
        width, height = content[16:20], content[20:24]
        return int.from_bytes(height, 'big'), int.from_bytes(width, 'big')
    if not content.startswith(b'\xff\xd8\xff'):
        return None
    for at in iterate_segments(content):
        marker = content[at + 1 : at + 2]
        if b'\xc0' <= marker <= b'\xcf' and marker not in b'\xc4\xc8\xcc':
            height, width = content[at + 5 : at + 7], content[at + 7 : at + 9]
            return int.from_bytes(height, 'big'), int.from_bytes(width, 'big')
    return None


def check_number_of_pixels(path: str | os.PathLike, size: Size) -> None:
    """Refuses an image that would fill the memory.

    Raises:
        ImageError: It has more pixels than `MAX_IMAGE_PIXELS`.
    """
    height, width = size
    if height * width > MAX_IMAGE_PIXELS:
        raise ImageError(
            f'{path} is too large: {height} x {width} pixels (height x width), and '
            f'{MAX_IMAGE_PIXELS} in all are allowed. Scale it down'
        )


def decode(path: str | os.PathLike, channels: str = 'RGB') -> np.ndarray:
    """An image file as H x W x 3, BGR, uint8, turned as its EXIF says.

    Of a JPEG or PNG the number of pixels is checked before it is decoded, of another
    format afterwards; OpenCV decodes 2 ** 30 pixels at most.

    Args:
        path: The file.
        channels: What is wanted of it, as of :func:`read`.

    Raises:
        ImageError: It names the file and what is wrong with it.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            # Reading a FIFO or a device may not end.
            raise ImageError(f'{path} cannot be read: it is no regular file')
        content = Path(path).read_bytes()
        if not content:
            raise ImageError(f'{path} is empty')
        if not has_end(content):
            raise ImageError(f'{path} is truncated: copy or download it again')
        if size := read_stated_size(content):
            check_number_of_pixels(path, size)
        if channels == 'RGBA':
            image = decode_all_channels(content)
        else:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise ImageError(f'{path} cannot be read: {error}') from error
    if image is None:
        raise ImageError(f'{path} is truncated, or no image that OpenCV reads')
    check_number_of_pixels(path, image.shape[:2])
    return convert_image(image, channels, os.fspath(path))


def decode_all_channels(content: bytes) -> np.ndarray | None:
    """An image file with the channels that it has, turned as its EXIF says.

    OpenCV reads a fourth channel only where it neither converts nor turns anything.

    Args:
        content: What the file holds.

    Returns:
        (H, W) or (H, W, C), B, G, R first; ``None`` if OpenCV cannot read it.

    Raises:
        cv2.error: Likewise.
    """
    stored = np.frombuffer(keep_colours(content), np.uint8)
    image = cv2.imdecode(stored, cv2.IMREAD_UNCHANGED)
    if image is None:
        return None
    return np.ascontiguousarray(TURNS[read_orientation(content)](image))


def read(image: Image, channels: str = 'RGB') -> np.ndarray:
    """A file or an array as H x W x 3, BGR, uint8.

    Args:
        image: Path, or array of uint8 or uint16: H x W or H x W x 1 (grey),
            H x W x 3 (BGR) or H x W x 4 (BGR and alpha).
        channels: What is wanted of it: 'RGB', without alpha; 'GRAY' for H x W, made of
            colours if need be; or 'RGBA' for H x W x 4 (BGR and alpha, infrared or
            whatever the fourth channel is).

    Raises:
        ImageError: The file cannot be read, the array is none of these, or it has no
            fourth channel.
    """
    if isinstance(image, (str, os.PathLike)):
        return decode(image, channels)
    if not isinstance(image, np.ndarray):
        raise ImageError(f'{type(image)} is neither a path nor a NumPy array')
    return convert_image(image, channels)


def convert_image(
    image: np.ndarray, channels: str = 'RGB', name: str = 'The image'
) -> np.ndarray:
    """An array as :func:`read` gives it.

    Args:
        image: As there.
        channels: As there.
        name: What errors call it.

    Raises:
        ImageError: As there.
    """
    count = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or count not in (1, 3, 4) or not image.size:
        raise ImageError(
            f'{name} is an array of shape {image.shape}: H x W, H x W x 1, '
            'H x W x 3 (BGR) or H x W x 4 (BGR and alpha) is wanted'
        )
    pixels: np.ndarray = image
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)  # as OpenCV reads PNGs
    if pixels.dtype != np.uint8:
        raise ImageError(
            f'{name} is an array of {pixels.dtype}: uint8 (0 to 255) or uint16 '
            '(0 to 65535) is wanted'
        )
    wanted = CHANNELS[channels]
    if wanted == 4 and count != 4:
        raise ImageError(
            f'{name} has {count} {"channel" if count == 1 else "channels"}, and this '
            'detector takes images of 4 (RGB and alpha, infrared or the like): save '
            'all four in one PNG or TIFF file, or take a detector with in_channels = '
            f'{count}'
        )
    if wanted == 1 and count == 1:
        return pixels.reshape(pixels.shape[:2])
    code = CONVERSIONS.get((count, wanted))
    return pixels if code is None else cv2.cvtColor(pixels, code)
