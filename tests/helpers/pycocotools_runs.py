"""pycocotools' own evaluation of samples, run in the test."""

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def run_pycocotools(samples, classes=3):
    """Its evaluation of samples, all ids counted from 1."""
    annotations, entries = [], []
    for sample in samples:
        for instance in sample['instances']:
            x1, y1, x2, y2 = map(float, instance['bbox'])
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=sample['img_id'],
                    category_id=instance['bbox_label'],
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                    iscrowd=instance['ignore_flag'],
                )
            )
        found = sample['pred_instances']
        for box, label, score in zip(*(found[k].tolist() for k in found)):
            x1, y1, x2, y2 = box
            entries.append(
                dict(
                    image_id=sample['img_id'],
                    category_id=label,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    score=score,
                )
            )
    truth = COCO()
    truth.dataset = dict(
        images=[dict(id=s['img_id'], width=320, height=320) for s in samples],
        categories=[dict(id=i, name=str(i)) for i in range(classes)],
        annotations=annotations,
    )
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(entries), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation
