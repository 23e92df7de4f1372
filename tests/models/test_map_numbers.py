"""The numbers of a whole backbone's maps, and the stages of NextViT's blocks."""

from mmnextvit.models.map_numbers import (
    NUM_MAPS,
    ROW_SHIFT,
    get_map_stride,
    name_level,
    number_maps,
)
from mmnextvit.models.nextvit_arch import compute_stage_bounds

import pytest


def test_maps_end_with_number_4():
    assert number_maps(4) == (1, 2, 3, 4) and number_maps(1) == (4,)
    assert number_maps(NUM_MAPS) == (0, 1, 2, 3, 4)
    assert ROW_SHIFT == 4


def test_strides_and_levels_of_the_maps():
    strides = [get_map_stride(number) for number in number_maps(5)]
    assert strides == [2, 4, 8, 16, 32]
    assert [name_level(s) for s in strides] == ['P1', 'P2', 'P3', 'P4', 'P5']
    assert name_level(97 / 13) == 'P3'  # a map whose size was rounded


@pytest.mark.parametrize(
    'depths, bounds',
    [((3, 4, 10, 3), (0, 3, 7, 17, 20)), ((3, 4), (0, 3, 7)), ((), (0,))],
)
def test_stage_bounds(depths, bounds):
    assert compute_stage_bounds(depths) == bounds
