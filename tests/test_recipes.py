"""Recipes for other data: what they resolve to, and what follows a changed setting.

The reference for numbers is MMYOLO's own text of each recipe with its variables edited,
so that it shares nothing with what computes ours.
"""

import ast
import copy
import json
import math
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import mmnextvit
from mmnextvit import config_file, fit_recipe
from mmnextvit.datasets.demo_data import make_demo_data
from mmnextvit.engine.configs import read_config
from mmnextvit.engine.data_report import DataReportHook
from mmnextvit.engine.training import make_training_config
from mmnextvit.recipes import find_changes, fitting, refit
from mmnextvit.utils.errors import UserError

import mmyolo
import pytest
from mmengine.config import Config

from tests.conftest import TINY
from tests.helpers.commands import run_here

MMYOLO = Path(mmyolo.__file__).parent / '.mim' / 'configs'
# The file with the variables, and after it the one that inherits from it, if any.
SOURCES = {
    'yolov5': ['s-v61_syncbn_8xb16-300e_coco', 's-v61_syncbn_fast_8xb16-300e_coco'],
    'yolov8': ['s_syncbn_fast_8xb16-500e_coco'],
    'rtmdet': ['l_syncbn_fast_8xb32-300e_coco', 's_syncbn_fast_8xb32-300e_coco'],
}
YOLOV5 = [
    'yolov5_nextvit_s',
    'yolov5_nextvit_b',
    'yolov5_nextvit_l',
    'yolov5_nextvit_s_smalldata',
    'yolov5_nextvit_s_smalldata_in1k',
    'yolov5_nextvit_s_in1k',
    'yolov5_nextvit_b_in1k',
    'yolov5_nextvit_l_in1k',
]
BASES = [*YOLOV5, 'yolov8_nextvit_s', 'rtmdet_nextvit_s']
LOADERS = ('LoadImageFromFile', 'LoadVerifiedImage')
PLAIN = ['yolov5_nextvit_s', 'yolov8_nextvit_s', 'rtmdet_nextvit_s']
OLD_EPOCHS = {
    **dict.fromkeys(BASES, 300),
    **{name: 100 for name in BASES if 'in1k' in name or 'smalldata' in name},
    'yolov8_nextvit_s': 500,
}

ALBU = 'mmdet.Albu'
CLASSES = ('RBC', 'WBC', 'Platelets')
VOC = dict(type='VerifiedVOCDataset', data_root='/data/cells/')
DATA = dict(
    train=dict(VOC, ann_file='train.txt'),
    val=dict(VOC, ann_file='val.txt'),
    classes=CLASSES,
    num_images=4000,
)
SETTINGS = dict(image_size=416, max_epochs=60, batch_size=4)
TIMM = dict(_delete_=True, type='mmdet.TimmFeatures', model_name='resnet18')


@cache
def read(path: str) -> Config:
    return Config.fromfile(path)


def resolve(name: str, **config: object) -> dict:
    """What MMEngine makes of a config that inherits from ours and calls fit_recipe."""
    base = copy.deepcopy(read(config_file(name))._cfg_dict)
    before = copy.deepcopy(base)
    changed = fit_recipe(base, {**DATA, **config})
    assert base == before  # it is left as it was
    return Config(Config._merge_a_into_b(changed, base)).to_dict()


@cache
def resolve_changed(name: str) -> dict:
    return resolve(name, **SETTINGS)


def edit(name: str, folder: Path, **variables: object) -> dict:
    """What MMYOLO's recipe resolves to with other values of its variables."""
    (folder / '_base_').symlink_to(MMYOLO / '_base_')
    inner = folder / name
    inner.mkdir()
    first, *others = (f'{name}_{rest}.py' for rest in SOURCES[name])
    text = (MMYOLO / name / first).read_text()
    for key, value in variables.items():
        text, count = re.subn(rf'^{key} = .*$', f'{key} = {value!r}', text, flags=re.M)
        assert count == 1, key
    (inner / first).write_text(text)
    for other in others:
        (inner / other).write_text((MMYOLO / name / other).read_text())
    return Config.fromfile(inner / (others or [first])[-1]).to_dict()


def comparable(node: object) -> object:
    """Without Albumentations, which ours leave out, and without scopes."""
    if isinstance(node, dict):
        return {k: comparable(v) for k, v in node.items() if k != '_scope_'}
    if isinstance(node, (list, tuple)):
        kept = [
            n
            for n in node
            if not (isinstance(n, dict) and n.get('type') == 'mmdet.Albu')
        ]
        return [comparable(item) for item in kept]
    return node


