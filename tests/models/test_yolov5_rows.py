"""Rows as they are parsed and placed, before a module is built."""

from fractions import Fraction

from mmnextvit.models.yolov5_row_rules import Scaling, check_multiple
from mmnextvit.models.yolov5_rows import FeatureMap, RowError, parse_row, place_rows
from mmnextvit.utils.errors import UserError

import pytest

from tests.helpers.yolov5_neck import CHANNELS, YAML

INPUTS = {i: FeatureMap(c, Fraction(4 << i - 1)) for i, c in enumerate(CHANNELS, 1)}


def test_places_all_rows_before_any_is_built():
    placed = place_rows(YAML, INPUTS, first_row=5, scaling=Scaling(0.33, 0.25))
    assert [row.number for row in placed.rows] == list(range(5, 20))
    assert {i: placed.maps[i] for i in (1, 5, 8, 13, 16, 19)} == {
        1: (96, 4),
        5: (256, 32),
        8: (640, 16),
        13: (64, 8),
        16: (128, 16),
        19: (256, 32),
    }
    assert placed.rows[4].copies == 1 and placed.rows[4].repeats == 3
    assert list(INPUTS) == [1, 2, 3, 4]


def test_a_row_is_parsed_by_itself():
    row = parse_row(7, [[-1, 3], 2, 'Concat', (1,)])
    assert (row.number, row.from_, row.repeats) == (7, (-1, 3), 2)
    assert (row.module, row.args) == ('Concat', [1])


@pytest.mark.parametrize(
    'row, message',
    [
        ([-1, 1, 'Contract', [None]], 'row 5: .*do not fit Contract'),
        ([-1, 1, 'nn.MaxPool2d', []], 'row 5: .*do not fit nn.MaxPool2d'),
        ([-1, 600, 'C3', [64]], 'row 6: .*more than 1000 repeats in all rows'),
    ],
)
def test_a_row_that_cannot_be_placed_is_named(row, message):
    with pytest.raises(RowError, match=message):
        place_rows([row, row], INPUTS, first_row=5, scaling=Scaling())


@pytest.mark.parametrize('multiple', [101, float('nan'), '1', None])
def test_a_multiple_out_of_range_is_told_the_range(multiple):
    with pytest.raises(UserError, match='a number above 0, not .*, and at most 100'):
        check_multiple(multiple)
