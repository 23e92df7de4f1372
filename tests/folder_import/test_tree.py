"""One walk of a folder, and what is left out of it."""

import contextlib
import cProfile
import os
from collections import Counter
from pathlib import Path

from mmnextvit.folder_import import tree as tree_module
from mmnextvit.folder_import.recognition import find_readings
from mmnextvit.folder_import.tree import Tree, read_head, read_tree
from mmnextvit.utils.errors import MissingFileError, UserError

import pytest


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def names(tree: Tree) -> list[str]:
    return [tree.shorten_path(file) for file in tree.files]


def test_files_by_folder_suffix_and_name(tmp_path) -> None:
    write(
        tmp_path, 'b/2.JPG', 'b/1.jpg', 'a/Data.YAML', 'a/x/1.txt', 'none', 'b-c/1.png'
    )
    tree = read_tree(tmp_path)
    assert names(tree) == [
        'a/Data.YAML', 'a/x/1.txt', 'b-c/1.png', 'b/1.jpg', 'b/2.JPG', 'none'
    ]  # fmt: skip
    assert list(tree.files) == sorted(tree.files)
    assert all(map(os.path.isabs, tree.files))
    folder = str(tmp_path / 'b')
    assert tree.by_folder[folder] == (f'{folder}/1.jpg', f'{folder}/2.JPG')
    assert tree.by_suffix['.jpg'] == tree.by_folder[folder]
    assert tree.by_suffix[''] == (str(tmp_path / 'none'),)
    assert tree.by_name['data.yaml'] == (str(tmp_path / 'a' / 'Data.YAML'),)
    assert [os.path.basename(p) for p in tree.images] == ['1.png', '1.jpg', '2.JPG']
    assert {*tree.folders} == {
        str(tmp_path / name) for name in ('', 'a', 'a/x', 'b', 'b-c')
    }


def test_part_of_a_tree(tmp_path) -> None:
    """Folders whose names begin alike are none of it."""
    write(tmp_path, 'b/1', 'b/c/2', 'b-c/3', 'bc/4', 'b.txt')
    part = read_tree(tmp_path).below(str(tmp_path / 'b'))
    assert names(part) == ['1', 'c/2']
    assert part.folders == (str(tmp_path / 'b'), str(tmp_path / 'b' / 'c'))
    assert part == read_tree(tmp_path / 'b')


def test_leaves_out_what_holds_no_data(tmp_path) -> None:
    write(
        tmp_path, '.git/1.jpg', '__MACOSX/1.jpg', '.hidden.jpg', '._1.jpg',
        'train.mmnextvit-cache.json', 'a/__MACOSX/2.jpg', '1.jpg',
    )  # fmt: skip
    assert names(read_tree(tmp_path)) == ['1.jpg']


def test_links(tmp_path) -> None:
    """Circles end, links to files and folders elsewhere are followed."""
    write(tmp_path, 'elsewhere/1.jpg', 'data/2.jpg', 'data/a/3.jpg')
    data = tmp_path / 'data'
    (data / 'a' / 'up').symlink_to(data)
    (data / 'itself').symlink_to(data / 'itself')
    (data / 'nothing').symlink_to(tmp_path / 'nowhere')
    (data / 'out').symlink_to(tmp_path / 'elsewhere')
    (data / 'file.jpg').symlink_to(tmp_path / 'elsewhere' / '1.jpg')
    os.mkfifo(data / 'pipe.json')
    assert names(read_tree(data)) == ['2.jpg', 'a/3.jpg', 'file.jpg', 'out/1.jpg']


def test_folder_that_may_not_be_read(tmp_path, monkeypatch) -> None:
    write(tmp_path, 'a/1.jpg', 'b/2.jpg')
    scandir = os.scandir

    def refuse(path):
        if path == str(tmp_path / 'a'):
            raise PermissionError(13, 'Permission denied', path)
        return scandir(path)

    monkeypatch.setattr(tree_module.os, 'scandir', refuse)
    tree = read_tree(tmp_path)
    assert names(tree) == ['b/2.jpg']
    assert tree.unreadable == (str(tmp_path / 'a'),)
    with pytest.raises(PermissionError):
        read_tree(tmp_path / 'a')


