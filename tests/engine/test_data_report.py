"""The hook that compares the head with the data."""

from types import SimpleNamespace

from mmnextvit.engine.data_report import DataReportHook, list_datasets

import pytest
import torch
from mmyolo.registry import MODELS

from tests.helpers.bad_data import fake_runner


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
