"""A trained YOLO detector as a network that is exported.

It maps images to candidates: normalisation, backbone, neck, head and decoding, with
BatchNorms folded. The module of each format puts its own non-maximum suppression
behind it.
"""

import copy

import torch
from torch import Tensor, nn

from ..models.fold import fold_batchnorms
from ..utils.errors import UserError


class Candidates(nn.Module):
    """Images to every box that a detector considers, with its scores.

    Args:
        detector: A detector whose head is MMYOLO's ``YOLOv5Head`` or derived from it
            (YOLOv5's, YOLOv8's, RTMDet's). It is copied and stays as it is.
        half: Whether the network computes in float16. Normalisation and decoding
            stay in float32, in which a box is exact to far less than a pixel.

    Raises:
        UserError: The head is of another type.
    """

    def __init__(self, detector: nn.Module, half: bool = False) -> None:
        super().__init__()
        check_head(detector)
        detector = copy.deepcopy(detector).eval().requires_grad_(False)
        fold_batchnorms(detector)
        self.backbone, self.neck = detector.backbone, detector.neck
        self.head = detector.bbox_head
        self.best_class_only = not is_multi_label(detector)
        self.dtype = torch.float16 if half else torch.float32
        for part in (self.backbone, self.neck, self.head):
            part.to(self.dtype)

        preprocessor = detector.data_preprocessor
        mean, std = get_mean_and_std(detector)
        # Where the network wants BGR they are in that order, as its input.
        self.flips = not preprocessor._channel_conversion
        order = slice(None, None, -1 if self.flips else 1)
        for name, value in (('mean', mean), ('scale', [1 / x for x in std])):
            value = torch.tensor(value[order]).reshape(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Computes candidates.

        Args:
            images: (B, 3, H, W), RGB, 0 to 255, H and W multiples of 32.

        Returns:
            Boxes (B, N, 4) as x1, y1, x2, y2 in pixels of the input, and scores
            (B, N, C), a column a class; 0 where the model gives one class a box and
            another is better.
        """
        if self.flips:
            images = images.flip(1)
        images = (images - self.mean) * self.scale
        maps = self.head(self.neck(self.backbone(images.to(self.dtype))))
        classes, boxes, *objectness = ([m.float() for m in level] for level in maps)
        priors = self.head.prior_generator.grid_priors(
            [m.shape[2:] for m in classes], images.dtype, images.device
        )
        strides = torch.cat(
            [
                images.new_full((level.shape[0],), stride)
                for level, stride in zip(priors, self.head.featmap_strides)
            ]
        )
        scores = flatten_levels(classes, self.head.num_classes).sigmoid()
        for levels in objectness:
            scores = scores * flatten_levels(levels, 1).sigmoid()
        if self.best_class_only:
            best = scores.argmax(-1, keepdim=True)
            numbers = torch.arange(scores.shape[-1], device=scores.device)
            scores = scores * (numbers == best)
        boxes = self.head.bbox_coder.decode(
            torch.cat(priors)[None], flatten_levels(boxes, 4), strides
        )
        return boxes, scores


def flatten_levels(levels: list[Tensor], channels: int) -> Tensor:
    """Feature maps (B, A*C, H, W) of all levels as (B, N, C), as priors are ordered."""
    rows = (m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in levels)
    return torch.cat(list(rows), 1)


def check_head(detector: nn.Module) -> None:
    """Makes sure that :class:`Candidates` computes what a detector predicts from.

    Raises:
        UserError: It does not; the message says which heads can be exported.
    """
    from mmyolo.models.dense_heads import YOLOv5Head  # may be missing

    head = getattr(detector, 'bbox_head', None)
    head_type = type(head or detector)
    # A head with its own prediction gives something else, such as masks or angles.
    if getattr(head_type, 'predict_by_feat', None) is not YOLOv5Head.predict_by_feat:
        raise UserError(
            f'{head_type.__name__} cannot be exported: the head must be one of '
            "MMYOLO's that give boxes as YOLOv5Head does (YOLOv5, YOLOv8, RTMDet), "
            'without masks'
        )


def is_multi_label(detector: nn.Module) -> bool:
    """Whether a box may be detected as several classes."""
    head = detector.bbox_head
    return bool(head.test_cfg.get('multi_label')) and head.num_classes > 1


def get_mean_and_std(detector: nn.Module) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the normalisation, each as R, G, B."""
    preprocessor = detector.data_preprocessor
    if not preprocessor._enable_normalize:
        return [0.0] * 3, [1.0] * 3
    values = (preprocessor.mean.flatten(), preprocessor.std.flatten())
    if not preprocessor._channel_conversion:  # they are in the order of the network
        values = tuple(v.flip(0) for v in values)
    mean, std = (v.double().tolist() for v in values)
    return mean, std
