"""Large images in tiles: where these lie, and what several saw of one object."""

import argparse
import json

from mmnextvit import predictors
from mmnextvit.cli import arguments
from mmnextvit.engine.inferencer import find_or_replace
from mmnextvit.engine.prediction import add_outlines, keep_sure
from mmnextvit.engine.slicing import with_arrays
from mmnextvit.models.nms_limits import find_max_detections
from mmnextvit.predictors import Predictor, SlicedNetwork
from mmnextvit.runtime import (
    Detector,
    Found,
    OptionError,
    PatchedMasks,
    Slicing,
    command,
    detect_in_tiles,
    draw_objects,
    list_tiles,
    main,
    read_slicing,
)
from mmnextvit.utils.errors import UserError

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from tests.helpers.toy_exports import metadata, write_onnx

pytestmark = pytest.mark.deploy


@pytest.mark.parametrize('overlap', [0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize('size', [(64, 64), (65, 300), (201, 40), (333, 127)])
def test_tiles_cover_the_image_and_overlap_enough(size, overlap):
    slicing = Slicing(64, overlap, whole=False)
    tiles = list_tiles(size, slicing)
    covered = np.zeros(size, int)
    for left, top, right, bottom in tiles:
        assert left >= 0 and right <= size[1] and top >= 0 and bottom <= size[0]
        assert (bottom - top, right - left) == (min(64, size[0]), min(64, size[1]))
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    for axis in (0, 1):
        starts = sorted({tile[axis] for tile in tiles})
        assert all(b - a <= 64 * (1 - overlap) for a, b in zip(starts, starts[1:]))
    whole = list_tiles(size, Slicing(64, overlap))
    assert whole == (tiles if len(tiles) == 1 else [*tiles, (0, 0, size[1], size[0])])


def see(image: np.ndarray) -> Found:
    """Finds each blob of one grey value: its box, its mask and the value as score."""
    found = []
    for value in np.unique(image)[1:]:
        count, blobs = cv2.connectedComponents((image[..., 0] == value).astype('u1'))
        for number in range(1, count):
            mask = blobs == number
            rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
            box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            found.append((value / 255, box, value % 2, mask))
    found.sort(key=lambda one: -one[0])
    scores, boxes, labels, masks = zip(*found) if found else [()] * 4
    return Found(
        np.float32(boxes).reshape(-1, 4),
        np.float32(scores),
        np.array(labels, int),
        np.array(masks, bool).reshape(-1, *image.shape[:2]),
    )


def draw_blobs() -> np.ndarray:
    image = np.zeros((200, 260, 3), np.uint8)
    cv2.ellipse(image, (63, 64), (22, 11), 30, 0, 360, (250,) * 3, -1)  # at a corner
    cv2.circle(image, (130, 120), 14, (241,) * 3, -1)
    cv2.rectangle(image, (20, 150), (31, 160), (230,) * 3, -1)
    cv2.rectangle(image, (120, 20), (180, 33), (221,) * 3, -1)  # of another class
    cv2.circle(image, (240, 180), 9, (199,) * 3, -1)
    return image


@pytest.mark.parametrize('whole', [True, False])
@pytest.mark.parametrize('merge', ['ios', 'iou'])
def test_merged_masks_are_those_of_a_single_pass(merge, whole):
    """What borders cut is put together again, pixel by pixel.

    By IoU, slivers of an object that another tile saw whole remain besides.
    """
    image = draw_blobs()
    single = see(image)
    slicing = Slicing(64, 0.5, merge, 0.2, whole)
    found = detect_in_tiles(image, slicing, lambda tiles: map(see, tiles), 300)
    boxes = found.boxes.tolist()
    places = [boxes.index(box) for box in single.boxes.tolist()]
    if merge == 'ios':
        assert places == list(range(len(boxes))) == list(range(5))
    np.testing.assert_array_equal(found.labels[places], single.labels)
    np.testing.assert_allclose(found.scores[places], single.scores)
    np.testing.assert_array_equal(found.masks.to_array()[places], single.masks)
    assert all((found.masks[i] == b).all() for i, b in zip(places, single.masks))


def test_the_whole_image_shows_what_is_larger_than_a_tile():
    image = np.zeros((300, 300, 3), np.uint8)
    cv2.circle(image, (150, 150), 120, (200,) * 3, -1)
    run = [
        detect_in_tiles(image, Slicing(64, whole=w), lambda t: map(see, t), 300).boxes
        for w in (True, False)
    ]
    assert run[0].tolist() == [[30, 30, 271, 271]] and len(run[1]) != 1


def test_classes_and_tiles_stay_apart_and_the_best_remain():
    """Boxes of one tile, or of two classes, are compared by the network alone."""
    boxes = np.float32([[10, 10, 20, 20], [11, 10, 21, 20], [10, 11, 20, 21]])
    found = Found(boxes, np.float32([0.9, 0.8, 0.7]), np.array([0, 0, 1]))
    nothing = Found(boxes[:0], found.scores[:0], found.labels[:0])
    image = np.zeros((100, 64, 3), np.uint8)

    def detect(tiles):
        return (found if n == 0 else nothing for n, _ in enumerate(tiles))

    merged = detect_in_tiles(image, Slicing(64), detect, 300)
    np.testing.assert_array_equal(merged.boxes, boxes)
    merged = detect_in_tiles(image, Slicing(64), detect, 2)
    np.testing.assert_array_equal(merged.scores, found.scores[:2])


def test_tiles_are_cut_one_by_one():
    """Each is a view of the image, and is asked for by what detects."""
    image = np.zeros((10_000, 10_000, 3), np.uint8)
    seen = []

    def detect(tiles):
        for tile in tiles:
            assert np.shares_memory(tile, image)
            seen.append(tile.shape[:2])
            yield see(np.zeros((1, 1, 3), np.uint8))

    assert len(detect_in_tiles(image, Slicing(2500, 0), detect, 300).boxes) == 0
    assert seen == [*[(2500, 2500)] * 16, (10_000, 10_000)]


@pytest.mark.parametrize(
    'options, problem',
    [
        (dict(size=16), 'slice size 16'),
        (dict(size=100_000), 'slice size 100000'),
        (dict(size=640.0), 'slice size 640.0'),
        (dict(size=True), 'slice size True'),
        (dict(size=64, overlap=1), 'overlap 1 '),
        (dict(size=64, overlap=0.91), 'from 0 to 0.9'),  # tiles without number
        (dict(size=64, overlap=-0.1), 'overlap -0.1'),
        (dict(size=64, overlap=float('nan')), 'overlap nan'),
        (dict(size=64, merge='nms'), "merge 'nms'"),
        (dict(size=64, threshold=0), 'threshold 0'),
    ],
)
def test_values_that_cannot_be(options, problem):
    with pytest.raises(OptionError, match=problem):
        Slicing(**options)


def test_options_that_need_a_size():
    names = 'slice', 'overlap', 'merge', 'threshold', 'whole'
    given = dict.fromkeys(names)
    assert read_slicing(given) is None
    assert read_slicing({**given, 'slice': 64, 'whole': False}) == Slicing(
        64, whole=False
    )
    with pytest.raises(OptionError, match='--slice SIZE'):
        read_slicing({**given, 'overlap': 0.3})


def test_the_runtime(tmp_path, capsys):
    """A toy finds the same boxes in each tile, by brightness."""
    path = write_onnx(tmp_path / 'toy.onnx', metadata(batch=2))
    image = np.zeros((64, 180, 3), np.uint8)
    image[:, 116:] = 255
    plain, sliced = Detector(path), Detector(path, slicing=64)
    small = np.full((64, 64, 3), 200, np.uint8)
    for ours, own in zip(sliced.detect([small])[0], plain.detect([small])[0]):
        np.testing.assert_array_equal(ours, own)
    (found,) = sliced.detect([image], 0.8)
    np.testing.assert_allclose(found.boxes, [[124, 4, 156, 28]], atol=1e-3)
    assert Predictor(path, slicing=64)(image, 0.8) == sliced(image, 0.8)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    args = [str(path), str(tmp_path / 'a.png'), '--score-thr', '0.8']
    assert main([*args, '--slice', '64']) == 0
    line = json.loads(capsys.readouterr().out)
    assert line['objects'] == sliced(image, 0.8)
    with pytest.raises(SystemExit) as ended:
        main([*args, '--slice', '7'])
    assert ended.value.code == 1 and 'from 32 to' in capsys.readouterr().err
    with pytest.raises(UserError, match='slice size 7'):
        Predictor(path, slicing=7)
    with pytest.raises(UserError, match='--feature-maps'):
        Predictor(path, slicing=64).detect_with_maps(image)


class Blobs:
    """A network that gives what :func:`see` finds, with masks."""

    classes, palette, best_scores, file = ['a', 'b'], None, None, ''
    max_detections, fixed_batch, color_type = 300, None, 'color'

    def prepare(self, image):
        return image

    def detect(self, prepared, min_score, batch_size):
        for image in prepared:
            boxes, scores, labels, masks = map(torch.from_numpy, see(image))
            found = InstanceData(
                bboxes=boxes, scores=scores, labels=labels, masks=masks
            )
            yield DetDataSample(pred_instances=found)


def test_a_network_with_masks():
    image = draw_blobs()
    sliced = SlicedNetwork(Blobs(), Slicing(64, 0.5))
    images = [image, image[:50, :50], image]
    found = list(sliced.detect(map(sliced.prepare, images), 0.85, 8))
    (single,) = Blobs().detect([image], 0, 8)
    kept = single.pred_instances[single.pred_instances.scores >= 0.85]
    for one in (found[0], found[2]):
        for key in ('bboxes', 'labels', 'masks'):
            assert torch.equal(one.pred_instances[key], kept[key]), key
    (plain,) = Blobs().detect([images[1]], 0, 8)
    assert torch.equal(found[1].pred_instances.bboxes, plain.pred_instances.bboxes)


def test_masks_of_large_images_are_made_one_by_one(monkeypatch):
    """All at once take gigabytes, and nothing that `predict` writes needs them."""
    image = draw_blobs()
    monkeypatch.setattr(predictors, 'open_network', lambda *args: Blobs())
    predictor = Predictor('any', slicing=Slicing(64, 0.5))
    plain = Predictor('any')
    single = plain.detect(image, 0.85)
    own = plain.list_objects(single)
    all_at_once = PatchedMasks.to_array

    def refuse(masks):
        raise AssertionError('all masks at once')

    monkeypatch.setattr(PatchedMasks, 'to_array', refuse)
    sample, doubt = keep_sure(predictor, predictor.detect(image, 0.05), 0.85)
    assert doubt.doubt >= 0
    objects = predictor.list_objects(sample)
    assert len(objects) == len(own) > 1
    assert objects.add_polygons() == own.add_polygons()
    assert add_outlines(objects, sample) == own.add_polygons()
    assert objects.to_coco(1) == own.to_coco(1)
    assert (draw_objects(image, objects) == draw_objects(image, own)).all()
    assert (predictor.draw(image, sample) == plain.draw(image, single)).all()
    monkeypatch.setattr(PatchedMasks, 'to_array', all_at_once)
    assert objects.masks.dtype == bool and (objects.masks == own.masks).all()
    assert torch.equal(
        with_arrays(sample.pred_instances).masks, single.pred_instances.masks
    )


def test_how_many_detections_a_config_allows():
    assert find_max_detections(dict(test_cfg=dict(max_per_img=7))) == 7
    assert find_max_detections(dict(test_cfg=dict(rcnn=dict(max_per_img=9)))) == 9
    assert find_max_detections({}) == 300


def test_resizing_that_sahi_looks_for():
    steps = [dict(type=name) for name in ('LoadImageFromFile', 'mmdet.PackDetInputs')]
    resizing = [
        dict(type=name, scale=(96, 64))
        for name in ('YOLOv5KeepRatioResize', 'LetterResize')
    ]
    pipeline = [steps[0], *resizing, steps[1]]
    assert find_or_replace(None, pipeline, 'LoadImageFromFile') == 0
    assert len(pipeline) == 4
    assert find_or_replace(None, pipeline, 'Resize') == 1
    names = ['LoadImageFromFile', 'Resize', 'mmdet.Pad', 'mmdet.PackDetInputs']
    assert [step['type'] for step in pipeline] == names
    assert pipeline[1]['scale'] == (96, 64)
    assert find_or_replace(None, pipeline, 'Resize') == 1
    assert find_or_replace(None, steps, 'Resize') == -1


def test_the_commands_offer_the_same_options():
    """Ours may not import the runtime's, which brings NumPy, to show its help."""
    ours, runtimes = argparse.ArgumentParser('x'), argparse.ArgumentParser('x')
    arguments.add_slicing(ours)
    command.add_slicing(runtimes)
    assert ours.format_help() == runtimes.format_help()
    given = ['--slice', '64', '--overlap', '0.3', '--merge', 'iou', '--tiles-only']
    assert ours.parse_args(given) == runtimes.parse_args(given)
    assert vars(ours.parse_args(given))['whole'] is False
