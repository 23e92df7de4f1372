"""What is read of the config in a checkpoint, which is not run."""

from mmnextvit.folder_import.held_config import (
    read_backbone,
    read_model,
    read_normalisation,
)

import pytest
from mmengine.config import Config

TEXT = """
scale = (640, 640)
model = dict(
    backbone=dict(
        final_norm=False, norm_cfg=dict(eps=1e-05, type='BN'), type='mmdet.NextViT'),
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=(58.4, 57, 57.375)),
    type='FittedYOLODetector')
"""


def read(text: object) -> dict:
    return read_model(dict(meta=dict(config_text=text)))


def test_numbers_of_a_detector():
    model = read(TEXT)
    assert model['type'] == 'FittedYOLODetector'
    assert read_normalisation(model) == dict(
        mean=[123.675, 116.28, 103.53], std=[58.4, 57.0, 57.375]
    )
    assert read_backbone(model) == dict(norm_cfg=dict(eps=1e-5), final_norm=False)


def test_what_mmengine_writes(load_config):
    cfg = load_config('yolov5_nextvit_s_in1k')
    model = read(cfg.pretty_text)
    assert model == Config(dict(model=model)).model == cfg.model
    assert read_backbone(model) == dict(norm_cfg=dict(eps=1e-5))


@pytest.mark.parametrize(
    'text',
    [
        None,
        7,
        '',
        'model =',
        'model = 3',
        'other = dict()',
        "model = __import__('os').system('touch pwned')",
        "model = dict(data_preprocessor=dict(mean=open('x'), std=[1, 2, 3]))",
        'model = dict(base, a=1)',
        'model = ' + '[' * 5000,
        'model = ' + '-' * 10**5 + '1',
        '#' * 10**7,
    ],
)
def test_what_is_no_plain_model_says_nothing(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read(text) == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('content', [{}, dict(meta=None), dict(meta=dict())])
def test_a_checkpoint_without_a_config(content):
    assert read_model(content) == {}


@pytest.mark.parametrize(
    'model',
    [
        {},
        dict(data_preprocessor=None, backbone=None),
        dict(data_preprocessor=dict(mean=[1, 2], std=[1, 2, 3])),
        dict(data_preprocessor=dict(mean=[1, 2, 'x'], std=[1, 2, 3])),
        dict(backbone=dict(type='mmdet.NextViT', norm_cfg=None)),
        dict(backbone=dict(type='mmdet.TimmFeatures', norm_cfg=dict(eps=1e-5))),
    ],
)
def test_what_a_model_does_not_say(model):
    assert read_normalisation(model) is None
    assert read_backbone(model) == {}
