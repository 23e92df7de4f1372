"""Values of annotation files, read where their meaning is plain, and refused elsewhere.

Every error of these functions lacks the file and the key, which the caller knows.
"""

import math
import os
import re
from collections.abc import Sequence

import numpy as np

from ..utils.errors import UserError
from ..utils.messages import show

WHOLE = re.compile(r'0|-?[1-9][0-9]{0,17}')
OTHER_FORMAT = re.compile(r'\s*(\{\s*["}]|\[\s*[\[{"]|<[?!\w])')  # JSON or XML
MAX_DIGITS = 7  # of a number in a run-length code: 35 bits, where pycocotools keeps 32
FLAGS = {'': 0, 'false': 0, 'no': 0, 'true': 1, 'yes': 1}
Number = int | float
Identifier = int | str


def decode_text(content: bytes) -> str:
    """A text file's content, without a mark of the byte order.

    Raises:
        UserError: It is no text.
    """
    try:
        text = content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise UserError(f'the file is not text in UTF-8: {error}') from error
    if '\0' in text:
        raise UserError('the file is not text: it holds NUL')
    return text


def read_lines(content: bytes) -> list[str]:
    """What stands on each line of a list of names, without empty ones.

    Raises:
        UserError: It is no such list.
    """
    return [text for _, text in number_lines(content)]


def number_lines(content: bytes) -> list[tuple[int, str]]:
    """The lines that `read_lines` gives, each with its number in the file, from 1.

    Raises:
        UserError: It is no such list.
    """
    text = decode_text(content)
    if OTHER_FORMAT.match(text):
        raise UserError(
            'a list of names, one on a line, is wanted; the file is JSON or XML: '
            + show(text.lstrip())
        )
    lines = enumerate(text.split('\n'), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_number(value: object) -> Number:
    """A number, also as a text; NaN and infinity are numbers.

    Raises:
        UserError: It is something else.
    """
    if type(value) is float:
        return value
    try:
        if type(value) is int:
            return value if -(2**53) < value < 2**53 else float(value)
        if isinstance(value, str):
            return float(value)
    except OverflowError:
        return math.inf
    except ValueError:
        pass
    raise UserError(f'{show(value)} is no number')


def read_id(value: object) -> Identifier:
    """An id: ``3``, ``3.0`` and ``'3'`` are one, ``'003'`` is another.

    Raises:
        UserError: It is neither a whole number nor a text.
    """
    if type(value) is int:
        return value
    if isinstance(value, str) and value:
        return int(value) if WHOLE.fullmatch(value) else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise UserError(f'{show(value)} is no id: write a whole number or a text')


def read_name(value: object) -> str:
    """A name; a number is one too.

    Raises:
        UserError: It is something else, or empty.
    """
    if isinstance(value, str) and value:
        return value
    if type(value) in (int, float):
        return str(value)
    raise UserError(f'{show(value)} is no name: write a text in quotes')


def read_file_name(value: object) -> str:
    """A name that a file can have.

    Raises:
        UserError: It is none.
    """
    name = read_name(value)
    try:
        if b'\0' not in os.fsencode(name):
            return name
    except UnicodeEncodeError:
        pass
    raise UserError(f'{show(name)} is a name that no file can have')


def read_side(value: object) -> int:
    """An image's width or height in pixels.

    Raises:
        UserError: It is no whole number from 1.
    """
    try:
        number = read_number(value)
    except UserError:
        number = math.nan
    if not (1 <= number < 2**31) or number != int(number):
        raise UserError(
            f"{show(value)} is no size: write the image's pixels, a whole number from 1"
        )
    return int(number)


def read_optional_side(value: object) -> int | None:
    """As `read_side`; ``None`` for ``null``, where the image itself says it."""
    return None if value is None else read_side(value)


def read_flag(value: object) -> int:
    """0 or 1, also as a text or a truth value; ``null`` is 0.

    Raises:
        UserError: It is something else.
    """
    if value is None:
        return 0
    flag = FLAGS.get(value.strip().lower()) if isinstance(value, str) else None
    if flag is not None:
        return flag
    try:
        number = int(value) if isinstance(value, bool) else read_number(value)
    except UserError:
        number = -1
    if number not in (0, 1):
        raise UserError(f'{show(value)} is neither 0 nor 1')
    return int(number)


def read_area(value: object) -> Number | None:
    """An area in square pixels, ``None`` where it is not above zero or infinite.

    Raises:
        UserError: It is no number.
    """
    area = 0 if value is None else read_number(value)
    return area if 0 < area < math.inf else None


def read_box(value: object) -> list[Number] | None:
    """Four numbers, or a text of four; ``None`` if it is anything else."""
    if isinstance(value, str):
        value = value.strip().removeprefix('[').removesuffix(']').replace(',', ' ')
        value = value.split()
    if not isinstance(value, list) or len(value) != 4:
        return None
    if set(map(type, value)) == {float}:  # as in most files
        return value
    try:
        return [read_number(side) for side in value]
    except UserError:
        return None


def read_mask(value: object) -> list[list[Number]] | dict | None:
    """A mask: polygons of three points or more, or a run-length code.

    A list of numbers is one polygon. ``None`` where it is empty or anything else.
    """
    try:
        if isinstance(value, dict):
            return _read_run_lengths(value)
        if not isinstance(value, list):
            return None
        nested = all(isinstance(part, list) for part in value)
        polygons = [
            # Most numbers of a file stand here, nearly all of them as such.
            part
            if set(map(type, part)) <= {int, float}
            else list(map(read_number, part))
            for part in (value if nested else [value])
            if len(part) >= 6 and len(part) % 2 == 0
        ]
        finite = all(all(map(math.isfinite, polygon)) for polygon in polygons)
    except (TypeError, OverflowError, UserError):
        return None
    return polygons if polygons and finite else None


def _read_run_lengths(code: dict) -> dict | None:
    size, counts = code.get('size'), code.get('counts')
    if not isinstance(size, list) or len(size) != 2:
        return None
    height, width = map(read_side, size)
    runs: Sequence[int] | None = None
    if isinstance(counts, list):
        counts = runs = [read_side(count) if count else 0 for count in counts]
    elif isinstance(counts, str):
        runs = decode_counts(counts)
    # pycocotools never ends on runs of more pixels than the mask has.
    if runs is None or min(runs, default=-1) < 0 or sum(runs) != height * width:
        return None
    return dict(size=[height, width], counts=counts)


def decode_counts(text: str) -> list[int] | None:
    """The runs of a run-length code that COCO has written as a text.

    Each character is six bits above ``'0'``: five of a number, from its low end to its
    high one, and one that says if more follow. The highest bit of a number is its
    sign. From the fourth run on, a number is the difference to the run before the last.

    Returns:
        Pixels of each run, negative where the text is damaged; ``None`` where it is no
        such text.
    """
    try:
        digits = np.frombuffer(text.encode('ascii'), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    ends = np.flatnonzero(digits < 32)
    if not ends.size or ends[-1] != digits.size - 1:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if digits.min() < 0 or digits.max() >= 64 or lengths.max() > MAX_DIGITS:
        return None
    places = 5 * (np.arange(digits.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((digits & 31) << places, starts)
    runs -= np.where(digits[ends] & 16, 1 << 5 * lengths, 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()  # the first run stands alone
    return runs.tolist()
