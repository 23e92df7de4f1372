"""From YOLOv5's files to a config of ours: the model's YAML, hyp.yaml and data.yaml.

:func:`read_model` and :func:`read_hyp` give plain data and a list of what has no
counterpart, with its line; :func:`config_text` writes both as a config.
"""

import difflib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..models.detector import level_weights
from ..models.nextvit import ARCHS
from ..models.yolov5_rows import (
    ROW_MODULES,
    check_multiple,
    make_divisible,
    parse_activation,
)
from ..utils.yaml_reader import YAMLFile

HEADS = {'Detect': 'YOLOv5HeadModule', 'Segment': 'YOLOv5InsHeadModule'}
TEXTS = {'None': None, 'True': True, 'False': False}  # what YOLOv5 would evaluate
NORM = "dict(type='BN', eps=1e-3, momentum=0.03)"
SCALING = ('depth_multiple', 'width_multiple', 'activation')
MAX_NOTES = 15  # of which the config speaks
MODEL_KEYS = {'nc', 'anchors', 'backbone', 'head', *SCALING}


def one_line(text: object) -> str:
    """What may stand in a comment: in a line of its own, a newline would be code."""
    return ' '.join(str(text).split())[:300]


@dataclass
class ImportedModel:
    """A model YAML, resolved.

    Attributes:
        num_classes: The YAML's ``nc``.
        anchors: (width, height) in pixels by level, or a count a level.
        backbone_rows: Rows from the image on; empty behind a whole backbone.
        backbone: Arguments of that whole backbone, with its ``type``.
        neck_rows: The rows after that.
        in_rows: Numbers of the backbone's rows that the neck reads.
        out_rows: Numbers of the maps that the head reads.
        head: 'Detect' or 'Segment'.
        head_args: ``mask_channels`` and ``proto_channels`` of a 'Segment'.
        scaling: ``depth_multiple``, ``width_multiple``, ``activation``.
        pretrained: timm's name of the model whose mean and std the weights need.
        notes: What has no counterpart.
        places: Where each row stands in the YAML, by its number.
    """

    num_classes: int
    anchors: list | int
    backbone_rows: list[list] = field(default_factory=list)
    backbone: dict = field(default_factory=dict)
    neck_rows: list[list] = field(default_factory=list)
    in_rows: tuple[int, ...] = ()
    out_rows: tuple[int, ...] = ()
    head: str = 'Detect'
    head_args: dict = field(default_factory=dict)
    scaling: dict = field(default_factory=dict)
    pretrained: str | None = None
    notes: list[str] = field(default_factory=list)
    places: dict[int, tuple] = field(default_factory=dict)

    @property
    def num_anchors(self) -> int:
        """Anchors a level."""
        anchors = self.anchors
        return anchors if isinstance(anchors, int) else len(anchors[0])


