"""The metric's numbers are those of MMDetection's, and of boxes that can be matched."""

import json

import mmnextvit  # noqa: F401  (registers what the tests build)

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS

from tests.helpers.bad_data import BAD_BOXES


def test_metric_leaves_out_what_nothing_can_match(coco):
    """The same mAP of perfect detections with bad boxes as without."""
    del (
        coco.content['annotations'][0]['area'],
        coco.content['annotations'][0]['iscrowd'],
    )
    coco.add_boxes(*[bbox for bbox, _ in BAD_BOXES[:6]])
    dataset = coco.build(test_mode=True)
    metric = METRICS.build(
        dict(type='VerifiedCocoMetric', ann_file=f'{coco.root}/boxes.json')
    )
    metric.dataset_meta = dataset.metainfo
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        pred = dict(
            bboxes=torch.tensor([box['bbox'] for box in info['instances']]).float(),
            labels=torch.tensor([box['bbox_label'] for box in info['instances']]),
            scores=torch.ones(len(info['instances'])),
        )
        sample = dict(img_id=info['img_id'], ori_shape=(48, 64), pred_instances=pred)
        metric.process({}, [sample])
    assert metric.evaluate(len(dataset))['coco/bbox_mAP'] == 1


@pytest.mark.parametrize('from_file', [True, False])
def test_metric_gives_the_numbers_of_mmdetections(coco, from_file, monkeypatch):
    """Of boxes, proposals, masks and classes, with crowds; also for ids of VOC."""
    rng = np.random.default_rng(0)
    for number, annotation in enumerate(coco.content['annotations'], start=1):
        annotation['id'] = number  # CocoMetric takes 0 for 'no match'
        annotation['segmentation'] = [[4, 4, 24, 4, 24, 24, 4, 24]]
    coco.content['annotations'][3].update(iscrowd=1, area=900)
    dataset = coco.build(test_mode=True)
    given = dict(metric=['bbox', 'proposal'], classwise=True)
    given.update(proposal_nums=(100, 1, 10))  # of YOLO's configs
    if from_file:
        given.update(ann_file=f'{coco.root}/boxes.json', metric=['bbox', 'segm'])
    metrics = [
        METRICS.build(dict(type=kind, **given))
        for kind in ('mmdet.CocoMetric', 'VerifiedCocoMetric')
    ]
    for metric in metrics:
        metric.dataset_meta = dataset.metainfo
    for _ in range(2):
        for info in map(dataset.get_data_info, range(len(dataset))):
            boxes = np.array([box['bbox'] for box in info['instances']], float)
            boxes = np.repeat(boxes, 9, axis=0)
            boxes += rng.normal(0, 2, boxes.shape)
            masks = np.zeros((len(boxes), 48, 64), bool)
            for mask, (x1, y1, x2, y2) in zip(masks, boxes.clip(0).astype(int)):
                mask[y1:y2, x1:x2] = True
            pred = dict(
                bboxes=torch.from_numpy(boxes).float(),
                labels=torch.from_numpy(rng.integers(0, 2, len(boxes))),
                scores=torch.from_numpy(rng.random(len(boxes)).round(1)),  # with ties
                masks=torch.from_numpy(masks),
            )
            if not from_file:
                del pred['masks']
            sample = dict(
                img_id=info['img_id'] if from_file else f'image_{info["img_id"]}',
                ori_shape=(48, 64),
                pred_instances=pred,
                instances=info['instances'],
            )
            for metric in metrics:
                metric.process({}, [sample])
        wanted = metrics[0].evaluate(len(dataset))
        with monkeypatch.context() as context:  # else pycocotools was asked
            context.setattr('pycocotools.cocoeval.COCOeval.evaluate', None)
            found = metrics[1].evaluate(len(dataset))
        np.testing.assert_equal(found, wanted)  # NaN of a size that no box has
        assert 0 < found['coco/bbox_mAP'] < 1


def test_metric_takes_100_boxes_for_the_map_whatever_the_recalls(coco):
    """MMDetection's proposal_nums go up to 1000."""
    dataset = coco.build(test_mode=True)
    found = []
    for kind in ('mmdet.CocoMetric', 'VerifiedCocoMetric'):
        metric = METRICS.build(dict(type=kind))
        metric.dataset_meta = dataset.metainfo
        for info in map(dataset.get_data_info, range(len(dataset))):
            # The right boxes come after a hundred wrong ones.
            right = np.array([box['bbox'] for box in info['instances']], float)
            wrong = np.repeat([[0.0, 0, 3, 3]], 100, axis=0)
            boxes = torch.from_numpy(np.concatenate([wrong, right.reshape(-1, 4)]))
            labels = [box['bbox_label'] for box in info['instances']]
            pred = dict(
                bboxes=boxes.float(),
                labels=torch.tensor([*(labels * 100)[:100], *labels], dtype=torch.long),
                scores=torch.linspace(1, 0.1, len(boxes)),
            )
            if labels:
                sample = dict(
                    img_id=info['img_id'],
                    ori_shape=(48, 64),
                    pred_instances=pred,
                    instances=info['instances'],
                )
                metric.process({}, [sample])
        found.append(metric.evaluate(len(dataset)))
    np.testing.assert_equal(*found)


def test_metric_writes_the_ids_of_the_data(coco, tmp_path):
    """Names go to pycocotools, so that the files can be used."""
    metric = METRICS.build(
        dict(type='VerifiedCocoMetric', outfile_prefix=f'{tmp_path}/found')
    )
    metric.dataset_meta = coco.build().metainfo
    box = torch.tensor([[1.0, 2, 30, 40]])
    pred = dict(bboxes=box, labels=torch.tensor([0]), scores=torch.ones(1))
    truth = [dict(bbox=[1, 2, 30, 40], bbox_label=0)]
    sample = dict(img_id='a', ori_shape=(48, 64), pred_instances=pred, instances=truth)
    metric.process({}, [sample])
    assert metric.evaluate(1)['coco/bbox_mAP'] == 1
    (found,) = json.loads((tmp_path / 'found.bbox.json').read_text())
    assert found['image_id'] == 'a' and found['bbox'] == [1, 2, 29, 38]


def test_metric_without_its_file():
    with pytest.raises(FileNotFoundError, match='nowhere.json.*val_evaluator'):
        METRICS.build(dict(type='VerifiedCocoMetric', ann_file='nowhere.json'))
