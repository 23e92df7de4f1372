"""The weights that a checkpoint's content holds, under our names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor

from ..models.timm_features import TimmFeatures
from ..utils.errors import UserError
from ..utils.messages import first_few, shorten, show
from .layouts import FORMATS, YOLOV5, Numbering, make_formats, recognise_format
from .records import MAX_MODULE_PATH, Record, is_expanded, walk_modules

HALF = torch.float16, torch.bfloat16
# What a state dict may be in memory, of how much is stored of it: half precision gets
# twice as large, and some models have one tensor under several names.
MAX_GROWTH = 4
FREE_GROWTH = 2**26  # bytes; small tensors may have many names
# YOLOv5's own models have 3 anchors for each of 3 or 4 levels.
MAX_LEVELS = 9
MAX_ANCHORS = 100  # of a level
MAX_CLASSES = 100_000
MAX_SIZE = 1e6  # pixels, of a stride or an anchor
BEST_SCORES = 'best_scores'  # key of a checkpoint's metadata


@dataclass
class Weights:
    """A checkpoint's weights under our names.

    Attributes:
        state: Our names to tensors; the backbone's begin with ``backbone.``.
        layout: Key of :data:`~.layouts.FORMATS` that the file had.
        metadata: What a YOLOv5 file says of ``anchors`` (pixels), ``strides``,
            ``classes`` and ``bn_eps``, ``num_classes``, its ``yaml``, and of ``head``
            what it has in the place of YOLOv5's; and ``left out``, names of timm's that
            have no place in the model.
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
        UserError: It holds no state dict, or one of unknown names, or one that would be
            far larger in memory than it is stored.
    """
    try:
        found, metadata = _find_state(content)
        state = {
            re.sub(r'^module\.', '', _check_name(name)): value
            for name, value in found.items()
            if isinstance(value, Tensor)
        }
        expanded = [name for name, value in found.items() if is_expanded(value)]
        if expanded:
            raise UserError(f'{show(expanded[0])} is larger than what is stored of it')
        _check_growth(state)
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
    return {k: v.float() if v.dtype in HALF else v for k, v in state.items()}


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinity."""
    if values.is_floating_point() and values.itemsize == 1:
        values = values.float()  # torch compares no float8
    return bool(values.isfinite().all())


def _check_name(name: object) -> str:
    """A tensor's name, if it is one.

    Raises:
        UserError: It is no text, or none that can be printed.
    """
    if not isinstance(name, str):
        raise UserError(f'a tensor is called {show(name)}, which is no text')
    if not name.isprintable() or len(name) > MAX_MODULE_PATH:
        raise UserError(f'no model has a tensor of the name {shorten(name)}')
    return name


def _check_growth(state: Mapping[str, Tensor]) -> None:
    """Refuses many views of few numbers, each of which would be copied.

    Raises:
        UserError: Widened to float32 the state dict is far larger than it is stored.
    """
    storages = {v.untyped_storage().data_ptr(): v for v in state.values()}
    stored = sum(v.untyped_storage().nbytes() for v in storages.values())
    kept = sum(
        v.numel() * (4 if v.dtype in HALF else v.itemsize) for v in state.values()
    )
    if kept > MAX_GROWTH * stored + FREE_GROWTH:
        raise UserError(
            f'its {len(state):,} tensors share {stored:,} bytes, and would take '
            f'{kept:,} in memory'
        )


def _find_state(content: Mapping) -> tuple[Mapping[str, Tensor], dict[str, object]]:
    """The state dict in a file's content, and the metadata beside it."""
    models = [content.get(key) for key in ('ema', 'model')]
    for model in models:
        if isinstance(model, Record):
            return read_yolov5_state(model), read_yolov5_metadata(model)
    for key in ('state_dict', 'model'):
        if _is_state(content.get(key)):
            return content[key], read_plain_metadata(content)
    return content, {}


def read_plain_metadata(content: Mapping) -> dict[str, object]:
    """What ``convert_weights --to yolov5`` puts beside the weights."""
    if not isinstance(content.get('yaml'), dict):
        return {}
    return {'yaml': content['yaml'], **_read_names(content.get('names'))}


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
                is_parameter = table == '_parameters' and is_expanded(value)
                if isinstance(value, Tensor) or is_parameter:
                    state[path + _check_name(name)] = value
    return state


