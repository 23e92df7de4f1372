"""What docs/custom_backbone.md shows works as it stands there."""

import ast
import re
import sys

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from tests.conftest import ROOT

PAGE = (ROOT / 'docs' / 'custom_backbone.md').read_text()
FILES = dict(re.findall(r'`(\w+\.py)`[^`]*\n\n```python\n(.*?)```', PAGE, re.S))
CONFIGS = sorted(FILES.keys() - {'plain_net.py'})
ERRORS = re.findall(r'^\| `(model\.[\w.]+)=(.+?)` \| (.+) \|$', PAGE, re.M)
SIZE = 64, 96  # height, width


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The page's files in a folder that Python finds modules in."""
    path = tmp_path_factory.mktemp('page')
    for name, content in FILES.items():
        (path / name).write_text(content)
    sys.path.insert(0, str(path))
    yield path
    sys.path.remove(str(path))
    sys.modules.pop('plain_net', None)
    MODELS.module_dict.pop('PlainNet', None)


@pytest.fixture
def read(folder, monkeypatch):
    """Reads a config of the page as a tool does, from the folder it lies in."""
    monkeypatch.chdir(folder)

    def read_config(name: str) -> Config:
        cfg = Config.fromfile(name)
        init_default_scope(cfg.default_scope)
        return cfg

    return read_config


def sample() -> DetDataSample:
    """An image's metadata and one object in it."""
    sample = DetDataSample(
        metainfo=dict(
            img_id=0,
            img_path='image.png',
            img_shape=SIZE,
            ori_shape=SIZE,
            pad_shape=SIZE,
            scale_factor=(1.0, 1.0),
        )
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 4.0, 60.0, 50.0]]), labels=torch.tensor([1])
    )
    return sample


def test_the_page_has_what_the_tests_look_for():
    assert PAGE.count('```python') == len(FILES) == 5
    lines = FILES['plain_net.py'].splitlines()
    assert sum(map(bool, lines)) <= 25
    assert len(ERRORS) == 5
    assert max(len(x) for x in PAGE.splitlines() if not x.startswith('|')) <= 95


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_trains_a_step_and_predicts(name, read):
    cfg = read(name)
    cfg.model.backbone.init_cfg = None  # nothing is fetched
    if name.startswith('timm'):  # at first, timm's branches end in 0: no gradient
        cfg.model.backbone.zero_init_last = False
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for group in optim_wrapper.optimizer.param_groups:
        group['lr'] = 1e-3
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    if cfg.default_scope == 'mmyolo':  # image, class, x1, y1, x2, y2
        boxes = torch.tensor([[i, 1, 8.0, 4.0, 60.0, 50.0] for i in range(2)])
        batch = dict(inputs=images, data_samples=dict(bboxes_labels=boxes))
        batch['data_samples']['img_metas'] = []
    else:
        batch = dict(inputs=list(images), data_samples=[sample(), sample()])
    before = {k: v.clone() for k, v in model.named_parameters() if v.requires_grad}
    losses = model.train_step(batch, optim_wrapper)
    assert {'loss_cls', 'loss_bbox'} < set(losses)
    assert all(torch.isfinite(loss).all() for loss in losses.values())
    after = dict(model.named_parameters())
    still = [k for k, v in before.items() if torch.equal(v, after[k])]
    assert not [k for k in still if k.startswith('backbone.')]

    model.eval()
    model.bbox_head.test_cfg.score_thr = 0.0
    with torch.no_grad():
        result = model.test_step(dict(inputs=[images[0]], data_samples=[sample()]))
    assert len(result[0].pred_instances) > 0


@pytest.mark.slow
def test_maps_are_numbered_as_the_page_says(read):
    rows = re.findall(r'^\| `out_indices=(\(.+\))` \| (.+) \|$', PAGE, re.M)
    assert len(rows) == 2
    for indices, numbers in rows:
        cfg = read('plain_yolov5.py')
        cfg.model.backbone.out_indices = ast.literal_eval(indices)
        assert MODELS.build(cfg.model).neck.in_rows == ast.literal_eval(numbers)


@pytest.mark.slow
@pytest.mark.parametrize('key, value, message', ERRORS)
def test_errors_say_what_the_page_says(key, value, message, read):
    cfg = read('plain_yolov5.py')
    cfg.merge_from_dict({key: ast.literal_eval(value)})
    with pytest.raises((ValueError, KeyError), match=re.escape(message)):
        MODELS.build(cfg.model)


@pytest.mark.slow
@pytest.mark.parametrize('prefix', [None, 'backbone.'])
def test_weights_are_loaded(prefix, read, folder):
    cfg = read('plain_weights.py')
    assert cfg.model.data_preprocessor.mean[0] == 123.675
    weights = MODELS.build(dict(type='mmdet.PlainNet')).state_dict()
    weights = {k: torch.full_like(v, 0.5) for k, v in weights.items()}
    if prefix:
        cfg.model.backbone.init_cfg.prefix = prefix
    state = {f'{prefix or ""}{k}': v for k, v in weights.items()}
    torch.save(dict(state_dict=state), folder / 'plain_net.pth')
    model = MODELS.build(cfg.model)
    model.init_weights()
    assert all(
        torch.equal(value, weights[name])
        for name, value in model.backbone.state_dict().items()
    )


def test_a_backbone_that_tells_nothing_may_have_both_in_the_config(read):
    cfg = read('plain_yolov5.py')
    cfg.model.backbone = dict(
        type='mmdet.ResNet', depth=18, out_indices=(1, 2, 3), init_cfg=None
    )
    cfg.model.neck.update(in_channels=[128, 256, 512], in_strides=[8, 16, 32])
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert model.neck.strides == (8, 16, 32)


def test_the_page_names_the_mean_and_std_of_its_timm_model(read):
    from mmnextvit.models.timm_features import get_timm_mean_std

    cfg = read('timm_yolov5.py')
    wanted = get_timm_mean_std(cfg.model.backbone.model_name)
    assert {key: cfg.model.data_preprocessor[key] for key in wanted} == wanted
    assert cfg.model.backbone.init_cfg.checkpoint == f'timm://{cfg.name}'
