"""What a program of ``torch.export`` may hold, since loading it evaluates texts."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

MAX_PROGRAM = 1 << 28  # bytes of a program's JSON
# The operators that a program may name, and the sizes that it may compute, which torch
# looks up and evaluates as Python.
OPERATOR = re.compile(
    r'torch\.ops\.(aten|prims)\.\w+\.\w+|torch\.sym_\w+|'
    r'_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|eq|ne|lt|le|gt|ge|getitem)'
)
# Such as Mul(Symbol('s1', integer=True), Integer(2))
SIZE = re.compile(
    r"(?:Symbol\('[a-z]+\d+'(?:, [a-z]+=(?:True|False))*\)"
    r"|Float\('[\d.e+-]+', precision=\d+\)"
    r'|[a-z]+\d+|[A-Z]\w*|\d+|[\s()*+/,<>=-])*+'
)

# What a program of any size asks of its input's: all that torch's printer of sizes,
# torch.utils._sympy.printers.PythonPrinter, makes of sums, products and comparisons.
GUARD = re.compile(
    r"(?:L\['images'\]\.size\(\)\[\d\]"
    r'|(?:and|or|not|min|max|abs|math\.(?:floor|ceil|trunc|sqrt|inf)|torch\.sym_float)\b'
    r'|\d+(?:\.\d+)?(?:e[+-]?\d+)?|[\s()*+/%,<>=!-])*+'
)

SHOWN = 60  # characters of a text that is refused, from where it is not plain

PLAIN = {'target': OPERATOR, 'expr_str': SIZE, 'guards_code': GUARD}


def check_program(path: Path) -> None:
    """Refuses a .pt2 with what exports never have, and what loading it would run.

    Raises:
        ValueError: It has pickles or compiled code, or a text that is no plain name of
            an operator, no size and no comparison of sizes.
    """
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            name = f'/{entry.filename}'
            # torch.save's files, and libraries that torch would load
            if entry.file_size and (name.endswith('.pt') or '/aotinductor/' in name):
                raise ValueError(f'it has {entry.filename}, which is not loaded')
            if not name.endswith('.json') or '/extra/' in name:
                continue
            if entry.file_size > MAX_PROGRAM:
                raise ValueError(f'{entry.filename} is too large')
            check_texts(json.loads(file.read(entry)))


def check_texts(value: Any) -> None:
    """
    Args:
        value: Of a program's JSON.

    Raises:
        ValueError: It has a text that torch would run, and that is not plain.
    """
    values = [value]
    while values:
        value = values.pop()
        if isinstance(value, list):
            values += value
        if not isinstance(value, dict):
            continue
        values += value.values()
        if value.get('use_pickle'):
            raise ValueError('it has pickles')
        for key, pattern in PLAIN.items():
            texts = value.get(key) or []
            for text in texts if isinstance(texts, list) else [texts]:
                if not (isinstance(text, str) and pattern.fullmatch(text)):
                    raise ValueError(f'its {key} {describe(text, pattern)}')


def describe(text: object, pattern: re.Pattern[str]) -> str:
    """What a text that is not plain is, and from where on."""
    if not isinstance(text, str):
        return f'is {ascii(text)[:SHOWN]}, which is no text'
    plain = pattern.match(text)
    start = plain.end() if plain else 0
    place = f' behind {start} characters' if start else ''
    return f'has {ascii(text[start : start + SHOWN])}{place}, which is not known here'
