"""YOLOv5's model rows ``[from, number, module, args]`` as config data.

A YOLOv5 YAML describes a network as a list of rows. :class:`RowGraph` is the one
interpreter of such rows; :class:`YOLOv5YAMLNeck` puts it behind a backbone. The rules
(which map ``from`` means, how depth and width scale) are those that YOLOv5 documents
for its YAML files; the modules come from mmcv, MMDetection and MMYOLO.
"""

import ast
import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import torch
from mmcv.cnn import ConvModule
from mmdet.models.layers import CSPLayer
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmyolo.models.layers import SPPFBottleneck
from mmyolo.models.utils import make_divisible, make_round
from mmyolo.registry import MODELS
from torch import Tensor, nn

from .formats import kinds_of_rows

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


class FeatureMap(NamedTuple):
    """A map as it is known before it is computed."""

    channels: int
    stride: Fraction  # pixels of the picture a cell


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

    def error(self, problem: str) -> ValueError:
        return row_error(self.number, self.text, problem)


def row_error(number: int, row: object, problem: str) -> ValueError:
    return ValueError(f'row {number} {row}: {problem}')


def scaled_width(row: Row, width_multiple: float) -> int:
    """The first argument times the width multiple, rounded up to a multiple of 8."""
    return make_divisible(row.args[0], width_multiple)


def same_width(row: Row, width_multiple: float) -> int:
    return row.in_channels


def summed_width(row: Row, width_multiple: float) -> int:
    return sum(x.channels for x in row.inputs)


@dataclass(frozen=True)
class RowModule:
    """How one module name of the YAML is read.

    Args:
        build: From the resolved row to the module.
        width: Channel rule, from the row and the width multiple to the output's
            channels.
        stride: Factor by which the row multiplies the stride.
        many_inputs: Whether it takes a list of maps.
        takes_repeats: Whether ``number`` repeats blocks inside the module, rather
            than the module as a whole.
        yolov5_names: YOLOv5's name for each part of a parameter's path that is called
            otherwise here.
    """

    build: Callable[[Row], nn.Module]
    width: Callable[[Row, float], int] = same_width
    stride: Callable[[Row], Fraction] = lambda row: Fraction(1)
    many_inputs: bool = False
    takes_repeats: bool = False
    yolov5_names: dict[str, str] = field(default_factory=dict)


