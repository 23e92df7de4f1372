"""Commands on odd data: one message, whole results, and names of any alphabet."""

import json
import os
import sys
from pathlib import Path

from mmnextvit.engine.runner import build_model

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from tests.helpers.commands import run_here
from tests.helpers.tiny_run import ROOT, run_command, write_tiny_run
from tests.helpers.turned_images import find_red, write_turned

pytestmark = pytest.mark.slow


def test_message_is_the_same_with_workers(tmp_path, capfd):
    write_tiny_run(tmp_path)
    path = sorted((tmp_path / 'data' / 'train').iterdir())[0]
    path.write_bytes(path.read_bytes()[:300])
    messages = []
    for workers in (0, 1):
        output = run_here(
            *('train', 'tiny.py', '--work-dir', f'run{workers}', '--cfg-options'),
            f'train_dataloader.num_workers={workers}',
            cwd=tmp_path,
            capfd=capfd,
            code=1,
        )
        assert 'Traceback' not in output
        (message,) = (x for x in output.splitlines() if x.startswith('mmnextvit '))
        messages.append(message)
    assert messages[0] == messages[1]
    assert f'{path}: the image is truncated' in messages[0]


def test_odd_images_and_names_where_the_terminal_knows_ascii_alone(tmp_path):
    """A test of 30000 x 2 pixels, of a box as stored, and of a class named 猫."""
    config = write_tiny_run(tmp_path)
    config.write_text(config.read_text().replace("'circle'", "'猫'"), encoding='utf-8')
    images = tmp_path / 'data' / 'val'
    as_stored, as_shown = write_turned(images / 'turned.jpg', 6)
    cv2.imwrite(str(images / 'long.png'), np.zeros((2, 30000, 3), np.uint8))
    file = tmp_path / 'data' / 'annotations' / 'val.json'
    content = json.loads(file.read_text())
    content['categories'][0]['name'] = '猫'
    content['images'] += [
        dict(id=90, file_name='turned.jpg', width=64, height=48),
        dict(id=91, file_name='long.png', width=30000, height=2),
    ]
    file.write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')
    cfg = Config.fromfile(config)
    meta = dict(dataset_meta=dict(classes=('猫', 'square', 'triangle')))
    state = build_model(cfg).state_dict()
    torch.save(dict(state_dict=state, meta=meta), tmp_path / 'new.pth')
    env = dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        LC_ALL='C',
        PYTHONUTF8='0',
        PYTHONCOERCECLOCALE='0',
        OMP_NUM_THREADS='1',
        CUDA_VISIBLE_DEVICES='-1',
    )
    env.pop('PYTHONIOENCODING', None)
    output = run_command(
        *(sys.executable, '-m', 'mmnextvit', 'test', 'tiny.py', 'new.pth'),
        *('--show-dir', 'drawn', '--work-dir', 'run', '--cfg-options'),
        'test_evaluator.classwise=True',
        cwd=tmp_path,
        env=env,
        warm=False,  # as which encoding Python takes is decided at its start
    )
    assert 'Traceback' not in output and 'Logging error' not in output
    assert 'Epoch(test) [6/6]' in output and r'\u732b' in output
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert '猫' in log.read_text(encoding='utf-8')
    # Truth and prediction side by side, on the image as it is stored.
    drawn = cv2.imread(str(tmp_path / 'drawn' / 'turned.jpg'))
    assert drawn.shape[:2] == (48, 128)
    assert Path(tmp_path / 'drawn' / 'long.png').is_file()
    assert find_red(as_stored) != find_red(as_shown)
