"""Every config that is shipped: found by itself, built, trained a step, predicts."""

import pytest
import torch
from conftest import ROOT
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


def test_configs_are_found():
    assert len(CONFIGS) >= 4


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def cfg(request) -> Config:
    init_default_scope('mmyolo')
    cfg = Config.fromfile(request.param)
    cfg.model.backbone.init_cfg = None  # nothing is fetched
    return cfg


def test_trains_a_step_and_predicts(cfg):
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    num_classes = model.bbox_head.num_classes
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for group in optim_wrapper.optimizer.param_groups:
        group['lr'] = 1e-3
    height, width = 64, 96
    inputs = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    boxes = torch.tensor(  # picture, class, x1, y1, x2, y2
        [[0, 0, 4, 6, 40, 50], [0, num_classes - 1, 30, 20, 90, 60],
         [1, 0, 10, 10, 30, 22], [1, 0, 8, 2, 20, 34]], dtype=torch.float32,
    )  # fmt: skip
    batch = dict(inputs=inputs, data_samples=dict(bboxes_labels=boxes, img_metas=[]))
    before = {k: v.clone() for k, v in model.named_parameters()}
    losses = model.train_step(batch, optim_wrapper)
    assert {'loss_cls', 'loss_bbox', 'loss_obj'} < set(losses)
    assert all(torch.isfinite(v) for v in losses.values())
    still = [
        name
        for name, p in model.named_parameters()
        if torch.equal(p, before[name]) and not name.endswith('e_mhsa.k.bias')
    ]
    # those of paths that are dropped for both pictures
    assert len(still) < 0.2 * len(before), still

    model.eval()
    sample = DetDataSample(
        metainfo=dict(
            img_id=7, img_path='picture.png', ori_shape=(height, width),
            img_shape=(height, width), scale_factor=(1.0, 1.0),
        )
    )  # fmt: skip
    model.bbox_head.test_cfg.score_thr = 0.0
    with torch.no_grad():
        results = model.test_step(dict(inputs=[inputs[0]], data_samples=[sample]))
    found = results[0].pred_instances
    assert len(found) > 0 and found.labels.max() < num_classes
    assert found.scores.diff().max() <= 0
    assert (found.bboxes[:, 2:] <= torch.tensor([width, height])).all()


def test_is_dumped_and_read_again(cfg, tmp_path):
    file = tmp_path / 'dumped.py'
    cfg.dump(file)
    again = Config.fromfile(file)
    assert again.to_dict() == cfg.to_dict()


def test_configs_say_differences_only():
    """The base is at most 40 lines, what differs in an arch or a row at most 15."""
    for path in CONFIGS:
        lines = len(path.read_text().splitlines())
        if path.stem == 'yolov5_nextvit_s':
            assert lines <= 40
        elif path.stem.endswith(('_b', '_l', '_v6neck')):
            assert lines <= 15, path
