"""One of our configs with other data, image size, classes, epochs or batch.

A recipe says the same thing in many places: the image size in each pipeline, the
classes in the model and in the weights of its losses, the epochs in loops, schedules
and hooks. :func:`fit_recipe` changes them together. Numbers follow from the recipe's
own, so that it holds for each of our detectors of MMYOLO's kind.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, TypeGuard

from .tuning import (
    DIVISOR,
    KEY,
    READERS,
    SHARE,
    build_average,
    build_model,
    build_optimizer,
    build_pipelines,
    build_schedule,
    fit_backbone,
    is_whole,
    read_count,
    read_size,
    read_tuning,
    read_values,
    read_whole,
)
from .utils.color_types import COLOR_TYPES
from .utils.errors import UserError, naming_key
from .utils.messages import did_you_mean, first_few, show

WARM_UP_SHARE = 0.1  # of a training, at most
LAST_SHARE = 0.25  # of the epochs, at most, are those without mosaics

# Whatever transform, policy or variable has one of these: pixels as (width, height), as
# the longer side, or a list of them.
SIZE_KEYS = ('crop_size', 'img_scale', 'img_scales', 'img_size', 'scale', 'size')
# Heads whose loss weights YOLOv5 scales with the classes and with the image size.
SCALED_HEADS = ('YOLOv5Head', 'YOLOv5InsHead')
# MMYOLO's defaults of YOLOv5's schedule, which its recipes leave out.
WARM_UP = dict(warmup_epochs=3, warmup_mim_iter=1000, warmup_bias_lr=0.1)
# Of MMEngine's schedulers, what is a rate and no factor of one.
RATES = ('eta_max', 'eta_min')
# What tells where a dataset lies; the rest of a dataset belongs to the recipe.
LOCATION = ('_scope_', 'ann_file', 'data_prefix', 'data_root', 'metainfo', 'type')
# What takes more than three channels in the place of a data preprocessor.
PREPROCESSORS = {
    'DetDataPreprocessor': 'mmdet.ChannelsDetDataPreprocessor',
    'YOLOv5DetDataPreprocessor': 'mmyolo.ChannelsDataPreprocessor',
}
# Transforms that change colours: they are for images of three channels alone.
COLOUR_STEPS = (
    'Albu',
    'PhotoMetricDistortion',
    'YOLOXHSVRandomAug',
    'YOLOv5HSVRandomAug',
)
META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')

_CHANGES: ContextVar[Mapping[str, object]] = ContextVar('changes')


def read_names(value: object) -> tuple[str, ...]:
    """Names of classes."""
    names = tuple(value) if isinstance(value, (list, tuple)) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{show(value)} must be names, as in ('cat', 'dog') or ('cat',)"
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f'each name stands once, not {first_few(repeated)} twice')
    return names


def read_workers(value: object) -> int:
    """A number from 0 on."""
    return read_whole(value, 0)


def read_channels(value: object) -> int:
    """1 for grey images, 3 for colours, or 4 for colours and a fourth channel."""
    count = read_whole(value, 1)
    if count not in COLOR_TYPES:
        raise UserError(
            f'{count} must be 1 (grey), 3 (RGB) or 4 (RGB with alpha or infrared)'
        )
    return count


# What a config may set in one line, and how each is read.
SETTINGS: dict[str, Callable[[object], Any]] = {
    'batch_size': read_count,
    'classes': read_names,
    'image_size': read_size,
    'in_channels': read_channels,
    'max_epochs': read_count,
    'num_images': read_count,
    'num_workers': read_workers,
    'oversample': SHARE,
    KEY: read_tuning,
}
RATE = 'optim_wrapper.optimizer.lr'  # what set_rate sets
DATASETS = ('train', 'val', 'test')


class Bounds(NamedTuple):
    """What a warm-up may take of a training.

    Attributes:
        iterations: As many at most, or what ``iterations_share`` leaves of its own.
        epochs: Likewise.
        iterations_share: How many times longer the training is than the one that the
            warm-up was for, in iterations.
        epochs_share: Likewise, in epochs.
    """

    iterations: int = 0
    epochs: float = 0
    iterations_share: float = 0
    epochs_share: float = 0


def fit_recipe(base: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config on the user's own data changes in the recipe that it inherits.

    A config file calls it in its last line, with the namespace that it has filled::

        globals().update(__import__('mmnextvit').fit_recipe(_base_, globals()))

    Args:
        base: The recipe, such as ``_base_`` in a config file.
        config: Datasets and settings:

            - ``train``, ``val``: configs of datasets, without pipelines; ``test``,
              which is ``val`` where it is left out.
            - ``classes``: names, in the order of their labels.
            - ``class_ids``: the number of each name in the annotations as a dict, or as
              a list in the order of ``classes``; where names alone don't tell.
            - ``num_images``: images to train with, which bounds the warm-up.
            - ``image_size``: a side, or width and height, in pixels; ``max_epochs``;
              ``batch_size``, of a process; ``num_workers`` of the data loaders;
              ``oversample``, the share of the images below which a class is rare, whose
              images then come several times in an epoch; ``in_channels``, 1 for grey
              images or 4 for those with a fourth channel; ``tuning``, some values of a
              recipe for small data, or the name of another one, such as
              ``'detector'``. Those that are left out are the recipe's.

            Other keys that the recipe has too are merged on top of the result, as in
            any config that inherits: they win. The rest is the file's own business.

    Returns:
        The changed keys, each with its whole value. ``recipe`` says what they were
        fitted to.

    Raises:
        UserError: A setting is missing or cannot be; it has the key.
    """
    old = _copy({key: base[key] for key in base})
    _check_base(old)
    config = {key: value for key, value in config.items() if _is_data(key, value)}
    own = _copy({**config, **_CHANGES.get({})})
    recipe = _read_settings(own, old)
    class_ids = _read_class_ids(own.get('class_ids'), recipe['classes'])
    bounds = Bounds(
        iterations=int(_count_iterations(recipe) * WARM_UP_SHARE),
        epochs=recipe['max_epochs'] * WARM_UP_SHARE,
    )
    size = (old.get('auto_scale_lr') or {}).get('base_batch_size')
    tuned = _tune(old, recipe[KEY]) if KEY in own else old
    rate = _compute_rate(tuned, size, recipe['batch_size'])
    new = _follow(tuned, old['img_scale'], recipe, rate, bounds)
    if rate != 1:  # the rate is now that of this batch
        new['auto_scale_lr']['base_batch_size'] = recipe['batch_size']
    for split in DATASETS:
        new |= _fit_data(split, new, own, recipe, class_ids)
    new = _merge(new, {k: v for k, v in own.items() if k not in (*SETTINGS, *DATASETS)})
    new = set_channels(new, recipe.get('in_channels'))
    if KEY in recipe:  # the backbone may be another one by now
        new['model'] = fit_backbone(new['model'], recipe[KEY])
    whole = _list_whole_changes(old, new)
    if class_ids is not None:
        whole['class_ids'] = class_ids
    return {**whole, **recipe, 'recipe': dict(recipe)}


