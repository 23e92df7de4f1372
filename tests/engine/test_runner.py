"""What a machine without a GPU gets, and the memory that it keeps."""

import copy
import os
import re
import sys
from types import SimpleNamespace

from mmnextvit.engine import runner
from mmnextvit.utils.errors import UserError

import pytest
import torch
from mmengine.config import Config
from yapf.yapflib import yapf_api

from tests.helpers.tiny_run import ROOT, run_command


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='glibc is what is set')
@pytest.mark.parametrize('kept', [True, False])
def test_freed_memory_is_kept(kept):
    """Tensors as big as ones that are gone take no new pages; without, all of theirs.

    Not from the second one on: small blocks may nibble at what the first one left.
    """
    code = f"""
import resource, torch
from mmnextvit.engine.runner import keep_freed_memory
if {kept}:
    keep_freed_memory()
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    print('faults', resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    output = run_command(sys.executable, '-c', code, cwd=ROOT, env=env)
    first, *faults = map(int, re.findall(r'faults (\d+)', output))
    assert first > 20, output  # 64 MiB are 16384 pages, or 32 huge ones
    if kept:
        assert sum(faults[-10:]) < 100, output
    else:
        assert min(faults) > 20, output


@pytest.mark.parametrize('most, asked', [(2**31, 2**31 - 1), (2**25, 2**25)])
def test_freed_memory_with_older_glibc(most, asked, monkeypatch):
    """It refuses more than 32 MiB; the other threshold alone is worse than none."""
    settings = {}

    def mallopt(key, value):
        if key == -3 and value > most:
            return 0
        settings[key] = value
        return 1

    library = SimpleNamespace(mallopt=mallopt)
    monkeypatch.setattr(runner.ctypes, 'CDLL', lambda name: library)
    runner.keep_freed_memory()
    assert settings == {-3: asked, -1: 2**31 - 1}
    settings.clear()
    library.mallopt = lambda key, value: key != -3 and mallopt(key, value)
    runner.keep_freed_memory()
    assert settings == {}


@pytest.mark.parametrize('name', ['gpu', 'xpu', 'meta', 'cuda:x', 'cpu:banana'])
def test_devices_that_are_not_here(name):
    with pytest.raises(UserError, match=f'device {name} .--device.'):
        runner.choose_device(name)


def test_devices():
    assert runner.choose_device('cpu') == torch.device('cpu')
    assert runner.choose_device().type == runner.get_device().partition(':')[0]


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm', 'mpi'])
def test_a_launcher_that_did_not_start_this_process(launcher, monkeypatch):
    variable, command = runner.LAUNCHERS[launcher]
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=f'{command}.*{variable}'):
        runner.build_runner(Config(dict(launcher=launcher)))


@pytest.mark.slow
def test_a_run_formats_its_config_once(load_config, monkeypatch, tmp_path):
    """MMEngine asks for its text in the log, in each checkpoint and so on."""
    plain = load_config('yolov5_nextvit_s')
    expected, calls = plain.pretty_text, []

    def count(*args: object, **kwargs: object) -> tuple[str, bool]:
        calls.append(args)
        return format_code(*args, **kwargs)

    format_code = yapf_api.FormatCode
    monkeypatch.setattr(yapf_api, 'FormatCode', count)
    cfg = runner.RunConfig(plain)
    assert cfg.pretty_text == cfg.dump() == expected
    copied = copy.deepcopy(cfg)
    copied.dump(tmp_path / 'config.py')
    assert (tmp_path / 'config.py').read_text() == expected
    assert [p.name for p in tmp_path.iterdir()] == ['config.py']
    assert len(calls) == 1
    copied.model.backbone.arch = 'large'
    assert "arch='large'" in copied.pretty_text and len(calls) == 2
    assert cfg.pretty_text == expected
    assert (cfg.filename, cfg.model) == (plain.filename, plain.model)
    cfg.work_dir = 'here'
    assert 'work_dir' not in plain


def test_a_runner_gets_such_a_config(monkeypatch):
    monkeypatch.setattr(runner, 'keep_freed_memory', lambda: None)
    monkeypatch.setattr(runner.Runner, 'from_cfg', lambda cfg: cfg)
    assert isinstance(runner.build_runner(Config(dict(a=1))), runner.RunConfig)
