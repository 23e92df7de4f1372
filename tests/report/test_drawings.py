"""What is drawn on an image, and what is said of it."""

from mmnextvit.evaluation.curves import find_faults
from mmnextvit.report.drawings import (
    CONFUSED,
    FALSE,
    FOUND,
    MISPLACED,
    MISSED,
    compute_iou,
    describe_fault,
    describe_faults,
    draw_worst_images,
    list_loose,
    list_marks,
)
from mmnextvit.visualization.marks import Mark, draw_marks

import numpy as np
import pytest

from tests.helpers.matchings import make_sample, match

CAT, DOG = 0, 1
THRESHOLD = np.array([0.3, 0.3, 0.3])


def at(x, y=0, side=40):
    return [x, y, x + side, y + side]


@pytest.fixture(scope='module')
def matching():
    """An image with one thing of each kind, and one without anything wrong."""
    truth = [(at(0), CAT), (at(50), CAT), (at(100), CAT), (at(250, 200), CAT)]
    truth += [(at(150), DOG), (at(200), DOG)]
    detected = [
        (at(0), CAT, 0.9),  # found
        (at(62), CAT, 0.8),  # found, but loose: IoU 28 / 52
        (at(120, 10), CAT, 0.7),  # badly placed: IoU 20 * 30 / (3200 - 600)
        (at(150), CAT, 0.6),  # a dog
        (at(0, 200), DOG, 0.5),  # nothing
        (at(50, 200), DOG, 0.2),  # nothing, but below the threshold
        (at(200), DOG, 0.25),  # found, but below the threshold
    ]
    samples = [
        make_sample(
            number,
            [dict(bbox=box, bbox_label=label, ignore_flag=0) for box, label in truth],
            *zip(*[[*x] for x in detected]),
        )
        for number, truth, detected in [
            (0, truth, detected),
            (1, [(at(10), CAT)], [(at(10), CAT, 0.9)]),
        ]
    ]
    return match(*samples)


@pytest.fixture(scope='module')
def faults(matching):
    every = find_faults(matching, THRESHOLD) + list_loose(matching, THRESHOLD)
    assert {fault.image for fault in every} == {0}
    return every


def test_marks_say_what_each_box_is(matching, faults):
    marks = {(m.colour, m.text): m for m in list_marks(matching, 0, faults, THRESHOLD)}
    drawn = {key: [round(float(v)) for v in mark.box] for key, mark in marks.items()}
    assert drawn.pop((MISPLACED, ''))  # the objects behind badly placed boxes
    assert drawn == {
        (FOUND, ''): at(0),
        (MISPLACED, 'IoU 0.54'): at(62),
        (MISPLACED, 'IoU 0.23'): at(120, 10),
        (CONFUSED, 'cat 0.60, is dog'): at(150),
        (MISSED, 'missed dog'): at(200),
        (MISSED, 'missed cat'): at(250, 200),
        (FALSE, 'false dog 0.50'): at(0, 200),
    }
    assert marks[MISSED, 'missed dog'].dashed and not marks[FOUND, ''].dashed
    assert [m.colour for m in list_marks(matching, 1, [], THRESHOLD)] == [FOUND]


def test_a_line_counts_what_is_wrong(matching, faults):
    assert describe_faults(matching, 0, faults) == (
        '2 of 2 dog missed, 1 of 4 cat missed, 1 false cat for another class (0.60), '
        '1 false dog (0.50), 2 boxes badly placed (IoU 0.23, 0.54)'
    )
    lines = [describe_fault(matching, fault) for fault in faults]
    assert 'dog missed: its score is 0.25 only' in lines
    assert 'cat false (0.60): annotated as dog' in lines
    assert 'cat badly placed (0.80): overlaps the object by IoU 0.54' in lines
    assert 'dog false (0.50): nothing is annotated' in lines


def test_images_without_a_file_are_told(matching, faults):
    blocks, unread = draw_worst_images(matching, faults, THRESHOLD)
    assert [block.title for block in blocks] == [
        'Most missed',
        'Most false',
        'Most badly placed',
    ]
    assert len(unread) == 1 and '/data/0.jpg' in unread[0]


def test_intersection_over_union():
    a, b = np.array([0, 0, 10, 10]), np.array([5, 0, 15, 10])
    assert compute_iou(a, b) == pytest.approx(1 / 3)
    assert compute_iou(a, a + 20) == 0


def test_boxes_are_drawn_where_they_are():
    grey = np.full((50, 100, 3), 128, np.uint8)
    drawn = draw_marks(grey, [Mark([10, 10, 40, 40], '#ff0000')], side=200)
    assert drawn.shape == (100, 200, 3)
    changed = (drawn != 128).any(axis=2)
    assert changed[20, 20:81].all() and changed[20:81, 80].all()
    assert not changed[:19].any() and not changed[25:75, 25:75].any()
    assert (drawn[20, 50] == [255, 0, 0]).all() and (grey == 128).all()
    dashes = draw_marks(grey, [Mark([10, 10, 40, 40], '#ff0000', dashed=True)], 200)
    row = (dashes[20, 20:81] != 128).any(axis=1)
    assert 0.4 < row.mean() < 0.9


@pytest.mark.parametrize('box', [[-50, -50, 500, 500], [90, 45, 99, 49], [5, 5, 5, 5]])
def test_texts_and_boxes_beyond_the_border(box):
    grey = np.full((50, 100, 3), 128, np.uint8)
    for dashed in (False, True):
        mark = Mark(box, '#0072b2', 'a very long name that is Größe 細胞', dashed)
        assert (draw_marks(grey, [mark], 100) != 128).any()
