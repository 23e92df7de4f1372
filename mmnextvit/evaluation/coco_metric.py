"""COCO's metrics with the keys and numbers of MMDetection's, in less time."""

import json
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral

import numpy as np
from faster_coco_eval import COCOeval_faster
from mmdet.datasets.api_wrappers import COCO, COCOeval, COCOevalMP
from mmdet.evaluation import CocoMetric
from mmengine import fileio
from mmengine.fileio.backends import LocalBackend
from mmengine.fileio.handlers.json_handler import set_default
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from terminaltables import AsciiTable

from ..datasets.coco import clean_coco, index_coco, parse_coco
from ..utils.errors import MissingFileError, UserError
from ..utils.files import atomic_write_text
from ..utils.messages import did_you_mean

# What pycocotools' stats are, in MMDetection's words. The recalls' names are those of
# the default proposal_nums, whatever was given.
PRECISIONS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
RECALLS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')
STATS = (*PRECISIONS, *RECALLS)


def read_truth(
    ann_file: str, backend_args: dict | None = None, sort_categories: bool = False
) -> COCO:
    """The boxes of an annotation file that something can match.

    Args:
        ann_file: COCO's annotation file.
        backend_args: MMEngine's file backend.
        sort_categories: Whether the categories are taken in the order of their ids.

    Raises:
        MissingFileError: There is no such file.
        UserError: It is no COCO detection data.
    """
    if not fileio.exists(ann_file, backend_args):
        raise MissingFileError(
            'the annotation file does not exist: set ann_file of val_evaluator and '
            'test_evaluator to the file of the dataset',
            file=ann_file,
        )
    try:
        content = parse_coco(fileio.get(ann_file, backend_args), False)
    except UserError as error:
        error.file = ann_file
        raise
    content, _ = clean_coco(content)
    for number, annotation in enumerate(content['annotations'], start=1):
        annotation['id'] = number  # pycocotools takes 0 for 'no match'
    if sort_categories:
        content['categories'].sort(key=lambda category: category['id'])
    return index_coco(content)


