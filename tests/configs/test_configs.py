"""Every config that is shipped, found by itself: built, trained a step, predicts,
dumped and read again. Nothing is downloaded."""

from mmnextvit.engine.configs import read_config
from mmnextvit.engine.data_report import list_class_counts
from mmnextvit.models.timm_features import get_timm_mean_std
from mmnextvit.models.yolov5_modules import NORM_CFG

import pytest
import torch
from mmcv.transforms import Compose
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, METRICS, VISUALIZERS, init_default_scope
from mmengine.structures import InstanceData
from mmyolo.registry import MODELS

from tests.conftest import ROOT

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
SIZE = HEIGHT, WIDTH = 64, 96
# What is no difference from another config only: a whole neck, data, a schedule.
LONGER = {'yolov5_nextvit_s', 'yolov5_nextvit_s_in1k'}
DATA = {'yolov5_nextvit_s_bccd', 'yolov5_nextvit_s_demo'}

# Parameters that a loss cannot move, for a reason:
UNMOVED = (
    # a shift of all keys leaves the attention's softmax as it is
    'e_mhsa.k.bias',
    # DETR's first decoder layer attends to queries that are all zero: their values are
    # the bias alone, and so equal that queries and keys do not matter
    'decoder.layers.0.self_attn.',
    # the class embedding's twin: the position part of the keys only meets a softmax
    'attn.bias_k',
    # YOLOv8's levels to which the assigner gives no box of so small an image
    'reg_preds.1.',
    'reg_preds.2.',
)


def test_configs_are_found():
    assert len(CONFIGS) >= 20


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def cfg(request) -> Config:
    cfg = Config.fromfile(request.param)
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_scheduler_lasts_in_a_training_of_one_epoch(path):
    fewer = {'max_epochs': 1}
    cfgs = [read_config(str(path), settings=fewer)]  # as --epochs 1
    if '\nmax_epochs = ' in path.read_text(encoding='utf-8'):  # as --cfg-options
        cfgs.append(read_config(str(path), fewer))
    for cfg in cfgs:
        for scheduler in cfg.get('param_scheduler') or []:
            assert scheduler.get('begin', 0) < scheduler.get('end', 1)
            assert not scheduler.get('by_epoch', True) or scheduler.get('begin', 0) < 1


def without_chance(cfg: Config) -> dict:
    """The model's config without weights to fetch, dropped paths or a least score.

    A two-stage detector gets few boxes, and mixed precision is left out: a CPU takes
    minutes for either. test_model_zoo_configs.py trains a tiny one with it.
    """
    model = cfg.model
    model.backbone.init_cfg = None
    if cfg.optim_wrapper.type == 'AnyDeviceAmpOptimWrapper':
        cfg.optim_wrapper.type = 'OptimWrapper'
    if model.backbone.type == 'mmdet.NextViT':
        model.backbone.drop_path_rate = 0.0  # so that every branch has its gradient
        # With fresh statistics random weights fade to denormals, which are slow.
        model.backbone.norm_eval = False
        if model.backbone.get('arch', 'small') != 'small':
            # Only more blocks: test_model_zoo_configs.py counts their parameters.
            model.backbone.arch = dict(depths=(1, 1, 5, 1))
    test_cfg = model.test_cfg.get('rcnn', model.test_cfg)
    test_cfg.update(score_thr=0.0, max_per_img=10)
    if 'roi_head' in model:
        model.train_cfg.rcnn.sampler.num = 8
        model.train_cfg.rpn_proposal.max_per_img = 100
        model.test_cfg.rpn.max_per_img = 20
    return model


def a_batch(scope: str, num_classes: int) -> dict:
    """Two random images with two boxes each, as the scope's collate gives them."""
    inputs = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    boxes = torch.tensor(  # image, class, x1, y1, x2, y2
        [[0, 0, 4, 6, 40, 50], [0, num_classes - 1, 30, 20, 90, 60],
         [1, 0, 10, 10, 30, 22], [1, 0, 8, 2, 20, 34]], dtype=torch.float32,
    )  # fmt: skip
    if scope == 'mmyolo':
        return dict(inputs=inputs, data_samples=dict(bboxes_labels=boxes, img_metas=[]))
    samples = []
    for number in range(2):
        mine = boxes[boxes[:, 0] == number]
        masks = torch.zeros(len(mine), *SIZE, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, mine[:, 2:].int().tolist()):
            mask[y1:y2, x1:x2] = 1
        sample = a_sample()
        sample.gt_instances = InstanceData(
            bboxes=mine[:, 2:],
            labels=mine[:, 1].long(),
            masks=BitmapMasks(masks.numpy(), *SIZE),
        )
        samples.append(sample)
    return dict(inputs=list(inputs), data_samples=samples)


def a_sample() -> DetDataSample:
    return DetDataSample(
        metainfo=dict(
            img_id=7, img_path='image.png', ori_shape=SIZE, img_shape=SIZE,
            scale_factor=(1.0, 1.0),
        )
    )  # fmt: skip


