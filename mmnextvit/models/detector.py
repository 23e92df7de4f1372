"""A YOLO detector whose neck fits its backbone and whose head fits its neck."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.registry import TRANSFORMS
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmyolo.datasets.transforms import LetterResize, YOLOv5KeepRatioResize
from mmyolo.models.data_preprocessors import YOLOv5DetDataPreprocessor
from mmyolo.models.dense_heads import RTMDetInsSepBNHead
from mmyolo.models.detectors import YOLODetector
from mmyolo.models.utils import make_divisible
from mmyolo.registry import MODELS, TASK_UTILS
from torch import Tensor

from ..utils.errors import UserError
from ..utils.messages import tell
from .data_preprocessors import ChannelsMixin
from .fold import in_faster_format
from .image_channels import count_image_channels
from .map_numbers import get_level_weights
from .nms_limits import tell_limit
from .yolov5_row_files import import_row_files

PROBE_SIDE = 256  # pixels of the image that a backbone is tried with

# MMDetection's DetInferencer looks for a pipeline's transforms in its own registry.
for _transform in (LetterResize, YOLOv5KeepRatioResize):
    TRANSFORMS.register_module(module=_transform, force=True)

tell_limit(RTMDetInsSepBNHead, '_bbox_mask_post_process', 'cfg')  # as MMDetection's


@MODELS.register_module()
class ChannelsDataPreprocessor(ChannelsMixin, YOLOv5DetDataPreprocessor):
    """MMYOLO's data preprocessor for images of more than three channels."""


@MODELS.register_module()
class FittedYOLODetector(YOLODetector):
    """MMYOLO's ``YOLODetector`` that derives channels and checks strides.

    Parts are built in order. What a part leaves out of ``in_channels`` and
    ``in_strides`` is taken from ``out_channels`` and ``strides`` of the part before;
    what it states is compared with them. A config therefore writes no channels. A
    backbone that does not publish its maps is tried with a small image, unless the
    neck's config has ``in_channels``. The assigner has the head's number of classes,
    which so stands in one place.

    Args:
        backbone: Config of a backbone.
        neck: Config of a neck.
        bbox_head: Config of a head that has a ``head_module``, as MMYOLO's have.
        train_cfg: Training config of the head.
        test_cfg: Test config of the head.
        data_preprocessor: Config of the data preprocessor.
        init_cfg: MMEngine's initialisation config.
        modules: Python files of one's own that register rows, backbones or whatever
            the config names: they are run before anything is built.
        use_syncbn: Whether BatchNorms become SyncBatchNorms where several GPUs
            train. CPU processes keep theirs: torch has no SyncBatchNorm for them.

    Raises:
        UserError: Channels or strides of neighbours differ; ``key`` is that of the
            config to change, and the message has the numbers to write.
    """

    predicts_in_float32 = True  # boxes and scores, in mixed precision too

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        bbox_head: dict,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
        use_syncbn: bool = True,
        modules: Sequence[str] = (),
    ) -> None:
        import_row_files(modules)
        # The parents build each part without knowing the one before it.
        super(SingleStageDetector, self).__init__(
            data_preprocessor=data_preprocessor, init_cfg=init_cfg
        )
        self.backbone = MODELS.build(backbone)
        read = read_outputs if 'in_channels' in neck else find_outputs
        outputs = read(self.backbone)
        neck = fit_config(
            neck,
            'neck',
            'backbone',
            **outputs.as_arguments('in_channels', 'in_strides'),
            in_rows=getattr(self.backbone, 'out_rows', None),
        )
        self.neck = MODELS.build(neck)
        bbox_head = fit_head(bbox_head, read_outputs(self.neck))
        train_cfg = fit_assigner(train_cfg, bbox_head['head_module'])
        bbox_head.update(train_cfg=train_cfg, test_cfg=test_cfg)
        self.bbox_head = MODELS.build(bbox_head)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        if use_syncbn and get_world_size() > 1 and get_device() == 'cuda':
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(self)

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """The neck's maps, as MMDetection's ``SingleStageDetector``.

        Maps are in the memory format that is faster on the device.
        """
        return super().extract_feat(in_faster_format(batch_inputs))

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list, rescale: bool = True
    ) -> list:
        """Predicts, as MMDetection's ``SingleStageDetector``.

        Under autocast the head stays in float32: bfloat16 has 8 bits for a coordinate.
        """
        maps = [m.to(batch_inputs.dtype) for m in self.extract_feat(batch_inputs)]
        with torch.autocast(batch_inputs.device.type, enabled=False):
            detections = self.bbox_head.predict(
                maps, batch_data_samples, rescale=rescale
            )
        return self.add_pred_to_datasample(batch_data_samples, detections)

    def loss(self, batch_inputs: Tensor, batch_data_samples: dict | list) -> dict:
        """The head's losses, as MMDetection's ``SingleStageDetector``.

        Raises:
            UserError: The anchors are placeholders.
        """
        check_anchors(self.bbox_head)
        return super().loss(batch_inputs, batch_data_samples)


