"""The recipes for small data: each value stands once, and all that uses it follows."""

import copy
from collections import Counter
from functools import cache
from pathlib import Path

from mmnextvit import config_file, fit_recipe, tune_recipe
from mmnextvit.engine.configs import read_config
from mmnextvit.recipes import find_changes
from mmnextvit.tuning import BACKBONES, READERS, build_pipelines
from mmnextvit.utils.errors import UserError

import cv2
import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope

SCRATCH, IN1K = 'yolov5_nextvit_s_smalldata', 'yolov5_nextvit_s_smalldata_in1k'
DATA = dict(
    train=dict(type='VerifiedVOCDataset', data_root='/data/', ann_file='train.txt'),
    val=dict(type='VerifiedVOCDataset', data_root='/data/', ann_file='val.txt'),
    classes=('a', 'b'),
    num_images=200,
)
TIMM = dict(_delete_=True, type='mmdet.TimmFeatures', model_name='resnet18')
# A value of each that no recipe has, and where it stands in a config.
AFFINE = 'train_dataloader.dataset.pipeline.4'
HSV = 'train_dataloader.dataset.pipeline.5'
PLACES = {
    'lr': (7e-4, ['optim_wrapper.optimizer.lr']),
    'weight_decay': (0.07, ['optim_wrapper.optimizer.weight_decay']),
    'backbone_lr_mult': (0.7, ['optim_wrapper.paramwise_cfg.backbone_lr_mult']),
    'lr_factor': (0.07, ['default_hooks.param_scheduler.lr_factor']),
    'warmup_epochs': (7.0, ['default_hooks.param_scheduler.warmup_epochs']),
    'frozen_stages': (2, ['model.backbone.frozen_stages']),
    'norm_eval': (True, ['model.backbone.norm_eval']),
    'drop_path_rate': (0.07, ['model.backbone.drop_path_rate']),
    'norm_momentum': (0.07, ['model.backbone.norm_cfg.momentum']),
    'ema_steps': (70, ['default_hooks.ema.gamma']),
    'scale_range': ((0.7, 1.7), [f'{AFFINE}.scaling_ratio_range']),
    'degrees': (7.0, [f'{AFFINE}.max_rotate_degree']),
    'shear': (7.0, [f'{AFFINE}.max_shear_degree']),
    'translate': (0.7, [f'{AFFINE}.max_translate_ratio']),
    'flip': (0.7, ['train_dataloader.dataset.pipeline.6.prob']),
    'prior_match_thr': (7.0, ['model.bbox_head.prior_match_thr']),
    'box_weight': (0.07, ['model.bbox_head.loss_bbox.loss_weight']),
}
USUAL = BACKBONES['mmdet.NextViT']
MIXED = {'mosaic', 'mixup', 'plain_epochs', 'hsv'}  # which are tested below


@cache
def read(name: str) -> Config:
    return Config.fromfile(config_file(name))


def fit(name: str = IN1K, **config: object) -> Config:
    """A config that inherits from one of ours and calls fit_recipe."""
    base = copy.deepcopy(read(name)._cfg_dict)
    changed = fit_recipe(base, {**DATA, **config})
    return Config(Config._merge_a_into_b(changed, base))


def find(cfg: Config, path: str) -> object:
    node = cfg
    for key in path.split('.'):
        node = node[int(key) if key.isdigit() else key]
    return node


def show_last_epochs(cfg: Config) -> Config:
    """A config with the transforms of its last epochs, which have no mosaics."""
    last = copy.deepcopy(cfg)
    switch = last.default_hooks.get('pipeline_switch')
    if switch is not None:
        last.train_dataloader.dataset.pipeline = switch.switch_pipeline
    return last


def list_kinds(cfg: Config) -> list[str]:
    return [step['type'] for step in cfg.train_dataloader.dataset.pipeline]