@pytest.fixture
def no_denormals():
    yield torch.set_flush_denormal(True)
    torch.set_flush_denormal(False)


@pytest.mark.slow
def test_trains_a_step_and_predicts(cfg, no_denormals):
    torch.manual_seed(0)
    model = MODELS.build(without_chance(cfg))
    model.init_weights()
    for name, param in model.named_parameters():
        if name.endswith('bias') and '.rtm_reg.' in name:
            torch.nn.init.ones_(
                param
            )  # boxes of no size would overlap, and teach, nothing
    model.train()
    head = getattr(model, 'roi_head', model).bbox_head
    batch = a_batch(cfg.default_scope, head.num_classes)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    with optim_wrapper.optim_context(model):
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total, losses = model.parse_losses(losses)
    assert len(losses) >= 3 and all(torch.isfinite(v) for v in losses.values()), losses
    optim_wrapper.backward(total)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    # DistributedDataParallel waits for a gradient of every one.
    assert not [name for name, p in trained.items() if p.grad is None]
    assert not [name for name, p in trained.items() if not p.grad.isfinite().all()]
    still = [name for name, p in trained.items() if not p.grad.any()]
    assert not [name for name in still if not any(u in name for u in UNMOVED)]
    held = {p for group in optim_wrapper.param_groups for p in group['params']}
    assert set(trained.values()) <= held
    optim_wrapper.step()
    assert all(p.isfinite().all() for p in trained.values())

    model.eval()
    inputs = [torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)]
    with torch.no_grad():
        results = model.test_step(dict(inputs=inputs, data_samples=[a_sample()]))
    found = results[0].pred_instances
    assert len(found) > 0 and found.labels.max() < head.num_classes
    assert found.scores.diff().max() <= 0
    assert (found.bboxes[:, 2:] <= torch.tensor([WIDTH, HEIGHT])).all()
    if 'mask_head' in (cfg.model.get('roi_head') or {}):
        assert found.masks.shape == (len(found), *SIZE)


@pytest.mark.slow
def test_what_it_names_can_be_built(cfg):
    for mode in ('train', 'val', 'test'):
        Compose(cfg[f'{mode}_dataloader'].dataset.pipeline)
    VISUALIZERS.build(cfg.visualizer)  # which a hook asks for
    for hook in (*cfg.default_hooks.values(), *cfg.get('custom_hooks', ())):
        if hook:
            HOOKS.build(hook)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        METRICS.build(dict(evaluator, ann_file=None))


@pytest.mark.slow
def test_mean_and_std_are_those_of_the_weights(cfg):
    weights = (cfg.model.backbone.get('init_cfg') or {}).get('checkpoint')
    if not weights:
        pytest.skip('learns from scratch')
    name = weights.removeprefix('timm://')
    own = cfg.model.data_preprocessor
    assert dict(mean=own.mean, std=own.std) == get_timm_mean_std(name)
    assert own.bgr_to_rgb
    arch = cfg.model.backbone.get('arch', 'small')
    assert cfg.model.backbone.get('model_name', f'nextvit_{arch}') in name


@pytest.mark.slow
def test_is_dumped_and_read_again(cfg, tmp_path):
    file = tmp_path / 'dumped.py'
    cfg.dump(file)
    again = Config.fromfile(file)
    assert again.to_dict() == cfg.to_dict()


@pytest.mark.slow
def test_the_number_of_classes_stands_in_one_place(cfg):
    """Every head and its assigner follow the one key that our errors name."""
    head = cfg.model.get('roi_head', cfg.model).bbox_head
    head.get('head_module', head).num_classes = 3
    cfg.model.backbone.init_cfg = None
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    named = list_class_counts(model)
    assert list(named.values()) == [3]  # one key
    heads = [
        m for n, m in model.named_modules() if n.endswith(('bbox_head', 'mask_head'))
    ]
    assert {head.num_classes for head in heads} == {3}
    assigners = [head.assigner for head in heads if hasattr(head, 'assigner')]
    assert {getattr(each, 'num_classes', 3) for each in assigners} <= {3}
    assert bool(cfg.model.get('roi_head', {}).get('mask_head')) == (len(heads) == 2)


def test_configs_say_differences_only():
    """A base is at most 40 lines, what differs from one at most 15."""
    for path in (*CONFIGS, *(ROOT / 'configs' / '_base_').glob('*.py')):
        lines = len(path.read_text().splitlines())
        if path.parent.name == '_base_' or path.stem in LONGER:
            assert lines <= 40, path
        elif path.stem not in DATA:
            assert lines <= 15, path


def test_norms_of_configs_are_those_of_models():
    fragment = Config.fromfile(ROOT / 'configs' / '_base_' / 'yolov5_norm.py')
    assert fragment.yolov5_norm == NORM_CFG
