"""Parts of messages that many modules write.

What comes from a file may be a megabyte long, or hold codes that a terminal obeys. It
stands in a message as :func:`show`, :func:`shorten` or a list of these makes it.
"""

import difflib
import reprlib
from collections.abc import Iterable

MAX_CHARS = 200  # a path in some folders is longer than 100

_values = reprlib.Repr()
_values.maxlevel = 3
_values.maxlist = _values.maxtuple = _values.maxdict = _values.maxset = 10
_values.maxstring = _values.maxother = _values.maxlong = 80


def shorten(text: object, max_chars: int = MAX_CHARS) -> str:
    """A text from outside as it stands in a line of a message.

    Of a long one the middle is left out; line breaks, control codes and what else is
    not printable are escaped.
    """
    text = str(text)
    if len(text) > max_chars:
        half = max_chars // 2
        left_out = f' [{len(text) - 2 * half} characters] '
        text = text[:half] + left_out + text[-half:]
    return ''.join(
        c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
    )


def show(value: object) -> str:
    """A value from a file as Python writes it, however long or deep it is."""
    return shorten(_values.repr(value))


def first_few(items: Iterable[object], max_items: int = 5) -> str:
    """The first few of many items, each shortened: ``'a, b, c and 7 more'``."""
    items = list(items)
    rest = len(items) - max_items
    texts = map(shorten, items[:max_items])
    return ', '.join(texts) + (f' and {rest} more' if rest > 0 else '')


def list_lines(items: Iterable[object], max_lines: int = 20) -> str:
    """The first of many items, each shortened, on an indented line of its own."""
    items = list(items)
    rest = len(items) - max_lines
    lines = [shorten(item, 3 * MAX_CHARS) for item in items[:max_lines]]
    more = [f'... and {rest} more'] if rest > 0 else []
    return '\n  '.join([*lines, *more])


def did_you_mean(name: object, known: Iterable[object], max_names: int = 3) -> str:
    """``'did you mean a or b?'``, or an empty text where no known name is near.

    Args:
        name: What was written; of a long text the first 50 characters count.
        known: The names that are possible.
        max_names: How many of them are offered.
    """
    names = [str(item) for item in known]
    near = difflib.get_close_matches(str(name)[:50], names, max_names, 0.5)
    return f'did you mean {" or ".join(near)}?' if near else ''
