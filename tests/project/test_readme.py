"""What the README shows works as it stands there."""

import json
import re
import shutil
from pathlib import Path

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

from tests.conftest import ROOT, TINY
from tests.helpers.commands import call_here, run_here

README = (ROOT / 'README.md').read_text()


def code(language: str, containing: str) -> str:
    blocks = re.findall(rf'```{language}\n(.*?)```', README, re.S)
    return next(block for block in blocks if containing in block)


def write_own_data(data: Path) -> None:
    """COCO data of two classes, a file a split."""
    make_demo_data(data, train=2, val=1, size=64, seed=0)
    for split in ('train', 'val'):
        content = json.loads((data / 'annotations' / f'{split}.json').read_text())
        content['categories'] = [dict(id=1, name='cat'), dict(id=2, name='dog')]
        for annotation in content['annotations']:
            annotation['category_id'] = 1 + annotation['category_id'] % 2
        (data / f'{split}.json').write_text(json.dumps(content))


@pytest.mark.slow
def test_the_commands_for_own_data(tmp_path, capfd):
    """With a small backbone and small images, which save time."""
    write_own_data(tmp_path / 'data' / 'my_data')
    shutil.rmtree(tmp_path / 'data' / 'my_data' / 'annotations')
    commands = re.findall(
        r'^mmnextvit (.*?)(?: +#.*)?$', code('bash', 'mmnextvit new'), re.M
    )
    new, train = (command.split() for command in commands)
    run_here(*new, cwd=tmp_path, capfd=capfd)
    options = [
        'image_size=64',
        'max_epochs=1',
        *(f'model.backbone.arch.{key}={list(value)}' for key, value in TINY.items()),
    ]
    printed = run_here(*train, '--cfg-options', *options, cwd=tmp_path, capfd=capfd)
    assert 'coco/bbox_mAP_50' in printed
    assert (tmp_path / 'work_dirs' / 'my_data' / 'last_checkpoint').is_file()


@pytest.mark.slow
def test_a_config_by_hand_trains_as_it_stands(tmp_path, capfd):
    """That of docs/data.md, with no change but what saves time."""
    page = (ROOT / 'docs' / 'data.md').read_text()
    config = (
        page.split('## A config by hand')[1].split('```python\n')[1].split('```')[0]
    )
    path = tmp_path / 'my_data.py'
    path.write_text(config.replace("'./", f"'{ROOT}/configs/"))
    write_own_data(tmp_path / 'data' / 'my_data')
    options = [
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'train_dataloader.batch_size=2',
        *(f'model.backbone.arch.{key}={list(value)}' for key, value in TINY.items()),
    ]
    command = 'train', path, '--cfg-options', *options
    printed = run_here(*command, cwd=tmp_path, capfd=capfd)
    assert 'coco/bbox_mAP_50' in printed
    assert (tmp_path / 'work_dirs' / 'my_data' / 'last_checkpoint').is_file()


def test_a_written_config_is_as_the_page_shows(tmp_path, monkeypatch):
    """Folders, and the numbers of images and epochs, are those of the data."""
    page = (ROOT / 'docs' / 'data.md').read_text()
    shown = page.split('## The config')[1].split('```python\n')[1].split('```')[0]
    image = np.zeros((480, 640, 3), np.uint8)
    (tmp_path / 'cells' / 'JPEGImages').mkdir(parents=True)
    (tmp_path / 'cells' / 'Annotations').mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        name = ('RBC', 'WBC', 'Platelets')[number % 3]
        image[::40, ::40] = rng.integers(0, 256, (12, 16, 3))
        cv2.imwrite(str(tmp_path / 'cells' / 'JPEGImages' / f'{number}.jpg'), image)
        (tmp_path / 'cells' / 'Annotations' / f'{number}.xml').write_text(
            '<annotation><size><width>640</width><height>480</height></size><object>'
            f'<name>{name}</name><bndbox><xmin>100</xmin><ymin>100</ymin>'
            '<xmax>200</xmax><ymax>200</ymax></bndbox></object></annotation>'
        )
    call_here('new', 'cells', cwd=tmp_path)
    written = (tmp_path / 'cells.py').read_text()

    def leave_out(text: str) -> str:
        return re.sub(r"'/.*?/cells/'|in /.*|\d[\d,]*", '_', text)

    assert leave_out(written) == leave_out(shown)


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
    exec(code('python', 'predictor(cv2'), scope)
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
