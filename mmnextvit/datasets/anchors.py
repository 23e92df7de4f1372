"""Anchors that fit a data set, as YOLOv5 computes them.

k-means over the boxes' widths and heights, then random changes that are kept where the
fit gets better. MMYOLO has this in a script of its own, which prints its result and
needs CUDA by default.
"""

from collections.abc import Iterable

import numpy as np
from rich.progress import track
from scipy.cluster.vq import kmeans

from ..utils.errors import UserError

MIN_SIDE = 2.0  # pixels; smaller boxes don't count
MUTATIONS = 1000


def measure_boxes(data_list: Iterable[dict], img_size: int) -> np.ndarray:
    """Widths and heights in pixels, with each image's long side at ``img_size``.

    Args:
        data_list: Samples of a dataset of MMDetection's, with ``height``, ``width``
            and ``instances``.
        img_size: Size that the model is trained at, in pixels.

    Returns:
        (N, 2).
    """
    sizes = [
        np.array([box[2] - box[0], box[3] - box[1]]) * img_size
        / max(data['height'], data['width'])
        for data in data_list
        for box in (instance['bbox'] for instance in data['instances'])
    ]  # fmt: skip
    return np.array(sizes).reshape(-1, 2)


def compute_match_ratios(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """How well each box fits each anchor: 1 if equal, 1/4 if a side is 4 times off.

    Returns:
        (N, A) for ``sizes`` (N, 2) and ``anchors`` (A, 2).
    """
    ratio = sizes[:, None] / anchors[None]
    return np.minimum(ratio, 1 / ratio).min(axis=2)


def compute_possible_recall(
    sizes: np.ndarray, anchors: np.ndarray, threshold: float
) -> float:
    """The share of boxes that some anchor can match: training sees no others."""
    best = compute_match_ratios(sizes, anchors.reshape(-1, 2)).max(axis=1)
    return float((best > 1 / threshold).mean())


def compute_anchors(
    sizes: np.ndarray,
    levels: int,
    per_level: int,
    threshold: float = 4.0,
    seed: int = 0,
) -> list[list[tuple[int, int]]]:
    """Anchors for boxes of these sizes, small ones for the first level.

    Args:
        sizes: Widths and heights of boxes in pixels, (N, 2).
        levels: Levels of the head.
        per_level: Anchors a level.
        threshold: How many times a side may be off for a match, YOLOv5's ``anchor_t``.
        seed: Of the random numbers.

    Returns:
        (width, height) in pixels of each anchor of each level.

    Raises:
        UserError: There are too few boxes of different sizes.
    """
    count = levels * per_level
    sizes = sizes[(sizes >= MIN_SIDE).all(axis=1)]
    different = len(np.unique(sizes, axis=0))
    if different < count:
        raise UserError(
            f'{different} boxes of different sizes are too few for {count} anchors: '
            'use more data, or write the anchors as numbers'
        )
    random = np.random.default_rng(seed)
    spread = sizes.std(axis=0).clip(min=1e-6)
    anchors, _ = kmeans(sizes / spread, count, iter=30, seed=random)
    anchors = anchors * spread
    if len(anchors) < count:  # k-means drops clusters that get empty
        rest = random.choice(sizes, count - len(anchors), replace=False)
        anchors = np.concatenate([anchors, rest])

    def compute_fit(anchors: np.ndarray) -> float:
        best = compute_match_ratios(sizes, anchors).max(axis=1)
        return float((best * (best > 1 / threshold)).mean())

    best = compute_fit(anchors)
    for _ in track(range(MUTATIONS), 'Anchors', transient=True):
        change = random.normal(1, 0.1, anchors.shape)
        changed = anchors * np.where(random.random(anchors.shape) < 0.9, change, 1)
        changed = changed.clip(min=MIN_SIDE)
        if (fit := compute_fit(changed)) > best:
            anchors, best = changed, fit
    anchors = anchors[np.argsort(anchors.prod(axis=1))].round().astype(int)
    grouped = anchors.reshape(levels, per_level, 2).tolist()
    return [[tuple(anchor) for anchor in level] for level in grouped]
