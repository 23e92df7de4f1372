"""YOLOv5's model YAML as plain data, with the line of each row."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from ..models.map_numbers import NUM_MAPS, ROW_SHIFT, get_map_stride
from ..models.nextvit import ARCHS
from ..models.yolov5_graph import MAX_PARAMETERS, count_parameters
from ..models.yolov5_row_rules import (
    HEADS,
    check_multiple,
    make_divisible,
    parse_activation,
)
from ..models.yolov5_rows import MAX_NUMBER, ROW_RULES
from ..models.yolov5_unknown import describe_unknown
from ..utils.color_types import COLOR_TYPES
from ..utils.errors import MissingFileError, UserError
from ..utils.messages import first_few, tell
from ..utils.render import is_plain
from ..utils.yaml_reader import YAMLFile
from .notes import Note

HEAD_DEFAULTS = 'nc', 'anchors', 32, 256
TEXTS = {'None': None, 'True': True, 'False': False}  # what YOLOv5 would evaluate
SCALING: dict[str, Callable[[Any], object]] = {
    'depth_multiple': check_multiple,
    'width_multiple': check_multiple,
    'activation': parse_activation,
}
MODEL_KEYS = {'nc', 'anchors', 'backbone', 'head', 'ch', *SCALING}
RGB = 3  # channels of images, where a YAML says nothing
MAX_CLASSES = 100_000  # exclusive, as are the next three
MAX_ANCHORS = 100
MAX_SIDE = 1e5  # of an anchor, in pixels
MAX_MASK_CHANNELS = 10_000
MAX_LEVELS = 5
OUR_BACKBONES = 'mmdet.NextViT', 'mmdet.TimmFeatures'
FIRST_EMITTED = 1  # number of the first map that TimmFeatures emits by itself

Anchors = Sequence[Sequence[tuple[float, float]]] | int


@dataclass(frozen=True)
class Row:
    """A row of the YAML.

    Attributes:
        number: Its number in the model.
        content: ``[from, number, module, args]``.
        file: The YAML.
        line: The row's line in it.
    """

    number: int
    content: list
    file: Path
    line: int | None

    @property
    def module(self) -> str:
        return self.content[2]

    @property
    def args(self) -> list:
        return self.content[3]

    @property
    def is_output(self) -> bool:
        """Whether it is a head's convolution, which YOLOv5 v1 and v2 have as a row."""
        return (
            self.module == 'nn.Conv2d'
            and bool(self.args)
            and isinstance(self.args[0], str)
        )

    @property
    def sources(self) -> list[int]:
        """Numbers of the rows that it reads; -1 for what is not a row's number."""
        from_ = self.content[0]
        return [
            self._resolve_source(i)
            for i in (from_ if isinstance(from_, list) else [from_])
        ]

    def _resolve_source(self, from_: object) -> int:
        if isinstance(from_, bool) or not isinstance(from_, int):
            return -1  # the interpreter of rows names the row
        return from_ if from_ >= 0 else self.number + from_

    def error(self, problem: str) -> UserError:
        """An error about the row, to be raised."""
        return UserError(
            f'{str(self.content)[:200]}: {problem}',
            file=self.file,
            line=self.line,
            row=self.number,
        )