def read_model(file: YAMLFile) -> ImportedModel:
    """A YOLOv5 model YAML, with its backbone in rows or a NextViT or timm model.

    Raises:
        ValueError: It is no such YAML; the message has file, line and row.
    """
    content = file.content
    for key in ('nc', 'anchors', 'backbone', 'head'):
        if key not in content:
            raise ValueError(f'{file.path} has no {key}: it is no YOLOv5 model')
    model = ImportedModel(
        _count(content['nc'], file.where('nc')), _anchors(file, content['anchors'])
    )
    for key, value in content.items():
        if key == 'ch' and value == 3:
            continue
        if key not in MODEL_KEYS:
            model.notes.append(f'{file.where(str(key))} {key}: {value}')
    for key in SCALING:
        value = content.get(key)
        if value is None:
            continue
        try:
            check = parse_activation if key == 'activation' else check_multiple
            check(value)
        except ValueError as error:
            raise ValueError(
                f'{file.where(key)}: {key} is {value!r}: {error}'
            ) from None
        model.scaling[key] = value

    rows = []
    for part in ('backbone', 'head'):
        if not isinstance(content[part], list) or not content[part]:
            raise ValueError(f'{file.where(part)}: {part} is no list of rows')
        for i, row in enumerate(content[part]):
            where = file.where(part, i)
            if not isinstance(row, list) or len(row) != 4:
                raise ValueError(
                    f'{where}: row {len(rows)} is {str(row)[:80]}: a row is '
                    '[from, number, module, args]'
                )
            from_, number, name, args = row
            if not isinstance(name, str) or not is_plain(row):
                raise ValueError(
                    f'{where}: row {len(rows)} {str(row)[:200]}: a module is named by '
                    'a text, and arguments are numbers, texts, None, True or False'
                )
            args = args if isinstance(args, list) else [args]
            args = [TEXTS.get(a, a) if isinstance(a, str) else a for a in args]
            rows.append(([from_, number, name, args], (part, i)))

    shift = _whole_backbone(file, model, *rows[0])
    first = len(content['backbone']) if not shift else 1
    numbered = {i + shift: row for i, (row, _) in enumerate(rows)}
    model.places = {i + shift: place for i, (_, place) in enumerate(rows)}
    detect = max(numbered)
    for number, row in numbered.items():
        if row[2] in HEADS and number != detect:
            raise ValueError(
                f'{_row(file, model, number)}: {row[2]} must be the last row'
            )
    _head(file, model, detect, numbered.pop(detect))
    whole = [numbered.pop(i) for i in range(shift, shift + first)]
    read = {_number(i, n) for n, row in numbered.items() for i in _sources(row)}
    read.update(model.out_rows)
    if shift:
        if model.backbone['type'] == 'mmdet.TimmFeatures':
            # The document's is given all maps; those that no row reads would not learn.
            first = min(i for i in (*read, shift) if i >= 0)
            if first != 1:  # strides 4 to 32 are what it emits by itself
                model.backbone['strides'] = tuple(2 ** (i + 1) for i in range(first, 5))
    else:
        model.backbone_rows, last = whole, first - 1
        model.in_rows = tuple(sorted({i for i in read if 0 <= i < last} | {last}))
    model.neck_rows = list(numbered.values())
    return model


def is_plain(value: object) -> bool:
    """Whether a value's ``repr`` is itself in Python."""
    if isinstance(value, list):
        return all(map(is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))


def _row(file: YAMLFile, model: ImportedModel, number: int) -> str:
    return f'{file.where(*model.places[number])}: row {number}'


def _number(from_: object, row: int) -> int:
    if isinstance(from_, bool) or not isinstance(from_, int):
        return -1  # the interpreter names the row
    return from_ if from_ >= 0 else row + from_


def _sources(row: list) -> Sequence:
    return row[0] if isinstance(row[0], list) else [row[0]]


def _count(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 100_000:
        raise ValueError(f'{where}: the number of classes is {str(value)[:80]}')
    return value


def _anchors(file: YAMLFile, anchors: object) -> list | int:
    """Anchors as pairs by level, or the count."""
    if (
        isinstance(anchors, int)
        and not isinstance(anchors, bool)
        and 1 <= anchors <= 99
    ):
        return anchors
    try:
        levels = [[float(x) for x in level] for level in anchors]
        pairs = [list(zip(level[::2], level[1::2])) for level in levels]
        good = levels and len({len(level) for level in levels}) == 1
        good = good and len(levels[0]) and len(levels[0]) % 2 == 0
        good = good and all(0 < x < 1e5 for level in levels for x in level)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f'{file.where("anchors")}: anchors are a count, or for each level as many '
            'pairs of width and height in pixels, as in [10,13, 16,30, 33,23]'
        )
    return [[tuple(_short(x) for x in pair) for pair in level] for level in pairs]


def _short(x: float) -> float | int:
    return int(x) if x == int(x) else round(x, 3)