def check_anchors(head: torch.nn.Module) -> None:
    """Checks that a head can learn with its anchors, if it has any.

    Raises:
        UserError: They are placeholders.
    """
    priors = getattr(head, 'prior_generator', None)
    sizes = getattr(priors, 'base_sizes', None) or []
    sides = [side for level in sizes for size in level for side in size]
    if sides and min(sides) <= 0:
        raise UserError(
            'The anchors are placeholders, with which nothing can be learnt: compute '
            'them from your data with mmnextvit compute_anchors CONFIG -o NEW_CONFIG, '
            'or write them as model.bbox_head.prior_generator.base_sizes'
        )


@dataclass(frozen=True)
class Outputs:
    """What a part of a detector publishes of its maps.

    Attributes:
        channels: Channels of each map, or ``None`` if unknown.
        strides: Strides in pixels of the image, likewise.
    """

    channels: list[int] | None = None
    strides: list[int] | None = None

    def as_arguments(self, channels: str, strides: str) -> dict[str, list[int] | None]:
        """Both under the names that the next part's arguments have."""
        return {channels: self.channels, strides: self.strides}


def fit_head(head: dict, outputs: Outputs) -> dict:
    """A head's config with what follows from the neck and from its anchors.

    ``base_sizes`` of the prior generator may be a count: every level gets so many
    placeholders, which build but don't train. ``obj_level_weights`` that the config
    leaves out are YOLOv5's for the number of levels.

    Args:
        head: The config.
        outputs: What the neck publishes.

    Raises:
        UserError: The config states something else; ``key`` is the place.
    """
    head = dict(head)
    num_priors = None
    if 'prior_generator' in head:
        priors = fit_priors(head['prior_generator'], outputs.strides)
        head['prior_generator'] = priors
        sizes = priors.get('base_sizes')
        if sizes and outputs.strides:
            num_priors = len(sizes[0])
    head['head_module'] = fit_head_module(head['head_module'], outputs, num_priors)
    if outputs.strides and 'obj_level_weights' in list_parameters(head['type']):
        num_levels = len(outputs.strides)
        wanted = get_level_weights(num_levels)
        stated = head.setdefault('obj_level_weights', wanted)
        if len(stated) != num_levels:
            raise UserError(
                f'the config says {list(stated)}, but the neck gives {num_levels} '
                f'levels: write {wanted}',
                key='model.bbox_head.obj_level_weights',
            )
    return head


def fit_priors(priors: dict, strides: list[int] | None) -> dict:
    """A prior generator's config with the neck's strides, and placeholders of anchors.

    Args:
        priors: The config.
        strides: Strides of the neck's maps, or ``None`` if unknown.

    Raises:
        UserError: The config states something else; ``key`` is the place.
    """
    where = 'bbox_head.prior_generator'
    priors = fit_config(priors, where, 'neck', strides=strides)
    sizes = priors.get('base_sizes')
    if isinstance(sizes, int) and strides:
        priors['base_sizes'] = sizes = make_placeholder_anchors(sizes, len(strides))
    if sizes and strides:
        counts = [len(level) for level in sizes]
        if len(sizes) != len(strides) or len(set(counts)) != 1:
            raise UserError(
                f'the config has {counts} anchors by level, but the neck gives '
                f'{len(strides)} levels, each of which needs as many',
                key=f'model.{where}.base_sizes',
            )
    return priors


def fit_head_module(module: dict, outputs: Outputs, num_priors: int | None) -> dict:
    """A head module's config with the neck's channels and the number of anchors.

    Args:
        module: The config.
        outputs: What the neck publishes.
        num_priors: Anchors a level, or ``None`` if unknown.

    Raises:
        UserError: The config states something else; ``key`` is the place.
    """
    where = 'bbox_head.head_module'
    known = outputs.as_arguments('in_channels', 'featmap_strides')
    module = fit_config(module, where, 'neck', **known)
    if num_priors and 'num_base_priors' in list_parameters(module['type']):
        stated = module.setdefault('num_base_priors', num_priors)
        if stated != num_priors:
            raise UserError(
                f'the config says {stated}, but a level has {num_priors} anchors: '
                'leave it out',
                key=f'model.{where}.num_base_priors',
            )
    return module


def fit_assigner(train_cfg: dict | None, module: dict) -> dict | None:
    """A head's training config whose assigner has the head's number of classes.

    What the config says of the assigner itself is of no account, since any other
    number could only fail.

    Args:
        train_cfg: The training config.
        module: The head module's config.
    """
    assigner = (train_cfg or {}).get('assigner') or {}
    if train_cfg is None or 'num_classes' not in list_parameters(assigner.get('type')):
        return train_cfg
    fitted = copy.deepcopy(train_cfg)
    fitted['assigner']['num_classes'] = module['num_classes']
    return fitted