@dataclass(frozen=True)
class ImportedModel:
    """A model YAML, resolved.

    Attributes:
        file: The YAML.
        num_classes: The YAML's ``nc``.
        anchors: (width, height) in pixels by level, or a count per level.
        head: 'Detect' or 'Segment'.
        out_rows: Numbers of the maps that the head reads.
        head_args: ``mask_channels`` and ``proto_channels`` of a 'Segment'.
        neck_rows: The rows between backbone and head.
        first_neck_row: Number of the first of them.
        backbone_rows: Rows from the image on; empty behind a whole backbone.
        in_rows: Numbers of the backbone's rows that the neck reads; empty likewise.
        backbone: Arguments of a whole backbone, with its ``type``.
        pretrained: timm's name of the model whose mean and std the weights need.
        scaling: ``depth_multiple``, ``width_multiple``, ``activation``.
        in_channels: Channels of the images; the YAML's ``ch``.
        notes: What has no counterpart.
        lines: The line of each row in the YAML, by its number.
    """

    file: YAMLFile
    num_classes: int
    anchors: Anchors
    head: str
    out_rows: tuple[int, ...]
    head_args: Mapping[str, int]
    neck_rows: Sequence[list]
    first_neck_row: int
    backbone_rows: Sequence[list] = ()
    in_rows: tuple[int, ...] = ()
    backbone: Mapping[str, object] = field(default_factory=dict)
    pretrained: str | None = None
    scaling: Mapping[str, object] = field(default_factory=dict)
    in_channels: int = RGB
    notes: tuple[Note, ...] = ()
    lines: Mapping[int, int | None] = field(default_factory=dict)

    @property
    def num_anchors(self) -> int:
        """Anchors per level."""
        anchors = self.anchors
        return anchors if isinstance(anchors, int) else len(anchors[0])

    @property
    def predicts_masks(self) -> bool:
        return self.head == 'Segment'

    def add_line(self, error: UserError) -> UserError:
        """An error that the built model raised, with its file and line in the YAML.

        An error about no row is one about the backbone or, where it names
        ``out_rows``, about the head.
        """
        row = error.row
        if row is None or row not in self.lines:
            row = max(self.lines) if error.key == 'out_rows' else min(self.lines)
        error.file, error.line = self.file.path, self.lines[row]
        return error


def read_model(file: YAMLFile, is_trained: bool = False) -> ImportedModel:
    """A YOLOv5 model YAML, with its backbone in rows or as a whole model.

    Args:
        file: The YAML.
        is_trained: Whether trained weights take the place of those that row 0 names.

    Raises:
        UserError: It is not such a YAML; the error has file, line and row.
    """
    for key in ('nc', 'anchors', 'backbone', 'head'):
        if key not in file.content:
            raise file.error(f'it has no {key}, so it is not a YOLOv5 model')
    num_classes = _read_classes(file)
    anchors = _read_anchors(file, file.content['anchors'])
    scaling = _read_scaling(file)
    *rows, head = _read_rows(file)
    num_backbone_rows = len(file.content['backbone'])
    _check_modules([*rows, head])
    whole = _read_whole_backbone((*rows, head)[0], file.path.parent, is_trained)
    if whole:  # its maps have the numbers before those of the rows behind it
        num_backbone_rows = 1
        *rows, head = [replace(r, number=r.number + ROW_SHIFT) for r in (*rows, head)]
    for row in rows:
        if row.module in HEADS:
            raise row.error(f'{row.module} must be the last row')
    if head.module not in HEADS:
        raise head.error(f'the last row is {" or ".join(HEADS)}')
    if head.content[0] == []:
        rows, head = _take_in_output_rows(rows, head)
    num_classes, anchors = _read_head_outputs(file, head, num_classes, anchors)
    backbone, neck = rows[:num_backbone_rows], rows[num_backbone_rows:]
    read = {source for row in (*neck, head) for source in row.sources}
    parts: dict[str, Any]
    if whole:
        parts = dict(backbone=whole.build_config(read), pretrained=whole.pretrained)
    else:
        last = num_backbone_rows - 1
        in_rows = sorted({i for i in read if 0 <= i < last} | {last})
        backbone_rows = [row.content for row in backbone]
        parts = dict(backbone_rows=backbone_rows, in_rows=tuple(in_rows))
    return ImportedModel(
        file=file,
        num_classes=num_classes,
        anchors=anchors,
        head=head.module,
        out_rows=tuple(head.sources),
        head_args=_read_mask_channels(head, scaling.get('width_multiple', 1.0)),
        neck_rows=[row.content for row in neck],
        first_neck_row=backbone[-1].number + 1,
        scaling=scaling,
        in_channels=read_channels(file),
        notes=_list_notes(file),
        lines={row.number: row.line for row in (*rows, head)},
        **parts,
    )


def _list_notes(file: YAMLFile) -> tuple[Note, ...]:
    """The keys that no part of the import reads."""
    return tuple(
        Note.about(file, key, value)
        for key, value in file.content.items()
        if key not in MODEL_KEYS
    )


def _read_classes(file: YAMLFile) -> int:
    count = file.content['nc']
    if not _is_count(count, MAX_CLASSES):
        raise file.error(f'the number of classes is {str(count)[:80]}', 'nc')
    return count


