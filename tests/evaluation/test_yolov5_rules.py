"""The mAP of YOLOv5's val.py, against its rules written out anew."""

from mmnextvit.evaluation.curves import average_precisions
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest

from tests.helpers.matchings import CLASSES, evaluate, make_sample
from tests.helpers.yolov5_commands import measure

VAL = dict(rules='yolov5', map_detections=300, proposal_nums=(1, 10, 300))


def draw_crowd(seed, images=4, objects=150, classes=1, ties=False):
    """Crowded boxes that overlap, each found well, badly, twice or not at all."""
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(images):
        corners = rng.uniform(0, 260, (objects, 2))
        truth = np.concatenate(
            [corners, corners + rng.uniform(12, 50, (objects, 2))], 1
        )
        labels = rng.integers(classes, size=objects)
        found = rng.permutation(
            np.repeat(np.arange(objects), rng.integers(0, 4, objects))
        )
        found = found[:300]
        noise = rng.normal(0, rng.choice([0.5, 2, 6], (len(found), 1)), (len(found), 4))
        scores = 1 / (1 + np.abs(noise).mean(1)) * rng.uniform(0.4, 1, len(found))
        order = np.argsort(-scores)
        wrong = rng.random(len(found)) < 0.1
        found_labels = np.where(
            wrong, rng.integers(classes, size=len(found)), labels[found]
        )
        samples.append(
            make_sample(
                number,
                [
                    dict(bbox=list(box), bbox_label=int(label), ignore_flag=0)
                    for box, label in zip(truth, labels)
                ],
                (truth[found] + noise)[order],
                found_labels[order],
                (scores.round(1) if ties else scores)[order],
            )
        )
    return samples


def by_hand(samples, classes):
    images = [
        (
            list(zip(*(sample['pred_instances'][key].tolist() for key in keys))),
            [(one['bbox'], one['bbox_label']) for one in sample['instances']],
        )
        for sample in samples
        for keys in [('bboxes', 'scores', 'labels')]
    ]
    return measure(images, classes)


@pytest.mark.parametrize('classes', [1, 3])
@pytest.mark.parametrize('ties', [False, True])
def test_map_of_crowds_is_yolov5s(classes, ties):
    """Ties have an order of their own in YOLOv5, which NumPy's sort leaves open."""
    samples = draw_crowd(classes + 10 * ties, classes=classes, ties=ties)
    wanted = by_hand(samples, classes)
    names = CLASSES[:classes]
    metric, numbers = evaluate(samples, names, classwise=True, **VAL)
    limit = 0.005 if ties else 0.0006
    assert numbers['coco/bbox_mAP'] == pytest.approx(wanted.mean(), abs=limit)
    assert numbers['coco/bbox_mAP_50'] == pytest.approx(wanted[:, 0].mean(), abs=limit)
    assert numbers['coco/bbox_mAP_75'] == pytest.approx(wanted[:, 5].mean(), abs=limit)
    for name, value in zip(names, wanted.mean(axis=1)):
        assert numbers[f'coco/{name}_precision'] == pytest.approx(value, abs=limit)
    averages = average_precisions(metric.matching)  # the report's
    assert averages.by_area[-1, 0] == pytest.approx(wanted.mean(), abs=limit)
    # COCO's rules say something else of the same boxes.
    coco = evaluate(samples, names)[1]['coco/bbox_mAP']
    assert abs(coco - wanted.mean()) > 0.02


def perfect(count):
    """One image with that many objects, all of which are found."""
    corners = np.array([(x, y) for x in range(0, 320, 16) for y in range(0, 320, 16)])
    boxes = np.concatenate([corners, corners + 12], 1)[:count].astype(float)
    truth = [dict(bbox=list(box), bbox_label=0, ignore_flag=0) for box in boxes]
    scores = np.linspace(0.9, 0.1, count)
    return make_sample(0, truth, boxes, np.zeros(count), scores)


def test_what_finds_everything():
    """YOLOv5's curve ends in precision 0 at recall 1: half a hundredth is missing."""
    _, numbers = evaluate([perfect(250)], CLASSES[:1], **VAL)
    assert numbers['coco/bbox_mAP'] == numbers['coco/bbox_mAP_50'] == 0.995


def test_number_of_detections_of_cocos_map():
    samples = [perfect(250)]
    assert evaluate(samples, CLASSES[:1])[1]['coco/bbox_mAP'] == pytest.approx(
        41 / 101, abs=1e-3
    )
    for nums in ((1, 10, 300), (300, 10, 1000)):  # faster_coco_eval; pycocotools
        metric, numbers = evaluate(
            samples, CLASSES[:1], map_detections=300, proposal_nums=nums
        )
        assert numbers['coco/bbox_mAP'] == 1
        assert (metric.matching.truths.detection >= 0).sum() == 250
        averages = average_precisions(metric.matching)
        assert averages.by_area[:, 0].tolist() == [1, 1]


def test_a_detection_stands_for_one_object():
    """COCO's would take the free object beside the best one."""
    boxes = [[0, 0, 100, 100], [0, 0, 100, 110]]
    truth = [dict(bbox=box, bbox_label=0, ignore_flag=0) for box in boxes]
    sample = make_sample(0, truth, [boxes[0], [0, 0, 100, 101]], [0, 0], [0.9, 0.8])
    wanted = by_hand([sample], 1)
    _, numbers = evaluate([sample], CLASSES[:1], **VAL)
    assert numbers['coco/bbox_mAP_50'] == pytest.approx(wanted[0, 0], abs=5e-4)
    assert wanted[0, 0] < 0.8
    assert evaluate([sample], CLASSES[:1])[1]['coco/bbox_mAP_50'] == 1


def test_classes_without_objects_do_not_count():
    samples = [perfect(9)]
    _, numbers = evaluate(samples, CLASSES, classwise=True, **VAL)
    assert next(iter(numbers)) == 'coco/bbox_mAP'  # what save_best='auto' takes
    assert numbers['coco/bbox_mAP'] == 0.995
    assert np.isnan(numbers['coco/dog_precision'])
    empty = {**samples[0], 'instances': []}
    assert evaluate([empty], CLASSES, **VAL)[1]['coco/bbox_mAP'] == -1


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(map_detections=300), 'counts 300 detections: make it one of them'),
        (dict(rules='voc'), "rules of the evaluator are 'voc'.* coco, yolov5"),
    ],
)
def test_settings_that_cannot_be(given, message):
    with pytest.raises(UserError, match=message):
        evaluate([], **given)
