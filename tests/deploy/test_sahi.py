"""SAHI's wrapper of MMDetection with one of our configs."""

import mmnextvit  # noqa: F401  (first)
from mmnextvit.predictors import Predictor

import cv2
import numpy as np
import pytest

pytestmark = [pytest.mark.deploy, pytest.mark.slow]
sahi = pytest.importorskip('sahi', reason='sahi is not installed')


def test_sahi_finds_what_we_find(here):
    """In tiles of the network's size, which either way come as they are."""
    from sahi.predict import get_sliced_prediction

    image = np.vstack([cv2.imread(str(p)) for p in sorted(here.glob('data/val/*'))])
    model = sahi.AutoDetectionModel.from_pretrained(
        'mmdet',
        model_path='best.pth',
        config_path='tiny.py',
        device='cpu',
        confidence_threshold=0.3,
    )
    found = get_sliced_prediction(
        image[..., ::-1].copy(),
        model,
        slice_height=64,
        slice_width=64,
        overlap_height_ratio=0,
        overlap_width_ratio=0,
        perform_standard_pred=False,
        postprocess_type='NMS',
        postprocess_match_threshold=0.99,
        verbose=0,
    ).object_prediction_list
    ours = Predictor('tiny.py', 'best.pth', 'cpu')
    expected = []
    for number in range(len(image) // 64):
        tile = image[64 * number : 64 * number + 64]
        for one in ours(tile, 0.3):
            shift = np.array([0, 64 * number] * 2)
            expected.append((one['class'], one['score'], *(one['box'] + shift)))
    got = [(o.category.name, o.score.value, *o.bbox.to_xyxy()) for o in found]
    assert len(got) == len(expected) > 3
    for a, b in zip(sorted(got), sorted(expected)):
        assert a[0] == b[0]
        np.testing.assert_allclose(a[1:], b[1:], atol=0.05)
