"""MMYOLO's datasets with the checks of `VerifiedDataMixin`."""

from mmyolo.datasets import YOLOv5CocoDataset, YOLOv5VOCDataset
from mmyolo.datasets.yolov5_coco import BatchShapePolicyDataset
from mmyolo.registry import DATASETS

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