def leaves(node: object, path: tuple = ()):
    """Every value of a config with the keys on the way to it."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from leaves(value, (*path, number))
    else:
        yield path, node


def names(path: tuple) -> list[str]:
    return [key for key in path if isinstance(key, str)]


# What is computed is what MMYOLO computes


@pytest.mark.slow
@pytest.mark.parametrize(
    'settings',
    [
        dict(image_size=416, max_epochs=120, batch_size=4),
        dict(image_size=(960, 544), max_epochs=100, batch_size=24),
        dict(image_size=1280, max_epochs=400, batch_size=2),
    ],
    ids=['small', 'wide', 'large'],
)
@pytest.mark.parametrize('name', PLAIN)
def test_numbers_are_those_of_the_edited_recipe(name, settings, tmp_path):
    size = settings['image_size']
    size = size if isinstance(size, tuple) else (size, size)
    epochs, batch = settings['max_epochs'], settings['batch_size']
    kind = name.partition('_')[0]
    wanted = edit(
        kind,
        tmp_path,
        img_scale=size,
        num_classes=3,
        max_epochs=epochs,
        train_batch_size_per_gpu=batch,
    )
    cfg = resolve(name, **settings)

    for key in ('train_pipeline', 'train_pipeline_stage2', 'img_scale', 'num_classes'):
        assert comparable(cfg.get(key)) == comparable(wanted.get(key))
    assert cfg['max_epochs'] == epochs
    train, train_wanted = cfg['train_dataloader'], wanted['train_dataloader']
    assert train['batch_size'] == train_wanted['batch_size'] == batch
    assert train['num_workers'] == train_wanted['num_workers']
    pipeline = train['dataset']['pipeline']
    assert comparable(pipeline) == comparable(train_wanted['dataset']['pipeline'])
    for split in ('val', 'test'):
        ours = cfg[f'{split}_dataloader']['dataset']
        theirs = wanted[f'{split}_dataloader']['dataset']
        assert comparable(ours['pipeline'][:-1]) == comparable(theirs['pipeline'][:-1])
        *keys, last = ours['pipeline'][-1]['meta_keys']
        assert last == 'instances'
        assert keys == list(theirs['pipeline'][-1]['meta_keys'])
        assert comparable(ours['batch_shapes_cfg']) == comparable(
            theirs['batch_shapes_cfg']
        )

    assert comparable(cfg['train_cfg']) == comparable(wanted['train_cfg'])
    hooks = cfg['default_hooks']
    switch = [hooks[key] for key in ('pipeline_switch',) if key in hooks]
    assert comparable(switch) == comparable(wanted['custom_hooks'][1:])
    ours, theirs = (c['default_hooks']['param_scheduler'] for c in (cfg, wanted))
    assert ours.get('max_epochs') == theirs.get('max_epochs')
    head, head_wanted = (comparable(c['model']['bbox_head']) for c in (cfg, wanted))
    assert head['head_module']['num_classes'] == 3
    for loss in (key for key in head_wanted if key.startswith('loss_')):
        weight = head_wanted[loss]['loss_weight']
        if loss == 'loss_obj':  # MMYOLO takes the width for a square's side
            weight *= size[1] / size[0]
        assert head[loss].pop('loss_weight') == pytest.approx(weight, rel=1e-12)
        assert head_wanted[loss].pop('loss_weight')
        assert head[loss] == head_wanted[loss]
    assert comparable(cfg['model'].get('train_cfg')) == comparable(
        wanted['model'].get('train_cfg')
    )
    optimizer = cfg['optim_wrapper']['optimizer']
    optimizer_wanted = wanted['optim_wrapper']['optimizer']
    assert optimizer.get('batch_size_per_gpu') == optimizer_wanted.get(
        'batch_size_per_gpu'
    )
    if wanted['param_scheduler']:
        cosine, cosine_wanted = (
            comparable(c['param_scheduler'][1]) for c in (cfg, wanted)
        )
        for each in (cosine, cosine_wanted):
            each.pop('eta_min')  # with the learning rate
        assert cosine == cosine_wanted


@pytest.mark.slow
@pytest.mark.parametrize('name', BASES)
def test_no_size_is_left_over(name):
    """None of 640 pixels, of its halves, doubles and parts, wherever it stands."""
    cfg = resolve_changed(name)
    sizes = {640, 320, 960, 1280, -320}
    left = [path for path, v in leaves(cfg) if type(v) is int and v in sizes]
    # the family's own values, which nothing but tune_recipe reads
    family = {
        (member, 'image_size') for member in ('scratch', 'pretrained', 'detector')
    }
    assert not set(left) - (family if 'smalldata' in name else set())
    before = read(config_file(name)).to_dict()
    assert any(value == 640 for _, value in leaves(before))
    scales = {v for path, v in leaves(cfg) if names(path)[-1] == 'scale'}
    expected = {416, 192, 608} | ({832} if 'rtmdet' in name else set())
    assert scales == expected  # those of test-time augmentation divide by 32 too


@pytest.mark.parametrize('name', BASES)
def test_no_number_of_classes_is_left_over(name):
    cfg = resolve_changed(name)
    counts = [v for path, v in leaves(cfg) if path[-1] == 'num_classes']
    assert len(counts) >= 2
    assert set(counts) == {3}
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader']['dataset']
        assert dataset['metainfo'] == dict(classes=CLASSES)
    if name in YOLOV5:
        weight = cfg['model']['bbox_head']['loss_cls']['loss_weight']
        assert weight == pytest.approx(0.5 * 3 / 80)
        weight = cfg['model']['bbox_head']['loss_obj']['loss_weight']
        assert weight == pytest.approx((416 / 640) ** 2)
        assert cfg['model']['bbox_head']['loss_bbox']['loss_weight'] == 0.05


@pytest.mark.parametrize('name', BASES)
def test_no_epoch_is_left_over(name):
    cfg = resolve_changed(name)
    old = OLD_EPOCHS[name]
    marks = {old, old - 10, old - 20, old // 2}
    keys = {'max_epochs', 'switch_epoch', 'begin', 'end', 'T_max', 'dynamic_intervals'}
    found = [(p, v) for p, v in leaves(cfg) if keys & {*names(p)[-1:]}]
    assert any(value == 60 for _, value in found)
    new = {60, 60 - 10}  # the last, and where mosaics end
    assert not [path for path, value in found if value in marks - new]


def test_the_changes_are_all_that_changes():
    """Of the recipe for small data; every other value is the base's."""
    before = dict(leaves(read(config_file('yolov5_nextvit_s_smalldata')).to_dict()))
    after = dict(leaves(resolve('yolov5_nextvit_s_smalldata', **SETTINGS)))
    parts = ('model', 'optim_wrapper', 'default_hooks', 'custom_hooks', 'train_cfg')
    parts += ('auto_scale_lr', 'param_scheduler', 'val_evaluator', 'env_cfg')
    changed = {
        '.'.join(map(str, path)): after.get(path)
        for path in before | after
        if path[0] in parts and before.get(path, 'none') != after.get(path, 'none')
    }
    assert changed == {
        'model.bbox_head.head_module.num_classes': 3,
        'model.bbox_head.loss_cls.loss_weight': pytest.approx(0.01875),
        'model.bbox_head.loss_obj.loss_weight': pytest.approx(0.4225),
        'optim_wrapper.optimizer.lr': pytest.approx(1e-3 / math.sqrt(2)),
        'default_hooks.param_scheduler.max_epochs': 60,
        'train_cfg.max_epochs': 60,
        'auto_scale_lr.base_batch_size': 4,
        'val_evaluator.ann_file': None,
    }


