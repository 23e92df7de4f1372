"""The config of a folder of images: what is chosen for it and why, and its text."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config

from ..datasets.samples import Sample
from ..hub import find_config_folder
from ..recipes import DIVISOR, read_names, read_size
from ..tuning import KEY
from ..utils.errors import UserError, naming_key
from ..utils.messages import did_you_mean, show
from ..utils.render import Assign, Code, Comment, Extended, Statement, quote, render

MAX_LINES = 25
MOST_LINES = 32  # rather than lines of more than 88 columns
WIDTH = 88
SIZE = 640  # of COCO's recipes
SIZES = 320, 1280  # the least and the most that are chosen
BOX_SIDE = 8  # pixels: the stride of the finest feature map

ARCHS = {'s': 'small', 'b': 'base', 'l': 'large'}
# What the weights of ImageNet were trained with, as in configs/*_in1k.py.
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
IMAGENET_NORM = dict(eps=1e-5, momentum=0.1)


class Recipe(NamedTuple):
    """Numbers of one of our configs."""

    epochs: int
    batch_size: int


RECIPES = {
    'yolov5': Recipe(300, 16),
    'in1k': Recipe(100, 16),
    'yolov8': Recipe(500, 16),
    'rtmdet': Recipe(300, 32),
}


class Few(NamedTuple):
    """What depends on the number of images in one of the recipes for small data.

    Attributes:
        batch_size: Images of a step, at most.
        image_size: The side from which on images are taken as they are, in pixels.
        max_epochs: Epochs, at least.
        least_steps: Steps that a training is to have, at least.
        most_epochs: Epochs, at most.
    """

    batch_size: int
    image_size: int
    max_epochs: int
    least_steps: int
    most_epochs: int


@cache
def read_family() -> dict[str, Any]:
    """The recipes for small data, as ``configs/_base_/smalldata.py`` has them."""
    path = find_config_folder() / '_base_' / 'smalldata.py'
    return Config.fromfile(path).to_dict()


def get_few(member: str) -> Few:
    """The numbers of a recipe for small data, by its name."""
    recipe = read_family()[member]
    return Few(**{name: recipe[name] for name in Few._fields})


@dataclass(frozen=True)
class Choice:
    """A value, and in a few words why it is this one."""

    value: Any
    reason: str = ''


@dataclass(frozen=True)
class Plan:
    """What is chosen for a config.

    Attributes:
        base: The name of our config that it inherits from.
        image_size: A side, or width and height, in pixels.
        max_epochs: Epochs.
        batch_size: Images of a step.
        model: Changes of the base's model.
        load_from: Weights of a whole detector to begin with.
        tuning: The recipe for small data that the base's is replaced by, if any.
    """

    base: Choice
    image_size: Choice
    max_epochs: Choice
    batch_size: Choice
    model: Mapping[str, Any] = field(default_factory=dict)
    load_from: str | None = None
    tuning: str | None = None


def choose(
    model: str,
    samples: Sequence[Sample],
    *,
    weights: str | None = None,
    whole_detector: bool = False,
    image_size: int | tuple[int, int] | None = None,
    normalisation: Mapping[str, list[float]] | None = None,
    backbone: Mapping[str, Any] = {},
) -> Plan:
    """What suits the data.

    Args:
        model: ``'s'``, ``'b'``, ``'l'`` or ``'timm:NAME'``, with YOLOv5's neck and
            head; ``'yolov8'`` or ``'rtmdet'``.
        samples: The training images with their boxes.
        weights: Pretrained weights that are at hand, as ``load_from`` takes them.
        whole_detector: Whether they are those of a detector; else of a backbone.
        image_size: The image size that the user wants.
        normalisation: ``mean`` and ``std`` that the weights were trained with, where
            they are a timm model's or say so themselves.
        backbone: Arguments of the backbone that the weights need.

    Raises:
        UserError: There is no such model, or no image size like this.
    """
    check_choices(model, image_size)
    small = len(samples) < read_family()['few_images']
    if weights is None:
        member = 'scratch'
    else:
        member = 'detector' if whole_detector else 'pretrained'
    few = get_few(member) if small else None
    backbone_weights = None if whole_detector else weights
    family = _choose_family(model, backbone_weights)
    size = _choose_size(samples, image_size, few.image_size if few else SIZE)
    batch = _choose_batch(family, few, size.value)
    base = _choose_base(model, family, len(samples), member, small)
    changes = _choose_model(model, family, small, backbone_weights)
    if weights:
        # Those of a NextViT's ImageNet weights are the base's.
        says = whole_detector or model.startswith('timm:')
        told = normalisation if says else None
        changes = _follow_weights(changes, base.value, told, backbone)
    tuned = small and whole_detector and family == 'yolov5'
    return Plan(
        base=base,
        image_size=size,
        max_epochs=_choose_epochs(family, few, len(samples), batch.value),
        batch_size=batch,
        model=changes,
        load_from=weights if whole_detector else None,
        tuning='detector' if tuned else None,
    )


def check_choices(model: str, image_size: int | tuple[int, int] | None) -> None:
    """Checks what a user may choose.

    Raises:
        UserError: There is no such model, or no image size like this.
    """
    known = [*ARCHS, 'timm:NAME', 'yolov8', 'rtmdet']
    is_timm = model.startswith('timm:') and model != 'timm:'
    if not is_timm and model not in known[:3] + known[4:]:
        hint = did_you_mean(model, known) or f'there are {", ".join(known)}'
        raise UserError(f'--model {show(model)}: {hint}')
    if image_size is not None:
        with naming_key('--imgsz'):
            read_size(image_size)


def _choose_family(model: str, backbone_weights: str | None) -> str:
    """Which of :data:`RECIPES` trains a model."""
    if model in ('yolov8', 'rtmdet'):
        return model
    return 'yolov5' if backbone_weights is None else 'in1k'


def _choose_base(
    model: str, family: str, images: int, member: str, small: bool
) -> Choice:
    arch = model if model in ARCHS else 's'
    few = '_smalldata' if small else ''
    name = {
        'yolov5': 'yolov5_nextvit_s_smalldata' if small else f'yolov5_nextvit_{arch}',
        'in1k': f'yolov5_nextvit_{arch}{few}_in1k',
    }.get(family, f'{family}_nextvit_s')
    held = {
        'scratch': 'no pretrained weights',
        'pretrained': 'weights of a backbone',
        'detector': 'weights of a detector',
    }[member]
    way = {
        'yolov5': "YOLOv5's recipe for COCO",
        'in1k': 'the recipe for fine-tuning',
    }.get(family, f'the recipe of {family}')
    if small and family in ('yolov5', 'in1k'):
        way = 'the recipe for small data'
    return Choice(name, f'{images:,} training images, {held}: {way}')


def _choose_size(
    samples: Sequence[Sample], wanted: int | tuple[int, int] | None, usual: int
) -> Choice:
    sides = np.array([max(sample.size) for sample in samples] or [usual])
    least, most = int(sides.min()), int(sides.max())
    lengths = f'{least}' if least == most else f'{least} to {most}'
    reason = f'the longer sides are {lengths} pixels'
    if wanted is not None:
        return Choice(wanted, f'as asked for; {reason}')
    if most < usual:
        return Choice(max(SIZES[0], math.ceil(most / DIVISOR) * DIVISOR), reason)
    boxes = _measure_boxes(samples)
    tenth = float(np.quantile(boxes, 0.1)) * usual if len(boxes) else BOX_SIDE
    if tenth < BOX_SIDE:  # no larger than most images are
        needed = math.ceil(usual * BOX_SIDE / max(tenth, 1) / DIVISOR) * DIVISOR
        useful = int(np.median(sides)) // DIVISOR * DIVISOR
        larger = min(needed, useful, SIZES[1])
        if larger > usual:
            text = f'a tenth of the boxes has under {BOX_SIDE} pixels a side at {usual}'
            return Choice(larger, text)
    return Choice(usual, reason)


def _measure_boxes(samples: Sequence[Sample]) -> np.ndarray:
    """The sides of squares as large as the boxes, as shares of the longer sides."""
    shares = [
        np.sqrt(np.prod(sample.boxes[:, 2:] - sample.boxes[:, :2], axis=1).clip(0))
        / max(sample.size)
        for sample in samples
    ]
    return np.concatenate(shares) if shares else np.array([])


def _choose_batch(family: str, few: Few | None, size: int | tuple[int, int]) -> Choice:
    most = few.batch_size if few else RECIPES[family].batch_size
    width, height = (size, size) if isinstance(size, int) else size
    fits = most * SIZE**2 / (width * height)
    batch = min(most, max(2, 2 ** math.floor(math.log2(fits))))
    if batch == most:
        return Choice(
            batch, 'as in the recipe for small data' if few else 'as for COCO'
        )
    return Choice(batch, f'as much memory as {most} of {SIZE}x{SIZE} pixels')


def _choose_epochs(family: str, few: Few | None, images: int, batch: int) -> Choice:
    steps = math.ceil(images / batch)
    if few is None:
        epochs = RECIPES[family].epochs
    else:
        wanted = math.ceil(few.least_steps / max(steps, 1) / 10) * 10
        epochs = min(max(wanted, few.max_epochs), few.most_epochs)
    return Choice(epochs, f'{steps * epochs:,} batches')


def _choose_model(
    model: str, family: str, small: bool, weights: str | None
) -> dict[str, Any]:
    """What the base's model does not have already.

    Args:
        model: The user's choice.
        family: Its recipe's.
        small: Whether the data are.
        weights: Those of the backbone, if there are any.
    """
    changes: dict[str, Any] = {}
    backbone: dict[str, Any] = {}
    if model.startswith('timm:'):
        name = model.removeprefix('timm:')
        backbone = dict(_delete_=True, type='mmdet.TimmFeatures', model_name=name)
    elif model in 'bl' and family == 'yolov5' and small:
        backbone['arch'] = ARCHS[model]
    elif family == 'rtmdet' and weights is None:
        backbone['init_cfg'] = None  # it has some, which are fetched
    elif family == 'yolov8' and weights:
        backbone['norm_cfg'] = IMAGENET_NORM
        changes['data_preprocessor'] = IMAGENET
    if weights:
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=weights)
    return dict(changes, backbone=backbone) if backbone else changes


def _follow_weights(
    model: Mapping[str, Any],
    base: str,
    normalisation: Mapping[str, list[float]] | None,
    backbone: Mapping[str, Any],
) -> dict[str, Any]:
    """Changes of a model, and what its weights need beside them.

    Args:
        model: The changes.
        base: The config that they are of.
        normalisation: Mean and std that the weights were trained with, if known.
        backbone: Arguments of the backbone.
    """
    changes = dict(model)
    if normalisation and not ('_in1k' in base and normalisation == IMAGENET):
        changes['data_preprocessor'] = dict(normalisation)
    if backbone:
        changes['backbone'] = {**changes.get('backbone', {}), **backbone}
    return changes


def format_text(
    plan: Plan,
    *,
    title: str,
    datasets: Mapping[str, Mapping[str, Any]],
    classes: Sequence[str],
    class_ids: Sequence[int] | None = None,
    num_images: int,
    data_root: PurePath,
    config_folder: PurePath,
) -> str:
    """The config, of 25 lines, or some more where these would be too wide.

    Hundreds of classes stand in one line: it is the one to change, and with the names
    in another file there would be two to keep together. Other lines get wider than 88
    columns only where there would be more than 32.

    Args:
        plan: What is chosen.
        title: The first line.
        datasets: The datasets of ``'train'``, ``'val'`` and maybe ``'test'``, with
            absolute paths.
        classes: The names of the classes.
        class_ids: Their numbers in the annotations, where the names don't tell.
        num_images: Images to train with.
        data_root: The folder of the data, absolute.
        config_folder: The folder that the config is for, absolute.

    Raises:
        UserError: Two classes have the same name.
    """
    folders = {'data_root': data_root}
    if _is_safe(config_folder):
        folders['here'] = config_folder
    placed = {
        split: _place(_shorten_paths(data, data_root), folders)
        for split, data in datasets.items()
    }
    shared = _find_shared(list(placed.values()))
    statements: list[Statement] = [
        Comment(title),
        Comment(plan.base.reason),
        Assign(
            '_base_',
            Code(f"__import__('mmnextvit').config_file({quote(plan.base.value)})"),
        ),
        Comment(''),
        Assign('data_root', _end(data_root)),
    ]
    if any(code.text.startswith('here') for code in _find_code(placed)):
        statements.append(Assign('here', Code("'{{ fileDirname }}/'")))
    names = read_names(tuple(classes))
    statements.append(Assign('classes', names, in_one_line=True))
    if class_ids is not None:
        ids = dict(zip(names, class_ids, strict=True))
        reason = 'their numbers in the annotations'
        statements.append(Assign('class_ids', ids, reason=reason, in_one_line=True))
    statements += [
        Assign('num_images', num_images, reason='to train with'),
        *(
            Assign(name, choice.value, reason=choice.reason)
            for name, choice in (
                ('image_size', plan.image_size),
                ('max_epochs', plan.max_epochs),
                ('batch_size', plan.batch_size),
            )
        ),
    ]
    if plan.load_from is not None:
        statements.append(Assign('load_from', plan.load_from))
    if plan.tuning is not None:
        reason = 'smaller steps, which keep what the weights know'
        statements.append(Assign(KEY, plan.tuning, reason=reason))
    statements += [
        *_list_parts(plan.model),
        Comment(''),
        Assign('data', shared),
        *(
            Assign(
                split,
                Extended(
                    Code('data'), {k: v for k, v in data.items() if k not in shared}
                ),
            )
            for split, data in placed.items()
        ),
        Comment(''),
        Comment('What follows: pipelines, loss weights, schedule, warm-up, hooks'),
        Code("globals().update(__import__('mmnextvit').fit_recipe(_base_, globals()))"),
    ]
    return render(statements, MAX_LINES, MOST_LINES)


def _list_parts(model: Mapping[str, Any]) -> list[Statement]:
    """The model's changes, in parts that fit into a line each where the whole does not.

    The parts have names of their own: a reader sees which line is about what.
    """
    if not model:
        return []
    whole = Assign('model', dict(model))
    if _fits(whole):
        return [whole]
    backbone = dict(model.get('backbone', {}))
    parts: list[Statement] = []
    changes: dict[str, object] = {}
    inside: dict[str, object] = {}
    if init := backbone.pop('init_cfg', None):
        if not _fits(Assign('weights', init)):
            parts.append(Assign('file', init['checkpoint']))
            init = dict(init, checkpoint=Code('file'))
        parts.append(Assign('weights', init, reason='of the backbone alone'))
        inside['init_cfg'] = Code('weights')
    if backbone:
        parts.append(Assign('backbone', backbone))
        value: object = (
            Extended(Code('backbone'), inside) if inside else Code('backbone')
        )
        changes['backbone'] = value
    elif inside:
        changes['backbone'] = inside
    if 'data_preprocessor' in model:
        reason = 'as the weights were trained'
        normalisation = model['data_preprocessor']
        parts.append(Assign('normalisation', normalisation, reason=reason))
        changes['data_preprocessor'] = Code('normalisation')
    return [*parts, Assign('model', changes)]


def _fits(statement: Assign) -> bool:
    """Whether an assignment fits into a line."""
    return len(render([statement], 1).rstrip()) <= WIDTH


def _find_shared(datasets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several datasets say alike."""
    first = datasets[0]
    return {
        key: value
        for key, value in first.items()
        if all(key in data and data[key] == value for data in datasets)
    }


