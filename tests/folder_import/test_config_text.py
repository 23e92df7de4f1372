"""The config of a folder: what is chosen for it, and a text that is data, not code."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath

from mmnextvit import config_file
from mmnextvit.datasets.samples import Sample
from mmnextvit.folder_import import config_text
from mmnextvit.folder_import.config_text import Choice, Plan, choose, format_text
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest
from mmengine.config import Config

from tests.conftest import ROOT

ROOT_OF_DATA = PurePosixPath('/data/cells')
HERE = PurePosixPath('/home/me/configs')
LAST = "globals().update(__import__('mmnextvit').fit_recipe(_base_, globals()))"
CLASSES = ('RBC', 'WBC', 'Platelets')


def images(count: int, size=(1024, 768), box=(40, 40)) -> list[Sample]:
    boxes = np.array([[10, 10, 10 + box[0], 10 + box[1]]], float)
    return [Sample(f'{n}.jpg', size, boxes, np.array([0])) for n in range(count)]


def coco(root: str = '/data/cells', splits=('train', 'val', 'test')) -> dict:
    return {
        split: dict(
            type='VerifiedCocoDataset',
            data_root=root,
            ann_file=f'{root}/{split}/_annotations.coco.json',
            data_prefix=dict(img=f'{root}/{split}/'),
        )
        for split in splits
    }


VOC = dict(
    type='VerifiedVOCDataset', data_root='/data/cells', ann_file='/data/cells/xml/'
)
VOC_SPLIT = {
    split: dict(VOC, image_list=f'/home/me/configs/my_{split}.txt')
    for split in ('train', 'val')
}


def write(plan: Plan | None = None, **changes) -> str:
    arguments = dict(
        title='Pascal VOC in /data/cells, by mmnextvit new',
        datasets=VOC_SPLIT,
        classes=CLASSES,
        num_images=214,
        data_root=ROOT_OF_DATA,
        config_folder=HERE,
    )
    return format_text(plan or choose('s', images(214)), **{**arguments, **changes})


def evaluate(text: str, folder: object = HERE) -> dict:
    """What a text assigns before it calls fit_recipe, as MMEngine reads it there."""
    *lines, last = text.splitlines()
    assert (
        last
        == "globals().update(__import__('mmnextvit').fit_recipe(_base_, globals()))"
    )
    variables: dict = {}
    body = '\n'.join(lines).replace('{{ fileDirname }}', str(folder))
    exec(compile(body, 'my.py', 'exec'), variables)
    return variables


# What is chosen


@pytest.mark.slow
@pytest.mark.parametrize(
    'model, count, weights, whole, base, epochs, batch',
    [
        ('s', 214, None, False, 'yolov5_nextvit_s_smalldata', 100, 8),
        ('b', 214, None, False, 'yolov5_nextvit_s_smalldata', 100, 8),
        ('s', 100, None, False, 'yolov5_nextvit_s_smalldata', 200, 8),
        ('s', 5, None, False, 'yolov5_nextvit_s_smalldata', 300, 8),
        ('s', 1999, None, False, 'yolov5_nextvit_s_smalldata', 100, 8),
        ('s', 2000, None, False, 'yolov5_nextvit_s', 300, 16),
        ('l', 9000, None, False, 'yolov5_nextvit_l', 300, 16),
        ('s', 214, 'timm://x', False, 'yolov5_nextvit_s_smalldata_in1k', 100, 8),
        ('l', 100, 'timm://x', False, 'yolov5_nextvit_l_smalldata_in1k', 200, 8),
        ('s', 2000, 'timm://x', False, 'yolov5_nextvit_s_in1k', 100, 16),
        ('b', 9000, 'timm://x', False, 'yolov5_nextvit_b_in1k', 100, 16),
        ('l', 214, '/x.pth', True, 'yolov5_nextvit_s_smalldata', 100, 8),
        ('timm:resnet18', 214, None, False, 'yolov5_nextvit_s_smalldata', 100, 8),
        (
            'timm:resnet18',
            214,
            'timm://resnet18',
            False,
            'yolov5_nextvit_s_smalldata_in1k',
            100,
            8,
        ),
        ('yolov8', 214, None, False, 'yolov8_nextvit_s', 100, 8),
        ('yolov8', 9000, None, False, 'yolov8_nextvit_s', 500, 16),
        ('rtmdet', 214, None, False, 'rtmdet_nextvit_s', 100, 8),
        ('rtmdet', 9000, 'timm://x', False, 'rtmdet_nextvit_s', 300, 32),
    ],
)
def test_the_recipe_suits_images_and_weights(
    model, count, weights, whole, base, epochs, batch
):
    plan = choose(model, images(count), weights=weights, whole_detector=whole)
    assert (plan.base.value, plan.max_epochs.value) == (base, epochs)
    assert plan.batch_size.value == batch
    assert Path(config_file(plan.base.value)).is_file()
    assert f'{count:,} training images' in plan.base.reason
    assert ('no pretrained weights' in plan.base.reason) == (weights is None)
    steps = -(-count // batch) * epochs
    assert f'{steps:,} batches' in plan.max_epochs.reason
    assert plan.load_from == (weights if whole else None)
    assert plan.tuning == ('detector' if whole else None)


@pytest.mark.slow
def test_numbers_are_those_of_the_family(monkeypatch):
    """Each of them stands once, in configs/_base_/smalldata.py, and new follows it."""
    family = copy.deepcopy(config_text.read_family())
    family['few_images'] = 300
    family['pretrained'].update(
        batch_size=4, image_size=416, max_epochs=50, least_steps=40, most_epochs=70
    )
    monkeypatch.setattr(config_text, 'read_family', lambda: family)
    plan = choose('timm:resnet18', images(299), weights='timm://x')
    numbers = plan.image_size.value, plan.max_epochs.value, plan.batch_size.value
    assert numbers == (416, 50, 4)
    family['pretrained']['least_steps'] = 10**6
    assert choose('s', images(9), weights='timm://x').max_epochs.value == 70
    assert choose('s', images(299)).batch_size.value == 8
    larger = choose('s', images(300), weights='timm://x')
    assert larger.base.value == 'yolov5_nextvit_s_in1k'


PRETRAINED = dict(type='Pretrained', checkpoint='timm://x')


@pytest.mark.slow
@pytest.mark.parametrize(
    'model, count, weights, changes',
    [
        ('s', 214, None, {}),
        ('b', 214, None, dict(backbone=dict(arch='base'))),
        ('b', 9000, None, {}),
        ('s', 214, 'timm://x', dict(backbone=dict(init_cfg=PRETRAINED))),
        ('rtmdet', 9000, None, dict(backbone=dict(init_cfg=None))),
        ('rtmdet', 9000, 'timm://x', dict(backbone=dict(init_cfg=PRETRAINED))),
        ('yolov8', 9000, None, {}),
        (
            'timm:resnet18',
            9000,
            None,
            dict(
                backbone=dict(
                    _delete_=True, type='mmdet.TimmFeatures', model_name='resnet18'
                )
            ),
        ),
    ],
)
def test_the_model_has_what_the_base_has_not(model, count, weights, changes):
    normalisation = dict(mean=[1.0], std=[2.0])
    plan = choose(model, images(count), weights=weights, normalisation=normalisation)
    assert plan.model == changes


def test_pretrained_backbones_have_their_normalisation():
    own = dict(mean=[127.5] * 3, std=[127.5] * 3)
    plan = choose('timm:vit', images(9), weights='timm://x', normalisation=own)
    assert plan.model['data_preprocessor'] == own
    assert plan.model['backbone']['init_cfg'] == PRETRAINED
    in1k = Config.fromfile(config_file('yolov5_nextvit_s_in1k')).model
    plan = choose('yolov8', images(9), weights='timm://x')
    for key in ('mean', 'std'):
        assert plan.model['data_preprocessor'][key] == in1k.data_preprocessor[key]
    norm = dict(type='BN', **plan.model['backbone']['norm_cfg'])
    assert norm == in1k.backbone.norm_cfg


@pytest.mark.parametrize(
    'size, box, wanted, chosen, reason',
    [
        ((1024, 768), (40, 40), None, 640, 'the longer sides are 1024 pixels'),
        ((640, 480), (40, 40), None, 640, 'the longer sides are 640 pixels'),
        ((400, 300), (40, 40), None, 416, 'the longer sides are 400 pixels'),
        ((28, 28), (10, 10), None, 320, 'the longer sides are 28 pixels'),
        ((2000, 1500), (20, 20), None, 800, 'under 8 pixels a side at 640'),
        ((900, 900), (2, 2), None, 896, 'under 8 pixels a side at 640'),
        ((4000, 3000), (9, 9), None, 1280, 'under 8 pixels a side at 640'),
        ((1024, 768), (2, 2), 320, 320, 'as asked for'),
        ((1024, 768), (2, 2), (1280, 736), (1280, 736), 'as asked for'),
    ],
)
def test_the_image_size_suits_images_and_boxes(size, box, wanted, chosen, reason):
    plan = choose('s', images(9, size, box), image_size=wanted)
    assert plan.image_size.value == chosen
    assert reason in plan.image_size.reason


@pytest.mark.parametrize('size, batch', [(640, 16), (320, 16), (960, 4), (1280, 4)])
def test_the_batch_suits_the_memory(size, batch):
    plan = choose('s', images(2000), image_size=size)
    assert plan.batch_size.value == batch
    small = choose('s', images(20), image_size=size)
    assert small.batch_size.value == max(batch // 2, 2)


def test_images_without_boxes_and_none():
    empty = [Sample('a.jpg', (900, 900), np.zeros((0, 4)), np.zeros(0, int))]
    assert choose('s', empty).image_size.value == 640
    assert choose('s', []).max_epochs.value == 300


@pytest.mark.parametrize(
    'model, hint',
    [
        ('yolo8', 'did you mean yolov8'),
        ('77', 'there are s'),
        ('timm:', 'timm:NAME'),
    ],
)
def test_unknown_models(model, hint):
    with pytest.raises(UserError, match=rf'--model .*{hint}'):
        choose(model, images(9))


def test_an_image_size_that_cannot_be():
    with pytest.raises(UserError, match='--imgsz: 500 must be a multiple of 32 pixels'):
        choose('s', images(9), image_size=500)


# The text


def test_the_text_of_a_split_that_was_made():
    assert (
        write(class_ids=(3, 1, 2))
        == """\
