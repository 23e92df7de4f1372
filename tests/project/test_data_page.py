"""The folders that docs/data.md draws are recognised as what it calls them."""

import re
from pathlib import Path
from typing import NoReturn

from mmnextvit.folder_import.layouts import LAYOUTS
from mmnextvit.folder_import.recognition import recognise

import pytest

from tests.conftest import ROOT
from tests.helpers.layouts import BUILDERS
from tests.helpers.tool_layouts import TOOL_BUILDERS

PAGE = (ROOT / 'docs' / 'data.md').read_text(encoding='utf-8')
ALL = {**BUILDERS, **TOOL_BUILDERS}


def list_trees() -> list[tuple[str, str]]:
    """The layout that stands above each tree, and the tree."""
    section = PAGE.split('\n## Layouts\n')[1].split('\n## ')[0]
    parts = re.split(r'^### (.+)$', section, flags=re.M)[1:]
    return [
        (title, tree)
        for title, text in zip(parts[::2], parts[1::2])
        for tree in re.findall(r'```text\n(.*?)```', text, re.S)
    ]


def list_paths(tree: str) -> set[str]:
    """The files and folders that a tree draws."""
    above: list[str] = []
    paths = set()
    for line in tree.splitlines():
        name = line.partition('#')[0].strip()
        del above[(len(line) - len(line.lstrip())) // 4 :]
        if name != '...':
            paths.add('/'.join([*above, name.rstrip('/')]))
        if name.endswith('/'):
            above.append(name.rstrip('/'))
    return paths


def count_nothing(reading: object) -> NoReturn:
    """For folders that are read in one way only."""
    raise AssertionError(f'{reading} is one of several readings')


@pytest.fixture(scope='module')
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of each layout, written as its program does."""
    root = tmp_path_factory.mktemp('layouts')
    for name, build in ALL.items():
        build(root / name)
    return {name: root / name for name in ALL}


def test_layouts_stand_in_the_order_in_which_they_are_taken():
    titles = list(dict.fromkeys(title for title, _ in list_trees()))
    assert titles[: len(LAYOUTS)] == list(LAYOUTS)


def test_every_layout_is_drawn(tmp_path):
    built = [build(tmp_path / name).layout for name, build in ALL.items()]
    assert {title for title, _ in list_trees()} == set(built)


@pytest.mark.parametrize('title, tree', list_trees())
def test_a_tree_is_recognised(title, tree, folders, tmp_path):
    """All that it draws is in a folder which is read as that layout."""
    paths = list_paths(tree)
    assert len(paths) > 1
    fitting = [
        f for f in folders.values() if all((f / path).exists() for path in paths)
    ]
    read = {recognise(f, tmp_path / f.name, count_nothing).layout for f in fitting}
    assert title in read
