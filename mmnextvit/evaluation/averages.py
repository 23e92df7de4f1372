"""Average precisions and recalls of detections, with their names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from faster_coco_eval import COCOeval_faster
from mmdet.datasets.api_wrappers import COCO, COCOeval, COCOevalMP
from mmdet.evaluation.functional import eval_recalls
from terminaltables import AsciiTable

from ..datasets.coco import NO_MASK
from ..utils.errors import UserError
from ..utils.messages import first_few
from . import yolov5_rules
from .matching import (
    COCO_WEIGHTS,
    MATCH_IOU,
    MAX_DETECTIONS,
    TRAPEZOID_WEIGHTS,
    Found,
    Objects,
    replay,
)
from .truth import Numbers

# What pycocotools' stats are, in MMDetection's words. The recalls' names are those of
# the default proposal_nums, whatever was given.
PRECISIONS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
RECALLS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')
STATS = (*PRECISIONS, *RECALLS)
MAP_DETECTIONS = MAX_DETECTIONS  # COCO's mAP counts so many detections of an image
# How the 101 recalls weigh in an average precision, by whose rules it is.
WEIGHTS = {'coco': COCO_WEIGHTS, 'yolov5': TRAPEZOID_WEIGHTS}


class Settings(NamedTuple):
    """How is counted.

    Attributes:
        max_detections: Three numbers of detections of an image, from small to large;
            ``map_detections`` is one of them.
        iou_thresholds: From low to high.
        use_mp_eval: Whether MMDetection counts in several processes.
        map_detections: How many detections of one class in one image the mAP counts.
        rules: Whose average precision of boxes it is, a key of `WEIGHTS`.
    """

    max_detections: Sequence[int]
    iou_thresholds: np.ndarray
    use_mp_eval: bool = False
    map_detections: int = MAP_DETECTIONS
    rules: str = 'coco'


class Averages(NamedTuple):
    """What pycocotools counts; -1 or NaN where there is no box to be found.

    Attributes:
        stats: Its twelve numbers, by their names in `STATS`.
        by_class: (classes, 6), as `PRECISIONS` names them.
        precisions: (IoU thresholds, 101 recalls, classes, areas), of the mAP's number
            of detections; -1 where a class has no such box.
        pairs: (K, 2), which entry matched which annotation at IoU 0.5, counted from 0;
            of boxes only.
    """

    stats: Mapping[str, float]
    by_class: np.ndarray
    precisions: np.ndarray
    pairs: np.ndarray


def check_detection_counts(
    proposal_nums: Sequence[int],
    metrics: Iterable[str],
    map_detections: int = MAP_DETECTIONS,
) -> Sequence[int]:
    """Raises where pycocotools would return -1 for what cannot be counted.

    Raises:
        UserError: What ``proposal_nums`` must be for these metrics.
    """
    metrics = set(metrics)
    if not metrics <= {'proposal_fast'} and len(proposal_nums) != 3:
        problem = 'they must be three numbers of detections, as in (100, 300, 1000)'
    elif metrics & {'bbox', 'segm'} and map_detections not in proposal_nums:
        problem = f'the mAP counts {map_detections} detections: make it one of them'
    else:
        return sorted(proposal_nums)
    raise UserError(f'proposal_nums of the evaluator are {proposal_nums}: {problem}')


def evaluate(
    truth: COCO,
    entries: Iterable[dict],
    numbers: Numbers,
    metric: str,
    settings: Settings,
) -> Averages:
    """Counts as pycocotools does.

    It matches boxes in Python, where faster_coco_eval does the same in C++: that is
    taken where the mAP counts the largest number given, as in YOLO's configs.
    pycocotools' own mAP is always that of 100 detections, and -1 without that number.

    Args:
        truth: With numbers for ids.
        entries: COCO's, one or more, with the ids of the data.
        numbers: Of these ids.
        metric: 'bbox', 'segm' or 'proposal', which knows no categories.
        settings: How is counted.

    Raises:
        UserError: A mask of the truth is missing.
    """
    iou_type = 'bbox' if metric == 'proposal' else metric
    if iou_type == 'segm':
        check_masks(truth)
    is_fast = settings.max_detections[-1] == settings.map_detections
    counter = COCOeval_faster if is_fast else COCOeval
    if settings.use_mp_eval:
        counter = COCOevalMP
    # pycocotools takes the boxes' areas for the masks', and changes what it gets.
    left_out = 'bbox' if iou_type == 'segm' else 'segmentation'
    predicted = truth.loadRes(
        [
            dict(
                {key: value for key, value in entry.items() if key != left_out},
                image_id=numbers.images[entry['image_id']],
                category_id=numbers.categories[entry['category_id']],
            )
            for entry in entries
        ]
    )
    evaluation = counter(truth, predicted, iou_type)
    evaluation.params.catIds = truth.get_cat_ids()
    evaluation.params.imgIds = truth.get_img_ids()
    evaluation.params.maxDets = list(settings.max_detections)
    evaluation.params.iouThrs = add_matching_threshold(settings.iou_thresholds)
    evaluation.params.useCats = int(metric != 'proposal')
    evaluation.evaluate()
    evaluation.accumulate()
    pairs: np.ndarray = np.zeros((0, 2), int)
    if metric == 'bbox':
        pairs = find_pairs(evaluation, settings.map_detections)
    evaluation.params.iouThrs = settings.iou_thresholds
    for name in ('precision', 'recall'):
        averaged = evaluation.eval[name][: len(settings.iou_thresholds)]
        evaluation.eval[name] = averaged
    evaluation.summarize()
    precisions = evaluation.eval['precision']
    by_class = average_by_class(precisions, settings)
    stats = dict(zip(STATS, map(float, evaluation.stats)))
    if settings.map_detections != MAP_DETECTIONS:
        stats['mAP'] = average_classes(by_class[:, 0])
    return Averages(
        stats, by_class, precisions[..., find_map_detections(settings)], pairs
    )


def follow_yolov5(
    averages: Averages, found: Found, objects: Objects, settings: Settings
) -> Averages:
    """The averages by YOLOv5's rules, which know no small, medium and large boxes.

    Those of such boxes keep COCO's precisions, and their recalls weigh as the others'.

    Args:
        averages: COCO's.
        found: The detections.
        objects: All that are annotated.
        settings: With which COCO's were counted.
    """
    precisions = averages.precisions.copy()
    precisions[..., 0] = yolov5_rules.compute_precisions(
        found, objects, precisions.shape[2], settings.iou_thresholds
    )
    counted = settings._replace(max_detections=[settings.map_detections])
    by_class = average_by_class(precisions[..., None], counted)
    means = [average_classes(values) for values in by_class.T]
    stats = {**averages.stats, **dict(zip(PRECISIONS, means, strict=True))}
    return averages._replace(stats=stats, by_class=by_class, precisions=precisions)


def average_classes(values: np.ndarray) -> float:
    """The mean of the classes that have objects; -1 if none has."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else -1.0


