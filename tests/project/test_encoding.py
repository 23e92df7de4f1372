"""Text files are read and written as UTF-8, whatever the locale says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.helpers.source_code import parse

FILES = [
    path
    for folder in ('mmnextvit', 'tools', 'benchmarks', 'docs', 'configs')
    for path in sorted((ROOT / folder).rglob('*.py'))
    if '.mim' not in path.parts
]


def list_calls_without_encoding(source: str) -> Iterator[int]:
    """Lines that open text, or read or write it, in the locale's encoding."""
    for node in ast.walk(parse(source)):
        if not isinstance(node, ast.Call):
            continue
        words = {keyword.arg for keyword in node.keywords}
        constants = {a.value for a in node.args if isinstance(a, ast.Constant)}
        name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
        module = getattr(getattr(node.func, 'value', None), 'id', '')
        binary = any('b' in str(c) and len(str(c)) <= 3 for c in constants)
        opens = name == 'open' and (module == '' or constants & {'w', 'r', 'a', 'x'})
        is_text = opens and not binary or name in ('read_text', 'write_text')
        if is_text and 'encoding' not in words and None not in words:
            yield node.lineno


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_is_utf8(path: Path) -> None:
    lines = list(list_calls_without_encoding(path.read_text(encoding='utf-8')))
    assert not lines, f'{path}: encoding= is missing in lines {lines}'


def test_what_is_found() -> None:
    for call in ("open('a')", "open('a', 'w')", 'p.read_text()', "p.write_text('b')",
                 "Path('a').open('w')"):  # fmt: skip
        assert list(list_calls_without_encoding(call)) == [1], call
    for call in ("open('a', 'rb')", "p.read_text(encoding='utf-8')",
                 "open('a', encoding='utf-8')", 'Image.open(a)'):  # fmt: skip
        assert not list(list_calls_without_encoding(call)), call
