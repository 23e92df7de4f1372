"""The first batches, as the model saw them."""

from types import SimpleNamespace

import mmnextvit.report.batches as module
from mmnextvit.report.batches import BatchesHook, list_boxes, undo_normalization

import cv2
import numpy as np
import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData

SIDE = 32


def make_batch(images):
    """A batch as a data loader gives it, of BGR images (H, W, 3), with a box each."""
    samples = []
    for _ in images:
        sample = DetDataSample(metainfo=dict(img_shape=(SIDE, SIDE)))
        boxes = torch.tensor([[4.0, 4, 20, 20]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1]))
        samples.append(sample)
    inputs = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    return dict(inputs=inputs, data_samples=samples)


def make_preprocessor(**given):
    return DetDataPreprocessor(pad_size_divisor=SIDE, **given)


@pytest.mark.parametrize(
    'given',
    [
        dict(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], bgr_to_rgb=True),
        dict(mean=[103.5, 116.3, 123.7], std=[1.0, 1.0, 1.0]),
        dict(bgr_to_rgb=True),
        {},
    ],
)
def test_normalization_is_undone(given):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    preprocessor = make_preprocessor(**given)
    inputs = preprocessor(make_batch([image]), True)['inputs']
    found = undo_normalization(preprocessor, inputs.float())
    assert (found[0] == image[..., ::-1]).all()


def test_boxes_of_both_kinds_of_batches():
    boxes = torch.tensor([[4.0, 4, 20, 20]])
    rows = torch.cat([torch.tensor([[1.0, 2]]), boxes], dim=1)
    first, second = list_boxes(dict(bboxes_labels=rows), 2)
    assert first[0].shape == (0, 4) and second[1].tolist() == [2]
    assert second[0].tolist() == boxes.tolist()
    batch = make_batch([np.zeros((SIDE, SIDE, 3), np.uint8)])
    ((found, labels),) = list_boxes(batch['data_samples'], 1)
    assert found.tolist() == boxes.tolist() and labels.tolist() == [1]


@pytest.fixture
def runner(tmp_path):
    model = torch.nn.Module()
    model.data_preprocessor = make_preprocessor()
    dataset = SimpleNamespace(metainfo=dict(classes=('a', 'b')))
    return SimpleNamespace(
        work_dir=str(tmp_path),
        model=model,
        iter=0,
        train_dataloader=SimpleNamespace(dataset=dataset),
        logger=MMLogger.get_current_instance(),
    )


def run_epoch(runner, iterations=5):
    """An epoch of training with a validation of other images in its midst."""
    hook = BatchesHook()
    hook.before_train(runner)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    for value in range(iterations):
        image = np.full((SIDE, SIDE, 3), 40 * (value + 1), np.uint8)
        runner.model.data_preprocessor(make_batch([image]), True)
        runner.model.data_preprocessor(make_batch([image + 7]), False)
        hook.after_train_iter(runner, value)
    hook.after_train_epoch(runner)
    assert (state[0] == torch.get_rng_state()).all()
    assert state[1] == np.random.get_state()[1].tolist()
    assert not runner.model.data_preprocessor._forward_hooks


@pytest.mark.parametrize('iterations', [2, 5])
def test_the_first_batches_are_kept(runner, tmp_path, iterations):
    run_epoch(runner, iterations)
    paths = sorted((tmp_path / 'batches').iterdir())
    assert [p.name for p in paths] == [
        f'batch_{number}.jpg' for number in range(1, min(iterations, 3) + 1)
    ]
    sheets = [cv2.imread(str(path)) for path in paths]
    assert [int(np.median(s)) for s in sheets] == pytest.approx(
        [40, 80, 120][: len(sheets)], abs=2
    )
    before = paths[0].read_bytes()
    run_epoch(runner)  # a run that begins anew, or goes on
    assert paths[0].read_bytes() == before


def test_a_training_goes_on_where_they_cannot_be_drawn(
    runner, tmp_path, monkeypatch, log
):
    def fail(*args):
        raise KeyError('inputs')

    monkeypatch.setattr(module, 'draw_batch', fail)
    run_epoch(runner)
    assert not (tmp_path / 'batches').exists()
    assert log == ["The first batches are not drawn: KeyError: 'inputs'"]
