"""Damaged images: a smaller count than the script's, which is run by hand."""

import pytest

from tests.helpers.fuzz_images import run


@pytest.mark.slow
def test_damaged_images_give_an_image_or_one_message(tmp_path):
    outcomes, wrong = run(210, tmp_path, seed=1)
    assert not wrong, wrong
    assert sum(outcomes.values()) == 210
    assert {'jpeg: cut image', 'png: message', 'bmp: image'} <= outcomes.keys()
