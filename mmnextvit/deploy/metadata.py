"""The metadata of an exported file: what a program needs to know to use it.

It is made of a config and its detector. What a config asks for and exported files do
not do is an error here.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmdet.registry import TRANSFORMS
from mmengine.config import Config
from torch import nn

from ..engine.runner import LOADERS, choose_resizing
from ..runtime import (
    CHANNELS,
    FORMAT,
    MAX_SIDE,
    BestScores,
    Metadata,
    ResizeStep,
    check_metadata,
    to_pair,
)
from ..utils.color_types import COLOR_TYPES
from ..utils.errors import UserError
from .candidates import count_mask_channels, get_mean_and_std, is_multi_label

STRIDE = 32  # both sides of an image are multiples of it
PACKAGES = (
    'mmnextvit torch timm mmengine mmcv mmcv-lite mmdet mmyolo onnx onnxscript '
    'onnxruntime openvino nncf coremltools pnnx ncnn'
)
# Transforms of MMYOLO's that the runtime follows, and those that leave the image alone.
RESIZING = ('YOLOv5KeepRatioResize', 'LetterResize', 'YOLOv5LetterResize')
NEUTRAL = (*LOADERS, 'LoadAnnotations', 'PackDetInputs')
# The keys of a test config that files follow: neither YOLOX's style nor a minimum size.
TEST_CFG = {'multi_label', 'nms_pre', 'score_thr', 'nms', 'max_per_img'}
MASKS_CFG = {'mask_thr_binary', 'fast_test'}  # of a head that finds masks


def round_up(size: Sequence[int]) -> tuple[int, int]:
    """Height and width, as multiples of 32.

    Raises:
        UserError: One is not positive, or is longer than the runtime takes it.
    """
    sides = ' '.join(map(str, size))
    if min(size) < 1:
        raise UserError(f'size {sides} (--imgsz): both must be positive')
    if max(size) > MAX_SIDE:
        raise UserError(f'size {sides} (--imgsz): both must be at most {MAX_SIDE}')
    height, width = (-(-side // STRIDE) * STRIDE for side in size)
    return height, width


def find_resizing(cfg: Config) -> list[dict]:
    """The transforms of a config's test pipeline that change the image's size.

    Raises:
        UserError: One of them, or of the others, changes the image in a way that
            the runtime does not know.
    """
    pipeline = cfg.test_dataloader.dataset.get('pipeline')
    if pipeline is None:
        raise UserError(
            'test_dataloader.dataset has no pipeline: write the dataset without what '
            'wraps it',
            file=cfg.filename,
        )
    steps, wanted = [], choose_color_type(cfg)
    for step in pipeline:
        name = step['type'].rpartition('.')[2]
        if name in RESIZING:
            steps.append(step)
        elif name in LOADERS and step.get('color_type', 'color') != wanted:
            raise UserError(
                f'{step["type"]} has color_type={step.get("color_type", "color")!r}, '
                f'and the images of this detector are read as {wanted!r}: set '
                'in_channels of the config, which changes both',
                file=cfg.filename,
            )
        elif name not in NEUTRAL:
            raise UserError(
                f'the test pipeline has {step["type"]}; exported files can be fed '
                f'by {" and ".join(RESIZING)} only',
                file=cfg.filename,
            )
    if not steps or not steps[-1]['type'].endswith('LetterResize'):
        raise UserError(
            'the test pipeline must end in LetterResize, which makes every image as '
            'large as the network takes it',
            file=cfg.filename,
        )
    return steps


def choose_color_type(cfg: Config) -> str:
    """How a config's images are to be loaded, by the channels its backbone takes."""
    backbone = cfg.model.get('backbone') or {}
    count = backbone.get('in_channels', backbone.get('in_chans', 3))
    return COLOR_TYPES.get(count, 'color')


def read_input_size(cfg: Config) -> tuple[int, int]:
    """Height and width that a config's test pipeline makes."""
    width, height = as_pair(find_resizing(cfg)[-1]['scale'])
    return height, width


def as_pair(scale: int | Sequence[int]) -> tuple[int, int]:
    """A number for both sides, or two, as two."""
    return (scale, scale) if isinstance(scale, int) else to_pair(scale)


def resize_test_pipeline(
    cfg: Config, size: Sequence[int], rectangles: bool = False
) -> Config:
    """A copy of a config whose test pipeline gives images of ``size``.

    Every image gets that size, not the smallest rectangle around its batch.

    Args:
        cfg: Config, whose ``predict_resizing`` counts where it has one.
        size: Height and width.
        rectangles: Whether images that the config pads to the smallest rectangle around
            each may be smaller.
    """
    cfg = choose_resizing(cfg)
    steps = find_resizing(cfg)
    for step in steps:
        step['scale'] = tuple(size)[::-1]
    if rectangles:
        cfg.test_dataloader.batch_size = 1  # images of several sizes make no batch
    else:
        steps[-1]['use_mini_pad'] = False
    cfg.test_dataloader.dataset.batch_shapes_cfg = None
    return cfg


