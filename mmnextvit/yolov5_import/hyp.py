"""YOLOv5's hyperparameters (``hyp.yaml``) as arguments of our config."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..utils.errors import UserError
from ..utils.render import join_lines
from ..utils.yaml_reader import YAMLFile
from .notes import Note

DEFAULT_GAINS = {'cls': 0.5, 'bbox': 0.05, 'obj': 1.0}


@dataclass(frozen=True)
class Hyp:
    """Hyperparameters by the part of the config that takes them.

    Attributes:
        optimizer: Arguments of the optimizer.
        schedule: Arguments of the hook that schedules learning rate and momentum.
        gains: Weights of the losses ``cls``, ``bbox`` and ``obj``, as YOLOv5 states
            them: for 80 classes, three levels and images of 640 pixels.
        transforms: Arguments of the training pipeline's transforms, by their type.
        prior_match_thr: By how many times a side of an anchor and of a box may differ
            for a match, YOLOv5's ``anchor_t``.
        mosaic: Above 0, images are put together in mosaics.
        mixup: Probability that two mosaics are mixed.
        vertical_flip: Probability of a vertical flip.
        num_anchors: Anchors a level to compute from the data; 0 takes the model's.
        notes: What has no counterpart.
    """

    optimizer: Mapping[str, float] = field(default_factory=dict)
    schedule: Mapping[str, float] = field(default_factory=dict)
    gains: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_GAINS))
    transforms: Mapping[str, dict] = field(default_factory=dict)
    prior_match_thr: float = 4.0
    mosaic: float = 1.0
    mixup: float = 0.0
    vertical_flip: float = 0.0
    num_anchors: int = 0
    notes: tuple[Note, ...] = ()


class Target(NamedTuple):
    """Where a value goes, and its range."""

    part: str  # an attribute of Hyp or a transform's type
    name: str  # the argument there; empty where the value is the attribute itself
    min: float
    max: float


HSV, AFFINE, FLIP = 'YOLOv5HSVRandomAug', 'YOLOv5RandomAffine', 'mmdet.RandomFlip'
TARGETS = {
    'lr0': Target('optimizer', 'lr', 1e-9, 10),
    'momentum': Target('optimizer', 'momentum', 0, 0.9999),
    'weight_decay': Target('optimizer', 'weight_decay', 0, 1),
    'lrf': Target('schedule', 'lr_factor', 0, 1),
    'warmup_epochs': Target('schedule', 'warmup_epochs', 0, 1000),
    'warmup_momentum': Target('schedule', 'warmup_momentum', 0, 0.9999),
    'warmup_bias_lr': Target('schedule', 'warmup_bias_lr', 0, 10),
    'box': Target('gains', 'bbox', 0, 1000),
    'giou': Target('gains', 'bbox', 0, 1000),  # what v1 and v2 call it
    'cls': Target('gains', 'cls', 0, 1000),
    'obj': Target('gains', 'obj', 0, 1000),
    'anchor_t': Target('prior_match_thr', '', 1.01, 1000),
    'hsv_h': Target(HSV, 'hue_delta', 0, 1),
    'hsv_s': Target(HSV, 'saturation_delta', 0, 1),
    'hsv_v': Target(HSV, 'value_delta', 0, 1),
    'degrees': Target(AFFINE, 'max_rotate_degree', 0, 180),
    'translate': Target(AFFINE, 'max_translate_ratio', 0, 1),
    'shear': Target(AFFINE, 'max_shear_degree', 0, 90),
    'scale': Target(AFFINE, 'scaling_ratio_range', 0, 0.99),
    'fliplr': Target(FLIP, 'prob', 0, 1),
    'flipud': Target('vertical_flip', '', 0, 1),
    'mosaic': Target('mosaic', '', 0, 1),
    'mixup': Target('mixup', '', 0, 1),
    'anchors': Target('num_anchors', '', 0, 99),
}
TEXTS = {'optimizer': 'SGD'}  # keys that are no numbers, and what is ours too
# Values with which a key changes nothing; others have no counterpart.
NEUTRAL = {
    'cls_pw': 1, 'obj_pw': 1, 'fl_gamma': 0, 'perspective': 0, 'copy_paste': 0,
    'label_smoothing': 0,
}  # fmt: skip


def read_hyp(file: YAMLFile) -> Hyp:
    """YOLOv5's hyperparameters.

    Raises:
        UserError: A value is not a number, or is out of range.
    """
    if 'box' in file.content and 'giou' in file.content:
        raise file.error('it is the older name of box: write one of them', 'giou')
    values = {
        key: _read_number(file, key, value)
        for key, value in file.content.items()
        if key not in TEXTS
    }
    parts: dict[str, dict[str, float]] = {}
    for key, target in TARGETS.items():
        if key in values:
            parts.setdefault(target.part, {})[target.name] = values[key]
    transforms: dict[str, dict[str, object]] = {
        name: {**parts[name]} for name in (HSV, AFFINE, FLIP) if name in parts
    }
    if 'scale' in values:
        scale = values['scale']
        extremes = round(1 - scale, 6), round(1 + scale, 6)
        transforms[AFFINE] = {**parts[AFFINE], 'scaling_ratio_range': extremes}
    alone: dict[str, Any] = {
        part: value[''] for part, value in parts.items() if '' in value
    }
    return Hyp(
        optimizer=parts.get('optimizer', {}),
        schedule=parts.get('schedule', {}),
        gains={**DEFAULT_GAINS, **parts.get('gains', {})},
        transforms=transforms,
        notes=_list_notes(file, values),
        **{**alone, 'num_anchors': int(alone.get('num_anchors', 0))},
    )


def _read_number(file: YAMLFile, key: object, value: object) -> float:
    """The value of a key, checked.

    Raises:
        UserError: It is not a number, or is out of range.
    """

    def error(problem: str) -> UserError:
        return UserError(
            f'{join_lines(value)} {problem}',
            file=file.path,
            line=file.find_line(str(key)),
            key=join_lines(key),
        )

    number = value
    if isinstance(value, str):  # YAML takes 1e-2 for text
        with suppress(ValueError):
            number = float(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise error('is not a number')
    if key not in TARGETS:
        return number
    target = TARGETS[key]
    if not target.min <= number <= target.max:
        raise error(f'is out of range: {target.min} to {target.max} is allowed')
    return float(number)


def _list_notes(file: YAMLFile, values: Mapping[str, float]) -> tuple[Note, ...]:
    """What has no counterpart, in the order of the file, and then what differs."""
    notes = [
        Note.about(file, key, file.content[key], f' (here {ours})')
        for key, ours in TEXTS.items()
        if str(file.content.get(key, ours)).lower() != ours.lower()
    ]
    for key, value in values.items():
        if key in TARGETS or NEUTRAL.get(key) == value:
            continue
        more = ' (YOLOv5 does not use it either)' if key == 'iou_t' else ''
        notes.append(Note.about(file, key, file.content[key], more))
    mosaic, mixup = values.get('mosaic', 1), values.get('mixup', 0)
    if 0 < mosaic < 1:
        notes.append(Note.about(file, 'mosaic', mosaic, ' (here always)'))
    if mixup and not mosaic:
        notes.append(Note.about(file, 'mixup', mixup, ' (YOLOv5 mixes mosaics only)'))
    return tuple(notes)
