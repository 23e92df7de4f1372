"""The demo, and the one variable of a config that says where the data are."""

import argparse
import json
import re
import subprocess
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import mmnextvit.demo
from mmnextvit.cli import arguments
from mmnextvit.cli import demo as command_line
from mmnextvit.datasets.demo_data import draw_image
from mmnextvit.demo import DemoRun, find_console_script
from mmnextvit.utils.files import make_numbered_folder

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from tests.conftest import TINY
from tests.helpers.commands import call_here
from tests.helpers.tiny_run import ROOT
from tests.helpers.warm_python import run_python


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


@pytest.mark.slow
@pytest.mark.parametrize('name', ['s', 's_demo', 's_bccd'])
@pytest.mark.parametrize('root', ['/elsewhere/', 'here'])
def test_data_root_is_the_one_thing_to_set(name, root):
    """On the command line too, though MMEngine has put it into the paths by then."""
    args = Namespace(
        config=f'{ROOT}/configs/yolov5_nextvit_{name}.py',
        cfg_options=dict(data_root=root),
    )
    cfg = arguments.load_config(args)
    before = Config.fromfile(args.config)
    for mode in ('train', 'val', 'test'):
        dataset = cfg[f'{mode}_dataloader'].dataset
        assert Path(dataset.data_root) == Path(root)
        assert dataset.ann_file == before[f'{mode}_dataloader'].dataset.ann_file
    if cfg.val_evaluator.ann_file:
        assert Path(cfg.val_evaluator.ann_file) == Path(
            root, cfg.val_dataloader.dataset.ann_file
        )
    args.cfg_options = {}
    assert arguments.load_config(args).val_evaluator == before.val_evaluator


def test_run_folders_are_new(tmp_path):
    names = [make_numbered_folder(tmp_path / 'runs' / 'demo').name for _ in range(3)]
    assert names == ['demo', 'demo_2', 'demo_3']


def test_how_the_command_is_called(tmp_path, monkeypatch):
    """By its name where that is this environment's, else so that it can be copied."""
    monkeypatch.chdir(tmp_path)
    script, other = (tmp_path / name / 'mmnextvit' for name in ('bin', 'other'))
    for path in (script, other):
        path.parent.mkdir()
        path.touch(mode=0o755)
    monkeypatch.setattr('sys.executable', str(tmp_path / 'bin' / 'python'))
    monkeypatch.setenv('PATH', str(script.parent))
    assert find_console_script() == ['mmnextvit']
    monkeypatch.setenv('PATH', str(other.parent))
    assert find_console_script() == ['bin/mmnextvit']
    script.unlink()
    assert find_console_script() == ['bin/python', '-m', 'mmnextvit']


def test_the_config_is_for_the_images_that_are_drawn():
    """Its anchors are, and its training pipeline resizes none."""
    parser = argparse.ArgumentParser()
    command_line.add_arguments(parser)
    size = parser.parse_args([]).size
    cfg = Config.fromfile(f'{ROOT}/configs/yolov5_nextvit_s_demo.py')
    assert cfg.img_scale == (size, size)
    rng = np.random.default_rng(0)
    drawn = [shape for _ in range(60) for shape in draw_image(rng, size)[1]]
    sides = np.array([np.ptp(polygon, axis=0) for _, polygon in drawn])
    anchors = np.concatenate(cfg.model.bbox_head.prior_generator.base_sizes)
    ratio = np.maximum(sides[:, None] / anchors, anchors / sides[:, None]).max(-1)
    assert ratio.min(1).max() < 1.6
    assert set(ratio.argmin(1)) == set(range(len(anchors)))


def run_warm(
    command: Sequence[str], *, check: bool, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run``, from a Python that has other projects' packages."""
    done = run_python(*command, cwd=Path.cwd(), env=env, join=True)
    print(done.stdout)
    assert check
    done.check_returncode()
    return done


@pytest.mark.slow
def test_demo_from_end_to_end(tmp_path, capfd, monkeypatch):
    """With next to nothing to learn from, beside what an earlier run left."""
    monkeypatch.setattr(mmnextvit.demo.subprocess, 'run', run_warm)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))  # where the package is not installed
    earlier = tmp_path / 'out' / 'demo' / 'epoch_1.pth'
    earlier.parent.mkdir(parents=True)
    earlier.write_text('precious')
    options = 'train_cfg.max_epochs=1', 'default_hooks.checkpoint.save_optimizer=False'
    arch = [f'model.backbone.arch.{key}={list(value)}' for key, value in TINY.items()]
    numbers = '--train', 4, '--val', 2, '--size', 32
    demo = call_here(
        *('demo', '--out', 'out', *numbers, '--cfg-options', *options, *arch),
        cwd=tmp_path,
    )
    assert files(earlier.parent) == ['epoch_1.pth']
    assert earlier.read_text() == 'precious'

    image, checkpoint, log, curves = (
        tmp_path / path for path in (demo.image, demo.checkpoint, demo.log, demo.curves)
    )
    assert checkpoint == tmp_path / 'out' / 'demo_2' / 'epoch_1.pth'
    assert checkpoint.is_file()
    assert 'coco/bbox_mAP_50' in log.read_text()
    assert (checkpoint.parent / 'report' / 'index.html').is_file()
    assert 'loss' in json.loads(curves.read_text().splitlines()[0])
    assert cv2.imread(str(image)).shape[1] > 2 * 320  # though images are of 32
    command = demo.next_command
    assert command[-4] == 'predict' and Path(command[-3]).name.endswith('_demo.py')
    assert command[-2:] == ['out/demo_2/epoch_1.pth', 'out/demo_data/val']

    text = capfd.readouterr().out
    for command in ('train', 'test'):
        line = rf'^\$ .*mmnextvit {command} .*--work-dir out/demo_2'
        assert re.search(line, text, re.M), command
    summary = text[text.rindex('\nmAP50 ') :]
    assert re.match(r'\nmAP50 [01]\.\d{3}, mAP [01]\.\d{3}\n', summary)
    for path in ('test/predictions.jpg', 'epoch_1.pth'):
        assert f'  out/demo_2/{path}\n' in summary


def test_summary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo = DemoRun(
        metrics={'coco/bbox_mAP_50': 0.81234, 'coco/bbox_mAP': 0.5},
        image=tmp_path / 'test' / 'predictions.jpg',
        checkpoint=tmp_path / 'epoch_1.pth',
        log=tmp_path / 'a.log',
        curves=Path('/elsewhere/scalars.json'),
        next_command=['mmnextvit', 'predict', 'a b'],
    )
    lines = demo.summarize().splitlines()
    assert lines[1] == 'mAP50 0.812, mAP 0.500'
    assert [line.split()[-1] for line in lines[3:7]] == [
        'test/predictions.jpg',
        'epoch_1.pth',
        'a.log',
        '/elsewhere/scalars.json',
    ]
    assert lines[8] == "Next: mmnextvit predict 'a b'"