@pytest.mark.parametrize(
    'name, size, border',
    [('yolov5_nextvit_s', 320, (-160, -160)), ('yolov8_nextvit_s', 96, (-48, -48))],
)
def test_mosaics_are_cut_to_the_size(name, size, border):
    cfg = resolve(name, image_size=size)
    pipeline = cfg['train_dataloader']['dataset']['pipeline']
    mosaic, affine = pipeline[2:4]
    assert mosaic['img_scale'] == (size, size)
    assert affine['border'] == border


def test_a_mixup_inside_has_the_size():
    """Pipelines within transforms, as YOLOv5's mixing of two mosaics has one."""
    base = copy.deepcopy(read(config_file('yolov5_nextvit_s'))._cfg_dict)
    mixup = dict(type='YOLOv5MixUp', pre_transform=list(base['train_pipeline'][:4]))
    base['train_dataloader']['dataset']['pipeline'].insert(4, mixup)
    fitted = fit_recipe(base, dict(DATA, image_size=416))
    inner = fitted['train_dataloader']['dataset']['pipeline'][4]['pre_transform']
    assert inner[2]['img_scale'] == (416, 416)
    assert inner[3]['border'] == (-208, -208)
    assert inner[2]['pre_transform'] == comparable(base['pre_transform'])


# Schedules


@pytest.mark.parametrize(
    'name, epochs, images, warm_up',
    [  # of 16 images a batch; a tenth of the training at most
        ('yolov5_nextvit_s', 300, 100_000, (3, 1000)),
        ('yolov5_nextvit_s', 300, 1600, (3, 1000)),
        ('yolov5_nextvit_s', 30, 1600, (3, 300)),
        ('yolov5_nextvit_s', 10, 214, (1, 14)),
        ('yolov8_nextvit_s', 30, 1600, (3, 300)),
        ('yolov5_nextvit_s_smalldata', 100, 214, (2, 0)),
        ('yolov5_nextvit_s_smalldata', 10, 214, (1, 0)),
    ],
)
def test_a_short_training_is_no_warm_up(name, epochs, images, warm_up):
    cfg = resolve(name, max_epochs=epochs, num_images=images, batch_size=16)
    schedule = cfg['default_hooks']['param_scheduler']
    assert schedule['max_epochs'] == epochs
    assert (schedule['warmup_epochs'], schedule['warmup_mim_iter']) == warm_up


@pytest.mark.parametrize(
    'name, epochs, images, end',
    [
        ('rtmdet_nextvit_s', 300, 100_000, 1000),
        ('rtmdet_nextvit_s', 20, 1600, 200),
        ('yolov5_nextvit_s_in1k', 20, 1600, 200),
        ('yolov5_nextvit_s_in1k', 1, 3, 1),
    ],
)
def test_a_warm_up_of_iterations(name, epochs, images, end):
    cfg = resolve(name, max_epochs=epochs, num_images=images, batch_size=16)
    linear, cosine = cfg['param_scheduler']
    assert (linear['begin'], linear['end']) == (0, end)
    assert cosine['end'] == epochs
    assert cosine['begin'] + cosine['T_max'] == epochs


