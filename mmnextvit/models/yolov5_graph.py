"""The network of YOLOv5's model rows: a module for each row, and what joins them.

Rows come parsed and placed from :mod:`.yolov5_rows`. Nothing here needs MMYOLO.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict

import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from ..utils.errors import UserError
from . import yolov5_modules as m
from .yolov5_row_rules import ROW_RULES, Scaling, parse_activation
from .yolov5_rows import FeatureMap, PlacedRow, name_row, place_rows

MAX_PARAMETERS = 10**9  # far above every published YAML

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


BUILDERS: dict[str, Builder] = {
    'Conv': build_from_width(m.conv),
    'DWConv': build_from_width(m.dw_conv),
    'GhostConv': build_from_width(m.GhostConv),
    'CrossConv': build_from_width(m.CrossConv),
    'MixConv2d': build_from_width(m.MixConv2d),
    'Focus': build_from_width(m.Focus),
    'Bottleneck': build_from_width(m.Bottleneck),
    'GhostBottleneck': build_from_width(m.GhostBottleneck),
    'SPP': build_from_width(m.SPP),
    'SPPF': build_from_width(m.SPPF),
    'C3SPP': build_from_width(m.C3SPP),
    'BottleneckCSP': build_from_width_and_repeats(m.BottleneckCSP),
    'C3': build_from_width_and_repeats(m.C3),
    'C3TR': build_from_width_and_repeats(m.C3TR),
    'C3Ghost': build_from_width_and_repeats(m.C3Ghost),
    'C3x': build_from_width_and_repeats(m.C3x),
    'nn.ConvTranspose2d': build_plain_from_width(nn.ConvTranspose2d),
    'DWConvTranspose2d': build_plain_from_width(m.dw_conv_transpose),
    'nn.BatchNorm2d': build_norm,
    'nn.MaxPool2d': build_plain(nn.MaxPool2d),
    'nn.ZeroPad2d': build_plain(nn.ZeroPad2d),
    'nn.Upsample': build_plain(nn.Upsample),
    'Concat': build_plain(m.Concat),
    'Contract': build_plain(m.Contract),
    'Expand': build_plain(m.Expand),
}


def build_row(row: PlacedRow, layers: dict) -> nn.Module:
    """Builds the module of a row, or a sequence of its copies.

    Args:
        row: The row.
        layers: ``norm_cfg`` and ``act_cfg`` of every convolution.

    Raises:
        RowError: The arguments do not fit the module.
    """
    build, rule = BUILDERS[row.module], ROW_RULES[row.module]
    copies = 1 if rule.takes_repeats else row.copies
    if copies > 1 and (rule.many_inputs or row.in_channels != row.out_channels):
        raise row.error(
            f'{copies} copies in a row need as many channels in as out, not '
            f'{row.in_channels} and {row.out_channels}'
        )
    with name_row(row):
        modules = [build(row, layers) for _ in range(copies)]
    return nn.Sequential(*modules) if copies > 1 else modules[0]


def check_parameters(rows: Iterable[PlacedRow], layers: dict) -> None:
    """Checks that rows have at most :data:`MAX_PARAMETERS`, without memory for them.

    Raises:
        RowError: They have more, or a row cannot be built.
    """
    total = 0
    for row in rows:
        with torch.device('meta'):
            total += count_parameters(build_row(row, layers))
        if total > MAX_PARAMETERS:
            raise row.error(f'the rows have more than {MAX_PARAMETERS:,} parameters')


def count_parameters(module: nn.Module) -> int:
    """How many numbers a module's parameters hold."""
    return sum(p.numel() for p in module.parameters())


class RowOptions(TypedDict, total=False):
    """Arguments of a :class:`RowGraph` that hold for all rows, each with a default."""

    depth_multiple: float
    width_multiple: float
    activation: str | None
    norm_cfg: dict
    num_outputs: int | None


class RowGraph(nn.ModuleDict):
    """A network from rows, keyed by the rows' numbers.

    A row's ``from`` is a number or a list of numbers: -1 is the map just before, -2
    the one before that, others count from the start.

    Args:
        rows: The YAML's rows, each ``[from, number, module, args]``; the modules are
            those in :data:`~mmnextvit.models.yolov5_row_rules.ROW_RULES`.
        inputs: The given maps by number, in the order in which ``forward`` takes them.
            The image is -1, which then is -1 for row 0.
        outputs: Numbers of the maps to return.
        first_row: Number of the first row.
        depth_multiple: Scales ``number`` where it is above 1.
        width_multiple: Scales output channels, rounded up to a multiple of 8.
        activation: The YAML's ``activation:``, such as 'nn.ReLU()'; ``None`` is SiLU.
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
        scaling = Scaling(depth_multiple, width_multiple, num_outputs)
        layers = dict(norm_cfg=norm_cfg, act_cfg=parse_activation(activation))
        placed, maps = place_rows(rows, inputs, first_row, scaling)
        if missing := [i for i in outputs if i not in maps]:
            raise UserError(
                f'output rows {missing} do not exist: there are {list(maps)}',
                key='out_rows',
            )
        check_parameters(placed, layers)
        super().__init__({str(row.number): build_row(row, layers) for row in placed})
        self.rows = placed
        self.maps = maps
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.out_maps = tuple(maps[i] for i in outputs)
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
            many = ROW_RULES[row.module].many_inputs
            maps[row.number] = module(x if many else x[0])
        return tuple(maps[i] for i in self.outputs)

    def format_table(self) -> str:
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
