"""A detector's feature maps: collected while it computes, and drawn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import cv2
import numpy as np
import torch
from mmengine.visualization import Visualizer
from torch import Tensor, nn

from ..models.map_numbers import name_level
from ..models.yolov5_graph import RowGraph
from .sheets import draw_captioned, draw_contact_sheet


@contextmanager
def collect_feature_maps(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects the maps that a detector computes while the context is open.

    These are the backbone's maps and the neck's, row by row where the part is a
    :class:`RowGraph` of YOLOv5's YAML.

    Args:
        model: A detector with a ``backbone`` and maybe a ``neck``.

    Yields:
        The first image's map (C, H, W) by name, on the CPU in float32, in the order
        of computation. Names are 'backbone P3', 'neck P3' (P3 has 1/2**3 of the
        image's width) and '05 SPPF' (row and module). A further image replaces
        them.
    """
    maps: dict[str, Tensor] = {}
    width = 0  # of the image that is computed

    def begin(module: nn.Module, args: tuple) -> None:
        nonlocal width
        maps.clear()
        width = args[0].shape[-1]

    def keep(name: str, output: Tensor) -> None:
        # A copy: the next module may work in place.
        maps[name] = output[0].detach().to('cpu', torch.float32, copy=True)

    def keep_row(name: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        keep(name, output)

    def keep_levels(
        part: str, module: nn.Module, args: tuple, outputs: Tensor | Sequence[Tensor]
    ) -> None:
        for i, output in enumerate([outputs] if torch.is_tensor(outputs) else outputs):
            name = f'{part} {name_level(width / output.shape[-1])}'
            keep(f'{name} map {i}' if name in maps else name, output)

    hooks = [model.backbone.register_forward_pre_hook(begin)]
    for part in ('backbone', 'neck'):
        module = getattr(model, part, None) or nn.Identity()
        graphs = [m for m in module.modules() if isinstance(m, RowGraph)]
        for graph in graphs:
            for row in graph.rows:
                hook = partial(keep_row, f'{row.number:02d} {row.module}')
                hooks.append(graph[str(row.number)].register_forward_hook(hook))
        if not graphs:
            hooks.append(module.register_forward_hook(partial(keep_levels, part)))
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def draw_heat(feature_map: Tensor, side: int) -> np.ndarray:
    """One channel (H, W) in colours from its minimum to its maximum, RGB.

    The longer side gets ``side`` pixels; cells stay visible. What is not finite is
    drawn as zero.
    """
    finite = torch.nan_to_num(feature_map, 0, 0, 0)
    colours = Visualizer.draw_featmap(finite[None])
    scale = side / max(finite.shape)
    size = [max(1, round(x * scale)) for x in (finite.shape[1], finite.shape[0])]
    return cv2.resize(
        colours, size, interpolation=cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    )


def format_shape(feature_map: Tensor) -> str:
    """``'64x80x80'``."""
    return 'x'.join(map(str, feature_map.shape))


def draw_channels(
    name: str, feature_map: Tensor, count: int = 32, columns: int = 8, side: int = 160
) -> np.ndarray:
    """The first channels of a map, each in colours of its own range.

    Args:
        name: For the title.
        feature_map: (C, H, W).
        count: Maximum number of channels to draw.
        columns: Channels in a row.
        side: Pixels of a channel's longer side.

    Returns:
        The image with a title, H x W x 3, RGB, uint8.
    """
    shown = feature_map[:count]
    sheet = draw_contact_sheet(
        [draw_heat(channel, side) for channel in shown], columns, gap=6
    )
    finite = feature_map[feature_map.isfinite()]
    values = 'no finite value'
    if len(finite):
        values = f'values {finite.min():.3g} to {finite.max():.3g}'
    if len(finite) < feature_map.numel():
        values += f', {feature_map.numel() - len(finite)} not finite (drawn as 0)'
    lines = (
        f'{name}, {format_shape(feature_map)} (channels x height x width), {values}',
        f'channels 0 to {len(shown) - 1} of {len(feature_map)}, row by row, '
        'each from its minimum (blue) to its maximum (red)',
    )
    return draw_captioned(sheet, lines, indent=6)


def draw_overview(
    image: np.ndarray, maps: dict[str, Tensor], columns: int = 5, side: int = 220
) -> np.ndarray:
    """The image and, for every map, the mean of its channels.

    Args:
        image: What the network saw, H x W x 3, RGB, uint8.
        maps: (C, H, W) each, by name, as of :func:`collect_feature_maps`.
        columns: Images in a row.
        side: Pixels of the longer side of each.

    Returns:
        The image with a title, H x W x 3, RGB, uint8.
    """
    scale = side / max(image.shape[:2])
    size = f'{image.shape[0]}x{image.shape[1]}'
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    tiles = [draw_captioned(image, ('the input', size), 0.45, side)]
    for name, feature_map in maps.items():
        mean = draw_heat(feature_map.mean(0), side)
        tiles.append(
            draw_captioned(mean, (name, format_shape(feature_map)), 0.45, side)
        )
    title = 'Mean over the channels, each from its minimum (blue) to its maximum (red)'
    return draw_captioned(
        draw_contact_sheet(tiles, columns, gap=12), (title,), indent=12
    )
