"""The hook that compares the head with the data."""

import json
from types import SimpleNamespace

from mmnextvit.engine.data_report import (
    DataReportHook,
    explain_missing_truth,
    list_datasets,
)
from mmnextvit.utils.errors import UserError

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS

from tests.helpers.bad_data import fake_runner
from tests.helpers.commands import refusal
from tests.helpers.tiny_run import write_tiny_run


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['train', 'val', 'test'])
def test_num_classes_of_the_head(coco, stage):
    model = torch.nn.Module()
    model.bbox_head = torch.nn.Module()
    model.bbox_head.head_module = torch.nn.Module()
    model.bbox_head.num_classes = model.bbox_head.head_module.num_classes = 80
    runner = fake_runner(model, coco.build())
    with pytest.raises(ValueError) as error:
        getattr(DataReportHook(), f'before_{stage}')(runner)
    message = str(error.value)
    assert f'num_classes=80, but the {stage} data has 2 classes (cat, dog)' in message
    assert 'model.bbox_head.head_module.num_classes=2' in message
    assert f'{stage}_dataloader.dataset.metainfo' in message
    model.bbox_head.num_classes = model.bbox_head.head_module.num_classes = 2
    getattr(DataReportHook(), f'before_{stage}')(runner)


class Head(torch.nn.Module):
    num_classes = 80


def test_all_heads_are_named_at_once(coco):
    """MMDetection's own RoI head has two numbers, which one error names."""
    model = torch.nn.Module()
    model.roi_head = torch.nn.ModuleDict(dict(bbox_head=Head(), mask_head=Head()))
    advice = 'bbox_head.num_classes=2 and model.roi_head.mask_head.num_classes=2, or'
    with pytest.raises(ValueError, match=f'set model.roi_head.{advice}'):
        DataReportHook().before_train(fake_runner(model, coco.build()))
    model.roi_head.derived_heads = ('mask_head',)
    with pytest.raises(ValueError, match='bbox_head.num_classes=2, or'):
        DataReportHook().before_train(fake_runner(model, coco.build()))


def test_num_classes_of_our_detector(coco, load_config, tiny):
    cfg = load_config('yolov5_nextvit_s').model
    cfg.backbone.arch = tiny
    runner = fake_runner(MODELS.build(cfg), coco.build())
    with pytest.raises(ValueError, match='set model.bbox_head.head_module.num_c'):
        DataReportHook().before_train(runner)


def test_report_looks_inside_wrappers(coco):
    dataset = coco.build()
    wrapped = SimpleNamespace(datasets=[SimpleNamespace(dataset=dataset), dataset])
    assert list_datasets(wrapped) == [dataset, dataset]


def spoil_truth(content, case):
    """Leaves no box that counts."""
    boxes = content['annotations']
    if case == 'none':
        boxes.clear()
    for box in boxes:
        if case == 'other':
            box['category_id'] = 3
        else:
            box['iscrowd'] = 1
    if case == 'other':
        content['categories'].append(dict(id=3, name='cow'))


@pytest.mark.parametrize('mode', ['val', 'test'])
@pytest.mark.parametrize('case', ['none', 'crowds'])
def test_data_without_a_box_that_counts_are_refused(coco, mode, case):
    spoil_truth(coco.content, case)
    runner = fake_runner(torch.nn.Module(), coco.build(test_mode=True))
    metrics = [SimpleNamespace()]
    runner.val_evaluator = runner.test_evaluator = SimpleNamespace(metrics=metrics)
    hook = DataReportHook()
    with pytest.raises(UserError) as error:
        getattr(hook, f'before_{mode}')(runner)
    message = str(error.value)
    assert str(error.value.file).endswith('boxes.json')
    assert f'{mode}_dataloader.dataset.ann_file' in message and '8 images' in message
    assert ('all 8 boxes' in message) == (case == 'crowds')
    assert ('train without validation' in message) == (mode == 'val')
    if mode == 'val':
        with pytest.raises(UserError):
            DataReportHook().before_train(runner)
    # Predictions may be written of images that no one has labelled.
    for metric in (SimpleNamespace(format_only=True), DumpResults('out.pkl')):
        metrics[:] = [metric]
        getattr(DataReportHook(), f'before_{mode}')(runner)


def test_boxes_of_other_classes_do_not_count(coco):
    """All of them is an error; some are simply not counted."""
    spoil_truth(coco.content, 'other')
    for classes, counts in ((('cow',), True), (('cat', 'dog'), False)):
        try:
            dataset = coco.build(classes, test_mode=True)
        except UserError as error:  # which the dataset says by itself
            assert not counts and 'cow' in str(error)
        else:
            assert bool(explain_missing_truth(dataset)) != counts
    coco.content['annotations'][0]['category_id'] = 1
    dataset = coco.build(('cat', 'cow'), test_mode=True)
    assert explain_missing_truth(dataset) == ''
    many = SimpleNamespace(datasets=[dataset, dataset])
    assert explain_missing_truth(many) == ''
    assert explain_missing_truth([1, 2]) == ''  # no detection data


@pytest.mark.slow
@pytest.mark.parametrize('command', ['train', 'test'])
def test_commands_refuse_data_without_a_box(tmp_path, command):
    config = write_tiny_run(tmp_path)
    file = tmp_path / 'data' / 'annotations' / 'val.json'
    content = json.loads(file.read_text())
    file.write_text(json.dumps(dict(content, annotations=[])))
    arguments = []
    if command == 'test':
        init_default_scope('mmyolo')
        model = MODELS.build(Config.fromfile(config).model)
        torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
        arguments = ['weights.pth']
    message = refusal(command, config, *arguments, cwd=tmp_path)
    assert str(file) in message and 'none of its 4 images has a box' in message
    assert not [*tmp_path.rglob('best_*')]
