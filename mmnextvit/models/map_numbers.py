"""Which number a feature map has among YOLOv5's rows, and how levels weigh.

A whole backbone, such as NextViT, stands in row 0 of the patched YOLOv5's YAML and
gives the maps P1 to P5, numbered 0 to 4: map i has a stride of ``2 ** (i + 1)`` pixels
of the image. Where it has fewer maps, the first ones are missing. The next row is 5.
"""

import math

from ..utils.errors import UserError

NUM_MAPS = 5  # also the number of the first row behind a whole backbone
ROW_SHIFT = NUM_MAPS - 1  # by how much a row's number then exceeds its module's


def number_maps(count: int) -> tuple[int, ...]:
    """Numbers of the maps of a whole backbone that has ``count`` of them."""
    return tuple(range(NUM_MAPS - count, NUM_MAPS))


def get_map_stride(number: int) -> int:
    """Stride in pixels of a whole backbone's map of this number."""
    return 2 ** (number + 1)


def name_level(stride: float) -> str:
    """The level of a map of about this stride, such as 'P3' for 8 pixels."""
    return f'P{round(math.log2(stride))}'


def get_level_weights(levels: int) -> list[float]:
    """Weights of YOLOv5's objectness loss by level, for one to five levels.

    Raises:
        UserError: There are more.
    """
    if levels == 3:
        return [4.0, 1.0, 0.4]
    weights = [4.0, 1.0, 0.25, 0.06, 0.02]
    if levels > len(weights):
        raise UserError(f'a YOLOv5 head has 1 to {len(weights)} levels, not {levels}')
    return weights[:levels]