def read_yolov5_metadata(model: Record) -> dict[str, object]:
    """What a pickled YOLOv5 model says of itself, as in :class:`Weights`.

    Raises:
        UserError: It is another model, or what it says cannot be.
    """
    eps, modules = set(), {}
    for path, module in walk_modules(model):
        own_eps = module.attribute('eps')
        if isinstance(own_eps, float) and 'BatchNorm2d' in module.source:
            eps.add(own_eps)
        if match := re.fullmatch(r'model\.([0-9]{1,9})\.', path):
            modules[int(match[1])] = module
    if not modules:
        raise UserError(f'{shorten(model.source)} has no numbered modules, as YOLOv5')
    if len(eps) > MAX_LEVELS or not all(0 < value < 1 for value in eps):
        raise UserError(f'its BatchNorms have no eps: {show(sorted(eps))}')
    metadata: dict[str, object] = dict(bn_eps=sorted(eps))
    head = modules[max(modules)]
    strides = head.attribute('stride')
    if isinstance(strides, Tensor) and strides.ndim == 1 and len(strides):
        if len(strides) > MAX_LEVELS or not _are_sizes(strides):
            raise UserError(
                f'its strides are no numbers of pixels: {len(strides):,} levels, '
                f'{show(strides[:MAX_LEVELS].tolist())}'
            )
        metadata['strides'] = strides.int().tolist()
        buffers = head.attribute('_buffers')
        anchors = buffers.get('anchors') if isinstance(buffers, dict) else None
        if (
            isinstance(anchors, Tensor)
            and anchors.ndim == 3
            and anchors.shape[:1] == strides.shape
        ):
            metadata['anchors'] = _to_pixels(anchors, strides)
    num_classes = head.attribute('nc')
    if type(num_classes) is int and 0 < num_classes <= MAX_CLASSES:
        metadata['num_classes'] = num_classes
    if isinstance(model.attribute('yaml'), dict):
        metadata['yaml'] = model.attribute('yaml')
    if other := _describe_head(head):
        metadata['head'] = other
    return metadata | _read_names(model.attribute('names'))


def _read_names(names: object) -> dict[str, object]:
    """The names of the classes as a list or, as of YOLOv5 v7, by their numbers."""
    if isinstance(names, dict):
        numbered = set(names) == set(range(len(names)))  # a row's number to its name
        names = [names[key] for key in sorted(names)] if numbered else None
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return {'classes': check_classes(names)}
    return {}


def _describe_head(head: Record) -> str | None:
    """What a head is, if not YOLOv5's, whose outputs are one convolution a level."""
    name = shorten(head.source.rpartition('.')[2])
    outputs = re.compile(r'm\.[0-9]{1,9}\.')
    plain = all(
        module.source.endswith('.Conv2d')
        for path, module in walk_modules(head)
        if outputs.fullmatch(path)
    )
    if name in ('Detect', 'Segment') and plain:
        return None
    if 'decouple' in name.lower() or (name in ('Detect', 'Segment') and not plain):
        return f'a decoupled head ({name})'
    return f'a {name}'


def _are_sizes(values: Tensor) -> bool:
    """Whether all values are positive numbers of pixels, and not huge."""
    numbers = values.float()
    return bool(((numbers > 0) & (numbers < MAX_SIZE)).all())  # NaN is neither


def _to_pixels(anchors: Tensor, strides: Tensor) -> list[list[list[float]]]:
    """Anchors (L, A, 2) in cells, of the levels' strides (L), in pixels.

    Raises:
        UserError: They are no widths and heights, or more than any model has.
    """
    _, count, sides = anchors.shape
    if count > MAX_ANCHORS or sides != 2:
        raise UserError(
            f'its anchors are {count:,} x {sides} numbers for each level: a level has '
            f'up to {MAX_ANCHORS} widths and heights'
        )
    pixels = anchors.float() * strides.float().view(-1, 1, 1)
    if not _are_sizes(pixels):
        bad = pixels[~((pixels > 0) & (pixels < MAX_SIZE))]
        raise UserError(
            f'its anchors are no widths and heights: {bad[0].item():g} is among them'
        )
    return pixels.round(decimals=2).tolist()


