"""The interpreter of YOLOv5's model rows ``[from, number, module, args]``.

A YOLOv5 YAML describes a network as a list of rows. The rules (which map ``from``
means, how depth, width and repeats scale) are those that YOLOv5 documents for its YAML
files. A row is parsed by itself (:class:`Row`), placed among the maps before it
(:class:`PlacedRow`), and built. Nothing here needs MMYOLO.
"""

import ast
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any, NamedTuple, cast

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.messages import did_you_mean
from . import yolov5_modules as m

# torch.nn classes that a YAML's ``activation:`` may name: mmcv's name for each, and the
# argument that it takes.
ACTIVATIONS = {
    'SiLU': ('SiLU', None),
    'ReLU': ('ReLU', None),
    'ReLU6': ('ReLU6', None),
    'LeakyReLU': ('LeakyReLU', 'negative_slope'),
    'Hardswish': ('HSwish', None),
    'GELU': ('GELU', None),
}

# Far above every published YAML; what a slip or malice writes is refused in time.
MAX_ROWS = 500
MAX_REPEATS = 1000  # in all rows together
MAX_NUMBER = 1 << 15  # a row's argument, such as a width or a kernel
MAX_PARAMETERS = 10**9
MIN_STRIDE, MAX_STRIDE = Fraction(1, 8), Fraction(1024)
MAX_TEXT = 200  # characters of a row in a message
UPSAMPLE_MODES = ('nearest', 'nearest-exact', 'bilinear', 'bicubic')


class FeatureMap(NamedTuple):
    """A map as it is known before it is computed."""

    channels: int
    stride: Fraction  # pixels of the image a cell


class RowError(UserError):
    """What is wrong with a row of YOLOv5's YAML; ``row`` is its number."""


def row_error(number: int, row: object, problem: str) -> RowError:
    """The error about a row, with the row as it is written."""
    text = str(row)
    text = text if len(text) <= MAX_TEXT else f'{text[:MAX_TEXT]}…'
    return RowError(f'{text}: {problem}', row=number)


@dataclass(frozen=True)
class Row:
    """A row as it is written, checked by itself.

    Attributes:
        number: Its number in the YAML.
        from_: Numbers of the maps that it reads, relative ones below 0.
        repeats: Its ``number``, before it is scaled.
        module: Name in :data:`ROW_MODULES`.
        args: Arguments of the module.
    """

    number: int
    from_: tuple[int, ...]
    repeats: int
    module: str
    args: list

    def arg(self, i: int, default: Any) -> Any:
        """Argument ``i``, or ``default`` where it is left out."""
        return self.args[i] if len(self.args) > i else default

    def error(self, problem: str) -> RowError:
        """The error about this row."""
        many = ROW_MODULES[self.module].many_inputs
        from_ = list(self.from_) if many else self.from_[0]
        text = f'[{from_}, {self.repeats}, {self.module}, {self.args}]'
        return row_error(self.number, text, problem)


@dataclass(frozen=True)
class PlacedRow(Row):
    """A row among the maps before it: what its module is built from.

    Attributes:
        sources: Numbers of the maps that it reads.
        inputs: Channels and strides of these maps.
        out_channels: Channels of the map that it computes.
        copies: How often its module or the module's inner block stands one after
            another: ``repeats`` times the depth multiple.
    """

    sources: list[int]
    inputs: list[FeatureMap]
    out_channels: int
    copies: int

    @property
    def in_channels(self) -> int:
        """Channels of the first map that it reads."""
        return self.inputs[0].channels


@dataclass(frozen=True)
class Scaling:
    """What scales all rows alike.

    Attributes:
        depth_multiple: Scales ``number`` where it is above 1.
        width_multiple: Scales output channels, rounded up to a multiple of 8.
        num_outputs: The head's channels; a row of exactly so many is not scaled.

    Raises:
        UserError: A multiple is out of range.
    """

    depth_multiple: float = 1.0
    width_multiple: float = 1.0
    num_outputs: int | None = None

    def __post_init__(self) -> None:
        for key in ('depth_multiple', 'width_multiple'):
            check_multiple(getattr(self, key), key)