def describe_resizing(cfg: Config) -> list[ResizeStep]:
    """A config's test pipeline for the metadata, as the runtime follows it.

    Raises:
        UserError: An argument of a transform is one that the runtime doesn't follow.
    """
    steps: list[ResizeStep] = []
    for step in find_resizing(cfg):
        transform = TRANSFORMS.build(step)
        width, height = as_pair(transform.scale)
        if (transform.interpolation, transform.backend) != ('bilinear', 'cv2'):
            raise UserError(
                f'{step["type"]} with interpolation={transform.interpolation!r}, '
                f'backend={transform.backend!r}: exported files are fed with '
                "'bilinear' and 'cv2'",
                file=cfg.filename,
            )
        if not step['type'].endswith('LetterResize'):
            steps.append({'type': 'keep_ratio', 'scale': [width, height]})
            continue
        fill = transform.pad_val
        fill = fill.get('img', 0) if isinstance(fill, Mapping) else fill
        if transform.stretch_only or not isinstance(fill, (int, float)):
            raise UserError(
                'LetterResize with stretch_only or a pad_val by channel is not what '
                'the runtime does: take one number, and leave the other out',
                file=cfg.filename,
            )
        letterbox: ResizeStep = {
            'type': 'letterbox',
            'size': [height, width],
            'fill': fill,
            'scale_up': transform.allow_scale_up,
            'mini_pad': transform.use_mini_pad,
        }
        if step['type'].endswith('YOLOv5LetterResize'):
            letterbox |= {'stride': transform.stride, 'exact': True}
        elif transform.half_pad_param:
            letterbox['half_pad'] = True
        steps.append(letterbox)
    return steps


def check_test_cfg(cfg: Config, test_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The NMS of a test config, if files can follow all of that config.

    Raises:
        UserError: They cannot; it has the key.
    """
    unset = (None, False, 0)  # MMYOLO's own configs have min_bbox_size=0
    asked = {k for k, v in test_cfg.items() if not any(v is x for x in unset)}
    if unknown := sorted(asked - TEST_CFG - MASKS_CFG):
        raise UserError(
            f'it has {unknown}, which exported files do not follow',
            file=cfg.filename,
            key='model.test_cfg',
        )
    nms = dict(test_cfg.get('nms') or {})
    if nms.keys() != {'type', 'iou_threshold'} or nms['type'] != 'nms':
        raise UserError(
            f"it is {nms}: exported files have dict(type='nms', iou_threshold=...), "
            'class by class',
            file=cfg.filename,
            key='model.test_cfg.nms',
        )
    min_considered = 10 * test_cfg['max_per_img']
    considered = test_cfg.get('nms_pre')
    if considered and considered < min_considered:
        raise UserError(
            f'it is {considered}: exported files look at all candidates, which is the '
            f'same only where it is at least {min_considered}',
            file=cfg.filename,
            key='model.test_cfg.nms_pre',
        )
    return nms


def build_metadata(
    cfg: Config,
    detector: nn.Module,
    classes: Sequence[str],
    size: Sequence[int],
    batch: int | None = 1,
    dynamic_size: bool = False,
    precision: str = 'float32',
    nms_in_graph: bool = True,
    best_scores: BestScores | None = None,
) -> Metadata:
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
        best_scores: The checkpoint's, if it has any.

    Raises:
        UserError: The config asks for what exported files do not do, the head has
            another number of classes, or a value is none that files can have.
    """
    head, test_cfg = detector.bbox_head, detector.bbox_head.test_cfg
    nms = check_test_cfg(cfg, test_cfg)
    if len(classes) != head.num_classes:
        raise UserError(
            f'{len(classes)} classes have names, and the head has num_classes='
            f'{head.num_classes}: metainfo of the test data names them',
            file=cfg.filename,
        )
    anchors = getattr(head.prior_generator, 'base_sizes', None)
    mean, std = get_mean_and_std(detector)
    metadata: Metadata = {
        'format': FORMAT,
        'config': Path(cfg.filename or 'config').stem,
        'classes': list(classes),
        'strides': [as_pair(s)[0] for s in head.featmap_strides],
        'anchors': anchors and [[list(wh) for wh in level] for level in anchors],
        'precision': precision,
        'input': {
            'name': 'images',
            'batch': batch,
            'size': list(size),
            'dynamic_size': dynamic_size,
            'channels': next(k for k, count in CHANNELS.items() if count == len(mean)),
            'range': [0, 255],
        },
        'normalization': {'mean': mean, 'std': std, 'in_graph': True},
        'resize': describe_resizing(resize_test_pipeline(cfg, size, dynamic_size)),
        'nms': {
            'in_graph': nms_in_graph,
            'score_thr': test_cfg.get('score_thr', 0.0),
            'iou_threshold': nms['iou_threshold'],
            'max_per_img': test_cfg.max_per_img,
            'nms_pre': test_cfg.get('nms_pre'),
            'multi_label': is_multi_label(detector),
        },
        'versions': {
            name: number for name in PACKAGES.split() if (number := find_version(name))
        },
    }
    if best_scores is not None:
        metadata['best_scores'] = best_scores
    if channels := count_mask_channels(detector):
        metadata['masks'] = {
            'channels': channels,
            'threshold': test_cfg.mask_thr_binary,
            'smooth': bool(test_cfg.get('fast_test')),
        }
    try:
        check_metadata(json.loads(json.dumps(metadata)))  # as they will be read
    except ValueError as error:
        raise UserError(
            f'what it asks for, no exported file can have: {error}', file=cfg.filename
        ) from error
    return metadata


def find_version(package: str) -> str | None:
    """The version of a package, ``None`` where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
