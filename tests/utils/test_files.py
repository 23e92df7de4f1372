"""Files are written whole or not at all."""

import errno
import os
import shutil
import tempfile
import threading
from pathlib import Path

from mmnextvit.utils.errors import MissingFileError, UserError
from mmnextvit.utils.files import (
    atomic_write,
    atomic_write_text,
    check_folder,
    check_new_file,
    check_writable,
    make_numbered_folder,
    read_short_text,
    require_file,
)

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


def test_a_folder_that_is_a_file_is_named_with_its_option(tmp_path):
    (tmp_path / 'tiny.py').touch()
    for name in ('tiny.py', 'tiny.py/runs'):
        message = rf'--x .*{name}: .* since .*tiny\.py is a file: choose another folder'
        with pytest.raises(UserError, match=message):
            check_folder(tmp_path / name, '--x')
    check_folder(tmp_path / 'new' / 'runs', '--x')
    assert everything(tmp_path) == ['tiny.py']


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


@pytest.fixture(params=['links', 'no links'])
def links(request, monkeypatch):
    """With hard links, and as on a file system that has none."""

    def refuse(source, target):
        raise PermissionError(errno.EPERM, 'no hard links here', source, None, target)

    if request.param == 'no links':
        monkeypatch.setattr(os, 'link', refuse)
    return request.param


def write_file(scratch, text):
    scratch.write_text(text)


def write_folder(scratch, text):
    scratch.mkdir()
    for name in ('a', 'b'):
        (scratch / name).write_text(text)


def write_two_files(scratch, text):
    for path in (scratch, scratch.with_suffix('.y')):
        path.write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize('write', [write_file, write_folder, write_two_files])
def test_of_many_at_once_exactly_one_gets_the_name(write, links, tmp_path):
    """All are complete before the first gets it; what stands there is of one alone."""
    threads, rounds = 6, 20
    barrier = threading.Barrier(threads)
    won, lost = [], []

    def run(text, target):
        try:
            with atomic_write(target, overwrite=False) as scratch:
                write(scratch, text)
                barrier.wait()
        except FileExistsError as error:
            lost.append(error)
        else:
            won.append((target, text))

    for i in range(rounds):
        target = tmp_path / f'{i}.x'
        started = [
            threading.Thread(target=run, args=(str(number), target))
            for number in range(threads)
        ]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
    assert len(lost) == (threads - 1) * rounds
    assert [target for target, _ in won] == [tmp_path / f'{i}.x' for i in range(rounds)]
    for target, text in won:
        files = [target, *target.parent.glob(f'{target.stem}.y')]
        files = sorted(target.iterdir()) if target.is_dir() else files
        assert len(files) == {write_file: 1}.get(write, 2)
        assert {file.read_text() for file in files} == {text}
    assert not [name for name in everything(tmp_path) if name.startswith('.')]
    assert all('nothing is overwritten' in str(error) for error in lost)


@pytest.mark.parametrize('write', [write_file, write_folder])
def test_a_name_that_appears_at_the_last_moment_is_kept(
    write, links, tmp_path, monkeypatch
):
    """Between what this process looks at and what it does, whichever call that is."""
    target = tmp_path / 'x'

    def after_another_process(real, takes_the_name):
        def call(*args, **kwargs):
            if takes_the_name(*args) and not target.exists():
                if write is write_folder:
                    target.mkdir()
                (target / 'a' if write is write_folder else target).write_text('first')
            return real(*args, **kwargs)

        return call

    for name, takes_the_name in {
        'link': lambda *args: links == 'links' and args[1] == target,
        'open': lambda *args: args[1] & os.O_EXCL,
        'rename': lambda *args: args[1] == target,
    }.items():
        call = after_another_process(getattr(os, name), takes_the_name)
        monkeypatch.setattr(os, name, call)
    with (
        pytest.raises(FileExistsError) as error,
        atomic_write(target, overwrite=False) as scratch,
    ):
        write(scratch, 'second')
    assert error.value.filename == str(target)
    monkeypatch.undo()
    if write is write_folder:
        assert everything(tmp_path) == ['x', 'x/a']
    assert (target / 'a' if write is write_folder else target).read_text() == 'first'


def test_of_several_files_all_get_their_names_or_none(links, tmp_path):
    """The second name appears while they are written."""
    with (
        pytest.raises(FileExistsError) as error,
        atomic_write(tmp_path / 'x.bin', overwrite=False) as scratch,
    ):
        for suffix in ('.bin', '.pth', '.xml'):
            scratch.with_suffix(suffix).write_text('mine')
        (tmp_path / 'x.pth').write_text("another's")
    assert error.value.filename == str(tmp_path / 'x.pth')
    assert everything(tmp_path) == ['x.pth']
    assert (tmp_path / 'x.pth').read_text() == "another's"


