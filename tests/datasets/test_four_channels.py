"""Images of four channels come whole and upright, from every file that holds them."""

import io
import struct
from pathlib import Path

from mmnextvit.datasets.image_inputs import load_input
from mmnextvit.datasets.images import BrokenImageError, load_image
from mmnextvit.runtime import ImageError, read

import numpy as np
import pytest
from PIL import Image, ImageOps

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 10, 4), np.uint8)  # R, G, B and a fourth

# Pillow does not turn each TIFF that it maps into memory, as those that are not packed.
SAVING = {
    'png': {},
    'webp': dict(lossless=True, exact=True),
    'tiff': dict(compression='tiff_lzw'),
}


def as_bgra(image: Image.Image) -> np.ndarray:
    return np.asarray(image)[..., [2, 1, 0, 3]]


def read_in_each_way(path: Path) -> list[np.ndarray]:
    """As the runtime reads it, as training does, and as programs give it."""
    return [
        read(path, 'RGBA'),
        load_image(str(path), 'bgra').image,
        load_image(str(path), 'bgra', 'pillow').image,
        load_input(path, 'bgra'),
        load_input(Image.open(path), 'bgra'),
    ]


@pytest.mark.parametrize('suffix', SAVING)
@pytest.mark.parametrize('orientation', range(1, 9))
def test_files_are_turned_and_keep_their_colours(suffix, orientation, tmp_path):
    path = tmp_path / f'x.{suffix}'
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif, **SAVING[suffix])
    with Image.open(path) as image:
        wanted = as_bgra(ImageOps.exif_transpose(image))
    assert (wanted.shape == (10, 6, 4)) == (orientation > 4)
    for found in read_in_each_way(path):
        np.testing.assert_array_equal(found, wanted)
    if suffix != 'tiff':  # the same picture as one of colours, which is drawn on
        np.testing.assert_array_equal(read(path), wanted[..., :3])


def write_tiff(order: str, big: bool, extra: int) -> bytes:
    """A TIFF of 8 bits without compression, of either byte order and size."""
    height, width = PIXELS.shape[:2]
    data = PIXELS.tobytes()
    number = 'Q' if big else 'I'
    bits = struct.pack(f'{order}4H', 8, 8, 8, 8)
    head = 16 if big else 8
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 4, head + len(data)),
        (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, head), (277, 3, 1, 4),
        (278, 3, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1),
        (338, 3, 1, extra),
    ]  # fmt: skip
    start = head + len(data) + len(bits)
    content = b'II' if order == '<' else b'MM'
    content += (
        struct.pack(f'{order}HHHQ', 43, 8, 0, start)
        if big
        else struct.pack(f'{order}HI', 42, start)
    )
    content += data + bits + struct.pack(f'{order}{"Q" if big else "H"}', len(entries))
    for tag, kind, count, value in entries:
        room = 8 if big else 4
        if kind == 3 and count * 2 <= room and not (big and count == 4):
            packed = struct.pack(f'{order}H', value)
        elif big and count == 4:
            packed = bits
        else:
            packed = struct.pack(f'{order}I', value)
        content += struct.pack(f'{order}HH{number}', tag, kind, count)
        content += packed.ljust(room, b'\0')
    return content + struct.pack(f'{order}{number}', 0)


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('extra', [0, 1, 2])
def test_a_tiff_of_every_kind(order, big, extra, tmp_path):
    path = tmp_path / 'x.tiff'
    path.write_bytes(write_tiff(order, big, extra))
    wanted = PIXELS[..., [2, 1, 0, 3]]
    np.testing.assert_array_equal(read(path, 'RGBA'), wanted)
    np.testing.assert_array_equal(load_image(str(path), 'bgra').image, wanted)


@pytest.mark.parametrize('suffix', ['png', 'webp', 'tiff'])
def test_files_that_end_early_are_errors_that_name_them(suffix, tmp_path):
    content = io.BytesIO()
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(PIXELS).save(content, suffix.upper(), exif=exif)
    path = tmp_path / f'x.{suffix}'
    for length in range(1, 120, 7):  # the header and the tags, not the last pixels
        path.write_bytes(content.getvalue()[:length])
        with pytest.raises(ImageError, match='x\\.'):
            read(path, 'RGBA')
        with pytest.raises(BrokenImageError, match='x\\.'):
            load_image(str(path), 'bgra')


@pytest.mark.parametrize('mode', ['LA', 'PA', 'P', 'RGB'])
def test_transparency_of_any_mode_is_a_fourth_channel(mode, tmp_path):
    image = Image.fromarray(PIXELS[..., :3])
    if mode in ('LA', 'PA'):
        image = image.convert(mode[0])
        image.putalpha(Image.fromarray(PIXELS[..., 3]))
        assert image.mode == mode
    else:
        image = image.convert(mode)
        some = image.getpixel((0, 0))
        image.info['transparency'] = some
    found = load_input(image, 'bgra')
    np.testing.assert_array_equal(found, as_bgra(image.convert('RGBA')))
    assert len({*found[..., 3].ravel()}) > 1
    if mode != 'PA':  # which no format of files has
        image.save(tmp_path / 'x.png')
        np.testing.assert_array_equal(load_input(tmp_path / 'x.png', 'bgra'), found)
        opened = Image.open(tmp_path / 'x.png')
        np.testing.assert_array_equal(load_input(opened, 'bgra'), found)


@pytest.mark.parametrize('mode', ['CMYK', 'RGB', 'L', 'P', 'I;16'])
def test_no_other_mode_has_four_channels(mode):
    image = Image.fromarray(PIXELS[..., :3]).convert('L' if mode[0] == 'I' else mode)
    image = image.convert(mode)
    with pytest.raises(BrokenImageError, match='has [13] channels?, and this detector'):
        load_input(image, 'bgra')


def test_a_grey_image_with_one_transparent_value_has_none(tmp_path):
    image = Image.fromarray(PIXELS[..., 0])
    image.save(tmp_path / 'x.png', transparency=7)
    for given in (tmp_path / 'x.png', Image.open(tmp_path / 'x.png')):
        with pytest.raises(BrokenImageError, match='has [13] channels?, and this'):
            load_input(given, 'bgra')
