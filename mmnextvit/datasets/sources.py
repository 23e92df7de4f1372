"""Files to predict on, and what else images come from, with errors for users."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..runtime import (
    IMAGE_SUFFIXES as IMG_EXTENSIONS,
)
from ..runtime import (
    ImageError,
    Source,
    SourceError,
    Stream,
    find_sources,
    is_video,
    open_frames,
)
from ..runtime import (
    find_files as list_files,
)
from ..utils.errors import MissingFileError, UserError
from ..utils.files import check_is_file
from ..utils.messages import first_few

__all__ = ['IMG_EXTENSIONS', 'is_video']


@contextmanager
def source_errors() -> Iterator[None]:
    """Raises what the runtime finds wrong with sources as what a user can mend."""
    try:
        yield
    except SourceError as error:
        kind = UserError if error.file else MissingFileError
        raise kind(error.problem, file=error.file or None, line=error.line) from error


def find_files(source: str) -> list[Path]:
    """Images and videos that ``source`` names, sorted.

    Args:
        source: A file, a folder, or a pattern such as ``'a/**/*.jpg'``.

    Raises:
        MissingFileError: There is none.
        UserError: It is a FIFO or a device.
    """
    with source_errors():
        files = list_files(source)
    if files == [Path(source)]:
        check_is_file(source)
    if not files:
        raise MissingFileError(
            f'{source} does not exist, and matches no file as a pattern'
        )
    return files


def find_inputs(*inputs: str) -> list[Source]:
    """As :func:`find_files`, also of lists, webcams and addresses, in their order.

    Raises:
        MissingFileError: There is none.
        UserError: It is a FIFO or a device, or a list that cannot be used.
    """
    sources: list[Source] = []
    for text in inputs:
        with source_errors():
            found = find_sources([text])
        sources += find_files(text) if found == [Path(text)] else found
    return sources


def check_has_images(files: Sequence[Source]) -> None:
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


def count_frames(source: Source) -> int:
    """How many images a source seems to hold: 1, unless it is a longer video."""
    if isinstance(source, Stream) or not is_video(source):
        return 1
    try:
        return max(open_frames(source).count, 1)
    except ImageError:  # what reads it says what is wrong
        return 1
