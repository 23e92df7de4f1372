"""Links and blocks of code in all pages, as GitHub shows them."""

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from mmnextvit.cli import COMMANDS

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.conftest import ROOT

PAGES = sorted(
    path
    for pattern in ('*.md', 'docs/**/*.md', 'benchmarks/**/*.md', '.github/**/*.md')
    for path in ROOT.glob(pattern)
)
MARKDOWN = MarkdownIt('commonmark', {'html': True}).enable('table')
OURS = re.compile(r'\s*(mmnextvit|python tools/\w+\.py) ')
IN_HTML = re.compile(r'\b(?:href|src)="([^"]+)"')

by_page = pytest.mark.parametrize(
    'page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def walk(page: Path) -> Iterator[Token]:
    """A page's tokens, those inside of others too."""
    for token in MARKDOWN.parse(page.read_text(encoding='utf-8')):
        yield token
        yield from token.children or ()


def links(page: Path) -> list[str]:
    """What a page links to and shows."""
    found = []
    for token in walk(page):
        found += [token.attrs[key] for key in ('href', 'src') if key in token.attrs]
        if token.type in ('html_block', 'html_inline'):
            found += IN_HTML.findall(token.content)
    return [str(link) for link in found]


def anchors(page: Path) -> set[str]:
    """What GitHub calls a page's headings."""
    tokens = MARKDOWN.parse(page.read_text(encoding='utf-8'))
    names: set[str] = set()
    for token, inline in zip(tokens, tokens[1:]):
        if token.type == 'heading_open':
            parts = inline.children or ()
            text = ''.join(part.content for part in parts).lower()
            name = re.sub(r'[^\w\- ]', '', text).replace(' ', '-')
            number = sum(
                re.fullmatch(rf'{re.escape(name)}(-\d+)?', x) is not None for x in names
            )
            names.add(f'{name}-{number}' if number else name)
    return names


def blocks(page: Path, *languages: str) -> list[str]:
    """A page's blocks of code in some languages; an indented one has none."""
    return [
        token.content
        for token in walk(page)
        if token.type in ('fence', 'code_block') and token.info.strip() in languages
    ]


def commands(page: Path) -> list[list[str]]:
    """The lines of ours in a page's blocks, as a shell splits them.

    Those with an ellipsis or a pipe say how a command may go on.
    """
    lines = []
    for block in blocks(page, 'bash', 'sh', ''):
        if '[--' in block:  # all options of a command
            continue
        for line in block.replace('\\\n', ' ').splitlines():
            line = re.sub(r'\s#.*', '', line)
            if OURS.match(line) and not re.search(r'…|\.\.\.|\|', line):
                lines.append(shlex.split(line))
    return lines


@by_page
def test_every_link_leads_somewhere(page):
    missing = []
    for link in links(page):
        if re.match(r'https?:|mailto:', link):
            continue
        name, _, anchor = link.partition('#')
        path = (page.parent / name).resolve() if name else page
        is_there = path.is_relative_to(ROOT) and path.exists()
        if is_there and anchor and path.suffix == '.md':
            is_there = anchor in anchors(path)
        if not is_there:
            missing.append(link)
    assert not missing


def test_links_are_found():
    """Else the test above sees nothing."""
    found = links(ROOT / 'docs' / 'model_zoo.md')
    assert '../configs/yolov5_nextvit_s.py' in found
    assert 'growth.png' in links(ROOT / 'benchmarks' / 'speed.md')
    assert 'which-memory-format' in anchors(ROOT / 'benchmarks' / 'speed.md')


@by_page
def test_every_command_has_such_options(page):
    for words in commands(page):
        name = words[1] if words[0] == 'mmnextvit' else Path(words[1]).stem
        if '/' in name or name.startswith('-'):  # a tool of another package, --help
            continue
        assert name in COMMANDS, words
        parser = argparse.ArgumentParser(allow_abbrev=False)
        importlib.import_module(f'mmnextvit.cli.{name}').add_arguments(parser)
        for action in parser._actions:
            if not action.option_strings:  # the folder of a run may stand for two
                action.nargs, action.type = '*', None
        _, unknown = parser.parse_known_args(words[2:])
        assert not unknown, words


def test_commands_are_found():
    every = [words for page in PAGES for words in commands(page)]
    assert {'train', 'export', 'predict'} <= {words[1] for words in every}


@by_page
def test_every_block_of_python_is_python(page):
    for block in blocks(page, 'python'):
        compile(block, str(page), 'exec')
