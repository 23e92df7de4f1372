"""Reading image files, with an error that names the file where one isn't whole."""

import io
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
from mmengine.dist import get_rank
from mmengine.logging import print_log
from PIL import Image
from rich.progress import track

from ..runtime import (
    END_MARKERS,
    TURNS,
    ImageError,
    convert_image,
    decode_all_channels,
    has_end,
)
from ..utils.errors import UserError
from ..utils.files import check_is_file
from ..utils.messages import tell
from .cut_jpeg import Cut, measure_cut
from .files import is_local, read_bytes

MIN_SHARE = 0.95  # of the rows of a JPEG without an end, for it to be used
ORIENTATION = 0x112  # EXIF's tag
LOG_LEVEL = cv2.utils.logging.getLogLevel()  # before several threads change it

INVERSE = {6: 8, 8: 6}  # the other turns are their own
SIDEWAYS = (5, 6, 7, 8)  # those that swap width and height

# What is to be told of a data set's images, by its name: "3 of 9 images ...".
REMARKS = {
    'broken': 'are broken and have been skipped',
    'cut': 'lack their last bytes: their last rows are grey, at most 5 % of them',
    'turned': (
        'have an EXIF orientation that their annotations, which say their size, do '
        'not show to count or not (a square image, or one turned by 180 degrees or '
        'mirrored): they are turned as viewers show them'
    ),
}

# What images are that are loaded in a way, in the runtime's words. A grey image is made
# of a colour one, as whoever has that in memory does it, and not by the decoder.
CHANNELS_OF = {'grayscale': 'GRAY', 'color': 'RGB', 'bgra': 'RGBA'}

Size = tuple[int, int]  # width, height


class BrokenImageError(UserError):
    """An image that cannot be used: empty, truncated, none at all, of another size."""


class WrongSizeError(BrokenImageError):
    """An image whose size is not that of its annotations."""


class Reading(NamedTuple):
    """An image as it was read.

    Attributes:
        image: H x W x C (BGR) or H x W, usually uint8 in 0..255.
        remarks: Keys of `REMARKS` that hold for it.
        cut: How much of it is there, if it is a JPEG that lacks its last bytes.
    """

    image: np.ndarray
    remarks: list[str]
    cut: Cut | None = None


class Header(NamedTuple):
    """What stands in a file before the image.

    Attributes:
        size: Width and height as stored, before EXIF turns the image.
        orientation: EXIF's, 1 to 8.
        format: Pillow's name of it.
    """

    size: Size
    orientation: int
    format: str


def read_header(file: str | io.BytesIO) -> Header | None:
    """Size and orientation of an image; ``None`` for formats that Pillow cannot read.

    Raises:
        BrokenImageError: The image has more pixels than Pillow allows.
    """
    try:
        with Image.open(file) as image:
            # To look for EXIF that a header lacks, Pillow would decode a whole PNG.
            has_exif = 'exif' in image.info or image.format == 'TIFF'
            orientation = image.getexif().get(ORIENTATION) if has_exif else None
            return Header(
                image.size, orientation if orientation in TURNS else 1, image.format
            )
    except Image.DecompressionBombError as error:
        limit = str(error).partition(',')[0]
        raise BrokenImageError(
            f'the image is too large: {limit}. Scale it down, or set half of the limit '
            'that you need as PIL.Image.MAX_IMAGE_PIXELS'
        ) from error
    except Exception:  # Pillow raises many types; what loads the image decides
        return None


def read_image_size(path: str, backend_args: dict | None = None) -> Size:
    """Width and height that the loaded image has, from the file's header.

    Args:
        path: File, local or of a backend that MMEngine knows.
        backend_args: MMEngine's file backend.

    Raises:
        BrokenImageError: It is no image.
        OSError: It cannot be looked at.
        UserError: It is a FIFO or a device.
    """
    if is_local(path, backend_args):
        check_is_file(path)
        header = read_header(path)
    else:
        header = read_header(io.BytesIO(read_bytes(path, backend_args)))
    if header and header.orientation not in SIDEWAYS:
        return header.size
    if header and header.format in ('JPEG', 'MPO'):
        return header.size[::-1]
    # Whether OpenCV turns other formats depends on its version.
    height, width = read_image(path, backend_args=backend_args).shape[:2]
    return width, height


