"""Kills a training at many moments, and has it go on each time::

    python -m tests.helpers.kill_training [--moments 20] [--seed 0]

It is ``mmnextvit train --resume`` of a tiny detector, each in a process of its own.
SIGKILL ends that after some seconds, or before one of its changes to its folder; or the
kernel does in the midst of writing a file. docs/reliability.md has the counts of a run.
"""

import argparse
import os
import random
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mmnextvit.cli import main as run_command
from mmnextvit.engine.checkpoints import Whole, read_whole
from mmnextvit.weights.reader import read_checkpoint

import torch

from tests.helpers.commands import fresh_process_state, working_in
from tests.helpers.kills import Moment, run_until
from tests.helpers.tiny_run import write_tiny_run


class Kills(NamedTuple):
    """What came of all kills of one training."""

    kinds: dict[str, int]  # how many of each kind
    in_a_save: int  # left a checkpoint behind that was written in part
    without_checkpoint: int  # came before the first one was whole
    furthest_back: int  # most iterations that were lost to a kill
    difference: float | None  # the largest of a weight to a run that was not killed


def kill_training(
    folder: Path, moments: int, seed: int = 0, compare: bool = True
) -> Kills:
    """Kills a training of as many epochs and two more, and lets it end.

    Args:
        folder: An empty folder to work in.
        moments: How many kills.
        seed: Of when they come.
        compare: Whether to compare the weights with those of a run that is not killed.

    Raises:
        AssertionError: A run did not go on, or left a checkpoint that is not whole.
    """
    rng = random.Random(seed)
    write_tiny_run(folder)
    straight, killed = folder / 'straight', folder / 'killed'
    train = partial(_train, folder, epochs=moments + 2)
    if compare:
        run_until(Moment(), partial(train, straight), straight)

    kinds: Counter[str] = Counter()
    in_a_save = without_checkpoint = furthest_back = reached = 0
    for number in range(moments):
        moment = choose_moment(rng, number, killed)
        kinds[next(name for name, value in moment._asdict().items() if value)] += 1
        assert run_until(moment, partial(train, killed), killed), f'it ended: {moment}'
        in_a_save += any(killed.glob('.*.pth.*'))
        found = check_whole(killed)
        without_checkpoint += not found
        now = max((whole.iter for whole in found), default=0)
        assert now >= reached, f'{now} iterations are left of {reached}: {moment}'
        furthest_back = max(furthest_back, count_logged(killed) - now)
        reached = now
    assert not run_until(Moment(), partial(train, killed), killed)

    left = [path.name for path in killed.glob('.*')]
    assert not left, left
    assert len(list(killed.glob('best_*.pth'))) == 1
    last = f'epoch_{moments + 2}.pth'
    (ended,) = (whole for whole in check_whole(killed) if whole.path.name == last)
    difference = compare_weights(killed / last, straight / last) if compare else None
    assert ended.iter == 3 * (moments + 2)
    return Kills(dict(kinds), in_a_save, without_checkpoint, furthest_back, difference)


def compare_weights(*paths: Path) -> float:
    """The largest difference of a weight between two checkpoints."""
    states = [read_checkpoint(path)['state_dict'] for path in paths]
    return max(
        (states[0][name].double() - states[1][name].double()).abs().max().item()
        for name in states[0]
    )


def choose_moment(rng: random.Random, number: int, folder: Path) -> Moment:
    """A moment of the next kind; each kind in its turn."""
    if number % 3 == 0:
        return Moment(change=rng.randint(1, 80))
    if number % 3 == 1:  # of a file that is larger than all but checkpoints
        sizes = [p.stat().st_size for p in folder.glob('epoch_*.pth')]
        return Moment(size=rng.randint(150_000, min(sizes, default=1_000_000) - 1))
    return Moment(seconds=rng.uniform(0.5, 8))


def check_whole(folder: Path) -> list[Whole]:
    """A folder's checkpoints that a run can go on from; all must be whole."""
    for path in folder.glob('best_*.pth'):
        read_checkpoint(path)
    found = [read_whole(path) for path in folder.glob('epoch_*.pth')]
    last = folder / 'last_checkpoint'
    assert bool(last.exists()) <= bool(found)
    if last.exists():
        assert Path(last.read_text()) in [whole.path for whole in found]
    return found


def count_logged(folder: Path) -> int:
    """Iterations that the newest log knows of, of all runs together."""
    logs = [log.read_text() for log in folder.glob('*/vis_data/scalars.json')]
    steps = [
        int(line.rpartition('"step": ')[2].rstrip('}'))
        for log in logs
        for line in log.splitlines()
        if '"loss"' in line and line.endswith('}')
    ]
    return max(steps, default=0)


def _train(folder: Path, work_dir: Path, epochs: int) -> None:
    """Trains in this process, all of whose output goes into one file."""
    with open(folder / 'output.txt', 'a') as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    with working_in(folder), fresh_process_state():
        run_command(
            'train',
            ['tiny.py', '--resume', '--work-dir', work_dir.name, '--cfg-options']
            + [f'train_cfg.max_epochs={epochs}', 'train_cfg.val_interval=1'],
        )


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--moments', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # a process with more cannot be forked
    with tempfile.TemporaryDirectory() as place:
        for name, value in (
            kill_training(Path(place), args.moments, args.seed)._asdict().items()
        ):
            print(f'{name}: {value}')
