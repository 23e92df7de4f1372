"""Parts of messages that many modules write.

What comes from a file may be a megabyte long, or hold codes that a terminal obeys. It
stands in a message as :func:`show`, :func:`shorten` or a list of these makes it.
"""

import difflib
import reprlib
from collections.abc import Iterable

MAX_CHARS = 200  # a path in some folders is longer than 100


class _Values(reprlib.Repr):
    """How values out of files are written: in bounded time, whatever they hold."""

    repr_OrderedDict = repr_Counter = reprlib.Repr.repr_dict

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 10
        self.maxstring = self.maxother = self.maxlong = 80

    def repr_int(self, x: int, level: int) -> str:
        try:
            repr(x)
        except ValueError:  # Python writes no number of thousands of digits
            return 'a very long int'
        return super().repr_int(x, level)


def escape(text: object, keep: str = '') -> str:
    """A text as a terminal may have it: what does not print is escaped.

    Names out of a file may hold sequences that move the cursor, line breaks, or halves
    of surrogate pairs, which no terminal's encoding has.

    Args:
        text: The text.
        keep: Characters that stay as they are.
    """
    return ''.join(
        char if char.isprintable() or char in keep else ascii(char)[1:-1]
        for char in str(text)
    )


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
    return escape(text)


def show(value: object) -> str:
    """A value from a file as Python writes it, however long or deep it is."""
    return shorten(_Values().repr(value))


def first_few(items: Iterable[object], max_items: int = 5) -> str:
    """The first few of many items, each shortened: ``'a, b, c and 7 more'``."""
    items = list(items)
    rest = len(items) - max_items
    texts = map(shorten, items[:max_items])
    return ', '.join(texts) + (f' and {rest} more' if rest > 0 else '')


def tell(error: BaseException) -> str:
    """A library's error in one line of bounded length."""
    return shorten(' '.join(str(error).split())) or type(error).__name__


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
