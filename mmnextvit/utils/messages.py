"""Parts of messages that many modules write."""

import difflib
from collections.abc import Iterable


def first_few(items: Iterable[object], max_items: int = 5) -> str:
    """The first few of many items: ``'a, b, c and 7 more'``."""
    texts = [str(item) for item in items]
    rest = len(texts) - max_items
    return ', '.join(texts[:max_items]) + (f' and {rest} more' if rest > 0 else '')


def list_lines(items: Iterable[object], max_lines: int = 20) -> str:
    """The first of many items, each on an indented line of its own."""
    lines = [str(item) for item in items]
    rest = len(lines) - max_lines
    more = [f'... and {rest} more'] if rest > 0 else []
    return '\n  '.join([*lines[:max_lines], *more])


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