def _whole_backbone(
    file: YAMLFile, model: ImportedModel, row: list, place: tuple
) -> int:
    """Reads a NextViT or timm model in row 0; how far it shifts the rows' numbers."""
    from_, number, name, args = row
    if name in ROW_MODULES:
        return 0
    arch = name.removeprefix('nextvit_')
    ours = name.startswith('nextvit_') and arch in ARCHS
    if not ours:
        import timm

        if not timm.is_model(name):
            known = [
                *ROW_MODULES,
                *(f'nextvit_{a}' for a in ARCHS),
                *timm.list_models(),
            ]
            near = difflib.get_close_matches(name[:50], known, 3, 0.5)
            hint = f': did you mean {" or ".join(near)}?' if near else ''
            raise ValueError(
                f'{file.where(*place)}: row 0 {str(row)[:200]}: {name[:50]!r} is no '
                f"module of YOLOv5's, no NextViT and no timm model{hint}"
            )
    where = f'{file.where(*place)}: row 0 {row}'
    if from_ != -1 or number != 1:
        raise ValueError(
            f'{where}: a whole backbone is written [-1, 1, {name}, [False]]'
        )
    weights = args[0] if args else False
    if len(args) > 1 or not isinstance(weights, (bool, str)):
        raise ValueError(
            f'{where}: the argument is False, True (pretrained) or a weights file'
        )
    model.backbone = dict(type='mmdet.NextViT', arch=arch)
    if not ours:
        model.backbone = dict(type='mmdet.TimmFeatures', model_name=name)
    if weights is True:
        weights, model.pretrained = f'timm://{name}', name
    elif weights:
        found = [p for p in (Path(weights), file.path.parent / weights) if p.is_file()]
        if not found:
            raise ValueError(f'{where}: the weights file {weights} does not exist')
        weights = str(found[0].resolve())
    if weights:
        model.backbone['init_cfg'] = dict(type='Pretrained', checkpoint=weights)
    return 4


def _head(file: YAMLFile, model: ImportedModel, number: int, row: list) -> None:
    where = f'{_row(file, model, number)} {str(row)[:200]}'
    if row[2] not in HEADS:
        raise ValueError(f'{where}: the last row is {" or ".join(HEADS)}')
    model.head = row[2]
    sources = [_number(i, number) for i in _sources(row)]
    if not 1 <= len(sources) <= 5 or not all(0 <= i < number for i in sources):
        raise ValueError(f'{where}: a head reads one to five rows before it')
    model.out_rows = tuple(sources)
    args = dict(enumerate(row[3]))
    if args.get(0, 'nc') != 'nc':
        model.num_classes = _count(args[0], where)
    if args.get(1, 'anchors') != 'anchors':
        model.anchors = _anchors(file, args[1])
    if not isinstance(model.anchors, int) and len(model.anchors) != len(sources):
        raise ValueError(
            f'{where}: it reads {len(sources)} rows, but there are anchors for '
            f'{len(model.anchors)} levels at {file.where("anchors")}'
        )
    if model.head == 'Segment':
        masks, protos = args.get(2, 32), args.get(3, 256)
        for value in (masks, protos):
            if type(value) is not int or not 0 < value < 10_000:
                raise ValueError(f'{where}: {value!r} is no count of mask channels')
        width = make_divisible(protos, model.scaling.get('width_multiple', 1.0))
        model.head_args = dict(mask_channels=masks, proto_channels=width)


# ---------------------------------------------------------------------- hyp.yaml