def add_matching_threshold(thresholds: np.ndarray) -> np.ndarray:
    """IoU thresholds, with that of the matching last where it is none of them."""
    if np.isclose(thresholds, MATCH_IOU).any():
        return thresholds
    return np.append(thresholds, MATCH_IOU)


def find_map_detections(settings: Settings) -> int:
    """Which of the numbers of detections is the mAP's."""
    counts = list(settings.max_detections)
    wanted = settings.map_detections
    return counts.index(wanted) if wanted in counts else -1


def find_pairs(evaluation: COCOeval, max_detections: int) -> np.ndarray:
    """Which detections matched which boxes at IoU 0.5, of an evaluation that was run.

    Args:
        evaluation: Of boxes.
        max_detections: How many of one class in one image count.

    Returns:
        (K, 2), indices: pycocotools' ids less 1.
    """
    if isinstance(evaluation, COCOeval_faster):
        matched = evaluation.eval['matched']
        ids = [key.split('_') for key in matched]
        return replay(
            np.array(ids, int).reshape(-1, 2) - 1,
            np.fromiter(matched.values(), float),
            np.array([a['score'] for a in evaluation.cocoDt.dataset['annotations']]),
            np.array(
                [a['iscrowd'] for a in evaluation.cocoGt.dataset['annotations']], bool
            ),
        )
    params = evaluation._paramsEval
    threshold = np.flatnonzero(np.isclose(params.iouThrs, MATCH_IOU))[0]
    # Of each category all areas, and of each of those all images; 'all' comes first.
    images = len(params.imgIds)
    pairs: list[np.ndarray] = [np.zeros((0, 2), int)]
    for i, found in enumerate(evaluation.evalImgs):
        if found and i // images % len(params.areaRng) == 0:
            ids = np.array(found['dtIds'][:max_detections], int)
            truth = found['dtMatches'][threshold, :max_detections].astype(int)
            pairs.append(np.stack([ids, truth], axis=1)[truth > 0] - 1)
    return np.concatenate(pairs)


def check_masks(truth: COCO) -> None:
    """Raises where boxes have no mask to compare with.

    Raises:
        UserError: It counts them.
    """
    lacking = [
        annotation['id']
        for annotation in truth.dataset['annotations']
        if annotation.get('segmentation', NO_MASK) == NO_MASK
    ]
    if lacking:
        raise UserError(
            f"metric='segm' of the evaluator needs masks: {len(lacking)} of "
            f'{len(truth.anns)} annotations have none that can be read, the '
            f'{first_few(f"{number}." for number in lacking)}'
        )


