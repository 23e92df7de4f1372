"""Where results go beside JSON: videos and crops, each file whole however it ends."""

import errno
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .frames import open_capture

Write = Callable[..., object]  # (frame, seconds=None)
# Pixels of a side that an image format can hold, of those with a low limit.
JPEG = ('.jpg', '.jpeg', '.jpe')
LIMITS = {**dict.fromkeys(JPEG, 65500), '.webp': 16383}


def name_image(path: Path, image: np.ndarray) -> Path:
    """Where an image (H, W, C) goes: a PNG if the format of ``path`` cannot hold it."""
    limit = LIMITS.get(path.suffix.lower(), math.inf)
    return path if max(image.shape[:2]) <= limit else path.with_name(f'{path.name}.png')


def encode_image(path: Path, image: np.ndarray, quality: int = 95) -> bytes:
    """The content of an image file.

    Args:
        path: Its name's end is the format.
        image: (H, W, 3), BGR, uint8.
        quality: Of a JPEG, up to 100.

    Raises:
        OSError: OpenCV does not write such an image.
    """
    suffix, reason, done, content = path.suffix.lower(), '', False, None
    try:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix in JPEG else []
        done, content = cv2.imencode(suffix, image, options)
    except cv2.error as error:
        reason = f': {" ".join(str(error).split())}'
    if not done or content is None:
        height, width = image.shape[:2]
        problem = f'OpenCV writes no {suffix} of {height} x {width} pixels{reason}'
        raise OSError(errno.EIO, problem, str(path))
    return content.tobytes()


@contextmanager
def open_video(path: Path, fps: float) -> Iterator[Write]:
    """A new MP4 file: gives a function ``write(frame, seconds=None)`` for its frames.

    Frames are (H, W, 3), BGR, uint8; the first one decides on the size of the video.
    Where ``seconds`` are given, as of a live source, a frame is shown for as long as
    the time since the one before, a second at most.

    Args:
        path: The file.
        fps: Frames a second.

    Raises:
        OSError: OpenCV cannot make such a file there, or could not write it to its end.
    """
    writer = cv2.VideoWriter()
    size: tuple[int, int] = (0, 0)
    last, owed = math.nan, 0.0

    def write(frame: np.ndarray, seconds: float | None = None) -> None:
        nonlocal size, last, owed
        if not writer.isOpened():
            size = frame.shape[1], frame.shape[0]
            fourcc = cv2.VideoWriter.fourcc(*'mp4v')
            if not writer.open(str(path), fourcc, fps, size):
                problem = 'OpenCV cannot write a video of this size and rate there'
                raise OSError(errno.EIO, problem, str(path))
        if (frame.shape[1], frame.shape[0]) != size:
            frame = cv2.resize(frame, size)
        owed += (
            1 if seconds is None or math.isnan(last) else min(seconds - last, 1) * fps
        )
        last = math.nan if seconds is None else seconds
        for _ in range(round(owed)):
            writer.write(np.ascontiguousarray(frame))
        owed -= round(owed)

    try:
        yield write
    finally:
        writer.release()
    if any(size) and not can_be_played(path):  # of a full disk OpenCV says nothing
        problem = 'the video could not be written to its end: is the disk full?'
        raise OSError(errno.EIO, problem, str(path))


def can_be_played(path: Path) -> bool:
    """Whether a video has a frame that can be read."""
    capture = open_capture(str(path))
    try:
        return capture.isOpened() and capture.grab()
    finally:
        capture.release()


@contextmanager
def open_kept_video(path: Path, fps: float) -> Iterator[Write]:
    """As :func:`open_video`, with all that was written until the block ends, or raises.

    The file gets its name then, if it can be played; else nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f'.{os.getpid()}.{path.name}')
    try:
        with open_video(scratch, fps) as write:
            yield write
    except OSError as error:
        if error.filename == str(scratch):
            error.filename = str(path)
        raise
    finally:
        if scratch.exists():
            if can_be_played(scratch):
                os.replace(scratch, path)
            else:
                scratch.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file of a folder of results, whole or not at all.

    Raises:
        OSError: It cannot be written, which ``filename`` says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f'.{os.getpid()}.{path.name}')
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    except BaseException as error:
        scratch.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def write_crops(
    folder: Path, name: str, image: np.ndarray, objects: Sequence[Mapping[str, Any]]
) -> None:
    """Writes each object as a JPEG of its own: ``CLASS/NAME_NUMBER.jpg``.

    What is too long for a JPEG becomes a PNG, ``CLASS/NAME_NUMBER.jpg.png``.

    Args:
        folder: Gets a folder for each class.
        name: Path of the image or frame, relative to that of all.
        image: (H, W, 3), BGR, uint8.
        objects: As of :class:`~mmnextvit.runtime.Detector`. A box without a pixel in
            the image has no file.

    Raises:
        OSError: A file cannot be written.
    """
    height, width = image.shape[:2]
    for number, found in enumerate(objects):
        x1, y1, x2, y2 = found['box']
        left, top = max(math.floor(x1), 0), max(math.floor(y1), 0)
        right, bottom = min(math.ceil(x2), width), min(math.ceil(y2), height)
        if left >= right or top >= bottom:
            continue
        kind = re.sub(r'[^\w. -]+', '_', found['class']).strip('. ') or '_'
        crop = np.ascontiguousarray(image[top:bottom, left:right])
        path = name_image(folder / kind / f'{name}_{number}.jpg', crop)
        write_whole(path, encode_image(path, crop))