# YOLOv5's key to where its value goes (part of the config, name there) and its range.
HYP = {
    'lr0': ('optimizer', 'lr', 1e-9, 10),
    'momentum': ('optimizer', 'momentum', 0, 0.9999),
    'weight_decay': ('optimizer', 'weight_decay', 0, 1),
    'lrf': ('schedule', 'lr_factor', 0, 1),
    'warmup_epochs': ('schedule', 'warmup_epochs', 0, 1000),
    'warmup_momentum': ('schedule', 'warmup_momentum', 0, 0.9999),
    'warmup_bias_lr': ('schedule', 'warmup_bias_lr', 0, 10),
    'box': ('gain', 'bbox', 0, 1000),
    'cls': ('gain', 'cls', 0, 1000),
    'obj': ('gain', 'obj', 0, 1000),
    'anchor_t': ('head', 'prior_match_thr', 1.01, 1000),
    'hsv_h': ('YOLOv5HSVRandomAug', 'hue_delta', 0, 1),
    'hsv_s': ('YOLOv5HSVRandomAug', 'saturation_delta', 0, 1),
    'hsv_v': ('YOLOv5HSVRandomAug', 'value_delta', 0, 1),
    'degrees': ('YOLOv5RandomAffine', 'max_rotate_degree', 0, 180),
    'translate': ('YOLOv5RandomAffine', 'max_translate_ratio', 0, 1),
    'shear': ('YOLOv5RandomAffine', 'max_shear_degree', 0, 90),
    'scale': ('YOLOv5RandomAffine', 'scaling_ratio_range', 0, 0.99),
    'fliplr': ('mmdet.RandomFlip', 'prob', 0, 1),
    'flipud': ('switch', 'vertical', 0, 1),
    'mosaic': ('switch', 'mosaic', 0, 1),
    'mixup': ('switch', 'mixup', 0, 1),
    'anchors': ('anchors', 'count', 0, 99),
}
# Values with which a key changes nothing; others have no counterpart.
NEUTRAL = {
    'cls_pw': 1, 'obj_pw': 1, 'fl_gamma': 0, 'perspective': 0, 'copy_paste': 0,
    'label_smoothing': 0,
}  # fmt: skip


def read_hyp(file: YAMLFile) -> tuple[dict[str, dict], list[str]]:
    """YOLOv5's hyperparameters by part of the config, and what has no counterpart.

    Raises:
        ValueError: A value is no number, or out of range.
    """
    parts: dict[str, dict] = {}
    notes = []
    for key, value in file.content.items():
        where = f'{file.where(str(key))} {key}: {value}'
        if isinstance(value, str):  # YAML takes 1e-2 for text
            with suppress(ValueError):
                value = float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f'{one_line(where)} is no number')
        if key in HYP:
            part, name, least, most = HYP[key]
            if not least <= value <= most:
                raise ValueError(
                    f'{where} is out of range: {least} to {most} is allowed'
                )
            parts.setdefault(part, {})[name] = float(value)
        elif key == 'iou_t':
            notes.append(f'{where} (YOLOv5 does not use it either)')
        elif NEUTRAL.get(key) != value:
            notes.append(where)
    affine = parts.get('YOLOv5RandomAffine', {})
    if 'scaling_ratio_range' in affine:
        scale = affine['scaling_ratio_range']
        affine['scaling_ratio_range'] = (round(1 - scale, 6), round(1 + scale, 6))
    switch = {'mosaic': 1, 'mixup': 0, **parts.get('switch', {})}
    if 0 < switch['mosaic'] < 1:
        notes.append(f'{file.where("mosaic")} mosaic: {switch["mosaic"]} (here always)')
    if switch['mixup'] and not switch['mosaic']:
        where = f'{file.where("mixup")} mixup: {switch["mixup"]}'
        notes.append(f'{where} (YOLOv5 mixes mosaics only)')
    return parts, notes


# ------------------------------------------------------------------------- config