def measure_images(
    paths: Sequence[str], title: str, backend_args: dict | None = None
) -> tuple[dict[str, Size], dict[str, BrokenImageError]]:
    """Reads the sizes of images from their headers, with a progress bar.

    Args:
        paths: Files, local or of a backend that MMEngine knows.
        title: What stands at the progress bar.
        backend_args: MMEngine's file backend.

    Returns:
        Width and height of each; and what is wrong with those that cannot be read.
    """

    def measure(path: str) -> Size | BrokenImageError:
        try:
            return read_image_size(path, backend_args)
        except BrokenImageError as error:
            return error
        except UserError as error:
            return BrokenImageError(error.problem, file=path)
        except OSError as error:
            return BrokenImageError(
                f'the file cannot be read ({error.strerror})', file=path
            )

    with ThreadPoolExecutor() as pool:
        progress = track(
            pool.map(measure, paths),
            description=title,
            total=len(paths),
            disable=get_rank() != 0 or not paths,
        )
        results = dict(zip(paths, progress, strict=True))
    broken = {p: r for p, r in results.items() if isinstance(r, BrokenImageError)}
    sizes = {p: r for p, r in results.items() if not isinstance(r, BrokenImageError)}
    return sizes, broken


def find_unread_part(content: bytes) -> Cut | None:
    """How much of a file's image is there; ``None`` for all of it.

    Raises:
        BrokenImageError: It is truncated, and no JPEG of which enough is there.
    """
    if has_end(content):
        return None
    cut = Cut(content, 0)
    if content.startswith(b'\xff\xd8\xff'):
        cut = measure_cut(content)
    if not cut.height or cut.rows < MIN_SHARE * cut.height:
        part = f' after {cut.rows} of {cut.height} rows' if cut.rows else ''
        raise BrokenImageError(
            f'the image is truncated{part}: copy or download it again'
        )
    return cut


def orient(image: np.ndarray, header: Header | None, stated: Size) -> np.ndarray:
    """An image in the orientation that its annotations were made in.

    Args:
        image: As it was decoded, turned by EXIF or as it is stored.
        header: The file's.
        stated: Width and height in the annotations.

    Raises:
        WrongSizeError: The image has another size in every orientation.
    """
    size = image.shape[1], image.shape[0]
    if size == stated:
        return image
    if header and header.orientation in SIDEWAYS and size[::-1] == stated:
        orientation = header.orientation
        if size != header.size:  # it has been turned
            orientation = INVERSE.get(orientation, orientation)
        return np.ascontiguousarray(TURNS[orientation](image))
    hint = ''
    if size[::-1] == stated:
        hint = ', the same turned by 90 degrees, which the file has no EXIF tag for'
    raise WrongSizeError(
        f'the image is {size[0]} x {size[1]} pixels (width x height), but its '
        f'annotations say {stated[0]} x {stated[1]}{hint}. Correct width and height '
        'there if the boxes are of this image, else put the annotated image here'
    )


def is_unsettled(header: Header | None, size: Size) -> bool:
    """Whether an image's size does not show if boxes are of it as EXIF turns it."""
    if header is None or header.orientation == 1:
        return False
    return header.orientation not in SIDEWAYS or size[0] == size[1]


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV's own messages back, which do not name the file."""
    cv2.utils.logging.setLogLevel(0)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(LOG_LEVEL)