@pytest.mark.parametrize(
    'name, epochs, switch',
    [
        ('yolov8_nextvit_s', 100, 90),
        ('yolov8_nextvit_s', 20, 15),
        ('yolov8_nextvit_s', 1, 1),  # never
        ('rtmdet_nextvit_s', 100, 80),
        ('rtmdet_nextvit_s', 40, 30),
    ],
)
def test_the_last_epochs_are_without_mosaics(name, epochs, switch):
    cfg = resolve(name, max_epochs=epochs, image_size=416)
    hook = cfg['default_hooks']['pipeline_switch']
    assert hook['switch_epoch'] == switch
    assert cfg['train_cfg']['dynamic_intervals'] == [(switch, 1)]
    kinds = [transform['type'] for transform in hook['switch_pipeline']]
    assert 'Mosaic' not in kinds
    sizes = {
        v for p, v in leaves(hook['switch_pipeline']) if type(v) is int and v > 255
    }
    assert sizes == {416}


@pytest.mark.parametrize(
    'name, lr, base, batch, now',
    [
        ('yolov5_nextvit_s', 0.01, 128, 4, 0.01),  # SGD: the loss is a sum
        ('yolov8_nextvit_s', 0.01, 128, 4, 0.01),
        ('yolov5_nextvit_s_smalldata', 1e-3, 8, 32, 2e-3),
        ('yolov5_nextvit_s_smalldata_in1k', 1e-3, 8, 32, 2e-3),
        ('yolov5_nextvit_s_in1k', 1e-3, 128, 8, 2.5e-4),
        ('rtmdet_nextvit_s', 4e-3, 256, 16, 1e-3),
    ],
)
def test_the_learning_rate_is_for_the_batch(name, lr, base, batch, now):
    before = read(config_file(name))
    assert before.optim_wrapper.optimizer.lr == lr
    assert before.auto_scale_lr.base_batch_size == base
    cfg = resolve(name, batch_size=batch)
    assert cfg['optim_wrapper']['optimizer']['lr'] == pytest.approx(now)
    scaled = cfg['auto_scale_lr']['base_batch_size']
    assert scaled == (base if now == lr else batch)
    if name == 'rtmdet_nextvit_s':
        assert cfg['param_scheduler'][1]['eta_min'] == pytest.approx(now / 20)


def test_train_scales_from_the_fitted_batch(tmp_path):
    """``--auto-scale-lr`` multiplies by processes only; the decay follows the batch."""
    for name, base in (('rtmdet_nextvit_s', 4), ('yolov5_nextvit_s', 128)):
        cfg = Config(resolve(name, batch_size=4))
        cfg.work_dir = str(tmp_path)
        trained = make_training_config(cfg, auto_scale_lr=True)
        assert trained.auto_scale_lr == dict(enable=True, base_batch_size=base)
    assert trained.optim_wrapper.optimizer.batch_size_per_gpu == 4


# Data


@pytest.mark.parametrize('name', PLAIN)
def test_datasets_are_the_users_with_the_recipes_pipelines(name):
    test = dict(VOC, ann_file='test.txt', metainfo=dict(palette=[(1, 2, 3)] * 3))
    cfg = resolve(name, test=test, class_ids=(7, 9, 8), num_workers=0)
    base = read(config_file(name))
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        dataset = loader['dataset']
        assert dataset['ann_file'] == f'{split}.txt'
        assert dataset['type'] == 'VerifiedVOCDataset'
        assert 'data_prefix' not in dataset  # COCO's
        assert dataset['class_ids'] == (7, 9, 8)
        assert dataset['metainfo']['classes'] == CLASSES
        assert (loader['num_workers'], loader['persistent_workers']) == (0, False)
        own = base[f'{split}_dataloader']
        assert loader['sampler'] == own.sampler
        for key in ('filter_cfg', 'test_mode', 'batch_shapes_cfg'):
            assert dataset.get(key) == own.dataset.get(key)
    assert cfg['test_dataloader']['dataset']['metainfo']['palette']
    assert cfg['val_dataloader']['batch_size'] == base.val_dataloader.batch_size
    assert cfg['val_evaluator'] == cfg['test_evaluator']
    assert cfg['val_evaluator']['type'] == 'mmdet.VerifiedCocoMetric'
    assert cfg['val_evaluator']['ann_file'] is None


def test_without_a_test_split_val_is_tested():
    cfg = resolve('yolov5_nextvit_s')
    assert cfg['test_dataloader'] == cfg['val_dataloader']
    assert 'class_ids' not in cfg['val_dataloader']['dataset']


def test_numbers_by_name_follow_the_classes():
    ids = dict(person=0, dog=3, cat=1)
    for classes, numbers in ((('dog', 'person'), (3, 0)), (('cat',), (1,))):
        cfg = resolve('yolov5_nextvit_s', classes=classes, class_ids=ids)
        assert cfg['train_dataloader']['dataset']['class_ids'] == numbers
        assert cfg['class_ids'] == numbers


