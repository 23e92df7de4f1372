"""Files to predict on: images, folders, patterns, and the frames of videos."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmdet.apis.det_inferencer import IMG_EXTENSIONS

from ..utils.errors import MissingFileError, UserError
from ..utils.files import check_is_file
from ..utils.messages import first_few
from .images import BrokenImageError, read_image

VIDEO_EXTENSIONS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
MAX_RATE = 1000  # frames a second


def find_files(source: str) -> list[Path]:
    """Images and videos that ``source`` names, sorted.

    Args:
        source: A file, a folder, or a pattern such as ``'a/**/*.jpg'``.

    Raises:
        MissingFileError: There is none.
    """
    known = (*IMG_EXTENSIONS, *VIDEO_EXTENSIONS)
    if Path(source).is_dir():
        files = [p for p in Path(source).iterdir() if p.suffix.lower() in known]
    else:
        files = [Path(p) for p in glob.glob(source, recursive=True)]
        files = [p for p in files if p.is_file()]
    if Path(source).is_file():
        files = [Path(source)]  # though its name may look like a pattern
    if not files and Path(source).exists() and not Path(source).is_dir():
        check_is_file(source)
    if not files:
        raise MissingFileError(
            f'There is no image or video in {source} ({", ".join(known)})'
            if Path(source).is_dir()
            else f'{source} does not exist, and matches no file as a pattern'
        )
    return sorted(files)


def check_has_images(files: Sequence[Path]) -> None:
    """Refuses videos alone, where labels are wanted.

    Raises:
        UserError: There is no image.
    """
    if all(map(is_video, files)):
        raise UserError(
            'labels (--save-labels) belong to image files, and these are videos only: '
            f'{first_few(files)}. Write their frames as images first, as with ffmpeg '
            '-i film.mp4 frames/%06d.png, and predict on these'
        )


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its name."""
    return path.suffix.lower() in VIDEO_EXTENSIONS


def open_video(path: Path) -> mmcv.VideoReader:
    """A video to be read frame by frame.

    Raises:
        BrokenImageError: It is a FIFO or a device, whose reading may not end.
    """
    try:
        check_is_file(path)
    except UserError as error:
        raise BrokenImageError(error.problem, file=path) from error
    return mmcv.VideoReader(str(path))


def count_frames(path: Path) -> int:
    """How many images a file seems to hold: 1, unless it is a longer video."""
    try:
        # Not its length: OpenCV 5 counts below none where it reads no video.
        return max(open_video(path).frame_cnt, 1) if is_video(path) else 1
    except (OSError, BrokenImageError):  # what reads it says what is wrong
        return 1


def read_frame_rate(path: Path) -> float:
    """Frames a second of a video, 25 where it says none, or none that is possible.

    Raises:
        BrokenImageError: It is a FIFO or a device.
    """
    rate = open_video(path).fps
    return rate if 0 < rate <= MAX_RATE else 25


def read_frames(path: Path, color_type: str = 'color') -> Iterator[np.ndarray]:
    """The image, or each frame of the video, in BGR.

    Args:
        path: The file.
        color_type: 'bgra' for images with a fourth channel.

    Returns:
        H x W x 3, or 4, uint8 each.

    Raises:
        BrokenImageError: There is nothing to read.
    """
    if not is_video(path):
        yield read_image(str(path), color_type=color_type)
        return
    empty = True
    for frame in open_video(path):
        empty = False
        yield frame
    if empty:
        raise BrokenImageError('the file is no video that OpenCV reads', file=path)