def load_image(
    path: str,
    color_type: str = 'color',
    imdecode_backend: str | None = None,
    backend_args: dict | None = None,
    decode_twice: bool = False,
    stated: Size | None = None,
    measured: bool = False,
    content: bytes | None = None,
) -> Reading:
    """Reads an image, makes sure that it can be used, and says what is odd about it.

    A JPEG or PNG without its end marker is refused, since OpenCV's older versions
    return it half grey, unless it is a JPEG of whose rows at least 95 % are there. One
    that goes on after the marker is decoded by Pillow too, which refuses truncated
    files. Of every other file only the header is read besides.

    Args:
        path: File, local or of a backend that MMEngine knows.
        color_type: mmcv's flag: ``'color'``, ``'grayscale'``, ``'unchanged'``, ...; or
            ``'bgra'`` for four channels, uint8, which the file must have.
        imdecode_backend: mmcv's decoder; mmcv's global one if ``None``. Four channels
            are decoded by OpenCV.
        backend_args: MMEngine's file backend.
        decode_twice: Have Pillow decode every JPEG and PNG.
        stated: Width and height in the annotations, if there are any. An image that
            EXIF turns sideways comes in the orientation that has this size.
        measured: Whether ``stated`` was read from the image, since its annotations say
            no size: their boxes are of the image as it is shown.
        content: What the file holds, if it has been read already.

    Raises:
        BrokenImageError: It names the file and what is wrong with it.
        WrongSizeError: It has another size than ``stated``.
    """
    try:
        if content is None:
            content = read_bytes(path, backend_args)
        if not content:
            raise BrokenImageError('the file is empty')
        header = read_header(io.BytesIO(content))
        cut = find_unread_part(content)
        for start, end in END_MARKERS.items():
            if (
                content.startswith(start)
                and not cut
                and (decode_twice or not content.endswith(end))
            ):
                Image.open(io.BytesIO(content)).load()
        with quiet_opencv():
            if color_type == 'bgra':
                image = decode_all_channels(content)
            else:
                image = mmcv.imfrombytes(
                    cut.content if cut else content,
                    flag='color' if color_type == 'grayscale' else color_type,
                    # In OpenCV, libjpeg would print a warning that names no file.
                    backend='pillow' if cut else imdecode_backend,
                )
        if image is None:
            raise BrokenImageError('the image is truncated, or no image')
        if color_type in ('grayscale', 'bgra'):
            image = convert(image, color_type)
        image = image if stated is None else orient(image, header, stated)
    except UserError as error:
        error_type = (
            type(error) if isinstance(error, BrokenImageError) else BrokenImageError
        )
        raise error_type(error.problem, file=path) from error
    except Exception as error:  # OpenCV and Pillow raise many types
        raise BrokenImageError(
            f'the image cannot be read: {tell(error)}', file=path
        ) from error
    remarks = ['cut'] if cut else []
    if stated is not None and not measured and is_unsettled(header, stated):
        remarks.append('turned')
    return Reading(image, remarks, cut)


def convert(image: np.ndarray, color_type: str) -> np.ndarray:
    """An array as a detector takes it whose images are loaded in this way.

    Args:
        image: As of :func:`mmnextvit.runtime.read`.
        color_type: As of :func:`load_image`.

    Raises:
        BrokenImageError: It cannot be, since it lacks a fourth channel.
    """
    try:
        return convert_image(image, CHANNELS_OF.get(color_type, 'RGB'), 'the image')
    except ImageError as error:
        raise BrokenImageError(str(error)) from error


def read_image(path: str, **kwargs: Any) -> np.ndarray:
    """The image that `load_image` reads; a warning names one that lacks its end.

    Args:
        path: The file.
        kwargs: Those of `load_image`.

    Raises:
        BrokenImageError: It names the file and what is wrong with it.
    """
    image, _, cut = load_image(path, **kwargs)
    if cut:
        print_log(
            f'{path}: the file lacks its last bytes. {cut.rows} of {cut.height} rows '
            'of the image are there, the others are grey',
            logger='current',
            level=logging.WARNING,
        )
    return image


def check_images(
    infos: Sequence[dict], title: str, backend_args: dict | None = None
) -> tuple[dict[str, BrokenImageError], dict[str, list[str]]]:
    """Decodes all images with a progress bar, and compares their sizes.

    Args:
        infos: Path (``img_path``), ``width`` and ``height`` of each image, and whether
            these were measured (``size_measured``). Files are local or of a backend
            that MMEngine knows.
        title: What stands at the progress bar.
        backend_args: MMEngine's file backend.

    Returns:
        The errors of those that cannot be used, by path; and the paths of others, by
        the key of what `REMARKS` says of them.
    """

    def look_at(info: dict) -> BrokenImageError | list[str]:
        try:
            return load_image(
                info['img_path'],
                backend_args=backend_args,
                decode_twice=True,
                stated=(info['width'], info['height']),
                measured=info.get('size_measured', False),
            ).remarks
        except BrokenImageError as error:
            return error

    with ThreadPoolExecutor() as pool:
        progress = track(
            pool.map(look_at, infos),
            description=title,
            total=len(infos),
            disable=get_rank() != 0,
        )
        found = {i['img_path']: r for i, r in zip(infos, progress, strict=True)}
    broken = {p: r for p, r in found.items() if isinstance(r, BrokenImageError)}
    remarks = {
        key: [p for p, r in found.items() if p not in broken and key in r]
        for key in REMARKS
    }
    return broken, remarks