# Channel rules: from a row, its inputs and the scaling to the output's channels.


def scale_width(row: Row, inputs: Sequence[FeatureMap], scaling: Scaling) -> int:
    """The first argument times the width multiple, rounded up to a multiple of 8.

    Unscaled where it is the number of the head's outputs, as in YOLOv5.
    """
    width = row.args[0]
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise TypeError(width)
    if width == scaling.num_outputs:
        return width
    return make_divisible(width, scaling.width_multiple)


def make_divisible(width: int, multiple: float) -> int:
    """``width * multiple``, rounded up to a multiple of 8."""
    return math.ceil(width * multiple / 8) * 8


def keep_width(row: Row, inputs: Sequence[FeatureMap], scaling: Scaling) -> int:
    """As many channels as come in."""
    return inputs[0].channels


def sum_widths(row: Row, inputs: Sequence[FeatureMap], scaling: Scaling) -> int:
    """As many channels as all inputs have together."""
    return sum(x.channels for x in inputs)


def contract_width(row: Row, inputs: Sequence[FeatureMap], scaling: Scaling) -> int:
    """Channels times the square of the gain."""
    return inputs[0].channels * row.arg(0, 2) ** 2


def expand_width(row: Row, inputs: Sequence[FeatureMap], scaling: Scaling) -> int:
    """Channels divided by the square of the gain."""
    gain, channels = row.arg(0, 2), inputs[0].channels
    if gain < 1 or channels % gain**2:
        raise row.error(f'{channels} channels do not divide by {gain}**2')
    return channels // gain**2


# Stride rules: from a row to the factor by which it multiplies the stride.


def read_stride(i: int, times: int = 1) -> Callable[[Row], Fraction]:
    """The row's argument ``i``, 1 where it is left out."""
    return lambda row: times * Fraction(row.arg(i, 1))


def invert_stride(i: int, default: int = 1) -> Callable[[Row], Fraction]:
    """One over the row's argument ``i``."""
    return lambda row: 1 / Fraction(row.arg(i, default))


def read_upsample_stride(row: Row) -> Fraction:
    """One over the scale factor."""
    size, scale = row.arg(0, None), row.arg(1, None)
    if size is not None or not scale:
        raise row.error('give a scale factor, as in [None, 2, nearest], not a size')
    return 1 / Fraction(scale)


def read_pool_stride(row: Row) -> Fraction:
    """The stride, which is the kernel where it is left out."""
    stride = row.arg(1, None)
    return Fraction(row.args[0] if stride is None else stride)


# Builders: from a placed row and the config of its layers to its module.

Builder = Callable[[PlacedRow, dict], nn.Module]


def build_from_width(module: Callable) -> Builder:
    """Builds ``module(in, out, arguments after the width, layers=...)``."""

    def build(row: PlacedRow, layers: dict) -> nn.Module:
        return module(row.in_channels, row.out_channels, *row.args[1:], layers=layers)

    return build


def build_from_width_and_repeats(module: Callable) -> Builder:
    """The same with the row's scaled ``number`` as third argument."""

    def build(row: PlacedRow, layers: dict) -> nn.Module:
        widths = row.in_channels, row.out_channels
        return module(*widths, row.copies, *row.args[1:], layers=layers)

    return build


def build_plain(module: Callable) -> Builder:
    """Builds ``module(*arguments)``."""
    return lambda row, layers: module(*row.args)


def build_plain_from_width(module: Callable) -> Builder:
    """Builds ``module(in, out, arguments after the width)``."""
    return lambda row, layers: module(row.in_channels, row.out_channels, *row.args[1:])


def build_norm(row: PlacedRow, layers: dict) -> nn.Module:
    """Builds a BatchNorm of as many channels as come in."""
    return build_norm_layer(layers['norm_cfg'], row.in_channels)[1]


