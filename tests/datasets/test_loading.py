"""The verified loader is in every pipeline; joined data sets; masks."""

import pickle

from mmnextvit.datasets.images import BrokenImageError, WrongSizeError
from mmnextvit.datasets.loading import LoadVerifiedImage, list_transforms
from mmnextvit.utils.errors import UserError

import cv2
import numpy as np
import pytest
from mmcv.transforms import Compose as MMCVCompose
from mmcv.transforms import LoadImageFromFile
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.dataset import Compose
from mmyolo.registry import DATASETS

from tests.helpers.bad_data import (
    CLASSES,
    LOAD,
    Yolo,
    fake_runner,
    list_infos,
    measure_truth,
)

pytestmark = pytest.mark.slow

ANNOTATIONS = dict(type='LoadAnnotations', with_bbox=True)
MASKS = dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)


@pytest.mark.parametrize(
    'loader', ['LoadImageFromFile', 'mmdet.LoadImageFromFile', LoadImageFromFile]
)
def test_pipeline_that_a_hook_puts_in(coco, loader):
    """As YOLOv8's second stage."""
    dataset = coco.build()
    coco.truncate(5)
    steps = [dict(type=loader, to_float32=True), dict(ANNOTATIONS)]
    hook = PipelineSwitchHook(switch_epoch=0, switch_pipeline=steps)
    runner = fake_runner(None, dataset)
    runner.epoch = 0
    hook.before_train_epoch(runner)
    with pytest.raises(BrokenImageError, match=r'5.jpg: .*\(sample 5\)'):
        dataset[5]
    assert dataset[4]['img'].dtype == np.float32
    dataset.skip_broken = True
    assert dataset[5]['img_path'] != str(coco.paths[5]) and dataset.broken[5]


def test_loaders_inside_other_transforms(coco):
    mosaic = dict(type='Mosaic', img_scale=(64, 64), pre_transform=[*LOAD, ANNOTATIONS])
    dataset = coco.build(pipeline=[])
    dataset.pipeline = Compose(
        [
            dict(type='RandomApply', transforms=[*LOAD, ANNOTATIONS], prob=1.0),
            MMCVCompose([dict(type='RandomChoice', transforms=[[mosaic], [mosaic]])]),
        ]
    )
    loaders = [
        t for t in list_transforms(dataset.pipeline) if isinstance(t, LoadImageFromFile)
    ]
    assert len(loaders) == 3 and {*map(type, loaders)} == {LoadVerifiedImage}
    copy = pickle.loads(pickle.dumps(dataset))  # as spawned workers get it
    assert copy[3]['img'].shape == dataset[3]['img'].shape


def test_what_a_pipeline_cannot_prepare_is_named(coco):
    dataset = coco.build()
    dataset.pipeline.transforms.append(
        lambda results: cv2.resize(results['img'], (0, 0))
    )
    with pytest.raises(BrokenImageError, match=r'2.jpg: .*64 x 48 pixels \(sample 2\)'):
        dataset[2]


# -------------------------------------------------------------------- joined data sets


@pytest.fixture
def joined(coco, tmp_path):
    """COCO and YOLO txt data in one data set."""
    (tmp_path / 'yolo').mkdir()
    other = Yolo(tmp_path / 'yolo')

    def build(classes=list(CLASSES), **kwargs):
        parts = [
            dict(
                type='VerifiedCocoDataset',
                data_root=str(coco.root),
                ann_file='boxes.json',
                data_prefix=dict(img='images'),
                metainfo=dict(classes=classes),
                pipeline=LOAD,
                **kwargs,
            ),
            dict(
                type='VerifiedYOLOTxtDataset',
                data_root=str(other.root),
                ann_file='data.yaml',
                pipeline=LOAD,
                **kwargs,
            ),
        ]
        coco.build()  # writes the file
        return DATASETS.build(dict(type='ConcatDataset', datasets=parts))

    return build


