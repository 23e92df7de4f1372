"""Random boxes and detections through the metric, and the matching that it keeps."""

import numpy as np
import torch
from mmengine.registry import METRICS

SIDE = 320  # pixels, of every image
CLASSES = ('cat', 'dog', 'fox')


def draw_samples(seed, images=6, classes=3, ties=True):
    """Samples as a detector gives them, with the truth: crowds, doubles, wrong classes.

    IoUs are far from 0.5, since pycocotools and faster_coco_eval round differently.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(images):
        instances, boxes, labels = [], [], []
        for _ in range(rng.integers(0, 7)):
            side = rng.choice([20, 60, 140], 2)
            corner = rng.integers(0, SIDE - 140, 2)
            box = [*corner, *(corner + side)]
            label = int(rng.integers(classes))
            crowd = int(rng.random() < 0.15)
            instances.append(dict(bbox=box, bbox_label=label, ignore_flag=crowd))
            for _ in range(rng.integers(0, 4)):
                boxes.append(np.array(box) + rng.normal(0, 0.12, 4) * [*side, *side])
                labels.append(label if rng.random() < 0.8 else rng.integers(classes))
        for _ in range(rng.integers(0, 3)):
            corner = rng.integers(0, SIDE - 140, 2)
            boxes.append([*corner, *(corner + 30)])
            labels.append(rng.integers(classes))
        scores = rng.random(len(boxes)) ** 2
        samples.append(
            make_sample(
                number, instances, boxes, labels, scores.round(1) if ties else scores
            )
        )
    return samples


def make_sample(number, instances, boxes, labels, scores):
    """One image's sample.

    Args:
        number: Of the image.
        instances: The truth, as a dataset has it.
        boxes: (N, 4), detected: x1, y1, x2, y2.
        labels: (N,).
        scores: (N,).
    """
    return dict(
        img_id=number,
        img_path=f'/data/{number}.jpg',
        ori_shape=(SIDE, SIDE),
        instances=instances,
        pred_instances=dict(
            bboxes=torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
            labels=torch.tensor(np.array(labels, int)),
            scores=torch.tensor(np.array(scores, np.float32)),
        ),
    )


def evaluate(samples, classes=CLASSES, **given):
    """The metric after evaluating samples, and its numbers."""
    given = {'metric': 'bbox', 'proposal_nums': (100, 1, 10)} | given
    metric = METRICS.build(dict(type='VerifiedCocoMetric', **given))
    metric.dataset_meta = dict(classes=classes)
    metric.process({}, samples)
    return metric, metric.evaluate(len(samples))


def match(*samples, **given):
    """The matching of samples."""
    return evaluate(samples, **given)[0].matching
