"""Lists of images: which of a dataset's images are used."""

import os
import posixpath
from collections.abc import Iterable, Sequence

from mmengine.utils import is_abs

from ..utils.errors import UserError
from ..utils.messages import first_few, shorten


def normalise_path(path: str, root: str = '') -> str:
    """An absolute path without ``.`` and ``..``, to be compared with others.

    Args:
        path: Of a local file, or of a backend of MMEngine's (``s3://``).
        root: Folder that a relative path counts from; the working folder if empty.
    """
    whole = path if is_abs(path) else os.path.join(root, path)
    scheme, mark, rest = whole.rpartition('://')
    return scheme + mark + (posixpath.normpath if mark else os.path.abspath)(rest)


def pick_listed(
    lines: Sequence[tuple[int, str]], root: str, images: Iterable[str]
) -> list[str]:
    """Those of a dataset's images that a list names, in the dataset's order.

    Args:
        lines: Numbers and texts of the list's lines, each an image's path.
        root: Folder that relative paths of the list count from.
        images: Paths of the dataset's images.

    Raises:
        UserError: The list is empty, or names what is no image of the dataset; the
            error has the line, and lacks the file's name.
    """
    if not lines:
        raise UserError(
            'the list names no image: write the path of an image on each line'
        )
    places = {image: normalise_path(image) for image in images}
    wanted = {normalise_path(text, root): (line, text) for line, text in lines}
    unknown = [wanted[place] for place in wanted.keys() - {*places.values()}]
    if unknown:
        unknown.sort()
        line, text = unknown[0]
        name = posixpath.basename(text.replace('\\', '/'))
        alike = [image for image in places if os.path.basename(image) == name]
        hint = f' The dataset has {first_few(alike, 2)}.' if alike else ''
        raise UserError(
            f'{shorten(text)} is no image of the dataset'
            + (f', nor are {len(unknown) - 1} other lines' if unknown[1:] else '')
            + f': looked for {shorten(normalise_path(text, root))}.{hint} Correct the '
            'list: paths are absolute, or count from data_root',
            line=line,
        )
    return [image for image, place in places.items() if place in wanted]
