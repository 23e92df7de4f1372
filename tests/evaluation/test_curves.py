"""Numbers from a matching, against pycocotools, by hand and by trying everything."""

from dataclasses import replace

from mmnextvit.evaluation.averages import PRECISIONS
from mmnextvit.evaluation.curves import (
    average_precisions,
    count_at,
    count_confusion,
    describe_best,
    draw_counts,
    find_best,
    find_best_scores,
    find_faults,
    find_worst_images,
    list_thresholds,
    to_metadata,
    trace_recalls,
    trace_scores,
)

import numpy as np
import pytest
from mmengine.logging import MMLogger

from tests.helpers.matchings import CLASSES, draw_samples, evaluate, make_sample, match
from tests.helpers.pycocotools_runs import run_pycocotools

CAT, DOG, FOX = range(3)


def truth(box, label, crowd=0):
    return dict(bbox=box, bbox_label=label, ignore_flag=crowd)


@pytest.mark.parametrize('seed', range(4))
def test_precisions_are_pycocotools_points(seed):
    samples = draw_samples(seed, images=10)
    matching = match(*samples)
    precision = run_pycocotools(samples).eval['precision'][..., -1]
    precision = np.where(precision < 0, np.nan, precision)
    own = trace_recalls(matching)
    np.testing.assert_allclose(own.precision[:-1].T, precision[0, :, :, 0])
    np.testing.assert_allclose(
        own.precision[-1], np.nanmean(precision[0, :, :, 0], axis=1)
    )
    averages = average_precisions(matching)
    np.testing.assert_allclose(
        averages.by_iou_and_area[:-1].transpose(1, 0, 2), precision.mean(axis=1)
    )
    np.testing.assert_allclose(averages.by_iou[0], precision[..., 0, 0].mean(axis=1))


def count(samples, label, score):
    """Right detections, all of them, and objects, at a minimum score, by hand."""
    matching = match(*samples)
    found = matching.detections
    chosen = [
        i
        for i in range(len(found.score))
        if (label is None or found.label[i] == label)
        and found.score[i] >= score
        and not found.ignored[i]
    ]
    boxes = [
        one
        for sample in samples
        for one in sample['instances']
        if (label is None or one['bbox_label'] == label) and not one['ignore_flag']
    ]
    return sum(found.truth[i] >= 0 for i in chosen), len(chosen), len(boxes)


def test_curves_count_detections_of_at_least_a_score():
    samples = draw_samples(2, images=8)
    scores = np.array([0, 0.1, 0.35, 0.4, 0.9, 1])
    curves = trace_scores(match(*samples), scores)
    for row, label in enumerate([CAT, DOG, FOX, None]):
        for column, score in enumerate(np.float32(scores)):  # ties at 0.1, 0.4, 0.9
            right, chosen, boxes = count(samples, label, score)
            wanted = (
                right / chosen if chosen else np.nan,
                right / boxes,
                2 * right / (chosen + boxes),
            )
            got = [values[row, column] for values in curves[1:]]
            np.testing.assert_allclose(got, wanted)


def test_table_of_a_minimum_score():
    """Each class with its own, and all together, as the curves have them."""
    samples = draw_samples(2, images=8)
    matching = match(*samples)
    curves = trace_scores(matching, np.array([0.4]))
    for values, wanted in zip(count_at(matching, 0.4), curves[1:], strict=True):
        np.testing.assert_allclose(values, wanted[:, 0])
    table = draw_counts(matching, [0.4, 0.1, 1.0])
    rows = [
        [cell.strip() for cell in line.split('|')[1:-1]] for line in table.split('\n')
    ]
    right, chosen, boxes = count(samples, DOG, np.float32(0.1))
    f1 = 2 * right / (chosen + boxes)
    numbers = [f'{x:.3f}' for x in (right / chosen, right / boxes, f1)]
    assert ['dog', '0.1', *numbers] in rows
    assert rows[-2][:2] == ['all', ''] and rows[1][1] == 'score from'
    assert ['fox', '1', '-', '0.000', '0.000'] in rows


