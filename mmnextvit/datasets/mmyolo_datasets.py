"""MMYOLO's datasets with our checks, and its letterbox as YOLOv5 has it."""

import copy

import mmcv
import numpy as np
from mmyolo.datasets import YOLOv5CocoDataset, YOLOv5VOCDataset
from mmyolo.datasets.transforms import LetterResize, Mosaic
from mmyolo.datasets.yolov5_coco import BatchShapePolicyDataset
from mmyolo.registry import DATASETS, TRANSFORMS

from .coco import VerifiedCocoMixin
from .csv_boxes import VerifiedCSVMixin
from .voc import VerifiedVOCMixin
from .yolo_txt import VerifiedYOLOTxtMixin


@DATASETS.register_module()
class VerifiedCocoDataset(VerifiedCocoMixin, YOLOv5CocoDataset):
    """MMYOLO's COCO dataset with the checks of `VerifiedDataMixin`."""


@DATASETS.register_module()
class VerifiedVOCDataset(VerifiedVOCMixin, YOLOv5VOCDataset):
    """MMYOLO's Pascal VOC dataset with the checks of `VerifiedDataMixin`."""


@DATASETS.register_module()
class VerifiedYOLOTxtDataset(VerifiedYOLOTxtMixin, BatchShapePolicyDataset):
    """A dataset of YOLO's txt files with MMYOLO's batch shapes."""


@DATASETS.register_module()
class VerifiedCSVDataset(VerifiedCSVMixin, BatchShapePolicyDataset):
    """A dataset of boxes in a CSV file with MMYOLO's batch shapes."""


@TRANSFORMS.register_module()
class ChannelsMosaic(Mosaic):
    """MMYOLO's ``Mosaic`` for images of more than three channels, which it has not.

    It is made of the first three channels, and once more of each that follows, at the
    same place.
    """

    def mix_img_transform(self, results: dict) -> dict:
        parts = [results, *results['mix_results']]
        images = [part['img'] for part in parts]
        planes = []
        for number in range(3, images[0][0, 0].size):
            plane = copy.deepcopy({k: v for k, v in results.items() if k != 'img'})
            for part, image in zip([plane, *plane['mix_results']], images):
                part['img'] = np.ascontiguousarray(image[..., number])
            state = np.random.get_state()  # which places the images
            planes.append(super().mix_img_transform(plane)['img'])
            np.random.set_state(state)
        if planes:
            for part, image in zip(parts, images):
                part['img'] = np.ascontiguousarray(image[..., :3])
        mixed = super().mix_img_transform(results)
        if planes:
            mixed['img'] = np.dstack([mixed['img'], *planes])
            mixed['img_shape'] = mixed['img'].shape
        return mixed


@TRANSFORMS.register_module()
class YOLOv5LetterResize(LetterResize):
    """The letterbox of YOLOv5's ``detect.py``, of which MMYOLO's differs in details.

    The rectangle's sides are multiples of any stride, and boxes come back to the image
    by the sizes before they are rounded: with one factor for both sides, and halves of
    the padding that may be no whole pixels.

    Args:
        scale: Width and height that the image is fitted into, in pixels.
        stride: Sides of a rectangle are multiples of it.
        use_mini_pad: Whether to pad to the smallest rectangle, or to ``scale``.
        pad_val: Value of the padding.
        kwargs: Those of MMYOLO's ``LetterResize``.
    """

    def __init__(
        self,
        scale: int | tuple[int, int],
        stride: int = 32,
        use_mini_pad: bool = True,
        pad_val: int = 114,
        **kwargs: object,
    ) -> None:
        super().__init__(scale, dict(img=pad_val), use_mini_pad, **kwargs)
        self.stride = stride

    def _resize_img(self, results: dict) -> None:
        image = results['img']
        before = np.array(image.shape[:2])
        canvas = np.array(self.scale[::-1])
        ratio = (canvas / before).min()
        ratio = ratio if self.allow_scale_up else min(ratio, 1.0)
        size = np.maximum(np.rint(before * ratio).astype(int), 1)
        if self.use_mini_pad:
            canvas = size + (canvas - size) % self.stride
        if (size != before).any():
            height, width = size.tolist()
            image = mmcv.imresize(
                image,
                (width, height),
                interpolation=self.interpolation,
                backend=self.backend,
            )
        top, left = ((canvas - size) // 2).tolist()
        bottom, right = (canvas - size - (top, left)).tolist()
        image = mmcv.impad(
            image,
            padding=(left, top, right, bottom),
            pad_val=(self.pad_val['img'],) * image[0, 0].size,
        )
        gain = float((canvas / before).min())
        vertical, horizontal = (canvas - before * gain) / 2
        results['img'] = image
        results['img_shape'] = image.shape
        results['scale_factor'] = (gain, gain)
        results['pad_param'] = np.array(
            [vertical, vertical, horizontal, horizontal], np.float32
        )