# Pascal VOC in /data/cells, by mmnextvit new
# 214 training images, no pretrained weights: the recipe for small data
_base_ = __import__('mmnextvit').config_file('yolov5_nextvit_s_smalldata')

data_root = '/data/cells/'
here = '{{ fileDirname }}/'
classes = ('RBC', 'WBC', 'Platelets')
class_ids = dict(RBC=3, WBC=1, Platelets=2)  # their numbers in the annotations
num_images = 214  # to train with
image_size = 640  # the longer sides are 1024 pixels
max_epochs = 100  # 2,700 batches
batch_size = 8  # as in the recipe for small data

data = dict(type='VerifiedVOCDataset', data_root=data_root, ann_file='xml/')
train = dict(data, image_list=here + 'my_train.txt')
val = dict(data, image_list=here + 'my_val.txt')

# What follows: pipelines, loss weights, schedule, warm-up, hooks
globals().update(__import__('mmnextvit').fit_recipe(_base_, globals()))
"""
    )


PLANS = {
    'small': choose('s', images(214)),
    'detector': choose('l', images(214), weights='/w/best.pt', whole_detector=True),
    'timm': choose(
        'timm:convnext_tiny',
        images(214),
        weights='timm://convnext_tiny.fb_in1k',
        normalisation=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    ),
    'yolov8': choose('yolov8', images(9000), weights='/w/backbone.pth'),
    'rtmdet': choose('rtmdet', images(9000)),
}


@pytest.mark.parametrize('plan', PLANS.values(), ids=PLANS)
@pytest.mark.parametrize('splits', [1, 300], ids=['few', 'many'])
def test_it_has_25_lines_and_all_values(plan, splits):
    classes = tuple(f'class number {n}' for n in range(3 * splits))
    ids = range(7, 7 + 3 * splits)
    text = write(plan, datasets=coco(), classes=classes, class_ids=ids)
    assert len(text.splitlines()) <= 25
    values = evaluate(text)
    assert values['classes'] == classes
    assert values['class_ids'] == dict(zip(classes, ids))
    assert values['num_images'] == 214
    for name in ('image_size', 'max_epochs', 'batch_size'):
        assert values[name] == getattr(plan, name).value
        assert f'{name} = {getattr(plan, name).value}  # ' in text
    assert values.get('model', {}) == plan.model
    assert values.get('load_from') == plan.load_from
    assert 'here' not in values
    for split, dataset in coco().items():
        ours = values[split]
        assert ours['type'] == dataset['type']
        root = ours['data_root']
        assert os.path.join(root, ours['ann_file']) == dataset['ann_file']
        joined = os.path.join(root, ours['data_prefix']['img'])
        assert joined == dataset['data_prefix']['img']


def name_all_weights() -> dict[str, Plan]:
    """Plans for each kind of weights, with long names."""
    lite = 'timm:tf_efficientnet_lite0'
    path = '/home/somebody/projects/cells/weights/tf_efficientnet_lite0.safetensors'
    own = dict(mean=[127.5] * 3, std=[127.5] * 3)
    imagenet = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    return {
        **PLANS,
        'lite': choose(lite, images(214), weights=path, normalisation=own),
        'many': choose(lite, images(2140), weights=path, normalisation=own),
        'mask r-cnn': choose(
            's', images(214), weights=path, backbone=dict(final_norm=False)
        ),
        'fine-tuned': choose(
            'l',
            images(214),
            weights=path,
            whole_detector=True,
            normalisation=imagenet,
            backbone=dict(norm_cfg=dict(eps=1e-5)),
        ),
    }


def test_no_line_is_wider_than_88_columns():
    for plan in name_all_weights().values():
        classes = tuple(f'class number {n}' for n in range(3))
        text = write(plan, datasets=coco(), classes=classes, class_ids=range(7, 10))
        assert max(map(len, text.splitlines())) <= 88, text
        assert len(text.splitlines()) <= 32
        values = evaluate(text)
        assert values.get('model', {}) == plan.model
        assert values.get('tuning') == plan.tuning


@pytest.mark.slow
def test_it_is_formatted_as_by_ruff(tmp_path):
    for name in PLANS:
        (tmp_path / f'{name}.py').write_text(write(PLANS[name]))
    subprocess.run(
        [sys.executable, '-m', 'ruff', 'format', '--check', '--quiet']
        + ['--config', str(ROOT / 'pyproject.toml'), str(tmp_path)],
        check=True,
    )


HOSTILE = [
    """a'b"c\n\\""" + "') + __import__('os').system('touch pwned') + ('",
    '{{ fileDirname }}',
    '{{$HOME:x}}',
    '{{{ _base_.model }}}}',
    "'''",
    '#',
    'type',
    '_delete_',
    'ﬁ',
    'плошка',
    '赤血球',
    '\u202e\0\u2028\x1b[2J',
    '\udc80',
]


