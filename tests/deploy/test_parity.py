"""What counts as a difference between an exported file and torch."""

import mmnextvit  # noqa: F401  (first)
from mmnextvit.deploy.candidates import Candidates
from mmnextvit.deploy.metadata import resize_test_pipeline
from mmnextvit.deploy.parity import (
    Drift,
    Outcome,
    compare_candidates,
    compare_classes,
    compare_inputs,
    detect_by_torch,
    make_batches,
    predict_candidates,
)
from mmnextvit.runtime import Detections, lay_out

import numpy as np
import pytest
import torch

from tests.helpers.letterbox import make_steps
from tests.helpers.lively_detectors import (
    as_input,
    demo_images,
    lively_detector,
    small_config,
)

pytestmark = pytest.mark.deploy

NMS = dict(score_thr=0.05, iou_threshold=0.5, max_per_img=6)

# x1, y1, x2, y2, score, class
A = 0, 0, 10, 10, 0.9, 0
B = 40, 40, 60, 60, 0.5, 1
C = 80, 10, 90, 30, 0.4, 2


def changed(row, **values):
    names = ('x1', 'y1', 'x2', 'y2', 'score', 'label')
    return tuple(values.get(name, value) for name, value in zip(names, row))


def overlapping(overlap: float, row=A):
    """A box beside ``row`` (10 x 10) with that IoU, a little less sure."""
    shift = 10 * (1 - overlap) / (1 + overlap)
    x1, x2 = row[0] + shift, row[2] + shift
    return changed(row, x1=x1, x2=x2, score=row[4] - 0.1)


def judge(detections, candidates, size=None, **nms) -> Drift:
    """Detections as the outcome of suppressing ``candidates``, in an image's pixels if
    it has a ``size``."""
    table = np.array(detections, np.float32).reshape(-1, 6)
    order = np.argsort(-table[:, 4], kind='stable')
    boxes, (scores, labels) = table[order, :4], table[order, 4:].T
    rows = np.array(candidates, np.float32).reshape(-1, 6)
    classes = np.zeros((len(rows), 3), np.float32)
    classes[np.arange(len(rows)), rows[:, 5].astype(int)] = rows[:, 4]
    outcome = Outcome(rows[:, :4], classes, NMS | nms)
    layout = size and lay_out(size, make_steps((64, 96), keep_ratio=False))
    detections = Detections(boxes, scores, labels.astype(int))
    return outcome.judge(detections, layout=layout)


def test_the_right_outcome():
    drift = judge([C, A, B], [A, B, C])
    assert drift.largest == {'boxes': 0, 'scores': 0} and not drift.list_faults()
    assert not judge([], []).list_faults()
    assert not judge([A], [A, overlapping(0.8)]).list_faults()  # suppressed
    at_the_threshold = changed(A, score=0.05)
    assert not judge([], [at_the_threshold]).list_faults()


def test_small_differences():
    found = [changed(A, x2=10.05), changed(B, score=0.5005), C]
    drift = judge(found, [A, B, C])
    assert drift.largest == {
        'boxes': pytest.approx(0.05, abs=1e-5),
        'scores': pytest.approx(0.0005, abs=1e-6),
    }
    assert not drift.list_faults()


def test_differences_that_are_too_large():
    drift = judge([changed(A, x2=10.2), B], [A, B])
    assert drift.list_faults() == ['boxes differ by 0.2 (0.1 is allowed)']
    drift = judge([A, changed(B, score=0.502)], [A, B])
    assert drift.list_faults() == ['scores differ by 0.002 (0.001 is allowed)']
    assert judge([A, changed(B, label=0)], [A, B]).list_faults()  # another class
    assert judge([A, changed(B, x1=43, x2=63)], [A, B]).list_faults()  # another place
    assert judge([A, C], [A]).list_faults()  # of a class that nothing has


def test_detections_that_are_missing():
    assert judge([A, B], [A, B, C]).list_faults() == ['1 detections are missing']
    assert judge([], [A, B, C]).list_faults() == ['3 detections are missing']
    assert judge([A], [A, overlapping(0.45)]).list_faults() == [
        '1 detections are missing'
    ]
    # What is of another class, or less sure, suppresses nothing.
    other = changed(overlapping(0.9), label=1)
    assert judge([A], [A, other]).list_faults() == ['1 detections are missing']
    assert judge([overlapping(0.9)], [A, overlapping(0.9)]).missing == 1


