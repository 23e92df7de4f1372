"""YOLOv5's YAML rows as a backbone and as a neck of a detector.

:class:`~mmnextvit.models.yolov5_graph.RowGraph` builds the rows;
:class:`YOLOv5YAMLBackbone` puts them behind the image, and :class:`YOLOv5YAMLNeck`
behind any backbone.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Unpack

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmyolo.registry import MODELS
from torch import Tensor

from ..utils.errors import UserError
from .freezing import freeze
from .map_numbers import NUM_MAPS, number_maps
from .yolov5_graph import RowGraph, RowOptions
from .yolov5_rows import FeatureMap


@MODELS.register_module()
class YOLOv5YAMLBackbone(BaseModule):
    """A backbone from YOLOv5's YAML rows, ``mmyolo.YOLOv5YAMLBackbone``.

    Args:
        rows: The YAML's ``backbone:``, each ``[from, number, module, args]``; the
            modules are those in :data:`ROW_RULES`.
        out_rows: Numbers of the rows that the neck's rows read, increasing, with the
            last one: the neck counts on from it.
        frozen_rows: How many rows, from the first, don't train; their BatchNorms stay
            in eval mode. YOLOv5's ``--freeze``.
        init_cfg: MMEngine's initialisation config.
        in_channels: Channels of the images; YOLOv5's ``ch``.
        **options: ``depth_multiple``, ``width_multiple``, ``activation``, ``norm_cfg``
            and ``num_outputs`` of :class:`RowGraph`.

    Raises:
        RowError: A row cannot be built; ``row`` is its number.
        UserError: Another argument is wrong; ``key`` is its name.
    """

    def __init__(
        self,
        rows: Sequence[Sequence],
        out_rows: Sequence[int],
        frozen_rows: int = 0,
        init_cfg: dict | list[dict] | None = None,
        in_channels: int = 3,
        **options: Unpack[RowOptions],
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_rows = check_increasing(out_rows, 'out_rows')
        if frozen_rows not in range(len(rows) + 1):
            raise UserError(
                f'{frozen_rows!r} is not allowed: write 0 to {len(rows)}',
                key='frozen_rows',
            )
        if self.out_rows[-1] != len(rows) - 1:
            raise UserError(
                f'{self.out_rows} must end with the last row, {len(rows) - 1}',
                key='out_rows',
            )
        self.frozen_rows = frozen_rows
        self.rows = RowGraph(
            rows,
            inputs={-1: FeatureMap(in_channels, Fraction(1))},
            outputs=self.out_rows,
            first_row=0,
            **options,
        )
        self._freeze()
        print_log(f'{type(self).__name__}:\n{self.rows.format_table()}', 'current')

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that ``forward`` returns."""
        return tuple(x.channels for x in self.rows.out_maps)

    @property
    def strides(self) -> tuple[int | Fraction, ...]:
        """Pixels of the image a cell, for the maps that ``forward`` returns."""
        strides = (x.stride for x in self.rows.out_maps)
        return tuple(int(s) if s.denominator == 1 else s for s in strides)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the maps of ``out_rows``.

        Args:
            x: Images (B, 3, H, W), sides a multiple of the largest stride.

        Returns:
            One (B, C, H/s, W/s) for each of ``out_rows``.
        """
        return self.rows([x])

    def train(self, mode: bool = True) -> 'YOLOv5YAMLBackbone':
        """Sets the training mode; frozen rows stay in eval mode."""
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        freeze(*(self.rows[str(number)] for number in range(self.frozen_rows)))


def check_increasing(rows: Sequence[int], key: str) -> tuple[int, ...]:
    """Numbers of rows as a tuple.

    Args:
        rows: The numbers.
        key: Name of the argument, for the error.

    Raises:
        UserError: There are none, or they do not increase.
    """
    rows = tuple(rows)
    if not rows or any(a >= b for a, b in zip(rows, rows[1:])):
        raise UserError(f'the rows {rows} must be numbers in increasing order', key=key)
    return rows


@MODELS.register_module()
class YOLOv5YAMLNeck(BaseModule):
    """A neck from YOLOv5's YAML rows, ``mmyolo.YOLOv5YAMLNeck``.

    Args:
        rows: The YAML's rows behind the backbone, each ``[from, number, module,
            args]``; the modules are those in :data:`ROW_RULES`.
        out_rows: Numbers of the rows that the head reads.
        in_channels: Channels of the backbone's maps. A :class:`FittedYOLODetector`
            fills this in, and the next two.
        in_strides: Strides of these maps, in pixels of the image.
        in_rows: Numbers of these maps, increasing; the first row follows the last.
            ``None`` numbers them as in the patched YOLOv5, the last one 4, so that the
            first row is 5: see :mod:`.map_numbers`.
        init_cfg: MMEngine's initialisation config.
        **options: As of :class:`YOLOv5YAMLBackbone`; the multiples scale these rows,
            not the backbone.

    Raises:
        RowError: A row cannot be built; ``row`` is its number.
        UserError: Another argument is wrong; ``key`` is its name.
    """

    def __init__(
        self,
        rows: Sequence[Sequence],
        out_rows: Sequence[int],
        in_channels: Sequence[int],
        in_strides: Sequence[int] = (4, 8, 16, 32),
        in_rows: Sequence[int] | None = None,
        init_cfg: dict | list[dict] | None = None,
        **options: Unpack[RowOptions],
    ) -> None:
        super().__init__(init_cfg)
        if in_rows is None:
            if len(in_channels) > NUM_MAPS:
                raise UserError(
                    f'{tuple(in_channels)}: at most {NUM_MAPS} maps have numbers of '
                    'their own; give in_rows for more',
                    key='in_channels',
                )
            in_rows = number_maps(len(in_channels))
        self.in_rows = check_increasing(in_rows, 'in_rows')
        if not len(in_channels) == len(in_strides) == len(self.in_rows):
            raise UserError(
                f'in_channels={tuple(in_channels)}, in_strides={tuple(in_strides)} and '
                f'the maps {self.in_rows} must be as many'
            )
        maps = (FeatureMap(c, Fraction(s)) for c, s in zip(in_channels, in_strides))
        self.rows = RowGraph(
            rows,
            inputs=dict(zip(self.in_rows, maps)),
            outputs=out_rows,
            first_row=self.in_rows[-1] + 1,
            **options,
        )
        print_log(f'{type(self).__name__}:\n{self.rows.format_table()}', 'current')

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that ``forward`` returns."""
        return tuple(x.channels for x in self.rows.out_maps)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image a cell, for the maps that ``forward`` returns."""
        return tuple(int(x.stride) for x in self.rows.out_maps)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Computes the maps for the head.

        Args:
            inputs: The backbone's maps, (B, C, H, W) each, in the order of ``in_rows``.

        Returns:
            One (B, C, H, W) for each of ``out_rows``.
        """
        return self.rows(inputs)