def read_channels(file: YAMLFile) -> int:
    """Channels of the images of a model.

    Raises:
        UserError: None of our detectors takes as many.
    """
    count = file.content.get('ch', RGB)
    if type(count) is not int or count not in COLOR_TYPES:
        text = str(count)[:80]
        raise file.error(
            f'the model is of images of {text} channels, and ours have '
            f'{", ".join(map(str, COLOR_TYPES))}',
            'ch',
        )
    return count


def _read_scaling(file: YAMLFile) -> dict[str, Any]:
    """Depth multiple, width multiple and activation, where the YAML has them."""
    scaling = {k: file.content[k] for k in SCALING if file.content.get(k) is not None}
    for key, value in scaling.items():
        try:
            SCALING[key](value)
        except UserError as error:
            error.file, error.line, error.key = file.path, file.find_line(key), key
            raise
    return scaling


def _read_rows(file: YAMLFile) -> list[Row]:
    """The rows of backbone and head, numbered from 0."""
    rows: list[Row] = []
    for part in ('backbone', 'head'):
        contents = file.content[part]
        if not isinstance(contents, list) or not contents:
            raise file.error('it is not a list of rows', part)
        for i, content in enumerate(contents):
            row = Row(len(rows), content, file.path, file.find_line(part, i))
            rows.append(_check_row(row))
    return rows


def _check_row(row: Row) -> Row:
    """A row with its arguments as a list of values.

    Raises:
        UserError: It is not a row.
    """
    if not isinstance(row.content, list) or len(row.content) != 4:
        raise row.error('a row is [from, number, module, args]')
    from_, number, name, args = row.content
    if not isinstance(name, str) or not is_plain(row.content):
        raise row.error(
            'a module is named by a text, and arguments are numbers, texts, None, True '
            'or False'
        )
    args = args if isinstance(args, list) else [args]
    args = [_read_text(arg) for arg in args]
    return replace(row, content=[from_, number, name, args])


def _take_in_output_rows(rows: Sequence[Row], head: Row) -> tuple[list[Row], Row]:
    """Rows and head as since YOLOv5 v3, whose ``Detect`` has its own convolutions.

    In v1 and v2 these are rows, ``[-1, 1, nn.Conv2d, [na * (nc + 5), 1, 1]]``, which
    ``[[], 1, Detect, ...]`` reads from the last to the first.

    Args:
        rows: All rows but the head's.
        head: The head's row, which names no rows that it reads.

    Raises:
        UserError: Another row reads such a row.
    """
    outputs = {row.number: row.sources[0] for row in rows if row.is_output}
    kept = [row for row in rows if row.number not in outputs]
    first = rows[0].number
    numbers = {row.number: first + i for i, row in enumerate(kept)}

    def renumber(row: Row, sources: Sequence[int]) -> Row:
        number = numbers.get(row.number, first + len(kept))
        read = [numbers.get(source, source) for source in sources]
        read = [-1 if source == number - 1 else source for source in read]
        from_ = read if isinstance(row.content[0], list) else read[0]
        return replace(row, number=number, content=[from_, *row.content[1:]])

    for row in kept:
        if outputs.keys() & set(row.sources):
            raise row.error('it reads a row of outputs, which is part of the Detect')
    sources = [outputs[number] for number in sorted(outputs, reverse=True)]
    return [renumber(row, row.sources) for row in kept], renumber(head, sources)


def _read_text(value: Any) -> Any:
    """A value as YOLOv5 means it, also inside a mapping."""
    if isinstance(value, dict):
        return {key: _read_text(item) for key, item in value.items()}
    return TEXTS.get(value, value) if isinstance(value, str) else value


def _check_modules(rows: Sequence[Row]) -> None:
    """Checks that every row's module is known.

    Raises:
        UserError: Some are not: all are named with their rows and lines, and the
            error's row is the first of them.
    """
    unknown = [
        row
        for row in rows
        if row.module not in (*ROW_RULES, *HEADS)
        and not row.is_output
        and not (row.number == 0 and _find_backbone(row.module))
    ]
    if not unknown:
        return
    known = {*ROW_RULES, *HEADS}
    is_first = unknown[0].number == 0
    if is_first:
        import timm

        known |= {f'nextvit_{arch}' for arch in ARCHS} | {*timm.list_models()}
    places: dict[str, list[str]] = {}
    for row in unknown:
        line = f' in line {row.line}' if row.line else ''
        places.setdefault(row.module, []).append(f'{row.number}{line}')
    problem = describe_unknown(places, known, ROW_RULES)
    if is_first:
        problem += ' Row 0 may also be a NextViT, or a model of timm or MMDetection.'
    raise unknown[0].error(problem)