@pytest.mark.parametrize('old', ['file', 'folder', 'nothing'])
def test_of_several_files_all_are_replaced_or_none(old, links, tmp_path):
    """The second cannot be: it is a folder by now."""
    if old == 'file':
        (tmp_path / 'a').write_text('old')
    elif old == 'folder':
        write_folder(tmp_path / 'a', 'old')
    (tmp_path / 'b' / 'c').mkdir(parents=True)
    before = everything(tmp_path)
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path / 'a') as scratch:
        (write_folder if old == 'folder' else write_file)(scratch, 'new')
        scratch.with_name('b').write_text('new')
    assert everything(tmp_path) == before
    for file in (tmp_path / 'a', tmp_path / 'a' / 'a'):
        assert not file.is_file() or file.read_text() == 'old'


def test_a_folder_takes_the_place_of_an_empty_one(tmp_path):
    (tmp_path / 'x').mkdir()
    with atomic_write(tmp_path / 'x', overwrite=False) as scratch:
        write_folder(scratch, 'new')
    assert everything(tmp_path) == ['x', 'x/a', 'x/b']


def test_folders_that_nothing_came_into_are_removed(tmp_path):
    (tmp_path / 'there').mkdir()
    with (
        pytest.raises(KeyboardInterrupt),
        atomic_write(tmp_path / 'there' / 'a' / 'b' / 'x'),
    ):
        raise KeyboardInterrupt
    assert everything(tmp_path) == ['there']
    long = 'n' * 256
    with pytest.raises(OSError, match='File name too long'):
        atomic_write_text(tmp_path / 'there' / 'a' / long / 'x', '')
    assert everything(tmp_path) == ['there']


def test_a_signal_while_the_scratch_folder_is_removed(tmp_path, monkeypatch):
    real, calls = shutil.rmtree, []

    def interrupted_once(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(*args, **kwargs)

    monkeypatch.setattr(shutil, 'rmtree', interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        atomic_write_text(tmp_path / 'x', 'text')
    assert everything(tmp_path) == ['x']


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_is_noticed_only_when_it_goes_to_the_disk(code, tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError) as error:
        atomic_write_text(tmp_path / 'x', 'text')
    assert (error.value.errno, error.value.filename) == (code, str(tmp_path / 'x'))
    assert everything(tmp_path) == []


def test_file_systems_that_sync_nothing(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, 'fsync', fail)
    atomic_write_text(tmp_path / 'x', 'text')
    assert everything(tmp_path) == ['x']


def test_what_can_be_written_is_tried(tmp_path):
    check_writable(tmp_path / 'a' / 'x')
    assert everything(tmp_path) == []
    (tmp_path / 'x').write_text('old')
    check_writable(tmp_path / 'x')
    assert (tmp_path / 'x').read_text() == 'old'
    for path, code in [
        (tmp_path, errno.EISDIR),
        (tmp_path / 'x' / 'y', errno.ENOTDIR),
        (tmp_path / ('n' * 256), errno.ENAMETOOLONG),
        (tmp_path / ('n' * 256) / 'x', errno.ENAMETOOLONG),
        (Path('/proc/x'), errno.ENOENT),
    ]:
        with pytest.raises(OSError) as error:
            check_writable(path)
        assert error.value.errno == code and error.value.filename
    with limit_file_size(0), pytest.raises(OSError, match='File too large') as error:
        check_writable(tmp_path / 'y')
    assert error.value.filename == str(tmp_path / 'y')
    assert everything(tmp_path) == ['x']


def test_new_files(tmp_path):
    assert check_new_file(tmp_path / 'a' / 'x') == tmp_path / 'a' / 'x'
    (tmp_path / 'dangling').symlink_to('nowhere')
    (tmp_path / 'x').touch()
    for name in ('x', 'dangling'):
        with pytest.raises(UserError, match=f'{name} exists, and nothing is overwri'):
            check_new_file(tmp_path / name)
    with pytest.raises(UserError, match='--out .*/x/y: its folder is a file'):
        check_new_file(tmp_path / 'x' / 'y', '--out')
    with pytest.raises(UserError, match='y.txt: the name must end in .pkl or .pickle'):
        check_new_file(tmp_path / 'y.txt', '--out', ('.pkl', '.pickle'))


def test_numbered_folders_are_each_of_one_process(tmp_path):
    made = []
    barrier = threading.Barrier(8)

    def make():
        barrier.wait()
        made.append(make_numbered_folder(tmp_path / 'runs' / 'x').name)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == ['x', *(f'x_{i}' for i in range(2, 9))]


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
        require_file(str(tmp_path), 'config')
    with pytest.raises(MissingFileError, match='config .*x does not exist'):
        require_file(str(tmp_path / 'x'), 'config')
    with pytest.raises(MissingFileError, match='weights: its name is empty'):
        require_file('', 'weights')
    assert require_file('timm://x', 'weights') == 'timm://x'


def test_a_short_text(tmp_path):
    path = tmp_path / 'x'
    path.write_bytes(b' \xff.pth\n')
    assert read_short_text(path) == '\ufffd.pth'
    path.write_bytes(b'1' * 10**6)
    assert read_short_text(path) == '1' * 5000
    os.mkfifo(tmp_path / 'fifo')
    for name, kind in (('fifo', 'a FIFO'), ('', 'a folder')):
        with pytest.raises(UserError, match=f'this is {kind}, not a file'):
            read_short_text(tmp_path / name)