def test_names_and_paths_are_never_code(tmp_path, monkeypatch):
    """MMEngine replaces some braces in a config's text, and reads the rest as code."""
    monkeypatch.chdir(tmp_path)
    root = f'/data/it\'s {HOSTILE[1]}\n"{HOSTILE[2]}'
    datasets = coco(root, ('train', 'val'))
    datasets['train']['data_prefix'] = dict(img=f'{root}/{HOSTILE[0]}')
    datasets['val']['image_list'] = str(tmp_path / HOSTILE[3])
    plan = choose('timm:' + HOSTILE[2], images(9), weights=HOSTILE[0])
    text = write(
        plan,
        title='\n'.join(HOSTILE),
        datasets=datasets,
        classes=HOSTILE,
        class_ids=range(len(HOSTILE)),
        data_root=PurePosixPath(root),
        config_folder=tmp_path,
    )
    assert len(text.splitlines()) <= 25
    (tmp_path / 'my.py').write_text(text, encoding='utf-8')
    cfg = Config.fromfile(tmp_path / 'my.py')
    assert list(tmp_path.iterdir()) == [tmp_path / 'my.py']
    assert list(cfg.recipe.classes) == HOSTILE
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert train.class_ids == tuple(range(len(HOSTILE)))
    assert train.data_root == f'{root}/'
    assert train.data_prefix.img == HOSTILE[0]
    assert val.image_list == str(tmp_path / HOSTILE[3])
    assert cfg.model.backbone.model_name == HOSTILE[2]
    assert cfg.model.backbone.init_cfg.checkpoint == HOSTILE[0]