@pytest.mark.parametrize('name, member', [(SCRATCH, 'scratch'), (IN1K, 'pretrained')])
def test_configs_have_the_values_of_the_family(name, member):
    cfg = read(name)
    family = Config.fromfile(Path(config_file(name)).parent / '_base_/smalldata.py')
    recipe = family[member]
    assert cfg.tuning == recipe.tuning
    assert cfg.tuning.keys() == READERS.keys() == PLACES.keys() | MIXED | {'init_std'}
    assert cfg.train_cfg.max_epochs == cfg.max_epochs == recipe.max_epochs
    assert cfg.train_dataloader.batch_size == recipe.batch_size
    assert cfg.auto_scale_lr.base_batch_size == recipe.batch_size
    assert cfg.img_scale == (recipe.image_size,) * 2
    last = show_last_epochs(cfg)
    for key, (_, paths) in PLACES.items():
        for path in paths:
            expected = recipe.tuning[key]
            if expected == USUAL.get(key):  # no backbone is told what it does anyway
                assert path.rpartition('.')[2] not in cfg.model.backbone, path
            else:
                assert find(last, path) == expected, path
    assert '_delete_' not in cfg.tuning
    assert cfg.param_scheduler is None
    mixed = 0 < recipe.tuning.mosaic < 1
    assert ('RandomChoice' in list_kinds(cfg)) == mixed
    assert ('pipeline_switch' in cfg.default_hooks) == mixed
    assert 'Mosaic' not in list_kinds(cfg)


def test_a_changed_value_is_followed_by_all(tmp_path):
    """In the one place where it stands, by configs and by what inherits from them."""
    values = {key: value for key, (value, _) in PLACES.items()}
    base = copy.deepcopy(read('yolov5_nextvit_s_in1k')._cfg_dict)
    member = dict(tuning={**read(IN1K).tuning, **values}, image_size=416, max_epochs=50)
    tuned = Config(Config._merge_a_into_b(tune_recipe(base, member), base))
    assert (tuned.img_scale, tuned.max_epochs) == ((416, 416), 50)
    # a warm-up is a tenth of a training at most
    for cfg in (tuned, fit(tuning=values, max_epochs=100)):
        last = show_last_epochs(cfg)
        for value, paths in PLACES.values():
            assert [find(last, path) for path in paths] == [value] * len(paths), paths
        mosaics, whole = cfg.train_dataloader.dataset.pipeline[2].transforms
        for affine in (mosaics[-1], whole[-1]):
            assert affine.scaling_ratio_range == PLACES['scale_range'][0]
        assert cfg.default_hooks.ema.momentum == pytest.approx(1 / 70)
        assert cfg.model.data_preprocessor == read(IN1K).model.data_preprocessor
        assert cfg.model.backbone.init_cfg == read(IN1K).model.backbone.init_cfg


def test_sizes_and_data_stay_where_a_recipe_names_none():
    cells, data = read(f'{SCRATCH}_bccd'), read('yolov5_nextvit_s_bccd')
    assert cells.tuning == read(SCRATCH).tuning
    assert (cells.img_scale, cells.max_epochs) == (data.img_scale, data.max_epochs)
    assert cells.val_dataloader == data.val_dataloader


@pytest.mark.parametrize('name', ['resnet18', 'tf_efficientnet_lite0'])
def test_timm_backbones_are_frozen_as_nextvit_is(name):
    values = dict(frozen_stages=1, norm_eval=True)
    timm = fit(model=dict(backbone=dict(TIMM, model_name=name)), tuning=values)
    nextvit = fit(tuning=values)
    for backbone in (timm.model.backbone, nextvit.model.backbone):
        assert {key: backbone[key] for key in values} == values
    assert timm.model.backbone.type == 'mmdet.TimmFeatures'
    assert 'drop_path_rate' not in timm.model.backbone  # not every timm model takes it
    assert timm.optim_wrapper == nextvit.optim_wrapper
    assert timm.default_hooks == nextvit.default_hooks


