"""The search for the largest batch: of a simulated machine, and of a real detector."""

import json
import os
import socket
import sys
from pathlib import Path

from mmnextvit.apis import find_batch_size
from mmnextvit.engine import batch_size
from mmnextvit.engine.batch_size import (
    OutOfMemory,
    Step,
    Trial,
    choose_batch_size,
    find_largest,
    read_free_memory,
)
from mmnextvit.engine.configs import read_config
from mmnextvit.utils.errors import UserError

import pytest
import torch
from mmengine.config import Config

from tests.helpers.commands import fresh_process_state, working_in
from tests.helpers.forks import fork
from tests.helpers.tiny_run import ROOT, run_command, write_tiny_run


class Machine:
    """An allocator: so many bytes for the model, and more for each image.

    Args:
        capacity: Bytes beyond which it is out of memory.
        model: Bytes without an image.
        image: Bytes of each.
        rates: Images a second, by the batch size; the last one for all beyond.
    """

    def __init__(self, capacity, model=1000, image=70, rates=()):
        self.capacity, self.model, self.image = capacity, model, image
        self.rates = rates
        self.tried = []

    def __call__(self, size: int) -> Step:
        self.tried.append(size)
        used = self.model + size * self.image
        if used > self.capacity:
            raise OutOfMemory
        rate = next((r for n, r in self.rates if size <= n), 1)
        return Step(used, size / rate)


@pytest.mark.parametrize('careful', [False, True])
@pytest.mark.parametrize('largest', [1, 2, 3, 4, 7, 8, 9, 31, 64, 100, 1023])
def test_the_largest_batch_is_found(largest, careful):
    for slack in (0, 69):
        machine = Machine(1000 + largest * 70 + slack)
        options = dict(careful=careful, base=machine.model)
        found = find_largest(machine, machine.capacity, 5000, **options)
        assert found.batch_size == largest == max(found.steps)
        assert found.limit == f'a batch of {largest + 1} does not fit'
        assert len(machine.tried) == len(set(machine.tried)) <= 22


def test_a_budget_below_what_there_is():
    """Steps that fit the machine, but not the budget, count as none."""
    machine = Machine(10**6)
    assert find_largest(machine, 1000 + 12 * 70, 5000).batch_size == 12


def test_what_would_end_the_process_is_not_tried():
    machine = Machine(10**6)
    budget = 1000 + 37 * 70
    found = find_largest(machine, budget, 5000, careful=True, base=1000)
    assert found.batch_size == 37
    assert max(machine.tried) == 37


def test_no_more_than_there_are_images():
    found = find_largest(Machine(10**9), 10**9, 6)
    assert (found.batch_size, found.limit) == (6, 'there are 6 images')
    assert find_largest(Machine(10**9), 10**9, 1).batch_size == 1


@pytest.mark.parametrize('careful', [False, True])
def test_not_even_one_image(careful):
    found = find_largest(Machine(900), 900, 50, careful=careful)
    assert found.batch_size == 0 and not found.steps


def test_twice_the_batch_that_is_no_faster():
    rates = [(1, 10), (2, 15), (4, 20), (8, 20.5), (99, 40)]
    found = find_largest(Machine(10**6, rates=rates), 10**6, 99, least_gain=0.05)
    assert found.batch_size == 4
    assert found.limit == 'a batch of 8 gives +2% images a second'
    assert find_largest(Machine(10**6, rates=rates), 10**6, 99).batch_size == 99


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace('__', '/')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


KIB = 1024


def test_free_memory_of_machine_and_control_groups(tmp_path):
    write(tmp_path, proc__meminfo='MemTotal: 9000 kB\nMemAvailable:  5000 kB\n')
    assert read_free_memory(tmp_path) == 5000 * KIB
    group = 'sys__fs__cgroup__user__'
    files = {
        'proc__self__cgroup': '1:name=systemd:/x\n0::/user/job\n',
        f'{group}memory.max': '4000000\n',
        f'{group}memory.current': '1500000\n',
        f'{group}memory.stat': 'anon 7\ninactive_file 500000\n',
        f'{group}job__memory.max': 'max\n',
        f'{group}job__memory.current': '9\n',
        f'{group}job__memory.stat': 'inactive_file 1\n',
    }
    write(tmp_path, **files)
    assert read_free_memory(tmp_path) == 3_000_000
    first = {
        'sys__fs__cgroup__memory__memory.limit_in_bytes': '2000000',
        'sys__fs__cgroup__memory__memory.usage_in_bytes': '1900000',
        'sys__fs__cgroup__memory__memory.stat': 'total_inactive_file 400000\n',
    }
    write(tmp_path, **first)
    assert read_free_memory(tmp_path) == 500_000


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    return write_tiny_run(tmp_path_factory.mktemp('batch'))


