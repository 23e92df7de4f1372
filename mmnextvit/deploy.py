"""A trained YOLO detector as a network to be exported, and the facts that go with it.

What is exported maps pictures to candidates: normalisation, backbone, neck, head and
decoding, with BatchNorms folded. Non-maximum suppression is put behind it by
:mod:`mmnextvit.export`, since every format has its own.
"""

import copy
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from mmdet.registry import TRANSFORMS
from mmengine.config import Config
from torch import Tensor, nn

from .fold import fold_batchnorms

FORMAT = 1  # of the metadata; the runtime refuses newer ones
STRIDE = 32  # both sides of a picture are multiples of it
PACKAGES = ('mmnextvit', 'torch', 'mmengine', 'mmcv-lite', 'mmdet', 'mmyolo')


class Candidates(nn.Module):
    """Pictures to every box that a detector considers, with its scores.

    Args:
        detector: A detector whose head is MMYOLO's ``YOLOv5Head`` or derived from it
            (YOLOv5's, YOLOv8's, RTMDet's). It is copied, not changed.
        half: Whether the network computes in float16. Normalisation and decoding
            stay in float32, in which a box is exact to far less than a pixel.
        fold: Whether BatchNorms are folded.

    Raises:
        ValueError: The head is of another kind.
    """

    def __init__(
        self, detector: nn.Module, half: bool = False, fold: bool = True
    ) -> None:
        super().__init__()
        check_head(detector)
        detector = copy.deepcopy(detector).eval().requires_grad_(False)
        if fold:
            fold_batchnorms(detector)
        self.backbone, self.neck = detector.backbone, detector.neck
        self.head = detector.bbox_head
        self.best_class_only = not multi_label(detector)
        self.dtype = torch.float16 if half else torch.float32
        for part in (self.backbone, self.neck, self.head):
            part.to(self.dtype)

        preprocessor = detector.data_preprocessor
        mean, std = mean_and_std(detector)
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
        scores = flattened(classes, self.head.num_classes).sigmoid()
        for levels in objectness:
            scores = scores * flattened(levels, 1).sigmoid()
        if self.best_class_only:
            scores = scores * (scores == scores.amax(-1, keepdim=True))
        boxes = self.head.bbox_coder.decode(
            torch.cat(priors)[None], flattened(boxes, 4), strides
        )
        return boxes, scores


def flattened(levels: list[Tensor], channels: int) -> Tensor:
    """Maps (B, A*C, H, W) of all levels as (B, N, C), in the order of the priors."""
    rows = (m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, channels) for m in levels)
    return torch.cat(list(rows), 1)


def check_head(detector: nn.Module) -> None:
    """Refuses a detector that :class:`Candidates` cannot stand for.

    Raises:
        ValueError: It says which heads can be exported.
    """
    from mmyolo.models.dense_heads import YOLOv5Head, YOLOv5InsHead  # may be missing

    head = getattr(detector, 'bbox_head', None)
    if isinstance(head, YOLOv5InsHead):
        raise ValueError(
            f'{type(head).__name__} gives masks, which are not exported: train the '
            'detector without them'
        )
    if not isinstance(head, YOLOv5Head):
        kind = type(head or detector).__name__
        raise ValueError(
            f"{kind} cannot be exported: the head must be one of MMYOLO's, derived "
            'from YOLOv5Head (YOLOv5, YOLOv8, RTMDet)'
        )


def multi_label(detector: nn.Module) -> bool:
    """Whether a box may be found as several classes."""
    head = detector.bbox_head
    return bool(head.test_cfg.get('multi_label')) and head.num_classes > 1


def mean_and_std(detector: nn.Module) -> tuple[list[float], list[float]]:
    """What is taken off a picture and what it is divided by, as R, G, B."""
    preprocessor = detector.data_preprocessor
    if not preprocessor._enable_normalize:
        return [0.0] * 3, [1.0] * 3
    values = (preprocessor.mean.flatten(), preprocessor.std.flatten())
    if not preprocessor._channel_conversion:  # they are in the order of the network
        values = tuple(v.flip(0) for v in values)
    mean, std = (v.double().tolist() for v in values)
    return mean, std


