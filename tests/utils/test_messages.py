"""What messages show of names and values out of files: short, on one line, harmless."""

import time
from collections import Counter, OrderedDict

from mmnextvit.utils.errors import UserError
from mmnextvit.utils.messages import escape, first_few, shorten, show

import pytest

EVIL = 'a\x1b[2J\x07\r\n\t\x9b\ud800\u202eb'
SAFE = r'a\x1b[2J\x07\r\n\t\x9b\ud800\u202eb'


def test_text_is_escaped():
    assert escape(EVIL) == SAFE
    assert escape('é 中 文', '\n') == 'é 中 文' and escape('a\nb', '\n') == 'a\nb'
    assert first_few([EVIL] * 9, 2) == f'{SAFE}, {SAFE} and 7 more'
    error = UserError(f'wrong {EVIL}', file=f'{EVIL}.pth', key=EVIL)
    wrong = SAFE.replace(r'\n', '\n')  # a problem may have several lines
    assert str(error) == f'{SAFE}.pth: {SAFE}: wrong {wrong}'


def test_long_names_are_cut():
    assert shorten('x' * 200) == 'x' * 200
    assert shorten('x' * 201, 100) == 'x' * 50 + ' [101 characters] ' + 'x' * 50
    assert shorten(EVIL * 10**6).isprintable()


def nested(levels, make):
    value = make([])
    for _ in range(levels):
        value = make([value, value])
    return value


@pytest.mark.parametrize(
    'value',
    [
        EVIL,
        EVIL.encode(errors='surrogatepass') * 10**6,
        10**100_000,
        [10**5000],
        {EVIL: EVIL},
        list(range(10**6)),
        nested(5000, list),  # 2 to the 5,000th paths
        nested(5000, tuple),
        nested(5000, lambda x: OrderedDict(x=x)),
        nested(5000, lambda x: {'x': x}),
        Counter({EVIL: 1}),
        None,
        float('nan'),
    ],
    ids=range(13),
)
def test_any_value_is_shown_in_bounded_time(value):
    start = time.monotonic()
    shown = show(value)
    assert time.monotonic() - start < 1
    assert shown.isprintable() and 0 < len(shown) < 2500


def test_numbers_that_python_does_not_write():
    """Python 3.14 has a text of its own for them, with the address of the number."""
    assert show(10**5000) == 'a very long int'
    assert show([-(10**5000), {'x': 10**5000}]) == (
        "[a very long int, {'x': a very long int}]"
    )
