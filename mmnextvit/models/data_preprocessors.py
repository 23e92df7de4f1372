"""MMDetection's data preprocessor for images of more than three channels."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from torch import Tensor

from .image_channels import order_as_rgb


class ChannelsMixin(DetDataPreprocessor):
    """What has a data preprocessor take images of more than three channels.

    MMEngine's takes a mean for one channel or three, and drops a fourth where it turns
    BGR to RGB.

    Args:
        mean: Of each channel, as R, G, B and what follows if ``bgr_to_rgb``.
        std: Likewise.
        bgr_to_rgb: Whether the first three channels are turned.
        **kwargs: Those of the class that this is mixed into.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        bgr_to_rgb: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(mean=[0.0], std=[1.0], **kwargs)
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)
        self.turns = bgr_to_rgb

    def forward(self, data: dict, training: bool = False) -> dict:
        """As the class's: images (C, H, W), in a list or as a batch, to the model's."""
        if self.turns:
            order, images = order_as_rgb(len(self.mean)), data['inputs']
            turned = (
                images[:, order]
                if isinstance(images, Tensor)
                else [image[order] for image in images]
            )
            data = dict(data, inputs=turned)
        return super().forward(data, training)


@MODELS.register_module()
class ChannelsDetDataPreprocessor(ChannelsMixin):
    """MMDetection's ``DetDataPreprocessor`` for images of more than three channels."""