def build_truth(truths: Iterable[dict], classes: Sequence[str]) -> dict:
    """An annotation file's content from what the samples of a dataset hold.

    Args:
        truths: Id, width, height and instances (``anns``) of each image, as
            MMDetection's ``CocoMetric`` collects them.
        classes: Names, whose indices become the categories' ids.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for truth in truths:
        size = dict(width=truth['width'], height=truth['height'])
        images.append(dict(id=truth['img_id'], file_name='', **size))
        for instance in truth['anns']:
            x1, y1, x2, y2 = instance['bbox']
            annotation = dict(
                id=len(annotations) + 1,
                image_id=truth['img_id'],
                category_id=int(instance['bbox_label']),
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1),
                iscrowd=instance.get('ignore_flag', 0),
            )
            if instance.get('mask'):
                annotation['segmentation'] = _decode_rle(instance['mask'])
            annotations.append(annotation)
    categories = [dict(id=i, name=name) for i, name in enumerate(classes)]
    return dict(
        info=dict(description='Written by mmnextvit from the samples of a dataset.'),
        images=images,
        categories=categories,
        annotations=annotations,
    )


def build_predictions(
    predictions: Iterable[dict], category_ids: Sequence[int], masks: bool = False
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
                entry['segmentation'] = _decode_rle(prediction['masks'][i])
            yield entry


def _decode_rle(mask: list | dict) -> list | dict:
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


def average_by_class(precisions: np.ndarray) -> np.ndarray:
    """Each class's average precisions.

    Args:
        precisions: pycocotools' precisions, (IoU thresholds, recalls, classes, areas,
            numbers of detections); -1 where a class has no box.

    Returns:
        (classes, 6): over all IoU thresholds, at the first and the sixth (0.5 and
        0.75), and of small, medium and large boxes; NaN where there is no box.
    """
    parts = [(slice(None), 0), (0, 0), (5, 0)]
    parts += [(slice(None), area) for area in (1, 2, 3)]

    def average(values: np.ndarray) -> float:
        values = values[values > -1]
        return float(values.mean()) if values.size else float('nan')

    return np.array(
        [
            [average(precisions[iou, :, i, area, -1]) for iou, area in parts]
            for i in range(precisions.shape[2])
        ]
    )


@METRICS.register_module()
class VerifiedCocoMetric(CocoMetric):
    """MMDetection's ``CocoMetric``, faster, without the boxes that nothing can match.

    ``CocoMetric`` reads ``ann_file`` by itself, where a box of zero size or of NaN, and
    any box with id 0, counts as missed, and a lack of ``area`` or ``iscrowd`` ends the
    run. It matches boxes in Python, where faster_coco_eval does the same in C++: that
    is taken for up to 100 boxes an image, as ``proposal_nums`` of YOLO's configs has.
    Predictions go through files only where ``outfile_prefix`` asks for these.

    Args:
        ann_file: COCO's annotation file, or ``None`` to take the samples' instances.
        kwargs: Those of ``CocoMetric``.

    Raises:
        MissingFileError: There is no such file.
        UserError: It is no COCO detection data, or ``metric_items`` has a wrong name.
    """

    def __init__(self, ann_file: str | None = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        for item in self.metric_items or ():
            if item not in STATS:
                raise UserError(
                    f'metric_items of the evaluator has {item!r}, which is none of '
                    f'{", ".join(STATS)} {did_you_mean(item, STATS)}'.rstrip()
                )
        self._reads_file = ann_file is not None
        if ann_file is not None:
            sort_categories = bool(kwargs.get('sort_categories'))
            self._coco_api = read_truth(ann_file, self.backend_args, sort_categories)

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """The same numbers as ``CocoMetric``'s.

        Args:
            results: Truth and prediction of each image, as ``process`` collects them.

        Raises:
            UserError: The predictions are of images that ``ann_file`` lacks, or have
                no masks.
        """
        logger = MMLogger.get_current_instance()
        if not self._reads_file and self.outfile_prefix is None:
            # VOC's ids are names; faster_coco_eval takes numbers.
            results = [
                (dict(truth, img_id=number), dict(prediction, img_id=number))
                for number, (truth, prediction) in enumerate(results)
            ]
        truths, predictions = zip(*results)
        self._prepare_truth(truths)
        entries = self._list_entries(predictions)
        if self.outfile_prefix is not None:
            for iou_type, content in entries.items():
                write_json(f'{self.outfile_prefix}.{iou_type}.json', content)
        if self.format_only:
            logger.info(f'Predictions are in {self.outfile_prefix}.*.json')
            return {}
        metrics: dict[str, float] = {}
        for metric in self.metrics:
            logger.info(f'Evaluating {metric}...')
            if metric == 'proposal_fast':
                metrics |= self._compute_fast_recalls(predictions)
                continue
            iou_type = 'bbox' if metric == 'proposal' else metric
            if iou_type not in entries:
                raise UserError(
                    f'metric={metric!r} of the evaluator needs masks, which the '
                    'detector does not predict'
                )
            if not entries[iou_type]:
                logger.error('There are no predictions to evaluate.')
                break
            evaluation = self._evaluate(entries[iou_type], metric)
            metrics |= self._name_stats(evaluation, metric)
        return metrics

    def _prepare_truth(self, truths: Sequence[dict]) -> None:
        """Does once what ``CocoMetric`` leaves to the first evaluation."""
        classes = self.dataset_meta['classes']
        if self._coco_api is None:
            content = build_truth(truths, classes)
            if self.outfile_prefix is not None:
                write_json(f'{self.outfile_prefix}.gt.json', content)
            self._coco_api = index_coco(content)
        self.cat_ids = self._coco_api.get_cat_ids(cat_names=classes)
        self.img_ids = self._coco_api.get_img_ids()

    def _list_entries(self, predictions: Sequence[dict]) -> dict[str, list[dict]]:
        """COCO's entries by type: boxes, and masks if there are any."""
        types = ('bbox', 'segm') if 'masks' in predictions[0] else ('bbox',)
        return {
            iou_type: list(
                build_predictions(predictions, self.cat_ids, iou_type == 'segm')
            )
            for iou_type in types
        }

    def _evaluate(self, entries: list[dict], metric: str) -> COCOeval | COCOeval_faster:
        iou_type = 'bbox' if metric == 'proposal' else metric
        unknown = {entry['image_id'] for entry in entries} - set(self.img_ids)
        if unknown:
            raise UserError(
                f"{len(unknown)} images are not in the evaluator's ann_file: set it to "
                'the file of the dataset'
            )
        # pycocotools takes the boxes' areas for the masks', and changes what it gets.
        left_out = 'bbox' if iou_type == 'segm' else 'segmentation'
        entries = [{k: v for k, v in e.items() if k != left_out} for e in entries]
        predicted = self._coco_api.loadRes(entries)
        evaluation = self._choose_evaluator()(self._coco_api, predicted, iou_type)
        evaluation.params.catIds = self.cat_ids
        evaluation.params.imgIds = self.img_ids
        evaluation.params.maxDets = list(self.proposal_nums)
        evaluation.params.iouThrs = self.iou_thrs
        evaluation.params.useCats = int(metric != 'proposal')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation

    def _choose_evaluator(self) -> type[COCOeval] | type[COCOeval_faster]:
        if self.use_mp_eval:
            return COCOevalMP
        numbered = all(isinstance(number, Integral) for number in self.img_ids)
        # For the mAP pycocotools takes 100 boxes, faster_coco_eval the largest number
        # that is given.
        fast = numbered and max(self.proposal_nums) == 100
        return COCOeval_faster if fast else COCOeval

    def _name_stats(
        self, evaluation: COCOeval | COCOeval_faster, metric: str
    ) -> dict[str, float]:
        """The numbers that ``CocoMetric`` returns, rounded as there."""
        stats = dict(zip(STATS, evaluation.stats))
        if metric == 'proposal':
            items = self.metric_items or RECALLS
            return {item: float(f'{stats[item]:.3f}') for item in items}
        metrics = self._name_classes(evaluation) if self.classwise else {}
        items = self.metric_items or PRECISIONS
        metrics |= {f'{metric}_{i}': float(round(stats[i], 3)) for i in items}
        numbers = ' '.join(f'{stats[item]:.3f}' for item in PRECISIONS)
        logger = MMLogger.get_current_instance()
        logger.info(f'{metric}_mAP_copypaste: {numbers}')
        return metrics

    def _name_classes(self, evaluation: COCOeval | COCOeval_faster) -> dict[str, float]:
        """Each class's average precision; all its numbers go to the log as a table."""
        names = [c['name'] for c in self._coco_api.load_cats(self.cat_ids)]
        averages = average_by_class(evaluation.eval['precision']).round(3)
        rows = [
            [name, *map(str, row)]
            for name, row in zip(names, averages.tolist(), strict=True)
        ]
        table = AsciiTable([['category', *PRECISIONS], *rows]).table
        MMLogger.get_current_instance().info(f'\n{table}')
        return {
            f'{name}_precision': average
            for name, average in zip(names, averages[:, 0].tolist())
        }

    def _compute_fast_recalls(self, predictions: Sequence[dict]) -> dict[str, float]:
        logger = MMLogger.get_current_instance()
        recalls = self.fast_eval_recall(
            predictions, self.proposal_nums, self.iou_thrs, logger=logger
        )
        metrics = {f'AR@{n}': r for n, r in zip(self.proposal_nums, recalls)}
        lines = (f'\n{name}\t{recall:.4f}' for name, recall in metrics.items())
        logger.info(''.join(lines))
        return metrics