def _is_count(value: object, below: int) -> TypeGuard[int]:
    return type(value) is int and 0 < value < below


def _read_anchors(file: YAMLFile, anchors: Any) -> Anchors:
    """Anchors as pairs by level, or the count."""
    if _is_count(anchors, MAX_ANCHORS):
        return anchors
    try:
        levels = [[float(side) for side in level] for level in anchors]
    except (TypeError, ValueError, OverflowError):
        levels = []
    lengths = {len(level) for level in levels}
    allowed = range(2, 2 * MAX_ANCHORS, 2)
    good = len(lengths) == 1 and lengths <= {*allowed}
    if not good or not all(0 < side < MAX_SIDE for level in levels for side in level):
        raise file.error(
            'write a count, or for each level as many pairs of width and height in '
            f'pixels, fewer than {MAX_ANCHORS}, as in [10,13, 16,30, 33,23]',
            'anchors',
        )
    short = [[_shorten(side) for side in level] for level in levels]
    return [list(zip(level[::2], level[1::2])) for level in short]


def _shorten(side: float) -> float | int:
    return int(side) if side == int(side) else round(side, 3)


@dataclass(frozen=True)
class WholeBackbone:
    """A NextViT, a timm model or one that is registered in MMDetection, in row 0.

    Attributes:
        config: Its arguments, with its ``type``.
        pretrained: timm's name where its pretrained weights are wanted.
    """

    config: Mapping[str, object]
    pretrained: str | None = None

    def build_config(self, read: Collection[int]) -> dict[str, object]:
        """Its arguments where rows read the maps of these numbers.

        The document's rows are given all maps; layers behind those that no row reads
        would not learn.
        """
        config = dict(self.config)
        first = min(i for i in (*read, NUM_MAPS - 1) if i >= 0)
        if config['type'] == 'mmdet.TimmFeatures' and first != FIRST_EMITTED:
            config['strides'] = tuple(map(get_map_stride, range(first, NUM_MAPS)))
        return config


def _read_whole_backbone(
    row: Row, folder: Path, is_trained: bool
) -> WholeBackbone | None:
    """The whole backbone that row 0 names; ``None`` if it names a module.

    Args:
        row: Row 0, as in ``[-1, 1, nextvit_small, [False]]`` or
            ``[-1, 1, mmdet.ResNet, [False, {depth: 50}]]``.
        folder: Where a weights file is looked for, beside the working folder.
        is_trained: Whether none is needed.

    Raises:
        UserError: It has other arguments, or cannot be built from them.
    """
    name = row.module
    if name in ROW_RULES:
        return None
    config = _find_backbone(name)
    if config is None:
        return None
    if row.content[:2] != [-1, 1]:
        raise row.error(f'a whole backbone is written [-1, 1, {name}, [False]]')
    args = list(row.args)
    arguments = args.pop() if args and isinstance(args[-1], dict) else {}
    weights = args[0] if args else False
    if len(args) > 1 or not isinstance(weights, (bool, str)):
        raise row.error(
            'the argument is False, True (pretrained) or a weights file; others stand '
            'behind it by name, as in [False, {depth: 50}]'
        )
    if wrong := arguments.keys() & {'type', 'init_cfg'}:
        raise row.error(
            f'{sorted(wrong)[0]} is no argument here: the module is the type, and the '
            'weights are the first argument'
        )
    is_theirs = config['type'] not in OUR_BACKBONES
    if is_theirs and weights is True:
        raise row.error(
            f'no weights are known of {name}: write a file or an address, as in '
            "['torchvision://resnet50', {depth: 50}], or False"
        )
    config |= arguments
    if is_theirs or arguments:
        _try_backbone(row, config)
    if not weights or is_trained:
        return WholeBackbone(config)
    if weights is True:
        checkpoint, pretrained = f'timm://{name}', name
    else:
        checkpoint, pretrained = _find_weights_file(row, weights, folder), None
    config['init_cfg'] = dict(type='Pretrained', checkpoint=checkpoint)
    return WholeBackbone(config, pretrained)


