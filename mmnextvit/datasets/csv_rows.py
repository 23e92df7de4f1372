"""Tables of boxes in CSV, read row by row.

Two dialects lie about: the one of TensorFlow's tutorials, whose header is
``filename,width,height,class,xmin,ymin,xmax,ymax``, and the one of keras-retinanet,
``path,x1,y1,x2,y2,class_name`` without a header, in which the row of an image without
a box is ``path,,,,,``. Both are read here by the names in the header, in any order, or
without one in the order of keras-retinanet.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..utils.errors import UserError
from ..utils.messages import first_few, shorten, show
from .values import Number, decode_text, read_number, read_side

DELIMITERS = (',', ';', '\t')

# How a column may be called: without case, spaces, `_` and `-`. The first name that a
# header has is taken.
COLUMNS: dict[str, Sequence[str]] = {
    'filename': ('filename', 'file', 'imagename', 'imagepath', 'image', 'path', 'img'),
    'width': ('width', 'imagewidth', 'imgwidth'),
    'height': ('height', 'imageheight', 'imgheight'),
    'class': ('class', 'classname', 'label', 'labelname', 'name', 'category'),
    'xmin': ('xmin', 'x1', 'left'),
    'ymin': ('ymin', 'y1', 'top'),
    'xmax': ('xmax', 'x2', 'right'),
    'ymax': ('ymax', 'y2', 'bottom'),
}
SIDES = ('xmin', 'ymin', 'xmax', 'ymax')
REQUIRED = ('filename', 'class', *SIDES)
RETINANET = ('filename', *SIDES, 'class')
WANTED = (
    'a table of boxes begins with a header such as '
    'filename,width,height,class,xmin,ymin,xmax,ymax, or has no header and the columns '
    'filename,xmin,ymin,xmax,ymax,class'
)


class Row(NamedTuple):
    """What a row says.

    Attributes:
        line: Its first line in the file.
        file: The image.
        size: The image's width and height in pixels; some files say none, or 0.
        name: Of the box's class; ``None`` where the image has no box.
        box: ``x1, y1, x2, y2`` in pixels, counted from 0.
    """

    line: int
    file: str
    size: tuple[int, int] | None
    name: str | None
    box: list[Number] | None


class BrokenRow(NamedTuple):
    """A row that cannot be read.

    Attributes:
        line: Its first line in the file.
        reason: What is wrong.
        file: The image, or an empty text where it may be any.
    """

    line: int
    reason: str
    file: str


class Table(NamedTuple):
    """What a file says.

    Attributes:
        rows: Those that can be read.
        broken: The others.
    """

    rows: list[Row]
    broken: list[BrokenRow]


def parse_csv(content: bytes) -> Table:
    """Reads a table of boxes.

    Raises:
        UserError: It is none; the error has a line, but not the file's name.
    """
    records = _read_records(decode_text(content))
    if not records:
        raise UserError(f'the file is empty: {WANTED}')
    line, first = records[0]
    if _is_header(first):
        columns = _find_columns(first, line)
        del records[0]
    elif _is_row_without_header(first):
        columns = {name: number for number, name in enumerate(RETINANET)}
    else:
        raise UserError(f'{WANTED}; here stands {show(first)}', line=line)
    rows, broken = [], []
    for line, cells in records:
        try:
            rows.append(_read_row(line, cells, columns, len(first)))
        except UserError as error:
            is_whole = len(cells) == len(first)
            file = cells[columns['filename']] if is_whole else ''
            broken.append(BrokenRow(line, str(error), file))
    return Table(rows, broken)


def _read_records(text: str) -> list[tuple[int, list[str]]]:
    """The cells of each row that is not empty, with the row's first line."""
    head = text.lstrip('\r\n').partition('\n')[0]
    delimiter = max(DELIMITERS, key=head.count)
    reader = csv.reader(
        io.StringIO(text, newline=''),
        delimiter=delimiter,
        skipinitialspace=True,
        strict=True,
    )
    records, line = [], 1
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                records.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f'the file is no CSV: {shorten(error)}', line=line) from error
    return records


def _normalise(name: str) -> str:
    return re.sub(r'[\s_-]', '', name).lower()


def _is_number(cell: str) -> bool:
    try:
        read_number(cell)
    except UserError:
        return False
    return True


def _is_header(cells: Sequence[str]) -> bool:
    known = {name for names in COLUMNS.values() for name in names}
    found = known.intersection(map(_normalise, cells))
    return len(found) >= 2 and not any(map(_is_number, cells))


def _is_row_without_header(cells: Sequence[str]) -> bool:
    sides = cells[1:5]
    is_box = any(map(_is_number, sides)) or not any(sides)
    return len(cells) == len(RETINANET) and is_box


def _find_columns(header: Sequence[str], line: int) -> dict[str, int]:
    """The number of each column that is of use."""
    names = [_normalise(name) for name in header]
    repeated = [name for name, n in Counter(filter(None, names)).items() if n > 1]
    if repeated:
        raise UserError(f'the header has {first_few(repeated)} twice', line=line)
    columns = {
        column: names.index(found)
        for column, known in COLUMNS.items()
        if (found := next((name for name in known if name in names), None))
    }
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        raise UserError(
            f'the header lacks {first_few(missing, 8)}. It is {show(list(header))}; '
            f'{WANTED}',
            line=line,
        )
    return columns


def _read_row(
    line: int, cells: Sequence[str], columns: Mapping[str, int], width: int
) -> Row:
    if len(cells) < width or any(cells[width:]):
        raise UserError(f'{len(cells)} columns, but the first row has {width}')
    values = {column: cells[number] for column, number in columns.items()}
    if not values['filename']:
        raise UserError('it names no image')
    size = _read_size(values)
    if not any(values[column] for column in (*SIDES, 'class')):
        return Row(line, values['filename'], size, None, None)
    for column in (*SIDES, 'class'):
        if not values[column]:
            raise UserError(f'it has no {column}')
    box = [_read_side(values[side], side) for side in SIDES]
    return Row(line, values['filename'], size, values['class'], box)


def _read_size(values: Mapping[str, str]) -> tuple[int, int] | None:
    texts = [values.get('width', ''), values.get('height', '')]
    if not all(texts):
        return None
    try:
        width, height = map(read_side, texts)
    except UserError:
        if any(_is_number(text) and not read_number(text) for text in texts):
            return None
        raise
    return width, height


def _read_side(value: str, side: str) -> Number:
    try:
        return read_number(value)
    except UserError as error:
        raise UserError(f'{side}: {error}') from None
