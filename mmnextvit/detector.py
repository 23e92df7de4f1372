"""A YOLO detector whose neck fits its backbone and whose head fits its neck."""

import inspect
from collections.abc import Sequence

import torch
from mmdet.models.detectors import SingleStageDetector
from mmengine.device import is_cuda_available
from mmengine.dist import get_world_size
from mmyolo.models.detectors import YOLODetector
from mmyolo.models.utils import make_divisible
from mmyolo.registry import MODELS, TASK_UTILS


@MODELS.register_module()
class FittedYOLODetector(YOLODetector):
    """MMYOLO's ``YOLODetector`` that derives channels and checks strides.

    Parts are built in order. What a part leaves out of ``in_channels`` and
    ``in_strides`` is taken from ``out_channels`` and ``strides`` of the part before;
    what it states is compared with them. A config therefore writes no channels.

    Args:
        backbone: Config of a backbone.
        neck: Config of a neck.
        bbox_head: Config of a head that has a ``head_module``, as MMYOLO's have.
        train_cfg: Training config of the head.
        test_cfg: Test config of the head.
        data_preprocessor: Config of the data preprocessor.
        init_cfg: MMEngine's initialisation config.
        use_syncbn: Whether BatchNorms become SyncBatchNorms where several GPUs
            train. CPU processes keep theirs: torch has no SyncBatchNorm for them.

    Raises:
        ValueError: Channels or strides of neighbours differ; the message says which
            key of the config to change, and the numbers to write.
    """

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
    ) -> None:
        # The parents build each part without knowing the one before it.
        super(SingleStageDetector, self).__init__(
            data_preprocessor=data_preprocessor, init_cfg=init_cfg
        )
        self.backbone = MODELS.build(backbone)
        channels, strides = emitted(self.backbone)
        neck = fitted(
            neck, 'neck', 'backbone', in_channels=channels, in_strides=strides
        )
        self.neck = MODELS.build(neck)
        channels, strides = emitted(self.neck)
        head_module = fitted(
            bbox_head['head_module'],
            'bbox_head.head_module',
            'neck',
            in_channels=channels,
            featmap_strides=strides,
        )
        bbox_head = {**bbox_head, 'head_module': head_module}
        if 'prior_generator' in bbox_head:
            bbox_head['prior_generator'] = fitted(
                bbox_head['prior_generator'],
                'bbox_head.prior_generator',
                'neck',
                strides=strides,
            )
        bbox_head.update(train_cfg=train_cfg, test_cfg=test_cfg)
        self.bbox_head = MODELS.build(bbox_head)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        if use_syncbn and get_world_size() > 1 and is_cuda_available():
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(self)


def emitted(part: torch.nn.Module) -> tuple[list[int] | None, list[int] | None]:
    """Channels and strides of a part's maps, ``None`` where it does not publish them.

    MMYOLO's necks publish channels before the widen factor, and no strides. A
    ``strides`` without ``out_channels`` is something else, such as ResNet's.
    """
    channels = getattr(part, 'out_channels', None)
    if not isinstance(channels, Sequence):
        return None, None
    channels = [make_divisible(c, getattr(part, 'widen_factor', 1.0)) for c in channels]
    strides = getattr(part, 'strides', None)
    return channels, strides and list(strides)


def fitted(
    cfg: dict, key: str, before: str, **known: Sequence[int] | None
) -> dict[str, object]:
    """A part's config with what is known of the part before it.

    Args:
        cfg: Config of the part.
        key: Where it stands in the model's config, for the message.
        before: Name of the part before it, for the message.
        known: What the part before gives, by argument name; ``None`` if unknown.

    Raises:
        ValueError: The config states something else.
    """
    cfg = dict(cfg)
    # Through the parents: 'mmdet.YOLOAnchorGenerator' is a task util, not a model.
    part = MODELS.get(cfg['type']) or TASK_UTILS.get(cfg['type'])
    accepted = inspect.signature(part).parameters if part else {}
    for name, value in known.items():
        if value is None or name not in accepted:
            continue
        value = list(value)
        widen_factor = cfg.get('widen_factor', 1.0) if name == 'in_channels' else 1.0
        if name not in cfg:
            cfg[name] = value
        stated = [make_divisible(v, widen_factor, 1) for v in as_numbers(cfg[name])]
        if stated != value:
            scaled = f' times widen_factor={widen_factor}' if widen_factor != 1 else ''
            advice = ' and widen_factor=1.0' if widen_factor != 1 else ''
            raise ValueError(
                f'model.{key}.{name} is {cfg[name]}{scaled}, but the {before} gives '
                f'{value}: write {name}={value}{advice}, or leave {name} out'
            )
    return cfg


def as_numbers(values: Sequence) -> list[int]:
    """Strides may be written as numbers or as (width, height) pairs."""
    return [v[0] if isinstance(v, Sequence) else v for v in values]