class Concat(nn.Module):
    """Joins maps of one stride: [(B, Ci, H, W)] to (B, sum of Ci, H, W)."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, self.dim)


def build_conv(row: Row) -> ConvModule:
    _, kernel, stride, padding, groups, dilation, act = (
        row.arg(i, default) for i, default in enumerate((0, 1, 1, None, 1, 1, True))
    )
    if padding is None:  # "same" at stride 1, of the dilated kernel
        padding = dilation * (kernel - 1) // 2
    layers = row.layers if act else {**row.layers, 'act_cfg': None}
    return ConvModule(
        row.in_channels,
        row.out_channels,
        kernel,
        stride,
        padding,
        dilation=dilation,
        groups=groups,
        **layers,
    )


def build_c3(row: Row) -> CSPLayer:
    if row.arg(2, 1) != 1:
        raise row.error('C3 with groups is not supported: leave the third argument out')
    return CSPLayer(
        row.in_channels,
        row.out_channels,
        expand_ratio=row.arg(3, 0.5),
        num_blocks=row.repeats,
        add_identity=row.arg(1, True),
        **row.layers,
    )


def build_sppf(row: Row) -> SPPFBottleneck:
    kernel = row.arg(1, 5)
    return SPPFBottleneck(
        row.in_channels, row.out_channels, kernel_sizes=kernel, **row.layers
    )


def upsample_stride(row: Row) -> Fraction:
    size, scale = row.arg(0, None), row.arg(1, None)
    if size is not None or not scale:
        raise row.error('give a scale factor, as in [None, 2, nearest], not a size')
    return 1 / Fraction(scale)


ROW_MODULES: dict[str, RowModule] = {
    'Conv': RowModule(
        build_conv,
        width=scaled_width,
        stride=lambda row: Fraction(row.arg(2, 1)),
    ),
    'C3': RowModule(
        build_c3,
        width=scaled_width,
        takes_repeats=True,
        yolov5_names={
            'main_conv': 'cv1',
            'short_conv': 'cv2',
            'final_conv': 'cv3',
            'blocks': 'm',
            'conv1': 'cv1',
            'conv2': 'cv2',
        },
    ),
    'SPPF': RowModule(
        build_sppf,
        width=scaled_width,
        yolov5_names={'conv1': 'cv1', 'conv2': 'cv2'},
    ),
    'Concat': RowModule(
        lambda row: Concat(*row.args), width=summed_width, many_inputs=True
    ),
    'nn.Upsample': RowModule(
        lambda row: nn.Upsample(*row.args), stride=upsample_stride
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
    return act_cfg


class RowGraph(nn.ModuleDict):
    """The interpreter: a network from rows, keyed by the rows' numbers.

    Rows count on from the maps that are given, as in the YAML: with five given maps
    0 to 4, the first row is 5. A row's ``from`` is a number or a list of numbers: -1
    is the map just before, -2 the one before that, others count from the start.

    Args:
        rows: The YAML's rows, each ``[from, number, module, args]``.
        inputs: The given maps in order, ``None`` for one that is absent.
        outputs: Numbers of the maps to return.
        first_row: Number of the first row. Defaults to the count of ``inputs``; 0
            where the only input is the picture, which then is -1 for the first row.
        depth_multiple: Scales ``number`` where it is above 1.
        width_multiple: Scales output channels, rounded up to a multiple of 8.
        activation: The YAML's ``activation:``; ``None`` is SiLU.
        norm_cfg: Config of every BatchNorm2d; YOLOv5's eps is 1e-3, momentum 0.03.

    Attributes:
        maps: Channels and stride of every map, by its number.
        out_maps: The same of those that ``forward`` returns.

    Raises:
        ValueError: A row cannot be built; the message has its number and text.
    """

    def __init__(
        self,
        rows: Sequence[Sequence],
        inputs: Sequence[FeatureMap | None],
        outputs: Sequence[int],
        first_row: int | None = None,
        depth_multiple: float = 1.0,
        width_multiple: float = 1.0,
        activation: str | None = None,
        norm_cfg: dict = dict(type='BN', eps=1e-3, momentum=0.03),
    ) -> None:
        super().__init__()
        self.depth_multiple = depth_multiple
        self.width_multiple = width_multiple
        self.layers = dict(norm_cfg=norm_cfg, act_cfg=parse_activation(activation))
        first_row = len(inputs) if first_row is None else first_row
        self.first_input = first_row - len(inputs)
        self.maps = maps = dict(enumerate(inputs, start=self.first_input))

        self.rows: list[Row] = []
        for number, row in enumerate(rows, start=first_row):
            row = self._resolve(number, row, maps)
            module, stride = self._build(row)
            self[str(number)] = module
            self.rows.append(row)
            maps[number] = FeatureMap(row.out_channels, row.inputs[0].stride * stride)

        missing = [i for i in outputs if maps.get(i) is None]
        if missing:
            raise ValueError(
                f'output rows {missing} do not exist: there are {_numbers(maps)}'
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
        except (TypeError, ValueError):
            problem = 'a row is [from, number, module, args]'
            raise row_error(number, row, problem) from None
        text = f'[{from_}, {repeats}, {name}, {list(args)}]'
        if name not in ROW_MODULES:
            near = difflib.get_close_matches(str(name), ROW_MODULES, 1, 0.5)
            hint = f'did you mean {near[0]}? ' if near else ''
            problem = f'unknown module; {hint}Known are {sorted(ROW_MODULES)}'
            raise row_error(number, text, problem)
        kind = ROW_MODULES[name]

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
        if not isinstance(repeats, int) or repeats < 1:
            raise row_error(
                number, text, f'number is {repeats}, not a count of 1 or more'
            )

        row = Row(
            number=number,
            text=text,
            module=name,
            sources=sources,
            inputs=inputs,
            repeats=make_round(repeats, self.depth_multiple),
            args=list(args),
            in_channels=inputs[0].channels,
            out_channels=0,
            layers=self.layers,
        )
        try:
            out_channels = kind.width(row, self.width_multiple)
        except (IndexError, TypeError) as error:
            problem = 'the first argument is the number of output channels'
            raise row.error(problem) from error
        return Row(**{**vars(row), 'out_channels': out_channels})

    def _source(self, number: int, text: str, from_: int, maps: dict) -> int:
        if not isinstance(from_, int):
            raise row_error(number, text, f'from holds {from_!r}, not a whole number')
        source = from_ if from_ >= 0 else number + from_
        if source >= number:
            problem = f'from {from_} points ahead: the rows before are {_numbers(maps)}'
            raise row_error(number, text, problem)
        if maps.get(source) is None:
            problem = f'map {source} (from {from_}) does not exist: there are'
            raise row_error(number, text, f'{problem} {_numbers(maps)}')
        return source

    @staticmethod
    def _build(row: Row) -> tuple[nn.Module, Fraction]:
        kind = ROW_MODULES[row.module]
        copies = 1 if kind.takes_repeats else row.repeats
        try:
            stride = kind.stride(row) ** copies
            if copies == 1:
                return kind.build(row), stride
            if row.in_channels != row.out_channels:
                raise row.error(
                    f'{copies} copies in a row need as many channels in as out, not '
                    f'{row.in_channels} and {row.out_channels}'
                )
            return nn.Sequential(*(kind.build(row) for _ in range(copies))), stride
        except (TypeError, AssertionError, ZeroDivisionError) as error:
            raise row.error(
                f'the arguments do not fit {row.module}: {error}'
            ) from error

    def forward(self, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """Computes the maps of ``outputs``.

        Args:
            inputs: A map (B, C, H, W) for each of the constructor's inputs.

        Returns:
            One (B, C, H, W) an output row; channels and strides as in ``out_maps``.
        """
        maps = dict(enumerate(inputs, start=self.first_input))
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


def _numbers(maps: dict) -> list[int]:
    return [i for i, x in maps.items() if x is not None]


@MODELS.register_module()
class YOLOv5YAMLNeck(BaseModule):
    """A neck from YOLOv5's YAML rows, ``mmyolo.YOLOv5YAMLNeck``.

    The backbone's maps are padded in front to five, P1 to P5, numbered 0 to 4; the
    first row is 5, as in the patched YOLOv5.

    Args:
        rows: The YAML's rows behind the backbone, each ``[from, number, module,
            args]``; the modules are those in :data:`ROW_MODULES`.
        out_rows: Numbers of the rows that the head reads.
        in_channels: Channels of the backbone's maps, high to low resolution. A
            :class:`FittedYOLODetector` fills this in, and the next.
        in_strides: Strides of these maps, in pixels of the picture.
        depth_multiple: The YAML's, scales repeats.
        width_multiple: The YAML's, scales channels of the rows, not the backbone's.
        activation: The YAML's ``activation:``, such as 'nn.ReLU()'; ``None`` is SiLU.
        norm_cfg: Config of every BatchNorm2d.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ValueError: A row cannot be built; the message has its number and text.
    """

    NUM_MAPS = 5

    def __init__(
        self,
        rows: Sequence[Sequence],
        out_rows: Sequence[int],
        in_channels: Sequence[int],
        in_strides: Sequence[int] = (4, 8, 16, 32),
        depth_multiple: float = 1.0,
        width_multiple: float = 1.0,
        activation: str | None = None,
        norm_cfg: dict = dict(type='BN', eps=1e-3, momentum=0.03),
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(in_channels) != len(in_strides) or len(in_channels) > self.NUM_MAPS:
            raise ValueError(
                f'in_channels={tuple(in_channels)} and in_strides={tuple(in_strides)} '
                f'must be as many, at most {self.NUM_MAPS}'
            )
        given = [FeatureMap(c, Fraction(s)) for c, s in zip(in_channels, in_strides)]
        self.num_inputs = len(given)
        self.kinds = kinds_of_rows(rows)  # by which a YOLOv5 file is converted
        self.rows = RowGraph(
            rows,
            inputs=[None] * (self.NUM_MAPS - len(given)) + given,
            outputs=out_rows,
            depth_multiple=depth_multiple,
            width_multiple=width_multiple,
            activation=activation,
            norm_cfg=norm_cfg,
        )
        print_log(f'{type(self).__name__}:\n{self.rows.table()}', 'current')

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that ``forward`` returns."""
        return tuple(x.channels for x in self.rows.out_maps)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the picture a cell, for the maps that ``forward`` returns."""
        return tuple(int(x.stride) for x in self.rows.out_maps)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Computes the maps for the head.

        Args:
            inputs: The backbone's maps, (B, C, H, W) each, high to low resolution.

        Returns:
            One (B, C, H, W) for each of ``out_rows``.
        """
        return self.rows([None] * (self.NUM_MAPS - self.num_inputs) + list(inputs))
