"""Has MMDetection's heads tell NMS how many boxes they keep of those that it leaves.

They cut afterwards, by ``max_per_img``, so that NMS goes on to the last of tens of
thousands of boxes. mmcv's NMS has an option for it, ``max_num``.
"""

import copy
import functools
import inspect
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from mmdet.models.dense_heads import RTMDetInsHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.dense_heads.rpn_head import RPNHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead

MAX_DETECTIONS = 300  # in an image, where a config does not say

# Methods that keep the best `max_per_img` boxes of NMS, and their argument with both.
CUTTING_METHODS = (
    (BaseDenseHead, '_bbox_post_process', 'cfg'),
    (RPNHead, '_bbox_post_process', 'cfg'),
    (RTMDetInsHead, '_bbox_mask_post_process', 'cfg'),
    (BBoxHead, '_predict_by_feat_single', 'rcnn_test_cfg'),
)


def tell_limits() -> None:
    """Has MMDetection's heads tell NMS their limits, for the whole process."""
    for head, method, argument in CUTTING_METHODS:
        tell_limit(head, method, argument)


def tell_limit(head: type, name: str, argument: str) -> None:
    """Has a head's method tell NMS its limit.

    Args:
        head: The class, whose method is replaced.
        name: Of the method.
        argument: Of the method: a test config, or ``None``.
    """
    method = getattr(head, name)
    if hasattr(method, '__wrapped__'):
        return
    signature, add = inspect.signature(method), add_limit

    def call(*args: object, **kwargs: object) -> object:
        bound = signature.bind(*args, **kwargs)
        if bound.arguments.get(argument) is not None:
            bound.arguments[argument] = add(bound.arguments[argument])
        return method(*bound.args, **bound.kwargs)

    # MMYOLO's YOLOXPoseHead puts a function into the globals that the method has.
    seen = FunctionType(call.__code__, method.__globals__, closure=call.__closure__)
    setattr(head, name, functools.wraps(method)(seen))


def add_limit(test_cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    """A test config whose NMS keeps no more than ``max_per_img`` boxes.

    One with another NMS than mmcv's plain one, which has no such option, stays as it
    is, as one that says it already.
    """
    limit, nms = test_cfg.get('max_per_img'), test_cfg.get('nms')
    if not limit or limit < 1 or not nms or nms.get('type', 'nms') != 'nms':
        return test_cfg
    limited: Any = copy.copy(test_cfg)  # of whatever kind of mapping
    limited['nms'] = {'max_num': limit, **nms}
    return limited


def find_max_detections(model: Mapping[str, Any]) -> int:
    """How many objects a detector finds in an image at most.

    Args:
        model: Its config. Where its test config, or that of its second stage, has no
            ``max_per_img``, it is YOLOv5's number.
    """
    test_cfg = model.get('test_cfg') or {}
    limits = [
        part.get('max_per_img') for part in (test_cfg, test_cfg.get('rcnn') or {})
    ]
    return next((limit for limit in limits if limit and limit > 0), MAX_DETECTIONS)
