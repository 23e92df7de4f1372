"""Ctrl-C and SIGTERM end a training with a checkpoint, and nothing is left running."""

import functools
import os
import signal
import time
from pathlib import Path

from mmnextvit.cli import main

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from tests.helpers.commands import run_here
from tests.helpers.forks import Fork, fork, is_running, wait_until
from tests.helpers.random_run import Run, assert_same_end, train, write_random_run

pytestmark = pytest.mark.slow


@HOOKS.register_module(force=True)
class SignalHook(Hook):
    """Sends signals to its own process, before an iteration or a validated image.

    Args:
        number: The signal.
        train: Before which iteration, from 0.
        val: Before which image of the first validation.
        pause: Seconds from the signal to another one. Then it hangs.
        record: Where the ids of the data-loader workers are written to before.
        to_all: Whether these get the signal first, as what `timeout` sends.
    """

    def __init__(
        self,
        number: int = 0,
        train: int | None = None,
        val: int | None = None,
        pause: float | None = None,
        record: str | None = None,
        to_all: bool = False,
    ) -> None:
        self.to_all = to_all
        self.number, self.train, self.val = number, train, val
        self.pause, self.record = pause, record

    def before_train_iter(self, runner: Runner, *args: object, **kw: object) -> None:
        if runner.iter != self.train:
            return
        if self.record is not None:
            workers = runner.train_dataloader._iterator._workers
            written = Path(self.record).with_suffix('.part')
            written.write_text(' '.join(str(worker.pid) for worker in workers))
            written.rename(self.record)
            for worker in workers if self.to_all else ():
                os.kill(worker.pid, self.number)
            time.sleep(0.5 * self.to_all)
        if self.number:
            signal.raise_signal(self.number)
        if self.pause is not None:
            time.sleep(self.pause)
            if self.number:
                signal.raise_signal(self.number)
            time.sleep(60)

    def before_val_iter(
        self, runner: Runner, batch_idx: int, *args: object, **kw: object
    ) -> None:
        if batch_idx == self.val:
            signal.raise_signal(self.number)


def write_interrupted(folder: Path, **hook: object) -> None:
    """Writes ``interrupted.py``, the run of ``random.py`` with the hook."""
    (folder / 'interrupted.py').write_text(
        "_base_ = './random.py'\n"
        f'hook = dict(type="SignalHook", **{hook})\n'
        'custom_hooks = [*_base_.custom_hooks, hook]\n'
    )


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that sums three batches, and is validated after each epoch."""
    folder = tmp_path_factory.mktemp('whole')
    write_random_run(folder, NOMINAL=6, VAL_BEGIN=1)
    run = train(folder, 'run')
    assert run.validations() == [1, 2]
    return run


@pytest.mark.parametrize(
    'hook, code, what, iteration',
    [
        (dict(number=15, train=1), 143, 'terminated', 2),
        (dict(number=2, val=1), 130, 'interrupted', 3),
    ],
)
def test_what_was_trained_is_saved(whole, capfd, hook, code, what, iteration):
    """In the midst of an epoch and of a step; and in a validation."""
    folder, name = whole.work_dir.parent, f'ended_{code}'
    write_interrupted(folder, **hook)
    output = run_here(
        *('train', 'interrupted.py', '--work-dir', name),
        cwd=folder,
        capfd=capfd,
        code=code,
    )
    assert output.strip().splitlines()[-1] == (
        f'mmnextvit train: {what}; {iteration} iterations are saved in '
        f'{folder}/{name}/interrupted.pth, from where --resume goes on'
    )
    assert 'Traceback' not in output
    run = Run(folder / name)
    assert [*run.losses()] == [*range(1, iteration + 1)] and run.validations() == []
    resumed = train(folder, name, '--resume')
    assert [*resumed.losses()] == [1, 2, 3, 4, 5, 6]
    assert resumed.validations() == [1, 2]
    assert_same_end(resumed, whole, 'iter_6.pth')
    assert not (folder / name / 'interrupted.pth').exists()


def start(folder: Path, **hook: object) -> Fork:
    write_interrupted(folder, **hook)
    arguments = ['interrupted.py', '--work-dir', 'run']
    return fork(functools.partial(main, 'train', arguments), folder, 'train')


def test_a_second_signal_ends_at_once(tmp_path):
    write_random_run(tmp_path)
    process = start(tmp_path, number=2, train=0, pause=0.5)
    assert process.wait() == 130
    assert not (tmp_path / 'run' / 'interrupted.pth').exists()


def test_no_worker_is_left(tmp_path):
    """After a signal, and after the training was killed."""
    write_random_run(tmp_path, WORKERS=2)
    record = tmp_path / 'workers'
    process = start(tmp_path, number=15, train=1, record=str(record), to_all=True)
    assert process.wait() == 143
    workers = [int(pid) for pid in record.read_text().split()]
    assert len(workers) == 2 and not any(map(is_running, workers))
    assert (tmp_path / 'run' / 'interrupted.pth').is_file()

    record.unlink()
    write_interrupted(tmp_path, train=1, record=str(record), pause=0)
    arguments = ['interrupted.py', '--work-dir', 'killed']
    process = fork(functools.partial(main, 'train', arguments), tmp_path, 'killed')
    wait_until(record.exists, 60)
    workers = [int(pid) for pid in record.read_text().split()]
    assert all(map(is_running, workers))
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    wait_until(lambda: not any(map(is_running, workers)), 15)
