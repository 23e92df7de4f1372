"""The interpreter of YOLOv5's model rows ``[from, number, module, args]``.

A YOLOv5 YAML describes a network as a list of rows. The rules (which map ``from``
means, how depth, width and repeats scale) are those that YOLOv5 documents for its YAML
files. Nothing here needs MMYOLO.
"""

import ast
import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Real
from typing import NamedTuple

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

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
STRIDES = Fraction(1, 8), Fraction(1024)
UPSAMPLE_MODES = ('nearest', 'nearest-exact', 'bilinear', 'bicubic')


class FeatureMap(NamedTuple):
    """A map as it is known before it is computed."""

    channels: int
    stride: Fraction  # pixels of the image a cell


class RowError(ValueError):
    """What is wrong with a row; the message begins with its number and text."""


def row_error(number: int, row: object, problem: str) -> RowError:
    text = str(row)
    text = text if len(text) <= 200 else f'{text[:200]}…'
    return RowError(f'row {number} {text}: {problem}')


@dataclass(frozen=True)
class Row:
    """One row, resolved: what its module is built from."""

    number: int
    text: str
    module: str
    sources: list[int]  # numbers of the maps that it reads
    inputs: list[FeatureMap]
    repeats: int
    args: list
    in_channels: int
    out_channels: int
    layers: dict  # norm_cfg and act_cfg of every convolution

    def arg(self, i: int, default):
        return self.args[i] if len(self.args) > i else default

    def error(self, problem: str) -> RowError:
        return row_error(self.number, self.text, problem)


# Channel rules: from a row and the graph's settings to the output's channels.


def scaled_width(row: Row, width_multiple: float, num_outputs: int | None) -> int:
    """The first argument times the width multiple, rounded up to a multiple of 8.

    Unscaled where it is the number of the head's outputs, as in YOLOv5.
    """
    width = row.args[0]
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise TypeError(width)
    return width if width == num_outputs else make_divisible(width, width_multiple)


def make_divisible(width: int, multiple: float) -> int:
    return math.ceil(width * multiple / 8) * 8


def same_width(row: Row, *_) -> int:
    return row.in_channels


def summed_width(row: Row, *_) -> int:
    return sum(x.channels for x in row.inputs)


def contracted_width(row: Row, *_) -> int:
    return row.in_channels * row.arg(0, 2) ** 2


def expanded_width(row: Row, *_) -> int:
    gain = row.arg(0, 2)
    if gain < 1 or row.in_channels % gain**2:
        raise row.error(f'{row.in_channels} channels do not divide by {gain}**2')
    return row.in_channels // gain**2


# Stride rules: from a row to the factor by which it multiplies the stride.


def stride_at(i: int, times: int = 1) -> Callable[[Row], Fraction]:
    """The row's argument ``i``, 1 where it is left out."""
    return lambda row: times * Fraction(row.arg(i, 1))


def inverse_stride_at(i: int, default: int = 1) -> Callable[[Row], Fraction]:
    return lambda row: 1 / Fraction(row.arg(i, default))


def upsample_stride(row: Row) -> Fraction:
    size, scale = row.arg(0, None), row.arg(1, None)
    if size is not None or not scale:
        raise row.error('give a scale factor, as in [None, 2, nearest], not a size')
    return 1 / Fraction(scale)


def pool_stride(row: Row) -> Fraction:
    stride = row.arg(1, None)
    return Fraction(row.args[0] if stride is None else stride)


def of_width(module: Callable) -> Callable[[Row], nn.Module]:
    """Builds ``module(in, out, arguments after the width, layers=...)``."""

    def build(row: Row) -> nn.Module:
        return module(
            row.in_channels, row.out_channels, *row.args[1:], layers=row.layers
        )

    return build


def of_width_and_repeats(module: Callable) -> Callable[[Row], nn.Module]:
    """The same with the row's ``number`` as third argument."""

    def build(row: Row) -> nn.Module:
        widths = row.in_channels, row.out_channels
        return module(*widths, row.repeats, *row.args[1:], layers=row.layers)

    return build


def plain(module: Callable) -> Callable[[Row], nn.Module]:
    """Builds ``module(*arguments)``."""
    return lambda row: module(*row.args)