def test_detections_that_should_be_suppressed():
    both = [A, overlapping(0.55)]
    assert judge(both, both).list_faults() == ['1 detections should be suppressed']
    assert judge([A, A], [A]).list_faults() == ['1 detections should be suppressed']


def test_what_rounding_may_turn():
    """An overlap that is the threshold, a score that is, two scores that are equal."""
    for overlap in (0.4995, 0.5, 0.5005):
        both = [A, overlapping(overlap)]
        assert (
            not judge([A], both).list_faults() and not judge(both, both).list_faults()
        )
    low = changed(C, score=0.0500001)
    assert (
        not judge([A], [A, low]).list_faults()
        and not judge([A, low], [A, low]).list_faults()
    )
    assert judge([A], [A, changed(C, score=0.052)]).missing == 1
    equal = changed(overlapping(0.8), score=0.9)
    assert not judge([equal], [A, equal]).list_faults()


def test_as_many_as_there_may_be():
    rows = [changed(C, x1=80 - 9 * i, x2=88 - 9 * i, score=0.9 - 0.1 * i)
            for i in range(5)]  # fmt: skip
    assert not judge(rows[:3], rows, max_per_img=3).list_faults()
    assert judge(rows[:2], rows, max_per_img=3).missing == 3
    assert judge(rows[:5], rows, max_per_img=3).overlapping == 2
    assert judge(rows[:1] + rows[2:4], rows, max_per_img=3).missing == 1


def test_pixels_of_the_image():
    """An image of twice the size, with boxes of its own."""
    found = [changed(A, x2=20, y2=20), changed(B, x1=80, y1=80, x2=120, y2=120)]
    assert not judge(found, [A, B], size=(128, 192)).list_faults()
    assert judge([A, B], [A, B], size=(128, 192)).list_faults()


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_what_is_no_number(value):
    drift = Drift()
    for difference in (0.0, value, 0.0):
        drift.add('candidate scores', difference)
    assert (
        len(drift.list_faults()) == 1
        and 'candidate scores differ' in drift.list_faults()[0]
    )
    assert drift.list_not_finite() == ['candidate scores are not all finite']
    for bad in (changed(A, score=value), changed(A, x2=value)):
        assert judge([bad, B], [A, B]).list_faults()


# ------------------------------------------------------------------ with detectors


@pytest.fixture(scope='module')
def detector():
    cfg = small_config('yolov5_nextvit_s', classes=3)
    cfg.model.test_cfg.update(score_thr=0.05)
    model = lively_detector(cfg)
    model.dataset_meta = dict(classes=('a', 'b', 'c'))
    return model


def test_batches():
    images = demo_images((64, 96), (32, 96), (64, 96))
    metadata = dict(input=dict(batch=2), resize=make_steps((64, 96)))
    first, second = make_batches(images, metadata)
    assert first.shape == second.shape == (2, 3, 64, 96) and first.dtype == np.float32
    assert (first[0] == images[0].transpose(2, 0, 1)[::-1]).all()
    assert (first[1, :, 16:48] == images[1].transpose(2, 0, 1)[::-1]).all()
    assert (first[1, :, :16] == 114).all() and (first[1, :, 48:] == 114).all()
    third = images[2].transpose(2, 0, 1)[::-1]
    assert (second[0] == third).all() and (second[1] == third).all()  # filled up
    metadata = dict(metadata, input=dict(batch=1))
    assert [len(b) for b in make_batches(images, metadata)] == [1, 1, 1]
    metadata = dict(metadata, input=dict(batch=None))
    assert [len(b) for b in make_batches(images, metadata)] == [2, 2]


def test_every_candidate_counts(detector):
    """One score or one box of all that is off is seen, and so is NaN."""
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 64))
    images = images.astype(np.float32)
    candidates = Candidates(detector)

    def run(images):
        with torch.no_grad():
            return tuple(x.numpy().copy() for x in candidates(torch.tensor(images)))

    for name, index, value in [('boxes', 0, 0.3), ('scores', 1, 0.002)]:
        for error in (value, np.nan):

            def worse(images, index=index, error=error):
                outputs = run(images)
                outputs[index][0, 17, 2] += error
                return outputs

            drift = compare_candidates(worse, detector, [images] * 2)
            (fault,) = drift.list_faults()
            assert fault.startswith(f'candidate {name} differ by ')
            assert drift.largest[f'candidate {name}'] == pytest.approx(
                error, rel=0.1, nan_ok=True
            )
    drift = compare_candidates(run, detector, [images])
    assert not drift.list_faults() and drift.largest['candidate boxes'] > 0