@pytest.mark.parametrize('kind', [list, tuple])
def test_coco_and_yolo_data_are_joined(joined, kind):
    dataset = joined(kind(CLASSES))
    assert len(dataset) == 16
    assert {data['img'].ndim for data in dataset} == {3}
    assert dataset.metainfo['classes'] == CLASSES
    assert len(dataset.metainfo['palette']) >= 2


def test_metric_of_joined_data(joined):
    dataset = joined(test_mode=True)
    infos = [info for part in dataset.datasets for info in list_infos(part)]
    assert measure_truth(infos, dataset.metainfo)['coco/bbox_mAP'] == pytest.approx(1)


def test_more_classes_than_colours(yolo):
    names = [f'class {i}' for i in range(100)]
    yolo.yaml(f'train: images/train\nnames: {names}\n')
    assert len(yolo.build().metainfo['palette']) == 100


# ------------------------------------------------------------------------------- masks

CODE = dict(size=[48, 64], counts=[100, 20, 48 * 64 - 120])


def test_run_length_codes_become_masks(coco):
    for annotation in coco.content['annotations']:
        annotation['segmentation'] = CODE
    sample = coco.build(pipeline=[*LOAD, MASKS])[0]
    (mask,) = sample['gt_masks'].masks
    assert mask.sum() == 20 and mask.T.reshape(-1)[100:120].all()


def test_code_of_another_size(coco):
    for annotation in coco.content['annotations']:
        annotation['segmentation'] = CODE
    coco.content['annotations'][3]['segmentation'] = dict(CODE, size=[64, 48])
    message = r'1 objects have masks.*\n.*3.jpg: .* size \[64, 48\], not \[48, 64\]'
    with pytest.raises(UserError, match=message):
        coco.build(pipeline=[*LOAD, MASKS])
    assert len(coco.build()) == 8  # boxes need no masks


def test_objects_without_segmentation(coco):
    with pytest.raises(UserError, match='8 objects have masks.*\n.*0.jpg: no segm'):
        coco.build(pipeline=[*LOAD, MASKS])


@pytest.mark.parametrize(
    'mask',
    [
        dict(CODE, counts=[9, 20]),
        dict(CODE, counts=[-1, 3073]),
        dict(CODE, counts='~' * 50),
        dict(CODE, counts='04'),
        dict(size=[48, 64]),
        [],
    ],
)
def test_objects_without_a_mask_are_named(coco, log, mask):
    for annotation in coco.content['annotations']:
        annotation['segmentation'] = CODE
    coco.content['annotations'][3]['segmentation'] = mask
    dataset = coco.build(pipeline=[*LOAD, MASKS])
    assert len(log) == 1 and '1 objects have no mask that can be read' in log[0]
    assert log[0].endswith(str(coco.paths[3])) and dataset[3]['gt_ignore_flags'].all()


@pytest.mark.parametrize('loader', ['mmyolo.LoadAnnotations', 'mmdet.LoadAnnotations'])
def test_run_length_codes_where_polygons_are_needed(coco, loader):
    """MMYOLO raised NotImplementedError; MMDetection ignored such objects."""
    for annotation in coco.content['annotations'][:3]:
        annotation['segmentation'] = CODE
    for annotation in coco.content['annotations'][3:]:
        annotation['segmentation'] = [[4, 4, 24, 4, 24, 24]]
    coco.content['annotations'][2]['iscrowd'] = 1
    step = dict(type=loader, with_bbox=True, with_mask=True, poly2mask=False)
    with pytest.raises(
        UserError, match='2 objects have masks(.*\n).*0.jpg: .*RLE'
    ) as e:
        coco.build(pipeline=[*LOAD, step])
    assert e.value.file.endswith('boxes.json')


def test_wrong_size_through_a_wrapper(joined, coco):
    coco.content['images'][2]['width'] = 60
    with pytest.raises(WrongSizeError):
        list(joined())
