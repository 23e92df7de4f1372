"""Files of what is drawn: images, videos and folders of feature maps."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import mmcv
import numpy as np
from torch import Tensor

from ..utils.files import atomic_write
from .feature_maps import draw_channels, draw_overview, format_shape

Write = Callable[[np.ndarray], object]


@contextmanager
def open_video(path: Path, fps: float) -> Iterator[Write]:
    """A function that appends a frame (H, W, 3), BGR, uint8, to a new MP4 file.

    Args:
        path: The file. The first frame decides on the size of the video.
        fps: Frames a second.

    Raises:
        OSError: OpenCV cannot make such a file there.
    """
    writer = cv2.VideoWriter()

    def write(frame: np.ndarray) -> None:
        if not writer.isOpened():
            fourcc = cv2.VideoWriter.fourcc(*'mp4v')
            if not writer.open(str(path), fourcc, fps, frame.shape[1::-1]):
                problem = 'OpenCV cannot write a video of this size and rate there'
                raise OSError(errno.EIO, problem, str(path))
        writer.write(np.ascontiguousarray(frame))

    try:
        yield write
    finally:
        writer.release()


@contextmanager
def open_drawing(path: Path, fps: float | None = None) -> Iterator[Write]:
    """A function that writes what is drawn, which gets its name once it is complete.

    Args:
        path: File of an image, or of a video, which ends in ``.mp4``.
        fps: Frames a second of a video; ``None`` for an image.
    """
    with atomic_write(path) as scratch:
        if fps is None:
            yield partial(mmcv.imwrite, file_path=str(scratch))
        else:
            with open_video(scratch, fps) as write:
                yield write


def write_feature_maps(
    folder: Path, image: np.ndarray, maps: dict[str, Tensor]
) -> None:
    """Draws feature maps into a folder: a PNG for each, and ``overview.png`` of all.

    Args:
        folder: The folder, which is made.
        image: What the network saw, (H, W, 3), RGB, uint8.
        maps: (C, H, W) each, by name.
    """
    sheets = {'overview': draw_overview(image, maps)}
    for name, feature_map in maps.items():
        stem = f'{name.replace(" ", "_")}_{format_shape(feature_map)}'
        sheets[stem] = draw_channels(name, feature_map)
    with atomic_write(folder) as scratch:
        for stem, sheet in sheets.items():
            mmcv.imwrite(sheet[..., ::-1], str(scratch / f'{stem}.png'))
