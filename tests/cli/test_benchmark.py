"""The tool that measures: what it counts, and what its tables hold."""

import argparse
import sys

import pytest
import torch

from tests.helpers.tiny_run import ROOT, load_tool, run_tool, write_tiny_run


@pytest.fixture(scope='module')
def tool():
    return load_tool('benchmark')


def rows(output):
    """The cells of the last table in an output, by the row's first."""
    lines = [x[2:-2].split(' | ') for x in output.splitlines() if x.startswith('| ')]
    start = max(i for i, cells in enumerate(lines) if cells[0] == '---')
    return {cells[0]: cells[1:] for cells in lines[start + 1 :]}


def options(**changes):
    settings = dict(arch='small', device='cpu', size=64, batch=2, rounds=1, plot=None)
    return argparse.Namespace(**{**settings, **changes})


def test_allocated_is_the_peak(tool):
    def step():
        a = torch.ones(2**20)  # 4 MB
        b = a * 2
        del a, b
        torch.ones(2**19)

    assert tool.allocated(step) == pytest.approx(8, abs=0.01)


def test_medians_of_turns_without_the_first(tool):
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in 'ab'}
    times = tool.in_turn(runs, 3)
    assert calls == ['a', 'b'] * 5
    assert all(0 < seconds < 1 for seconds in times.values())


def test_ratios(tool):
    times = {'timm': 2.0, 'ours': 1.5, 'ours, with_cp': 3.0}
    assert tool.against(times, 'timm', None) == ['1.00', '']
    assert tool.against(times, 'ours', (0.9, 'timm')) == ['0.75', '0.90']
    assert tool.against(times, 'ours, with_cp', (1.4, 'ours')) == [
        '2.00 of ours',
        '1.40',
    ]


def test_contestants_compute_what_they_are_called(tool):
    """Ours have timm's shapes; deploy mode has no norms; gradients come in training."""
    maps = {}
    for name, setup in tool.SUITES['inference'].items():
        net, call = tool.contestant(setup, options())
        maps[name] = [y.shape for y in call()]
        norms = [m for m in net.modules() if 'BatchNorm' in type(m).__name__]
        assert bool(norms) == ('deploy' not in name)
        assert next(net.parameters()).dtype == setup.dtype
    assert len(set(map(tuple, maps.values()))) == 1
    for setup in tool.SUITES['training'].values():
        net, step = tool.contestant(setup, options(), train=True)
        step()
        assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_inference(tmp_path):
    command = ['inference', '--size', 64, '--rounds', 1, '-o', 'new.md']
    output = run_tool('benchmark.py', *command, cwd=tmp_path)
    found = rows(output)
    assert float(found['timm'][3]) == 1
    milliseconds, _, _, ratio, target = found['ours, deploy mode']
    assert float(milliseconds) > 0 and float(ratio) > 0 and target == '0.65'
    assert (tmp_path / 'new.md').read_text() in output
    message = run_tool('benchmark.py', *command, cwd=tmp_path, code=2)
    assert 'new.md exists' in message
    message = run_tool('benchmark.py', 'speed', cwd=tmp_path, code=2)
    assert "unknown suites ['speed']: there are inference, compiled" in message


def test_training_with_its_memory(tool, monkeypatch):
    names = ('timm', 'ours', 'ours, with_cp')
    setups = {name: tool.SUITES['training'][name] for name in names}
    monkeypatch.setitem(tool.SUITES, 'training', setups)
    peaks = {'timm': [100.0, 200.0], 'ours': [80.0, 150.0], 'ours, with_cp': [20, 75]}
    monkeypatch.setattr(tool, 'peak', lambda suite, name, args: peaks[name])
    found = rows(tool.backbones('training', options()))
    assert [*found] == [*names]
    assert found['ours'][5:] == ['80', '0.80', '0.90', '150', '0.75']
    assert found['ours, with_cp'][4] == '1.40'
    assert found['ours, with_cp'][5:8] == ['20', '0.25 of ours', '0.45']


def test_compiled(tool, monkeypatch):
    setup = tool.SUITES['compiled']['ours, deploy mode, compiled']
    compiled = []
    monkeypatch.setattr(
        torch, 'compile', lambda net, mode: compiled.append(mode) or net
    )
    _, call = tool.contestant(setup, options())
    assert len(call()) == 4 and compiled == ['default']


def test_memory_of_a_child_process(tool):
    tensors, process = tool.peak('training', 'ours', options(batch=8))
    weights = 4 * 30_738_368 / 2**20
    assert 2 * weights < tensors < 4 * weights  # with the gradients, and the maps
    if sys.platform == 'linux':
        assert process > 2 * weights


def test_growth_and_its_image(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, 'SIZES', (32, 64))
    monkeypatch.setattr(tool, 'BATCHES', (1, 2))
    text = tool.growth('growth', options(plot=tmp_path / 'growth.png'))
    assert [*rows(text)] == ['1x3x32x32', '1x3x64x64', '2x3x64x64']
    assert (tmp_path / 'growth.png').stat().st_size > 1000


def test_loops(tmp_path):
    command = ['loops', '--rounds', 2, '--size', 64]
    message = run_tool('benchmark.py', *command, cwd=tmp_path, code=1)
    assert '--config' in message
    config = write_tiny_run(tmp_path)
    retinanet = ROOT / 'configs' / 'retinanet_nextvit_s_fpn_1x_coco.py'
    options = ['--cfg-options', 'model.backbone.init_cfg=None']
    message = run_tool(
        'benchmark.py', *command, '--config', retinanet, *options, cwd=tmp_path, code=1
    )
    assert 'RetinaNet is none of the YOLO detectors' in message
    output = run_tool('benchmark.py', *command, '--config', config, cwd=tmp_path)
    found = rows(output)
    assert [*found] == [
        'training iteration',
        'waiting for the loader',
        'validation, an image',
        'detection, 64x64',
    ]
    assert 'tiny, 2x3x64x64' in output
    for ms, _, other, ratio, _ in found.values():
        assert float(other) > 0
        if float(ms) > 20:  # both are rounded
            assert float(ratio) == pytest.approx(float(ms) / float(other), rel=0.1)
    assert not (tmp_path / 'work_dirs').exists()


def test_startup(tool):
    found = rows(tool.startup('startup', options()))
    base, ours, built = found.values()
    assert float(ours[1]) == pytest.approx(float(ours[0]) / float(base[0]), abs=0.02)
    assert float(built[0]) > 0
