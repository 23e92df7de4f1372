"""What the benchmark counts, and what its tables hold."""

import sys
from dataclasses import replace
from pathlib import Path

from mmnextvit import config_file
from mmnextvit.benchmark import backbones, report, startup, timing
from mmnextvit.benchmark.backbones import (
    SUITES,
    Growth,
    Peak,
    Ratio,
    Settings,
    divide,
    measure_growth,
    measure_suite,
    prepare,
)
from mmnextvit.benchmark.loops import LoopCost, measure_training
from mmnextvit.benchmark.memory import measure_allocated, measure_peak
from mmnextvit.benchmark.startup import IMPORTS, Startup, measure_startup
from mmnextvit.benchmark.timing import time_in_turn, time_rested
from mmnextvit.datasets.demo_data import make_demo_data
from mmnextvit.engine.configs import read_config
from mmnextvit.engine.training import make_training_config

import cv2
import pytest
import torch

from tests.conftest import TINY
from tests.helpers.warm_python import run_python

SMALL = Settings(size=64, batch=2, rounds=1)


@pytest.fixture(autouse=True)
def matrix_rate(monkeypatch: pytest.MonkeyPatch) -> float:
    """Of a machine that takes a second for 10**9 multiply-accumulates."""
    for module in (backbones, report):
        monkeypatch.setattr(module, 'measure_matrix_rate', lambda device: 1e9)
    return 1e9


def test_allocated_is_the_peak():
    def step():
        a = torch.ones(2**20)  # 4 MB
        b = a * 2
        del a, b
        torch.ones(2**19)

    assert measure_allocated(step) == pytest.approx(8, abs=0.01)


def test_medians_of_turns_without_the_first():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in 'ab'}
    times = time_in_turn(runs, 3)
    assert calls == ['a', 'b'] * 5
    assert all(0 < seconds < 1 for seconds in times.values())


def test_runtimes_take_turns_after_a_rest(monkeypatch):
    order = []
    monkeypatch.setattr(timing.time, 'sleep', lambda seconds: order.append(seconds))
    runs = {name: lambda name=name: order.append(name) for name in 'ab'}
    times = time_in_turn(runs, 1, time_rested)
    assert order == [timing.REST, 'a', timing.REST, 'b'] * 3
    assert all(0 < seconds < timing.REST for seconds in times.values())


def test_ratios():
    times = {'timm': 2.0, 'ours': 1.5, 'ours, with_cp': 3.0}
    ratios = [
        divide(times, 'timm', 'timm'),
        divide(times, 'ours', 'timm'),
        divide(times, 'ours, with_cp', 'ours'),
    ]
    assert ratios == [
        Ratio(1, 'timm'),
        Ratio(0.75, 'timm'),
        Ratio(2, 'ours'),
    ]
    assert [report.format_ratio(ratio, 'timm') for ratio in ratios] == [
        '1.00',
        '0.75',
        '2.00 of ours',
    ]


@pytest.mark.slow
def test_contestants_compute_what_they_are_called():
    """Ours have timm's shapes; deploy mode has no norms; gradients come in training."""
    maps = {}
    for name, contestant in SUITES['inference'].items():
        net, call = prepare(contestant, SMALL)
        maps[name] = [y.shape for y in call()]
        norms = [m for m in net.modules() if 'BatchNorm' in type(m).__name__]
        assert bool(norms) == ('deploy' not in name)
        assert next(net.parameters()).dtype == contestant.dtype
    assert len(set(map(tuple, maps.values()))) == 1
    for contestant in SUITES['training'].values():
        net, step = prepare(contestant, SMALL, train=True)
        step()
        assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


