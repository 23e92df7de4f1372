"""`in_channels` in configs that call no fit_recipe, by a line and by an option."""

from pathlib import Path

from mmnextvit import config_file
from mmnextvit.engine.configs import read_config
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from PIL import Image

from tests.conftest import TINY

RETINANET = 'retinanet_nextvit_s_fpn_1x_coco'
MMDET = [
    'conditional_detr_nextvit_s_50e_coco',
    'faster_rcnn_nextvit_s_fpn_1x_coco',
    'mask_rcnn_nextvit_s_fpn_1x_coco',
    RETINANET,
]


def write(folder: Path, name: str, line: str = '') -> str:
    path = folder / 'my.py'
    path.write_text(f'_base_ = {config_file(name)!r}\n{line}\n')
    return str(path)


def list_channels(cfg: Config) -> list:
    """What a config says of it in each place."""
    loaders = [cfg[f'{split}_dataloader'] for split in ('train', 'val', 'test')]
    return [
        cfg.in_channels,
        cfg.model.backbone.in_channels,
        len(cfg.model.data_preprocessor.mean),
        *{loader.dataset.pipeline[0].color_type for loader in loaders},
    ]


@pytest.mark.parametrize('name', [RETINANET, 'yolov5_nextvit_s'])
@pytest.mark.parametrize(
    'line, options, wanted',
    [
        ('', 1, [1, 1, 1, 'grayscale']),
        ('in_channels = 4', None, [4, 4, 4, 'bgra']),
        ('in_channels = 4', 1, [1, 1, 1, 'grayscale']),
    ],
)
def test_a_line_and_an_option_are_the_same(name, line, options, wanted, tmp_path):
    path = write(tmp_path, name, line)
    cfg = read_config(path, {} if options is None else {'in_channels': options})
    assert list_channels(cfg) == wanted
    cfg.dump(tmp_path / 'dumped.py')  # as into a work_dir
    again = read_config(str(tmp_path / 'dumped.py'))
    assert list_channels(again) == wanted
    assert again.model == cfg.model
    with pytest.raises(UserError, match='in_channels: 3: this config has been fitted'):
        read_config(str(tmp_path / 'dumped.py'), {'in_channels': 3})


def test_colours_again(tmp_path):
    path = write(tmp_path, RETINANET, 'in_channels = 4')
    plain = read_config(config_file(RETINANET))
    cfg = read_config(path, {'in_channels': 3})
    assert cfg.model == plain.model and cfg.in_channels == 3
    with pytest.raises(UserError, match='in_channels: 2 must be 1'):
        read_config(path, {'in_channels': 2})


def test_a_preprocessor_that_nobody_knows(tmp_path):
    line = "model = dict(data_preprocessor=dict(type='Other'))"
    path = write(tmp_path, RETINANET, line)
    with pytest.raises(UserError, match='in_channels: the data preprocessor Other'):
        read_config(path, {'in_channels': 4})


def make_batch(cfg: Config, folder: Path) -> dict:
    """Two samples of a training, of images whose fourth channel is of its own."""
    pixels = np.zeros((48, 64, 4), np.uint8) + np.uint8([250, 150, 50, 5])
    Image.fromarray(pixels).save(folder / 'a.png')
    info = dict(
        img_path=str(folder / 'a.png'),
        img_id=0,
        height=48,
        width=64,
        instances=[
            dict(
                bbox=[8, 8, 40, 40],
                bbox_label=0,
                ignore_flag=0,
                mask=[[8, 8, 40, 8, 40, 40]],
            )
        ],
    )
    pipeline = Compose(cfg.train_dataloader.dataset.pipeline)
    return pseudo_collate([pipeline(dict(info)) for _ in range(2)])


@pytest.mark.parametrize('name', MMDET)
def test_batches_of_mmdetection_have_four_channels(name, tmp_path):
    cfg = read_config(write(tmp_path, name), {'in_channels': 4})
    init_default_scope('mmdet')
    preprocess = MODELS.build(cfg.model.data_preprocessor)
    given = make_batch(cfg, tmp_path)
    batch = preprocess(given, training=True)
    mean, std = (np.float32(cfg.model.data_preprocessor[k]) for k in ('mean', 'std'))
    wanted = (np.float32([250, 150, 50, 5]) - mean) / std
    assert batch['inputs'].shape[:2] == (2, 4)
    for image, sample in zip(batch['inputs'], batch['data_samples']):
        height, width = sample.img_shape
        found = image[:, height // 2, width // 2].numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_a_step_of_training_in_mmdetection(tmp_path):
    cfg = read_config(write(tmp_path, RETINANET), {'in_channels': 4})
    init_default_scope('mmdet')
    cfg.model.backbone.update(arch=TINY, init_cfg=None, frozen_stages=-1)
    cfg.model.neck.in_channels = [32, 128, 128, 128]
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (64, 64)
    model = MODELS.build(cfg.model)
    batch = model.data_preprocessor(make_batch(cfg, tmp_path), training=True)
    losses = model(**batch, mode='loss')
    loss = sum(sum(x) if isinstance(x, list) else x for x in losses.values())
    loss.backward()
    stem = model.backbone.stem[0].conv.weight
    assert torch.isfinite(loss) and stem.shape[1] == 4
    assert (stem.grad.abs().sum((0, 2, 3)) > 0).all()
