"""Keys that nothing reads: the misspelt ones of a list, and of no sound config."""

import copy
from contextlib import suppress
from functools import cache
from pathlib import Path

from mmnextvit import config_file, fit_recipe, get_config
from mmnextvit.engine.config_files import check_config, put, read_changed
from mmnextvit.engine.known_keys import find_like, read_arguments
from mmnextvit.engine.runner import build_runner
from mmnextvit.utils.errors import UserError

import mmdet
import mmyolo
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

MASK = 'mask_rcnn_nextvit_s_fpn_1x_coco'
V5, V8, RTMDET = 'yolov5_nextvit_s', 'yolov8_nextvit_s', 'rtmdet_nextvit_s'
FITTED = 'fitted'
MMDET = Path(mmdet.__file__).parent / '.mim' / 'configs'


@cache
def load(name: str) -> Config:
    if name != FITTED:
        return get_config(name)
    base = get_config('yolov5_nextvit_s_smalldata')
    data = dict(type='VerifiedVOCDataset', data_root='x/', ann_file='y.txt')
    settings = dict(train=data, val=data, classes=('a', 'b'), num_images=20)
    changes = fit_recipe(base, settings)
    for value in changes.values():
        if isinstance(value, dict):
            value.pop('_delete_', None)
    return Config({**base, **settings, **changes}, filename=base.filename)


def change(name: str, key: str, value: object = 7) -> Config:
    """As ``--cfg-options`` does."""
    return read_changed(lambda: copy.deepcopy(load(name)), {key: value})


MISSPELT = [
    (V5, 'train_cfg.max_epoch', 'max_epochs'),
    (V5, 'train_cfg.val_intervall', 'val_interval'),
    (V5, 'model.backbone.frozen_stage', 'frozen_stages'),
    (V5, 'model.bakbone.frozen_stages', 'backbone'),
    (V5, 'model.neck.out_row', 'out_rows'),
    (V5, 'model.bbox_head.num_class', 'model.bbox_head.head_module.num_classes'),
    (V5, 'model.test_cfg.nms.iou_thresold', 'iou_threshold'),
    (V5, 'batchsize', 'train_dataloader.batch_size'),
    (V5, 'train_dataloader.batchsize', 'batch_size'),
    (V5, 'train_dataloder.batch_size', 'train_dataloader'),
    (V5, 'train_dataloader.dataset.pipeline.2.img_scal', 'img_scale'),
    (V5, 'val_dataloader.dataset.filter_cfg.min_sizes', 'min_size'),
    (V5, 'default_hooks.ema.momentun', 'momentum'),
    (V5, 'default_hooks.chekpoint.interval', 'checkpoint'),
    (V5, 'default_hooks.param_scheduler.warmup_epoch', 'warmup_epochs'),
    (V5, 'load_form', 'load_from'),
    (V8, 'optim_wrapper.optimizer.weight_decy', 'weight_decay'),
    (V8, 'default_hooks.checkpoint.max_keep_ckpt', 'max_keep_ckpts'),
    (V8, 'env_cfg.cudnn_benchmrk', 'cudnn_benchmark'),
    (V8, 'train_dataloader.dataset.data_prefix.imgs', 'img'),
    (RTMDET, 'model.train_cfg.assigner.top_k', 'topk'),
    (RTMDET, 'model.backbone.init_cfg.checkpont', 'checkpoint'),
    (RTMDET, 'param_scheduler.0.start_facto', 'start_factor'),
    (RTMDET, 'visualizer.vis_backend', 'vis_backends'),
    (MASK, 'model.test_cfg.rcnn.score_threshold', 'score_thr'),
    (MASK, 'model.roi_head.bbox_head.num_clases', 'num_classes'),
    (MASK, 'optim_wrapper.paramwise_cfg.norm_decay_mul', 'norm_decay_mult'),
    (MASK, 'randomness.sed', 'seed'),
    (FITTED, 'imagesize', 'image_size'),
    (FITTED, 'max_epoch', 'max_epochs'),
    (FITTED, 'train_dataloader.dataset.metainfo.clases', 'classes'),
    (FITTED, 'val_evaluator.proposal_num', 'proposal_nums'),
]


@pytest.mark.parametrize('name, key, meant', MISSPELT)
def test_a_misspelt_key_is_refused_with_what_was_meant(name, key, meant):
    with pytest.raises(UserError) as error:
        change(name, key)
    suggested = str(error.value).partition('did you mean ')[2].partition('?')[0]
    assert meant in suggested.split(' or ')
    assert f'{key}.'.startswith(f'{error.value.key}.')
    assert error.value.file == load(name).filename
    assert f'write +{error.value.key}=' in str(error.value)