def make_placeholder_anchors(count: int, levels: int) -> list[list[tuple[int, int]]]:
    """Anchors of width 0, 2, 4, ... and height 1, 3, 5, ..., as YOLOv5 has them.

    Raises:
        UserError: The count is out of range.
    """
    if not 1 <= count <= 100:
        raise UserError(f'{count} anchors a level: write 1 to 100')
    return [[(2 * i, 2 * i + 1) for i in range(count)] for _ in range(levels)]


def list_parameters(type_: str | None) -> Mapping[str, inspect.Parameter]:
    """Parameters of a registered class and, behind ``*args``, of its parents."""
    # Through the parents: 'mmdet.YOLOAnchorGenerator' is a task util, not a model.
    part = MODELS.get(type_) or TASK_UTILS.get(type_) if type_ else None
    parameters: dict[str, inspect.Parameter] = {}
    for cls in reversed(getattr(part, '__mro__', ())):
        if '__init__' in vars(cls):
            parameters.update(inspect.signature(cls).parameters)
    return parameters


def read_outputs(part: torch.nn.Module) -> Outputs:
    """What a backbone or neck publishes of its maps.

    MMYOLO's necks publish channels before the widen factor, and no strides. A
    ``strides`` without ``out_channels`` is something else, such as ResNet's.
    """
    channels = getattr(part, 'out_channels', None)
    if not isinstance(channels, Sequence):
        return Outputs()
    if hasattr(part, 'widen_factor'):
        channels = [make_divisible(c, part.widen_factor) for c in channels]
    strides = getattr(part, 'strides', None)
    return Outputs(list(channels), list(strides) if strides else None)


def find_outputs(backbone: torch.nn.Module) -> Outputs:
    """What a backbone publishes of its maps, or what it gives for a small image.

    Raises:
        UserError: It does neither; ``key`` is 'model.backbone'.
    """
    outputs = read_outputs(backbone)
    return outputs if outputs.channels else probe_outputs(backbone)


def probe_outputs(backbone: torch.nn.Module) -> Outputs:
    """What a backbone that publishes nothing gives for an image, a small black one.

    Raises:
        UserError: It gives no feature maps; ``key`` is 'model.backbone'.
    """
    training = backbone.training
    parameter = next(backbone.parameters(), torch.zeros(()))
    shape = 1, count_image_channels(backbone), PROBE_SIDE, PROBE_SIDE
    image = parameter.new_zeros(shape)
    backbone.eval()  # which in some of MMDetection's does not return the module
    try:
        with torch.no_grad():
            maps = backbone(image)
        channels = [m.shape[1] for m in maps]
        strides = [round(PROBE_SIDE / m.shape[3]) for m in maps]
        if not isinstance(maps, Sequence) or any(m.ndim != 4 for m in maps):
            raise TypeError(f'it gives {type(maps).__name__}, not a tuple of maps')
    except (AssertionError, AttributeError, LookupError, NotImplementedError,
            RuntimeError, TypeError, ValueError) as error:  # fmt: skip
        raise UserError(
            f'{type(backbone).__name__} does not say its channels and strides '
            '(out_channels, strides), and gives no feature maps of an image of '
            f'{PROBE_SIDE}x{PROBE_SIDE} pixels: {tell(error)}',
            key='model.backbone',
        ) from error
    finally:
        backbone.train(training)
    return Outputs(channels, strides)


def fit_config(
    cfg: dict, key: str, before: str, **known: Sequence[int] | None
) -> dict[str, Any]:
    """A part's config with what is known of the part before it.

    Args:
        cfg: Config of the part.
        key: Where it stands in the model's config, for the message.
        before: Name of the part before it, for the message.
        known: What the part before gives, by argument name; ``None`` if unknown.

    Raises:
        UserError: The config states something else; ``key`` is the place.
    """
    cfg = dict(cfg)
    parameters = list_parameters(cfg['type'])
    for name, value in known.items():
        if value is None or name not in parameters:
            continue
        value = list(value)
        widen_factor = cfg.get('widen_factor', 1.0) if name == 'in_channels' else 1.0
        if name not in cfg:
            cfg[name] = value
        stated = [make_divisible(v, widen_factor, 1) for v in to_numbers(cfg[name])]
        if stated != value:
            scaled = f' times widen_factor={widen_factor}' if widen_factor != 1 else ''
            advice = ' and widen_factor=1.0' if widen_factor != 1 else ''
            raise UserError(
                f'the config says {cfg[name]}{scaled}, but the {before} gives {value}: '
                f'write {name}={value}{advice}, or leave {name} out',
                key=f'model.{key}.{name}',
            )
    return cfg


def to_numbers(values: Sequence) -> list[int]:
    """Strides as numbers, which may be written as (width, height) pairs too."""
    return [v[0] if isinstance(v, Sequence) else v for v in values]
