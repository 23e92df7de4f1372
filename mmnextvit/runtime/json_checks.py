"""Checks of values from JSON, put together to a check of all."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

# Raises ValueError, which names the key, unless a value is what is wanted.
Check = Callable[[str, Any], None]


def wanting(wanted: str, holds: Callable[[Any], bool]) -> Check:
    """A check of one value; ``holds`` gets values of any type that JSON has."""

    def check(key: str, value: Any) -> None:
        if not holds(value):
            shown = ascii(value)  # escapes what a terminal would obey
            shown = shown if len(shown) < 60 else f'{shown[:50]}...'
            raise ValueError(f'{key} is {shown}, and must be {wanted}')

    return check


def whole(low: int, high: int) -> Check:
    """A whole number, which true and 1.0 are not."""
    return wanting(
        f'a whole number from {low} to {high}',
        lambda value: type(value) is int and low <= value <= high,
    )


def number(low: float, high: float) -> Check:
    return wanting(  # NaN lies between no two numbers
        f'a number from {low:g} to {high:g}',
        lambda value: type(value) in (int, float) and low <= value <= high,
    )


def one_of(*values: object) -> Check:
    texts = [json.dumps(value) for value in values]  # where 1, 1.0 and true differ
    return wanting(' or '.join(texts), lambda value: json.dumps(value) in texts)


def optional(check: Check) -> Check:
    """Null, or what another check wants."""
    return lambda key, value: None if value is None else check(key, value)


def each(check: Check, low: int, high: int) -> Check:
    """A list of that many values, each of which is checked."""
    count = str(low) if low == high else f'{low} to {high}'
    is_list = wanting(
        f'a list of {count}',
        lambda value: isinstance(value, list) and low <= len(value) <= high,
    )

    def check_each(key: str, value: Any) -> None:
        is_list(key, value)
        for i, item in enumerate(value):
            check(f'{key}[{i}]', item)

    return check_each


def record(must: Mapping[str, Check], may: Mapping[str, Check] = {}) -> Check:
    """An object with the keys ``must``, and perhaps ``may``; others do not matter."""
    is_object = wanting('an object', lambda value: isinstance(value, dict))

    def check_keys(key: str, value: Any) -> None:
        is_object(key, value)
        for name, check in {**must, **may}.items():
            path = f'{key}.{name}' if key else name
            if name in value:
                check(path, value[name])
            elif name in must:
                raise ValueError(f'{path} is missing')

    return check_keys


def each_value(check: Check) -> Check:
    """An object whose values are checked, whatever its keys."""
    is_object = wanting('an object', lambda value: isinstance(value, dict))

    def check_each(key: str, value: Any) -> None:
        is_object(key, value)
        for name, item in value.items():
            check(f'{key}[{ascii(name)[:60]}]', item)

    return check_each


# Characters that end a line, move a terminal's cursor or turn the direction of a text,
# and halves of characters, which no file can be written with.
UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')

TEXT = wanting(
    'a text of 1 to 1000 printable characters',
    lambda value: (
        type(value) is str and 0 < len(value) <= 1000 and not UNPRINTABLE.search(value)
    ),
)

FLAG = wanting('true or false', lambda value: type(value) is bool)