def average_by_class(precisions: np.ndarray, settings: Settings) -> np.ndarray:
    """Each class's average precisions; by COCO's rules their means are the stats.

    Args:
        precisions: pycocotools' precisions, (IoU thresholds, recalls, classes, areas,
            numbers of detections); -1 where a class has no box.
        settings: With which they were counted.

    Returns:
        (classes, 6): over all IoU thresholds, at 0.5 and 0.75, and of small, medium and
        large boxes; NaN where there is no box, or no such threshold.
    """
    of_map = find_map_detections(settings)
    close = [np.isclose(settings.iou_thresholds, value) for value in (0.5, 0.75)]
    everywhere: np.ndarray = np.ones(len(settings.iou_thresholds), bool)
    weights = WEIGHTS[settings.rules]
    parts = [(everywhere, 0, of_map), (close[0], 0, -1), (close[1], 0, -1)]
    parts += [(everywhere, area, -1) for area in (1, 2, 3)]

    def average(values: np.ndarray) -> float:
        values = (values * weights)[values > -1]
        return float(values.mean()) if values.size else float('nan')

    return np.array(
        [
            [average(precisions[iou, :, i, area, count]) for iou, area, count in parts]
            for i in range(precisions.shape[2])
        ]
    )


def name_numbers(
    averages: Averages,
    metric: str,
    classes: Sequence[str] = (),
    items: Sequence[str] | None = None,
) -> dict[str, float]:
    """The numbers that ``CocoMetric`` returns, rounded as there.

    Args:
        averages: What was counted.
        metric: 'bbox', 'segm' or 'proposal'.
        classes: Names, where each class's precision is wanted too.
        items: Names of `STATS`; ``None`` for those that belong to the metric.
    """
    if metric == 'proposal':
        stats = averages.stats
        return {item: float(f'{stats[item]:.3f}') for item in items or RECALLS}
    of_classes = averages.by_class[:, 0].round(3).tolist() if classes else []
    # The mean first: save_best='auto' takes the first number, not that of a class.
    numbers = {
        f'{metric}_{item}': round(averages.stats[item], 3)
        for item in items or PRECISIONS
    }
    return numbers | {
        f'{n}_precision': ap for n, ap in zip(classes, of_classes, strict=True)
    }


def draw_table(averages: Averages, classes: Sequence[str]) -> str:
    """Each class's average precisions, as a table for the log."""
    rows = [
        [name, *map(str, row)]
        for name, row in zip(classes, averages.by_class.round(3).tolist(), strict=True)
    ]
    return AsciiTable([['category', *PRECISIONS], *rows]).table


def explain_recalls(max_detections: Sequence[int]) -> str:
    """What recalls are printed under MMDetection's names, if those say other counts."""
    names = list(RECALLS[:3])
    wanted = [f'AR@{count}' for count in max_detections]
    if names == wanted:
        return ''
    pairs = ', '.join(f'{name} is {want}' for name, want in zip(names, wanted))
    return f'With proposal_nums={tuple(max_detections)} {pairs}.'


def measure_fast_recalls(
    truth: COCO, predictions: Iterable[dict], numbers: Numbers, settings: Settings
) -> dict[str, float]:
    """The share of boxes that the first detections of their image find, by MMDetection.

    Args:
        truth: With numbers for ids.
        predictions: Id and boxes of each image, the best boxes first.
        numbers: Of these ids.
        settings: How is counted.
    """
    counts = np.array(settings.max_detections)
    boxes = {numbers.images[p['img_id']]: p['bboxes'] for p in predictions}
    found = np.zeros((len(counts), len(settings.iou_thresholds)))
    total = 0
    for image, annotations in truth.img_ann_map.items():
        wanted = [a['bbox'] for a in annotations if not a['iscrowd']]
        if not wanted:
            continue
        total += len(wanted)
        corners = np.array(wanted, float)
        corners[:, 2:] += corners[:, :2]
        # MMDetection's function takes only images with one number of boxes at once.
        recalls = eval_recalls(
            [corners.astype(np.float32)],
            [boxes.get(image, np.zeros((0, 4), np.float32))],
            counts,
            settings.iou_thresholds,
            logger='silent',
        )
        found += np.rint(recalls * len(wanted))
    averages = (found / max(total, 1)).mean(axis=1).tolist()
    return {f'AR@{count}': recall for count, recall in zip(counts, averages)}
