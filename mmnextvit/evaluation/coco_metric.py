"""COCO's metrics with the keys and numbers of MMDetection's, in less time."""

from collections.abc import Sequence

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS

from ..datasets.coco import fill_sizes, index_coco, leave_out_images
from ..utils.errors import UserError, naming_file
from ..utils.messages import did_you_mean
from . import averages as counting
from .curves import describe_best, find_best_scores
from .matching import (
    Image,
    Matching,
    build_matching,
    find_no_precisions,
    list_found,
    list_objects,
)
from .results import give_each_image_an_id, list_entries, write_json
from .truth import (
    Numbers,
    build_truth,
    check_code_sizes,
    check_same_image,
    find_category_ids,
    number_ids,
    number_truth,
    read_truth,
)


@METRICS.register_module()
class VerifiedCocoMetric(CocoMetric):
    """MMDetection's ``CocoMetric``, faster, without the boxes that nothing can match.

    ``CocoMetric`` reads ``ann_file`` by itself, where a box of zero size or of NaN, and
    any box with id 0, counts as missed, and a lack of ``area`` or ``iscrowd`` ends the
    run. Here it is read as `VerifiedCocoDataset` reads it, and its classes and images
    must be the dataset's, whose ``class_ids`` and ``image_list`` hold for it too.
    Without ``class_ids``, of several categories of one name those that own no box do
    not count. Files of predictions are written only where ``outfile_prefix`` asks for
    these.

    Args:
        ann_file: COCO's annotation file, or ``None`` to take the samples' instances.
        map_detections: How many detections of one class in one image the mAP counts;
            one of ``proposal_nums``. COCO's is 100; ``val.py`` of YOLOv5 has up to 300.
        rules: 'coco', or 'yolov5' for the average precisions of boxes that YOLOv5's
            ``val.py`` gives (:mod:`mmnextvit.evaluation.yolov5_rules`). The rest stays
            COCO's: matching, recalls and masks.
        kwargs: Those of ``CocoMetric``.

    Attributes:
        matching: Of the last evaluation's boxes to the truth, from which its mAP was
            counted; ``None`` before, where boxes are not evaluated, and in all
            processes but the first.

    Raises:
        MissingFileError: There is no such file.
        UserError: It is no COCO detection data, masks to compare with have other sizes
            than their images, ``metric_items`` has a wrong name, there are no such
            ``rules``, or ``proposal_nums`` do not suit the metrics.
    """

    def __init__(
        self,
        ann_file: str | None = None,
        map_detections: int = counting.MAP_DETECTIONS,
        rules: str = 'coco',
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.matching: Matching | None = None
        for item in self.metric_items or ():
            if item not in counting.STATS:
                raise UserError(
                    f'metric_items of the evaluator has {item!r}, which is none of '
                    f'{", ".join(counting.STATS)} '
                    f'{did_you_mean(item, counting.STATS)}'.rstrip()
                )
        if rules not in counting.WEIGHTS:
            raise UserError(
                f'rules of the evaluator are {rules!r}, and must be one of '
                f'{", ".join(counting.WEIGHTS)}'
            )
        self.settings = counting.Settings(
            counting.check_detection_counts(
                self.proposal_nums, self.metrics, map_detections
            ),
            np.sort(np.atleast_1d(np.asarray(self.iou_thrs, float))),
            self.use_mp_eval,
            map_detections,
            rules,
        )
        self.ann_file = ann_file
        if ann_file is not None:
            sort_categories = bool(kwargs.get('sort_categories'))
            content = read_truth(ann_file, self.backend_args, sort_categories)
            self._check_codes(content)
            self._coco_api = index_coco(content)

    @property
    def dataset_meta(self) -> dict:
        """The dataset's meta information, which the runner sets before it starts."""
        return self._dataset_meta or {}

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        self._dataset_meta = meta
        if self.ann_file is not None:
            self._find_category_ids(self._coco_api.dataset)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Collects truth and predictions, as ``CocoMetric`` does.

        Args:
            data_batch: What the data loader gave.
            data_samples: Predictions of its images, with the images' metadata.

        Raises:
            UserError: ``ann_file`` has another image under the id of one of these. Of
                ids that it lacks ``compute_metrics`` tells.
        """
        if self.ann_file is not None and not self.format_only:
            known = self._coco_api.imgs
            for sample in data_samples:
                if sample['img_id'] in known:
                    with naming_file(self.ann_file):
                        check_same_image(sample, known[sample['img_id']])
        super().process(data_batch, data_samples)
        for (truth, _), sample in zip(self.results[-len(data_samples) :], data_samples):
            truth['path'] = sample.get('img_path') or ''

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """The same numbers as ``CocoMetric``'s.

        Args:
            results: Truth and prediction of each image, as ``process`` collects them.

        Raises:
            UserError: The predictions are of images that ``ann_file`` lacks, or masks
                are missing.
        """
        self.matching = None
        classes = self.dataset_meta['classes']
        if self.ann_file is None:
            results = give_each_image_an_id(results)
        truths, predictions = zip(*results)
        if self.ann_file is None:
            content = build_truth(truths, classes)
            self._check_codes(content)
        else:
            sizes = {t['img_id']: (t['width'], t['height']) for t in truths}
            content = fill_sizes(self._coco_api.dataset, sizes)
            content = self._choose_images(content, predictions)
        category_ids = self._find_category_ids(content)
        entries = list_entries(predictions, category_ids)
        if self.outfile_prefix is not None:
            files = entries if self.ann_file else {'gt': content, **entries}
            for name, written in files.items():
                write_json(f'{self.outfile_prefix}.{name}.json', written)
        logger = MMLogger.get_current_instance()
        if self.format_only:
            logger.info(f'Predictions are in {self.outfile_prefix}.*.json')
            return {}
        numbers = number_ids(content, category_ids)
        self._check_images(set(numbers.images), predictions)
        truth = number_truth(content, classes, numbers)
        images = self._list_images(content, truths, numbers)
        metrics: dict[str, float] = {}
        for metric in self.metrics:
            logger.info(f'Evaluating {metric}...')
            if metric == 'proposal_fast':
                recalls = counting.measure_fast_recalls(
                    truth, predictions, numbers, self.settings
                )
                lines = (f'\n{name}\t{recall:.4f}' for name, recall in recalls.items())
                logger.info(''.join(lines))
                metrics |= recalls
                continue
            iou_type = 'bbox' if metric == 'proposal' else metric
            if iou_type not in entries:
                raise UserError(
                    f'metric={metric!r} of the evaluator needs masks, which the '
                    'detector does not predict'
                )
            if not entries[iou_type]:
                logger.error('There are no predictions to evaluate.')
                if 'bbox' in self.metrics:
                    self.matching = self._match(truth, images, predictions, numbers)
                break
            averages = counting.evaluate(
                truth, entries[iou_type], numbers, metric, self.settings
            )
            if metric == 'bbox' and self.settings.rules == 'yolov5':
                averages = counting.follow_yolov5(
                    averages,
                    list_found(predictions, numbers.images),
                    list_objects(truth.dataset['annotations']),
                    self.settings,
                )
            self._log(averages, metric, classes)
            if metric == 'bbox':
                self.matching = self._match(
                    truth, images, predictions, numbers, averages
                )
                logger.info(describe_best(find_best_scores(self.matching).all))
            metrics |= counting.name_numbers(
                averages, metric, classes if self.classwise else (), self.metric_items
            )
        return metrics

    def _list_images(
        self, content: dict, truths: Sequence[dict], numbers: Numbers
    ) -> list[Image]:
        """The images of the truth, in the order of their numbers."""
        paths = {truth['img_id']: truth['path'] for truth in truths}
        return [
            Image(number, paths.get(number, ''), image['width'], image['height'])
            for image in sorted(
                content['images'], key=lambda image: numbers.images[image['id']]
            )
            for number in [image['id']]
        ]

    def _match(
        self,
        truth: COCO,
        images: Sequence[Image],
        predictions: Sequence[dict],
        numbers: Numbers,
        averages: counting.Averages | None = None,
    ) -> Matching:
        """The matching of an evaluation, or of one without any detection."""
        classes = self.dataset_meta['classes']
        thresholds = self.settings.iou_thresholds
        objects = list_objects(truth.dataset['annotations'])
        return build_matching(
            classes,
            images,
            objects,
            list_found(predictions, numbers.images),
            averages.pairs if averages else np.zeros((0, 2), int),
            averages.precisions
            if averages
            else find_no_precisions(objects, classes, thresholds),
            thresholds,
            counting.WEIGHTS[self.settings.rules],
            self.settings.map_detections,
        )

    def _check_codes(self, content: dict) -> None:
        if 'segm' not in self.metrics:
            return
        with naming_file(self.ann_file):
            check_code_sizes(content)

    def _find_category_ids(self, content: dict) -> list:
        meta = self.dataset_meta
        class_ids = meta.get('class_ids') if self.ann_file is not None else None
        with naming_file(self.ann_file):
            return find_category_ids(content, meta['classes'], class_ids)

    def _choose_images(self, content: dict, predictions: Sequence[dict]) -> dict:
        """The content of ``ann_file`` with the images that the dataset has."""
        if 'image_list' not in self.dataset_meta:
            return content
        evaluated = {prediction['img_id'] for prediction in predictions}
        known = {image['id'] for image in content['images']}
        return leave_out_images(content, known - evaluated)

    def _check_images(self, known: set, predictions: Sequence[dict]) -> None:
        """Raises for images that the truth lacks, and warns of those left out."""
        evaluated = {prediction['img_id'] for prediction in predictions}
        unknown = evaluated - known
        if unknown:
            raise UserError(
                f"{len(unknown)} images are not in the evaluator's ann_file: set it to "
                'the file of the dataset'
            )
        if len(evaluated) < len(known):
            MMLogger.get_current_instance().warning(
                f'{len(known) - len(evaluated)} of the {len(known)} images of '
                f'{self.ann_file} were not evaluated: their boxes count as missed'
            )

    def _log(
        self, averages: counting.Averages, metric: str, classes: Sequence[str]
    ) -> None:
        logger = MMLogger.get_current_instance()
        names_recalls = any(item.startswith('AR') for item in self.metric_items or ())
        if metric == 'proposal' or names_recalls:
            note = counting.explain_recalls(self.settings.max_detections)
            if note:
                logger.info(note)
        if metric == 'proposal':
            return
        if self.classwise:
            logger.info(f'\n{counting.draw_table(averages, classes)}')
        stats = (averages.stats[item] for item in counting.PRECISIONS)
        logger.info(f'{metric}_mAP_copypaste: {" ".join(f"{s:.3f}" for s in stats)}')