def tune_recipe(base: Mapping[str, Any], member: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe for small data changes in one of YOLOv5's that it inherits.

    A config file calls it with one of those in ``configs/_base_/smalldata.py``::

        globals().update(__import__('mmnextvit').tune_recipe(_base_, _base_.scratch))

    What else the base has stays: data, model, normalisation and weights.

    Args:
        base: The recipe, such as ``_base_`` in a config file.
        member: ``tuning``, with a value for each of :data:`~mmnextvit.tuning.READERS`;
            ``batch_size``, ``image_size`` and ``max_epochs``, which are the base's
            where they are left out. Other keys are for ``mmnextvit new``.

    Returns:
        The changed keys, each with its whole value.

    Raises:
        UserError: A value is missing or cannot be, or the base is no recipe of
            YOLOv5's; it has the key.
    """
    old = _copy({key: base[key] for key in base})
    _check_base(old)
    settings = {
        key: _read_setting(key, member.get(key, own))
        for key, own in _list_own_settings(old).items()
    }
    values = read_values(member.get(KEY))
    if missing := [name for name in READERS if name not in values]:
        raise UserError(f'it has no {first_few(missing)}', key=KEY)
    unbounded = Bounds(iterations_share=1, epochs_share=1)
    new = _tune(_follow(old, old['img_scale'], settings, 1, unbounded), values)
    new['train_dataloader']['batch_size'] = settings['batch_size']
    new['auto_scale_lr'] = dict(
        new.get('auto_scale_lr') or {}, base_batch_size=settings['batch_size']
    )
    return _list_whole_changes(old, new)


def _tune(old: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """One of YOLOv5's recipes with other values.

    Raises:
        UserError: It is the recipe of another detector.
    """
    if old['model'].get('bbox_head', {}).get('type') != 'YOLOv5Head':
        problem = "only recipes of YOLOv5's detectors can be tuned by it"
        raise UserError(problem, key=KEY)
    epochs = old['train_cfg']['max_epochs']
    train, last = build_pipelines(
        old['pre_transform'],
        old['test_pipeline'][1:3],
        old['train_pipeline'][-1],
        old['img_scale'],
        values,
    )
    hooks = {k: v for k, v in old['default_hooks'].items() if k != 'pipeline_switch'}
    hooks['param_scheduler'] = build_schedule(values, epochs)
    hooks['ema'] = build_average(values)
    plain = min(values['plain_epochs'], int(epochs * LAST_SHARE))
    if plain and train != last:
        hooks['pipeline_switch'] = dict(
            type='mmdet.PipelineSwitchHook',
            switch_epoch=epochs - plain,
            switch_pipeline=last,
        )
    loader = old['train_dataloader']
    dataset = dict(loader['dataset'], pipeline=train)
    return {
        **old,
        'model': build_model(old['model'], values),
        'optim_wrapper': build_optimizer(old['optim_wrapper'], values),
        'param_scheduler': None,
        'default_hooks': hooks,
        'train_pipeline': train,
        'train_dataloader': dict(loader, dataset=dataset),
        KEY: values,
    }


def _list_whole_changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What differs, as whole values: merging, MMEngine could remove no key of one."""
    changed = {k: v for k, v in new.items() if k not in old or v != old[k]}
    merged = {k for k, v in changed.items() if isinstance(v, dict) and k in old}
    return {k: dict(v, _delete_=True) if k in merged else v for k, v in changed.items()}


def refit(
    cfg: Mapping[str, Any], settings: Mapping[str, object]
) -> dict[str, dict | list | Any]:
    """What another image size, batch or number of epochs changes in a whole config.

    It is for configs that call no :func:`fit_recipe`, and takes the same rules: what a
    config says for its own size, batch and epochs is taken to those that are wanted.
    A warm-up takes no greater share of the training than it did. Images that keep
    their proportions, as MMDetection's do, have the image size as their longer side.

    Args:
        cfg: The config.
        settings: ``image_size``, ``max_epochs``, ``batch_size`` and ``in_channels``, or
            some of them.

    Returns:
        The changed keys, each with its whole value.

    Raises:
        UserError: A setting cannot be, or something that must follow it does not; it
            has the key.
    """
    old = _copy({key: cfg[key] for key in cfg})
    wanted = {key: _read_setting(key, value) for key, value in settings.items()}
    epochs = (old.get('train_cfg') or {}).get('max_epochs')
    if 'max_epochs' in wanted and epochs is None:
        problem = 'the config has no train_cfg.max_epochs: it trains by iterations'
        raise UserError(problem, key='max_epochs')
    batch = (old.get('train_dataloader') or {}).get('batch_size')
    if 'batch_size' in wanted and batch is None:
        problem = 'the config has no train_dataloader.batch_size'
        raise UserError(problem, key='batch_size')
    size = _find_size(old, wanted['image_size']) if 'image_size' in wanted else (1, 1)
    before = dict(batch_size=batch, image_size=size, max_epochs=epochs)
    recipe = {**before, **wanted}
    bounds = Bounds()
    if epochs is not None and batch is not None:
        longer = recipe['max_epochs'] / epochs
        bounds = Bounds(
            iterations_share=longer * batch / recipe['batch_size'],
            epochs=recipe['max_epochs'] * WARM_UP_SHARE,
            epochs_share=longer,
        )
    rate = _compute_rate(old, batch, recipe['batch_size'])
    new = _follow(old, size, recipe, rate, bounds)
    if 'batch_size' in wanted:
        new['train_dataloader']['batch_size'] = wanted['batch_size']
        scaling = new.get('auto_scale_lr') or {}
        if rate != 1 and 'base_batch_size' in scaling:
            base = round(scaling['base_batch_size'] * wanted['batch_size'] / batch)
            scaling['base_batch_size'] = max(base, 1)
    if size != recipe['image_size']:
        _check_resized(old, new)
    new = set_channels(new, wanted.get('in_channels'))
    if 'in_channels' in wanted:  # which the config says from now on
        new['in_channels'] = wanted['in_channels']
    if 'recipe' in new:
        new['recipe'] = {**new['recipe'], **wanted}
        new.update(wanted)
    return {k: v for k, v in new.items() if k not in old or v != old[k]}


def set_channels(cfg: Mapping[str, Any], count: int | None) -> dict[str, Any]:
    """A config of colour images for images of another number of channels.

    The backbone takes them, whatever loads an image loads all of its channels, the mean
    of the normalisation is that of all where it has none, and transforms that change
    colours go.

    Args:
        cfg: The config.
        count: Channels of an image: 1, 3 or 4; ``None`` for those that it has.

    Raises:
        UserError: It is for images of another number already, or its data preprocessor
            is one that takes three channels alone.
    """
    if count is None:
        return dict(cfg)
    timm = str(cfg['model']['backbone'].get('type')).endswith('TimmFeatures')
    key = 'in_chans' if timm else 'in_channels'
    own = cfg['model']['backbone'].get(key, 3)
    if own not in (3, count):
        raise UserError(
            f'{count}: this config has been fitted to {own} already, and does not say '
            'what it was made from: set in_channels in that one',
            key='in_channels',
        )
    if count == 3:
        return dict(cfg)
    new = _convert_steps(cfg, count)
    model = dict(new['model'])
    model['backbone'] = {**model['backbone'], key: count}
    preprocessor = dict(model.get('data_preprocessor') or {})
    for name in ('mean', 'std'):
        if (
            len(values := preprocessor.get(name) or ()) == 3
        ):  # not those of another read
            mean = sum(values) / len(values)
            preprocessor[name] = [mean] if count == 1 else [*values, mean]
    if count == 1:
        preprocessor['bgr_to_rgb'] = False
    else:
        preprocessor['type'] = _choose_preprocessor(preprocessor)
    return {**new, 'model': {**model, 'data_preprocessor': preprocessor}}


def _choose_preprocessor(preprocessor: Mapping[str, Any]) -> str:
    """The type of a data preprocessor that takes more than three channels.

    Raises:
        UserError: None is known that does what this one does.
    """
    name = _name_type(preprocessor)
    if name in {type_.rpartition('.')[2] for type_ in PREPROCESSORS.values()}:
        return str(preprocessor['type'])
    if name not in PREPROCESSORS:
        raise UserError(
            f'the data preprocessor {name or "(none)"} takes images of three channels '
            f'alone: {first_few(sorted(PREPROCESSORS))} can have four',
            key='in_channels',
        )
    return PREPROCESSORS[name]


def _convert_steps(node: Any, count: int) -> Any:
    """A value in which all transforms take images of so many channels."""
    if isinstance(node, (list, tuple)):
        kept = (item for item in node if _name_type(item) not in COLOUR_STEPS)
        return type(node)(_convert_steps(item, count) for item in kept)
    if not isinstance(node, dict):
        return node
    new = {key: _convert_steps(value, count) for key, value in node.items()}
    name = _name_type(node)
    if name in ('LoadImageFromFile', 'LoadVerifiedImage'):
        new['color_type'] = COLOR_TYPES[count]
        if count > 3:  # which mmcv itself does not load
            new['type'] = 'LoadVerifiedImage'
    if name == 'Mosaic' and count > 3:
        new['type'] = 'ChannelsMosaic'
    if name == 'YOLOv5RandomAffine' and count > 3:
        new['border_val'] = _pad_value(new.get('border_val', (114,) * 3), count)
    if isinstance(pad := new.get('pad_val'), dict) and 'img' in pad:
        new['pad_val'] = {**pad, 'img': _pad_value(pad['img'], 1)}
    return new


def _pad_value(value: Any, count: int) -> Any:
    """A colour in which all three are alike, for images of so many channels."""
    if not isinstance(value, (list, tuple)) or len(set(value)) != 1:
        return value
    return value[0] if count == 1 else (value[0],) * count


def _name_type(node: Any) -> str:
    """The name of a transform's type, without its scope; nothing of other values."""
    return (
        str(node.get('type', '')).rpartition('.')[2] if isinstance(node, dict) else ''
    )


def _find_size(cfg: dict[str, Any], wanted: tuple[int, int]) -> tuple[int, int]:
    """The image size of a config, by its test pipeline.

    Args:
        cfg: The config.
        wanted: The size that is to be instead.

    Raises:
        UserError: The pipeline does not say one, or it keeps proportions, so that a
            width and a height make no sense.
    """
    steps = list(_find_pipeline((cfg.get('test_dataloader') or {}).get('dataset')))
    scales = [step['scale'] for step in steps if step.get('scale')]
    if not scales:
        problem = 'no transform of the test pipeline has a scale that it could change'
        raise UserError(problem, key='image_size')
    scale = scales[0] if isinstance(scales[0], (list, tuple)) else (scales[0],) * 2
    kinds = [str(step['type']).rpartition('.')[2] for step in steps]
    if 'LetterResize' in kinds:
        return scale[0], scale[1]
    if wanted[0] != wanted[1]:
        raise UserError(
            f"{show(wanted)}: this config's images keep their proportions: write one "
            'number, their longer side',
            key='image_size',
        )
    return max(scale), max(scale)


def _find_pipeline(dataset: Any) -> Iterator[dict[str, Any]]:
    """The transforms of a dataset, inside its wrappers too."""
    while isinstance(dataset, dict) and not dataset.get('pipeline'):
        dataset = dataset.get('dataset')
    yield from (dataset or {}).get('pipeline') or ()


def _check_resized(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Checks that the images of each split have got another size.

    Raises:
        UserError: Those of one have not.
    """
    for split in DATASETS:
        loaders = [cfg.get(f'{split}_dataloader') or {} for cfg in (old, new)]
        before, after = (loader.get('dataset') for loader in loaders)
        if before is not None and before == after:
            problem = (
                f'the {split} pipeline resizes no image, so that it cannot follow: '
                f'change {split}_dataloader.dataset.pipeline'
            )
            raise UserError(problem, key='image_size')


def set_rate(cfg: Mapping[str, Any], lr: float) -> dict[str, Any]:
    """What another learning rate changes in a config.

    Warm-ups and decays that are factors follow by themselves; the rates that are
    written as numbers keep their proportion to it.

    Args:
        cfg: The config.
        lr: The rate that its optimizer is to have.

    Returns:
        The changed keys, each with its whole value.
    """
    wrapper = _copy(cfg['optim_wrapper'])
    before = wrapper['optimizer'].get('lr')
    rate = lr / before if before else 1
    wrapper['optimizer']['lr'] = lr
    changes = dict(optim_wrapper=wrapper)
    schedulers = _copy(cfg.get('param_scheduler'))
    if isinstance(schedulers, list):
        changes['param_scheduler'] = [
            {k: v * rate if k in RATES else v for k, v in one.items()}
            for one in schedulers
        ]
    hooks = _copy(cfg.get('default_hooks') or {})
    if _is_yolov5_schedule(hooks.get('param_scheduler')):
        schedule = {**WARM_UP, **hooks['param_scheduler']}
        hooks['param_scheduler']['warmup_bias_lr'] = schedule['warmup_bias_lr'] * rate
        changes['default_hooks'] = hooks
    return changes


@contextmanager
def fitting(changes: Mapping[str, object]) -> Iterator[None]:
    """Gives settings of :func:`fit_recipe` other values in configs read in the block.

    MMEngine computes what a config says before it merges what a command line, or a
    config that inherits, changes. So the file is read once more with the changes.
    """
    token = _CHANGES.set(changes)
    try:
        yield
    finally:
        _CHANGES.reset(token)


def find_changes(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were changed after :func:`fit_recipe` was called, by name.

    Args:
        cfg: A config as it was read, with what was changed since.

    Raises:
        UserError: One of them cannot be.
    """
    recipe = cfg.get('recipe')
    if not isinstance(recipe, Mapping) or 'image_size' not in recipe:
        return {}
    changes = {}
    for key in SETTINGS:
        if key in cfg:
            before = _read_setting(key, recipe[key]) if key in recipe else None
            value = _read_setting(key, cfg[key])
            if key == KEY:
                value = _choose_values(cfg, value, before or {})
            if value != before:
                changes[key] = value
    return changes


def check_followed(cfg: Mapping[str, Any]) -> None:
    """Checks that what follows from the settings of a config has followed.

    Raises:
        UserError: Something has not.
    """
    unfollowed = sorted(find_changes(cfg))
    if unfollowed:
        raise UserError(
            'nothing in this config follows it, as in one that calls fit_recipe (those '
            "of 'mmnextvit new' do) and is read by a command of mmnextvit: set each of "
            'the values that depend on it, or change it in the file that calls '
            'fit_recipe',
            file=getattr(cfg, 'filename', None),
            key=unfollowed[0],
        )


def _copy(node: Any) -> Any:
    """A value with plain dicts in place of MMEngine's, which shares nothing with it."""
    if isinstance(node, Mapping):
        return {key: _copy(node[key]) for key in node}
    if isinstance(node, (list, tuple)):
        return type(node)(map(_copy, node))
    return node


def _is_data(key: str, value: object) -> bool:
    """Whether a name of a file's namespace is part of the config."""
    return key != '_base_' and not (
        key.startswith('__') or isinstance(value, (FunctionType, ModuleType))
    )


def _check_base(base: dict[str, Any]) -> None:
    """Checks that a config is one of those that can be fitted."""
    wanted = ('model', 'img_scale', 'train_dataloader', 'val_dataloader', 'train_cfg')
    missing = [key for key in wanted if not base.get(key)]
    if missing or 'max_epochs' not in base['train_cfg']:
        raise UserError(
            'fit_recipe takes the recipes of YOLOv5, YOLOv8 and RTMDet, such as '
            "_base_ = __import__('mmnextvit').config_file('yolov5_nextvit_s'): this "
            f'one has no {first_few(missing) or "train_cfg.max_epochs"}',
            key='_base_',
        )


def _read_settings(own: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The settings as they are in force, whoever says them."""
    for key in ('train', 'val'):
        if not isinstance(own.get(key), dict):
            raise UserError('it must be the config of a dataset, a dict', key=key)
    settings = _list_own_settings(base)
    settings.update({key: own[key] for key in SETTINGS if key in own})
    if KEY in base:
        given = _read_setting(KEY, own.get(KEY, {}))
        settings[KEY] = _choose_values(base, given, base[KEY])
    elif KEY in own:
        raise UserError(
            'the recipe has no such values: inherit from one for small data, such as '
            "__import__('mmnextvit').config_file('yolov5_nextvit_s_smalldata')",
            key=KEY,
        )
    for key in ('classes', 'num_images'):
        if key not in settings:
            raise UserError('fit_recipe needs it, and the config has none', key=key)
    return {key: _read_setting(key, value) for key, value in settings.items()}


def _choose_values(
    cfg: Mapping[str, Any], given: str | dict[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """All values of a recipe for small data.

    Args:
        cfg: A config that has the recipes.
        given: The name of one of them, or some values in the place of ``before``'s.
        before: All values of a recipe.

    Raises:
        UserError: There is no recipe of the name.
    """
    if not isinstance(given, str):
        return {**before, **given}
    known = [k for k, v in cfg.items() if isinstance(v, Mapping) and KEY in v]
    known = [name for name in known if name != 'recipe']
    if given not in known:
        hint = did_you_mean(given, known) or f'there are {first_few(known)}'
        raise UserError(f'{show(given)} is no recipe for small data: {hint}', key=KEY)
    return read_values(cfg[given][KEY])


def _list_own_settings(base: dict[str, Any]) -> dict[str, Any]:
    """The settings that a recipe has by itself."""
    return dict(
        batch_size=base['train_dataloader']['batch_size'],
        image_size=base['img_scale'],
        max_epochs=base['train_cfg']['max_epochs'],
    )


def _read_setting(key: str, value: object) -> Any:
    with naming_key(key):
        return SETTINGS[key](value)


def _read_class_ids(ids: Any, classes: Sequence[str]) -> tuple[int, ...] | None:
    """The numbers of the classes in the annotations, in the order of their names."""
    if ids is None:
        return None
    if isinstance(ids, dict):
        for name in classes:
            if name not in ids:
                hint = did_you_mean(name, ids) or f'it has {first_few(ids)}'
                problem = f'it has no number for the class {show(name)}: {hint}'
                raise UserError(problem, key='class_ids')
        ids = [ids[name] for name in classes]
    if len(ids) != len(classes):
        problem = f'it has {len(ids)} numbers for {len(classes)} classes'
        raise UserError(problem, key='class_ids')
    return tuple(ids)


def _follow(
    old: dict[str, Any],
    size: Sequence[int],
    recipe: Mapping[str, Any],
    rate: float,
    bounds: Bounds,
) -> dict[str, Any]:
    """A config with other settings, and all that follows from them.

    Args:
        old: The config.
        size: Its image size.
        recipe: The settings that are wanted.
        rate: By what the learning rate is multiplied.
        bounds: What a warm-up may take.
    """
    new = _rewrite(old, _make_rules(old, size, recipe))
    new['model'] = _weigh_losses(new['model'], old['model'], size, recipe)
    if rate != 1:
        new['optim_wrapper'] = _scale_optimizer(new['optim_wrapper'], rate)
    if new.get('default_hooks'):
        new['default_hooks'] = _bound_hooks(new['default_hooks'], bounds)
    schedulers = new.get('param_scheduler')
    if isinstance(schedulers, list):
        epochs = old['train_cfg'].get('max_epochs'), recipe['max_epochs']
        new['param_scheduler'] = [
            _fit_scheduler(one, epochs, bounds, rate) for one in schedulers
        ]
    return new


def _make_rules(
    base: dict[str, Any], old_size: Sequence[int], recipe: Mapping[str, Any]
) -> dict[str, Callable[[Any], Any]]:
    """How the values of keys follow, wherever they stand."""
    new_size = recipe['image_size']
    old_epochs, epochs = base['train_cfg'].get('max_epochs'), recipe['max_epochs']
    last = int((epochs or 0) * LAST_SHARE)

    def scale(value: Any) -> Any:
        return _scale_size(value, old_size, new_size, DIVISOR)

    def scale_pairs(values: Any) -> Any:  # not the scales of anchors
        pairs = isinstance(values, (list, tuple)) and len(values) > 0
        pairs = pairs and all(isinstance(value, (list, tuple)) for value in values)
        return scale(values) if pairs else values

    def scale_border(value: Any) -> Any:
        return _scale_size(value, old_size, new_size, 1)

    def keep_from_end(epoch: int) -> int:
        return epochs - min(old_epochs - epoch, last)

    rules: dict[str, Callable[[Any], Any]] = {
        'batch_size_per_gpu': lambda _: recipe['batch_size'],
        'train_batch_size_per_gpu': lambda _: recipe['batch_size'],
    }
    if old_size != new_size:
        rules |= dict.fromkeys(SIZE_KEYS, scale)
        rules |= {'scales': scale_pairs, 'border': scale_border}
    if 'classes' in recipe:
        rules['num_classes'] = lambda _: len(recipe['classes'])
    if old_epochs != epochs:
        rules |= {
            'max_epochs': lambda _: epochs,
            'switch_epoch': keep_from_end,
            'num_last_epochs': lambda number: min(number, last),
            'dynamic_intervals': lambda pairs: [
                (keep_from_end(e), n) for e, n in pairs
            ],
            # of hooks that begin late, as EMAHook can
            'begin_epoch': lambda epoch: epoch * epochs // old_epochs,
        }
    return rules


def _rewrite(node: Any, rules: Mapping[str, Callable[[Any], Any]]) -> Any:
    """A value in which every key that has a rule follows it, at any depth."""
    if isinstance(node, dict):
        return {
            key: rules[key](value) if key in rules else _rewrite(value, rules)
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return type(node)(_rewrite(item, rules) for item in node)
    return node


def _scale_size(
    value: Any, old: Sequence[int], new: Sequence[int], divisor: int
) -> Any:
    """Pixels that follow the image size; what is no whole number stays as it is.

    Args:
        value: A side, (width, height), or lists of them.
        old: The recipe's image size.
        new: The image size that is wanted.
        divisor: Multiples of it remain such, so that a network takes them.
    """
    if isinstance(value, (list, tuple)):
        if len(value) == 2 and all(map(is_whole, value)):
            scaled = [_scale_side(*pair, divisor) for pair in zip(value, old, new)]
        else:
            scaled = [_scale_size(item, old, new, divisor) for item in value]
        return type(value)(scaled)
    if is_whole(value):
        return _scale_side(value, max(old), max(new), divisor)
    return value


def _scale_side(value: int, old: int, new: int, divisor: int) -> int:
    if value % divisor:
        return round(value * new / old)
    multiple = value * new // old // divisor * divisor
    return multiple or (divisor if value > 0 else 0)


def _weigh_losses(
    model: dict[str, Any],
    before: dict[str, Any],
    old_size: Sequence[int],
    recipe: Mapping[str, Any],
) -> dict[str, Any]:
    """YOLOv5's loss weights, which are for so many classes and so large an image.

    Args:
        model: The model that they are for.
        before: That of the recipe.
        old_size: The recipe's image size.
        recipe: The settings.
    """
    head = model.get('bbox_head', {})
    if head.get('type') not in SCALED_HEADS:
        return model
    classes = 1.0
    if 'classes' in recipe:
        count = before['bbox_head']['head_module']['num_classes']
        classes = len(recipe['classes']) / count
    area = math.prod(recipe['image_size']) / math.prod(old_size)
    losses = {
        f'loss_{name}': dict(
            head[f'loss_{name}'],
            loss_weight=head[f'loss_{name}']['loss_weight'] * factor,
        )
        for name, factor in (('cls', classes), ('obj', area))
    }
    return dict(model, bbox_head=dict(head, **losses))


def _count_iterations(recipe: dict[str, Any]) -> int:
    """Iterations of a training by one process."""
    return math.ceil(recipe['num_images'] / recipe['batch_size']) * recipe['max_epochs']


def _compute_rate(base: dict[str, Any], old: int | None, new: int | None) -> float:
    """By what the learning rate is multiplied, for another batch size.

    Adam's follows the root of the batch size (Malladi et al., "On the SDEs and Scaling
    Rules for Adaptive Gradient Algorithms", 2022). With SGD the rate stays: the losses
    of YOLOv5's and YOLOv8's heads are sums over the batch, which scale the gradients.
    """
    optimizer = str(base['optim_wrapper']['optimizer']['type'])
    return math.sqrt(new / old) if 'Adam' in optimizer and old and new else 1


def _scale_optimizer(wrapper: dict[str, Any], rate: float) -> dict[str, Any]:
    optimizer = wrapper['optimizer']
    return dict(wrapper, optimizer=dict(optimizer, lr=optimizer['lr'] * rate))


def _bound(number: float, most: float, share: float) -> float:
    """The length of a warm-up: its own, but no more than it may take."""
    return min(number, max(most, number * share))


def _bound_hooks(hooks: dict[str, Any], bounds: Bounds) -> dict[str, Any]:
    """The hooks with a warm-up of YOLOv5's that a short training has time for."""
    schedule = hooks.get('param_scheduler')
    if not _is_yolov5_schedule(schedule):
        return hooks
    warm_up = {**WARM_UP, **schedule}
    epochs, iterations = warm_up['warmup_epochs'], warm_up['warmup_mim_iter']
    bounded = dict(
        warmup_epochs=_bound(epochs, bounds.epochs, bounds.epochs_share),
        warmup_mim_iter=int(
            _bound(iterations, bounds.iterations, bounds.iterations_share)
        ),
    )
    return dict(hooks, param_scheduler=dict(schedule, **bounded))


def _is_yolov5_schedule(hook: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(hook, dict) and 'max_epochs' in hook


def _fit_scheduler(
    scheduler: dict[str, Any],
    epochs: tuple[int | None, int],
    bounds: Bounds,
    rate: float,
) -> dict[str, Any]:
    """A scheduler of MMEngine's for another length of training.

    Args:
        scheduler: Its config.
        epochs: Of the recipe, and those that are wanted.
        bounds: What a warm-up may take.
        rate: By what the learning rate is multiplied.
    """
    changes: dict[str, Any] = {}
    for key in RATES:
        if key in scheduler:
            changes[key] = scheduler[key] * rate
    if not scheduler.get('by_epoch', True):  # a warm-up
        if 'end' in scheduler:
            most, share = bounds.iterations, bounds.iterations_share
            changes['end'] = max(int(_bound(scheduler['end'], most, share)), 1)
        return dict(scheduler, **changes)
    old, new = epochs
    if old is None or old == new:
        return dict(scheduler, **changes)
    for key in ('begin', 'end'):
        if key in scheduler:
            changes[key] = scheduler[key] * new // old
    if 'end' in changes:
        changes['end'] = max(changes['end'], changes.get('begin', 0) + 1)
    if 'milestones' in scheduler:
        marks = (max(mark * new // old, 1) for mark in scheduler['milestones'])
        changes['milestones'] = sorted(set(marks))
    if 'T_max' in scheduler:
        begin, end = scheduler.get('begin', 0), scheduler.get('end', old)
        if (
            scheduler['T_max'] == end - begin
        ):  # the least rate is that of the last epoch
            changes['T_max'] = changes.get('end', new) - changes.get('begin', 0)
        else:
            changes['T_max'] = max(scheduler['T_max'] * new // old, 1)
    return dict(scheduler, **changes)


def _fit_data(
    split: str,
    new: dict[str, Any],
    own: dict[str, Any],
    recipe: dict[str, Any],
    class_ids: tuple[int, ...] | None,
) -> dict[str, Any]:
    """The data loader of a split and, but for training, its evaluator."""
    key = f'{split}_dataloader'
    loader = dict(new[key])
    dataset = own.get(split) or own['val']
    kept = {k: v for k, v in loader['dataset'].items() if k not in LOCATION}
    metainfo = dict(dataset.get('metainfo') or {}, classes=recipe['classes'])
    loader['dataset'] = dict(kept, **{**dataset, 'metainfo': metainfo})
    if class_ids is not None:
        loader['dataset']['class_ids'] = class_ids
    if 'num_workers' in recipe:
        workers = min(recipe['num_workers'], loader['num_workers'])
        if split == 'train':
            workers = recipe['num_workers']
        loader.update(num_workers=workers, persistent_workers=workers > 0)
    if split == 'train':
        if 'oversample' in recipe:
            loader['dataset']['oversample'] = recipe['oversample']
        return {key: dict(loader, batch_size=recipe['batch_size'])}
    # The metric takes the truth from the samples, of whatever format the dataset is.
    loader['dataset']['pipeline'] = _add_truth(loader['dataset']['pipeline'])
    evaluator = dict(new[f'{split}_evaluator'], ann_file=None)
    return {key: loader, f'{split}_evaluator': evaluator}


def _add_truth(pipeline: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A pipeline whose samples have the annotated boxes with them."""

    def add(transform: dict[str, Any]) -> dict[str, Any]:
        keys = tuple(transform.get('meta_keys', META_KEYS))
        if 'PackDetInputs' not in str(transform['type']) or 'instances' in keys:
            return transform
        return dict(transform, meta_keys=(*keys, 'instances'))

    return [add(transform) for transform in pipeline]


def _merge(new: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What a file itself says about keys of the recipe, on top, by MMEngine's rules."""
    from mmengine.config import ConfigDict

    merged = dict(new)
    for key in own.keys() & new.keys():
        both = ConfigDict({key: new[key]})
        both.merge({key: own[key]})
        merged[key] = both.to_dict()[key]
    return merged