def round_up(size: Sequence[int]) -> tuple[int, int]:
    """Height and width, as multiples of 32.

    Raises:
        ValueError: One is not positive.
    """
    if min(size) < 1:
        raise ValueError(f'--imgsz {" ".join(map(str, size))}: both must be positive')
    height, width = (-(-side // STRIDE) * STRIDE for side in size)
    return height, width


def resize_pipeline(cfg: Config) -> list[dict]:
    """The transforms of a config's test pipeline that change the picture's size.

    Raises:
        ValueError: One of them, or of the others, changes the picture in a way that
            the runtime does not know.
    """
    known = ('YOLOv5KeepRatioResize', 'LetterResize')
    neutral = ('LoadImageFromFile', 'LoadVerifiedImage', 'LoadAnnotations')
    steps = []
    for step in cfg.test_dataloader.dataset.pipeline:
        name = step['type'].rpartition('.')[2]
        if name in known:
            steps.append(step)
        elif name not in neutral and name != 'PackDetInputs':
            raise ValueError(
                f'{cfg.filename}: the test pipeline has {step["type"]}; what is '
                f'exported can be fed by {" and ".join(known)} only'
            )
    if not steps or not steps[-1]['type'].endswith('LetterResize'):
        raise ValueError(
            f'{cfg.filename}: the test pipeline must end in LetterResize, which makes '
            'every picture as large as the network takes it'
        )
    return steps


def config_size(cfg: Config) -> tuple[int, int]:
    """Height and width that a config's test pipeline makes."""
    width, height = pair(resize_pipeline(cfg)[-1]['scale'])
    return height, width


def pair(scale: int | Sequence[int]) -> tuple[int, int]:
    return (scale, scale) if isinstance(scale, int) else tuple(scale)


def resized(cfg: Config, size: Sequence[int]) -> Config:
    """A copy of a config whose test pipeline gives pictures of ``size``.

    Every picture gets that size, not the least rectangle of its batch.
    """
    cfg = copy.deepcopy(cfg)
    steps = resize_pipeline(cfg)
    for step in steps:
        step['scale'] = tuple(size)[::-1]
    steps[-1].pop('use_mini_pad', None)  # false, by default
    cfg.test_dataloader.dataset.batch_shapes_cfg = None
    return cfg


def resize_steps(cfg: Config) -> list[dict[str, object]]:
    """A config's test pipeline for the metadata, as the runtime follows it.

    Raises:
        ValueError: An argument of a transform is one that the runtime doesn't follow.
    """
    steps = []
    for step in resize_pipeline(cfg):
        transform = TRANSFORMS.build(step)
        width, height = pair(transform.scale)
        if not step['type'].endswith('LetterResize'):
            steps.append({'type': 'keep_ratio', 'scale': [width, height]})
            continue
        fill = transform.pad_val
        fill = fill.get('img', 0) if isinstance(fill, Mapping) else fill
        odd = transform.stretch_only or transform.half_pad_param
        if odd or not isinstance(fill, (int, float)):
            raise ValueError(
                f'{cfg.filename}: LetterResize with stretch_only, half_pad_param or a '
                'pad_val by channel is not what the runtime does: take one number, and '
                'leave the others out'
            )
        steps.append(
            {
                'type': 'letterbox',
                'size': [height, width],
                'fill': fill,
                'scale_up': transform.allow_scale_up,
                'mini_pad': transform.use_mini_pad,
            }
        )
    return steps


def metadata(
    cfg: Config,
    detector: nn.Module,
    classes: Sequence[str],
    size: Sequence[int],
    batch: int | None = 1,
    dynamic_size: bool = False,
    precision: str = 'float32',
    nms_in_graph: bool = True,
) -> dict[str, object]:
    """What a program needs to know of an exported file, as JSON's types.

    Args:
        cfg: Config, for names and for the resizing.
        detector: The detector that is exported.
        classes: Names of the classes, in the order of the labels.
        size: Height and width of the network's input, multiples of 32.
        batch: Pictures at a time; ``None`` for any number.
        dynamic_size: Whether the file takes other sizes, too.
        precision: 'float32', 'half' or 'int8'.
        nms_in_graph: Whether the file suppresses overlapping boxes itself.

    Raises:
        ValueError: The test config has an NMS of another kind.
    """
    head, test_cfg = detector.bbox_head, detector.bbox_head.test_cfg
    nms = test_cfg.get('nms', {})
    odd = sorted(set(nms) - {'type', 'iou_threshold'})
    if nms.get('type') != 'nms' or odd or test_cfg.get('yolox_style'):
        raise ValueError(
            f'{cfg.filename}: model.test_cfg.nms is {dict(nms)}; exported files have '
            "dict(type='nms', iou_threshold=...), class by class"
        )
    anchors = getattr(head.prior_generator, 'base_sizes', None)
    mean, std = mean_and_std(detector)
    return {
        'format': FORMAT,
        'config': Path(cfg.filename).stem,
        'classes': list(classes),
        'strides': [pair(s)[0] for s in head.featmap_strides],
        'anchors': anchors and [[list(wh) for wh in level] for level in anchors],
        'precision': precision,
        'input': {
            'name': 'images',
            'batch': batch,
            'size': list(size),
            'dynamic_size': dynamic_size,
            'channels': 'RGB',
            'range': [0, 255],
        },
        'normalization': {'mean': mean, 'std': std, 'in_graph': True},
        'resize': resize_steps(resized(cfg, size)),
        'nms': {
            'in_graph': nms_in_graph,
            'score_thr': test_cfg.get('score_thr', 0.0),
            'iou_threshold': nms.iou_threshold,
            'max_per_img': test_cfg.max_per_img,
            'nms_pre': test_cfg.get('nms_pre'),
            'multi_label': multi_label(detector),
        },
        'versions': {name: found for name in PACKAGES if (found := installed(name))},
    }


def installed(package: str) -> str | None:
    """The version of a package, ``None`` where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
