"""A trained YOLO detector as a network to be exported, and the facts that go with it.

What is exported maps images to candidates: normalisation, backbone, neck, head and
decoding, with BatchNorms folded. Non-maximum suppression is put behind it by
:mod:`mmnextvit.deploy.formats`, since every format has its own.
"""

import copy
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from mmdet.registry import TRANSFORMS
from mmengine.config import Config
from torch import Tensor, nn

from ..models.fold import fold_batchnorms
from ..runtime import FORMAT

STRIDE = 32  # both sides of an image are multiples of it
PACKAGES = (
    'mmnextvit torch timm mmengine mmcv mmcv-lite mmdet mmyolo onnx onnxscript '
    'onnxruntime openvino nncf coremltools'
)
# What the files follow of a test config. YOLOX's style and a least size they don't.
TEST_CFG = {'multi_label', 'nms_pre', 'score_thr', 'nms', 'max_per_img'}


class Candidates(nn.Module):
    """Images to every box that a detector considers, with its scores.

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
            best = scores.argmax(-1, keepdim=True)
            numbers = torch.arange(scores.shape[-1], device=scores.device)
            scores = scores * (numbers == best)
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
    from mmyolo.models.dense_heads import YOLOv5Head  # may be missing

    head = getattr(detector, 'bbox_head', None)
    kind = type(head or detector)
    # What predicts in its own way gives something else, such as masks or angles.
    if getattr(kind, 'predict_by_feat', None) is not YOLOv5Head.predict_by_feat:
        raise ValueError(
            f"{kind.__name__} cannot be exported: the head must be one of MMYOLO's "
            'that give boxes as YOLOv5Head does (YOLOv5, YOLOv8, RTMDet), without masks'
        )


def multi_label(detector: nn.Module) -> bool:
    """Whether a box may be found as several classes."""
    head = detector.bbox_head
    return bool(head.test_cfg.get('multi_label')) and head.num_classes > 1


def mean_and_std(detector: nn.Module) -> tuple[list[float], list[float]]:
    """What is taken off an image and what it is divided by, as R, G, B."""
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
    """The transforms of a config's test pipeline that change the image's size.

    Raises:
        ValueError: One of them, or of the others, changes the image in a way that
            the runtime does not know.
    """
    known = ('YOLOv5KeepRatioResize', 'LetterResize')
    neutral = ('LoadImageFromFile', 'LoadVerifiedImage', 'LoadAnnotations')
    pipeline = cfg.test_dataloader.dataset.get('pipeline')
    if pipeline is None:
        raise ValueError(
            f'{cfg.filename}: test_dataloader.dataset has no pipeline: write the '
            'dataset without what wraps it'
        )
    steps = []
    for step in pipeline:
        name = step['type'].rpartition('.')[2]
        if name in known:
            steps.append(step)
        elif name.startswith('Load') and step.get('color_type', 'color') != 'color':
            raise ValueError(
                f'{cfg.filename}: {step["type"]} has color_type='
                f'{step["color_type"]!r}: exported files take images in colour'
            )
        elif name not in neutral and name != 'PackDetInputs':
            raise ValueError(
                f'{cfg.filename}: the test pipeline has {step["type"]}; what is '
                f'exported can be fed by {" and ".join(known)} only'
            )
    if not steps or not steps[-1]['type'].endswith('LetterResize'):
        raise ValueError(
            f'{cfg.filename}: the test pipeline must end in LetterResize, which makes '
            'every image as large as the network takes it'
        )
    return steps


def config_size(cfg: Config) -> tuple[int, int]:
    """Height and width that a config's test pipeline makes."""
    width, height = pair(resize_pipeline(cfg)[-1]['scale'])
    return height, width


def pair(scale: int | Sequence[int]) -> tuple[int, int]:
    return (scale, scale) if isinstance(scale, int) else tuple(scale)


def resized(cfg: Config, size: Sequence[int]) -> Config:
    """A copy of a config whose test pipeline gives images of ``size``.

    Every image gets that size, not the least rectangle of its batch.
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
        if (transform.interpolation, transform.backend) != ('bilinear', 'cv2'):
            raise ValueError(
                f'{cfg.filename}: {step["type"]} with interpolation='
                f'{transform.interpolation!r}, backend={transform.backend!r}: exported '
                "files are fed with 'bilinear' and 'cv2'"
            )
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


def check_test_cfg(cfg: Config, test_cfg: Mapping[str, object]) -> Mapping:
    """The NMS of a test config, if files can follow all of that config.

    Raises:
        ValueError: They can't; the message has the key.
    """
    where = f'{cfg.filename}: model.test_cfg'
    unset = (None, False)
    odd = [k for k, v in test_cfg.items() if not any(v is x for x in unset)]
    odd = sorted(set(odd) - TEST_CFG)
    if odd:
        raise ValueError(f'{where} has {odd}, which exported files do not follow')
    nms = dict(test_cfg.get('nms') or {})
    if nms.keys() != {'type', 'iou_threshold'} or nms['type'] != 'nms':
        raise ValueError(
            f"{where}.nms is {nms}: exported files have dict(type='nms', "
            'iou_threshold=...), class by class'
        )
    most, considered = test_cfg['max_per_img'], test_cfg.get('nms_pre')
    if considered and considered < 10 * most:
        raise ValueError(
            f'{where}.nms_pre is {considered}: exported files look at all candidates, '
            f'which is the same only where it is at least {10 * most}'
        )
    return nms


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
        batch: Images at a time; ``None`` for any number.
        dynamic_size: Whether the file takes other sizes, too.
        precision: 'float32', 'half' or 'int8'.
        nms_in_graph: Whether the file suppresses overlapping boxes itself.

    Raises:
        ValueError: The config asks for what exported files do not do, or the head has
            another number of classes.
    """
    head, test_cfg = detector.bbox_head, detector.bbox_head.test_cfg
    nms = check_test_cfg(cfg, test_cfg)
    if len(classes) != head.num_classes:
        raise ValueError(
            f'{cfg.filename}: {len(classes)} classes have names, and the head has '
            f'num_classes={head.num_classes}: metainfo of the test data names them'
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
            'iou_threshold': nms['iou_threshold'],
            'max_per_img': test_cfg.max_per_img,
            'nms_pre': test_cfg.get('nms_pre'),
            'multi_label': multi_label(detector),
        },
        'versions': {
            name: found for name in PACKAGES.split() if (found := installed(name))
        },
    }


def installed(package: str) -> str | None:
    """The version of a package, ``None`` where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
