"""The detector that finds something in nearly every cell."""

from mmnextvit.benchmark.crowded import crowd
from mmnextvit.deploy.candidates import Candidates
from mmnextvit.utils.errors import UserError

import pytest
import torch
from mmyolo.registry import MODELS

from tests.helpers.lively_detectors import as_input, demo_images, small_config


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return MODELS.build(small_config(name, classes=3).model)


@pytest.mark.slow
def test_about_half_of_all_boxes_score_above_the_minimum():
    detector = crowd(build('yolov5_nextvit_s'), size=128)
    images = as_input(demo_images((128, 128), (128, 128), seed=3))
    boxes, scores = Candidates(detector)(images)
    assert scores.shape == (2, 3 * (16**2 + 8**2 + 4**2), 3)
    for one in scores:
        assert 0.35 < (one > 0.001).float().mean() < 0.75
        assert one.max() > 0.1
    assert boxes.isfinite().all()
    other = crowd(build('yolov5_nextvit_s'), size=128)
    for (name, value), same in zip(
        detector.state_dict().items(), other.state_dict().values()
    ):
        assert torch.equal(value, same), name


def test_other_heads_are_refused():
    with pytest.raises(UserError, match="RTMDetHead is not YOLOv5's head"):
        crowd(build('rtmdet_nextvit_s'))
