"""Workers outlive signals to all processes, and end with the main process."""

import os
import signal
import subprocess
import sys
from multiprocessing import active_children

from mmnextvit.engine import loader_workers
from mmnextvit.engine.runner import ResumableRunner

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

# A training script's end: its loader, whose workers persist, is still there.
SCRIPT = """
from mmnextvit.engine.runner import ResumableRunner

def build():
    global loader
    loader = ResumableRunner.build_dataloader(dict(
        batch_size=1, num_workers=2, persistent_workers=True, dataset=list(range(8)),
        sampler=dict(type='DefaultSampler', shuffle=False)))

def iterate():
    if 'loader' not in globals():
        build()
    print(sum(int(batch[0]) for batch in loader), flush=True)

if __name__ == '__main__':
    {start}
"""
CHILD = """import multiprocessing
    child = multiprocessing.get_context('fork').Process(target=iterate)
    child.start()
    child.join()
    raise SystemExit(child.exitcode)"""


def run(**parts: str) -> subprocess.CompletedProcess:
    parts = dict(start='iterate()') | parts
    return subprocess.run(
        [sys.executable, '-c', SCRIPT.format(**parts)],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    'parts',
    [
        {},
        dict(start='iterate(); held = iter(loader); next(held)'),
        dict(start=CHILD),
        dict(start=f'build(); {CHILD}'),
    ],
    ids=[
        'after the last batch',
        'between batches',
        'in a process of the user',
        'of a loader from before',
    ],
)
def test_a_script_ends_with_its_workers(parts):
    ended = run(**parts)
    assert ended.stdout.splitlines()[-1] == '28'
    assert (ended.returncode, ended.stderr) == (0, '')


def test_an_error_is_all_that_is_said():
    ended = run(start='iterate(); held = iter(loader); next(held); int("a")')
    assert ended.returncode == 1
    assert ended.stderr.count('Error') == 1


class Passing(BaseModel):
    def forward(self, inputs: torch.Tensor, mode: str = 'tensor') -> list:
        return [BaseDataElement()]


@pytest.mark.parametrize('times', [1, 2])
def test_workers_end_with_a_test(times, tmp_path):
    """Of several runners in a process, too, as where formats are compared."""
    before = {*active_children()}
    runner = ResumableRunner(
        Passing(),
        str(tmp_path),
        test_dataloader=dict(
            batch_size=1,
            num_workers=1,
            persistent_workers=True,
            dataset=[dict(inputs=torch.zeros(1))] * 4,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        test_cfg={},
        test_evaluator=[],
        experiment_name=str(tmp_path),
    )
    for _ in range(times):
        runner.test()
        assert {*active_children()} == before


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGHUP', 'SIGINT'])
def test_workers_outlive_what_all_processes_get(name):
    loader = ResumableRunner.build_dataloader(
        dict(
            batch_size=1,
            num_workers=2,
            persistent_workers=True,
            dataset=list(range(64)),
            sampler=dict(type='DefaultSampler', shuffle=False),
        )
    )
    batches = iter(loader)
    numbers = [int(next(batches)[0]), int(next(batches)[0])]  # of both workers
    for worker in batches._workers:
        for _ in range(2):
            os.kill(worker.pid, getattr(signal, name))
    numbers += [int(batch[0]) for batch in batches]
    assert numbers == list(range(64))
    assert all(worker.is_alive() for worker in batches._workers)


@pytest.mark.parametrize(
    ('cores', 'processes', 'wanted', 'got'),
    [(2, 1, 8, 2), (16, 1, 8, 8), (16, 4, 8, 4), (2, 4, 8, 1), (2, 1, 0, 0)],
)
def test_there_are_no_more_workers_than_cores(
    cores, processes, wanted, got, monkeypatch
):
    monkeypatch.setattr(loader_workers, 'count_cores', lambda: cores)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
    settings = dict(num_workers=wanted, persistent_workers=wanted > 0)
    loader = ResumableRunner.build_dataloader(
        dict(settings, batch_size=1, dataset=[0], sampler=dict(type='DefaultSampler'))
    )
    assert loader.num_workers == got


def test_torch_says_nothing_of_the_workers(recwarn):
    loader = ResumableRunner.build_dataloader(
        dict(
            batch_size=1,
            num_workers=512,
            dataset=list(range(4)),
            sampler=dict(type='DefaultSampler', shuffle=False),
        )
    )
    assert [int(batch[0]) for batch in loader] == [0, 1, 2, 3]
    assert not list(recwarn)
