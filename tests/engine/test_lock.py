"""A folder has one training at a time, and a kill leaves no lock behind."""

import errno
import os
import signal
import time
from pathlib import Path

from mmnextvit.engine import lock
from mmnextvit.engine.lock import training_lock
from mmnextvit.utils.errors import UserError

import pytest
from mmengine.config import Config

from tests.helpers.kills import Moment, run_until


def config(folder: Path, launcher: str = 'none') -> Config:
    return Config(dict(work_dir=str(folder), launcher=launcher))


def refused_elsewhere(folder: Path) -> bool:
    """Whether another process is refused; it ends by a signal where it is not."""

    def try_it() -> None:
        lock._held.clear()  # a fork has them from its parent
        try:
            with training_lock(config(folder)):
                os.kill(os.getpid(), signal.SIGKILL)
        except UserError as error:
            message = str(error)
        assert message.startswith(f'{folder}: another training writes there now ')
        assert f'process {os.getppid()} on ' in message and '--work-dir' in message

    return not run_until(Moment(), try_it, folder)


@pytest.mark.slow
def test_a_second_training_is_refused(tmp_path):
    folder = tmp_path / 'runs' / 'one'
    assert not refused_elsewhere(tmp_path)
    with training_lock(config(folder)):
        assert refused_elsewhere(folder)
        message = 'another training writes there now'
        with pytest.raises(UserError, match=message), training_lock(config(folder)):
            pass
        assert refused_elsewhere(folder)  # the attempt has not freed it
        (folder / 'file').touch()
    assert [p.name for p in folder.iterdir()] == ['file']
    assert not refused_elsewhere(folder)


@pytest.mark.slow
def test_a_kill_leaves_no_lock_behind(tmp_path):
    """Also where a data-loader worker of the process that was killed lives on."""
    told = tmp_path / 'worker'

    def train() -> None:
        with training_lock(config(tmp_path)):
            worker = os.fork()
            if worker == 0:
                time.sleep(60)
            told.write_text(str(worker))
            os.kill(os.getpid(), signal.SIGKILL)

    assert run_until(Moment(), train, tmp_path)
    worker = int(told.read_text())
    os.kill(worker, 0)  # it is there
    try:
        with training_lock(config(tmp_path)):
            assert refused_elsewhere(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    'launcher, variable',
    [
        ('pytorch', 'RANK'),
        ('slurm', 'SLURM_PROCID'),
        ('mpi', 'OMPI_COMM_WORLD_RANK'),
    ],
)
def test_the_first_of_several_processes_has_the_lock(
    tmp_path, monkeypatch, launcher, variable
):
    monkeypatch.setenv(variable, '0')
    with training_lock(config(tmp_path, launcher)):
        monkeypatch.setenv(variable, '1')
        with training_lock(config(tmp_path, launcher)):
            assert refused_elsewhere(tmp_path)
        assert refused_elsewhere(tmp_path)


def test_two_runs_with_one_folder_of_checkpoints(tmp_path):
    """MMEngine gives it the name that both work dirs end in."""

    def saving(folder: str, out_dir: Path | str) -> Config:
        hooks = dict(checkpoint=dict(out_dir=str(out_dir)))
        return Config(dict(work_dir=str(tmp_path / folder), default_hooks=hooks))

    saved = tmp_path / 'saved'
    with training_lock(saving('a/run', saved)):
        message = f'^{saved / "run"}: another training .* name .--work-dir.'
        for other in (saving('b/run', saved), config(saved / 'run')):
            with pytest.raises(UserError, match=message), training_lock(other):
                pass
        for other in (saving('b/other', saved), saving('c/run', 's3://x')):
            with training_lock(other):
                pass
    with training_lock(saving('saved/run', saved)):  # the same folder
        pass
    assert not list(tmp_path.iterdir())


def test_what_is_refused_leaves_no_folder(tmp_path):
    folder = tmp_path / 'a' / 'b'
    with pytest.raises(UserError, match='of the config'), training_lock(config(folder)):
        raise UserError('of the config')
    assert not list(tmp_path.iterdir())
    with training_lock(config(folder)):
        (folder / 'file').touch()
    assert [p.name for p in folder.iterdir()] == ['file']


def test_a_folder_that_is_a_file(tmp_path):
    file = tmp_path / 'file'
    file.touch()
    message = 'file is a file: .*--work-dir'
    with pytest.raises(UserError, match=message), training_lock(config(file)):
        pass
    with pytest.raises(OSError) as error, training_lock(config(file / 'run')):
        pass
    assert error.value.filename == str(file / 'run')
    assert file.read_bytes() == b''


def test_a_lock_that_its_owner_removes_meanwhile(tmp_path, monkeypatch):
    """Between the second process's opening the file and its locking it."""
    locks = []

    def lock_late(descriptor: int) -> None:
        if not locks:
            (tmp_path / lock.FILE).unlink()
        locks.append(descriptor)
        own(descriptor)

    own = lock._lock
    monkeypatch.setattr(lock, '_lock', lock_late)
    with training_lock(config(tmp_path)):
        assert len(locks) == 2
        assert (tmp_path / lock.FILE).exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(lock, '_lock', fail)
    with training_lock(config(tmp_path)):
        pass
    assert 'a second training there would not be noticed' in capsys.readouterr().err