def plain_of_width(module: Callable) -> Callable[[Row], nn.Module]:
    return lambda row: module(row.in_channels, row.out_channels, *row.args[1:])


@dataclass(frozen=True)
class RowModule:
    """How one module name of the YAML is read.

    Args:
        build: From the resolved row to the module.
        width: Channel rule.
        stride: Factor by which the row multiplies the stride.
        many_inputs: Whether it takes a list of maps.
        takes_repeats: Whether ``number`` repeats blocks inside the module, rather
            than the module as a whole.
    """

    build: Callable[[Row], nn.Module]
    width: Callable[..., int] = scaled_width
    stride: Callable[[Row], Fraction] = lambda row: Fraction(1)
    many_inputs: bool = False
    takes_repeats: bool = False


def csp(module: Callable) -> RowModule:
    return RowModule(of_width_and_repeats(module), takes_repeats=True)


ROW_MODULES: dict[str, RowModule] = {
    'Conv': RowModule(of_width(m.conv), stride=stride_at(2)),
    'DWConv': RowModule(of_width(m.dw_conv), stride=stride_at(2)),
    'GhostConv': RowModule(of_width(m.GhostConv), stride=stride_at(2)),
    'CrossConv': RowModule(of_width(m.CrossConv), stride=stride_at(2)),
    'MixConv2d': RowModule(of_width(m.MixConv2d), stride=stride_at(2)),
    'Focus': RowModule(of_width(m.Focus), stride=stride_at(2, times=2)),
    'Bottleneck': RowModule(of_width(m.Bottleneck)),
    'GhostBottleneck': RowModule(of_width(m.GhostBottleneck), stride=stride_at(2)),
    'SPP': RowModule(of_width(m.SPP)),
    'SPPF': RowModule(of_width(m.SPPF)),
    'C3SPP': RowModule(of_width(m.C3SPP)),
    'BottleneckCSP': csp(m.BottleneckCSP),
    'C3': csp(m.C3),
    'C3TR': csp(m.C3TR),
    'C3Ghost': csp(m.C3Ghost),
    'C3x': csp(m.C3x),
    'nn.ConvTranspose2d': RowModule(
        plain_of_width(nn.ConvTranspose2d), stride=inverse_stride_at(2)
    ),
    'DWConvTranspose2d': RowModule(
        plain_of_width(m.dw_conv_transpose), stride=inverse_stride_at(2)
    ),
    'nn.BatchNorm2d': RowModule(
        lambda row: build_norm_layer(row.layers['norm_cfg'], row.in_channels)[1],
        width=same_width,
    ),
    'nn.MaxPool2d': RowModule(plain(nn.MaxPool2d), same_width, pool_stride),
    'nn.ZeroPad2d': RowModule(plain(nn.ZeroPad2d), width=same_width),
    'nn.Upsample': RowModule(
        plain(nn.Upsample), width=same_width, stride=upsample_stride
    ),
    'Concat': RowModule(plain(m.Concat), width=summed_width, many_inputs=True),
    'Contract': RowModule(
        plain(m.Contract),
        width=contracted_width,
        stride=lambda row: Fraction(row.arg(0, 2)),
    ),
    'Expand': RowModule(
        plain(m.Expand), width=expanded_width, stride=inverse_stride_at(0, 2)
    ),
}


def parse_activation(text: str | None) -> dict:
    """An act_cfg from a YAML's ``activation:``, such as 'nn.LeakyReLU(0.1)'.

    The text is matched against :data:`ACTIVATIONS`, never evaluated. ``None`` is
    YOLOv5's default, SiLU.

    Raises:
        ValueError: It is no call of a listed class with at most one number.
    """
    if text is None:
        return dict(type='SiLU', inplace=True)
    if not isinstance(text, str):
        raise ValueError(f'activation {text!r} is no text, as in nn.SiLU()')
    match = re.fullmatch(r'\s*(?:torch\.)?(?:nn\.)?(\w+)(?:\((.*)\))?\s*', text)
    name = match and match[1]
    if name not in ACTIVATIONS:
        raise ValueError(f'activation {text!r}: allowed are {sorted(ACTIVATIONS)}')
    kind, keyword = ACTIVATIONS[name]
    act_cfg = dict(type=kind)
    arguments = re.sub(r'inplace=(True|False)', '', match[2] or '').strip(' ,')
    if arguments:
        if keyword is None:
            raise ValueError(f'activation {text!r}: {name} takes no {arguments!r}')
        value = arguments.removeprefix(f'{keyword}=')
        try:
            act_cfg[keyword] = float(ast.literal_eval(value))
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(f'activation {text!r}: {value!r} is no number') from error
        if not math.isfinite(act_cfg[keyword]):
            raise ValueError(f'activation {text!r}: {value!r} is not finite')
    return act_cfg


