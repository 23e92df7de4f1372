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
    command = sys.executable, '-c', code
    output = run_command(*command, cwd=ROOT, env=env, warm=False)
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


def test_a_run_does_not_wait_for_the_text_of_its_config(
    load_config, monkeypatch, tmp_path
):
    """MMEngine asks for it in the log, in each checkpoint and so on."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError('yapf formats the config')

    monkeypatch.setattr(yapf_api, 'FormatCode', refuse)
    plain = load_config('yolov5_nextvit_s')
    cfg = copy.deepcopy(runner.RunConfig(plain))
    cfg.dump(tmp_path / 'config.py')
    assert [p.name for p in tmp_path.iterdir()] == ['config.py']
    text = (tmp_path / 'config.py').read_text()
    assert cfg.pretty_text == cfg.dump() == text
    assert max(map(len, text.splitlines())) < 160 and text.count('\n') > 800
    assert Config.fromfile(tmp_path / 'config.py').to_dict() == plain.to_dict()
    assert (cfg.filename, cfg.model) == (plain.filename, plain.model)
    cfg.work_dir = 'here'
    assert 'work_dir' not in plain


def test_a_runner_gets_such_a_config(monkeypatch):
    monkeypatch.setattr(runner, 'keep_freed_memory', lambda: None)
    monkeypatch.setattr(runner.Runner, 'from_cfg', lambda cfg: cfg)
    assert isinstance(runner.build_runner(Config(dict(a=1))), runner.RunConfig)
