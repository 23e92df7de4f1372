"""Files are written whole or not at all."""

import os

from mmnextvit.utils.files import atomic_write, atomic_write_text

import pytest


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
