"""The weights that a checkpoint's content holds, under our names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..models.timm_features import TimmFeatures
from ..utils.errors import UserError
from .layouts import FORMATS, YOLOV5, Numbering, make_formats, recognise_format
from .records import Record, walk_modules


@dataclass
class Weights:
    """A checkpoint's weights under our names.

    Attributes:
        state: Our names to tensors; the backbone's begin with ``backbone.``.
        layout: Key of :data:`~.layouts.FORMATS` that the file had.
        metadata: What a YOLOv5 file says of ``anchors`` (pixels), ``strides``,
            ``classes`` and ``bn_eps``; and ``left out``, names of timm's that have no
            place in the model.
    """

    state: dict[str, Tensor]
    layout: str
    metadata: dict[str, object] = field(default_factory=dict)


def extract_weights(
    content: Mapping,
    source: str,
    numbering: Numbering = YOLOV5,
    timm_model: TimmFeatures | None = None,
) -> Weights:
    """The weights that a file's content holds, under our names.

    Args:
        content: What :func:`~.reader.read_checkpoint` gave.
        source: Name of the file, for messages.
        numbering: Where a YOLOv5 file's modules stand.
        timm_model: The backbone to fill, where it is one of timm's: names that are not
            a detector's then are of its classifier or its own.

    Raises:
        UserError: It holds no state dict, or one of unknown names.
    """
    try:
        state, metadata = _find_state(content)
        state = {
            re.sub(r'^module\.', '', name): value
            for name, value in state.items()
            if isinstance(name, str) and isinstance(value, Tensor)
        }
        detectors = FORMATS['yolov5'], FORMATS['ours']
        if timm_model and not any(layout.matches(set(state)) for layout in detectors):
            state, metadata['left out'] = timm_model.from_timm(state)
            state = {f'backbone.{name}': value for name, value in state.items()}
            return Weights(state, 'timm', metadata)
        layout = recognise_format(set(state))
        return Weights(make_formats(numbering)[layout].to_ours(state), layout, metadata)
    except UserError as error:
        raise UserError(
            f'the file holds no weights for this model: {error}', file=source
        ) from None


def widen_to_float32(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with half precision as float32."""
    half = torch.float16, torch.bfloat16
    return {k: v.float() if v.dtype in half else v for k, v in state.items()}


def _find_state(content: Mapping) -> tuple[Mapping[str, Tensor], dict[str, object]]:
    """The state dict in a file's content, and the metadata beside it."""
    models = [content.get(key) for key in ('ema', 'model')]
    for model in models:
        if isinstance(model, Record):
            return read_yolov5_state(model), read_yolov5_metadata(model)
    for key in ('state_dict', 'model'):
        if _is_state(content.get(key)):
            return content[key], {}
    return content, {}


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(v, Tensor) for v in value.values()
    )


def read_yolov5_state(model: Record) -> dict[str, Tensor]:
    """The state dict of a pickled YOLOv5 model, as it was stored.

    Half precision stays until a model's own tensors are filled or
    :func:`widen_to_float32` is called: both at once would be three times the file.
    """
    state = {}
    for path, module in walk_modules(model):
        for table in ('_parameters', '_buffers'):
            tensors = module.attribute(table)
            for name, value in tensors.items() if isinstance(tensors, dict) else ():
                if isinstance(name, str) and isinstance(value, Tensor):
                    state[path + name] = value
    return state


def read_yolov5_metadata(model: Record) -> dict[str, object]:
    """What a pickled YOLOv5 model says of itself, as in :class:`Weights`.

    Raises:
        UserError: It is another model.
    """
    eps, modules = set(), {}
    for path, module in walk_modules(model):
        own_eps = module.attribute('eps')
        if isinstance(own_eps, float) and 'BatchNorm2d' in module.source:
            eps.add(own_eps)
        if match := re.fullmatch(r'model\.([0-9]{1,9})\.', path):
            modules[int(match[1])] = module
    if not modules:
        raise UserError(f'{model.source} has no numbered modules, as YOLOv5 has')
    metadata: dict[str, object] = dict(bn_eps=sorted(eps))
    head = modules[max(modules)]
    strides = head.attribute('stride')
    if isinstance(strides, Tensor) and strides.ndim == 1 and len(strides) < 10:
        metadata['strides'] = strides.int().tolist()
        buffers = head.attribute('_buffers')
        anchors = buffers.get('anchors') if isinstance(buffers, dict) else None
        if (
            isinstance(anchors, Tensor)
            and anchors.ndim == 3
            and anchors.shape[:1] == strides.shape
        ):
            pixels = anchors.float() * strides.float().view(-1, 1, 1)
            metadata['anchors'] = pixels.round(decimals=2).tolist()
    names = model.attribute('names')
    names = list(names.values()) if isinstance(names, dict) else names
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        metadata['classes'] = names
    return metadata