def _find_backbone(name: str) -> dict[str, object] | None:
    """What a config says of the whole backbone of this name, if there is one."""
    import timm
    from mmdet.registry import MODELS

    arch = name.removeprefix('nextvit_')
    if name.startswith('nextvit_') and arch in ARCHS:
        return dict(type='mmdet.NextViT', arch=arch)
    if timm.is_model(name):
        return dict(type='mmdet.TimmFeatures', model_name=name)
    plain = name.removeprefix('mmdet.')
    if '.' not in plain and MODELS.get(plain) is not None:
        return dict(type=f'mmdet.{plain}')
    return None


def _try_backbone(row: Row, config: Mapping[str, object]) -> None:
    """Builds a backbone of MMDetection's without weights.

    Raises:
        UserError: It cannot be built, is too large, or gives no feature maps.
    """
    import torch
    from mmdet.registry import MODELS

    from ..models.detector import find_outputs

    try:
        if (number := _find_large_number(config)) is not None:
            raise UserError(f'{number} is not within +-{MAX_NUMBER}')
        # Without memory first. Some cannot be built so: they compute numbers.
        with suppress(NotImplementedError, RuntimeError), torch.device('meta'):
            if count_parameters(MODELS.build(dict(config))) > MAX_PARAMETERS:
                raise UserError(f'it has more than {MAX_PARAMETERS:,} parameters')
        find_outputs(MODELS.build(dict(config)))
    except Exception as error:  # whatever its constructor raises
        problem = f'{row.module} cannot be built: {tell(error)}'
        raise row.error(problem) from error


def _find_large_number(value: object) -> object:
    """A number in a backbone's arguments that no width or depth can be, or ``None``."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return next((n for n in map(_find_large_number, value) if n is not None), None)
    if isinstance(value, (int, float)) and not -MAX_NUMBER <= value <= MAX_NUMBER:
        return value
    return None


def _find_weights_file(row: Row, name: str, folder: Path) -> str:
    if '://' in name:
        return name
    for path in (Path(name), folder / name):
        if path.is_file():
            return str(path.resolve())
    raise MissingFileError(
        f'{row.content}: the weights file {name} does not exist',
        file=row.file,
        line=row.line,
        row=row.number,
    )


def _read_head_outputs(
    file: YAMLFile, head: Row, num_classes: int, anchors: Anchors
) -> tuple[int, Anchors]:
    """The head's classes and anchors, which its arguments may replace.

    Raises:
        UserError: They or the rows that it reads are wrong.
    """
    levels = len(head.sources)
    if not 1 <= levels <= MAX_LEVELS:
        raise head.error(f'a head reads one to {MAX_LEVELS} rows, not {levels}')
    outside = [i for i in head.sources if not 0 <= i < head.number]
    if outside:
        raise head.error(
            f'it reads {first_few(outside)}, and a head reads rows before it: 0 to '
            f'{head.number - 1}'
        )
    classes_arg, anchors_arg = _fill_defaults(head.args)[:2]
    if classes_arg != 'nc':
        if not _is_count(classes_arg, MAX_CLASSES):
            raise head.error(f'the number of classes is {str(classes_arg)[:80]}')
        num_classes = classes_arg
    if anchors_arg != 'anchors':
        anchors = _read_anchors(file, anchors_arg)
    if not isinstance(anchors, int) and len(anchors) != levels:
        raise head.error(
            f'it reads {levels} rows, but there are anchors for {len(anchors)} levels '
            f'at {file.describe_place("anchors")}'
        )
    return num_classes, anchors


def _fill_defaults(args: Sequence) -> list:
    """A head's four arguments: classes, anchors, mask channels, prototype channels."""
    return [*args[:4], *HEAD_DEFAULTS[len(args) :]]


def _read_mask_channels(head: Row, width_multiple: float) -> dict[str, int]:
    """Arguments of a head that predicts masks; none of another."""
    if head.module != 'Segment':
        return {}
    masks, protos = _fill_defaults(head.args)[2:]
    for value in (masks, protos):
        if not _is_count(value, MAX_MASK_CHANNELS):
            raise head.error(f'{value!r} is not a count of mask channels')
    return dict(
        mask_channels=masks, proto_channels=make_divisible(protos, width_multiple)
    )
