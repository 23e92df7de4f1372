"""YOLOv5's YAML rows as a backbone and as a neck of a detector.

:class:`~mmnextvit.models.yolov5_rows.RowGraph` builds the rows;
:class:`YOLOv5YAMLBackbone` puts them behind the image, and :class:`YOLOv5YAMLNeck`
behind any backbone.
"""

from collections.abc import Sequence
from fractions import Fraction

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmyolo.registry import MODELS
from torch import Tensor

from .yolov5_rows import FeatureMap, RowGraph


@MODELS.register_module()
class YOLOv5YAMLBackbone(BaseModule):
    """A backbone from YOLOv5's YAML rows, ``mmyolo.YOLOv5YAMLBackbone``.

    Args:
        rows: The YAML's ``backbone:``, each ``[from, number, module, args]``; the
            modules are those in :data:`ROW_MODULES`.
        out_rows: Numbers of the rows that the neck's rows read, increasing, with the
            last one: the neck counts on from it.
        depth_multiple: The YAML's, scales repeats.
        width_multiple: The YAML's, scales channels.
        activation: The YAML's ``activation:``, such as 'nn.ReLU()'; ``None`` is SiLU.
        norm_cfg: Config of every BatchNorm2d.
        num_outputs: As in :class:`RowGraph`.
        frozen_rows: How many rows, from the first, don't train; their BatchNorms stay
            in eval mode. YOLOv5's ``--freeze``.
        init_cfg: MMEngine's initialisation config.

    Raises:
        ValueError: A row cannot be built; the message has its number and text.
    """

    def __init__(
        self,
        rows: Sequence[Sequence],
        out_rows: Sequence[int],
        depth_multiple: float = 1.0,
        width_multiple: float = 1.0,
        activation: str | None = None,
        norm_cfg: dict = dict(type='BN', eps=1e-3, momentum=0.03),
        num_outputs: int | None = None,
        frozen_rows: int = 0,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.out_rows = check_in_rows(out_rows)
        if frozen_rows not in range(len(rows) + 1):
            raise ValueError(
                f'frozen_rows={frozen_rows!r}: allowed are 0 to {len(rows)}'
            )
        if self.out_rows[-1] != len(rows) - 1:
            raise ValueError(
                f'out_rows={self.out_rows} must end with the last row, {len(rows) - 1}'
            )
        self.frozen_rows = frozen_rows
        self.rows = RowGraph(
            rows,
            inputs={-1: FeatureMap(3, Fraction(1))},
            outputs=self.out_rows,
            first_row=0,
            depth_multiple=depth_multiple,
            width_multiple=width_multiple,
            activation=activation,
            norm_cfg=norm_cfg,
            num_outputs=num_outputs,
        )
        self._freeze()
        print_log(f'{type(self).__name__}:\n{self.rows.table()}', 'current')

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
        for number in range(self.frozen_rows):
            self.rows[str(number)].eval().requires_grad_(False)


def check_in_rows(rows: Sequence[int]) -> tuple[int, ...]:
    rows = tuple(rows)
    if not rows or any(a >= b for a, b in zip(rows, rows[1:])):
        raise ValueError(f'the rows {rows} must be numbers in increasing order')
    return rows


@MODELS.register_module()
class YOLOv5YAMLNeck(BaseModule):
    """A neck from YOLOv5's YAML rows, ``mmyolo.YOLOv5YAMLNeck``.

    Args:
        rows: The YAML's rows behind the backbone, each ``[from, number, module,
            args]``; the modules are those in :data:`ROW_MODULES`.
        out_rows: Numbers of the rows that the head reads.
        in_channels: Channels of the backbone's maps. A :class:`FittedYOLODetector`
            fills this in, and the next two.
        in_strides: Strides of these maps, in pixels of the image.
        in_rows: Numbers of these maps, increasing; the first row follows the last.
            ``None`` pads them in front to five, P1 to P5, numbered 0 to 4: the first
            row is 5, as in the patched YOLOv5.
        depth_multiple: The YAML's, scales repeats.
        width_multiple: The YAML's, scales channels of the rows, not the backbone's.
        activation: The YAML's ``activation:``, such as 'nn.ReLU()'; ``None`` is SiLU.
        norm_cfg: Config of every BatchNorm2d.
        num_outputs: As in :class:`RowGraph`.
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
        in_rows: Sequence[int] | None = None,
        depth_multiple: float = 1.0,
        width_multiple: float = 1.0,
        activation: str | None = None,
        norm_cfg: dict = dict(type='BN', eps=1e-3, momentum=0.03),
        num_outputs: int | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if in_rows is None:
            if len(in_channels) > self.NUM_MAPS:
                raise ValueError(
                    f'in_channels={tuple(in_channels)}: at most {self.NUM_MAPS} maps '
                    'have numbers of their own; give in_rows for more'
                )
            in_rows = range(self.NUM_MAPS - len(in_channels), self.NUM_MAPS)
        self.in_rows = check_in_rows(in_rows)
        if not len(in_channels) == len(in_strides) == len(self.in_rows):
            raise ValueError(
                f'in_channels={tuple(in_channels)}, in_strides={tuple(in_strides)} and '
                f'the maps {self.in_rows} must be as many'
            )
        maps = (FeatureMap(c, Fraction(s)) for c, s in zip(in_channels, in_strides))
        self.rows = RowGraph(
            rows,
            inputs=dict(zip(self.in_rows, maps)),
            outputs=out_rows,
            first_row=self.in_rows[-1] + 1,
            depth_multiple=depth_multiple,
            width_multiple=width_multiple,
            activation=activation,
            norm_cfg=norm_cfg,
            num_outputs=num_outputs,
        )
        print_log(f'{type(self).__name__}:\n{self.rows.table()}', 'current')

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
