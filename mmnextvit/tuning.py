"""The values of a recipe that are tuned, and the parts of a config made of them.

``configs/_base_/smalldata.py`` has them for small data, and :data:`READERS` says what
each is. :func:`~mmnextvit.recipes.tune_recipe` puts them into a recipe of YOLOv5's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from .utils.errors import UserError, naming_key
from .utils.messages import did_you_mean, show

DIVISOR = 32  # of image sizes: the stride of the smallest feature map
KEY = 'tuning'  # of a config that has such values
NEXTVIT = 'mmdet.NextViT'
# Our backbones, and their arguments that are values here, with their own defaults.
FREEZING = dict(frozen_stages=-1, norm_eval=False)
BACKBONES: dict[str, dict[str, Any]] = {
    NEXTVIT: FREEZING,
    'mmdet.TimmFeatures': dict(FREEZING, init_std=None),
}
BORDER = (114, 114, 114)  # YOLOv5's grey around images

Steps = list[dict[str, Any]]


def read_size(value: object) -> tuple[int, int]:
    """Width and height from both, or from the side of a square."""
    size = value if isinstance(value, (list, tuple)) else (value, value)
    if len(size) != 2 or not all(is_whole(v, 1) and v % DIVISOR == 0 for v in size):
        raise UserError(
            f'{show(value)} must be a multiple of {DIVISOR} pixels, or a width and a '
            f'height that are: as in 640 or (640, 480)'
        )
    return size[0], size[1]


def read_count(value: object) -> int:
    """A number from 1 on."""
    return read_whole(value, 1)


def read_whole(value: object, least: int) -> int:
    """A number from ``least`` on."""
    if not is_whole(value, least):
        raise UserError(f'{show(value)} must be a whole number from {least} on')
    return int(value)


def is_whole(value: object, least: float = float('-inf')) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Number:
    """Reads a number of a range, both ends included."""

    min: float
    max: float

    def __call__(self, value: object) -> float:
        if not _is_number(value) or not self.min <= value <= self.max:
            problem = f'must be a number from {self.min} to {self.max}'
            raise UserError(f'{show(value)} {problem}')
        return float(value)


@dataclass(frozen=True)
class Numbers:
    """Reads so many numbers of a range."""

    count: int
    each: Number

    def __call__(self, value: object) -> tuple[float, ...]:
        values = tuple(value) if isinstance(value, (list, tuple)) else ()
        if len(values) != self.count:
            raise UserError(f'{show(value)} must be {self.count} numbers')
        return tuple(map(self.each, values))


def read_switch(value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise UserError(f'{show(value)} must be True or False')
    return value


def read_deviation(value: object) -> float | None:
    """A standard deviation, or ``None``."""
    return value if value is None else Number(1e-6, 1)(value)


SHARE = Number(0, 1)
# The values, and how each is read.
READERS: dict[str, Callable[[object], Any]] = {
    # AdamW's learning rate for a batch of the recipe, and its decay
    'lr': Number(1e-9, 10),
    'weight_decay': SHARE,
    # by which the rate is multiplied in the backbone, and after the last epoch
    'backbone_lr_mult': SHARE,
    'lr_factor': SHARE,
    'warmup_epochs': Number(0, 1000),
    # the backbone: stages that are not trained, as MMDetection counts them; whether its
    # BatchNorms keep their statistics; of timm's, the standard deviation of the weights
    # that convolutions start with, or None for timm's own; of NextViT, branches that
    # are left out, and how fast the statistics follow
    'frozen_stages': lambda value: read_whole(value, -1),
    'norm_eval': read_switch,
    'init_std': read_deviation,
    'drop_path_rate': SHARE,
    'norm_momentum': SHARE,
    # steps over which the weights are averaged for validation
    'ema_steps': read_count,
    # probabilities that an image is one of four in a mosaic, or a mean of two, and the
    # last epochs in which it is neither (a quarter of a training at most)
    'mosaic': SHARE,
    'mixup': SHARE,
    'plain_epochs': lambda value: read_whole(value, 0),
    # by what an image is scaled, at least and at most; turned and sheared, in degrees
    # at most; and moved, as a share of its sides at most
    'scale_range': Numbers(2, Number(0.01, 100)),
    'degrees': Number(0, 180),
    'shear': Number(0, 90),
    'translate': SHARE,
    # the probability of a mirror image, and by how much colours change at most
    'flip': SHARE,
    'hsv': Numbers(3, SHARE),
    # by how many times the sides of an anchor and of a box may differ for a match, and
    # the weight of the box loss
    'prior_match_thr': Number(1.01, 1000),
    'box_weight': Number(0, 1000),
}


def read_tuning(value: object) -> str | dict[str, Any]:
    """The name of a recipe, or values in the place of some of its own."""
    return value if isinstance(value, str) else read_values(value)


def read_values(value: object) -> dict[str, Any]:
    """Values of a recipe, or some of them.

    Raises:
        UserError: There is no such value, or it cannot be; it has the key.
    """
    if not isinstance(value, Mapping):
        raise UserError(
            f'{show(value)} must be values of the recipe, as in dict(mosaic=1.0)'
        )
    for name in value:
        if name not in READERS:
            hint = did_you_mean(str(name), READERS) or f'there are {", ".join(READERS)}'
            raise UserError(f'it has no value {show(name)}: {hint}')
    values = {}
    for name in value:
        with naming_key(f'{KEY}.{name}'):
            values[name] = READERS[name](value[name])
    low, high = values.get('scale_range', (1, 1))
    if low > high:
        problem = f'{show((low, high))} must be the least and then the greatest'
        raise UserError(problem, key=f'{KEY}.scale_range')
    return values


def build_model(model: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A detector's config with a recipe's values."""
    head = model['bbox_head']
    box = dict(head['loss_bbox'], loss_weight=values['box_weight'])
    thr = values['prior_match_thr']
    tuned = dict(model, bbox_head=dict(head, loss_bbox=box, prior_match_thr=thr))
    backbone = dict(model['backbone'])
    if backbone.get('type') == NEXTVIT:
        momentum = values['norm_momentum']
        backbone['norm_cfg'] = dict(backbone['norm_cfg'], momentum=momentum)
        backbone['drop_path_rate'] = values['drop_path_rate']
    for name in BACKBONES.get(backbone.get('type', ''), {}):
        backbone.pop(name, None)
    return fit_backbone(dict(tuned, backbone=backbone), values)


