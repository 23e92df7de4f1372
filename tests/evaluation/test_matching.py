"""What the metric keeps of its matching, against pycocotools' own."""

import json

from mmnextvit.evaluation import averages
from mmnextvit.evaluation.curves import average_precisions

import numpy as np
import pytest

from tests.helpers.matchings import (
    draw_samples,
    evaluate,
    make_sample,
    match,
)
from tests.helpers.pycocotools_runs import run_pycocotools


def list_matches(evaluation):
    """Box of each detection and of what it took at IoU 0.5, and whether it counts."""
    found, truth = evaluation.cocoDt.anns, evaluation.cocoGt.anns
    matches = set()
    for one in filter(None, evaluation.evalImgs):
        if one['aRng'] != [0, 1e10]:
            continue
        for number, taken, ignored in zip(
            one['dtIds'], one['dtMatches'][0].astype(int), one['dtIgnore'][0]
        ):
            box = truth[taken]['bbox'] if taken else None
            matches.add(
                (
                    one['image_id'],
                    one['category_id'],
                    found[number]['score'],
                    as_key(found[number]['bbox']),
                    as_key(box),
                    bool(ignored),
                )
            )
    return matches


def as_key(box):
    return box and tuple(round(float(x), 2) for x in box)


def to_key(corners):
    x1, y1, x2, y2 = corners
    return as_key([x1, y1, x2 - x1, y2 - y1])


def list_own(matching):
    found, truth = matching.detections, matching.truths
    return {
        (
            int(found.image[i]),
            int(found.label[i]),
            float(found.score[i]),
            to_key(found.box[i]),
            to_key(truth.box[found.truth[i]]) if found.truth[i] >= 0 else None,
            bool(found.ignored[i]),
        )
        for i in range(len(found.image))
    }


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('most', [(100, 1, 10), (100, 300, 1000)])
def test_matching_is_pycocotools_at_half(seed, most):
    """By faster_coco_eval and by pycocotools, with ties, crowds and doubles."""
    samples = draw_samples(seed)
    matching = match(*samples, proposal_nums=most)
    wanted = list_matches(run_pycocotools(samples))
    assert list_own(matching) == wanted
    found, truth = matching.detections, matching.truths
    taken = np.flatnonzero((found.truth >= 0) & ~found.ignored)
    assert (truth.detection[found.truth[taken]] == taken).all()
    assert sum(truth.detection >= 0) == len(taken)
    order = np.lexsort((-found.score, found.image))
    assert (order == np.arange(len(order))).all()
    assert (found.iou[taken] >= 0.5).all()


def test_mean_of_the_matching_is_the_metrics():
    """Of all sizes and of each; of IoU 0.5 too where it is not among the thresholds."""
    samples = draw_samples(3, images=12)
    for given in ({}, dict(iou_thrs=[0.6, 0.75]), dict(proposal_nums=(100, 300, 1000))):
        metric, numbers = evaluate(samples, **given)
        averages = average_precisions(metric.matching)
        names = ('mAP', 'mAP_s', 'mAP_m', 'mAP_l')
        wanted = [numbers[f'coco/bbox_{name}'] for name in names]
        np.testing.assert_allclose(averages.by_area[-1], wanted, atol=5e-4)
        matched = metric.matching.detections
        assert list_own(metric.matching) == list_matches(run_pycocotools(samples))
        assert len(averages.by_iou[0]) == len(metric.matching.iou_thresholds)
        assert len(matched.image)


def test_detections_are_matched_once(monkeypatch):
    """The mAP and the matching are of one run of the evaluation."""
    runs = []
    for name in ('COCOeval_faster', 'COCOeval'):
        counter = getattr(averages, name)
        monkeypatch.setattr(
            counter,
            'evaluate',
            lambda self, evaluate=counter.evaluate: [
                runs.append(self.params.iouType),
                evaluate(self),
            ],
        )
    match(*draw_samples(0))
    assert runs == ['bbox']


