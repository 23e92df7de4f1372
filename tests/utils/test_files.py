"""Files are written whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path

from mmnextvit.utils.errors import MissingFileError
from mmnextvit.utils.files import atomic_write, atomic_write_text, existing_file

import pytest

from tests.helpers.full_disk import limit_file_size


def everything(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))


def test_a_file_and_what_is_written_beside_it(tmp_path):
    with atomic_write(tmp_path / 'a' / 'x.onnx') as scratch:
        scratch.write_text('x')
        scratch.with_suffix('.engine').write_text('e')
        assert not (tmp_path / 'a' / 'x.onnx').exists()
    assert everything(tmp_path) == ['a', 'a/x.engine', 'a/x.onnx']


@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
@pytest.mark.parametrize('folder', [False, True])
def test_nothing_changes_where_writing_fails(error, folder, tmp_path):
    target = tmp_path / 'x'
    if folder:
        target.mkdir()
        (target / 'old').touch()
    else:
        target.write_text('old')
    before = everything(tmp_path)
    with pytest.raises(error), atomic_write(target) as scratch:
        scratch.write_text('half')
        raise error
    assert everything(tmp_path) == before
    assert folder or target.read_text() == 'old'


def test_a_folder_takes_the_place_of_another(tmp_path):
    for name in ('old', 'new'):
        with atomic_write(tmp_path / 'x') as scratch:
            scratch.mkdir()
            (scratch / name).touch()
    assert everything(tmp_path) == ['x', 'x/new']


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
    target = tmp_path / 'folder'
    target.mkdir()
    (target / 'mine').touch()
    with pytest.raises(IsADirectoryError) as error:
        atomic_write_text(target, 'text')
    assert error.value.filename == str(target)
    assert [p.name for p in tmp_path.rglob('*')] == ['folder', 'mine']


def test_the_name_can_go_to_the_first_only(tmp_path):
    """Two processes at once: the second finds the name taken when it is done."""
    with (
        pytest.raises(FileExistsError) as error,
        atomic_write(tmp_path / 'x', overwrite=False) as scratch,
    ):
        scratch.write_text('second')
        atomic_write_text(tmp_path / 'x', 'first', overwrite=False)
    assert str(tmp_path / 'x') in str(error.value)
    assert (tmp_path / 'x').read_text() == 'first'
    assert everything(tmp_path) == ['x']


def test_links_are_followed_and_devices_written_to(tmp_path):
    (tmp_path / 'x').touch()
    (tmp_path / 'link').symlink_to('x')
    atomic_write_text(tmp_path / 'link', 'é')
    assert (tmp_path / 'x').read_bytes() == 'é'.encode()
    assert (tmp_path / 'link').is_symlink()
    atomic_write_text(os.devnull, 'x')
    assert everything(tmp_path) == ['link', 'x']


@pytest.mark.parametrize('name', ['x', 'é' * 120, 'n' * 255])
def test_names_of_any_length_that_the_system_has(name, tmp_path):
    atomic_write_text(tmp_path / name, 'x')
    assert everything(tmp_path) == [name]


def test_errors_name_the_final_path(tmp_path, monkeypatch):
    """Not the hidden one, of which the user knows nothing."""
    target = tmp_path / 'x'

    def fails(write, path=target):
        with pytest.raises(OSError) as error:
            write()
        assert error.value.filename == str(path) and error.value.filename2 is None
        assert str(error.value).endswith(f': {str(path)!r}')
        assert everything(tmp_path) == []
        return error.value.errno

    def write(*parts, make=Path.touch):
        with atomic_write(target) as scratch:
            make(scratch.joinpath(*parts))

    def fill(path):
        with limit_file_size(100):
            path.write_bytes(bytes(10_000))

    long = tmp_path / ('n' * 256)
    assert fails(lambda: atomic_write_text(long, ''), long) == errno.ENAMETOOLONG
    assert fails(lambda: write('no', 'a'), target / 'no' / 'a') == errno.ENOENT
    assert fails(lambda: write('..', 'y', 'a'), tmp_path / 'y' / 'a') == errno.ENOENT
    assert fails(lambda: write(make=fill)) == errno.EFBIG

    def refuse(*args, **more):
        raise PermissionError(errno.EPERM, 'no', str(args[0]), None, str(target))

    with monkeypatch.context() as patched:
        patched.setattr(os, 'replace', refuse)
        assert fails(write) == errno.EPERM
    monkeypatch.setattr(tempfile, 'mkdtemp', lambda prefix, dir: refuse(dir / prefix))
    monkeypatch.setattr(os, 'replace', refuse)
    with pytest.raises(PermissionError) as error:
        write()
    assert error.value.filename == str(target)


def test_errors_about_other_files_stay(tmp_path):
    other = tmp_path / 'other'
    with pytest.raises(FileNotFoundError) as error, atomic_write(tmp_path / 'x'):
        other.read_bytes()
    assert error.value.filename == str(other)


def test_a_file_where_a_folder_is_wanted(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(NotADirectoryError) as raised:
        atomic_write_text(tmp_path / 'file' / 'a' / 'x', '')
    assert raised.value.filename == str(tmp_path / 'file')
    assert everything(tmp_path) == ['file']


def test_a_folder_where_a_file_is_wanted(tmp_path):
    with pytest.raises(MissingFileError, match='config .* is a folder, not a file'):
        existing_file(str(tmp_path), 'config')
    with pytest.raises(MissingFileError, match='config .*x does not exist'):
        existing_file(str(tmp_path / 'x'), 'config')
    assert existing_file('timm://x', 'weights') == 'timm://x'