@dataclass(frozen=True)
class RowModule:
    """How one module name of the YAML is read.

    Args:
        build: Builder of the module.
        width: Channel rule.
        stride: Factor by which the row multiplies the stride.
        many_inputs: Whether it takes a list of maps.
        takes_repeats: Whether ``number`` repeats blocks inside the module, rather
            than the module as a whole.
    """

    build: Builder
    width: Callable[[Row, Sequence[FeatureMap], Scaling], int] = scale_width
    stride: Callable[[Row], Fraction] = lambda row: Fraction(1)
    many_inputs: bool = False
    takes_repeats: bool = False


def describe_csp(module: Callable) -> RowModule:
    """How a CSP module is read."""
    return RowModule(build_from_width_and_repeats(module), takes_repeats=True)


ROW_MODULES: dict[str, RowModule] = {
    'Conv': RowModule(build_from_width(m.conv), stride=read_stride(2)),
    'DWConv': RowModule(build_from_width(m.dw_conv), stride=read_stride(2)),
    'GhostConv': RowModule(build_from_width(m.GhostConv), stride=read_stride(2)),
    'CrossConv': RowModule(build_from_width(m.CrossConv), stride=read_stride(2)),
    'MixConv2d': RowModule(build_from_width(m.MixConv2d), stride=read_stride(2)),
    'Focus': RowModule(build_from_width(m.Focus), stride=read_stride(2, times=2)),
    'Bottleneck': RowModule(build_from_width(m.Bottleneck)),
    'GhostBottleneck': RowModule(
        build_from_width(m.GhostBottleneck), stride=read_stride(2)
    ),
    'SPP': RowModule(build_from_width(m.SPP)),
    'SPPF': RowModule(build_from_width(m.SPPF)),
    'C3SPP': RowModule(build_from_width(m.C3SPP)),
    'BottleneckCSP': describe_csp(m.BottleneckCSP),
    'C3': describe_csp(m.C3),
    'C3TR': describe_csp(m.C3TR),
    'C3Ghost': describe_csp(m.C3Ghost),
    'C3x': describe_csp(m.C3x),
    'nn.ConvTranspose2d': RowModule(
        build_plain_from_width(nn.ConvTranspose2d), stride=invert_stride(2)
    ),
    'DWConvTranspose2d': RowModule(
        build_plain_from_width(m.dw_conv_transpose), stride=invert_stride(2)
    ),
    'nn.BatchNorm2d': RowModule(build_norm, width=keep_width),
    'nn.MaxPool2d': RowModule(build_plain(nn.MaxPool2d), keep_width, read_pool_stride),
    'nn.ZeroPad2d': RowModule(build_plain(nn.ZeroPad2d), width=keep_width),
    'nn.Upsample': RowModule(
        build_plain(nn.Upsample), width=keep_width, stride=read_upsample_stride
    ),
    'Concat': RowModule(build_plain(m.Concat), width=sum_widths, many_inputs=True),
    'Contract': RowModule(
        build_plain(m.Contract),
        width=contract_width,
        stride=lambda row: Fraction(row.arg(0, 2)),
    ),
    'Expand': RowModule(
        build_plain(m.Expand), width=expand_width, stride=invert_stride(0, 2)
    ),
}


def parse_activation(text: str | None) -> dict:
    """An act_cfg from a YAML's ``activation:``, such as 'nn.LeakyReLU(0.1)'.

    The text is matched against :data:`ACTIVATIONS`, never evaluated. ``None`` is
    YOLOv5's default, SiLU.

    Raises:
        UserError: It is no call of a listed class with at most one number; ``key`` is
            'activation'.
    """
    if text is None:
        return dict(type='SiLU', inplace=True)

    def error(problem: str) -> UserError:
        return UserError(f'{text!r}: {problem}', key='activation')

    if not isinstance(text, str):
        raise error('this is no text, as in nn.SiLU()')
    match = re.fullmatch(r'\s*(?:torch\.)?(?:nn\.)?(\w+)(?:\((.*)\))?\s*', text)
    if match is None or match[1] not in ACTIVATIONS:
        raise error(f'allowed are {sorted(ACTIVATIONS)}')
    type_, keyword = ACTIVATIONS[match[1]]
    act_cfg: dict[str, Any] = dict(type=type_)
    arguments = re.sub(r'inplace=(True|False)', '', match[2] or '').strip(' ,')
    if arguments:
        if keyword is None:
            raise error(f'{match[1]} takes no {arguments!r}')
        value = arguments.removeprefix(f'{keyword}=')
        try:
            act_cfg[keyword] = float(ast.literal_eval(value))
        except (ValueError, SyntaxError, TypeError) as cause:
            raise error(f'{value!r} is no number') from cause
        if not math.isfinite(act_cfg[keyword]):
            raise error(f'{value!r} is not finite')
    return act_cfg