@pytest.mark.parametrize('seed', range(8))
def test_best_scores_have_the_highest_f1_of_all(seed):
    """No minimum gives a higher one, and the score itself gives it, in float32 too."""
    samples = draw_samples(seed, images=8, ties=seed % 2 == 0)
    matching = match(*samples)
    best = find_best_scores(matching)
    assert list(best.classes) == list(CLASSES)
    for label, one in [(None, best.all), *enumerate(best.classes.values())]:
        every = [
            2 * right / (chosen + boxes)
            for score in [0, *matching.detections.score]
            for right, chosen, boxes in [count(samples, label, score)]
        ]
        for score in (one.score, np.float32(one.score)):
            right, chosen, boxes = count(samples, label, score)
            assert one.f1 == max(every) == 2 * right / (chosen + boxes)
            assert (one.precision, one.recall) == (right / chosen, right / boxes)


@pytest.mark.parametrize(
    ('scores', 'hits', 'boxes', 'wanted'),
    [
        ([0.9, 0.8, 0.3], [1, 1, 0], 2, 0.55),  # the middle of 0.3 and 0.8
        ([0.9, 0.8, 0.2], [1, 1, 1], 3, 0.15),  # of the lowest known and 0.2
        ([0.9, 0.8, 0.5, 0.4, 0.1], [1, 0, 1, 0, 0], 2, 0.45),
        # 1 of 1, and 2 of 4, are equal for 2 boxes: the wider range.
        ([0.9, 0.5, 0.4, 0.3], [1, 0, 0, 1], 2, 0.7),
        ([0.9, 0.895, 0.88, 0.6], [1, 0, 0, 1], 2, 0.35),
        ([0.5123, 0.5121, 0.1], [1, 0, 0], 1, 0.5122),  # as short as it fits
        ([0.4, 0.4, 0.4], [1, 0, 0], 1, 0.25),  # all of one score, or none
        ([0.1], [1], 1, 0.1),  # nothing is known below
        ([0.9, 0.8], [0, 0], 4, None),
        ([], [], 4, None),
        ([0.9], [0], 0, None),
    ],
)
def test_best_score_lies_in_the_middle(scores, hits, boxes, wanted):
    best = find_best(np.array(scores, float), np.array(hits, bool), boxes, 0.1)
    assert (best and best.score) == wanted


def test_classes_without_boxes_have_no_best_score():
    """Nor those of which nothing was found; they take that of all, or 0.3."""
    box = [0, 0, 50, 50]
    far = [100, 100, 150, 150]
    sample = make_sample(
        0,
        [truth(box, CAT), truth(far, DOG)],
        [box, far, far],
        [0, 2, 0],
        [0.6, 0.9, 0.2],
    )
    matching = match(sample)
    best = find_best_scores(matching)
    assert to_metadata(best) == {'all': best.all.score, 'classes': {'cat': 0.4}}
    assert list_thresholds(matching, best).tolist() == [0.4] + [best.all.score] * 2
    assert describe_best(best.all).startswith('Highest F1 at IoU 0.5: 0.500')
    nothing = match(make_sample(0, [truth(box, CAT)], [far], [0], [0.6]))
    none = find_best_scores(nothing)
    assert to_metadata(none) is None
    assert list_thresholds(nothing, none).tolist() == [0.3] * 3
    assert 'no object' in describe_best(none.all)
    curves = trace_scores(matching, np.array([0, 0.95]))
    assert np.isnan(curves.f1[FOX]).all() and np.isnan(curves.recall[FOX]).all()
    assert curves.precision[FOX].tolist()[0] == 0 and np.isnan(curves.precision[FOX, 1])


def test_classes_of_one_name_have_one_best_score():
    box, far = [0, 0, 50, 50], [100, 100, 150, 150]
    instances = [truth(box, CAT), truth(far, DOG)]
    sample = make_sample(0, instances, [box, far], [0, 1], [0.6, 0.4])
    matching = replace(match(sample), classes=('cat', 'cat', 'fox'))
    best = find_best_scores(matching)
    assert list(best.classes) == ['cat'] and best.classes['cat'].recall == 1
    assert len(set(list_thresholds(matching, best))) == 1


# Three images with a case of each kind.
A, B, C, D = ([x, 0, x + 50, 50] for x in (0, 60, 120, 180))
LOW = [240, 0, 290, 50]
SCENE = [
    make_sample(
        0,
        [truth(A, CAT), truth(B, CAT), truth(C, DOG), truth(D, FOX), truth(LOW, CAT)],
        [A, A, B, [120, 0, 170, 20], D, LOW, [0, 200, 50, 250]],
        [CAT, CAT, DOG, DOG, CAT, CAT, FOX],
        [0.9, 0.8, 0.7, 0.6, 0.55, 0.2, 0.5],
    ),
    make_sample(1, [truth(A, FOX)], [], [], []),
    # Of the crowd nothing counts; what lies on a cat that was found is no fox.
    make_sample(
        2,
        [truth([0, 0, 200, 200], DOG, 1), truth([210, 0, 260, 50], CAT)],
        [A, [210, 0, 260, 50], [210, 0, 260, 50]],
        [DOG, CAT, FOX],
        [0.9, 0.9, 0.8],
    ),
]


