"""The metric's numbers are those of MMDetection's, and of boxes that can be matched."""

import copy
import json

from mmnextvit.utils.errors import UserError

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS

from tests.helpers.bad_data import BAD_BOXES, LOAD


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


MASKS = dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)
HALF = np.array([0.5, 0.75])


def add_masks(coco):
    """Polygons and a crowd, and ids that ``CocoMetric`` does not take for no match."""
    for number, annotation in enumerate(coco.content['annotations'], start=1):
        annotation['id'] = number
        annotation['segmentation'] = [[4, 4, 24, 4, 24, 24, 4, 24]]
    coco.content['annotations'][3].update(iscrowd=1, area=900)


def build_metrics(dataset, **kwargs):
    """MMDetection's and ours."""
    metrics = [
        METRICS.build(dict(type=name, **kwargs))
        for name in ('mmdet.CocoMetric', 'VerifiedCocoMetric')
    ]
    for metric in metrics:
        metric.dataset_meta = dataset.metainfo
    return metrics


def make_samples(dataset, rng, masks=True, prefix=None):
    """Nine detections around each box, with ties of scores; ids as given or named."""
    for info in map(dataset.get_data_info, range(len(dataset))):
        boxes = np.array([box['bbox'] for box in info['instances']], float)
        boxes = np.repeat(boxes, 9, axis=0)
        boxes += rng.normal(0, 2, boxes.shape)
        drawn = np.zeros((len(boxes), 48, 64), bool)
        for mask, (x1, y1, x2, y2) in zip(drawn, boxes.clip(0).astype(int)):
            mask[y1:y2, x1:x2] = True
        pred = dict(
            bboxes=torch.from_numpy(boxes).float(),
            labels=torch.from_numpy(rng.integers(0, 2, len(boxes))),
            scores=torch.from_numpy(rng.random(len(boxes)).round(1)),
        )
        if masks:
            pred['masks'] = torch.from_numpy(drawn)
        yield dict(
            img_id=info['img_id'] if prefix is None else f'{prefix}{info["img_id"]}',
            ori_shape=(48, 64),
            pred_instances=pred,
            instances=info['instances'],
        )