def test_no_folder(tmp_path) -> None:
    with pytest.raises(MissingFileError, match='no such folder'):
        read_tree(tmp_path / 'nowhere')
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(UserError, match='no folder'):
        read_tree(tmp_path / 'pipe')


def test_head_of_a_file(tmp_path) -> None:
    file = tmp_path / 'a.txt'
    file.write_bytes('\ufeffé'.encode() + b'\xff' + b'x' * 100)
    assert read_head(str(file), 7) == 'é\ufffdx'
    file.write_bytes(b'a\0b')
    assert read_head(str(file)) == ''
    assert read_head(str(tmp_path)) == read_head(str(tmp_path / 'none')) == ''
    os.mkfifo(tmp_path / 'pipe')
    assert read_head(str(tmp_path / 'pipe')) == ''


def test_progress_of_a_long_walk(tmp_path, monkeypatch, capsys) -> None:
    write(tmp_path, *(f'{number}.jpg' for number in range(30)))
    read_tree(tmp_path)
    assert capsys.readouterr().out == ''
    monkeypatch.setattr(tree_module, 'LONG', 20)
    assert len(read_tree(tmp_path).files) == 30
    assert 'Looking through' in capsys.readouterr().out


# ---------------------------------------------------------------------- huge folders

SHAPES = {
    'images alone': ['{n}.jpg'],
    'images and labels': ['images/{n}.jpg', 'labels/{n}.txt'],
    'XML beside': ['train/{n}.jpg', 'train/{n}.xml'],
    'a folder an image': ['{n}/image.jpg', '{n}/image.xml', '{n}/image.json'],
    'tables': ['{n}.csv', '{n}.yaml'],
}


def count_calls(root: Path) -> Counter[str]:
    """Calls that looking through a folder takes: all, and those of os.scandir."""
    profile = cProfile.Profile()
    with profile, contextlib.suppress(UserError):
        find_readings(read_tree(root))
    calls: Counter[str] = Counter()
    for entry in profile.getstats():
        calls['all'] += entry.callcount
        if 'scandir' in str(entry.code):
            calls['scandir'] += entry.callcount
    return calls


@pytest.mark.slow
@pytest.mark.parametrize('shape', SHAPES)
def test_work_grows_with_the_files(tmp_path, shape) -> None:
    """Ten times the files take ten times the calls at most, whatever they are."""
    calls = {}
    for count in (60, 600):
        root = tmp_path / str(count)
        for number in range(count // len(SHAPES[shape])):
            write(root, *(pattern.format(n=number) for pattern in SHAPES[shape]))
        calls[count] = count_calls(root)
        folders = {path for path in root.rglob('*') if path.is_dir()}
        assert calls[count]['scandir'] == len(folders) + 2  # the root is tried before
    assert calls[600]['all'] < 10.5 * calls[60]['all']


class Entry:
    """What os.scandir gives of an empty file, which nothing but its name is asked."""

    def __init__(self, folder: str, name: str) -> None:
        self.name, self.path = name, f'{folder}/{name}'

    def is_dir(self) -> bool:
        return False

    def is_file(self) -> bool:
        return True


@pytest.mark.slow
def test_a_hundred_thousand_files(tmp_path, monkeypatch, capsys) -> None:
    """Progress is shown, and the work is a hundred times that for a thousand.

    Only the folders are real: to make so many files takes longer than all the rest.
    """
    scandir = os.scandir

    def list_many(path: str):
        folder = Path(path)
        if folder.name not in suffixes:
            return scandir(path)
        half = int(folder.parent.name) // 2
        names = (f'{number}{suffixes[folder.name]}' for number in range(half))
        return contextlib.nullcontext(Entry(path, name) for name in names)

    suffixes = dict(images='.jpg', labels='.txt')
    calls = {}
    for count in (1000, 100_000):
        for folder in suffixes:
            (tmp_path / str(count) / folder).mkdir(parents=True)
        monkeypatch.setattr(tree_module.os, 'scandir', list_many)
        assert len(read_tree(tmp_path / str(count)).files) == count
        assert ('Looking through' in capsys.readouterr().out) is (count == 100_000)
        calls[count] = count_calls(tmp_path / str(count))
        capsys.readouterr()
    assert calls[100_000]['all'] < 105 * calls[1000]['all']
