"""The benchmark as a user runs it."""

import argparse
import runpy
import sys
from pathlib import Path

from mmnextvit.benchmark import backbones, report
from mmnextvit.benchmark.backbones import Settings
from mmnextvit.benchmark.loops import measure_loops
from mmnextvit.cli.benchmark import SUITES, add_arguments, build_command_line

import pytest
from mmengine.config import Config

from tests.helpers.commands import (
    fresh_process_state,
    refusal,
    run_here,
    working_in,
)
from tests.helpers.tiny_run import ROOT, write_tiny_run


def test_it_names_all_suites():
    others = 'growth', 'backbones', 'costs', 'loops', 'startup'
    assert {*backbones.SUITES, *others} == set(SUITES)


@pytest.mark.slow
def test_inference(tmp_path: Path, monkeypatch, capsys):
    """By the script, with a new file of the tables."""
    names = 'timm', 'ours, as trained', 'ours, deploy mode'
    suite = {name: backbones.SUITES['inference'][name] for name in names}
    monkeypatch.setitem(backbones.SUITES, 'inference', suite)
    command = ['inference', '--size', '64', '--rounds', '1', '-o', 'new.md']
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', *command])
    with working_in(tmp_path), fresh_process_state():
        runpy.run_path(str(ROOT / 'tools' / 'benchmark.py'), run_name='__main__')
    output = capsys.readouterr().out
    text = (tmp_path / 'new.md').read_text()
    assert text in output
    head = '    mmnextvit benchmark inference --size 64 --rounds 1\n\n'
    assert text.startswith(head) and 'A product of float32 matrices: ' in text
    for name in names:
        assert f'\n| {name} | ' in text


def test_arguments_that_are_refused(tmp_path: Path, capfd):
    (tmp_path / 'new.md').touch()
    for args, message in [
        (['inference', '-o', 'new.md'], 'new.md exists, and nothing is overwritten'),
        (['-o', 'no/new.md'], 'no/new.md: there is no such folder'),
        (['growth', '--rounds', 0], "'0' is not a whole number from 1 on"),
        (['speed'], "there is no suite 'speed': there are inference, compiled"),
    ]:
        output = run_here('benchmark', *args, cwd=tmp_path, capfd=capfd, code=2)
        assert message in output
    assert '--config' in refusal('benchmark', 'loops', cwd=tmp_path)


def test_backbones_that_cannot_be_measured(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(report, 'measure_matrix_rate', lambda device: 1e9)
    for args, message in [
        (['--models', 'resnet55'], "timm has no model 'resnet55': did you mean resnet"),
        (['--imgsz', 100], '--imgsz 100: it must be a multiple of 32'),
    ]:
        assert message in refusal('benchmark', 'backbones', *args, cwd=tmp_path)


def test_the_command_line_stands_above_the_tables():
    args = ['backbones', '--models', 'resnet18', 'resnet34', '--imgsz', '320']
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    line = build_command_line(parser.parse_args([*args, '--limit', '60']))
    assert line == (
        'mmnextvit benchmark backbones --size 320 --models resnet18 resnet34 '
        '--limit 60.0'
    )


@pytest.mark.slow
def test_loops(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(write_tiny_run(tmp_path))
    cfg.work_dir = str(tmp_path / 'run')
    with fresh_process_state():
        costs, shape = measure_loops(cfg, Settings(size=64, rounds=2))
    assert [(cost.what, cost.beside) for cost in costs] == [
        ('training iteration', "timm's backbone step"),
        ('training iteration', 'model and loader alone'),
        ('waiting for the loader', 'training iteration'),
        ('validation, an image', 'its forward pass'),
        ('detection, 64x64', 'its forward pass'),
    ]
    assert all(cost.seconds > 0 and cost.base_seconds > 0 for cost in costs)
    assert tuple(shape) == (2, 3, 64, 64)
    table = report.make_loops_table(costs, 'tiny', shape)
    assert table.title == 'Loops, tiny, 2x3x64x64'
    for cost, (_, ms, _, base, ratio) in zip(costs, table.rows, strict=True):
        assert ms == f'{1000 * cost.seconds:.0f}'
        assert base == f'{1000 * cost.base_seconds:.0f}'
        assert ratio == f'{cost.seconds / cost.base_seconds:.2f}'
    assert not (tmp_path / 'work_dirs').exists()
    assert not list(Path(cfg.work_dir).glob('*.pth'))


@pytest.mark.slow
def test_loops_of_other_detectors_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(report, 'measure_matrix_rate', lambda device: 1e9)
    retinanet = ROOT / 'configs' / 'retinanet_nextvit_s_fpn_1x_coco.py'
    options = ['--cfg-options', 'model.backbone.init_cfg=None']
    message = refusal(
        *('benchmark', 'loops', '--config', retinanet, *options), cwd=tmp_path
    )
    assert 'RetinaNet is none of the YOLO detectors' in message
    assert not (tmp_path / 'work_dirs').exists()