@pytest.mark.slow
@pytest.mark.parametrize('from_file', [True, False])
def test_metric_gives_the_numbers_of_mmdetections(coco, from_file, monkeypatch):
    """Of boxes, proposals, masks and classes, with crowds; also for ids of VOC."""
    rng = np.random.default_rng(0)
    add_masks(coco)
    dataset = coco.build(test_mode=True)
    given = dict(metric=['bbox', 'proposal'], classwise=True)
    given.update(proposal_nums=(100, 1, 10))  # of YOLO's configs
    if from_file:
        given.update(ann_file=f'{coco.root}/boxes.json', metric=['bbox', 'segm'])
    metrics = build_metrics(dataset, **given)
    prefix = None if from_file else 'image_'
    for _ in range(2):
        for sample in make_samples(dataset, rng, from_file, prefix):
            for metric in metrics:
                metric.process({}, [sample])
        wanted = metrics[0].evaluate(len(dataset))
        with monkeypatch.context() as context:  # else pycocotools was asked
            context.setattr('pycocotools.cocoeval.COCOeval.evaluate', None)
            numbers = metrics[1].evaluate(len(dataset))
        np.testing.assert_equal(numbers, wanted)  # NaN of a size that no box has
        assert 0 < numbers['coco/bbox_mAP'] < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    'given',
    [
        dict(metric=['segm', 'bbox'], classwise=True),
        dict(metric='proposal_fast', proposal_nums=(1, 10, 100)),
        dict(metric='proposal', metric_items=['AR@100', 'AR_s@1000']),
        dict(metric='bbox', metric_items=['mAP_50', 'AR@100'], iou_thrs=HALF),
        dict(metric='bbox', proposal_nums=(100, 1, 10), use_mp_eval=True),
    ],
)
def test_every_option_gives_the_numbers_of_mmdetections(coco, given):
    add_masks(coco)
    if given['metric'] == 'proposal_fast':  # MMDetection's needs as many boxes in each
        coco.content['annotations'][3]['iscrowd'] = 0
    load = [*LOAD, dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    dataset = coco.build(test_mode=True, pipeline=load)
    metrics = build_metrics(dataset, **given)
    for sample in make_samples(dataset, np.random.default_rng(1)):
        for metric in metrics:
            metric.process({}, [copy.deepcopy(sample)])
    wanted, numbers = (metric.evaluate(len(dataset)) for metric in metrics)
    np.testing.assert_equal(numbers, wanted)
    assert numbers


@pytest.mark.slow
@pytest.mark.parametrize('from_file', [True, False])
def test_metric_writes_the_files_of_mmdetections(coco, from_file, tmp_path):
    add_masks(coco)
    dataset = coco.build(test_mode=True)
    ann_file = f'{coco.root}/boxes.json' if from_file else None
    contents = []
    for name in ('mmdet.CocoMetric', 'VerifiedCocoMetric'):
        prefix = tmp_path / name / 'written'
        prefix.parent.mkdir()
        given = dict(ann_file=ann_file, format_only=True, outfile_prefix=str(prefix))
        metric = METRICS.build(dict(type=name, **given))
        metric.dataset_meta = dataset.metainfo
        for sample in make_samples(dataset, np.random.default_rng(2)):
            metric.process({}, [sample])
        assert not metric.evaluate(len(dataset))
        files = {f.name: json.loads(f.read_text()) for f in prefix.parent.iterdir()}
        if not from_file:
            truth = files['written.gt.json']
            del truth['info']  # a date
            truth.pop('licenses', None)
        contents.append(files)
    assert contents[0] == contents[1] and len(contents[0]) == 3 - from_file


def test_metric_says_what_cannot_be_evaluated(coco):
    dataset = coco.build(test_mode=True)
    samples = list(make_samples(dataset, np.random.default_rng(3), masks=False))
    _, metric = build_metrics(dataset, metric='segm')
    metric.process({}, samples)
    with pytest.raises(UserError, match="metric='segm' of the evaluator needs masks"):
        metric.evaluate(len(dataset))
    _, metric = build_metrics(dataset, ann_file=f'{coco.root}/boxes.json')
    metric.process({}, [dict(sample, img_id=99) for sample in samples])
    with pytest.raises(UserError, match="1 images are not in the evaluator's ann_file"):
        metric.evaluate(len(dataset))
    with pytest.raises(UserError, match="'map_50', which is none of mAP, .* mAP_50"):
        METRICS.build(dict(type='VerifiedCocoMetric', metric_items=['map_50']))
    (coco.root / 'boxes.json').write_text('{')
    with pytest.raises(UserError, match='boxes.json: the file is not JSON'):
        METRICS.build(
            dict(type='VerifiedCocoMetric', ann_file=f'{coco.root}/boxes.json')
        )


@pytest.mark.slow
@pytest.mark.parametrize('from_file', [True, False])
def test_codes_of_another_size_are_told(coco, from_file):
    """pycocotools would count their objects as missed, without a word."""
    add_masks(coco)
    code = dict(size=[64, 48], counts=[100, 20, 64 * 48 - 120])
    coco.content['annotations'][2].update(id=77, segmentation=code)
    dataset = coco.build(test_mode=True, pipeline=[*LOAD, MASKS])
    samples = list(make_samples(dataset, np.random.default_rng(5)))
    given = dict(ann_file=dataset.ann_file) if from_file else {}
    message = r'(?s)1 run-length codes .*annotation {}: \[64, 48\], not \[48, 64\]'
    with pytest.raises(UserError, match=message.format(77 if from_file else 3)) as e:
        _, metric = build_metrics(dataset, metric=['bbox', 'segm'], **given)
        metric.process({}, samples)
        metric.evaluate(len(dataset))
    assert e.value.file == given.get('ann_file')
    _, metric = build_metrics(dataset, **given)
    metric.process({}, samples)
    assert metric.evaluate(len(dataset))  # boxes need no masks


@pytest.mark.slow
@pytest.mark.parametrize(
    ('path', 'shape', 'changed', 'is_told'),
    [
        ('/data/val/3.jpg', (48, 64), {}, False),
        ('/data/val/3.jpg', (64, 48), {}, False),  # turned by EXIF
        ('/data/val/3.jpg', (48, 64), dict(file_name='val/3.jpg'), False),
        ('/data/val/3.jpg', (48, 64), dict(file_name='./3.jpg'), False),
        ('/data/val/3.jpg', (48, 64), dict(file_name='/data/val/3.jpg'), False),
        ('D:\\val\\3.jpg', (48, 64), dict(file_name='val/3.jpg'), False),
        ('3.jpg', (48, 64), {}, False),
        (None, (48, 64), {}, False),
        (None, (48, 60), {}, True),
        ('/data/val/3.jpg', (48, 60), {}, True),
        ('/data/val/3.jpg', (48, 64), dict(width=60), True),
        ('/data/val/13.jpg', (48, 64), {}, True),
        ('/data/val/3.jpg', (48, 64), dict(file_name='train/3.jpg'), True),
        ('3.jpg', (48, 64), dict(file_name='val/3.jpg'), True),
    ],
)
def test_annotations_of_other_images_are_told(coco, path, shape, changed, is_told):
    """With equal ids, nothing else shows that the mAP is of other images' boxes."""
    dataset = coco.build(test_mode=True)
    coco.content['images'][3].update(changed)
    file = coco.root / 'others.json'
    file.write_text(json.dumps(coco.content))
    _, metric = build_metrics(dataset, ann_file=str(file))
    samples = list(make_samples(dataset, np.random.default_rng(6), masks=False))
    samples[3].update(ori_shape=shape, **(dict(img_path=path) if path else {}))
    if not is_told:
        metric.process({}, samples)
        assert metric.evaluate(len(dataset))
        return
    with pytest.raises(UserError, match='(?s)image .* of the dataset is') as error:
        metric.process({}, samples)
    assert error.value.file == str(file)
    message = str(error.value)
    assert 'test_evaluator and of the dataset in test_dataloader' in message
    assert f'{shape[1]} x {shape[0]} pixels' in message
    assert (path or '') in message


def test_metric_without_predictions(coco):
    """MMDetection logs an error and returns nothing."""
    dataset = coco.build(test_mode=True)
    metrics = build_metrics(dataset)
    for sample in make_samples(dataset, np.random.default_rng(4), masks=False):
        none = {k: v[:0] for k, v in sample['pred_instances'].items()}
        for metric in metrics:
            metric.process({}, [dict(sample, pred_instances=none)])
    assert [metric.evaluate(len(dataset)) for metric in metrics] == [{}, {}]


def test_metric_takes_100_boxes_for_the_map_whatever_the_recalls(coco):
    """MMDetection's proposal_nums go up to 1000."""
    dataset = coco.build(test_mode=True)
    numbers = []
    for name in ('mmdet.CocoMetric', 'VerifiedCocoMetric'):
        metric = METRICS.build(dict(type=name))
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
        numbers.append(metric.evaluate(len(dataset)))
    np.testing.assert_equal(*numbers)


def test_metric_writes_the_ids_of_the_data(coco, tmp_path):
    """Names go to pycocotools, so that the files can be used."""
    metric = METRICS.build(
        dict(type='VerifiedCocoMetric', outfile_prefix=f'{tmp_path}/written')
    )
    metric.dataset_meta = coco.build().metainfo
    box = torch.tensor([[1.0, 2, 30, 40]])
    pred = dict(bboxes=box, labels=torch.tensor([0]), scores=torch.ones(1))
    truth = [dict(bbox=[1, 2, 30, 40], bbox_label=0)]
    sample = dict(img_id='a', ori_shape=(48, 64), pred_instances=pred, instances=truth)
    metric.process({}, [sample])
    assert metric.evaluate(1)['coco/bbox_mAP'] == 1
    (entry,) = json.loads((tmp_path / 'written.bbox.json').read_text())
    assert entry['image_id'] == 'a' and entry['bbox'] == [1, 2, 29, 38]


def test_metric_without_its_file():
    with pytest.raises(FileNotFoundError, match='nowhere.json.*val_evaluator'):
        METRICS.build(dict(type='VerifiedCocoMetric', ann_file='nowhere.json'))