@pytest.mark.parametrize('name, key, meant', MISSPELT[1::3])
def test_so_it_is_in_a_config_in_python(name, key, meant, monkeypatch):
    """Where nothing is built before."""
    cfg = copy.deepcopy(load(name))
    top, *inner = key.split('.')
    cfg[top] = put(cfg.get(top), inner, 7, top)
    cfg.work_dir = 'none'
    monkeypatch.setattr(Runner, 'from_cfg', None)
    with pytest.raises(UserError, match='did you mean') as error:
        build_runner(cfg)
    assert f'{key}.'.startswith(f'{error.value.key}.')
    cfg.extra_keys = [error.value.key]
    check_config(cfg)


@pytest.mark.parametrize(
    'name, key, value',
    [
        (V5, 'model.backbone.frozen_stages', 2),
        (V5, 'model.backbone.arch.depths', [1, 1, 1, 1]),
        (V5, 'train_dataloader.pin_memory', False),
        (V5, 'default_hooks.ema.begin_epoch', 2),
        (V5, 'default_hooks.ema.gamma', 2),  # of the average that EMAHook makes
        (V5, 'default_hooks.visualization.type', 'mmdet.DetVisualizationHook'),
        (V5, 'default_hooks.logger', None),
        (V5, 'optim_wrapper.optimizer.nesterov', False),
        (V5, 'load_from', 'x.pth'),
        (V5, 'env_cfg.mp_cfg.opencv_num_threads', 1),
        (V5, 'model.backbone.init_cfg.type', 'Pretrained'),
        (V8, 'optim_wrapper.accumulative_counts', 2),
        (V8, 'randomness.seed', 0),
        (MASK, 'model.test_cfg.rcnn.nms.class_agnostic', True),
        (MASK, 'optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult', 0.1),
        (MASK, 'find_unused_parameters', True),
        (FITTED, 'num_workers', 1),
    ],
)
def test_keys_that_are_read_are_added_without_asking(name, key, value):
    node = change(name, key, value)
    for step in key.split('.'):
        node = node[int(step) if step.isdigit() else step]
    assert node == value


def test_what_nothing_is_known_to_read_is_added_where_it_is_asked_for():
    cfg = change(V5, '+model.backbone.frozen_stage')
    assert cfg.model.backbone.frozen_stage == 7
    assert cfg.extra_keys == ['model.backbone.frozen_stage']
    check_config(cfg)  # as the runner does
    assert change(V5, '+own.part').own.part == 7


def test_without_a_similar_name_all_are_listed():
    with pytest.raises(UserError, match='there are dampening, differentiable, .*, lr,'):
        change(V8, 'optim_wrapper.optimizer.learning_rate')


@pytest.mark.parametrize('kind', ['mask2former', 'glip/odinw', 'vfnet'])
def test_a_sound_config_has_no_unread_key(kind):
    check_config(Config.fromfile(next(MMDET.glob(f'{kind}/*.py'))))


@pytest.mark.slow
def test_no_sound_config_has_an_unread_key():
    """Ours, and every 20th of the packages'; all of them were read once."""
    paths = [*Path(config_file(V5)).parent.rglob('*.py')]
    for folder in (MMDET, Path(mmyolo.__file__).parent / '.mim' / 'configs'):
        paths += sorted(folder.rglob('*.py'))[::20]
    for path in paths:
        with suppress(ImportError, FileNotFoundError):  # of what is not installed
            cfg = Config.fromfile(path, import_custom_modules=False)
            check_config(cfg)


class Base:
    def __init__(self, width: int = 1) -> None: ...


class Whole(Base):
    def __init__(self, height: int = 1, **kwargs: int) -> None:
        kwargs.get('width')
        super().__init__(**kwargs)


class Keeps(Base):
    def __init__(self, height: int = 1, **kwargs: int) -> None:
        self.options = kwargs
        super().__init__()


class Other(Base):
    def __init__(self, height: int = 1, **kwargs: int) -> None:
        super().__init__()
        dict(**kwargs)


def test_arguments_go_up_as_far_as_they_are_handed_on():
    assert read_arguments(Base) == ({'width'}, True)
    assert read_arguments(Whole) == ({'width', 'height'}, True)
    assert read_arguments(Keeps) == ({'width', 'height'}, False)
    assert read_arguments(Other) == ({'width', 'height'}, False)
    assert read_arguments(lambda x, *, y: x) == ({'x', 'y'}, True)


def test_similar_names():
    assert find_like('batchsize', ['a.batch_size', 'batch', 'x']) == ['a.batch_size']
    assert find_like('xyz', ['batch_size']) == []
    assert find_like('', ['a', '']) == ['']
