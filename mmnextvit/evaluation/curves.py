"""Numbers from a matching: curves, confusion matrix, averages, best scores, faults.

Every function is pure, and counts from a matching alone. A threshold is one score for
all classes, or an array of one for each class; a detection counts where its score is at
least as high. Detections in crowds and crowds themselves are never counted.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from terminaltables import AsciiTable

from .matching import MATCH_IOU, Matching, overlap, pair_images

NEAR_IOU = 0.1  # a detection that overlaps an object so much is badly placed
DEFAULT_SCORE = 0.3  # of classes of which nothing was found, where no other has any
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
    """The minimum scores with the highest F1 at IoU 0.5, over all and by class.

    Between two scores that follow one another, F1 is the same for every minimum. Of the
    widest range with the highest F1 the middle is taken, so that few boxes don't decide
    by the last digit of one score, and it is rounded as far as it stays in the range.
    Below the lowest score of any detection nothing is known, since the detector's own
    ``score_thr`` cut it off.
    """
    detections = matching.detections
    floor = float(detections.score.min(initial=1))
    everything = np.arange(len(matching.classes))

    def find(labels: np.ndarray) -> Best | None:
        scores, hits, boxes = _select(matching, labels)
        return find_best(scores, hits, boxes, floor)

    by_name = {
        name: find(np.flatnonzero([other == name for other in matching.classes]))
        for name in matching.classes
    }
    return BestScores(
        find(everything), {name: best for name, best in by_name.items() if best}
    )


def find_best(
    scores: np.ndarray, hits: np.ndarray, boxes: int, floor: float
) -> Best | None:
    """The minimum score with the highest F1; ``None`` where nothing was found.

    Args:
        scores: (N,), of detections.
        hits: (N,), whether each found an object.
        boxes: How many objects there are.
        floor: The lowest score that is known.
    """
    if not hits.any():
        return None
    order = np.argsort(-scores, kind='stable')
    scores, hits = scores[order], hits[order]
    # A minimum takes all detections of one score, or none.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    highest = scores[last]
    lowest: np.ndarray = np.append(highest[1:], 0)
    f1 = 2 * np.cumsum(hits)[last] / (last + 1 + boxes)
    tops = np.flatnonzero(f1 == f1.max())
    ranges = np.split(tops, np.flatnonzero(np.diff(tops) > 1) + 1)
    bounds = [(float(lowest[r[-1]]), float(highest[r[0]])) for r in ranges]
    widest = max(bounds, key=lambda bound: bound[1] - max(bound[0], floor))
    score = choose_between(*widest, floor)
    chosen = scores >= score
    right, all_chosen = int(hits[chosen].sum()), int(chosen.sum())
    return Best(
        score, 2 * right / (all_chosen + boxes), right / all_chosen, right / boxes
    )


def choose_between(low: float, high: float, floor: float = 0) -> float:
    """The shortest decimal near the middle of a range, above its low end.

    It stays in the range in single precision too, in which detectors have their scores.
    """
    middle = (max(low, min(floor, high)) + high) / 2
    for digits in range(2, 8):
        score = round(middle, digits)
        if low < score <= high and np.float32(low) < np.float32(score):
            return score
    return high


def trace_scores(matching: Matching, scores: np.ndarray = SCORES) -> ScoreCurves:
    """Precision, recall and F1 against the minimum score, by class and over all.

    Args:
        matching: Of detections to truth.
        scores: (S,), rising.
    """
    everything = np.arange(len(matching.classes))
    rows = []
    for labels in [*everything[:, None], everything]:
        found, hits, boxes = _select(matching, labels)
        chosen, right = (
            len(values) - np.searchsorted(np.sort(values), np.float32(scores))
            for values in (found, found[hits])
        )
        with np.errstate(invalid='ignore'):
            rows.append(
                (
                    right / chosen,
                    right / np.float64(boxes),
                    2 * right / (chosen + boxes)
                    if boxes
                    else np.full(len(scores), np.nan),
                )
            )
    precision, recall, f1 = np.array(rows).transpose(1, 0, 2)
    return ScoreCurves(scores, precision, recall, f1)


def trace_recalls(matching: Matching) -> RecallCurves:
    """Precision against recall, by class and over all."""
    recalls = np.linspace(0, 1, 101)
    rows = []
    for label in range(len(matching.classes)):
        scores, hits, boxes = _select(matching, np.array([label]))
        if not boxes:
            rows.append(np.full(len(recalls), np.nan))
            continue
        hits = hits[np.argsort(-scores, kind='stable')]
        right = np.cumsum(hits)
        precision = right / np.arange(1, len(hits) + 1)
        highest = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or more
        places = np.searchsorted(right / boxes, recalls)
        rows.append(np.append(highest, 0)[places])
    by_class = np.array(rows).reshape(-1, len(recalls))
    return RecallCurves(recalls, _with_mean(by_class))


def average_precisions(matching: Matching) -> Averages:
    """Average precisions by class, IoU and size, which are those of the metric."""
    precisions = np.where(matching.precisions > -1, matching.precisions, np.nan)
    weighted = precisions * matching.recall_weights[:, None, None]
    both = _with_mean(weighted.mean(axis=1).transpose(1, 0, 2))
    return Averages(both[..., 0], both.mean(axis=1), both)


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
    detections, truths = matching.detections, matching.truths
    background = len(matching.classes)
    kept = keep(matching, threshold)
    truth = np.where(kept, detections.truth, -1)
    false, missed = _leave_over(matching, kept)
    confused, _ = pair(matching, false, missed, MATCH_IOU, same_class=False)
    truth[confused[:, 0]] = confused[:, 1]
    is_met: np.ndarray = np.zeros(len(truths.label), bool)
    is_met[truth[truth >= 0]] = True
    rows = np.append(truths.label, background)[truth[kept]]
    missed = ~is_met & ~truths.crowd
    counts: np.ndarray = np.zeros((background + 1, background + 1), int)
    np.add.at(counts, (rows, detections.label[kept]), 1)
    np.add.at(counts, (truths.label[missed], background), 1)
    return counts


def find_faults(matching: Matching, threshold: float | np.ndarray) -> list[Fault]:
    """All that is missed, false or badly placed, ordered by image.

    Args:
        matching: Of detections to truth.
        threshold: Minimum score, for all classes or (classes,).
    """
    detections, truths = matching.detections, matching.truths
    false, missed = _leave_over(matching, keep(matching, threshold))
    faults: list[Fault] = []

    def add(kind: Kind, detection: int, truth: int, why: str) -> None:
        of = truths.image[truth] if kind == 'missed' else detections.image[detection]
        faults.append(Fault(kind, int(of), int(detection), int(truth), why))

    def name(label: int) -> str:
        return matching.classes[label]

    confused, _ = pair(matching, false, missed, MATCH_IOU, same_class=False)
    for detection, truth in confused.tolist():
        label, score = detections.label[detection], detections.score[detection]
        add('false', detection, truth, f'annotated as {name(truths.label[truth])}')
        add('missed', detection, truth, f'detected as {name(label)}, {score:.2f}')
    false[confused[:, 0]] = missed[confused[:, 1]] = False
    misplaced, ious = pair(matching, false, missed, NEAR_IOU, same_class=True)
    for (detection, truth), iou in zip(misplaced.tolist(), ious, strict=True):
        add('misplaced', detection, truth, f'overlaps the object by IoU {iou:.2f} only')
    false[misplaced[:, 0]] = missed[misplaced[:, 1]] = False
    reasons = dict(_explain_false(matching, false))
    for detection in np.flatnonzero(false).tolist():
        add('false', detection, *reasons.get(detection, (-1, 'nothing is annotated')))
    for truth in np.flatnonzero(missed).tolist():
        detection = int(truths.detection[truth])
        score = detections.score[detection] if detection >= 0 else 0
        why = f'its score is {score:.2f} only' if detection >= 0 else 'not detected'
        add('missed', detection, truth, why)
    return sorted(faults, key=lambda fault: fault.image)


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
    by_image: dict[int, list[Fault]] = {}
    for fault in faults:
        by_image.setdefault(fault.image, []).append(fault)
    numbers = {
        image: sum(fault.kind == kind for fault in of_image)
        for image, of_image in by_image.items()
    }
    worst = sorted(filter(numbers.get, numbers), key=lambda image: -numbers[image])
    return [
        (image, sorted(by_image[image], key=lambda fault: fault.kind != kind))
        for image in worst[:count]
    ]


def list_thresholds(matching: Matching, best: BestScores) -> np.ndarray:
    """(classes,): each class's best score, that of all where it has none, else 0.3."""
    other = best.all.score if best.all else DEFAULT_SCORE
    return np.array(
        [
            best.classes[name].score if name in best.classes else other
            for name in matching.classes
        ]
    )


