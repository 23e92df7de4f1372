"""What a file of annotations is, by a look into it in bounded memory.

The datasets read the files in full, and say what is wrong with them. Here ``None``
means that a file is something else.
"""

import csv
import json
import mmap
import re
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from ..datasets.values import Identifier, read_id, read_name, read_number
from ..utils.errors import UserError
from ..utils.files import check_is_file
from .tree import get_stem, read_head

SAMPLE = 200  # names of images that are looked for
MAX_LIST = 1 << 22  # bytes of a list of categories; a thousand of them have 50,000
XML_HEAD = 1 << 12  # bytes, which hold the names that begin Pascal VOC's files

FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
VOC_ROOT = re.compile(r'\s*(<\?.*?\?>\s*|<!--.*?-->\s*)*<annotation[\s>]', re.S)
VOC_NAME = re.compile(r'<filename>\s*([^<]*?)\s*</filename>')

IMAGE_COLUMNS = ('filename', 'file', 'file_name', 'image', 'image_name', 'img')
CLASS_COLUMNS = ('class', 'label', 'name', 'category', 'class_name')
SIDES = ('xmin', 'ymin', 'xmax', 'ymax')


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
            # It is not closed here: an error that ends a search still refers to it.
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
    first = _decode(content, starts[b'annotations'], 1 << 16)
    if first is not None and not (
        isinstance(first, dict) and {'category_id', 'bbox'} <= first.keys()
    ):
        return None  # captions, panoptic segments, another format
    listed = _decode(content, starts[b'categories'] - 1, MAX_LIST)
    if not isinstance(listed, list):
        return None
    categories = tuple(
        (read_id(category['id']), read_name(category['name']))
        for category in listed
        if isinstance(category, dict) and {'id', 'name'} <= category.keys()
    )
    quoted = islice(FILE_NAME.finditer(content, starts[b'images']), SAMPLE)
    names = (json.loads(match[1]) for match in quoted)
    return CocoPeek(categories, tuple(name for name in names if name))


def _decode(content: mmap.mmap, start: int, max_bytes: int) -> object:
    """The JSON value that begins at a place; ``None`` if there is none, or a longer."""
    text = content[start : start + max_bytes].decode('utf-8', errors='ignore')
    try:
        return json.JSONDecoder().raw_decode(text.lstrip())[0]
    except ValueError:
        return None


def peek_csv(path: str) -> tuple[str, ...] | None:
    """Looks whether a file is a table of boxes, and gives the first names of images.

    It has a header with a column each for image, class and four sides, or none and the
    columns image, four sides, class.
    """
    lines = read_head(path).splitlines()
    try:
        rows = [row for row in csv.reader(lines[:SAMPLE]) if row]
    except csv.Error:
        return None
    if not rows:
        return None
    header = [column.strip().lower() for column in rows[0]]
    if set(SIDES) <= set(header):
        named = [header.index(name) for name in IMAGE_COLUMNS if name in header]
        if not named or not set(CLASS_COLUMNS) & set(header):
            return None
        return tuple(row[named[0]] for row in rows[1:] if len(row) > named[0])
    if len(header) == 6 and _are_sides(header[1:5]):
        return tuple(row[0] for row in rows)
    return None


def _are_sides(texts: Sequence[str]) -> bool:
    """Whether they are four numbers, or all empty, as of an image without a box."""
    if not any(texts):
        return True
    try:
        return all(read_number(text) == read_number(text) for text in texts)
    except UserError:
        return False


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