def check_multiple(multiple: Any, key: str | None = None) -> None:
    """Checks a depth or width multiple.

    Args:
        multiple: What was written.
        key: Where it was written, for the error.

    Raises:
        UserError: It is no number above 0, and at most 100.
    """
    is_number = isinstance(multiple, Real) and not isinstance(multiple, bool)
    if not is_number or not 0 < multiple <= 100:
        raise UserError(f'a multiple is a number above 0, not {multiple!r}', key=key)


def parse_row(number: int, row: Sequence) -> Row:
    """Reads a row, and checks all of it that does not depend on other rows.

    Args:
        number: The row's number.
        row: ``[from, number, module, args]``.

    Raises:
        RowError: It is no such row.
    """
    try:
        from_, repeats, name, args = row
        args = list(args)
        if isinstance(row[3], (str, Mapping)):
            raise TypeError
    except (TypeError, ValueError):
        problem = 'a row is [from, number, module, args]'
        raise row_error(number, row, problem) from None

    def error(problem: str) -> RowError:
        return row_error(number, f'[{from_}, {repeats}, {name}, {args}]', problem)

    if not isinstance(name, str) or name not in ROW_MODULES:
        hint = did_you_mean(name, ROW_MODULES, 1)
        known = f'The known ones are {sorted(ROW_MODULES)}'
        raise error(f'unknown module{f", {hint}" if hint else "."} {known}')
    for arg in args:
        if (bad := find_bad_argument(name, arg)) is not None:
            raise error(bad)

    many = isinstance(from_, Sequence) and not isinstance(from_, str)
    many_wanted = ROW_MODULES[name].many_inputs
    if many != many_wanted:
        wanted = 'a list of maps' if many_wanted else 'one map'
        raise error(f'{name} reads {wanted}, from is {from_}')
    sources = tuple(from_) if many else (from_,)
    if not sources:
        raise error('from is an empty list')
    for source in sources:
        if isinstance(source, bool) or not isinstance(source, int):
            raise error(f'from holds {source!r}, not a whole number')
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise error(f'number is {repeats}, not a count of 1 or more')
    if repeats > MAX_NUMBER:
        raise error(f'number is above {MAX_NUMBER}')
    return Row(number, sources, repeats, name, args)


def find_bad_argument(module: str, arg: Any) -> str | None:
    """What is wrong with an argument that no module can mean, or ``None``.

    That is a text other than an upsampling mode, a number out of range, or another
    type.
    """
    if isinstance(arg, (list, tuple)):
        if len(arg) > 16:
            return f'a list of {len(arg)} arguments'
        return next(filter(None, (find_bad_argument(module, x) for x in arg)), None)
    if isinstance(arg, str):
        if module != 'nn.Upsample' or arg not in UPSAMPLE_MODES:
            text = f'the text {arg[:80]!r} is no argument of {module}'
            return f'{text}: texts are never evaluated'
    elif isinstance(arg, Real):
        if not -MAX_NUMBER <= cast(float, arg) <= MAX_NUMBER:  # nan is not either
            return f'{arg} is not within +-{MAX_NUMBER}'
    elif arg is not None:
        return f'{type(arg).__name__} is no argument of a module'
    return None