@pytest.mark.parametrize('name', YOLOV5)
def test_a_timm_backbone(name):
    cfg = resolve(name, model=dict(backbone=TIMM), **SETTINGS)
    tuned = dict(init_std=0.01) if name.endswith('smalldata') else {}
    wanted = {k: v for k, v in TIMM.items() if k != '_delete_'}
    assert cfg['model']['backbone'] == wanted | tuned
    assert cfg['model']['bbox_head']['head_module']['num_classes'] == 3


def test_what_the_file_says_itself_wins():
    own = dict(
        train_dataloader=dict(num_workers=3),
        default_hooks=dict(checkpoint=dict(interval=1)),
        optim_wrapper=dict(optimizer=dict(lr=0.5)),
        load_from='a.pth',
        custom_hooks=[dict(type='EmptyCacheHook')],
        unknown=dict(a=1),
    )
    cfg = resolve('yolov5_nextvit_s', **own, **SETTINGS)
    assert cfg['train_dataloader']['num_workers'] == 3
    assert cfg['train_dataloader']['batch_size'] == 4
    assert cfg['default_hooks']['checkpoint']['interval'] == 1
    assert cfg['default_hooks']['checkpoint']['save_best'] == 'auto'
    assert cfg['default_hooks']['param_scheduler']['max_epochs'] == 60
    assert cfg['optim_wrapper']['optimizer']['lr'] == 0.5
    assert cfg['load_from'] == 'a.pth'
    assert cfg['custom_hooks'] == [dict(type='EmptyCacheHook')]
    assert cfg['default_hooks']['ema']['type'] == 'StepEMAHook'  # it is kept
    assert 'unknown' not in cfg  # is the file's own business


def test_functions_and_modules_are_no_part_of_it():
    base = read(config_file('yolov5_nextvit_s'))._cfg_dict
    others = dict(load_from=lambda: 0, log_level=math, __builtins__={}, _base_=1)
    fitted = fit_recipe(base, {**DATA, **others})
    assert not others.keys() & fitted.keys()
    json.dumps(fitted)  # plain data


def test_it_is_there_before_torch_is():
    assert 'fit_recipe' in mmnextvit.__all__
    assert mmnextvit.fit_recipe.__module__ == 'mmnextvit.recipes'


@pytest.mark.parametrize(
    'key, value',
    [
        ('image_size', 400),
        ('image_size', 0),
        ('image_size', (640,)),
        ('image_size', (640, 500)),
        ('image_size', '640'),
        ('image_size', True),
        ('max_epochs', 0),
        ('max_epochs', 1.5),
        ('batch_size', '8'),
        ('num_workers', -1),
        ('num_images', None),
        ('classes', ()),
        ('classes', 'cat'),
        ('classes', ('cat', 'cat')),
        ('classes', (1, 2)),
        ('class_ids', (1, 2)),
        ('class_ids', dict(RBC=1, WBC=2, Platelet=3)),
        ('train', None),
        ('val', 'x'),
    ],
)
def test_settings_that_cannot_be(key, value):
    with pytest.raises(UserError) as error:
        resolve('yolov5_nextvit_s', **{key: value})
    assert error.value.key == key


@pytest.mark.parametrize('key', ['train', 'val', 'classes', 'num_images'])
def test_settings_that_are_missing(key):
    config = {k: v for k, v in DATA.items() if k != key}
    with pytest.raises(UserError, match=f'^{key}: '):
        fit_recipe(read(config_file('yolov5_nextvit_s')), config)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['mask_rcnn_nextvit_s_fpn_1x_coco', 'retinanet_nextvit_s_fpn_1x_coco']
)
def test_other_recipes_are_refused(name):
    with pytest.raises(UserError, match='^_base_: .* has no img_scale'):
        resolve(name)


# In a config file

TEXT = """
_base_ = __import__('mmnextvit').config_file('yolov5_nextvit_s')

def double(x):
    return 2 * x

data_root = '/data/cells/'
classes = ('RBC', 'WBC', 'Platelets')
num_images = 214
image_size = 640  # so
max_epochs = 50
batch_size = 8

train = dict(type='VerifiedVOCDataset', data_root=data_root, ann_file='train.txt')
val = dict(type='VerifiedVOCDataset', data_root=data_root, ann_file='val.txt')
globals().update(__import__('mmnextvit').fit_recipe(_base_, globals()))
"""


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / 'my.py'
    path.write_text(TEXT)
    return path


def numbers(cfg: Config) -> dict:
    """What a setting reaches at its farthest."""
    pipeline = cfg.train_dataloader.dataset.pipeline
    return dict(
        size=pipeline[2].img_scale[0],
        border=pipeline[3].border[0],
        shapes=cfg.val_dataloader.dataset.batch_shapes_cfg.img_size,
        epochs=cfg.default_hooks.param_scheduler.max_epochs,
        warm_up=cfg.default_hooks.param_scheduler.warmup_mim_iter,
        batch=cfg.optim_wrapper.optimizer.batch_size_per_gpu,
        classes=cfg.model.bbox_head.head_module.num_classes,
        names=tuple(cfg.train_dataloader.dataset.metainfo.classes),
    )


