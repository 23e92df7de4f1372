"""A RoI head of MMDetection's whose number of classes stands in one place."""

from collections.abc import Mapping
from typing import Any

from mmdet.models.roi_heads import StandardRoIHead
from mmdet.registry import MODELS


@MODELS.register_module()
class FittedRoIHead(StandardRoIHead):
    """MMDetection's ``StandardRoIHead``, whose masks have the classes of its boxes.

    Args:
        bbox_head: Config of the box head, which says ``num_classes``.
        mask_head: Config of the mask head, if any. Its own ``num_classes`` is of no
            account, since any other number could only fail.
        **kwargs: Arguments of MMDetection's head.
    """

    derived_heads = ('mask_head',)  # which take num_classes from the other

    def __init__(
        self,
        *,
        bbox_head: Mapping[str, Any] | None = None,
        mask_head: Mapping[str, Any] | None = None,
        **kwargs: object,
    ) -> None:
        if bbox_head and mask_head and 'num_classes' in bbox_head:
            mask_head = dict(mask_head, num_classes=bbox_head['num_classes'])
        super().__init__(bbox_head=bbox_head, mask_head=mask_head, **kwargs)