def _end(folder: PurePath) -> str:
    """A folder as the beginning of paths."""
    return folder.as_posix().rstrip('/') + '/'


def _is_safe(folder: PurePath) -> bool:
    """Whether a folder may stand between quotes as it is, as MMEngine puts it there."""
    return quote(_end(folder)) == f"'{_end(folder)}'"


def _place(node: object, folders: Mapping[str, PurePath]) -> Any:
    """A dataset's config in which paths begin with the variables of their folders.

    Args:
        node: The config, or a part of it.
        folders: Folders by the variables that hold them. The innermost one counts, and
            of two that are the same the first.
    """
    if isinstance(node, Mapping):
        return {key: _place(value, folders) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_place(value, folders) for value in node]
    if not isinstance(node, (str, PurePath)):
        return node
    path = type(folders['data_root'])(node)
    around = [name for name in folders if path.is_relative_to(folders[name])]
    if not around:
        return str(node)
    name = max(around, key=lambda name: len(folders[name].parts))
    rest = _cut(node, folders[name])
    return Code(f'{name} + {quote(rest)}' if rest else name)


def _cut(path: str | PurePath, folder: PurePath) -> str:
    """A path below a folder, in that folder; with a slash at its end if it has one."""
    rest = type(folder)(path).relative_to(folder).as_posix()
    slash = '/' if str(path).endswith(('/', '\\')) else ''
    return '' if rest == '.' else rest + slash


def _shorten_paths(data: Mapping[str, Any], root: PurePath) -> dict[str, Any]:
    """A dataset's config whose paths are those that it joins with its ``data_root``."""
    kind = type(root)

    def cut(path: object) -> object:
        if not isinstance(path, str) or not kind(path).is_relative_to(root):
            return path
        return _cut(path, root)

    if 'data_root' not in data or kind(data['data_root']) != root:
        return dict(data)
    short = dict(data)
    if 'ann_file' in data:
        short['ann_file'] = cut(data['ann_file']) or './'
    if 'data_prefix' in data:
        short['data_prefix'] = {k: cut(v) for k, v in data['data_prefix'].items()}
    return short


def _find_code(node: object) -> Iterator[Code]:
    if isinstance(node, Code):
        yield node
    elif isinstance(node, (Mapping, list, tuple)):
        for item in node.values() if isinstance(node, Mapping) else node:
            yield from _find_code(item)