BEFORE = dict(
    size=640,
    border=-320,
    shapes=640,
    epochs=50,
    warm_up=135,  # of 27 batches in each of 50 epochs
    batch=8,
    classes=3,
    names=CLASSES,
)
CHANGES = [
    ('image_size', '416', dict(size=416, border=-208, shapes=416)),
    ('max_epochs', '10', dict(epochs=10, warm_up=27)),
    ('batch_size', '4', dict(batch=4, warm_up=270)),
    ('classes', "('a', 'b')", dict(classes=2, names=('a', 'b'))),
]


def test_the_file_resolves_as_the_function_says(config):
    cfg = Config.fromfile(config)
    wanted = resolve(
        'yolov5_nextvit_s', image_size=640, max_epochs=50, batch_size=8, num_images=214
    )
    own = ('data_root', 'train', 'val')
    assert {k: v for k, v in cfg.to_dict().items() if k not in own} == {
        k: v for k, v in wanted.items() if k not in own
    }
    assert numbers(cfg) == BEFORE
    assert not find_changes(cfg)


@pytest.mark.slow
@pytest.mark.parametrize('key, value, follows', CHANGES)
def test_one_line_changes(key, value, follows, config):
    text, count = re.subn(rf'^{key} = .*$', f'{key} = {value}', TEXT, flags=re.M)
    assert count == 1
    config.write_text(text)
    assert numbers(read_config(str(config))) == {**BEFORE, **follows}


ALL = dict(
    size=416,
    border=-208,
    shapes=416,
    epochs=10,
    warm_up=54,
    batch=4,
    classes=2,
    names=('a', 'b'),
)


def test_options_change_what_follows(config):
    options = {key: ast.literal_eval(value) for key, value, _ in CHANGES}
    assert numbers(read_config(str(config), options)) == ALL


def test_a_config_that_inherits_changes_what_follows(config):
    child = config.with_name('child.py')
    lines = [f'{key} = {value}\n' for key, value, _ in CHANGES]
    child.write_text(''.join(["_base_ = './my.py'\n", *lines]))
    assert numbers(read_config(str(child))) == ALL


def test_the_last_change_counts(config):
    """An option's before that of a config that inherits, and so on."""
    child = config.with_name('child.py')
    child.write_text("_base_ = './my.py'\nimage_size = 416\nmax_epochs = 10\n")
    grandchild = config.with_name('grandchild.py')
    grandchild.write_text("_base_ = './child.py'\nimage_size = 352\n")
    options = dict(image_size=320, batch_size=4, data_root='/other/')
    cfg = read_config(str(grandchild), options)
    size = dict(size=320, border=-160, shapes=320)
    assert numbers(cfg) == {**BEFORE, **size, 'epochs': 10, 'warm_up': 54, 'batch': 4}
    assert cfg.train_dataloader.dataset.data_root == '/other/'
    assert not find_changes(cfg)


def test_options_of_single_values_stay_as_they_are(config):
    cfg = read_config(str(config), {'image_size': 416, 'train_cfg.max_epochs': 3})
    assert cfg.train_cfg.max_epochs == 3
    assert numbers(cfg) == {**BEFORE, **CHANGES[0][2]}


def test_options_that_nothing_follows(config):
    plain = config_file('yolov5_nextvit_s')
    dumped = config.with_name('dumped.json')
    Config.fromfile(config).dump(dumped)
    assert numbers(read_config(str(dumped))) == BEFORE
    for path, options in (
        (plain, dict(image_size=320)),
        (config_file('faster_rcnn_nextvit_s_fpn_1x_coco'), dict(max_epochs=10)),
        (str(dumped), dict(classes=['a'])),
    ):
        with pytest.raises(UserError, match='nothing in this config follows') as error:
            read_config(path, options)
        assert (error.value.file, error.value.key) == (path, *options)


# In any config

# What --imgsz 416, --epochs 6 and --batch 4 make of configs that call no fit_recipe.
WHOLE = {
    'yolov5_nextvit_s_bccd': dict(
        sizes={(416, 416)},
        epochs=6,
        warm_up=(0.6, 40),  # of 3 and 100, in a fifth of the epochs of twice the steps
        lr=0.01,
        base=128,
    ),
    'yolov8_nextvit_s': dict(
        sizes={(416, 416)}, epochs=6, warm_up=(0.6, 48), lr=0.01, base=128
    ),
    'rtmdet_nextvit_s': dict(
        sizes={(832, 832), (416, 416)},  # before the crop, and after it
        epochs=6,
        lr=4e-3 / math.sqrt(8),
        eta_min=2e-4 / math.sqrt(8),
        base=32,
        end=160,  # of 1000
    ),
    'mask_rcnn_nextvit_s_fpn_1x_coco': dict(
        sizes={(416, 224)}, epochs=6, lr=1e-4 * math.sqrt(2), base=32, end=250
    ),
}


def read_scales(pipeline: list) -> set:
    keys = 'img_scale', 'scale', 'scales'
    found = {tuple(v) for t in pipeline for k, v in t.items() if k in keys}
    return {size for size in found if size != (0.1, 2.0)}