@pytest.mark.slow
def test_inference(monkeypatch, matrix_rate):
    names = 'timm', 'ours, deploy mode'
    suite = {name: SUITES['inference'][name] for name in names}
    monkeypatch.setitem(SUITES, 'inference', suite)
    timm, ours = results = measure_suite('inference', Settings(size=64, rounds=1))
    assert [result.name for result in results] == [*names]
    assert timm.time == Ratio(1, 'timm')
    assert ours.seconds > 0
    assert ours.time == Ratio(ours.seconds / timm.seconds, 'timm')
    macs = timm.share * timm.seconds * matrix_rate
    assert macs == pytest.approx(5.8e9 * 64**2 / 224**2, rel=0.02)
    assert ours.share * ours.seconds * matrix_rate == pytest.approx(macs)
    assert not any(result.peak for result in results)
    table = report.make_suite_table('inference', results, (1, 3, 64, 64), 'small')
    assert table.title == 'Inference, NextViT-small, 1x3x64x64'
    assert len(table.columns) == 5
    assert table.rows[1] == [
        'ours, deploy mode',
        f'{1000 * ours.seconds:.0f}',
        f'{1 / ours.seconds:.2f}',
        f'{ours.share:.2f}',
        f'{ours.seconds / timm.seconds:.2f}',
    ]


@pytest.mark.slow
def test_training_with_its_memory(monkeypatch):
    names = ('timm', 'ours', 'ours, with_cp')
    suite = {name: SUITES['training'][name] for name in names}
    monkeypatch.setitem(SUITES, 'training', suite)
    peaks = dict(zip(names, (Peak(100, 200), Peak(80, 150), Peak(20, 75))))
    results = measure_suite('training', SMALL, lambda suite, name, _: peaks[name])
    assert [result.name for result in results] == [*names]
    assert [result.peak for result in results] == [*peaks.values()]
    _, ours, with_cp = results
    assert ours.tensors == Ratio(0.8, 'timm')
    assert ours.process == Ratio(0.75, 'timm')
    assert with_cp.time == Ratio(with_cp.seconds / ours.seconds, 'ours')
    assert with_cp.tensors == Ratio(0.25, 'ours')
    assert with_cp.process == Ratio(0.5, 'ours')
    table = report.make_suite_table('training', results, (2, 3, 64, 64), 'small')
    assert table.rows[1][5:] == ['80', '0.80', '150', '0.75']
    assert table.rows[2][4] == f'{with_cp.seconds / ours.seconds:.2f} of ours'
    assert table.rows[2][5:] == ['20', '0.25 of ours', '75', '0.50 of ours']
    assert all(len(row) == len(table.columns) for row in table.rows)


@pytest.mark.slow
def test_compiled(monkeypatch):
    contestant = SUITES['compiled']['ours, deploy mode, compiled']
    compiled = []
    monkeypatch.setattr(
        torch, 'compile', lambda net, mode: compiled.append(mode) or net
    )
    _, call = prepare(contestant, SMALL)
    assert len(call()) == 4 and compiled == ['default']


@pytest.mark.slow
def test_memory_of_a_child_process():
    tensors, process = measure_peak('training', 'ours', Settings(size=64, batch=8))
    weights = 4 * 30_738_368 / 2**20
    assert 2 * weights < tensors < 4 * weights  # with the gradients, and the maps
    if sys.platform == 'linux':
        assert process > 2 * weights


@pytest.mark.slow
def test_growth(monkeypatch):
    monkeypatch.setattr(backbones, 'SIZES', (32, 64))
    monkeypatch.setattr(backbones, 'BATCHES', (1, 2))
    results = measure_growth(SMALL)
    shapes = [(result.batch, result.size) for result in results]
    assert shapes == [(1, 32), (1, 64), (1, 64), (2, 64)]
    assert all(result.timm > 0 and result.ours > 0 for result in results)