def test_timm_backbones_start_with_small_weights_where_nothing_is_pretrained():
    for backbone, name, std in [
        (TIMM, SCRATCH, 0.01),
        (TIMM, IN1K, None),
        ({}, SCRATCH, None),
    ]:
        cfg = fit(name, model=dict(backbone=backbone))
        assert cfg.model.backbone.get('init_std') == std
    cfg = fit(IN1K, model=dict(backbone=TIMM), tuning=dict(init_std=0.07))
    assert cfg.model.backbone.init_std == 0.07
    cfg = fit(SCRATCH, model=dict(backbone=TIMM), tuning=dict(init_std=None))
    assert 'init_std' not in cfg.model.backbone


def test_what_a_config_says_of_its_backbone_stays():
    own = dict(backbone=dict(TIMM, frozen_stages=3))
    backbone = fit(model=own, tuning=dict(frozen_stages=1)).model.backbone
    assert backbone.frozen_stages == 3 and 'norm_eval' not in backbone
    others = dict(_delete_=True, type='PlainNet')  # which knows no such argument
    backbone = fit(model=dict(backbone=others)).model.backbone
    assert backbone == dict(type='PlainNet')


@pytest.mark.parametrize('member', ['scratch', 'pretrained', 'detector'])
def test_a_recipe_is_chosen_by_its_name(member):
    cfg = fit(SCRATCH, tuning=member)
    assert cfg.tuning == cfg[member].tuning == cfg.recipe.tuning
    assert cfg.optim_wrapper.optimizer.lr == cfg[member].tuning.lr
    mult = cfg.optim_wrapper.paramwise_cfg.backbone_lr_mult
    assert mult == cfg[member].tuning.backbone_lr_mult


@pytest.mark.parametrize('name', [SCRATCH, IN1K])
def test_mosaics_end_before_the_last_epochs(name):
    cfg = fit(name, tuning=dict(mosaic=1.0, plain_epochs=10), image_size=320)
    kinds = list_kinds(cfg)
    assert kinds[2:4] == ['Mosaic', 'YOLOv5RandomAffine']
    mosaic, affine = cfg.train_dataloader.dataset.pipeline[2:4]
    assert (mosaic.img_scale, affine.border) == ((320, 320), (-160, -160))
    switch = cfg.default_hooks.pipeline_switch
    assert switch.switch_epoch == 90
    assert [step['type'] for step in switch.switch_pipeline] == list_kinds(
        fit(name, tuning=dict(mosaic=0.0))
    )
    short = fit(name, tuning=dict(mosaic=1.0, plain_epochs=10), max_epochs=20)
    assert short.default_hooks.pipeline_switch.switch_epoch == 15
    never = fit(name, tuning=dict(mosaic=1.0, plain_epochs=0))
    assert 'pipeline_switch' not in never.default_hooks


