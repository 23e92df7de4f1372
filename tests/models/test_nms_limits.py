"""NMS that looks at the best boxes alone, against NMS of all of them."""

import mmnextvit  # noqa: F401  (puts the NMS in place)
from mmnextvit import _mmcv
from mmnextvit.models.nms_limits import CUTTING_METHODS, add_limit

import mmcv.ops
import numpy as np
import pytest
import torch
import torchvision
from mmdet.models.dense_heads import base_dense_head, yolox_head
from mmdet.models.layers import bbox_nms
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from mmyolo.models.dense_heads import RTMDetInsSepBNHead
from mmyolo.registry import MODELS

from tests.helpers.lively_detectors import (
    demo_images,
    lively_detector,
    preprocessed,
    small_config,
)

batched_nms = mmcv.ops.batched_nms


@pytest.fixture
def handed(monkeypatch) -> list[int]:
    """How many boxes torchvision's NMS gets, call by call."""
    counts: list[int] = []
    nms = torchvision.ops.nms

    def count(boxes, scores, threshold):
        counts.append(len(boxes))
        return nms(boxes, scores, threshold)

    monkeypatch.setattr(torchvision.ops, 'nms', count)
    return counts


def boxes_at_random(n, classes=3, side=40, steps=None, low=0, dtype=torch.float32):
    """Boxes (N, 4), scores (N,), of so many different values, and classes (N,)."""
    g = torch.Generator().manual_seed(n + side)
    start = low + 600 * torch.rand(n, 2, generator=g, dtype=dtype)
    size = 1 + side * torch.rand(n, 2, generator=g, dtype=dtype)
    scores = torch.rand(n, generator=g, dtype=dtype)
    scores = (scores * steps).round() / steps if steps else scores
    labels = torch.randint(classes, (n,), generator=g)
    return torch.cat([start, start + size], 1), scores, labels