def fit_backbone(model: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A detector's config whose backbone is frozen, and starts, as a recipe has it.

    What the config says itself stays, and so do backbones of others, which may not know
    these arguments.
    """
    backbone = model['backbone']
    usual = BACKBONES.get(backbone.get('type', ''), {})
    wanted = {name: values[name] for name in usual if values[name] != usual[name]}
    return dict(model, backbone={**backbone, **wanted, **_pick(backbone, wanted)})


def _pick(config: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in names if name in config}


def build_optimizer(
    wrapper: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Any]:
    """The config of AdamW in the three groups of YOLOv5, a step a batch.

    Args:
        wrapper: The recipe's, of which the gradient clipping goes: AdamW's steps do not
            follow the size of gradients.
        values: The values.
    """
    return dict(
        type=wrapper['type'],
        constructor='ThreeGroupOptimWrapperConstructor',
        optimizer=dict(
            type='AdamW', lr=values['lr'], weight_decay=values['weight_decay']
        ),
        paramwise_cfg=dict(backbone_lr_mult=values['backbone_lr_mult']),
    )


def build_schedule(values: Mapping[str, Any], max_epochs: int) -> dict[str, Any]:
    """The hook of a cosine, behind a warm-up of biases as of the rest."""
    return dict(
        type='YOLOv5ScheduleHook',
        nominal_batch_size=None,
        scheduler_type='cosine',
        lr_factor=values['lr_factor'],
        max_epochs=max_epochs,
        warmup_epochs=values['warmup_epochs'],
        warmup_mim_iter=0,
        warmup_bias_lr=0.0,
    )


def build_average(values: Mapping[str, Any]) -> dict[str, Any]:
    """The hook that averages the weights, over few steps at first."""
    return dict(
        type='StepEMAHook',
        ema_type='ExpMomentumEMA',
        momentum=1 / values['ema_steps'],
        gamma=values['ema_steps'],
        update_buffers=True,
        priority=49,
    )


def build_pipelines(
    load: Sequence[dict[str, Any]],
    fit: Sequence[dict[str, Any]],
    pack: Mapping[str, Any],
    size: Sequence[int],
    values: Mapping[str, Any],
) -> tuple[Steps, Steps]:
    """The transforms of training images, and those of the last epochs.

    Args:
        load: What reads an image and its boxes.
        fit: What fits a whole image into the image size.
        pack: The last transform.
        size: Width and height of the images, in pixels.
        values: The values.
    """
    affine = dict(
        type='YOLOv5RandomAffine',
        max_rotate_degree=values['degrees'],
        max_translate_ratio=values['translate'],
        max_shear_degree=values['shear'],
        scaling_ratio_range=values['scale_range'],
        border_val=BORDER,
    )
    mosaic = dict(type='Mosaic', img_scale=size, pad_val=114.0, pre_transform=[*load])
    cut = dict(affine, border=(-size[0] // 2, -size[1] // 2))  # of twice the size
    whole = [*fit, affine]
    mixed = _choose_at_random([mosaic, cut], whole, values['mosaic'])
    if values['mixup']:
        share = values['mixup']
        mixup = dict(type='YOLOv5MixUp', prob=share, pre_transform=[*load, *mixed])
        mixed = [*mixed, mixup]
    hue, saturation, value = values['hsv']
    colours = dict(
        type='YOLOv5HSVRandomAug',
        hue_delta=hue,
        saturation_delta=saturation,
        value_delta=value,
    )
    last = [colours, dict(type='mmdet.RandomFlip', prob=values['flip']), dict(pack)]
    return [*load, *mixed, *last], [*load, *whole, *last]


def _choose_at_random(steps: Steps, others: Steps, share: float) -> Steps:
    """Steps for a share of the images, and others for the rest."""
    if share in (0, 1):
        return steps if share else others
    choice = dict(type='RandomChoice', transforms=[steps, others])
    return [dict(choice, prob=[share, 1 - share])]