@pytest.mark.slow
def test_growth_as_table_and_plot(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(report, 'SIZES', (100, 200))
    results = [Growth(1, 100, 0.2, 0.1), Growth(1, 200, 0.6, 0.2), Growth(2, 100, 1, 1)]
    table = report.make_growth_table(results, 'small')
    assert table.rows[:2] == [
        ['1x3x100x100', '200', '100', '0.50', '10000'],
        ['1x3x200x200', '600', '200', '0.33', '5000'],
    ]
    report.plot_growth(results, tmp_path / 'growth.png')
    assert cv2.imread(str(tmp_path / 'growth.png')).std() > 10


@pytest.mark.slow
@pytest.mark.parametrize('is_saved', [False, True], ids=['config', 'run'])
def test_iterations_of_the_loop_that_trains(is_saved: bool, tmp_path: Path):
    """That of a run's config, which has the resumable loop already, too."""
    make_demo_data(tmp_path / 'data', train=4, val=1, size=64, seed=0)
    options = {
        'data_root': f'{tmp_path / "data"}/',
        'work_dir': str(tmp_path / 'run'),
        'model.backbone.arch': TINY,
        'train_dataloader.batch_size': 2,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
    }
    cfg = read_config(config_file('yolov5_nextvit_s_demo'), options)
    if is_saved:
        cfg = make_training_config(cfg)
    result = measure_training(cfg, batches=3, warm_up=1)
    assert result.shape[:2] == (2, 3)
    for times in result[:-1]:
        assert len(times) == 3 and min(times) > 0
    assert all(wait < whole for wait, whole in zip(result.waiting, result.iterations))


def test_loops_as_table():
    costs = [LoopCost('a', 0.2, 'b', 0.1), LoopCost('c', 0.1, 'd', 0.4)]
    assert report.make_loops_table(costs, 'tiny', (2, 3, 64, 64)) == report.Table(
        'Loops, tiny, 2x3x64x64',
        ('measured', 'ms', 'compared with', 'its ms', 'ratio'),
        [
            ['a', '200', 'b', '100', '2.00'],
            ['c', '100', 'd', '400', '0.25'],
        ],
    )


@pytest.mark.slow
def test_startup(tmp_path: Path, monkeypatch):
    """In processes that have other projects' packages, which import theirs anyway."""

    def check_output(words: list[str], text: bool, env: dict[str, str]) -> str:
        done = run_python(*words, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    monkeypatch.setattr(startup.subprocess, 'check_output', check_output)
    result = measure_startup(SMALL)
    assert result.libraries > 0 and result.package > 0 and result.build > 0
    ratio = f'{result.package / result.libraries:.2f}'
    assert report.make_startup_table(result, 'small').rows[1][2] == ratio


def test_startup_is_the_median_of_its_rounds(monkeypatch):
    imports = {
        IMPORTS['mmdet.models, mmyolo.models']: iter([4.0, 9.0, 2.0]),
        IMPORTS['mmnextvit']: iter([1.0, 5.0, 8.0]),
    }
    builds = iter([0.25, 0.75, 0.5])
    monkeypatch.setattr(startup, 'time_code', lambda code: next(imports[code]))
    monkeypatch.setattr(startup, 'time_call', lambda call: next(builds))
    result = measure_startup(replace(SMALL, rounds=3))
    assert result == Startup(libraries=4, package=5, build=0.5)
    libraries, package, _ = report.make_startup_table(result, 'small').rows
    assert (libraries[1:], package[1:]) == (['4.00', ''], ['5.00', '1.25'])


def test_startup_as_table():
    libraries = 'mmdet.models, mmyolo.models'
    assert report.make_startup_table(Startup(4, 5, 0.5), 'small').rows == [
        [f'import {libraries}', '4.00', ''],
        [f'import mmnextvit, {libraries}', '5.00', '1.25'],
        ["NextViT('small')", '0.50', ''],
    ]


def test_markdown():
    table = report.Table('Speed', ['what', 'ms'], [['a', '1'], ['b', '2']])
    lines = ['## Speed', '', '| what | ms |', '| --- | --- |', '| a | 1 |', '| b | 2 |']
    assert table.to_markdown() == '\n'.join(lines)
