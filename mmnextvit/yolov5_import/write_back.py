"""Our detectors as YOLOv5 takes them: the YAML of the model, and what it keeps beside.

YOLOv5's files are pickles of its own classes, which are not here. So a file holds plain
values and tensors, and :data:`STEPS`, run where YOLOv5 is, make YOLOv5's own of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..models.image_channels import count_image_channels
from ..utils.errors import UserError
from ..utils.messages import show
from ..weights.contents import Weights
from ..weights.loading import find_numbering
from .model_yaml import RGB

HEADS = {'YOLOv5HeadModule': 'Detect', 'YOLOv5InsHeadModule': 'Segment'}

# What turns a converted file into YOLOv5's own, in YOLOv5's folder.
STEPS = """import torch
from models.yolo import Model

saved = torch.load({source!r}, weights_only=True)
model = Model(saved['yaml'])
model.load_state_dict(saved['state_dict'])
model.names = saved['names']
nothing = dict.fromkeys(['best_fitness', 'ema', 'updates', 'optimizer', 'opt'])
torch.save({{**nothing, 'epoch': -1, 'model': model.half()}}, {target!r})
"""


def describe_model(cfg: Config, detector: nn.Module) -> dict[str, Any]:
    """The YAML of a detector's model, as plain data.

    Args:
        cfg: Config of a detector with a neck of rows.
        detector: The detector.

    Raises:
        UserError: YOLOv5 has no rows for it.
    """
    head_module = cfg.model.bbox_head.get('head_module', {})
    name = HEADS.get(str(head_module.get('type')).rpartition('.')[2])
    rows = cfg.model.neck.get('rows')
    if name is None or rows is None:
        raise UserError(
            'YOLOv5 has detectors of its own head (YOLOv5HeadModule) and of rows: this '
            'is none',
            file=cfg.filename,
            key='model',
        )
    scaling = ('depth_multiple', 'width_multiple', 'activation')
    sizes = ('mask_channels', 'proto_channels')
    head_args = [head_module[key] for key in sizes if key in head_module]
    anchors = [
        [side for pair in level for side in pair]
        for level in detector.bbox_head.prior_generator.base_sizes
    ]
    channels = count_image_channels(detector)
    out_rows = [list(cfg.model.neck.out_rows)]
    return {
        'nc': detector.bbox_head.num_classes,
        **({} if channels == RGB else {'ch': channels}),
        **{key: cfg.model.neck[key] for key in scaling if key in cfg.model.neck},
        'anchors': anchors,
        'backbone': _list_backbone_rows(cfg),
        'head': [
            *map(to_plain, rows),
            [*out_rows, 1, name, ['nc', 'anchors', *head_args]],
        ],
    }


def _list_backbone_rows(cfg: Config) -> list:
    backbone = cfg.model.backbone
    if 'rows' in backbone:
        return to_plain(backbone.rows)
    if 'model_name' in backbone:
        return [[-1, 1, backbone.model_name, [False]]]
    kind = backbone.get('type')
    kind = str(getattr(kind, '__name__', kind)).rpartition('.')[2]
    if kind != 'NextViT':
        raise UserError(
            f'the patched YOLOv5 has NextViT and models of timm as a row, no {kind}',
            file=cfg.filename,
            key='model.backbone.type',
        )
    arch = backbone.get('arch', 'small')
    if not isinstance(arch, str):
        raise UserError(
            f'a NextViT of its own sizes ({show(arch)}) has no name as a row: YOLOv5 '
            'would need your own module for it',
            file=cfg.filename,
            key='model.backbone.arch',
        )
    return [[-1, 1, f'nextvit_{arch}', [False]]]


def make_extras(
    yaml: Mapping[str, Any],
    detector: nn.Module,
    weights: Weights,
    classes: Sequence[str] | None,
) -> dict[str, object]:
    """What a file has beside the weights, for :data:`STEPS`.

    Args:
        yaml: What :func:`describe_model` gave.
        detector: The detector.
        weights: What is converted.
        classes: Names, if they are known.

    Raises:
        UserError: The weights are not those of the detector.

    Returns:
        ``yaml`` and ``names``, and under ``state_dict`` the anchors in cells, (levels,
        anchors, 2), which YOLOv5 has among its weights.
    """
    _check_shapes(weights, detector)
    priors = detector.bbox_head.prior_generator
    strides = torch.tensor([stride[0] for stride in priors.strides])
    anchors = torch.tensor(priors.base_sizes) / strides.view(-1, 1, 1)
    number = find_numbering(detector)
    assert number.detect is not None  # as of every neck of rows
    names = classes or [f'class{i}' for i in range(int(yaml['nc']))]
    return {
        'state_dict': {f'model.{number.detect - number.shift}.anchors': anchors},
        'yaml': dict(yaml),
        'names': dict(enumerate(names)),
    }


def _check_shapes(weights: Weights, detector: nn.Module) -> None:
    """Checks that weights are those of a detector.

    Raises:
        UserError: The detector has another shape, or not all of them are there.
    """
    state = weights.state
    for name, wanted in detector.state_dict().items():
        if name.endswith('num_batches_tracked'):
            continue
        found = tuple(state[name].shape) if name in state else 'missing'
        if found != tuple(wanted.shape):
            raise UserError(
                f"the weights are not those of the config's detector: {name} is "
                f'{found}, not {tuple(wanted.shape)}',
            )


def to_plain(value: Any) -> Any:
    """Lists and tuples, of MMEngine's types or Python's, as lists."""
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value
