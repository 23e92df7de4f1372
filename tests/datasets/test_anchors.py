"""Anchors for a data set: they fit it, and come back as a config."""

from functools import partial

from mmnextvit.datasets.anchors import (
    compute_anchors,
    compute_match_ratios,
    compute_possible_recall,
    measure_boxes,
)

import numpy as np
import pytest
from mmengine.config import Config

from tests.helpers.commands import run_here
from tests.helpers.tiny_run import write_tiny_run


def test_clusters_are_found():
    """Nine heaps of boxes: an anchor each, small ones first."""
    centres = np.array([(8, 10), (20, 12), (16, 30), (40, 40), (90, 30), (60, 100),
                        (150, 90), (140, 200), (300, 280)])  # fmt: skip
    random = np.random.default_rng(1)
    sizes = np.concatenate([c * random.normal(1, 0.03, (50, 2)) for c in centres])
    anchors = np.array(compute_anchors(sizes, levels=3, per_level=3))
    assert anchors.shape == (3, 3, 2)
    assert compute_match_ratios(anchors.reshape(-1, 2), centres).max(axis=1).min() > 0.9
    areas = anchors.prod(axis=2).reshape(-1)
    assert (areas[1:] >= areas[:-1]).all()
    assert compute_possible_recall(sizes, anchors, 4.0) == 1.0


@pytest.mark.slow
def test_they_beat_those_of_coco_on_other_boxes():
    random = np.random.default_rng(0)
    sizes = random.uniform(3, 12, (500, 2)) * [6, 1]
    coco = np.array([(10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119),
                     (116, 90), (156, 198), (373, 326)])  # fmt: skip
    ours = np.array(compute_anchors(sizes, 3, 3))

    def mean_fit(anchors):
        return compute_match_ratios(sizes, anchors.reshape(-1, 2)).max(axis=1).mean()

    assert mean_fit(ours) > mean_fit(coco) + 0.1
    again = compute_anchors(sizes, 3, 3)
    assert np.array_equal(again, ours)  # a seed makes them the same


def test_sizes_and_recall():
    data = [
        dict(width=200, height=100, instances=[dict(bbox=[0, 0, 20, 10])]),
        dict(width=50, height=100, instances=[dict(bbox=[5, 5, 15, 45])]),
    ]
    sizes = measure_boxes(data, 400)
    assert sizes.tolist() == [[40, 20], [40, 160]]
    assert compute_match_ratios(sizes, np.array([[20, 20]])).tolist() == [
        [0.5],
        [0.125],
    ]
    assert compute_possible_recall(sizes, np.array([[[20, 20]]]), 4.0) == 0.5


def test_too_few_boxes():
    with pytest.raises(
        ValueError, match='2 boxes of different sizes are too few for 9'
    ):
        compute_anchors(np.array([[5, 5], [5, 5], [6, 6], [1, 1]]), 3, 3)


@pytest.mark.slow
def test_a_config_with_anchors_of_the_data(tmp_path, capfd):
    """A count as anchors refuses to train; the written config trains."""
    config = write_tiny_run(tmp_path)
    with config.open('a') as file:
        file.write('model["bbox_head"]["prior_generator"] = dict(base_sizes=2)\n')
    here = partial(run_here, cwd=tmp_path, capfd=capfd)
    refused = here('train', config, code=1)
    assert 'train: The anchors are placeholders' in refused
    out = tmp_path / 'sub' / 'fitted.py'
    printed = here('compute_anchors', config, '-o', out)
    assert 'can match an anchor' in printed
    sizes = np.array(Config.fromfile(out).model.bbox_head.prior_generator.base_sizes)
    assert sizes.shape == (3, 2, 2) and sizes.min() >= 2
    here('train', out, '--cfg-options', 'train_cfg.max_epochs=1')
    again = here('compute_anchors', config, '-o', out, code=1)
    assert 'exists, and nothing is overwritten' in again