@pytest.mark.slow
def test_a_tiny_detector(config, monkeypatch, capfd):
    """Real steps, on a machine that is simulated to be small."""
    cfg = read_config(str(config))
    tried = []
    run = Trial.run

    def watched(self, size):
        before = [p.detach().clone() for p in self._model.parameters()]
        step = run(self, size)
        after = list(self._model.parameters())
        moved = [not torch.equal(a, b) for a, b in zip(before, after)]
        assert any(moved)  # the optimizer stepped
        assert self._optim_wrapper.optimizer.state
        tried.append(size)
        return Step(size * 2**20, step.seconds)

    monkeypatch.setattr(Trial, 'run', watched)
    monkeypatch.setattr(batch_size, 'LEAST_GAIN', -1)  # a matter of the machine
    monkeypatch.setattr(batch_size, 'measure_free', lambda device: 5 * 2**20)
    with working_in(config.parent), fresh_process_state():
        assert find_batch_size(cfg) == 4  # of 6 images, in four fifths of the memory
    said = ''.join(capfd.readouterr())
    assert tried == [1, 2, 4]
    assert '--batch auto: a batch of 4. ' in said and '100% of 0.00 GiB' in said
    assert (
        '20% of the free memory stay as a margin' in said
        and 'batch of 5 does not fit' in said
    )
    monkeypatch.setattr(batch_size, 'measure_free', lambda device: 2**10)
    message = 'not even one image fits into .*--imgsz'
    with working_in(config.parent), fresh_process_state():  # noqa: SIM117
        with pytest.raises(UserError, match=message):
            find_batch_size(cfg)
    assert not (config.parent / 'work_dirs').exists()


@pytest.mark.slow
def test_memory_of_real_steps(config):
    """In a process of its own: one that has freed memory takes no more for a while."""
    code = f"""
import json, torch
from mmnextvit.engine.configs import read_config
from mmnextvit.engine.batch_size import Trial, measure_free
trial = Trial(read_config({str(config)!r}), torch.device('cpu'))
steps = [trial.run(size) for size in (1, 16)]
free = measure_free(torch.device('cpu'))
pairs = [[step.memory, step.seconds] for step in steps]
print(json.dumps([pairs, free, trial.num_images]))
trial.close()
"""
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    said = run_command(sys.executable, '-c', code, cwd=ROOT, env=env)
    line = next(line for line in said.splitlines() if line.startswith('[['))
    steps, free, num_images = json.loads(line)
    assert num_images == 6
    (memory_of_1, seconds_of_1), (memory_of_16, seconds_of_16) = steps
    assert memory_of_16 - memory_of_1 > 15 * 3 * 64 * 64 * 4
    assert memory_of_16 < free and min(seconds_of_1, seconds_of_16) > 0


class Simulated:
    """Steps that take a mebibyte for each of six images."""

    num_images = 6

    def __init__(self, cfg: Config, device: torch.device) -> None:
        pass

    def run(self, size: int) -> Step:
        return Step(size * 2**20, size)

    def close(self) -> None:
        pass


@pytest.mark.slow
def test_every_process_takes_the_smallest(tmp_path, monkeypatch):
    """Two machines of a launcher, one with less memory than the other."""
    free = {'0': 5 * 2**20, '1': 7 * 2**20}
    monkeypatch.setattr(batch_size, 'Trial', Simulated)
    monkeypatch.setattr(batch_size, 'LEAST_GAIN', -1)
    monkeypatch.setattr(
        batch_size, 'measure_free', lambda device: free[os.environ['RANK']]
    )
    cfg = Config(dict(launcher='pytorch'))
    with socket.socket() as port:
        port.bind(('127.0.0.1', 0))
        common = dict(MASTER_PORT=port.getsockname()[1], MASTER_ADDR='127.0.0.1')
    ranks = [
        fork(
            lambda: print('took', choose_batch_size(cfg)),
            tmp_path,
            f'rank_{rank}',
            **common,
            WORLD_SIZE=2,
            RANK=rank,
            LOCAL_RANK=rank,
        )
        for rank in range(2)
    ]
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert all('took 4' in rank.printed() for rank in ranks)
