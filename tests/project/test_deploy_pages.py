"""What docs/deploy says of the formats is what the package does."""

import argparse
import re

from mmnextvit.cli import export
from mmnextvit.deploy.formats import FORMATS, Format

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / 'docs' / 'deploy'
PAGE = (FOLDER / 'README.md').read_text(encoding='utf-8')


def read_table(title: str) -> dict[str, list[str]]:
    """The rows of the table whose head has a title, by their first cell."""
    table = next(x for x in re.findall(r'(?:^\|.*\n)+', PAGE, re.M) if title in x)
    rows = [[c.strip() for c in x.split('|')[1:-1]] for x in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def can(known: Format) -> list[bool]:
    """What a format can do, in the order of the page's columns."""
    channels = known.channels != (3,)
    return [
        known.dynamic,
        known.batches,
        known.nms,
        known.int8,
        known.masks,
        channels,
    ]


def test_the_page_says_what_each_format_can_do():
    table = read_table('| `--imgsz dynamic` |')
    words = {'yes': True, 'no': False}
    said = {name.strip('`'): [words[w] for w in row] for name, row in table.items()}
    assert said == {name: can(known) for name, known in FORMATS.items()}


def test_each_format_has_a_page():
    rows = {
        re.search(r'`(\w+)`', name)[1]: re.search(r'\(([\w.]+)', name)[1]
        for name in read_table('What is written')
    }
    assert rows.keys() == FORMATS.keys()
    for name, file in rows.items():
        assert f'--to {name}\n' in (FOLDER / file).read_text(encoding='utf-8')
    suffixes = {
        'onnx': '.onnx',
        'pt2': '.pt2',
        'torchscript': '.torchscript',
        'coreml': '.mlpackage',
    }
    assert suffixes == {n: FORMATS[n].suffix for n in suffixes}
    for name in FORMATS.keys() - suffixes:
        text = (FOLDER / rows[name]).read_text(encoding='utf-8')
        assert f'best{FORMATS[name].suffix}' in text


@pytest.mark.parametrize('name', [n for n, known in FORMATS.items() if known.extra])
def test_its_page_says_what_to_install(name):
    rows = read_table('What is written')
    file = next(re.search(r'\(([\w.]+)', key)[1] for key in rows if f'`{name}`' in key)
    text = (FOLDER / file).read_text(encoding='utf-8')
    assert f'pip install ".[all,{FORMATS[name].extra}]"' in text


def test_every_option_is_described():
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    options = {a.option_strings[-1] for a in parser._actions if a.option_strings}
    pages = ''.join(p.read_text(encoding='utf-8') for p in FOLDER.glob('*.md'))
    undescribed = {'--help', '--out'}  # -o
    assert not [x for x in options - undescribed if not re.search(rf'{x}\b', pages)]
