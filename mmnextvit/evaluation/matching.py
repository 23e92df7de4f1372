"""Which detection found which object: the matching behind an average precision.

It is that of COCO at IoU 0.5: within each class of an image, from the highest score to
the lowest, each detection takes the object that it overlaps most of those that are
free. Every number of the report and every best score is counted from it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from pycocotools import mask as mask_utils

from ..datasets.values import Identifier

MATCH_IOU = 0.5
MAX_DETECTIONS = 100  # of one class in one image: those with the highest scores
# How much each of 101 recalls counts in an average precision, which is the mean of
# precision times weight: evenly in COCO's, by trapezoids in YOLOv5's.
COCO_WEIGHTS: np.ndarray = np.ones(101)
TRAPEZOID_WEIGHTS = np.array([0.505, *[1.01] * 99, 0.505])
# COCO's sizes, of `Matching.precisions`: from and to, in square pixels.
AREAS = {
    'all': (0, 1e10),
    'small': (0, 32**2),
    'medium': (32**2, 96**2),
    'large': (96**2, 1e10),
}


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

    Those of one class in one image that the mAP does not count are left out.

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
        precisions: (IoU thresholds, 101 recalls, classes, areas), those of the metric's
            rules; the areas are `AREAS`; -1 where a class has no such object.
        iou_thresholds: (IoU thresholds,).
        recall_weights: (101,), how the recalls weigh in an average precision.
    """

    classes: tuple[str, ...]
    images: tuple[Image, ...]
    detections: Detections
    truths: Truths
    precisions: np.ndarray
    iou_thresholds: np.ndarray
    recall_weights: np.ndarray = field(default_factory=COCO_WEIGHTS.copy)


class Objects(NamedTuple):
    """Annotated objects in the order of their ids, which are counted from 1.

    Attributes:
        image: (M,), number of the image.
        label: (M,); objects of no class have a higher one than the classes.
        box: (M, 4), x, y, width, height in pixels.
        crowd: (M,), bool.
        area: (M,), square pixels.
    """

    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    crowd: np.ndarray
    area: np.ndarray


class Found(NamedTuple):
    """Detections in the order of their ids, which are counted from 1.

    Attributes:
        image: (N,), number of the image.
        label: (N,).
        box: (N, 4), x1, y1, x2, y2 in pixels.
        score: (N,).
    """

    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    score: np.ndarray


def list_objects(annotations: Sequence[Mapping]) -> Objects:
    """The annotations of COCO's data as arrays."""

    def read(key: str, kind: type) -> np.ndarray:
        return np.array([annotation[key] for annotation in annotations], kind)

    return Objects(
        read('image_id', int),
        read('category_id', int),
        read('bbox', float).reshape(-1, 4),
        read('iscrowd', bool),
        read('area', float),
    )


def list_found(
    predictions: Sequence[Mapping], numbers: Mapping[Identifier, int]
) -> Found:
    """Detections as arrays, in the order in which COCO's entries have them.

    Args:
        predictions: Id, boxes, labels and scores of each image.
        numbers: Of the images' ids.
    """
    counts = [len(prediction['labels']) for prediction in predictions]
    images = [numbers[prediction['img_id']] for prediction in predictions]

    def join(key: str, kind: type) -> np.ndarray:
        parts = [np.asarray(prediction[key], kind) for prediction in predictions]
        return np.concatenate([np.zeros((0, *parts[0].shape[1:]), kind), *parts])

    return Found(
        np.repeat(np.array(images, int), counts),
        join('labels', int),
        join('bboxes', float).reshape(-1, 4),
        join('scores', float),
    )


def replay(
    pairs: np.ndarray, ious: np.ndarray, scores: np.ndarray, crowds: np.ndarray
) -> np.ndarray:
    """The pairs of IoU 0.5 among those of several IoU thresholds and sizes.

    faster_coco_eval tells every pair that matched at some threshold and size, and not
    at which. The matching at 0.5 is among them; a detection takes the best object
    that is free, so that leaving out others that it did not take changes nothing.

    Args:
        pairs: (K, 2), indices of a detection and of an object of its class and image.
        ious: (K,).
        scores: (N,), of the detections.
        crowds: (M,), whether an object is a crowd, which several detections may take.

    Returns:
        (K', 2), each detection at most once.
    """
    pairs, ious = pairs[ious >= MATCH_IOU], ious[ious >= MATCH_IOU]
    detections, objects = pairs.T
    # By falling score; then what a detection prefers, as pycocotools does: no crowds,
    # the highest IoU, the last object.
    order = np.lexsort(
        (-objects, -ious, crowds[objects], detections, -scores[detections])
    )
    taken: dict[int, int] = {}
    is_free: np.ndarray = np.ones(len(crowds), bool)
    for detection, chosen in pairs[order].tolist():
        if detection not in taken and is_free[chosen]:
            taken[detection] = chosen
            is_free[chosen] = crowds[chosen]
    return np.array(list(taken.items()), int).reshape(-1, 2)


