"""Detectors that find something in nearly every cell, without having been trained.

Trained by YOLOv5's recipe, detectors do so at the low score with which it evaluates.
NMS then has tens of thousands of boxes to go through.
"""

import numpy as np
import torch
from torch import Tensor, nn

from ..datasets.demo_data import draw_image
from ..utils.errors import UserError
from .norms import settle_norms

# Mean and standard deviation of the logits: of a box, of objectness and of classes.
BOX, OBJECTNESS, CLASSES = (0.0, 0.6), (-4.5, 1.5), (-2.0, 1.5)


@torch.no_grad()
def crowd(detector: nn.Module, size: int = 320, seed: int = 0) -> nn.Module:
    """Gives a detector with random weights usual features and many boxes.

    Its BatchNorms get the statistics of drawn images, and the head's last convolutions
    are scaled to logits of a usual size. So about half of all pairs of a cell's anchor
    and a class score above 0.001.

    Args:
        detector: A detector with YOLOv5's head, which is changed.
        size: Height and width of the images, in pixels.
        seed: What they are drawn from.

    Returns:
        The detector, in eval mode.

    Raises:
        UserError: The head is another.
    """
    convs = getattr(detector.bbox_head.head_module, 'convs_pred', None)
    if convs is None:
        head = type(detector.bbox_head).__name__
        raise UserError(f"{head} is not YOLOv5's head", key='model.bbox_head')
    rng = np.random.default_rng(seed)
    images = [torch.from_numpy(draw_image(rng, size)[0]) for _ in range(4)]
    inputs = [image.permute(2, 0, 1) for image in images]
    batch = detector.data_preprocessor({'inputs': inputs}, False)['inputs']

    maps = settle_norms(detector, lambda: detector.neck(detector.backbone(batch)))
    for conv, features in zip(convs, maps):
        set_logits(conv, features, detector.bbox_head.num_classes)
    return detector


def set_logits(conv: nn.Conv2d, features: Tensor, classes: int) -> None:
    """Scales a last convolution to logits of a usual size.

    Args:
        conv: To x, y, w, h, objectness and the classes of each anchor in turn.
        features: What it gets, (B, C, H, W).
        classes: The number of classes.
    """
    wanted = torch.tensor([BOX] * 4 + [OBJECTNESS] + [CLASSES] * classes)
    mean, std = wanted.repeat(conv.out_channels // len(wanted), 1).T
    has_std, has_mean = torch.std_mean(conv(features), (0, 2, 3))
    factor = std / has_std
    conv.weight *= factor[:, None, None, None]
    conv.bias.copy_((conv.bias - has_mean) * factor + mean)
