"""The remaining time counts what is left, in a resumed run, too."""

from pathlib import Path
from types import SimpleNamespace

from mmnextvit.engine.time_left import (
    count_iterations_left,
    count_validations_left,
    read_peak_memory,
)

import pytest
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from tests.helpers.scripted_run import build_scripted_run


class EpochLoop(EpochBasedTrainLoop):
    """A loop of which only the numbers count."""

    def __init__(self, epoch: int, max_epochs: int, batches: int) -> None:
        self._epoch, self._max_epochs, self.dataloader = (
            epoch,
            max_epochs,
            [0] * batches,
        )


@pytest.mark.parametrize(
    'epoch, batch_idx, left', [(0, 0, 29), (0, 9, 20), (2, 8, 1), (2, 9, 0), (5, 0, 0)]
)
def test_iterations_left(epoch, batch_idx, left):
    assert count_iterations_left(EpochLoop(epoch, 3, 10), batch_idx) == left
    by_iter = SimpleNamespace(max_iters=30, iter=10 * epoch + batch_idx)
    assert count_iterations_left(by_iter, batch_idx) == left
    by_iter.end = 10 * epoch + batch_idx + 1  # it ends earlier, after this iteration
    assert count_iterations_left(by_iter, batch_idx) == 0


def test_validations_left_against_the_loops_own_rule():
    """MMEngine validates after an epoch of the interval, and after the last one."""
    for last in range(1, 9):
        for begin in range(1, 10):
            for interval in range(1, 10):
                after = [
                    n
                    for n in range(1, last + 1)
                    if n >= begin and (n % interval == 0 or n == last)
                ]
                for done in range(last + 1):
                    loop = SimpleNamespace(
                        iter=done,
                        max_iters=last,
                        val_begin=begin,
                        val_interval=interval,
                    )
                    expected = sum(n > done for n in after)
                    assert count_validations_left(loop) == expected


class RecordHook(Hook):
    """Keeps the remaining time, and the time of each iteration."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.left: list[float] = []
        self.times: list[float] = []

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        self.left.append(runner.message_hub.get_info('eta'))
        times = runner.message_hub.get_scalar('train/time')
        self.times.append(times.current())


@pytest.mark.slow
def test_after_resume_with_another_batch_size(tmp_path: Path):
    """Two epochs of 20 batches, then two of 4: MMEngine counts to 16, from 40 on."""
    scores = [0.1, 0.2, 0.3, 0.4]
    build_scripted_run(tmp_path, scores, epochs=2, batches=20).train()
    hook = RecordHook()
    last = tmp_path / 'epoch_2.pth'
    build_scripted_run(tmp_path, scores, last, hooks=(hook,), batches=4).train()
    assert len(hook.left) == 8 and min(hook.left) >= 0
    for done in range(1, 5):  # no validation was timed yet
        mean = sum(hook.times[:done]) / done
        assert hook.left[done - 1] == pytest.approx(mean * (8 - done))
    assert hook.left[4] > sum(hook.times[:5]) / 5 * 3  # and a validation
    assert read_peak_memory() > 50
