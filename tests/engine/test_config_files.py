"""Variables of config files: what follows them, and those that nothing reads."""

from pathlib import Path

from mmnextvit import config_file
from mmnextvit.engine.config_files import check_config
from mmnextvit.engine.configs import read_config
from mmnextvit.engine.runner import RunConfig
from mmnextvit.utils.errors import UserError

import pytest
from mmengine.config import Config

BCCD = config_file('yolov5_nextvit_s_bccd')
MASK = config_file('mask_rcnn_nextvit_s_fpn_1x_coco')
BASE = f'_base_ = {config_file("yolov5_nextvit_s")!r}\n'
# docs/data.md's config by hand
HAND = f"""{BASE}
root = 'data/my_data/'
classes = ('cat', 'dog')
data = dict(data_root=root, metainfo=dict(classes=classes))
train = dict(**data, ann_file='train.json', data_prefix=dict(img='train/'))
val = dict(**data, ann_file='val.json', data_prefix=dict(img='val/'))
train_dataloader = dict(batch_size=8, num_workers=4, dataset=train)
val_dataloader = test_dataloader = dict(dataset=val)
val_evaluator = test_evaluator = dict(ann_file=root + 'val.json')
head = dict(head_module=dict(num_classes=2), loss_cls=dict(loss_weight=0.5 * 2 / 80))
model = dict(bbox_head=head)
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = 'my.py') -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.fixture
def hand(write) -> str:
    return write(HAND)


def refuse(path: str, **options: object) -> UserError:
    with pytest.raises(UserError) as error:
        read_config(path, options)
    assert error.value.file == path
    return error.value


def test_a_folder_of_the_config_by_hand(hand):
    cfg = read_config(hand, dict(root='/other'))
    assert cfg.train_dataloader.dataset.data_root == '/other/'
    assert cfg.test_dataloader.dataset.data_root == '/other/'
    assert cfg.val_evaluator.ann_file == '/other/val.json'


def test_classes_of_the_config_by_hand(hand):
    cfg = read_config(hand, dict(classes=('a',)))
    assert cfg.val_dataloader.dataset.metainfo.classes == ('a',)


def test_variables_that_are_inherited(hand):
    cfg = read_config(hand, dict(max_epochs=7, img_scale=(320, 320)))
    assert cfg.train_cfg.max_epochs == 7
    assert cfg.default_hooks.param_scheduler.max_epochs == 7
    assert cfg.train_dataloader.dataset.pipeline[2].img_scale == (320, 320)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (320, 320)
    assert cfg.train_dataloader.dataset.data_root == 'data/my_data/'


def test_parts_of_variables(hand):
    key = 'train.data_prefix.img'
    cfg = read_config(hand, {key: 'x/', 'train_pipeline.2.prob': 0.5})
    assert cfg.train_dataloader.dataset.data_prefix.img == 'x/'
    assert cfg.train_dataloader.dataset.pipeline[2].prob == 0.5
    assert cfg.val_dataloader.dataset.data_prefix.img == 'val/'


@pytest.mark.parametrize(
    'key, value, meant',
    [
        ('data_root', '/other/', 'root'),
        ('image_size', 320, 'val_dataloader.dataset.batch_shapes_cfg.img_size'),
        ('batch_size', 4, 'train_dataloader.batch_size'),
        ('num_classes', 3, 'model.bbox_head.head_module.num_classes'),
        ('num_workers', 1, 'train_dataloader.num_workers'),
        ('epochs', 3, 'train_cfg.max_epochs'),
        ('lr', 0.1, 'optim_wrapper.optimizer.lr'),
        ('frozen_stages', 1, 'model.backbone.frozen_stages'),
        ('workdir', 'x', 'work_dir'),
    ],
)
def test_what_changes_nothing_is_refused_with_what_would(key, value, meant, hand):
    error = refuse(hand, **{key: value})
    assert error.key == key
    assert 'nothing in this config follows it: did you mean ' in error.problem
    assert meant in error.problem.replace('?', ' ').split(' ')


def test_the_same_value_is_no_change(hand):
    assert read_config(hand, dict(data_root='data/coco/')).data_root == 'data/coco/'


def test_one_of_two_that_changes_nothing(hand):
    assert refuse(hand, root='/x/', data_root='/x/').key == 'data_root'


def test_variables_of_a_shipped_config():
    options = dict(data_root='/x/', max_epochs=7, img_scale=(640, 640), classes=('a',))
    cfg = read_config(BCCD, options)
    dataset = cfg.train_dataloader.dataset
    assert dataset.data_root == cfg.test_dataloader.dataset.data_root == '/x/'
    assert dataset.metainfo.classes == ('a',)
    assert dataset.pipeline[3].border == (-320, -320)
    assert cfg.val_dataloader.dataset.batch_shapes_cfg.img_size == 640
    assert cfg.model.bbox_head.head_module.num_classes == 1
    assert cfg.model.bbox_head.loss_obj.loss_weight == pytest.approx(1.0)
    assert cfg.default_hooks.param_scheduler.max_epochs == cfg.train_cfg.max_epochs == 7


def test_a_value_that_the_files_cannot_go_on_with():
    error = refuse(BCCD, img_scale=320)
    assert error.key == 'img_scale'
    assert "with this value: 'int' object is not subscriptable" in error.problem


def test_the_variable_of_the_last_file_counts(hand, write):
    dataset = 'train_dataloader = dict(dataset=dict(data_root=root))'
    text = f"_base_ = './my.py'\nroot = '/child/'\n{dataset}\n"
    child = write(text, 'child.py')
    cfg = read_config(child, dict(root='/x/'))
    assert cfg.train_dataloader.dataset.data_root == '/x/'
    assert cfg.val_dataloader.dataset.data_root == 'data/my_data/'


def test_what_was_dumped_has_variables_that_nothing_follows(hand, tmp_path):
    for name in ('dumped.py', 'dumped.json'):
        RunConfig(Config.fromfile(hand)).dump(tmp_path / name)
        read_config(str(tmp_path / name))
        error = refuse(str(tmp_path / name), data_root='/x/')
        assert 'train_dataloader.dataset.data_root' in error.problem


# Lists


def test_options_reach_into_lists():
    scale = 'train_dataloader.dataset.pipeline.3.scale'
    last = 'train_dataloader.dataset.pipeline.-1.meta_keys'
    options = {scale: (640, 480), last: ('img_id',), 'param_scheduler.1.gamma': 0.5}
    cfg = read_config(MASK, options)
    pipeline = cfg.train_dataloader.dataset.pipeline
    before = Config.fromfile(MASK).train_dataloader.dataset.pipeline
    assert pipeline[3] == dict(before[3], scale=(640, 480))
    assert pipeline[-1].meta_keys == ('img_id',)
    assert pipeline[:3] == before[:3] and len(pipeline) == len(before)
    assert cfg.param_scheduler[1].gamma == 0.5
    assert cfg.train_pipeline == before


@pytest.mark.parametrize('step', ['5', '-6', '05x', 'scale'])
def test_a_list_says_how_many_it_has(step):
    key = f'train_dataloader.dataset.pipeline.{step}'
    error = refuse(MASK, **{f'{key}.scale': 3})
    assert error.key == key
    assert f'is a list of 5: write 0 to 4, not {step!r}' in error.problem


def test_a_number_has_no_keys():
    error = refuse(MASK, **{'train_cfg.max_epochs.x': 3})
    assert error.key == 'train_cfg.max_epochs.x'
    assert 'train_cfg.max_epochs is 12, and holds no keys' in error.problem


# Variables of files that nothing reads


@pytest.mark.mmyolo
@pytest.mark.parametrize(
    'line, key, meant',
    [
        ('batchsize = 8', 'batchsize', 'train_dataloader.batch_size'),
        ('max_epochs = 10', 'max_epochs', 'train_cfg.max_epochs'),
        ("load_form = 'x.pth'", 'load_form', 'load_from'),
        ('optim_wraper = dict()', 'optim_wraper', 'optim_wrapper'),
    ],
)
def test_a_variable_that_is_meant_as_a_key(line, key, meant, write):
    path = write(f'{BASE}\nclasses = (1,)\n{line}\n')
    error = refuse(path)
    assert (error.line, error.key) == (4, key)
    assert meant in error.problem.replace('?', ' ').split(' ')
    with pytest.raises(UserError, match=key):
        check_config(Config.fromfile(path))
    read_config(write(f'{BASE}{line}\nextra_keys = [{key!r}]\n'))


def test_plain_helpers_do_no_harm(write):
    read_config(write(f"""{BASE}
import os
from pathlib import Path
_batch_size = 8
something = 3
batch = 4
train_dataloader = dict(batch_size=batch)
def double(max_epochs): return 2 * max_epochs
steps = [lr for lr in (1, 2)]
""" + '_unused = steps\n'))  # fmt: skip


def test_a_child_uses_what_it_inherits(write):
    write(f'{BASE}batchsize = 8\n', 'parent.py')
    uses = "_base_ = './parent.py'\ntrain_dataloader = dict(batch_size="
    for expression in (
        '_base_.batchsize',
        '{{_base_.batchsize}}',
        "'{{_base_.batchsize}}'",
    ):
        read_config(write(f'{uses}{expression})\n'))
    assert refuse_file(write(f'{uses}4)\n')) == 'parent.py'


def refuse_file(path: str) -> str:
    with pytest.raises(UserError) as error:
        read_config(path)
    return Path(str(error.value.file)).name
