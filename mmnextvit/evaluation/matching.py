"""Which detection found which object: the matching behind an average precision.

It is that of COCO at IoU 0.5: within each class of an image, from the highest score to
the lowest, each detection takes the object that it overlaps most of those that are still
free. Every number of the report and every best score is counted from it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..datasets.values import Identifier

MATCH_IOU = 0.5
AREAS = ('all', 'small', 'medium', 'large')  # COCO's, of `Matching.precisions`


class Image(NamedTuple):
    """An image that was evaluated.

    Attributes:
        id: As the data set has it.
        path: Its file, or '' where it is not known.
        width: Pixels.
        height: Pixels.
    """

    id: Identifier
    path: str
    width: int
    height: int


@dataclass(frozen=True)
class Detections:
    """Arrays of N detections, ordered by image and then by falling score.

    Those beyond the first 100 of one class in one image are left out, as in the mAP.

    Attributes:
        image: (N,), index into `Matching.images`.
        label: (N,), index into `Matching.classes`.
        score: (N,), 0 to 1.
        box: (N, 4), x1, y1, x2, y2 in pixels.
        truth: (N,), index of the object that it found, or -1.
        iou: (N,), with that object, or the highest with any of its class; 0 without.
        ignored: (N,), whether it lies in a crowd, so that it counts neither as right
            nor as false; `truth` is the crowd then.
    """

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray
    truth: np.ndarray
    iou: np.ndarray
    ignored: np.ndarray


@dataclass(frozen=True)
class Truths:
    """Arrays of M annotated objects, ordered by image.

    Attributes:
        image: (M,), index into `Matching.images`.
        label: (M,), index into `Matching.classes`.
        box: (M, 4), x1, y1, x2, y2 in pixels.
        crowd: (M,), whether it is a crowd: it counts neither as found nor as missed.
        area: (M,), square pixels, as annotated.
        detection: (M,), index of the detection that found it, or -1; -1 for crowds.
    """

    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    detection: np.ndarray


@dataclass(frozen=True)
class Matching:
    """Detections matched to the truth at IoU 0.5, within each class.

    Attributes:
        classes: Names of the labels.
        images: In the order of their ids.
        detections: All that were matched, whatever their score.
        truths: All objects of the classes.
        precisions: (IoU thresholds, 101 recalls, classes, areas), COCO's, of the same
            evaluation; the areas are `AREAS`; -1 where a class has no such object.
        iou_thresholds: (IoU thresholds,).
    """

    classes: tuple[str, ...]
    images: tuple[Image, ...]
    detections: Detections
    truths: Truths
    precisions: np.ndarray
    iou_thresholds: np.ndarray