def to_metadata(best: BestScores) -> dict[str, Any] | None:
    """Best scores as a checkpoint has them; ``None`` where nothing was found.

    Returns:
        ``{'all': 0.41, 'classes': {'cat': 0.38}}``.
    """
    if best.all is None:
        return None
    scores = {name: one.score for name, one in best.classes.items()}
    return {'all': best.all.score, 'classes': scores}


def count_at(
    matching: Matching, threshold: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of the detections that have a minimum score.

    Args:
        matching: Of detections to truth.
        threshold: Minimum score, for all classes or (classes,).

    Returns:
        Three of (classes + 1,), the last of all classes together; NaN as in
        `ScoreCurves`.
    """
    kept = keep(matching, threshold)
    size = len(matching.classes)
    detections, truths = matching.detections, matching.truths

    def count(labels: np.ndarray) -> np.ndarray:
        return np.append(np.bincount(labels, minlength=size), len(labels))

    chosen = count(detections.label[kept])
    right = count(detections.label[kept & (detections.truth >= 0)])
    boxes = count(truths.label[~truths.crowd])
    with np.errstate(invalid='ignore'):
        f1 = np.where(boxes > 0, 2 * right / (chosen + boxes), np.nan)
        return right / chosen, right / boxes, f1


def draw_counts(matching: Matching, threshold: float | Sequence[float]) -> str:
    """Precision, recall and F1 at a minimum score, as a table for the log.

    Args:
        matching: Of detections to truth.
        threshold: Minimum score, for all classes or for each.
    """
    of_classes = np.broadcast_to(threshold, len(matching.classes))
    names = [*matching.classes, 'all']
    scores = [*(f'{score:.4g}' for score in of_classes.tolist()), '']
    columns = (
        [('-' if np.isnan(value) else f'{value:.3f}') for value in values.tolist()]
        for values in count_at(matching, of_classes)
    )
    head = ['at IoU 0.5', 'score from', 'precision', 'recall', 'F1']
    rows = zip(names, scores, *columns, strict=True)
    return AsciiTable([head, *map(list, rows)]).table


def describe_best(best: Best | None) -> str:
    """The highest F1 over all classes, as a line for the log."""
    if best is None:
        return 'Highest F1 at IoU 0.5: no object was found'
    return (
        f'Highest F1 at IoU 0.5: {best.f1:.3f}, with scores of at least '
        f'{best.score:.4g} (precision {best.precision:.3f}, recall {best.recall:.3f})'
    )


def keep(matching: Matching, threshold: float | np.ndarray) -> np.ndarray:
    """(N,): which detections count.

    Args:
        matching: Of detections to truth.
        threshold: Minimum score, for all classes or (classes,).
    """
    detections = matching.detections
    of_classes = np.broadcast_to(np.float32(threshold), len(matching.classes))
    return (detections.score >= of_classes[detections.label]) & ~detections.ignored


def pair(
    matching: Matching,
    detections: np.ndarray,
    truths: np.ndarray,
    min_iou: float,
    same_class: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of what the matching left over, from the highest score to the lowest.

    Args:
        matching: Of detections to truth.
        detections: (N,), which may be paired.
        truths: (M,), which may be paired.
        min_iou: Of a pair.
        same_class: Whether both are of one class, or of two.

    Returns:
        (K, 2), index of the detection and of the object, and (K,), their IoUs.
    """
    found, annotated = matching.detections, matching.truths
    of_found, of_annotated = np.flatnonzero(detections), np.flatnonzero(truths)
    pairs, overlaps = [], []
    for first, second in pair_images(
        found.image[of_found], annotated.image[of_annotated]
    ):
        rows, columns = of_found[first], of_annotated[second]
        ious = overlap(found.box[rows], annotated.box[columns])
        is_same = found.label[rows, None] == annotated.label[None, columns]
        ious[is_same != same_class] = 0
        for row in np.flatnonzero(ious.max(axis=1) >= min_iou):
            column = ious[row].argmax()
            if ious[row, column] >= min_iou:
                pairs.append((rows[row], columns[column]))
                overlaps.append(ious[row, column])
                ious[:, column] = 0
    return np.array(pairs, int).reshape(-1, 2), np.array(overlaps)


def _explain_false(
    matching: Matching, false: np.ndarray
) -> Iterator[tuple[int, tuple[int, str]]]:
    """The object that a false detection lies on although another one found it."""
    detections, truths = matching.detections, matching.truths
    of_false, regular = np.flatnonzero(false), np.flatnonzero(~truths.crowd)
    for first, second in pair_images(detections.image[of_false], truths.image[regular]):
        rows, columns = of_false[first], regular[second]
        ious = overlap(detections.box[rows], truths.box[columns])
        for detection, row in zip(rows.tolist(), ious, strict=True):
            if row.max() >= MATCH_IOU:
                truth = int(columns[row.argmax()])
                real = truths.label[truth]
                twice = real == detections.label[detection]
                why = (
                    'found twice' if twice else f'annotated as {matching.classes[real]}'
                )
                yield detection, (truth, why)


def _leave_over(matching: Matching, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which detections (N,) found nothing, and which objects (M,) were not found."""
    detections, truths = matching.detections, matching.truths
    is_found = np.append(kept, False)[truths.detection]
    return kept & (detections.truth < 0), ~is_found & ~truths.crowd


def _select(
    matching: Matching, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores of some classes' detections, which found something, how many objects."""
    detections, truths = matching.detections, matching.truths
    chosen = np.isin(detections.label, labels) & ~detections.ignored
    boxes = np.isin(truths.label, labels) & ~truths.crowd
    return detections.score[chosen], detections.truth[chosen] >= 0, int(boxes.sum())


def _with_mean(by_class: np.ndarray) -> np.ndarray:
    """Rows of classes, and then their mean without NaN."""
    counts = np.sum(~np.isnan(by_class), axis=0)
    with np.errstate(invalid='ignore'):
        mean = np.nansum(by_class, axis=0) / counts
    return np.concatenate([by_class, mean[None]])
