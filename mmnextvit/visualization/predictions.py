"""Images of a detector's predictions beside the truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import BaseInstanceMasks
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch.nn.functional import interpolate

from ..datasets.images import load_image
from ..runtime import Masks, name_image
from ..utils.files import atomic_write
from .detections import draw_detections, list_colours
from .sheets import draw_contact_sheet
from .writers import write_image


class PairVisualizer:
    """Draws the truth and the predictions on an image beside each other.

    Attributes:
        dataset_meta: ``classes``, and maybe a ``palette``, of a data set.
    """

    def __init__(self) -> None:
        self.dataset_meta: Mapping[str, Any] = {}

    def draw(
        self, image: np.ndarray, sample: DetDataSample, score_thr: float
    ) -> np.ndarray:
        """The truth on the left and the predictions on the right, RGB, uint8.

        Args:
            image: H x W x 3, RGB, uint8.
            sample: Boxes, and maybe masks, in pixels of ``image``.
            score_thr: Minimum score of a prediction that is drawn.
        """
        sample = sample.cpu()
        classes = self.dataset_meta['classes']
        colours = list_colours(self.dataset_meta.get('palette'), len(classes))
        found = keep_high(sample.pred_instances, score_thr)
        halves = [
            draw_detections(image, instances, classes, colours)
            for instances in (sample.gt_instances, found)
        ]
        return np.hstack(halves)


def scale_instances(
    instances: InstanceData, scale: float, size: tuple[int, int]
) -> InstanceData:
    """Boxes and masks in the pixels of an image that was resized.

    Args:
        instances: Boxes, and maybe masks.
        scale: New size / old size.
        size: The new height and width.
    """
    instances = instances.clone()
    instances.bboxes = get_box_tensor(instances.bboxes) * scale
    if 'masks' in instances and len(instances):
        masks = instances.masks
        if isinstance(masks, BaseInstanceMasks):  # the truth's
            masks = masks.to_ndarray()
        if isinstance(masks, Masks):
            masks = masks.to_array()
        masks = torch.as_tensor(masks).float()[None]  # 1 N H W
        instances.masks = interpolate(masks, size)[0].bool()
    return instances


def with_truth(sample: DetDataSample) -> None:
    """Gives a sample of an image without annotations a truth without objects."""
    if 'bboxes' not in sample.get('gt_instances', ()):
        nothing = torch.zeros(0, dtype=torch.long)
        sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=nothing)


def draw_pair(
    image: np.ndarray,
    sample: DetDataSample,
    visualizer: PairVisualizer,
    score_thr: float = 0.3,
    min_side: int = 320,
) -> np.ndarray:
    """An image twice, with the truth (left) and the predictions (right).

    Args:
        image: H x W x 3, RGB, uint8.
        sample: Boxes, and maybe predicted masks, in pixels of ``image``.
        visualizer: It has the classes in its ``dataset_meta``.
        score_thr: Minimum score of a prediction that is drawn.
        min_side: Pixels to which the longer side of smaller images is enlarged, so
            that their boxes and labels can be told apart.

    Returns:
        The pair with a caption above it, RGB.
    """
    scale = max(1.0, min_side / max(image.shape[:2]))
    image = cv2.resize(image, None, fx=scale, fy=scale)
    sample = sample.cpu().clone()
    with_truth(sample)
    size = image.shape[:2]
    sample.gt_instances = scale_instances(sample.gt_instances, scale, size)
    sample.pred_instances = scale_instances(sample.pred_instances, scale, size)
    pair = visualizer.draw(image, sample, score_thr)
    caption = np.full((24, pair.shape[1], 3), 255, dtype=np.uint8)
    for text, x in (('truth', 4), ('prediction', pair.shape[1] // 2 + 4)):
        cv2.putText(
            caption, text, (x, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 0, 1, cv2.LINE_AA
        )
    return np.vstack([caption, pair])


def read_drawn(sample: DetDataSample) -> np.ndarray:
    """The image that a sample's boxes are of, (H, W, 3), RGB, to be drawn on.

    Raises:
        BrokenImageError: It cannot be read.
    """
    # The shape that it had when it was loaded shows how it was turned.
    shape = sample.get('ori_shape')
    stated = None if shape is None else (shape[1], shape[0])
    return load_image(sample.img_path, stated=stated).image[..., ::-1].copy()


def keep_high(
    detections: InstanceData, thresholds: float | Sequence[float]
) -> InstanceData:
    """Detections whose score is at least the minimum.

    Args:
        detections: With ``scores`` and ``labels`` (N,).
        thresholds: Minimum score, or each label's.
    """
    lowest = detections.scores.new_tensor(thresholds)
    if lowest.ndim:
        lowest = lowest[detections.labels]
    return detections[detections.scores >= lowest]


@HOOKS.register_module()
class DrawTestHook(Hook):
    """Draws the predictions on each tested image beside the truth, into a folder.

    As MMDetection's ``DetVisualizationHook`` does, which reads images by itself and
    turns them by EXIF, though their boxes may not be turned.

    Args:
        out_dir: The folder.
        score_thr: Minimum score of a prediction that is drawn, or each label's.
    """

    def __init__(self, out_dir: str, score_thr: float | Sequence[float] = 0.3) -> None:
        self.out_dir = out_dir
        self.score_thr = score_thr

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[DetDataSample] = (),
    ) -> None:
        visualizer = PairVisualizer()
        visualizer.dataset_meta = runner.visualizer.dataset_meta
        for sample in outputs:
            sample = sample.clone()  # metrics and other hooks get all of it
            sample.pred_instances = keep_high(sample.pred_instances, self.score_thr)
            with_truth(sample)
            pair = visualizer.draw(read_drawn(sample), sample, score_thr=0)
            path = name_image(Path(self.out_dir, Path(sample.img_path).name), pair)
            with atomic_write(path) as scratch:
                write_image(scratch, pair[..., ::-1])


@HOOKS.register_module()
class ContactSheetHook(Hook):
    """Draws the first images of every validation and test into one file.

    The file is ``predictions.jpg`` in the work dir; the next validation replaces it.

    Args:
        count: Images to draw.
        score_thr: Minimum score of a prediction that is drawn.
    """

    def __init__(self, count: int = 4, score_thr: float = 0.3) -> None:
        self.count = count
        self.score_thr = score_thr
        self._visualizer = PairVisualizer()
        self._pairs: list[np.ndarray] = []

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode != 'train':
            dataset = getattr(runner, f'{mode}_dataloader').dataset
            self._visualizer.dataset_meta = dataset.metainfo
            self._pairs = []

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Any = None,
        mode: str = 'train',
    ) -> None:
        if mode != 'train' and is_main_process():  # MMEngine's visualizer draws there
            for sample in outputs[: self.count - len(self._pairs)]:
                image = read_drawn(sample)
                self._pairs.append(
                    draw_pair(image, sample, self._visualizer, self.score_thr)
                )

    @master_only
    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode != 'train' and self._pairs:
            sheet = draw_contact_sheet(self._pairs, columns=2)
            path = name_image(Path(runner.work_dir, 'predictions.jpg'), sheet)
            with atomic_write(path) as scratch:
                write_image(scratch, sheet[..., ::-1])
            runner.logger.info(f'Predictions are drawn in {path}')