@pytest.mark.slow
@pytest.mark.parametrize('name', ["it's", 'a"b', 'a\\b', 'a\nb', '{{ x }}', 'ö 空'])
def test_lists_beside_a_config_in_any_folder(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    datasets = {
        split: dict(VOC, image_list=str(folder / f'{split}.txt'))
        for split in ('train', 'val')
    }
    text = write(datasets=datasets, config_folder=folder)
    (folder / 'my.py').write_text(text, encoding='utf-8')
    cfg = Config.fromfile(folder / 'my.py')
    for split in ('train', 'val'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.image_list == str(folder / f'{split}.txt')


def test_lists_move_with_the_config():
    values = evaluate(write(), '/moved')
    assert values['train']['image_list'] == '/moved/my_train.txt'
    assert values['train']['data_root'] == '/data/cells/'


@pytest.mark.parametrize(
    'config_folder, expression',
    [
        ('/data/cells', "data_root + 'lists/a.txt'"),
        ('/data/cells/lists', "here + 'a.txt'"),
        ('/data', "data_root + 'lists/a.txt'"),
        ('/elsewhere', "data_root + 'lists/a.txt'"),
    ],
)
def test_paths_begin_with_the_nearest_folder(config_folder, expression):
    path = '/data/cells/lists/a.txt'
    datasets = {split: dict(VOC, image_list=path) for split in ('train', 'val')}
    datasets['val']['image_list'] = '/other/b.txt'
    text = write(datasets=datasets, config_folder=PurePosixPath(config_folder))
    assert f'image_list={expression}' in text
    values = evaluate(text, config_folder)
    assert values['train']['image_list'] == path
    assert values['val']['image_list'] == '/other/b.txt'
    assert ('here' in values) == expression.startswith('here')


def test_lists_of_folders_are_placed_too():
    folders = ['/data/cells/a', '/data/cells', '/data/b']
    datasets = {
        split: dict(VOC, data_prefix=dict(img=folders)) for split in ('train', 'val')
    }
    values = evaluate(write(datasets=datasets))
    placed = values['train']['data_prefix']['img']
    assert [os.path.normpath(path) for path in placed] == folders


def test_paths_of_windows():
    root = 'C:\\my data\\new\\'
    datasets = {
        split: dict(
            type='VerifiedCocoDataset',
            data_root=root,
            ann_file=f'{root}{split}\\_annotations.coco.json',
            data_prefix=dict(img=f'{root}{split}\\'),
            image_list=f'D:\\configs\\my_{split}.txt',
        )
        for split in ('train', 'val')
    }
    text = write(
        datasets=datasets,
        data_root=PureWindowsPath(root),
        config_folder=PureWindowsPath('D:\\configs'),
    )
    values = evaluate(text, 'D:/configs')
    assert values['data_root'] == 'C:/my data/new/'
    assert values['train'] == dict(
        type='VerifiedCocoDataset',
        data_root='C:/my data/new/',
        ann_file='train/_annotations.coco.json',
        data_prefix=dict(img='train/'),
        image_list='D:/configs/my_train.txt',
    )


def test_classes_of_one_name_are_refused():
    with pytest.raises(UserError, match='each name stands once, not person twice'):
        write(classes=('person', 'dog', 'person'), class_ids=(0, 1, 2))


def test_reasons_are_comments():
    """Whatever a reason holds, as names of files do."""
    hostile = Choice(640, '\n'.join(HOSTILE))
    plan = choose('s', images(9))
    plan = Plan(plan.base, hostile, hostile, Choice(8), plan.model)
    text = write(plan)
    values = evaluate(text)
    assert values['image_size'] == values['max_epochs'] == 640
    assert re.search('^batch_size = 8$', text, re.M)
    assert len(text.splitlines()) <= 25
