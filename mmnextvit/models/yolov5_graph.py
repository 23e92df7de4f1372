"""The network of YOLOv5's model rows: a module for each row, and what joins them.

Rows come parsed and placed from :mod:`.yolov5_rows`. Nothing here needs MMYOLO.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from ..utils.errors import UserError
from .yolov5_modules import NORM_CFG
from .yolov5_row_rules import ROW_RULES, Scaling, parse_activation
from .yolov5_rows import (
    FeatureMap,
    PlacedRow,
    RowError,
    compute_factor,
    is_own,
    name_row,
    place_rows,
)

MAX_PARAMETERS = 10**9  # far above every published YAML
PROBE_CELLS = 32  # side of the map on which a user's module is tried


def build_row(row: PlacedRow, layers: dict) -> nn.Module:
    """Builds the module of a row, or a sequence of its copies.

    Args:
        row: The row.
        layers: ``norm_cfg`` and ``act_cfg`` of every convolution.

    Raises:
        RowError: The arguments do not fit the module.
    """
    rule = ROW_RULES[row.module]
    copies = 1 if rule.takes_repeats else row.copies
    if copies > 1 and (rule.many_inputs or row.in_channels != row.out_channels):
        raise row.error(
            f'{copies} copies in a row need as many channels in as out, not '
            f'{row.in_channels} and {row.out_channels}'
        )
    with name_row(row):
        widths = [x.channels for x in row.inputs]
        out, args = row.out_channels, row.args
        modules = [
            rule.build(widths, out, row.copies, args, layers) for _ in range(copies)
        ]
        built = nn.Sequential(*modules) if copies > 1 else modules[0]
    for module in built.modules():  # as YOLOv5, which goes through the whole model
        if isinstance(module, nn.BatchNorm2d):
            for key in ('eps', 'momentum'):
                setattr(module, key, layers['norm_cfg'].get(key, getattr(module, key)))
    return built


def check_output(row: PlacedRow, module: nn.Module) -> None:
    """Checks that a user's module computes the map that its rules promise.

    Raises:
        RowError: It cannot compute one, or gives other channels or another stride.
    """
    training = module.training
    cells = PROBE_CELLS, PROBE_CELLS
    x = [torch.zeros(1, each.channels, *cells) for each in row.inputs]
    with name_row(row), torch.no_grad():
        module.eval()
        y = module(x if ROW_RULES[row.module].many_inputs else x[0])
        module.train(training)
        if not isinstance(y, Tensor) or y.ndim != 4:
            got = f'maps of {tuple(y.shape)}' if isinstance(y, Tensor) else type(y)
            raise UserError(f'it gives {got}, not one map of shape (B, C, H, W)')
        if y.shape[1] != row.out_channels:
            raise UserError(
                f'its rule promises {row.out_channels} channels, and it gives '
                f'{y.shape[1]}: mend channels= in its register_row()'
            )
        wanted = PROBE_CELLS / compute_factor(row)
        if any(not wanted - 1 < side < wanted + 1 for side in y.shape[2:]):
            raise UserError(
                f'its rule promises a stride of {compute_factor(row)}, and it makes '
                f'{y.shape[2]}x{y.shape[3]} of {PROBE_CELLS}x{PROBE_CELLS} cells: mend '
                'stride= in its register_row()'
            )


def check_parameters(rows: Iterable[PlacedRow], layers: dict) -> None:
    """Checks that rows have at most :data:`MAX_PARAMETERS`, without memory for them.

    Raises:
        RowError: They have more, or a row cannot be built.
    """
    total = 0
    for row in rows:
        try:
            with torch.device('meta'):
                total += count_parameters(build_row(row, layers))
        except RowError:  # a user's class may compute numbers, which are not there
            if not is_own(row.module):
                raise
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
        norm_cfg: dict = NORM_CFG,
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
        for row, module in zip(placed, self.values()):
            if is_own(row.module):
                check_output(row, module)
        self.rows = placed
        self.maps = maps
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.out_maps = tuple(maps[i] for i in outputs)
        # mmcv's convolutions start as PyTorch leaves them, which is YOLOv5's start too.
        for module in self.modules():
            if isinstance(module, ConvModule):
                module.conv.reset_parameters()

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
