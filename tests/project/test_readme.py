"""What the README shows works as it stands there."""

import json
import re

import mmnextvit
from mmnextvit.cli import COMMANDS
from mmnextvit.datasets.demo_data import make_demo_data
from mmnextvit.engine import runner
from mmnextvit.models.timm_features import get_timm_mean_std

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from tests.conftest import ROOT
from tests.helpers.commands import run_here

README = (ROOT / 'README.md').read_text()


def code(language: str, containing: str) -> str:
    blocks = re.findall(rf'```{language}\n(.*?)```', README, re.S)
    return next(block for block in blocks if containing in block)


@pytest.mark.slow
def test_the_config_for_own_data_trains_as_it_stands(tmp_path, capfd):
    """With two classes, a file a split, and no change but what saves time."""
    config = code('python', 'my_data')
    assert len(config.splitlines()) <= 15
    path = tmp_path / 'my_data.py'
    path.write_text(config.replace("'./", f"'{ROOT}/configs/"))
    data = tmp_path / 'data' / 'my_data'
    make_demo_data(data, train=2, val=1, size=64, seed=0)
    for split in ('train', 'val'):
        content = json.loads((data / 'annotations' / f'{split}.json').read_text())
        content['categories'] = [dict(id=1, name='cat'), dict(id=2, name='dog')]
        for annotation in content['annotations']:
            annotation['category_id'] = 1 + annotation['category_id'] % 2
        (data / f'{split}.json').write_text(json.dumps(content))

    options = [
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'train_dataloader.batch_size=2',
    ]
    command = 'train', path, '--cfg-options', *options
    printed = run_here(*command, cwd=tmp_path, capfd=capfd)
    assert 'coco/bbox_mAP_50' in printed
    assert (tmp_path / 'work_dirs' / 'my_data' / 'last_checkpoint').is_file()


@pytest.mark.slow
def test_the_timm_config_builds(tmp_path):
    """With the mean and std of that model, which the README writes out."""
    example = code('python', 'TimmFeatures')
    path = tmp_path / 'timm.py'
    path.write_text(example.replace("'./", f"'{ROOT}/configs/"))
    cfg = Config.fromfile(path)
    assert get_timm_mean_std(cfg.model.backbone.model_name) == dict(
        mean=cfg.model.data_preprocessor.mean, std=cfg.model.data_preprocessor.std
    )
    init_cfg = cfg.model.backbone.pop('init_cfg')
    assert init_cfg.checkpoint == f'timm://{cfg.model.backbone.model_name}'
    detector = runner.build_model(cfg)
    assert detector.neck.strides == (8, 16, 32)


def test_the_backbone_example():
    scope: dict = {}
    example = code('python', 'from mmnextvit import NextViT')
    exec(example, scope)
    backbone = scope['backbone']
    line = example.strip().splitlines()[-1]
    expected = line.split('#')[1].strip()
    assert str((backbone.out_channels, backbone.strides)) == f'({expected})'


@pytest.mark.slow
def test_the_predictor_example(tmp_path, monkeypatch, tiny):
    """With a small backbone, and a head that sees a person in every cell."""
    cfg = mmnextvit.get_config('yolov5_nextvit_s')
    cfg.model.backbone.arch = tiny
    model = runner.build_model(cfg)
    for conv in model.bbox_head.head_module.convs_pred:
        conv.bias.data.view(3, -1)[:, 4:6] = 9  # that there is an object, and its class
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'my.pth')
    cv2.imwrite(str(tmp_path / 'image.jpg'), np.full((64, 96, 3), 90, np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mmnextvit, 'get_config', {'yolov5_nextvit_s': cfg}.get)
    scope: dict = {}
    exec(code('python', 'Predictor'), scope)
    assert scope['objects']
    for found in scope['objects']:
        assert found['class'] == 'person' and found['score'] > 0.9
        x1, y1, x2, y2 = found['box']
        assert 0 <= x1 <= x2 <= 96 and 0 <= y1 <= y2 <= 64


def test_every_file_and_command_that_it_names_is_there():
    links = re.findall(r'\]\((?!https?:|#)([^)]+)\)', README)
    scripts = re.findall(r'tools/\w+\.(?:py|sh)', README)
    assert links and scripts
    assert not [name for name in (*links, *scripts) if not (ROOT / name).is_file()]
    blocks = '\n'.join(re.findall(r'```bash\n(.*?)```', README, re.S))
    commands = re.findall(r'`mmnextvit (\w+)', README)
    commands += re.findall(r'^mmnextvit (\w+)', blocks, re.M)
    assert {'train', 'export'} <= set(commands) <= set(COMMANDS)
