"""Messages that docs/troubleshooting.md quotes are those that the package prints."""

import ast
import re
from collections.abc import Iterator

import pytest
from mmdet.registry import MODELS

from tests.conftest import ROOT

PAGE = (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
ANY = '…'  # stands for what a message takes from elsewhere
BLOCKS = re.findall(r'```text\n(.*?)\n```', PAGE, re.S)
PROSE = re.sub(r'```.*?```', '', PAGE, flags=re.S)
INLINE = [code for code in re.findall(r'`([^`]+)`', PROSE) if ANY in code]
LIBRARIES = {'… is not in the … registry'}  # what others print


def shorten(text: str) -> str:
    """A text on one line, with one ellipsis for each that it takes from elsewhere."""
    return re.sub(rf'{ANY}[{ANY} ]*{ANY}', ANY, ' '.join(text.split()))


def join(node: ast.AST) -> str | None:
    """The text of an expression, with an ellipsis for what is computed."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return ''.join(join(value) or ANY for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            parts = [join(left), join(right)]
            return None if parts == [None, None] else ''.join(p or ANY for p in parts)
    return None


def list_texts() -> Iterator[str]:
    """All texts in the package's code but its docstrings."""
    for path in sorted((ROOT / 'mmnextvit').rglob('*.py')):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            text = None if id(node) in docstrings else join(node)
            if text:
                yield shorten(text)


TEXTS = sorted(set(list_texts()))


def is_printed(quote: str) -> bool:
    """Whether a quote is part of one of the package's texts."""
    return any(shorten(quote).strip(f'{ANY} ') in text for text in TEXTS)


@pytest.mark.parametrize('quote', [*BLOCKS, *INLINE])
def test_every_quoted_message_is_printed(quote):
    if quote in LIBRARIES:
        return
    letters = re.sub(r'\W', '', quote)
    assert len(letters) >= 12, 'too short to prove anything'
    assert is_printed(quote)


def test_what_is_not_printed_is_noticed():
    assert len(BLOCKS) > 40
    assert len(TEXTS) > 1000
    assert not is_printed('the memory of … does not suffice, and never will')
    assert not is_printed('Looks for what is wrong with the data')  # a docstring's


def test_mmengine_says_what_the_page_says():
    with pytest.raises(KeyError, match=r'Nothing is not in the .* registry'):
        MODELS.build(dict(type='Nothing'))


def test_every_symptom_has_something_to_do():
    """Words of our own below each heading."""
    for section in PAGE.split('\n## ')[1:]:
        title, _, text = section.partition('\n')
        assert len(re.sub(r'```.*?```', '', text, flags=re.S).split()) >= 15, title