def test_torch_side_is_the_head_s_own_prediction(detector):
    """Boxes lie in the image's own pixels, whatever its size."""
    cfg = resize_test_pipeline(detector.cfg, (64, 96))
    (image,) = demo_images((64, 96))
    (found,) = detect_by_torch(detector, cfg, [image])
    large = np.repeat(np.repeat(image, 3, 0), 3, 1)
    (again,) = detect_by_torch(detector, cfg, [large])
    assert len(found.scores) > 5 and found.scores.min() > 0.05
    assert np.allclose(again.boxes, 3 * found.boxes, atol=0.05)
    assert np.allclose(again.scores, found.scores, atol=1e-4)


def test_torch_side_shares_nothing_with_what_is_exported(detector, monkeypatch):
    """Neither the exported network, nor its normalisation, nor the letterbox."""
    images = as_input(demo_images((64, 96), (64, 96))).numpy()
    boxes, scores = predict_candidates(detector, images)
    with torch.no_grad():
        ours = Candidates(detector)(torch.from_numpy(images))
    assert np.abs(boxes - ours[0].numpy()).max() < 0.01
    assert np.abs(scores - ours[1].numpy()).max() < 1e-4

    def fail(*args, **kwargs):
        raise AssertionError('it is used')

    cfg = resize_test_pipeline(detector.cfg, (64, 96))
    monkeypatch.setattr(Candidates, '__init__', fail)
    for name in ('lay_out', 'resize', 'stack', 'to_image', 'fit'):
        for module in (
            'runtime',
            'runtime.resizing',
            'runtime.detector',
            'deploy.parity',
        ):
            monkeypatch.setattr(f'mmnextvit.{module}.{name}', fail, raising=False)
    assert np.array_equal(predict_candidates(detector, images)[0], boxes)
    assert len(detect_by_torch(detector, cfg, demo_images((40, 90)))[0].scores)


@pytest.mark.parametrize('multi_label', [True, False])
def test_one_class_a_box(detector, multi_label, monkeypatch):
    """Unless several are asked for, all but the best class have score 0."""
    monkeypatch.setitem(detector.bbox_head.test_cfg, 'multi_label', multi_label)
    images = as_input(demo_images((64, 96))).numpy()
    _, scores = predict_candidates(detector, images)
    assert ((scores > 0).sum(2) == (3 if multi_label else 1)).all()


def test_classes_in_another_order(detector):
    assert not compare_classes(dict(classes=['a', 'b', 'c']), detector).list_faults()
    for exact in (True, False):
        faults = compare_classes(dict(classes=['b', 'a', 'c']), detector).list_faults(
            exact
        )
        assert faults == ["the classes are ['b', 'a', 'c'], not ['a', 'b', 'c']"]


def test_inputs_to_the_pixel(detector):
    """What the runtime makes of an image is compared with MMYOLO's pipeline."""
    cfg = resize_test_pipeline(detector.cfg, (64, 96))
    images = demo_images((40, 110), (90, 70), (64, 96))
    steps = make_steps((64, 96))
    assert not compare_inputs(steps, cfg, images).list_faults()
    other_fill = [steps[0], dict(steps[1], fill=113)]
    faults = compare_inputs(other_fill, cfg, images).list_faults()
    assert faults == [
        'pixels of the input differ by 1, for an image of 40x110',
        'pixels of the input differ by 1, for an image of 90x70',
    ]
    assert compare_inputs(other_fill, cfg, images).list_faults(exact=False) == faults
    mini_pad = make_steps((64, 96), mini_pad=True)
    (fault, *_) = compare_inputs(mini_pad, cfg, images).list_faults()
    assert 'inputs have the shape (3, ' in fault and 'not (3, 64, 96)' in fault


def test_sums_of_drifts():
    drift = Drift(1, 2, {'boxes': 0.5}, 3, 4, ['a']) + Drift(
        10, 20, {'boxes': np.nan, 'scores': 0.1}, 30, 40, ['b']
    )
    assert (drift.images, drift.detections) == (11, 22)
    assert (drift.overlapping, drift.missing, drift.wrong) == (33, 44, ['a', 'b'])
    assert np.isnan(drift.largest['boxes']) and drift.largest['scores'] == 0.1
