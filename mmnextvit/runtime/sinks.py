"""Where results go: lines of JSON, videos, crops; each file whole, however it ends."""

import errno
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

MAX_PAUSE = 1.0  # seconds of a still picture, where a live source gives nothing
Write = Callable[[np.ndarray], object]


class LinesFile:
    """A new file of JSON, a line for each entry, which is there once it is added.

    Args:
        path: A file that does not exist.

    Raises:
        FileExistsError: It exists.
        OSError: It cannot be written.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        # Without a buffer no half of a line waits for the next one.
        self._file = open(path, 'xb+', buffering=0)  # noqa: SIM115
        self._end = 0

    def append(self, entry: dict[str, Any]) -> None:
        """Adds an entry.

        Raises:
            OSError: The disk is full; the file keeps the lines before.
        """
        left = memoryview(f'{json.dumps(entry)}\n'.encode())
        length = len(left)
        self._file.seek(self._end)
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
        except BaseException:
            self._file.truncate(self._end)
            raise
        self._end += length

    def read_lines(self) -> Iterator[str]:
        """Each line that was added so far."""
        with open(self._file.name, encoding='utf-8') as file:
            for line in file:
                yield line.rstrip('\n')

    def close(self) -> None:
        self._file.close()


class VideoWriter:
    """Appends frames to a new MP4 file.

    Args:
        path: The file. The first frame decides on the size; others are resized to it.
        rate: Frames a second.
        by_clock: Whether frames come whenever they do, as of a live source: each is
            then shown until the next one came.
    """

    def __init__(self, path: str | os.PathLike, rate: float, by_clock: bool = False):
        self._path, self._rate, self._by_clock = os.fspath(path), rate, by_clock
        self._writer = cv2.VideoWriter()
        self._size: tuple[int, int] | None = None
        self._last: tuple[np.ndarray, float] | None = None
        self._ahead = 0.0

    @property
    def empty(self) -> bool:
        return self._size is None

    def write(self, image: np.ndarray, seconds: float = 0.0) -> None:
        """Appends a frame.

        Args:
            image: (H, W, 3), BGR, uint8.
            seconds: When it was seen, where frames come by the clock.

        Raises:
            OSError: OpenCV cannot make such a file there.
        """
        if self._size is None:
            self._size = image.shape[1], image.shape[0]
            fourcc = cv2.VideoWriter.fourcc(*'mp4v')
            if not self._writer.open(self._path, fourcc, self._rate, self._size):
                problem = 'OpenCV cannot write a video of this size and rate there'
                raise OSError(errno.EIO, problem, self._path)
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size)
        image = np.ascontiguousarray(image)
        if not self._by_clock:
            self._writer.write(image)
            return
        if self._last is not None:
            self._hold(seconds - self._last[1])
        self._last = image, seconds

    def _hold(self, seconds: float) -> None:
        """Shows the last frame for a while."""
        assert self._last is not None
        frames = min(max(seconds, 0), MAX_PAUSE) * self._rate + self._ahead
        count = max(round(frames), 0)
        self._ahead = frames - count
        for _ in range(count):
            self._writer.write(self._last[0])

    def close(self) -> None:
        """Makes the file whole."""
        if self._last is not None:
            self._hold(1 / self._rate)
            self._last = None
        self._writer.release()


@contextmanager
def new_whole_file(path: str | os.PathLike, keep_part: bool = False) -> Iterator[Path]:
    """A path to write a new file to, which gets its name once it is complete.

    Args:
        path: A file that does not exist; missing folders are made.
        keep_part: Whether what is written until the block raises is kept, too: closing
            must make it whole.

    Raises:
        FileExistsError: It exists, by then or before.
        OSError: It cannot be written.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, 'File exists', str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.', dir=path.parent) as folder:
        scratch = Path(folder, path.name)
        try:
            yield scratch
        except BaseException:
            if keep_part and scratch.exists():
                publish(scratch, path)
            raise
        if scratch.exists():
            publish(scratch, path)


def publish(scratch: Path, path: Path) -> None:
    """Gives a file its name, which none has yet.

    Raises:
        FileExistsError: One has it.
    """
    try:
        os.link(scratch, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, 'File exists', str(path)) from None
        os.rename(scratch, path)


@contextmanager
def open_new_video(
    path: str | os.PathLike, rate: float, by_clock: bool = False
) -> Iterator[VideoWriter]:
    """A new video, which is kept and can be played wherever the block ends.

    Raises:
        FileExistsError: It exists.
        OSError: It cannot be written.
    """
    with new_whole_file(path, keep_part=True) as scratch:
        writer = VideoWriter(scratch, rate, by_clock)
        try:
            yield writer
        finally:
            writer.close()


def write_crops(
    folder: Path,
    name: str,
    number: int | None,
    image: np.ndarray,
    names: Sequence[str],
    boxes: Iterable[Sequence[float]],
) -> None:
    """Writes each object as a JPEG of its own: ``CLASS/NAME_FRAME_PLACE.jpg``.

    Args:
        folder: Gets a folder for each class.
        name: Path of the image or video, relative to that of all.
        number: Of the frame; ``None`` for an image.
        image: (H, W, 3), BGR, uint8.
        names: The class of each object.
        boxes: x1, y1, x2, y2 of each, in pixels. Those without a pixel are left out.

    Raises:
        OSError: A file cannot be written.
    """
    height, width = image.shape[:2]
    frame = '' if number is None else f'_{number:06}'
    for place, (kind, box) in enumerate(zip(names, boxes)):
        x1, y1 = (max(math.floor(side), 0) for side in box[:2])
        x2, y2 = min(math.ceil(box[2]), width), min(math.ceil(box[3]), height)
        if x1 >= x2 or y1 >= y2:
            continue
        safe = re.sub(r'[^\w. -]+', '_', kind).strip('. ') or '_'
        path = Path(folder, safe, f'{name}{frame}_{place}.jpg')
        _, content = cv2.imencode('.jpg', np.ascontiguousarray(image[y1:y2, x1:x2]))
        with new_whole_file(path) as scratch:
            scratch.write_bytes(content.tobytes())
