"""Detections as the entries of COCO's result format, and the files of these."""

import json
from collections.abc import Iterable, Iterator, Sequence

from mmengine import fileio
from mmengine.fileio.backends import LocalBackend
from mmengine.fileio.handlers.json_handler import set_default

from ..datasets.values import Identifier
from ..utils.files import atomic_write_text

Pair = tuple[dict, dict]  # an image's truth, and what was predicted


def give_each_image_an_id(results: Iterable[Pair]) -> list[Pair]:
    """Results whose images have an id each.

    The samples of several datasets in one, with no file of their truth, may have the
    same ids; their images are counted.
    """
    results = list(results)
    if len({truth['img_id'] for truth, _ in results}) == len(results):
        return results
    return [
        (dict(truth, img_id=number), dict(prediction, img_id=number))
        for number, (truth, prediction) in enumerate(results)
    ]


def build_predictions(
    predictions: Iterable[dict], category_ids: Sequence[Identifier], masks: bool = False
) -> Iterator[dict]:
    """The entries of COCO's result format.

    Args:
        predictions: Id, boxes (N, 4: x1, y1, x2, y2 in pixels), labels and scores of
            each image, as MMDetection's ``CocoMetric`` collects them.
        category_ids: Of each label.
        masks: Whether the entries get the masks and their scores.
    """
    for prediction in predictions:
        boxes = prediction['bboxes'].astype(float).reshape(-1, 4)
        boxes[:, 2:] -= boxes[:, :2]
        scores = prediction['scores']
        if masks:
            scores = prediction.get('mask_scores', scores)
        for i, label in enumerate(prediction['labels']):
            entry = dict(
                image_id=prediction['img_id'],
                bbox=boxes[i].tolist(),
                score=float(scores[i]),
                category_id=category_ids[label],
            )
            if masks:
                entry['segmentation'] = decode_rle(prediction['masks'][i])
            yield entry


def list_entries(
    predictions: Sequence[dict], category_ids: Sequence[Identifier]
) -> dict[str, list[dict]]:
    """COCO's entries by type: boxes, and masks if there are any."""
    types = ('bbox', 'segm') if 'masks' in predictions[0] else ('bbox',)
    return {
        iou_type: list(build_predictions(predictions, category_ids, iou_type == 'segm'))
        for iou_type in types
    }


def decode_rle(mask: list | dict) -> list | dict:
    """A polygon as it is; a run-length code with a text, as JSON has it."""
    if isinstance(mask, dict) and isinstance(mask['counts'], bytes):
        return {**mask, 'counts': mask['counts'].decode()}
    return mask


def write_json(path: str, content: object) -> None:
    """Writes a file where MMEngine's prefix of result files says."""
    # MMEngine's `dump` has `json` encode in Python, which is several times slower.
    text = json.dumps(content, default=set_default)
    if isinstance(fileio.get_file_backend(path), LocalBackend):
        atomic_write_text(path, text)
    else:
        fileio.put_text(text, path)
