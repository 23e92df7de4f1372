"""COCO's numbers from pycocotools alone: from files, with the ids that stand in them.

Each class is counted by itself, so that no order of classes can be mistaken.
"""

import json
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

PRECISIONS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
RECALLS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')


def count_stats(
    truth: Path,
    detections: list[dict],
    category_ids: list,
    kind: str = 'bbox',
    max_dets: tuple[int, ...] = (1, 10, 100),
    use_categories: bool = True,
) -> np.ndarray:
    """The twelve stats of COCO's result entries, of some categories of a file."""
    file = truth.with_name('detections.json')
    left_out = 'bbox' if kind == 'segm' else 'segmentation'
    file.write_text(
        json.dumps([{k: d[k] for k in d if k != left_out} for d in detections])
    )
    coco = COCO(str(truth))
    evaluation = COCOeval(coco, coco.loadRes(str(file)), kind)
    evaluation.params.catIds = category_ids
    evaluation.params.maxDets = list(max_dets)
    evaluation.params.useCats = int(use_categories)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return np.where(evaluation.stats == -1, np.nan, evaluation.stats)


def list_expected(
    truth: Path,
    detections: list[dict],
    classes: dict[str, object],
    metrics: tuple[str, ...] = ('bbox',),
    max_dets: tuple[int, ...] = (1, 10, 100),
) -> dict[str, float]:
    """What `CocoMetric` returns with ``classwise``, rounded, with NaN for 'no box'.

    Args:
        truth: Annotation file.
        detections: COCO's result entries.
        classes: Category id of each name.
        metrics: 'bbox', 'segm', 'proposal'.
        max_dets: Numbers of detections.
    """
    expected: dict[str, float] = {}
    for metric in metrics:
        kind = 'bbox' if metric == 'proposal' else metric
        both = dict(kind=kind, max_dets=max_dets)
        ids = list(classes.values())
        if metric == 'proposal':
            stats = count_stats(truth, detections, ids, use_categories=False, **both)
            expected |= dict(zip(RECALLS, stats[6:]))
            continue
        stats = count_stats(truth, detections, ids, **both)
        expected |= {f'{metric}_{n}': s for n, s in zip(PRECISIONS, stats[:6])}
        expected |= {
            f'{name}_precision': count_stats(truth, detections, [number], **both)[0]
            for name, number in classes.items()
        }
    return {f'coco/{name}': round(float(v), 3) for name, v in expected.items()}


def without_minus_one(numbers: dict[str, float]) -> dict[str, float]:
    """Numbers with NaN where pycocotools and MMDetection write -1."""
    return {name: float('nan') if v == -1 else v for name, v in numbers.items()}
