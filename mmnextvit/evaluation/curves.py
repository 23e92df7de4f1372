"""Numbers from a matching: curves, confusion matrix, averages, best scores, faults.

Every function is pure, and counts from a :class:`~mmnextvit.evaluation.matching.Matching`
alone. A threshold is one score for all classes, or an array of one for each class; a
detection counts where its score is at least as high. Detections in crowds and crowds
themselves are never counted.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from pycocotools import mask as mask_utils

from .matching import MATCH_IOU, Detections, Matching

NEAR_IOU = 0.1  # a detection that overlaps an object so much is badly placed
SCORES = np.linspace(0, 1, 1001)  # the thresholds of curves

Kind = Literal['missed', 'false', 'misplaced']
KINDS: tuple[Kind, ...] = ('missed', 'false', 'misplaced')


class ScoreCurves(NamedTuple):
    """Precision, recall and F1 at IoU 0.5 against the minimum score.

    The last row of each is over all classes: their detections and objects counted
    together.

    Attributes:
        scores: (S,), rising.
        precision: (classes + 1, S); NaN where no detection has such a score.
        recall: (classes + 1, S); NaN where a class has no objects.
        f1: (classes + 1, S); NaN where a class has no objects.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


class RecallCurves(NamedTuple):
    """Precision at IoU 0.5 against 101 recalls, as COCO interpolates it.

    Attributes:
        recalls: (101,), 0 to 1.
        precision: (classes + 1, 101); the last row is the mean of the classes that have
            objects; NaN where there are none.
    """

    recalls: np.ndarray
    precision: np.ndarray


class Averages(NamedTuple):
    """Average precisions. The last row of each is the mean of the classes with objects.

    Attributes:
        by_iou: (classes + 1, IoU thresholds), of all sizes.
        by_area: (classes + 1, 4), over the IoU thresholds, of all sizes, small, medium
            and large, as `AREAS` has them; the first column is the mAP.
        by_iou_and_area: (classes + 1, IoU thresholds, 4). NaN where there is no such
            object, in all three.
    """

    by_iou: np.ndarray
    by_area: np.ndarray
    by_iou_and_area: np.ndarray


class Best(NamedTuple):
    """The minimum score with the highest F1, and what it gives at IoU 0.5."""

    score: float
    f1: float
    precision: float
    recall: float


class BestScores(NamedTuple):
    """Best minimum scores.

    Attributes:
        all: Of all classes' detections together; ``None`` where nothing was found.
        classes: By name, of the classes of which anything was found.
    """

    all: Best | None
    classes: dict[str, Best]


class Fault(NamedTuple):
    """Something missed, false or badly placed.

    Attributes:
        kind: 'missed' (an object), 'false' (a detection) or 'misplaced' (both: the
            detection of an object that it overlaps by less than IoU 0.5).
        image: Index of the image.
        detection: Index of the detection, or -1. Of a missed object, what explains it.
        truth: Index of the object, or -1. Of a false detection, what explains it.
        why: In words.
    """

    kind: Kind
    image: int
    detection: int
    truth: int
    why: str


def find_best_scores(matching: Matching) -> BestScores:
    """The minimum score with the highest F1 at IoU 0.5, over all and by class."""
    raise NotImplementedError


def trace_scores(matching: Matching, scores: np.ndarray = SCORES) -> ScoreCurves:
    """Precision, recall and F1 against the minimum score, by class and over all.

    Args:
        matching: Of detections to truth.
        scores: (S,), rising.
    """
    raise NotImplementedError


def trace_recalls(matching: Matching) -> RecallCurves:
    """Precision against recall, by class and over all."""
    raise NotImplementedError


def average_precisions(matching: Matching) -> Averages:
    """Average precisions by class, IoU and size, which are those of the metric."""
    raise NotImplementedError


def count_confusion(matching: Matching, threshold: float | np.ndarray) -> np.ndarray:
    """What was taken for what.

    Detections found what the matching says, in the diagonal. Those left over then take,
    from the highest score to the lowest, the object of another class that they overlap
    most, of those that are left over, where that is at least IoU 0.5.

    Args:
        matching: Of detections to truth.
        threshold: Minimum score, for all classes or (classes,).

    Returns:
        (classes + 1, classes + 1): how many objects of a class (row) were detected as
        a class (column). The last row counts detections where nothing is, and the last
        column missed objects.
    """
    raise NotImplementedError


def find_faults(matching: Matching, threshold: float | np.ndarray) -> list[Fault]:
    """All that is missed, false or badly placed, ordered by image.

    Args:
        matching: Of detections to truth.
        threshold: Minimum score, for all classes or (classes,).
    """
    raise NotImplementedError


def find_worst_images(
    faults: Iterable[Fault], kind: Kind, count: int = 8
) -> list[tuple[int, list[Fault]]]:
    """The images with most faults of a kind, most first.

    Args:
        faults: As `find_faults` gives them.
        kind: Of faults.
        count: How many images at most.

    Returns:
        Index of the image, and all its faults, those of the kind first.
    """
    raise NotImplementedError


def list_thresholds(matching: Matching, best: BestScores) -> np.ndarray:
    """(classes,): each class's best score, that of all where it has none, else 0.3."""
    raise NotImplementedError


def to_metadata(best: BestScores) -> dict | None:
    """Best scores as a checkpoint has them; ``None`` where nothing was found.

    Returns:
        ``{'all': 0.41, 'classes': {'cat': 0.38}}``.
    """
    raise NotImplementedError