def boxes_in_places(n, places=100, best=1500, best_places=10):
    """Boxes on so many places, the best of them on few, by falling score."""
    g = torch.Generator().manual_seed(n)
    place = torch.randint(places, (n,), generator=g)
    place[:best] %= best_places
    start = torch.stack([place % 10, place // 10], 1) * 50
    start = start + torch.rand(n, 2, generator=g)
    scores = torch.rand(n, generator=g).sort(descending=True).values
    return torch.cat([start, start + 30], 1), scores, torch.zeros(n, dtype=torch.long)


def nms_of_all(boxes, scores, labels, cfg, agnostic=False):
    """What mmcv's rules make of all boxes: each class apart, or placed apart."""
    placed = boxes
    if not agnostic:
        placed = (
            boxes + (labels.to(boxes) * (boxes.max() + boxes.new_tensor(1)))[:, None]
        )
    groups = [torch.arange(len(boxes))]
    if len(boxes) >= cfg.get('split_thr', 10000):
        groups = [torch.nonzero(labels == c)[:, 0] for c in labels.unique()]
    kept = torch.cat(
        [
            group[
                torchvision.ops.nms(placed[group], scores[group], cfg['iou_threshold'])
            ]
            for group in groups
        ]
    ).sort()[0]
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    return kept[: cfg['max_num']]


def plain_nms(boxes, scores, labels, threshold, limit):
    """Class by class, one box after the other, in NumPy's float32."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind='stable'):
        if len(kept) == limit:
            break
        rivals = [j for j in kept if labels[j] == labels[i]]
        low, high = (
            np.maximum(boxes[i, :2], boxes[rivals, :2]),
            np.minimum(boxes[i, 2:], boxes[rivals, 2:]),
        )
        common = np.prod(np.maximum(high - low, 0), 1)
        area, areas = (
            np.prod(b[..., 2:] - b[..., :2], -1) for b in (boxes[i], boxes[rivals])
        )
        if not (common / (area + areas - common) > np.float32(threshold)).any():
            kept.append(int(i))
    return kept


CASES = {
    'one class': dict(classes=1),
    'ties': dict(steps=7),
    'all the same score': dict(steps=0.1),
    'many classes': dict(classes=200, side=400),
    'large boxes': dict(side=3000),
    'negative coordinates, where classes overlap': dict(low=-500, side=90),
    'float64': dict(dtype=torch.float64),
}


@pytest.mark.parametrize('cfg', [{}, dict(split_thr=100), dict(class_agnostic=True)])
@pytest.mark.parametrize('case', CASES)
def test_first_of_a_prefix_are_the_first_of_all(case, cfg, handed):
    given = boxes_at_random(6000, **CASES[case])
    cfg = dict(cfg, type='nms', iou_threshold=0.6, max_num=90)
    wanted = nms_of_all(*given, cfg, cfg.get('class_agnostic', False))
    handed.clear()
    dets, kept = batched_nms(*given, cfg)
    assert torch.equal(kept, wanted)
    boxes, scores, _ = given
    assert torch.equal(dets, torch.cat([boxes[kept], scores[kept, None]], 1))
    assert len(kept) == 90 and (sum(handed) == 1024 or case == 'large boxes')

    plain_dets, plain_kept = batched_nms.__wrapped__(*given, cfg)
    if len(scores.unique()) == len(scores):  # of equal ones mmcv takes any
        assert torch.equal(kept, plain_kept) and torch.equal(dets, plain_dets)
    assert torch.equal(dets[:, 4], plain_dets[:, 4])


@pytest.mark.parametrize('limit', [1, 30, 300])
def test_against_one_box_after_the_other(limit):
    boxes, scores, labels = boxes_at_random(3000, classes=4, side=300, steps=500)
    boxes = boxes.round()  # so that classes placed apart are as exact
    cfg = dict(iou_threshold=0.5, max_num=limit)
    wanted = plain_nms(*(x.numpy() for x in (boxes, scores, labels)), 0.5, limit)
    assert len(wanted) == limit
    assert batched_nms(boxes, scores, labels, cfg)[1].tolist() == wanted


def test_a_longer_prefix_where_too_few_are_kept(handed):
    given = boxes_in_places(9000)
    tries_of_all = [1024, 4924, 9000]
    for limit, tries in ((9, [1024]), (60, [1024, 2925]), (101, tries_of_all)):
        cfg = dict(iou_threshold=0.3, max_num=limit)
        wanted = nms_of_all(*given, cfg)
        handed.clear()
        assert torch.equal(batched_nms(*given, cfg)[1], wanted)
        assert handed == tries
        assert len(wanted) == min(limit, 100)


def test_what_has_no_limit_goes_to_mmcv(handed):
    boxes, scores, labels = boxes_at_random(3000)
    for cfg in (
        dict(iou_threshold=0.6),
        dict(iou_threshold=0.6, max_num=-1),
        dict(iou_threshold=0.6, max_num=2000),  # hardly fewer than all
    ):
        batched_nms(boxes, scores, labels, cfg)
    assert handed == [3000] * 3
    dets, kept = batched_nms(boxes, scores, labels, None)
    assert torch.equal(kept, scores.sort(descending=True)[1]) and len(dets) == 3000
    cfg = dict(iou_threshold=0.6, max_num=3, class_agnostic=True)
    dets, kept = batched_nms(boxes[:0], scores[:0], labels[:0], cfg)
    assert dets.shape == (0, 5) and kept.shape == (0,)


def test_all_are_looked_at_soon_where_next_to_nothing_is_kept(handed):
    boxes, scores, labels = boxes_in_places(60_000)
    given = torch.zeros_like(boxes) + boxes[0], scores, torch.zeros_like(labels)
    cfg = dict(iou_threshold=0.3, max_num=300)
    assert len(nms_of_all(*given, cfg)) == 1
    handed.clear()
    assert len(batched_nms(*given, cfg)[1]) == 1
    assert handed == [1200, 60_000]


# The heads


@pytest.mark.parametrize(
    'name', ['yolov5_nextvit_s', 'yolov8_nextvit_s', 'rtmdet_nextvit_s']
)
@pytest.mark.slow
def test_detectors_find_the_same(name, handed, monkeypatch):
    model = lively_detector(small_config(name, classes=3))
    image = demo_images((480, 480))
    data = dict(ori_shape=(500, 500), scale_factor=(0.9, 0.9), img_shape=(480, 480))
    with torch.no_grad():
        maps = model.bbox_head(model.neck(model.backbone(preprocessed(model, image))))

    def predict(**changes):
        handed.clear()
        limits = dict(score_thr=1e-6, max_per_img=20, min_bbox_size=4)
        cfg = ConfigDict({**model.bbox_head.test_cfg, **limits, **changes})
        (found,) = model.bbox_head.predict_by_feat(
            *maps, batch_img_metas=[data], cfg=cfg
        )
        return found

    settings = (dict(multi_label=True), dict(multi_label=False), dict(yolox_style=True))
    results = []
    for changes in settings:
        results.append(predict(**changes))
        if 'yolox_style' in changes:  # all that NMS keeps
            assert len(results[-1]) > 20 and sum(handed) > 2048
        else:
            assert len(results[-1]) == 20 and sum(handed) == 1024
    monkeypatch.setattr(_mmcv, 'LEAST', 10**9)
    for changes, found in zip(settings, results):
        wanted = predict(**changes)
        assert sum(handed) > 2048
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(found[key], wanted[key])


def test_a_detector_with_soft_nms():
    cfg = small_config('yolov5_nextvit_s', classes=3)
    cfg.model.test_cfg.nms = dict(type='soft_nms', iou_threshold=0.1, method='naive')
    cfg.model.test_cfg.update(score_thr=0.01, max_per_img=300)
    model = lively_detector(cfg)
    images = demo_images((64, 96))
    sample = DetDataSample(
        metainfo=dict(ori_shape=(64, 96), img_shape=(64, 96), scale_factor=(1.0, 1.0))
    )

    def predict(**nms):
        model.bbox_head.test_cfg.nms.update(nms)
        with torch.no_grad():
            maps = model.neck(model.backbone(preprocessed(model, images)))
            (found,) = model.bbox_head.predict(maps, [sample])
        return found

    naive = predict()
    softer = {m: predict(method=m) for m in ('linear', 'gaussian')}
    model.bbox_head.test_cfg.nms = ConfigDict(type='nms', iou_threshold=0.1)
    plain = predict()
    assert len(plain) > 5
    for key in ('bboxes', 'scores', 'labels'):  # scores that become 0 are dropped
        assert torch.equal(naive[key], plain[key])
    for found in softer.values():
        assert len(found) > len(plain)  # what overlaps stays, with lower scores
        assert found.scores[0] == plain.scores[0]
        assert (found.scores.diff() <= 0).all()


@pytest.fixture
def in_mmdetection():
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.mark.usefixtures('in_mmdetection')
def test_dense_heads_of_mmdetection(handed):
    head = MMDET_MODELS.build(
        dict(
            type='RetinaHead',
            num_classes=3,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
        )
    )
    rpn = MMDET_MODELS.build(dict(type='RPNHead', in_channels=8, feat_channels=8))
    boxes, scores, labels = boxes_at_random(5000, side=90)
    cfg = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=50)
    for part in (head, rpn):
        key = 'level_ids' if part is rpn else 'labels'
        results = InstanceData(bboxes=boxes, scores=scores, **{key: labels})
        limits = dict(cfg.nms, max_num=50)
        wanted = nms_of_all(boxes, scores, labels, limits)
        handed.clear()
        found = part._bbox_post_process(
            results, cfg, img_meta={}, **({} if part is rpn else dict(with_nms=True))
        )
        assert handed == [1024]
        assert torch.equal(found.bboxes, boxes[wanted])
        assert torch.equal(found.scores, scores[wanted])
    assert cfg == dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=50)


@pytest.mark.usefixtures('in_mmdetection')
def test_region_heads_of_mmdetection(handed):
    head = MMDET_MODELS.build(
        dict(type='Shared2FCBBoxHead', num_classes=9, in_channels=2, roi_feat_size=1)
    )
    g = torch.Generator().manual_seed(0)
    boxes, _, _ = boxes_at_random(700)
    scores = torch.randn(700, 10, generator=g)
    cfg = ConfigDict(
        score_thr=0.001, nms=dict(type='nms', iou_threshold=0.5), max_per_img=30
    )
    args = torch.cat([boxes[:, :1] * 0, boxes], 1), scores, None
    meta = dict(img_shape=(700, 700))
    found = head._predict_by_feat_single(*args, meta, rcnn_test_cfg=cfg)
    assert len(found) == 30 and handed == [1024]
    raw = head._predict_by_feat_single(*args, meta, rcnn_test_cfg=None)
    pairs = raw.scores[:, :9].reshape(-1)
    labels = torch.arange(9).repeat(700)
    wanted = nms_of_all(
        raw.bboxes.repeat_interleave(9, 0), pairs, labels, dict(cfg.nms, max_num=30)
    )
    assert torch.equal(found.labels, labels[wanted])
    assert torch.equal(found.scores, pairs[wanted])
    assert torch.equal(found.bboxes, raw.bboxes[wanted // 9])


class Told(Exception):
    """Raised in NMS's place, with its config."""


@pytest.mark.parametrize(
    'head, method',
    [case[:2] for case in CUTTING_METHODS]
    + [(RTMDetInsSepBNHead, '_bbox_mask_post_process')],
)
def test_each_head_tells_its_limit(head, method, monkeypatch):
    def nms(*args, **kwargs):
        raise Told(args[3])

    names = vars(__import__(head.__module__, fromlist=['x']))
    function = getattr(head, method)
    assert function.__globals__ is names  # MMYOLO's YOLOXPoseHead relies on it
    name = 'multiclass_nms' if 'multiclass_nms' in names else 'batched_nms'
    monkeypatch.setitem(names, name, nms)
    cfg = ConfigDict(
        nms=dict(type='nms', iou_threshold=0.5), max_per_img=7, score_thr=0.1
    )
    boxes, scores, labels = boxes_at_random(9)
    results = InstanceData(bboxes=boxes, scores=scores, labels=labels, level_ids=labels)

    class Self:
        prior_generator = type('Priors', (), dict(strides=[(8, 8)]))
        custom_cls_channels = False

    with pytest.raises(Told) as told:
        if method == '_predict_by_feat_single':
            rois, meta = torch.rand(9, 5), dict(img_shape=None)
            function(Self(), rois, torch.rand(9, 4), None, meta, rcnn_test_cfg=cfg)
        elif 'mask' in method:
            function(Self(), results, None, cfg)
        else:
            function(Self(), results, cfg, img_meta={})
    assert told.value.args[0] == dict(type='nms', iou_threshold=0.5, max_num=7)


@pytest.mark.parametrize(
    'cfg',
    [
        dict(nms=dict(type='soft_nms', iou_threshold=0.5), max_per_img=9),
        dict(nms=dict(type='nms_rotated', iou_threshold=0.5), max_per_img=9),
        dict(nms=None, max_per_img=9),
        dict(max_per_img=9),
        dict(nms=dict(type='nms'), max_per_img=-1),
        dict(nms=dict(type='nms')),
        dict(nms=dict(type='nms', max_num=5), max_per_img=9),
    ],
)
def test_configs_that_stay_as_they_are(cfg):
    assert add_limit(ConfigDict(cfg)) == cfg


def test_mmdetection_has_it_everywhere():
    for module in (mmcv.ops, base_dense_head, yolox_head, bbox_nms):
        assert module.batched_nms is batched_nms
    assert MODELS.get('YOLOv5Head')._bbox_post_process is (
        base_dense_head.BaseDenseHead._bbox_post_process
    )