class Images:
    """Images with one box each, as a dataset gives them to mosaics."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 7

    def get_data_info(self, index: int) -> dict:
        box = dict(bbox=[40, 40, 160, 160], bbox_label=index % 2, ignore_flag=0)
        info = dict(img_path=str(self.path), img_id=index, height=200, width=200)
        return dict(info, instances=[box], dataset=self)


@pytest.mark.parametrize(
    'values, most',
    [(dict(mosaic=0.0), 1), (dict(mosaic=1.0), 4), (dict(mosaic=0.5, mixup=0.5), 8)],
    ids=['whole', 'mosaics', 'both'],
)
def test_images_are_put_together_as_often_as_is_said(values, most, tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), np.full((200, 200, 3), 99, np.uint8))
    init_default_scope('mmyolo')
    np.random.seed(0)
    images = Images(tmp_path / 'x.png')
    steps = fit(tuning=values, image_size=96).train_dataloader.dataset.pipeline
    transform = Compose(steps)
    numbers = Counter()
    for index in range(60):
        sample = transform(images.get_data_info(index % 7))
        assert sample['inputs'].shape == (3, 96, 96)
        numbers[len(sample['data_samples'].gt_instances)] += 1
    assert max(numbers) <= most
    if most == 1:
        assert numbers[1] >= 55
    else:
        assert max(numbers) > most // 2


def test_shares_are_those_that_are_said():
    values = dict(read(SCRATCH).tuning, mosaic=0.25, mixup=0.125)
    train, last = build_pipelines([], [], {}, (64, 64), values)
    assert train[0]['prob'] == [0.25, 0.75]
    assert [steps[0]['type'] for steps in train[0]['transforms']] == [
        'Mosaic',
        'YOLOv5RandomAffine',
    ]
    assert (train[1]['type'], train[1]['prob']) == ('YOLOv5MixUp', 0.125)
    assert [step.get('type') for step in last][0] == 'YOLOv5RandomAffine'


def test_colours_change_by_what_is_said():
    step = find(fit(tuning=dict(hsv=(0.1, 0.2, 0.3), mosaic=0.0)), HSV)
    deltas = [step[f'{name}_delta'] for name in ('hue', 'saturation', 'value')]
    assert deltas == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    'tuning, key, message',
    [
        ('nothing', 'tuning', 'no recipe for small data: there are scratch, pretr'),
        ('scratsh', 'tuning', 'did you mean scratch'),
        (7, 'tuning', r'must be values of the recipe, as in dict\(mosaic=1.0\)'),
        (dict(mosai=1), 'tuning', "no value 'mosai': did you mean mosaic"),
        (dict(lr='x'), 'tuning.lr', 'must be a number from'),
        (dict(lr=True), 'tuning.lr', 'must be a number from'),
        (dict(mosaic=1.5), 'tuning.mosaic', 'from 0 to 1'),
        (dict(frozen_stages=-2), 'tuning.frozen_stages', 'whole number from -1 on'),
        (dict(norm_eval=1), 'tuning.norm_eval', 'must be True or False'),
        (dict(init_std=0), 'tuning.init_std', 'must be a number from 1e-06 to 1'),
        (dict(hsv=(1, 1)), 'tuning.hsv', 'must be 3 numbers'),
        (dict(scale_range=(2, 1)), 'tuning.scale_range', 'the least and then the grea'),
    ],
)
def test_what_cannot_be_a_value(tuning, key, message):
    with pytest.raises(UserError, match=message) as error:
        fit(SCRATCH, tuning=tuning)
    assert error.value.key == key


def test_recipes_without_such_values_name_those_with_them():
    with pytest.raises(UserError, match='yolov5_nextvit_s_smalldata'):
        fit('yolov5_nextvit_s', tuning=dict(mosaic=1.0))
    tuning = dict(read(SCRATCH).tuning)
    with pytest.raises(UserError, match="only recipes of YOLOv5's"):
        tune_recipe(read('yolov8_nextvit_s'), dict(tuning=tuning))
    del tuning['flip']
    with pytest.raises(UserError, match='it has no flip'):
        tune_recipe(read('yolov5_nextvit_s'), dict(tuning=tuning))


def test_the_command_line_changes_values(tmp_path):
    """Of a config that calls fit_recipe by their name, of ours where they stand."""
    config = tmp_path / 'my.py'
    data = ''.join(f'{key} = {value!r}\n' for key, value in DATA.items())
    config.write_text(
        f"_base_ = __import__('mmnextvit').config_file('{IN1K}')\n{data}"
        "globals().update(__import__('mmnextvit').fit_recipe(_base_, globals()))\n"
    )
    changed = {'tuning.mosaic': 1.0, 'tuning.lr': 5e-4}
    of_ours = {f'pretrained.{key}': value for key, value in changed.items()}
    for cfg in (
        read_config(str(config), changed),
        read_config(str(config), dict(tuning=dict(mosaic=1.0, lr=5e-4))),
        read_config(config_file(IN1K), of_ours),
    ):
        assert list_kinds(cfg)[2] == 'Mosaic'
        assert cfg.optim_wrapper.optimizer.lr == 5e-4
        assert find_changes(cfg) == {}
    named = read_config(str(config), dict(tuning='scratch'))
    assert 'RandomChoice' not in list_kinds(named)  # as no image is in a mosaic
    with pytest.raises(UserError, match='tuning.lr'):
        read_config(str(config), {'tuning.lr': 'fast'})