def config_text(
    model: ImportedModel,
    sources: Sequence[str],
    notes: Sequence[str] = (),
    strides: Sequence[int] = (8, 16, 32),
    hyp: dict[str, dict] | None = None,
    data: str | None = None,
    num_classes: int | None = None,
    img_size: int = 640,
    epochs: int = 300,
    batch_size: int = 16,
    normalisation: dict | None = None,
    load_from: str | None = None,
) -> str:
    """The config as text, of at most 80 lines, that inherits from ours.

    Args:
        model: What :func:`read_model` gave.
        sources: Files that it comes from.
        notes: What has no counterpart.
        strides: Strides of the head's levels in pixels.
        hyp: What :func:`read_hyp` gave.
        data: A data.yaml.
        num_classes: Classes of the data; the model's without.
        img_size: Side of the square that images are fitted into, in pixels.
        epochs: Length of the training.
        batch_size: Images a process and iteration.
        normalisation: ``mean`` and ``std`` of the images in 0..255.
        load_from: Weights to begin with.
    """
    hyp = hyp or {}
    classes = num_classes or model.num_classes
    levels = len(model.out_rows)
    segments = model.head == 'Segment'
    recipe = '_base_/yolov5_ins_recipe' if segments else '_base_/yolov5_recipe'
    gain = {'cls': 0.5, 'bbox': 0.05, 'obj': 1.0, **hyp.get('gain', {})}
    weights = {
        'cls': gain['cls'] * classes / 80 * 3 / levels,
        'bbox': gain['bbox'] * 3 / levels,
        'obj': gain['obj'] * (img_size / 640) ** 2 * 3 / levels,
    }
    outputs = model.num_anchors * (classes + 5)
    scaling = _call({**model.scaling, 'num_outputs': outputs})

    lines = [f'# From {one_line(", ".join(sources))}, by tools/import_yolov5.py']
    lines += [f'# No counterpart: {one_line(note)}' for note in notes[:MAX_NOTES]]
    if len(notes) > MAX_NOTES:
        lines += [f'# and {len(notes) - MAX_NOTES} more, which the import has printed']
    base = f"_base_ = __import__('mmnextvit').config_file({recipe!r})"
    lines += [base, '', f'img_scale = ({img_size}, {img_size})']
    if load_from:
        lines += [f'load_from = {load_from!r}']
    lines += [f'scaling = {scaling}', 'ROWS']
    if model.backbone_rows:
        backbone = (
            "dict(type='YOLOv5YAMLBackbone', rows=backbone_rows, "
            f'out_rows={model.in_rows}, **scaling)'
        )
    else:
        arguments = _call(model.backbone).removesuffix(')')
        backbone = f'{arguments}, norm_cfg={NORM})'
    backbone = backbone.replace('dict(', 'dict(_delete_=True, ', 1)
    threshold = hyp.get('head', {}).get('prior_match_thr', 4.0)
    module = _call(
        dict(_delete_=True, type=HEADS[model.head], num_classes=classes,
             **model.head_args)
    )  # fmt: skip
    priors = "dict(_delete_=True, type='mmdet.YOLOAnchorGenerator', base_sizes=anchors)"
    lines += [f'anchors = {model.anchors}  # a level; width and height in pixels']
    lines += ['model = dict(', "    type='FittedYOLODetector',"]
    if normalisation:
        lines += [f'    data_preprocessor={_call(normalisation)},']
    lines += [
        f'    backbone={backbone},',
        "    neck=dict(_delete_=True, type='YOLOv5YAMLNeck', rows=neck_rows, "
        f'out_rows={model.out_rows}, **scaling),',
        '    bbox_head=dict(',
        f'        head_module={module},',
        f'        prior_generator={priors},',
        f'        obj_level_weights={level_weights(levels)},',
        f'        prior_match_thr={threshold},',
        *(
            f'        loss_{name}=dict(loss_weight={round(weight, 8)}),'
            for name, weight in weights.items()
        ),
        *[f'        loss_mask_weight={round(weights["bbox"], 8)},'] * segments,
        '    ),',
        ')',
        *_pipelines(hyp, img_size),
        *_loaders(data, batch_size, max(strides), img_size, segments),
    ]
    optimizer = {**hyp.get('optimizer', {}), 'batch_size_per_gpu': batch_size}
    schedule = {'max_epochs': epochs, 'warmup_mim_iter': 100, **hyp.get('schedule', {})}
    lines += [
        f'optim_wrapper = dict(optimizer={_call(optimizer)})',
        f'default_hooks = dict(param_scheduler={_call(schedule)})',
        f'train_cfg = dict(max_epochs={epochs})',
    ]
    return _with_rows(lines, model)


def _call(arguments: dict) -> str:
    items = (
        f'{k}={_call(v) if isinstance(v, dict) else repr(v)}'
        for k, v in arguments.items()
    )
    return f'dict({", ".join(items)})'