@pytest.mark.slow
@pytest.mark.parametrize('name', WHOLE)
def test_settings_of_any_config(name):
    wanted = WHOLE[name]
    path = config_file(name)
    settings = dict(image_size=416, max_epochs=6, batch_size=4)
    before, cfg = read_config(path), read_config(path, {}, settings)
    sizes = read_scales(cfg.train_dataloader.dataset.pipeline)
    assert sizes == wanted['sizes']
    shown = [t for t in cfg.test_dataloader.dataset.pipeline if 'scale' in t]
    assert {max(t['scale']) for t in shown} == {416}
    assert cfg.train_cfg.max_epochs == wanted['epochs']
    assert cfg.train_dataloader.batch_size == 4
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(wanted['lr'])
    assert cfg.auto_scale_lr.base_batch_size == wanted['base']
    schedule = cfg.default_hooks.param_scheduler
    if 'warm_up' in wanted:
        assert schedule.max_epochs == 6
        found = schedule.warmup_epochs, schedule.warmup_mim_iter
        assert found == pytest.approx(wanted['warm_up'])
    else:
        linear, main = cfg.param_scheduler
        assert (linear.end, main.end) == (wanted['end'], 6)
        assert main.get('eta_min', 0) == pytest.approx(wanted.get('eta_min', 0))
    if 'loss_obj' in cfg.model.get('bbox_head', {}):
        weights = [c.model.bbox_head.loss_obj.loss_weight for c in (cfg, before)]
        assert weights[0] / weights[1] == pytest.approx((416 / 320) ** 2)
    anchors = [dict(leaves(c.model.to_dict())) for c in (cfg, before)]
    for path, value in anchors[0].items():
        if path[-1] != 'loss_weight':
            assert anchors[1][path] == value
    assert read_config(config_file(name)).to_dict() == before.to_dict()


def test_settings_on_top_of_options():
    """What an option says of a single value is not changed with the rest."""
    path = config_file('yolov5_nextvit_s_bccd')
    options = {
        'train_cfg.val_interval': 3,
        'default_hooks.param_scheduler.warmup_epochs': 2,
    }
    cfg = read_config(path, options, dict(max_epochs=6))
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval) == (6, 3)
    assert cfg.default_hooks.param_scheduler.warmup_epochs == 2


def test_settings_of_a_recipe(config):
    """They are as options by the names of the settings; of a dumped one too."""
    settings = dict(image_size=416, max_epochs=10, batch_size=4)
    wanted = dict(ALL, classes=3, names=CLASSES)
    assert numbers(read_config(str(config), {}, settings)) == wanted
    dumped = config.with_name('dumped.json')
    Config.fromfile(config).dump(dumped)
    cfg = read_config(str(dumped), {}, settings)
    # A dumped one does not tell how many images bound the warm-up.
    assert numbers(cfg) == dict(wanted, warm_up=54)
    assert not find_changes(cfg)


@pytest.mark.parametrize(
    'name, settings, message',
    [
        (
            'yolov5_nextvit_s_demo',
            dict(image_size=64),
            'train pipeline resizes no image',
        ),
        ('yolov5_nextvit_s_bccd', dict(image_size=100), 'must be a multiple of 32'),
        ('retinanet_nextvit_s_fpn_1x_coco', dict(image_size=(640, 480)), 'longer side'),
    ],
)
def test_settings_that_no_config_can_follow(name, settings, message):
    with pytest.raises(UserError, match=f'image_size: .*{message}') as error:
        read_config(config_file(name), {}, settings)
    assert error.value.file == config_file(name)


@pytest.mark.parametrize(
    'changes, settings, key',
    [
        (dict(train_cfg=dict(max_iters=9)), dict(max_epochs=3), 'max_epochs'),
        (
            dict(train_dataloader=dict(batch_sampler=1)),
            dict(batch_size=3),
            'batch_size',
        ),
        (dict(test_dataloader=None), dict(image_size=32), 'image_size'),
    ],
)
def test_settings_without_what_they_set(changes, settings, key):
    cfg = {**read(config_file('yolov5_nextvit_s')).to_dict(), **changes}
    with pytest.raises(UserError) as error:
        refit(cfg, settings)
    assert error.value.key == key


def test_a_learning_rate_and_what_follows():
    for name in ('yolov5_nextvit_s', 'rtmdet_nextvit_s'):
        cfg = read_config(config_file(name), {}, {'optim_wrapper.optimizer.lr': 1e-3})
        assert cfg.optim_wrapper.optimizer.lr == 1e-3
        if name == 'yolov5_nextvit_s':  # YOLOv5's biases begin at ten times the rate
            schedule = cfg.default_hooks.param_scheduler
            assert schedule.warmup_bias_lr == pytest.approx(1e-2)
        else:
            linear, cosine = cfg.param_scheduler
            assert cosine.eta_min == pytest.approx(1e-3 / 20)
            assert linear.start_factor == 1e-5


def test_a_decay_that_begins_early_is_no_empty_one():
    cfg = read_config(config_file('yolov5_nextvit_s_demo'), {}, dict(max_epochs=2))
    for scheduler in cfg.param_scheduler:
        assert scheduler.get('begin', 0) < scheduler.end <= 2