def build_matching(
    classes: Sequence[str],
    images: Sequence[Image],
    objects: Objects,
    found: Found,
    pairs: np.ndarray,
    precisions: np.ndarray,
    iou_thresholds: np.ndarray,
    recall_weights: np.ndarray = COCO_WEIGHTS,
    max_detections: int = MAX_DETECTIONS,
) -> Matching:
    """A matching from the pairs of an evaluation.

    Args:
        classes: Names of the labels.
        images: In the order of their numbers.
        objects: All that are annotated.
        found: All detections.
        pairs: (K, 2), indices of a detection and of the object that it matched.
        precisions: As of `Matching`.
        iou_thresholds: As of `Matching`.
        recall_weights: As of `Matching`.
        max_detections: How many of one class in one image the mAP counts.
    """
    of_objects = np.argsort(objects.image, kind='stable')
    of_objects = of_objects[objects.label[of_objects] < len(classes)]
    of_found = choose_counted(found, max_detections)
    matched = np.full(len(found.image), -1)
    matched[pairs[:, 0]] = invert(of_objects, len(objects.image))[pairs[:, 1]]
    objects = Objects(*(values[of_objects] for values in objects))
    found = Found(*(values[of_found] for values in found))
    truth = matched[of_found]
    ignored = (truth >= 0) & objects.crowd[truth] if len(objects.crowd) else truth >= 0
    right = np.flatnonzero((truth >= 0) & ~ignored)
    detection = np.full(len(objects.image), -1)
    detection[truth[right]] = right
    return Matching(
        tuple(classes),
        tuple(images),
        Detections(
            found.image,
            found.label,
            found.score,
            found.box,
            truth,
            measure_ious(found, objects, truth),
            ignored,
        ),
        Truths(
            objects.image,
            objects.label,
            to_corners(objects.box),
            objects.crowd,
            objects.area,
            detection,
        ),
        precisions,
        iou_thresholds,
        recall_weights,
    )


def find_no_precisions(
    objects: Objects, classes: Sequence[str], iou_thresholds: np.ndarray
) -> np.ndarray:
    """The precisions without any detection: 0, and -1 where there is no object.

    Args:
        objects: All that are annotated.
        classes: Names of the labels.
        iou_thresholds: (T,).

    Returns:
        (T, 101, classes, areas).
    """
    low, high = np.array(list(AREAS.values())).T
    area = objects.area[:, None]
    fits = (low <= area) & (area <= high) & ~objects.crowd[:, None]  # (M, areas)
    counts: np.ndarray = np.zeros((len(classes), len(AREAS)), int)
    known = objects.label < len(classes)
    np.add.at(counts, objects.label[known], fits[known])
    precisions = np.where(counts > 0, 0.0, -1.0)
    return np.tile(precisions, (len(iou_thresholds), 101, 1, 1))


def choose_counted(found: Found, max_detections: int) -> np.ndarray:
    """Indices of the detections that count, by image and then by falling score."""
    order = np.lexsort((-found.score, found.label, found.image))
    group = np.stack([found.image[order], found.label[order]])
    starts: np.ndarray = np.ones(len(order), bool)
    starts[1:] = (group[:, 1:] != group[:, :-1]).any(axis=0)
    indices = np.arange(len(order))
    rank = indices - np.maximum.accumulate(np.where(starts, indices, 0))
    counted = np.sort(order[rank < max_detections])
    return counted[np.lexsort((-found.score[counted], found.image[counted]))]


def invert(chosen: np.ndarray, length: int) -> np.ndarray:
    """(length,): where each index stands among the chosen ones, or -1."""
    places = np.full(length, -1)
    places[chosen] = np.arange(len(chosen))
    return places


def measure_ious(found: Found, objects: Objects, truth: np.ndarray) -> np.ndarray:
    """(N,): the IoU with the matched object, or the highest with any of the class.

    Args:
        found: Detections by image.
        objects: By image.
        truth: (N,), index of the object that a detection matched, or -1.
    """
    ious = np.zeros(len(truth))
    for detections, annotated in pair_images(found.image, objects.image):
        overlaps = overlap(
            found.box[detections],
            to_corners(objects.box[annotated]),
            objects.crowd[annotated],
        )
        of_class = found.label[detections, None] == objects.label[None, annotated]
        nearest = np.where(of_class & ~objects.crowd[annotated], overlaps, 0)
        own = truth[detections] - annotated.start
        matched = np.flatnonzero(truth[detections] >= 0)
        ious[detections] = nearest.max(axis=1)
        ious[detections.start + matched] = overlaps[matched, own[matched]]
    return ious


def pair_images(
    detections: np.ndarray, truths: np.ndarray
) -> Iterator[tuple[slice, slice]]:
    """Which detections and which objects each image has that has both.

    Args:
        detections: (N,), indices of images, rising.
        truths: (M,), indices of images, rising.
    """
    images = np.intersect1d(detections, truths)
    bounds = [
        np.searchsorted(values, images, side).tolist()
        for values in (detections, truths)
        for side in ('left', 'right')
    ]
    for first, end, first_truth, end_truth in zip(*bounds, strict=True):
        yield slice(first, end), slice(first_truth, end_truth)


def to_corners(boxes: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 (N, 4) of x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def overlap(
    detections: np.ndarray, truths: np.ndarray, crowds: np.ndarray | None = None
) -> np.ndarray:
    """(N, M): IoUs as pycocotools has them.

    Args:
        detections: (N, 4), x1, y1, x2, y2.
        truths: (M, 4).
        crowds: (M,), whether an object is a crowd: its IoU is the share of the
            detection that lies in it.
    """
    flags = np.zeros(len(truths)) if crowds is None else crowds
    sides = []
    for boxes in (detections, truths):
        boxes = np.array(boxes, float).reshape(-1, 4)
        boxes[:, 2:] -= boxes[:, :2]
        sides.append(boxes)
    ious = mask_utils.iou(*sides, flags.astype(np.uint8).tolist())
    return np.asarray(ious, float).reshape(len(detections), len(truths))
