"""JPEG files without their last bytes: no row is counted that is not the file's own.

The reference is the whole file: a row of the cut one counts if it looks the same.
"""

import io
import random
from collections.abc import Iterator
from pathlib import Path

from mmnextvit.datasets.cut_jpeg import measure_cut
from mmnextvit.datasets.images import BrokenImageError, load_image, read_image
from mmnextvit.engine.data_report import DataReportHook

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.helpers.bad_data import fake_runner

BCCD = Path(__file__).parents[3] / 'shared' / 'data' / 'bccd' / 'JPEGImages'


def decode(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def count_same_rows(whole: bytes, cut: bytes) -> int:
    """How many rows, from the top, look the same; 0 if ``cut`` cannot be decoded."""
    try:
        differ = decode(whole) != decode(cut)
    except OSError:
        return 0
    rows = differ.nonzero()[0]
    return int(rows[0]) if len(rows) else len(differ)


def draw(height: int = 160, width: int = 144) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    pixels = cv2.GaussianBlur(pixels, (0, 0), 1.5)
    pixels[: height // 4] = 128  # grey, as what is missing
    return Image.fromarray(pixels)


def encode(height: int = 160, **options: object) -> bytes:
    file = io.BytesIO()
    draw(height).save(file, 'JPEG', **options)
    return file.getvalue()


def cut_lengths(whole: bytes, count: int, seed: int) -> Iterator[int]:
    """Lengths near the end, and anywhere behind the headers."""
    rng = random.Random(seed)
    yield from (len(whole) - n for n in (1, 2, 3, 4, 5, 10, 20))
    yield from (rng.randrange(700, len(whole) - 2) for _ in range(count))


VARIANTS = {
    'baseline': {},
    'without subsampling': dict(subsampling=0),
    'best quality': dict(quality=100),
    'grey': dict(),
    'restarts': dict(restart_marker_blocks=5),
    'restarts after each block': dict(restart_marker_blocks=1),
    'restarts after each row': dict(restart_marker_rows=1),
    'progressive': dict(progressive=True),
    'progressive, best quality': dict(progressive=True, quality=100, subsampling=0),
    'progressive with restarts': dict(progressive=True, restart_marker_blocks=5),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', VARIANTS)
def test_rows_are_the_files_own(name):
    whole = encode(**VARIANTS[name])
    if name == 'grey':
        file = io.BytesIO()
        draw().convert('L').save(file, 'JPEG')
        whole = file.getvalue()
    for length in cut_lengths(whole, 30, seed=len(name)):
        cut = measure_cut(whole[:length])
        same = count_same_rows(whole, cut.content)
        assert cut.height == 160 or cut.rows == 0
        # The last row may get colours from below. A row of blocks, 8 or 16 pixels
        # high, may look right before all of it is read.
        assert cut.rows <= same + 1, length
        if 'progressive' not in name:
            assert cut.rows >= same - 16 or same <= 160 // 4 + 16, length
    assert measure_cut(whole[:-2]).rows == 160


def test_progressive_files_of_which_a_scan_is_missing():
    """All their rows decode, but blurred: none of them is complete."""
    whole = encode(progressive=True, quality=95)
    starts = [i for i in range(len(whole)) if whole[i : i + 2] == b'\xff\xda']
    assert len(starts) > 5
    for start in starts:
        for end in (start, start + 1, start + 4):
            assert measure_cut(whole[:end]).rows == 0
    assert 0 < measure_cut(whole[: (starts[-1] + len(whole)) // 2]).rows < 160


def test_files_filled_up_with_zeros():
    """As a broken download leaves them: zeros are data, of grey blocks."""
    whole = encode()
    half = len(whole) // 2
    expected = measure_cut(whole[:half]).rows
    assert 0 < expected < 120
    padded = measure_cut(whole[:half] + bytes(len(whole) - half))
    assert padded.rows in range(expected - 16, expected + 1)


@pytest.mark.parametrize('length', range(2, 640, 7))
def test_headers_that_are_cut(tmp_path, length):
    path = tmp_path / 'a.jpg'
    path.write_bytes(encode()[:length])
    with pytest.raises(BrokenImageError, match='a.jpg: the image is truncated'):
        read_image(str(path))


@pytest.mark.slow
@pytest.mark.parametrize('progressive', [False, True])
def test_enough_rows_are_used_and_reported(coco, log, progressive):
    whole = encode(400, progressive=progressive, quality=95)
    lengths = range(len(whole) - 3, len(whole) // 2, -150)
    enough = [n for n in lengths if measure_cut(whole[:n]).rows >= 0.95 * 400]
    assert enough and len(enough) < len(lengths) / 4
    coco.content['images'][2].update(width=144, height=400)
    coco.paths[2].write_bytes(whole[: enough[-1]])
    dataset = coco.build()
    image = dataset[2]['img']
    expected = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(image[:376].astype(int), expected[:376], atol=12)
    dataset[3]
    DataReportHook().after_train_epoch(fake_runner(None, dataset))
    coco.build(decode_all=True)
    assert len(log) == 2 and log[0] == log[1]
    assert log[0].startswith('1 of 8 images of') and 'last bytes' in log[0]
    assert log[0].endswith(f': {coco.paths[2]}')

    shorter = lengths[lengths.index(enough[-1]) + 1]
    coco.paths[2].write_bytes(whole[:shorter])
    with pytest.raises(BrokenImageError, match='truncated.*2.jpg|2.jpg.*truncated'):
        coco.build()[2]
    with pytest.raises(BrokenImageError, match='1 of 8 images are broken'):
        coco.build(decode_all=True)


def test_reading_a_cut_image_names_it(tmp_path, log):
    path = tmp_path / 'a.jpg'
    path.write_bytes(encode()[:-2])
    assert read_image(str(path)).shape == (160, 144, 3)
    (line,) = log
    assert line.startswith(f'{path}: the file lacks its last bytes. 160 of 160 rows')


def test_cut_image_that_exif_turns(tmp_path):
    path = tmp_path / 'a.jpg'
    exif = Image.Exif()
    exif[0x112] = 6
    draw().save(path, exif=exif)
    path.write_bytes(path.read_bytes()[:-2])
    assert load_image(str(path)).image.shape == (144, 160, 3)
    assert load_image(str(path), stated=(144, 160)).image.shape == (160, 144, 3)


if BCCD.is_dir():

    @pytest.mark.slow
    def test_real_images():
        used = 0
        for path in sorted(BCCD.glob('*.jpg'))[::40]:
            whole = path.read_bytes()
            for length in cut_lengths(whole, 3, seed=len(whole)):
                cut = measure_cut(whole[:length])
                same = count_same_rows(whole, cut.content)
                assert same - 16 <= cut.rows <= same + 1, (path, length)
                used += cut.rows >= 0.95 * cut.height
        assert used >= 50
