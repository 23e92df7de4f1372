"""Configs and models by name, and in MMDetection's ways in."""

import mmnextvit
from mmnextvit import hub
from mmnextvit.utils.errors import MissingFileError, UserError

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config

from tests.conftest import ROOT

IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)


def test_get_config():
    cfg = mmnextvit.get_config('yolov5_nextvit_s')
    path = ROOT / 'configs' / 'yolov5_nextvit_s.py'
    assert cfg.to_dict() == Config.fromfile(path).to_dict()
    assert mmnextvit.get_config('yolov5_nextvit_s.py').filename == str(path)
    assert mmnextvit.config_file('_base_/yolov5_recipe').endswith('yolov5_recipe.py')


@pytest.mark.parametrize('get', [mmnextvit.get_config, mmnextvit.get_model])
def test_unknown_names_suggest_near_ones(get):
    with pytest.raises(MissingFileError, match='did you mean yolov5_nextvit_s'):
        get('yolo5_nextvit_s')
    with pytest.raises(MissingFileError, match='it has .*yolov5_nextvit_s'):
        get('zzz')


def test_a_package_without_its_configs_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, 'PACKAGE', tmp_path / 'mmnextvit')
    with pytest.raises(MissingFileError, match='Install it again'):
        hub.find_config_folder()


@pytest.fixture
def zoo(tmp_path, monkeypatch, tiny):
    """An index with one model, whose weights are a file, and one without weights."""
    folder = tmp_path / 'configs'
    (folder / '_base_').mkdir(parents=True)
    recipe = mmnextvit.config_file('_base_/yolov5_recipe')
    (folder / '_base_' / 'yolov5_recipe.py').write_text(f'_base_ = {recipe!r}\n')
    ours = mmnextvit.config_file('yolov5_nextvit_s')
    for name in ('known', 'bare'):
        (folder / f'{name}.py').write_text(
            f'_base_ = {ours!r}\nmodel = dict(backbone=dict(arch={tiny}))\n'
        )
    (folder / 'metafile.yml').write_text(
        'Models:\n'
        f'- {{Name: a, Config: configs/known.py, Weights: {tmp_path}/a.pth}}\n'
        '- {Name: b, Config: configs/bare.py}\n'
        '- {Name: c, Weights: timm://nextvit_small}\n'
    )
    (tmp_path / 'model-index.yml').write_text('Import: [configs/metafile.yml]\n')
    monkeypatch.setattr(hub, 'PACKAGE', tmp_path / 'mmnextvit')
    return tmp_path


@pytest.mark.slow
def test_pretrained(zoo, lively):
    source = lively(mmnextvit.get_model('known')).state_dict()
    torch.save(dict(state_dict=source), zoo / 'a.pth')
    assert mmnextvit.get_config('known', pretrained=True).model_path == f'{zoo}/a.pth'
    model = mmnextvit.get_model('known', pretrained=True)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], source[name]) for name in source)
    model.init_weights()  # as a Runner does
    assert all(torch.equal(loaded[name], source[name]) for name in source)

    del source['bbox_head.head_module.convs_pred.0.bias']
    torch.save(dict(state_dict=source), zoo / 'a.pth')
    with pytest.raises(ValueError, match='convs_pred.0.bias'):
        mmnextvit.get_model('known', pretrained=True)


@pytest.mark.parametrize('get', [mmnextvit.get_config, mmnextvit.get_model])
def test_pretrained_without_weights(zoo, get):
    with pytest.raises(UserError, match='weights for bare.*some for known'):
        get('bare', pretrained=True)


def test_arguments_are_the_models_defaults(zoo):
    model = mmnextvit.get_model('bare', init_cfg=dict(type='x'))
    assert model.init_cfg == dict(type='x')


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['yolov5_nextvit_s', 'mask_rcnn_nextvit_s_fpn_1x_coco']
)
def test_mmdetections_inference(name):
    path = mmnextvit.config_file(name)
    model = init_detector(path, None, device='cpu')
    assert inference_detector(model, IMAGE).pred_instances.bboxes.shape[1] == 4
    results = DetInferencer(model=path, device='cpu')(IMAGE, no_save_vis=True)
    assert results['predictions'][0].keys() >= {'labels', 'scores', 'bboxes'}
