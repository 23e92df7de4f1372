"""Files of what is drawn: images, videos and folders of feature maps."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

from ..runtime import Write, encode_image, open_video
from ..utils.files import atomic_write
from .feature_maps import draw_channels, draw_overview, format_shape


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an image (H, W, 3), BGR, uint8, in the format that the name says.

    Missing folders are made.

    Raises:
        OSError: It cannot be written, or not in that format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(path, image))


@contextmanager
def open_drawing(path: Path, fps: float | None = None) -> Iterator[Write]:
    """A function that writes what is drawn, which gets its name once it is complete.

    Args:
        path: File of an image, or of a video, which ends in ``.mp4``.
        fps: Frames a second of a video; ``None`` for an image.
    """
    with atomic_write(path) as scratch:
        if fps is None:
            yield lambda image: write_image(scratch, image)
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
            write_image(scratch / f'{stem}.png', sheet[..., ::-1])