def _pipelines(hyp: dict[str, dict], img_size: int) -> list[str]:
    """Pipelines of the recipe with another size and other strengths."""
    switches = {'mosaic': 1, 'mixup': 0, 'vertical': 0, **hyp.get('switch', {})}
    half = -img_size // 2
    border = (half, half) if switches['mosaic'] else (0, 0)
    changed = {
        'Mosaic': 'dict(img_scale=img_scale)',
        'YOLOv5RandomAffine': _call(
            dict(border=border, **hyp.get('YOLOv5RandomAffine', {}))
        ),
        'YOLOv5KeepRatioResize': 'dict(scale=img_scale)',
        'LetterResize': 'dict(scale=img_scale)',
        **{
            name: _call(hyp[name])
            for name in ('YOLOv5HSVRandomAug', 'mmdet.RandomFlip')
            if name in hyp
        },
    }
    lines = ['changed = {', *(f'    {k!r}: {v},' for k, v in changed.items()), '}']
    for name in ('train', 'test'):
        lines.append(
            f"{name}_pipeline = [{{**t, **changed.get(t['type'], {{}})}} for t in "
            f'_base_.{name}_pipeline]'
        )
    lines.append("test_pipeline[-1]['meta_keys'] += ('instances',)  # for the metric")
    if not switches['mosaic']:
        resize = 'dict(test_pipeline[2], allow_scale_up=True)'
        lines.append(f'train_pipeline[2:3] = [test_pipeline[1], {resize}]')
    elif switches['mixup']:
        mixup = f"dict(type='YOLOv5MixUp', prob={switches['mixup']}"
        lines.append(
            f'train_pipeline.insert(4, {mixup}, pre_transform=train_pipeline[:4]))'
        )
    if switches['vertical']:
        flip = f"dict(type='mmdet.RandomFlip', prob={switches['vertical']}"
        lines.append(f"train_pipeline.insert(-1, {flip}, direction='vertical'))")
    return lines


def _loaders(
    data: str | None, batch_size: int, divisor: int, img_size: int, polygons: bool
) -> list[str]:
    shapes = f'dict(img_size={img_size}, size_divisor={divisor})'
    train, val = (
        'pipeline=train_pipeline',
        f'pipeline=test_pipeline, batch_shapes_cfg={shapes}',
    )
    if data is None:
        return [
            f'train_dataloader = dict(batch_size={batch_size}, dataset=dict({train}))',
            f'val_dataloader = test_dataloader = dict(dataset=dict({val}))',
        ]
    kind = (
        "data = dict(type='VerifiedYOLOTxtDataset', data_root='', ann_file="
        f'{data!r}{", polygons=True" * polygons}, data_prefix=dict(_delete_=True))'
    )
    return [
        kind,
        f"train = dict(**data, split='train', {train})",
        f'train_dataloader = dict(batch_size={batch_size}, dataset=train)',
        f"val = dict(**data, split='val', {val})",
        'val_dataloader = test_dataloader = dict(dataset=val)',
        'val_evaluator = test_evaluator = dict(ann_file=None)',
    ]


def _with_rows(lines: list[str], model: ImportedModel, most: int = 80) -> str:
    """Puts the rows in, one a line where the whole is at most ``most`` lines long."""
    first = len(model.backbone_rows) or 5
    tables = {'neck_rows': (model.neck_rows, first)}
    if model.backbone_rows:
        tables = {'backbone_rows': (model.backbone_rows, 0), **tables}
    for wide in (0, 86):
        written = []
        for name, (rows, number) in tables.items():
            packed = ['']
            for i, row in enumerate(rows, number):
                if packed[-1] and len(packed[-1]) + len(f'{row}, ') > wide:
                    packed.append('')
                packed[-1] += f'{row}, ' if wide else f'{row},  # {i}'
            written += [f'{name} = [', *(f'    {p.rstrip()}' for p in packed), ']']
        at = lines.index('ROWS')
        text = [*lines[:at], *written, *lines[at + 1 :]]
        if len(text) <= most:
            break
    return '\n'.join(text) + '\n'
