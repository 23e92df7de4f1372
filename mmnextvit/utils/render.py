"""A config as data, and its text.

Whatever comes from a file stands in the text as the ``repr`` of plain data, or behind a
``#``, so that it is never code. Code is what :class:`Code` and the targets of
:class:`Assign` hold: constants of this package.

MMEngine replaces what stands between two braces in the text of a config. Names out of a
file may hold such braces, and are written so that they stay what they are.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import NamedTuple

INDENT = '    '


@dataclass(frozen=True)
class Code:
    """An expression, or a whole line, that stands in the config as it is."""

    text: str


@dataclass(frozen=True)
class Extended:
    """A dict with changes: ``dict(base, **changes)``."""

    base: Code
    changes: Mapping[str, object]


@dataclass(frozen=True)
class Rows:
    """YOLOv5's rows, of which the first has this number."""

    rows: Sequence[list]
    first: int


@dataclass(frozen=True)
class Comment:
    """A line of comment; without a text, an empty line."""

    text: str


@dataclass(frozen=True)
class Assign:
    """An assignment.

    Attributes:
        target: What is assigned to.
        value: The value.
        comment: A line above it.
        reason: A comment behind the value, where this stands in one line. Where only
            the comment makes that too wide, the layout says what becomes of it.
        in_one_line: Whether it stands in one line however long that is.
    """

    target: str
    value: object
    comment: str = ''
    reason: str = ''
    in_one_line: bool = False


Statement = Comment | Assign | Code


class Layout(NamedTuple):
    """How a text is laid out.

    Attributes:
        width: Columns; what is longer is broken into lines where it can be.
        numbered: Whether each row has a line of its own, with its number.
        above: Whether a reason that does not fit behind its value stands above it;
            else it is left out.
    """

    width: int
    numbered: bool
    above: bool = False


LAYOUTS = (
    Layout(88, True, above=True),
    Layout(88, True),
    Layout(120, True),
    Layout(160, True),
    Layout(160, False),
    Layout(320, False),
    Layout(10**9, False),
)


def render(statements: Sequence[Statement], max_lines: int, most: int = 0) -> str:
    """The text of a config.

    Args:
        statements: The config.
        max_lines: How long it may be: the first layout that keeps to it is taken, or
            the last one.
        most: How long it may be where no line is wider than the first layout.
    """
    width = LAYOUTS[0].width
    for layout in LAYOUTS:
        parts = [_render_statement(item, layout) for item in statements]
        lines = [line for part in parts for line in part]
        narrow = not layout.above and max(map(len, lines)) <= width
        if len(lines) <= (most if narrow and most else max_lines):
            break
    return '\n'.join(lines) + '\n'


def _render_statement(statement: Statement, layout: Layout) -> Iterator[str]:
    if isinstance(statement, Comment):
        yield _render_comment(statement.text)
        return
    if isinstance(statement, Code):
        yield statement.text
        return
    if statement.comment:
        yield _render_comment(statement.comment)
    start = f'{statement.target} = '
    if isinstance(statement.value, Rows):
        yield f'{start}['
        yield from _render_rows(statement.value, layout)
        yield ']'
        return
    width = 10**9 if statement.in_one_line else layout.width
    lines = _render_lines(start, statement.value, '', width)
    if statement.reason and len(lines) == 1:
        reason = _render_comment(statement.reason)
        behind = f'{lines[0]}  {reason}'
        if not len(lines[0]) <= layout.width < len(behind):
            lines = [behind]
        elif layout.above:
            yield reason
    yield from lines


def join_lines(text: object) -> str:
    """A text from outside, fit for a comment, where a newline would begin code.

    Nor would a config with control characters, such as a null, be read.
    """
    printable = (c if c.isprintable() else ' ' for c in str(text)[:2000])
    return ' '.join(''.join(printable).split())[:300]


def _render_comment(text: str) -> str:
    return f'# {join_lines(text)}'.replace('{{', '{ {') if text else ''


def _render_lines(
    start: str, value: object, end: str, width: int, indent: str = ''
) -> list[str]:
    """A value between ``start`` and ``end``, in one line or with an item a line."""
    line = f'{indent}{start}{_render_flat(value)}{end}'
    opening, items, closing = _render_parts(value)
    if len(line) <= width or not items:
        return [line]
    deeper = indent + INDENT
    together = f'{deeper}{_join(value, items)}'
    if len(together) <= width:
        inner = [together]
    else:
        inner = [
            line
            for name, item in items
            for line in _render_lines(name, item, ',', width, deeper)
        ]
    return [f'{indent}{start}{opening}', *inner, f'{indent}{closing}{end}']


def _render_flat(value: object) -> str:
    """A value as an expression in one line."""
    opening, items, closing = _render_parts(value)
    if not items:
        return opening + closing
    return f'{opening}{_join(value, items)}{closing}'


def _join(value: object, items: Sequence[tuple[str, object]]) -> str:
    """A value's items in one line."""
    comma = ',' * (isinstance(value, tuple) and len(items) == 1)
    return ', '.join(f'{name}{_render_flat(item)}' for name, item in items) + comma


def _render_parts(value: object) -> tuple[str, list[tuple[str, object]], str]:
    """How a value opens, its items with what stands before each, and how it closes."""
    if isinstance(value, Code):
        return value.text, [], ''
    if isinstance(value, Extended):
        changes = [(f'{key}=', item) for key, item in value.changes.items()]
        return 'dict(', [('', value.base), *changes], ')'
    if isinstance(value, dict):
        if all(_is_name(key) for key in value):
            return 'dict(', [(f'{key}=', item) for key, item in value.items()], ')'
        return '{', [(f'{quote(key)}: ', item) for key, item in value.items()], '}'
    if isinstance(value, (list, tuple)):
        brackets = '[]' if isinstance(value, list) else '()'
        return brackets[0], [('', item) for item in value], brackets[1]
    if not is_plain(value):
        raise TypeError(f'{value!r} is not plain data')
    return quote(value), [], ''


def quote(value: object) -> str:
    """Plain data as an expression, which MMEngine replaces no part of."""
    return repr(value).replace('{{', r'{\x7b')


def _is_name(key: object) -> bool:
    """Whether a key may stand in a call; Python changes names in some other scripts."""
    if not isinstance(key, str):
        return False
    return key.isascii() and key.isidentifier() and not iskeyword(key)


def _render_rows(rows: Rows, layout: Layout) -> Iterator[str]:
    if layout.numbered:
        for number, row in enumerate(rows.rows, rows.first):
            yield f'{INDENT}{_render_flat(row)},  # {number}'
        return
    line = INDENT
    for row in rows.rows:
        text = f'{_render_flat(row)}, '
        if line.strip() and len(line) + len(text) > 90:
            yield line.rstrip()
            line = INDENT
        line += text
    yield line.rstrip()


def is_plain(value: object) -> bool:
    """Whether a value's ``repr`` is itself in Python."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, (*value, *value.values())))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))
