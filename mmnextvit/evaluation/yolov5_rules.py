"""Average precisions as YOLOv5's ``val.py`` counts them, which differ from COCO's.

- A detection stands for the object of its class that it overlaps most, and for no
  other. Of several that stand for one, the best score that reaches the IoU is right.
- Precision over recall begins at precision 1 and ends at recall 1 with precision 0. It
  is made to fall only, read linearly at 101 recalls, and integrated by trapezoids: what
  finds everything has 0.995.
- Crowds, which YOLO's label files do not have, are left out.
"""

import numpy as np

from .matching import Found, Objects, overlap, pair_images, to_corners

RECALLS = np.linspace(0, 1, 101)


def compute_precisions(
    found: Found, objects: Objects, num_classes: int, iou_thresholds: np.ndarray
) -> np.ndarray:
    """Precisions at 101 recalls, of all detections.

    Args:
        found: Detections.
        objects: All that are annotated.
        num_classes: Labels from there on belong to no class.
        iou_thresholds: (T,).

    Returns:
        (T, 101, classes); -1 where a class has no object.
    """
    chosen = np.flatnonzero((objects.label < num_classes) & ~objects.crowd)
    chosen = chosen[np.argsort(objects.image[chosen], kind='stable')]
    objects = Objects(*(values[chosen] for values in objects))
    order = np.lexsort((-found.score, found.image))
    found = Found(*(values[order] for values in found))
    hits = find_hits(found, objects, iou_thresholds)
    by_score = np.argsort(-found.score, kind='stable')
    counts = np.bincount(objects.label, minlength=num_classes)
    precisions = np.full((len(iou_thresholds), len(RECALLS), num_classes), -1.0)
    for label in np.flatnonzero(counts).tolist():
        own = by_score[found.label[by_score] == label]
        for threshold in range(len(iou_thresholds)):
            precisions[threshold, :, label] = trace(hits[own, threshold], counts[label])
    return precisions


def find_hits(found: Found, objects: Objects, iou_thresholds: np.ndarray) -> np.ndarray:
    """(N, T): which detections are right.

    Args:
        found: By image, then by falling score.
        objects: By image.
        iou_thresholds: (T,).
    """
    hits: np.ndarray = np.zeros((len(found.image), len(iou_thresholds)), bool)
    for detections, annotated in pair_images(found.image, objects.image):
        ious = overlap(found.box[detections], to_corners(objects.box[annotated]))
        of_class = found.label[detections, None] == objects.label[None, annotated]
        ious = np.where(of_class, ious, 0)
        nearest, highest = ious.argmax(axis=1), ious.max(axis=1)
        for column, threshold in enumerate(iou_thresholds):
            able = np.flatnonzero(highest >= threshold)
            _, first = np.unique(nearest[able], return_index=True)
            hits[detections.start + able[first], column] = True
    return hits


def trace(hits: np.ndarray, count: int) -> np.ndarray:
    """Precisions at 101 recalls.

    Args:
        hits: (N,), whether each detection is right, the best score first.
        count: How many objects there are.

    Returns:
        (101,); zeros where nothing is detected.
    """
    if not len(hits):
        return np.zeros(len(RECALLS))
    right = np.cumsum(hits)
    recall = np.concatenate([[0], right / count, [1]])
    precision = np.concatenate([[1], right / np.arange(1, len(hits) + 1), [0]])
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return np.interp(RECALLS, recall, falling)
