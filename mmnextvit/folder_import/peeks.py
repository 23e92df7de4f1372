"""What a file of annotations is, by a look into it in bounded memory.

The datasets read the files in full, and say what is wrong with them. Here ``None``
means that a file is something else.
"""

import json
import mmap
import re
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from ..datasets.csv_rows import parse_csv
from ..datasets.values import Identifier, read_id, read_name
from ..utils.errors import UserError
from ..utils.files import check_is_file
from .tree import get_stem, read_head

SAMPLE = 200  # names of images that are looked for
# Bytes of a list of categories that are tried; a thousand of them have 50,000.
SIZES = (1 << 16, 1 << 22)
CSV_HEAD = 1 << 14  # bytes, which hold two hundred rows
XML_HEAD = 1 << 12  # bytes, which hold the names that begin Pascal VOC's files

FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
VOC_ROOT = re.compile(r'\s*(<\?.*?\?>\s*|<!--.*?-->\s*)*<annotation[\s>]', re.S)
VOC_NAME = re.compile(r'<filename>\s*([^<]*?)\s*</filename>')


class CocoPeek(NamedTuple):
    """What a look into a COCO detection file shows.

    Attributes:
        categories: Id and name of each, in the file's order.
        file_names: Of the first images.
    """

    categories: tuple[tuple[Identifier, str], ...]
    file_names: tuple[str, ...]


def peek_coco(path: str) -> CocoPeek | None:
    """Looks whether a file is COCO's with boxes: it lists images, annotations, names.

    The file is searched, however large it is, and not parsed: only the list of
    categories and the first annotation are.
    """
    try:
        check_is_file(path)
        with open(path, 'rb') as file:
            # It is not closed here: what ends a search with an error refers to it.
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _peek_coco(content)
    except (OSError, ValueError, RecursionError):  # empty files have no map
        return None


def _peek_coco(content: mmap.mmap) -> CocoPeek | None:
    if not content[:64].removeprefix(b'\xef\xbb\xbf').lstrip().startswith(b'{'):
        return None
    starts = {}
    for key in (b'images', b'annotations', b'categories'):
        found = re.search(rb'"%s"\s*:\s*\[' % key, content)
        if found is None:
            return None
        starts[key] = found.end()
    first = _decode(content, starts[b'annotations'], SIZES[:1])
    if first is not None and not (
        isinstance(first, dict) and {'category_id', 'bbox'} <= first.keys()
    ):
        return None  # captions, panoptic segments, another format
    listed = _decode(content, starts[b'categories'] - 1, SIZES)
    if not isinstance(listed, list):
        return None
    categories = tuple(
        (read_id(category['id']), read_name(category['name']))
        for category in listed
        if isinstance(category, dict) and {'id', 'name'} <= category.keys()
    )
    quoted = islice(FILE_NAME.finditer(content, starts[b'images']), SAMPLE)
    names = tuple(_unquote(match[1]) for match in quoted)
    return CocoPeek(categories, tuple(filter(None, names)))


def _unquote(text: bytes) -> str:
    """A text of JSON; empty where it is none, as the dataset will say."""
    try:
        return json.loads(text)
    except ValueError:
        return ''


def _decode(content: mmap.mmap, start: int, sizes: Iterable[int]) -> object:
    """The JSON value that begins at a place; ``None`` if there is none, or a longer.

    Args:
        content: The file.
        start: The place.
        sizes: How many bytes are tried.
    """
    for size in sizes:
        text = content[start : start + size].decode('utf-8', errors='ignore')
        try:
            return json.JSONDecoder().raw_decode(text.lstrip())[0]
        except ValueError:
            continue
    return None


def peek_csv(path: str) -> tuple[str, ...] | None:
    """Looks whether a file is a table of boxes, and gives the first names of images."""
    head = read_head(path, CSV_HEAD)
    whole, end, _ = head.rpartition('\n')
    try:
        table = parse_csv((whole + end or head).encode())
    except UserError:
        return None
    return tuple(row.file for row in table.rows)


def peek_voc(path: str) -> str | None:
    """Looks whether a file is Pascal VOC's, and gives the name of its image.

    Where the file says none it is its own, without a suffix.
    """
    head = read_head(path, XML_HEAD)
    if not VOC_ROOT.match(head):
        return None
    name = VOC_NAME.search(head)
    return name[1] if name and name[1] else get_stem(path)


def is_label_file(path: str) -> bool:
    """Whether a text file has a line of YOLO's: a class and four numbers or more."""
    line = next((line for line in read_head(path).splitlines() if line.strip()), '')
    try:
        values = [float(column) for column in line.split()]
    except ValueError:
        return False
    return len(values) >= 5 and values[0].is_integer()