def test_confusion_matrix_by_hand():
    counts = count_confusion(match(*SCENE), 0.5)
    assert counts.tolist() == [
        # cat, dog, fox, missed
        [2, 1, 0, 1],  # two found, one taken for a dog, one of too low a score
        [0, 0, 0, 1],  # detected, but badly placed
        [1, 0, 0, 1],  # taken for a cat
        [1, 1, 2, 0],  # found twice, badly placed; nothing there, another's cat
    ]
    by_class = count_confusion(match(*SCENE), np.array([0.1, 1, 0.6]))
    assert by_class.tolist() == [[3, 0, 0, 1], [0, 0, 0, 1], [1, 0, 0, 1], [1, 0, 1, 0]]


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('score', [0, 0.3, 2])
def test_confusion_matrix_counts_all_once(seed, score):
    """Its diagonal is the matching's, its sums are all objects and all detections."""
    samples = draw_samples(seed)
    counts = count_confusion(match(*samples), score)
    for label in range(3):
        right, chosen, boxes = count(samples, label, score)
        assert counts[label, label] == right
        assert counts[:, label].sum() == chosen
        assert counts[label].sum() == boxes
    assert counts[-1, -1] == 0


def test_faults_say_what_and_why():
    matching = match(*SCENE)
    faults = find_faults(matching, 0.5)
    seen = [(f.image, f.kind, f.why) for f in faults]
    assert sorted(seen) == sorted(
        [
            (0, 'false', 'annotated as cat'),
            (0, 'missed', 'detected as dog, 0.70'),
            (0, 'false', 'annotated as fox'),
            (0, 'missed', 'detected as cat, 0.55'),
            (0, 'misplaced', 'overlaps the object by IoU 0.40 only'),
            (0, 'false', 'found twice'),
            (0, 'false', 'nothing is annotated'),
            (0, 'missed', 'its score is 0.20 only'),
            (1, 'missed', 'not detected'),
            (2, 'false', 'annotated as cat'),
        ]
    )
    boxes = matching.detections.box, matching.truths.box
    by_why = {f.why: f for f in faults if f.image < 2}
    one = by_why['overlaps the object by IoU 0.40 only']
    assert boxes[0][one.detection].tolist() == [120, 0, 170, 20]
    assert boxes[1][one.truth].tolist() == C
    assert boxes[1][by_why['found twice'].truth].tolist() == A
    assert by_why['nothing is annotated'].truth == -1
    assert by_why['not detected'].detection == -1
    assert [f.image for f in faults] == sorted(f.image for f in faults)


def test_worst_images_come_first():
    faults = find_faults(match(*SCENE), 0.5)
    worst = find_worst_images(faults, 'missed')
    assert [image for image, _ in worst] == [0, 1]
    kinds = [fault.kind for fault in worst[0][1]]
    assert kinds[:3] == ['missed'] * 3 and 'missed' not in kinds[3:]
    assert [image for image, _ in find_worst_images(faults, 'misplaced')] == [0]
    assert [image for image, _ in find_worst_images(faults, 'false', 1)] == [0]
    assert find_worst_images([], 'false') == []


def test_numbers_of_no_data():
    """No image has a box, and nothing is detected."""
    matching = match(make_sample(0, [], [], [], []))
    assert np.isnan(trace_recalls(matching).precision).all()
    assert np.isnan(average_precisions(matching).by_area).all()
    assert count_confusion(matching, 0.3).tolist() == [[0] * 4] * 4
    assert find_faults(matching, 0.3) == []
    assert to_metadata(find_best_scores(matching)) is None


def test_metric_logs_the_highest_f1(monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger, 'info', lambda _, line: lines.append(line))
    metric, numbers = evaluate(draw_samples(0))
    best = find_best_scores(metric.matching).all
    line = describe_best(best)
    assert f'{best.score:.4g} ' in line and f'{best.recall:.3f})' in line
    assert lines.count(line) == 1
    assert set(numbers) == {f'coco/bbox_{name}' for name in PRECISIONS}