def find_source(row: Row, from_: int, maps: Mapping[int, FeatureMap]) -> int:
    """The number of the map that a row's ``from`` means.

    Raises:
        RowError: There is no such map before the row.
    """
    source = from_ if from_ >= 0 else row.number + from_
    if source >= row.number:
        raise row.error(f'from {from_} points ahead: the rows before are {list(maps)}')
    if source not in maps:
        raise row.error(
            f'map {source} (from {from_}) does not exist: there are {list(maps)}'
        )
    return source


def place_row(row: Row, maps: Mapping[int, FeatureMap], scaling: Scaling) -> PlacedRow:
    """Finds the maps that a row reads, and scales it.

    Args:
        row: The row.
        maps: The maps before it, by number.
        scaling: What scales it.

    Raises:
        RowError: A map does not exist, their strides differ, or the channels cannot
            be.
    """
    sources = [find_source(row, i, maps) for i in row.from_]
    inputs = [maps[i] for i in sources]
    if len({x.stride for x in inputs}) > 1:
        strides = ', '.join(f'map {i} has {maps[i].stride}' for i in sources)
        raise row.error(f'the strides differ: {strides}')
    try:
        out_channels = ROW_MODULES[row.module].width(row, inputs, scaling)
    except (IndexError, TypeError) as error:
        problem = 'the first argument is the number of output channels'
        raise row.error(problem) from error
    if out_channels > MAX_NUMBER:
        raise row.error(f'{out_channels} output channels are more than {MAX_NUMBER}')
    copies = row.repeats
    if copies > 1:
        copies = max(round(copies * scaling.depth_multiple), 1)
    return PlacedRow(
        **vars(row),
        sources=sources,
        inputs=inputs,
        out_channels=out_channels,
        copies=copies,
    )


@contextmanager
def named_row(row: Row) -> Iterator[None]:
    """Turns what a row's module raises about its arguments into a RowError."""
    try:
        yield
    except RowError:
        raise
    except (ArithmeticError, AssertionError, IndexError, RuntimeError, TypeError,
            ValueError) as error:  # fmt: skip
        problem = f'the arguments do not fit {row.module}: {error}'
        raise row.error(problem) from error


def compute_stride(row: PlacedRow) -> Fraction:
    """Stride of the map that a row computes.

    Raises:
        RowError: The arguments give none.
    """
    module = ROW_MODULES[row.module]
    with named_row(row):
        factor = module.stride(row) ** (1 if module.takes_repeats else row.copies)
    return row.inputs[0].stride * factor


def build_row(row: PlacedRow, layers: dict) -> nn.Module:
    """The module of a row, or a sequence of its copies.

    Args:
        row: The row.
        layers: ``norm_cfg`` and ``act_cfg`` of every convolution.

    Raises:
        RowError: The arguments do not fit the module.
    """
    module = ROW_MODULES[row.module]
    with named_row(row):
        if module.takes_repeats or row.copies == 1:
            return module.build(row, layers)
        if module.many_inputs or row.in_channels != row.out_channels:
            raise row.error(
                f'{row.copies} copies in a row need as many channels in as out, not '
                f'{row.in_channels} and {row.out_channels}'
            )
        return nn.Sequential(*(module.build(row, layers) for _ in range(row.copies)))