def test_another_programs_runner_refuses_what_nothing_follows(config):
    """As MMDetection's own scripts read a config that inherits."""
    child = config.with_name('child.py')
    child.write_text("_base_ = './my.py'\nimage_size = 416\n")
    hook = DataReportHook()
    with pytest.raises(UserError, match='child.py: image_size: nothing in this config'):
        hook.before_run(SimpleNamespace(cfg=Config.fromfile(child)))
    hook.before_run(SimpleNamespace(cfg=read_config(str(child))))
    hook.before_run(SimpleNamespace(cfg={}))


def test_a_wrong_option_names_file_and_key(config):
    with pytest.raises(UserError, match=r'my\.py: image_size: 400 must be a multiple'):
        read_config(str(config), dict(image_size=400))
    config.write_text(TEXT.replace('max_epochs = 50', 'max_epochs = 0'))
    with pytest.raises(UserError, match=r'my\.py: max_epochs: 0 must be'):
        read_config(str(config))


def test_changes_end_with_the_block(config):
    with pytest.raises(KeyError), fitting(dict(image_size=416)):
        assert numbers(Config.fromfile(config))['size'] == 416
        raise KeyError
    assert numbers(Config.fromfile(config)) == BEFORE


@pytest.mark.slow
def test_trains_at_another_size(tmp_path, capfd):
    make_demo_data(tmp_path / 'data', train=4, val=2, size=64, seed=0)
    (tmp_path / 'my.py').write_text(
        f"""
_base_ = __import__('mmnextvit').config_file('yolov5_nextvit_s_smalldata')
data_root = 'data/'
classes = ('circle', 'square', 'triangle')
num_images = 4
num_workers = 0
image_size = 640
max_epochs = 100
batch_size = 8
model = dict(backbone=dict(arch={TINY}))
data = dict(type='VerifiedCocoDataset', data_root=data_root)
train = dict(
    data, ann_file='annotations/train.json', data_prefix=dict(img='train/')
)
val = dict(data, ann_file='annotations/val.json', data_prefix=dict(img='val/'))
default_hooks = dict(logger=dict(interval=1))
globals().update(__import__('mmnextvit').fit_recipe(_base_, globals()))
"""
    )
    options = ('image_size=64', 'max_epochs=1', 'batch_size=2')
    said = run_here(
        *('train', 'my.py', '--no-report', '--cfg-options', *options),
        cwd=tmp_path,
        capfd=capfd,
    )
    assert 'bbox_mAP' in said
    assert '[1][2/2]' in said.replace(' ', '')
    cfg = Config.fromfile(tmp_path / 'work_dirs' / 'my' / 'my.py')
    assert cfg.recipe.image_size == (64, 64)


# Channels


def list_steps(node: object) -> list[dict]:
    """All dicts with a type, at any depth."""
    if isinstance(node, dict):
        own = [node] if 'type' in node else []
        return own + [s for value in node.values() for s in list_steps(value)]
    if isinstance(node, (list, tuple)):
        return [s for value in node for s in list_steps(value)]
    return []


@pytest.mark.parametrize('name', PLAIN)
@pytest.mark.parametrize('channels', [1, 4])
def test_images_of_other_channels(name, channels):
    cfg = resolve(name, in_channels=channels)
    before = resolve(name)
    backbone, preprocessor = cfg['model']['backbone'], cfg['model']['data_preprocessor']
    assert backbone['in_channels'] == channels
    own = before['model']['data_preprocessor']['mean']
    wanted = [*own, sum(own) / 3] if channels == 4 else [sum(own) / 3]
    assert preprocessor['mean'] == pytest.approx(wanted)
    assert len(preprocessor['std']) == channels
    assert preprocessor['bgr_to_rgb'] == (
        channels == 4 and before['model']['data_preprocessor']['bgr_to_rgb']
    )
    color_type = {1: 'grayscale', 4: 'bgra'}[channels]
    for split in ('train', 'val', 'test'):
        steps = list_steps(cfg[f'{split}_dataloader'])
        loaders = [s for s in steps if s['type'].endswith(LOADERS)]
        assert loaders and {s['color_type'] for s in loaders} == {color_type}
        types = {s['type'].rpartition('.')[2] for s in steps}
        assert not types & {'YOLOv5HSVRandomAug', 'YOLOXHSVRandomAug', 'Albu'}
        assert ('Mosaic' in types) == (split == 'train' and channels == 1)
    assert cfg['recipe']['in_channels'] == channels
    assert resolve(name, in_channels=3)['model'] == before['model']
    again = refit(cfg, dict(in_channels=channels))
    assert {key: cfg[key] for key in again} == again  # it has all


def test_channels_of_timm_and_numbers_that_are_none():
    cfg = resolve('yolov5_nextvit_s', in_channels=1, model=dict(backbone=TIMM))
    backbone = cfg['model']['backbone']
    assert backbone['in_chans'] == 1 and 'in_channels' not in backbone
    for value in (2, 0, '1', 1.5):
        with pytest.raises(UserError, match='in_channels'):
            resolve('yolov5_nextvit_s', in_channels=value)