def test_detections_beyond_a_hundred_of_a_class_do_not_count():
    """As in the mAP, in whichever way was counted; an object may be missed by it."""
    truth = [dict(bbox=[0, 0, 40, 40], bbox_label=0, ignore_flag=0)]
    boxes = [[100, 100, 140, 140]] * 120 + [[0, 0, 40, 40]]
    scores = np.linspace(0.9, 0.1, 121)
    labels = [0] * 110 + [1] * 10 + [0]
    for most in ((100, 1, 10), (100, 300, 1000)):
        matching = match(
            make_sample(0, truth, boxes, labels, scores), proposal_nums=most
        )
        counts = np.bincount(matching.detections.label, minlength=3)
        assert counts.tolist() == [100, 10, 0]
        assert matching.truths.detection.tolist() == [-1]


def test_ious_are_with_the_match_or_the_nearest_of_the_class():
    truth = [
        dict(bbox=[0, 0, 100, 100], bbox_label=0, ignore_flag=0),
        dict(bbox=[200, 0, 300, 100], bbox_label=1, ignore_flag=0),
        dict(bbox=[0, 200, 100, 300], bbox_label=1, ignore_flag=1),
    ]
    boxes = [
        [0, 0, 100, 80],  # found
        [0, 0, 100, 90],  # found already
        [200, 0, 300, 40],  # too far off
        [200, 0, 300, 100],  # of another class
        [0, 200, 50, 250],  # in the crowd
    ]
    sample = make_sample(0, truth, boxes, [0, 0, 1, 0, 1], [0.9, 0.8, 0.7, 0.6, 0.5])
    found = match(sample).detections
    np.testing.assert_allclose(found.iou, [0.8, 0.9, 0.4, 0, 1], atol=1e-6)
    assert found.truth.tolist() == [0, -1, -1, -1, 2]
    assert found.ignored.tolist() == [False] * 4 + [True]


def test_matching_without_any_detection():
    """All is missed, and precisions are 0 where there are boxes, else -1."""
    truth = [
        dict(bbox=[0, 0, 20, 20], bbox_label=0, ignore_flag=0),
        dict(bbox=[0, 0, 100, 200], bbox_label=2, ignore_flag=0),
        dict(bbox=[0, 0, 100, 200], bbox_label=1, ignore_flag=1),
    ]
    metric, _ = evaluate([make_sample(5, truth, [], [], [])])
    matching = metric.matching
    assert matching.images == ((5, '/data/5.jpg', 320, 320),)
    assert len(matching.detections.box) == 0
    assert matching.truths.detection.tolist() == [-1] * 3
    assert matching.precisions.shape == (10, 101, 3, 4)
    wanted = [[0, 0, -1, -1], [-1] * 4, [0, -1, -1, 0]]
    assert (matching.precisions == np.array(wanted)).all()


def test_only_boxes_and_only_the_last_evaluation_are_kept():
    samples = draw_samples(1)
    metric, _ = evaluate(samples, metric='proposal')
    assert metric.matching is None
    metric, _ = evaluate(samples)
    assert metric.matching is not None
    metric.format_only, metric.outfile_prefix = True, None
    metric.process({}, samples)
    metric.evaluate(len(samples))
    assert metric.matching is None


def test_images_of_a_file_keep_their_ids_and_paths(tmp_path):
    """Of texts and numbers, of a subset of the classes, of boxes of no class."""
    images = [dict(id=n, file_name=f'{n}.jpg', width=320, height=320) for n in 'ba']
    categories = [dict(id=i, name=name) for i, name in [(7, 'dog'), (3, 'cat')]]
    boxes = [('a', 7), ('b', 3), ('b', 7), ('b', 3)]
    annotations = [
        dict(id=i, image_id=n, category_id=c, bbox=[40 * i, 0, 30, 30], area=900)
        for i, (n, c) in enumerate(boxes)
    ]
    content = dict(images=images, categories=categories, annotations=annotations)
    (tmp_path / 'boxes.json').write_text(json.dumps(content))
    sample = make_sample('b', [], [[40, 0, 70, 30]], [0], [0.5])
    sample['img_path'] = 'b.jpg'
    metric, _ = evaluate(
        [sample], classes=('cat',), ann_file=str(tmp_path / 'boxes.json')
    )
    matching = metric.matching
    assert [(i.id, i.path) for i in matching.images] == [('a', ''), ('b', 'b.jpg')]
    assert matching.truths.image.tolist() == [1, 1]
    assert matching.truths.box[:, 0].tolist() == [40, 120]
    assert matching.truths.detection.tolist() == [0, -1]
