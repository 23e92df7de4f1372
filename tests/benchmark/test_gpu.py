"""benchmarks/gpu.sh on a CPU, at tiny size."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from mmnextvit.models import compute_options, probe
from mmnextvit.models.probe import Timing

import pytest
import torch

from tests.helpers.commands import fresh_process_state

ROOT = Path(__file__).parents[2]


def run(tmp_path, *args, **environ):
    return subprocess.run(
        ['bash', str(ROOT / 'benchmarks/gpu.sh'), '--device', 'cpu', *args],
        env={
            **os.environ,
            'OUT': str(tmp_path / 'out'),
            'PYTHON': sys.executable,
            'XDG_CACHE_HOME': str(tmp_path / 'cache'),
            **environ,
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope='module')
def gpu():
    """The script behind the parts."""
    spec = importlib.util.spec_from_file_location('gpu', ROOT / 'benchmarks/gpu.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules['gpu'] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    yield module
    del sys.modules['gpu']


@pytest.fixture
def setting(gpu, tmp_path, monkeypatch):
    """Of a tiny run on a CPU, in which nothing of the environment decides."""
    for name in (compute_options.FORMAT_VARIABLE, compute_options.NORMS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(gpu, 'measure_rate', lambda setting, dtype: 1e9)
    monkeypatch.setattr(gpu, 'describe_machine', lambda device: 'a machine')
    even = {k: Timing(dict.fromkeys(probe.FORMATS, 1.0), False) for k in probe.SHAPES}
    monkeypatch.setattr(compute_options, 'probe', lambda threads: even)
    with fresh_process_state():
        yield gpu.Setting(torch.device('cpu'), True, tmp_path / 'table.md', 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    'part, rows',
    [
        ('machine', ['float32', 'TF32', 'bfloat16', 'float16']),
        ('correctness', ['maps, float32, channels_last', 'gradients', 'NMS', 'RoI']),
        ('inference', ['| timm |', '| ours, deployed, channels-last |']),
        ('steps', ['| ours, by default |', 'bfloat16, autocast']),
        ('loader', ['| 0 |']),
        ('batch', ['| timm |', '| detector, --batch auto |']),
    ],
)
def test_every_part_makes_its_table(part, rows, gpu, setting):
    gpu.PARTS[part](setting)
    table = setting.out.read_text(encoding='utf-8')
    assert table.startswith('## ') and all(row in table for row in rows)
    assert '| NO |' not in table


def test_what_is_wrong_is_found(gpu, setting, monkeypatch):
    errors = [('a', 0.0, 0.1), ('b', 0.2, 0.1), ('c', float('nan'), 0.1)]
    monkeypatch.setattr(gpu, 'list_errors', lambda setting: errors)
    with pytest.raises(SystemExit):
        gpu.check_correctness(setting)
    rows = setting.out.read_text(encoding='utf-8').splitlines()[4:]
    assert [row.split(' | ')[-1].strip(' |') for row in rows] == ['yes', 'NO', 'NO']


FAKE = """#!/bin/bash
case "$*" in
  *"gpu.py machine"*) exit 3 ;;
  *"cuda or graph"*) echo "FAILED tests/a.py::test_b[x-1] - it is wrong"; exit 1 ;;
  *"gpu.py steps"*) echo "| a row |" >"{out}/steps.md"; exit 124 ;;
esac
"""


def test_a_part_that_fails_takes_nothing_from_the_others(tmp_path):
    """Each is named, and so is each test that failed; an ended one leaves its rows."""
    fake = tmp_path / 'python'
    fake.write_text(FAKE.format(out=tmp_path / 'out'), encoding='utf-8')
    fake.chmod(0o755)
    done = run(tmp_path, PYTHON=str(fake))
    out = tmp_path / 'out'
    results = (out / 'results.md').read_text(encoding='utf-8')
    assert done.returncode == 1
    assert 'machine: FAILED with exit code 3' in results
    assert 'steps: ENDED after its 60 s' in results and '| a row |' in results
    assert 'batch: done' in results
    named = (out / 'failed_tests.txt').read_text(encoding='utf-8')
    assert named == 'FAILED tests/a.py::test_b[x-1]\n'


def test_another_option_is_refused(tmp_path):
    done = run(tmp_path, '--tinny')
    assert done.returncode == 2 and '--tinny' in done.stderr
