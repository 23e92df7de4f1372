"""The same picture as a file, an array and an image of Pillow's."""

import io
from pathlib import Path

from mmnextvit.datasets.image_inputs import load_input
from mmnextvit.datasets.images import BrokenImageError

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.helpers.turned_images import find_red, write_turned

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 30, 3), np.uint8)
GREY16 = RNG.integers(0, 1 << 16, (20, 30), np.uint16)


def make_image(mode: str) -> Image.Image:
    if mode == 'I;16':
        return Image.fromarray(GREY16)
    image = Image.fromarray(PIXELS)
    if mode in ('RGBA', 'LA'):
        image.putalpha(Image.fromarray(PIXELS[..., 0]))
    return image if mode == 'RGB' else image.convert(mode)


@pytest.mark.parametrize(
    'mode, suffix',
    [
        *((mode, 'png') for mode in ('RGB', 'RGBA', 'L', 'LA', 'P', '1', 'I;16')),
        # OpenCV multiplies the colours of a TIFF by its alpha.
        *((mode, 'tiff') for mode in ('RGB', 'L', 'P', '1', 'I;16')),
    ],
)
def test_pillow_sees_what_the_file_holds(mode, suffix, tmp_path):
    path = tmp_path / f'x.{suffix}'
    image = make_image(mode)
    image.save(path)
    wanted = load_input(path)
    assert wanted.shape == (20, 30, 3) and wanted.dtype == np.uint8
    for same in (image, Image.open(path)):
        assert (load_input(same) == wanted).all()
    assert (load_input(str(path)) == wanted).all()
    assert (load_input(cv2.imread(str(path))) == wanted).all()


def test_sixteen_bits_are_their_upper_eight():
    wanted = np.repeat((GREY16 >> 8).astype(np.uint8)[..., None], 3, 2)
    for image in (
        GREY16,
        Image.fromarray(GREY16),
        Image.fromarray(GREY16.astype('i4')),
    ):
        assert (load_input(image) == wanted).all()


def test_colours_are_in_the_order_of_each_library():
    red = Image.new('RGB', (4, 3), (200, 10, 30))
    assert load_input(red)[0, 0].tolist() == [30, 10, 200]
    array = np.full((3, 4, 4), (30, 10, 200, 77), np.uint8)
    assert load_input(array)[0, 0].tolist() == [30, 10, 200]
    grey = np.full((3, 4), 9, np.uint8)
    assert load_input(grey).tolist() == load_input(grey[..., None]).tolist()
    assert load_input(grey).shape == (3, 4, 3)
    flipped = load_input(PIXELS[:, ::-1])
    assert flipped.flags.c_contiguous and (flipped == PIXELS[:, ::-1]).all()


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_turns_what_pillow_opens(orientation, tmp_path):
    path = tmp_path / 'x.jpg'
    write_turned(path, orientation)
    wanted = load_input(path)
    with Image.open(path) as image:
        found = load_input(image)
    assert found.shape == wanted.shape
    assert find_red(found, channel=2) == find_red(wanted, channel=2)
    assert np.abs(found.astype(int) - wanted).max() <= 8  # decoders differ a little


@pytest.mark.parametrize(
    'image, problem',
    [
        (np.zeros((20, 30, 3), np.float32), 'float32: uint8'),
        (np.zeros((20, 30, 3), bool), 'bool: uint8'),
        (np.zeros((3, 20, 30), np.uint8), r'shape \(3, 20, 30\)'),
        (np.zeros((2, 20, 30, 3), np.uint8), r'shape \(2, 20, 30, 3\)'),
        (np.zeros((0, 30, 3), np.uint8), r'shape \(0, 30, 3\)'),
        (None, 'NoneType is no image: a path, a NumPy array'),
        (7, 'int is no image'),
        (Image.new('F', (4, 3)), 'mode F'),
        (Image.fromarray(np.full((3, 4), -1, np.int32)), 'values outside 0 to 65535'),
        ('no.jpg', 'no.jpg: '),
    ],
)
def test_what_is_no_image_is_an_error(image, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BrokenImageError, match=problem):
        load_input(image)


def test_a_broken_file_that_pillow_has_opened(tmp_path: Path):
    content = io.BytesIO()
    Image.fromarray(np.kron(PIXELS, np.ones((8, 8, 1), np.uint8))).save(content, 'PNG')
    half = Image.open(io.BytesIO(content.getvalue()[: len(content.getvalue()) // 2]))
    with pytest.raises(BrokenImageError, match='cannot be read'):
        load_input(half)
