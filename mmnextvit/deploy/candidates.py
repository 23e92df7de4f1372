"""A trained YOLO detector as a network that is exported.

It maps images to candidates: normalisation, backbone, neck, head and decoding, with
BatchNorms folded. The module of each format puts its own non-maximum suppression
behind it. Of a detector that finds masks, candidates have coefficients of prototypes,
too, which the runtime makes masks of.
"""

import copy

import torch
from torch import Tensor, nn

from ..models.fold import fold_batchnorms
from ..models.image_channels import count_image_channels, order_as_rgb
from ..utils.errors import UserError
from ..utils.packages import require_mmyolo


class Candidates(nn.Module):
    """Images to every box that a detector considers, with its scores.

    Args:
        detector: A detector whose head is MMYOLO's ``YOLOv5Head`` or derived from it
            (YOLOv5's, YOLOv8's, RTMDet's), or ``YOLOv5InsHead``, which finds masks. It
            is copied and stays as it is.
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
        self.mask_channels = count_mask_channels(detector)
        self.dtype = torch.float16 if half else torch.float32
        for part in (self.backbone, self.neck, self.head):
            part.to(self.dtype)

        preprocessor = detector.data_preprocessor
        mean, std = get_mean_and_std(detector)
        # Where the network wants BGR they are in that order, as its input.
        self.image_channels = len(mean)
        order = list(range(len(mean)))
        self.flips = len(mean) > 1 and not turns_to_rgb(preprocessor)
        self.order = order_as_rgb(len(mean)) if self.flips else order
        for name, value in (('mean', mean), ('scale', [1 / x for x in std])):
            value = torch.tensor([value[i] for i in self.order]).reshape(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes candidates.

        Args:
            images: (B, C, H, W), 0 to 255, H and W multiples of 32: RGB, grey, or RGB
                and a fourth channel.

        Returns:
            Boxes (B, N, 4) as x1, y1, x2, y2 in pixels of the input, and scores
            (B, N, C), a column a class; 0 where the model gives one class a box and
            another is better. Of a head that finds masks also coefficients (B, N, M)
            and prototypes (B, M, h, w), whose weighted sums are the masks' logits.
        """
        if self.flips:
            images = images[:, self.order]
        images = (images - self.mean) * self.scale
        maps = self.head(self.neck(self.backbone(images.to(self.dtype))))
        maps, prototypes = list(maps), []
        if self.mask_channels:
            prototypes.append(maps.pop().float())
        classes, boxes, *others = ([m.float() for m in level] for level in maps)
        coefficients = []
        if self.mask_channels:
            coefficients.append(flatten_levels(others.pop(), self.mask_channels))
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
        for levels in others:
            objectness = flatten_levels(levels, 1).sigmoid()
            scores = scores * objectness
            coefficients = [c * objectness for c in coefficients]  # as MMYOLO's head
        if self.best_class_only:
            best = scores.argmax(-1, keepdim=True)
            numbers = torch.arange(scores.shape[-1], device=scores.device)
            scores = scores * (numbers == best)
        boxes = self.head.bbox_coder.decode(
            torch.cat(priors)[None], flatten_levels(boxes, 4), strides
        )
        return boxes, scores, *coefficients, *prototypes


def flatten_levels(levels: list[Tensor], channels: int) -> Tensor:
    """Feature maps (B, A*C, H, W) of all levels as (B, N, C), as priors are ordered."""
    rows = (m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in levels)
    return torch.cat(list(rows), 1)


def check_head(detector: nn.Module) -> None:
    """Makes sure that :class:`Candidates` computes what a detector predicts from.

    Raises:
        UserError: It does not; the message says which heads can be exported.
        MissingPackageError: MMYOLO, whose heads those are, is not installed.
    """
    require_mmyolo()
    from mmyolo.models.dense_heads import YOLOv5Head, YOLOv5InsHead  # may be missing

    head = getattr(detector, 'bbox_head', None)
    head_type = type(head or detector)
    predict = getattr(head_type, 'predict_by_feat', None)
    # A head with its own prediction gives something else, such as angles.
    if predict not in (YOLOv5Head.predict_by_feat, YOLOv5InsHead.predict_by_feat):
        raise UserError(
            f'{head_type.__name__} cannot be exported: the head must be one of '
            "MMYOLO's that give boxes as YOLOv5Head does (YOLOv5, YOLOv8, RTMDet), or "
            'YOLOv5InsHead, the only one whose masks can be'
        )


def count_mask_channels(detector: nn.Module) -> int:
    """How many prototypes a detector's masks are made of; 0 if it finds none."""
    return getattr(detector.bbox_head.head_module, 'mask_channels', 0)


def is_multi_label(detector: nn.Module) -> bool:
    """Whether a box may be detected as several classes."""
    head = detector.bbox_head
    return bool(head.test_cfg.get('multi_label')) and head.num_classes > 1


def get_mean_and_std(detector: nn.Module) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the normalisation, by channel.

    Of colours the order is R, G, B, and what follows.
    """
    preprocessor, count = detector.data_preprocessor, count_image_channels(detector)
    if not preprocessor._enable_normalize:
        return [0.0] * count, [1.0] * count
    values = (preprocessor.mean.flatten(), preprocessor.std.flatten())
    values = tuple(v.expand(count) for v in values)  # one may be that of all channels
    if not turns_to_rgb(preprocessor):  # they are in the order of the network
        values = tuple(v[order_as_rgb(count)] for v in values)
    mean, std = (v.double().tolist() for v in values)
    return mean, std


def turns_to_rgb(preprocessor: nn.Module) -> bool:
    """Whether a data preprocessor turns BGR to RGB."""
    return bool(preprocessor._channel_conversion or getattr(preprocessor, 'turns', 0))