def check_classes(classes: object) -> list[str]:
    """The names of a model's classes that a file has, if they can be.

    Raises:
        UserError: They are no list of names.
    """
    if not isinstance(classes, Sequence) or isinstance(classes, str | bytes):
        raise UserError(f'its classes are no list of names: {show(classes)}')
    if not 0 < len(classes) <= MAX_CLASSES:
        raise UserError(f'it has {len(classes):,} classes')
    for name in classes:
        if not isinstance(name, str) or len(name) > MAX_MODULE_PATH:
            raise UserError(f'a class is called {show(name)}')
    return list(classes)


def read_classes(
    content: Mapping, metadata: Mapping[str, object], source: str
) -> list[str] | None:
    """Names of the classes that a file's detector was trained for, if it says them.

    Args:
        content: What the file holds, of YOLOv5's or MMEngine's.
        metadata: As in :class:`Weights`.
        source: Name of the file, for messages.

    Raises:
        UserError: They are no list of names.
    """
    found = metadata.get('classes')
    for key, value in read_dataset_meta(content, source).items():
        if key.lower() == 'classes':
            found = value
    return None if found is None else check_classes(found)


def read_dataset_meta(content: Mapping, source: str) -> dict[str, object]:
    """What a checkpoint of MMEngine's says of its data; empty where it says nothing.

    Args:
        content: What a file holds.
        source: Name of the file, for messages.

    Raises:
        UserError: It is no dict of names, or its classes are no names.
    """
    found = content.get('meta')
    found = found.get('dataset_meta') if isinstance(found, Mapping) else found
    if found is None:
        return {}
    if not isinstance(found, Mapping) or not all(isinstance(k, str) for k in found):
        raise UserError(
            f'this is {show(found)}, not a dict', file=source, key='meta.dataset_meta'
        )
    for key, value in found.items():
        if key.lower() == 'classes':
            try:
                check_classes(value)
            except UserError as error:
                error.file, error.key = source, f'meta.dataset_meta.{key}'
                raise
    return dict(found)


class BestScores(TypedDict):
    """Minimum scores with the highest F1 on a run's validation data.

    Attributes:
        all: Of all classes together.
        classes: Of those of which anything was found, by name.
    """

    all: float
    classes: dict[str, float]


def read_best_scores(content: Mapping, source: str) -> BestScores | None:
    """The minimum scores with the highest F1 that a checkpoint's metadata has.

    Args:
        content: What a file holds.
        source: Name of the file, for messages.

    Returns:
        ``{'all': 0.41, 'classes': {'cat': 0.38}}``, or ``None`` where it has none.

    Raises:
        UserError: They are no scores, or of classes that the file does not have.
    """
    meta = content.get('meta')
    found = meta.get(BEST_SCORES) if isinstance(meta, Mapping) else None
    if found is None:
        return None
    metainfo = read_dataset_meta(content, source)
    names = next(
        (check_classes(v) for k, v in metainfo.items() if k.lower() == 'classes'), None
    )
    of_classes = found.get('classes') if isinstance(found, Mapping) else None
    if not isinstance(of_classes, Mapping):
        problem = f'this is {show(found)}, not dict(all=..., classes=dict(NAME=...))'
        raise UserError(problem, file=source, key=f'meta.{BEST_SCORES}')
    for key, score in {'all': found.get('all'), **_name_keys(of_classes)}.items():
        is_number = isinstance(score, int | float) and not isinstance(score, bool)
        if not is_number or not 0 <= score <= 1:
            problem = f'this is {show(score)}, not a score from 0 to 1'
            raise UserError(problem, file=source, key=f'meta.{BEST_SCORES}.{key}')
    unknown = [name for name in of_classes if names is not None and name not in names]
    if unknown:
        problem = f'the file has no class {first_few(map(show, unknown))}'
        raise UserError(problem, file=source, key=f'meta.{BEST_SCORES}.classes')
    scores = {str(name): float(score) for name, score in of_classes.items()}
    return {'all': float(found['all']), 'classes': scores}


def _name_keys(of_classes: Mapping) -> dict[str, object]:
    return {f'classes[{show(name)}]': score for name, score in of_classes.items()}
