"""Non-maximum suppression, for files that leave it to us."""

from collections.abc import Sequence

import numpy as np

from .detections import Detections
from .metadata import NMS

NMS_BLOCK = 128  # boxes that are compared with each other at once


def suppress(boxes: np.ndarray, scores: np.ndarray, nms: NMS) -> Detections:
    """NMS class by class, for files that leave it to us.

    Args:
        boxes: (N, 4), of all candidates; columns behind these are carried along.
        scores: (N, classes).
        nms: The metadata's ``score_thr``, ``iou_threshold``, ``max_per_img``,
            ``multi_label`` and, if not all candidates get here, ``nms_pre``.
    """
    values, classes = scores.ravel(), scores.shape[1]
    if nms['multi_label']:
        pairs = np.flatnonzero(values > nms['score_thr'])  # of a box and a class
    else:
        pairs = np.arange(0, len(values), classes) + scores.argmax(1)
        pairs = pairs[values[pairs] > nms['score_thr']]
    # What comes later decides nothing: most often some of the best are enough.
    total = min(len(pairs), nms.get('nms_pre') or len(pairs))
    count = 4 * nms['max_per_img']
    while True:
        best = pairs[find_best(values[pairs], min(count, total))]
        rows, labels = np.divmod(best, classes)
        found = Detections(boxes[rows], values[best], labels)
        kept = keep_best(found, nms['iou_threshold'], nms['max_per_img'])
        if len(kept) == nms['max_per_img'] or count >= total:
            return Detections(boxes[rows][kept], values[best][kept], labels[kept])
        count = widen(count, len(kept), nms['max_per_img'])


def widen(count: int, kept: int, limit: int) -> int:
    """How many of the best boxes to look at next, where too few were kept of some.

    A trained detector often has enough in twice as many; where next to nothing is kept,
    all are soon looked through. TorchScript compiles it, too.

    Args:
        count: How many have been looked at.
        kept: How many of these are kept.
        limit: How many are wanted.
    """
    return max(2 * count, count * limit // (2 * kept + 1))


def find_best(scores: np.ndarray, count: int) -> np.ndarray:
    """The indices of the best scores, falling; of equal ones the first comes first."""
    if count == 0:
        return np.arange(0)
    lowest = np.partition(scores, -count)[-count]
    best = np.flatnonzero(scores >= lowest)
    return best[np.argsort(-scores[best], kind='stable')[:count]]


def keep_best(found: Detections, iou_threshold: float, limit: int) -> list[int]:
    """The indices of what NMS keeps, class by class.

    Args:
        found: Detections by falling score.
        iou_threshold: What overlaps a better one by more is not kept.
        limit: How many are kept at most.
    """
    kept: list[int] = []
    for start in range(0, len(found.scores), NMS_BLOCK):
        block = range(start, min(start + NMS_BLOCK, len(found.scores)))
        alive: np.ndarray = np.logical_not(
            find_overlaps(found, kept, block, iou_threshold).any(0)
        )
        overlaps = find_overlaps(found, block, block, iou_threshold)
        for i, index in enumerate(block):
            if alive[i]:
                kept.append(index)
                if len(kept) == limit:
                    return kept
                alive &= ~overlaps[i]
    return kept


def find_overlaps(
    found: Detections,
    better: Sequence[int],
    others: Sequence[int],
    iou_threshold: float,
) -> np.ndarray:
    """(A, B): which of A detections suppress which of B others.

    Args:
        found: Detections.
        better: The indices of A of them.
        others: The indices of B of them.
        iou_threshold: What overlaps one of the same class by more is suppressed.
    """
    (first, label), (second, other_label) = (
        (found.boxes[list(rows)], found.labels[list(rows)]) for rows in (better, others)
    )
    x1, y1, x2, y2 = np.ascontiguousarray(first[:, :4].T)[..., None]
    u1, v1, u2, v2 = np.ascontiguousarray(second[:, :4].T)
    width = np.minimum(x2, u2) - np.maximum(x1, u1)
    height = np.minimum(y2, v2) - np.maximum(y1, v1)
    common = width.clip(min=0) * height.clip(min=0)
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common
    return (common > iou_threshold * union) & (label[:, None] == other_label)
