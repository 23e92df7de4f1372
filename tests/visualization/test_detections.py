"""Where boxes, texts and masks land, and what they cost."""

import cProfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mmnextvit.visualization.detections import draw_detections, list_colours
from mmnextvit.visualization.marks import place_texts, render_text

import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData

CLASSES = 'cat', 'dog'
COLOURS = list_colours([(255, 0, 0), (0, 0, 255)], 2)
GREY = np.full((200, 300, 3), 128, np.uint8)


def instances(boxes: Sequence, labels: Sequence[int], **more) -> InstanceData:
    boxes = torch.tensor(boxes, dtype=torch.float).reshape(-1, 4)
    return InstanceData(bboxes=boxes, labels=torch.tensor(labels).long(), **more)


def random_boxes(count: int) -> InstanceData:
    random = np.random.default_rng(0)
    corners = random.uniform(0, [280, 180], (count, 2))
    sides = random.uniform(5, 60, (count, 2))
    boxes = np.hstack([corners, corners + sides])
    labels = random.integers(0, 2, count)
    return instances(boxes, labels, scores=torch.linspace(0.99, 0.3, count))


def test_boxes_have_their_class_s_colour():
    found = instances([[50, 60, 150, 140], [180, 60, 350, 150]], [0, 1])
    drawn = draw_detections(GREY, found, CLASSES, COLOURS)
    assert drawn.shape == GREY.shape and (GREY == 128).all()
    assert (drawn[100, 50] == [255, 0, 0]).all() and (drawn[140, 70:140, 1] == 0).all()
    assert (drawn[100, 180] == [0, 0, 255]).all()
    assert (drawn[100, 299] == [0, 0, 255]).all()  # what lies beyond is at the border
    assert (drawn[80:130, 60:140] == 128).all()
    nothing = draw_detections(GREY, instances([], []), CLASSES, COLOURS)
    assert (nothing == GREY).all() and nothing is not GREY


def test_scores_are_written_in_percent():
    """The truth has none, so that its texts are shorter."""
    box, scores = [[50, 60, 250, 140]], torch.tensor([0.932])
    with_score = draw_detections(
        GREY, instances(box, [0], scores=scores), CLASSES, COLOURS
    )
    without = draw_detections(GREY, instances(box, [0]), CLASSES, COLOURS)
    widths = [
        np.flatnonzero((drawn[:58] != 128).any((0, 2))).max() - 50
        for drawn in (with_score, without)
    ]
    for width, text in zip(widths, ('cat: 93.2', 'cat')):
        assert width == pytest.approx(render_text(text, 12).width, abs=2)


def test_colours_of_all_palettes():
    assert list_colours([(1, 2, 255)], 1) == ['#0102ff']
    more = list_colours([(1, 2, 255)], 3)  # of more classes than colours
    assert more[0] == '#0102ff' and more[1:] == list_colours('random', 3)[1:]
    assert list_colours(None, 3) == list_colours('random', 3)
    assert len({*list_colours('coco', 80)}) == 80


def cover_share(corners: Sequence, sizes: Sequence, side: int) -> float:
    """The share of the texts' area that is covered by another text."""
    count = np.zeros((side, side), int)
    for (x, y), (width, height) in zip(corners, sizes):
        count[y : y + height, x : x + width] += 1
    return float((count - 1).clip(0).sum() / count.sum())


@pytest.mark.parametrize('count', [30, 60])
def test_texts_cover_each_other_less_than_at_the_corners_of_boxes(count):
    """Where MMDetection writes them: inside, at the upper left corner."""
    random = np.random.default_rng(count)
    corners = random.uniform(0, 350, (count, 2))
    boxes = np.hstack([corners, corners + random.uniform(20, 140, (count, 2))])
    boxes = boxes.clip(0, 399)
    sizes = [render_text('cat: 93.2', 11).size] * count
    placed = place_texts(boxes.tolist(), sizes, (400, 400))
    for (x, y), (width, height) in zip(placed, sizes):
        assert 0 <= x <= 400 - width and 0 <= y <= 400 - height
    inside = boxes[:, :2].astype(int).tolist()
    now, before = (cover_share(places, sizes, 400) for places in (placed, inside))
    assert now <= 0.5 * before and before > 0.02


def test_a_text_stands_above_its_box_or_inside():
    width, height = size = render_text('cat', 11).size
    (above,) = place_texts([[40, 60, 90, 90]], [size], (100, 100))
    assert above == (40, 60 - height)
    (inside,) = place_texts([[95, 2, 99, 90]], [size], (100, 100))
    assert inside == (100 - width, 0)


def count_calls(count: int) -> int:
    profile = cProfile.Profile()
    found = random_boxes(count)
    profile.runcall(draw_detections, GREY, found, CLASSES, COLOURS)
    return sum(entry.callcount for entry in profile.getstats())


def test_the_work_is_linear_in_the_number_of_boxes():
    draw_detections(GREY, random_boxes(10), CLASSES, COLOURS)  # loads fonts
    few, many = count_calls(100), count_calls(1000)
    assert many < 15 * few


def test_threads_draw_the_same_at_once():
    found = [random_boxes(count) for count in (5, 20, 40, 5, 20, 40)]

    def draw(one: InstanceData) -> np.ndarray:
        return draw_detections(GREY, one, CLASSES, COLOURS)

    alone = list(map(draw, found))
    with ThreadPoolExecutor(4) as threads:
        assert all(map(np.array_equal, threads.map(draw, found), alone))


@pytest.mark.parametrize('form', ['tensor', 'array', 'bitmap'])
def test_masks_are_coloured_inside_a_white_line(form):
    mask = np.zeros((2, 200, 300), bool)
    mask[0, 50:101, 60:141] = True
    masks = {
        'tensor': torch.from_numpy(mask),
        'array': mask,
        'bitmap': BitmapMasks(mask.astype(np.uint8), 200, 300),
    }[form]
    found = instances([[60, 50, 140, 100], [0, 0, 0, 0]], [1, 0], masks=masks)
    drawn = draw_detections(GREY, found, CLASSES, COLOURS)
    red, green, blue = drawn[75, 100].tolist()
    assert red == green < 128 < blue  # of the dog's colour, and still seen through
    only = instances([[0, 0, 0, 0]] * 2, [1, 0], masks=masks)
    again = draw_detections(GREY, only, CLASSES, COLOURS)
    assert (again[75, 60] == [0, 0, 255]).all()  # the box around the mask
    aside = instances([[5, 5, 9, 9], [0, 0, 0, 0]], [1, 0], masks=masks)
    bare = draw_detections(GREY, aside, CLASSES, COLOURS)
    assert (bare[50, 60:141] == 255).all() and (bare[50:101, 140] == 255).all()