class RowGraph(nn.ModuleDict):
    """The interpreter: a network from rows, keyed by the rows' numbers.

    A row's ``from`` is a number or a list of numbers: -1 is the map just before, -2
    the one before that, others count from the start.

    Args:
        rows: The YAML's rows, each ``[from, number, module, args]``.
        inputs: The given maps by number, in the order in which ``forward`` takes them.
            The image is -1, which then is -1 for row 0.
        outputs: Numbers of the maps to return.
        first_row: Number of the first row.
        depth_multiple: Scales ``number`` where it is above 1.
        width_multiple: Scales output channels, rounded up to a multiple of 8.
        activation: The YAML's ``activation:``; ``None`` is SiLU.
        norm_cfg: Config of every BatchNorm2d; without one YOLOv5's.
        num_outputs: The head's channels, ``anchors * (classes + 5)``: a row of exactly
            so many is not scaled, as in YOLOv5.

    Attributes:
        rows: The rows, placed.
        maps: Channels and stride of every map, by its number.
        out_maps: The same of those that ``forward`` returns.

    Raises:
        RowError: A row cannot be built; ``row`` is its number.
        UserError: ``outputs`` are not there (``key`` is 'out_rows'), there are too many
            rows ('rows'), or what scales all rows is wrong ('activation',
            'depth_multiple', 'width_multiple').
    """

    def __init__(
        self,
        rows: Sequence[Sequence],
        inputs: Mapping[int, FeatureMap],
        outputs: Sequence[int],
        first_row: int,
        depth_multiple: float = 1.0,
        width_multiple: float = 1.0,
        activation: str | None = None,
        norm_cfg: dict = m.NORM_CFG,
        num_outputs: int | None = None,
    ) -> None:
        super().__init__()
        scaling = Scaling(depth_multiple, width_multiple, num_outputs)
        layers = dict(norm_cfg=norm_cfg, act_cfg=parse_activation(activation))
        if len(rows) > MAX_ROWS:
            raise UserError(f'{len(rows)} rows are more than {MAX_ROWS}', key='rows')
        self.inputs = tuple(inputs)
        self.maps = dict(inputs)
        self.rows: list[PlacedRow] = []
        copies = params = 0
        for number, written in enumerate(rows, start=first_row):
            row = place_row(parse_row(number, written), self.maps, scaling)
            copies += row.copies
            if copies > MAX_REPEATS:
                raise row.error(f'more than {MAX_REPEATS} repeats in all rows')
            stride = compute_stride(row)
            with torch.device('meta'):  # counts what would be allocated
                params += count_parameters(build_row(row, layers))
            if params > MAX_PARAMETERS:
                raise row.error(
                    f'the rows have more than {MAX_PARAMETERS:,} parameters'
                )
            if not MIN_STRIDE <= stride <= MAX_STRIDE:
                raise row.error(
                    f'a stride of {stride} is not in {MIN_STRIDE} to {MAX_STRIDE}'
                )
            self[str(number)] = build_row(row, layers)
            self.rows.append(row)
            self.maps[number] = FeatureMap(row.out_channels, stride)

        missing = [i for i in outputs if i not in self.maps]
        if missing:
            raise UserError(
                f'output rows {missing} do not exist: there are {list(self.maps)}',
                key='out_rows',
            )
        self.outputs = tuple(outputs)
        self.out_maps = tuple(self.maps[i] for i in outputs)
        # Convolutions start as PyTorch leaves them, which is YOLOv5's start too.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Computes the maps of ``outputs``.

        Args:
            inputs: A map (B, C, H, W) for each of the constructor's inputs.

        Returns:
            One (B, C, H, W) an output row; channels and strides as in ``out_maps``.
        """
        maps = dict(zip(self.inputs, inputs))
        for row, module in zip(self.rows, self.values()):
            x = [maps[i] for i in row.sources]
            many = ROW_MODULES[row.module].many_inputs
            maps[row.number] = module(x if many else x[0])
        return tuple(maps[i] for i in self.outputs)

    def table(self) -> str:
        """The rows as text: number, from, repeats, parameters, channels, module."""
        line = '{:>4}{:>12}{:>4}{:>11}  {:<12}{:>13}{:>8}  {}'.format
        lines = [
            line('row', 'from', 'n', 'params', 'module', 'in -> out', 'stride', 'args')
        ]
        for row, module in zip(self.rows, self.values()):
            in_channels = sum(x.channels for x in row.inputs)
            lines.append(
                line(
                    row.number,
                    str(row.sources)[1:-1],
                    row.copies,
                    f'{count_parameters(module):,}',
                    row.module,
                    f'{in_channels} -> {row.out_channels}',
                    str(self.maps[row.number].stride),
                    str(row.args),
                )
            )
        return '\n'.join(lines)


def count_parameters(module: nn.Module) -> int:
    """How many numbers a module's parameters hold."""
    return sum(p.numel() for p in module.parameters())