def check_argument(number: int, text: str, module: str, arg: object) -> None:
    """Refuses an argument that no module can mean.

    Raises:
        RowError: It is a text other than an upsampling mode, or a number out of range.
    """
    if isinstance(arg, (list, tuple)):
        if len(arg) > 16:
            raise row_error(number, text, f'a list of {len(arg)} arguments')
        for item in arg:
            check_argument(number, text, module, item)
    elif isinstance(arg, str):
        if module != 'nn.Upsample' or arg not in UPSAMPLE_MODES:
            problem = f'the text {arg[:80]!r} is no argument of {module}: texts are'
            raise row_error(number, text, f'{problem} never evaluated')
    elif isinstance(arg, Real):
        if not (math.isfinite(arg) and abs(arg) <= MAX_NUMBER):
            raise row_error(number, text, f'{arg} is not within +-{MAX_NUMBER}')
    elif arg is not None:
        problem = f'{type(arg).__name__} is no argument of a module'
        raise row_error(number, text, problem)


def check_multiple(multiple: object) -> None:
    number = isinstance(multiple, Real) and not isinstance(multiple, bool)
    if not number or not 0 < multiple <= 100:
        raise ValueError(f'a multiple is a number above 0, not {multiple!r}')


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
        norm_cfg: Config of every BatchNorm2d; YOLOv5's eps is 1e-3, momentum 0.03.
        num_outputs: The head's channels, ``anchors * (classes + 5)``: a row of exactly
            so many is not scaled, as in YOLOv5.

    Attributes:
        rows: The rows, resolved.
        maps: Channels and stride of every map, by its number.
        out_maps: The same of those that ``forward`` returns.

    Raises:
        ValueError: A row cannot be built; the message has its number and text.
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
        norm_cfg: dict = dict(type='BN', eps=1e-3, momentum=0.03),
        num_outputs: int | None = None,
    ) -> None:
        super().__init__()
        check_multiple(depth_multiple)
        check_multiple(width_multiple)
        self.depth_multiple = depth_multiple
        self.width_multiple = width_multiple
        self.num_outputs = num_outputs
        self.layers = dict(norm_cfg=norm_cfg, act_cfg=parse_activation(activation))
        self.inputs = tuple(inputs)
        self.maps = maps = dict(inputs)

        if len(rows) > MAX_ROWS:
            raise ValueError(f'{len(rows)} rows are more than {MAX_ROWS}')
        self.rows: list[Row] = []
        repeats = params = 0
        for number, row in enumerate(rows, start=first_row):
            row = self._resolve(number, row, maps)
            repeats += row.repeats
            if repeats > MAX_REPEATS:
                raise row.error(f'more than {MAX_REPEATS} repeats in all rows')
            with torch.device('meta'):  # counts what would be allocated
                module, stride = self._build(row)
            params += sum(p.numel() for p in module.parameters())
            if params > MAX_PARAMETERS:
                raise row.error(
                    f'the rows have more than {MAX_PARAMETERS:,} parameters'
                )
            stride *= row.inputs[0].stride
            if not STRIDES[0] <= stride <= STRIDES[1]:
                raise row.error(f'a stride of {stride} is not in {STRIDES}')
            self[str(number)], _ = self._build(row)
            self.rows.append(row)
            maps[number] = FeatureMap(row.out_channels, stride)

        missing = [i for i in outputs if i not in maps]
        if missing:
            raise ValueError(
                f'output rows {missing} do not exist: there are {list(maps)}'
            )
        self.outputs = tuple(outputs)
        self.out_maps = tuple(maps[i] for i in outputs)
        # Convolutions start as PyTorch leaves them, which is YOLOv5's start too.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()

    def _resolve(self, number: int, row: Sequence, maps: dict) -> Row:
        try:
            from_, repeats, name, args = row
            args = list(args)
            if isinstance(row[3], (str, Mapping)):
                raise TypeError
        except (TypeError, ValueError):
            problem = 'a row is [from, number, module, args]'
            raise row_error(number, row, problem) from None
        text = f'[{from_}, {repeats}, {name}, {args}]'
        if not isinstance(name, str) or name not in ROW_MODULES:
            near = difflib.get_close_matches(str(name)[:50], ROW_MODULES, 1, 0.5)
            hint = f'did you mean {near[0]}? ' if near else ''
            problem = f'unknown module; {hint}Known are {sorted(ROW_MODULES)}'
            raise row_error(number, text, problem)
        kind = ROW_MODULES[name]
        for arg in args:
            check_argument(number, text, name, arg)

        many = isinstance(from_, Sequence) and not isinstance(from_, str)
        if many != kind.many_inputs:
            problem = (
                f'{name} reads {"a list of maps" if kind.many_inputs else "one map"}'
            )
            raise row_error(number, text, f'{problem}, from is {from_}')
        sources = [
            self._source(number, text, i, maps) for i in (from_ if many else [from_])
        ]
        if not sources:
            raise row_error(number, text, 'from is an empty list')
        inputs = [maps[i] for i in sources]
        if len({x.stride for x in inputs}) > 1:
            strides = ', '.join(f'map {i} has {maps[i].stride}' for i in sources)
            raise row_error(number, text, f'the strides differ: {strides}')
        if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
            problem = f'number is {repeats}, not a count of 1 or more'
            raise row_error(number, text, problem)
        if repeats > MAX_NUMBER:
            raise row_error(number, text, f'number is above {MAX_NUMBER}')

        row = Row(
            number=number,
            text=text,
            module=name,
            sources=sources,
            inputs=inputs,
            repeats=max(round(repeats * self.depth_multiple), 1) if repeats > 1 else 1,
            args=args,
            in_channels=inputs[0].channels,
            out_channels=0,
            layers=self.layers,
        )
        try:
            out_channels = kind.width(row, self.width_multiple, self.num_outputs)
        except (IndexError, TypeError) as error:
            problem = 'the first argument is the number of output channels'
            raise row.error(problem) from error
        if out_channels > MAX_NUMBER:
            raise row.error(
                f'{out_channels} output channels are more than {MAX_NUMBER}'
            )
        return replace(row, out_channels=out_channels)

    def _source(self, number: int, text: str, from_: int, maps: dict) -> int:
        if isinstance(from_, bool) or not isinstance(from_, int):
            raise row_error(number, text, f'from holds {from_!r}, not a whole number')
        source = from_ if from_ >= 0 else number + from_
        if source >= number:
            problem = f'from {from_} points ahead: the rows before are {list(maps)}'
            raise row_error(number, text, problem)
        if source not in maps:
            problem = f'map {source} (from {from_}) does not exist: there are'
            raise row_error(number, text, f'{problem} {list(maps)}')
        return source

    @staticmethod
    def _build(row: Row) -> tuple[nn.Module, Fraction]:
        kind = ROW_MODULES[row.module]
        copies = 1 if kind.takes_repeats else row.repeats
        try:
            stride = kind.stride(row) ** copies
            if copies == 1:
                return kind.build(row), stride
            if kind.many_inputs or row.in_channels != row.out_channels:
                raise row.error(
                    f'{copies} copies in a row need as many channels in as out, not '
                    f'{row.in_channels} and {row.out_channels}'
                )
            return nn.Sequential(*(kind.build(row) for _ in range(copies))), stride
        except RowError:
            raise
        except (ArithmeticError, AssertionError, IndexError, RuntimeError, TypeError,
                ValueError) as error:  # fmt: skip
            raise row.error(
                f'the arguments do not fit {row.module}: {error}'
            ) from error

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
            maps[row.number] = module(
                x if ROW_MODULES[row.module].many_inputs else x[0]
            )
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
                    row.repeats,
                    f'{sum(p.numel() for p in module.parameters()):,}',
                    row.module,
                    f'{in_channels} -> {row.out_channels}',
                    str(self.maps[row.number].stride),
                    row.args,
                )
            )
        return '\n'.join(lines)
