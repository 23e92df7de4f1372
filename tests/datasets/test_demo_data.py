"""The demo's data, and that what was there before stays."""

import errno
import filecmp
import shutil
from pathlib import Path

from mmnextvit.datasets import demo_data as maker

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.helpers.full_disk import limit_file_size

NUMBERS = dict(train=6, val=3, size=64, seed=3)


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('demo') / 'data'
    assert maker.make_demo_data(out, **NUMBERS)
    return out


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


def test_same_arguments_give_the_same_files(data, tmp_path):
    maker.make_demo_data(tmp_path / 'again', **NUMBERS)
    names = files(data)
    assert len(names) == 6 + 3 + 2 and names == files(tmp_path / 'again')
    assert filecmp.cmpfiles(data, tmp_path / 'again', names, shallow=False)[0] == names


def test_a_full_disk_leaves_nothing(tmp_path):
    out = tmp_path / 'data'
    with limit_file_size(1000), pytest.raises(OSError) as error:
        maker.make_demo_data(out, **NUMBERS)
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(out)
    assert not any(tmp_path.iterdir())


def test_seed_split_and_number_make_the_image(data, tmp_path):
    maker.make_demo_data(tmp_path / 'more', **{**NUMBERS, 'train': 7})
    maker.make_demo_data(tmp_path / 'other', **{**NUMBERS, 'seed': 4})
    first = (data / 'train' / '000000.jpg').read_bytes()
    assert first == (tmp_path / 'more' / 'train' / '000000.jpg').read_bytes()
    assert first != (tmp_path / 'other' / 'train' / '000000.jpg').read_bytes()
    assert first != (data / 'val' / '000000.jpg').read_bytes()


def test_boxes_hold_the_shapes(data):
    """The box is that of the pixels that differ from the ground around it."""
    coco = COCO(data / 'annotations' / 'train.json')
    # Tools for COCO's files look at the `supercategory` and the licenses, too.
    assert coco.dataset['licenses'] == []
    ids = coco.getCatIds(supNms=['shape'])
    assert [c['name'] for c in coco.loadCats(ids)] == [*maker.CLASSES]
    sizes = []
    for info in coco.loadImgs(coco.getImgIds()):
        image = cv2.imread(str(data / 'train' / info['file_name']))
        assert image.shape == (info['height'], info['width'], 3) == (64, 64, 3)
        saturation = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[..., 1].astype(float)
        boxes = coco.loadAnns(coco.getAnnIds(info['id']))
        assert 1 <= len(boxes) <= 4
        for box in boxes:
            x, y, w, h = box['bbox']
            assert x >= 0 and y >= 0 and x + w <= 64 and y + h <= 64
            mask = coco.annToMask(box).astype(bool)
            ys, xs = mask.nonzero()
            assert abs(xs.min() - x) <= 1 and abs(xs.max() + 1 - x - w) <= 1
            assert abs(ys.min() - y) <= 1 and abs(ys.max() + 1 - y - h) <= 1
            assert abs(mask.sum() - box['area']) < 0.15 * box['area']
            inside = mask & (cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0)
            assert saturation[inside].mean() > 100
            sizes.append(w)
    assert max(sizes) > 1.5 * min(sizes)


def test_same_data_are_kept(data, tmp_path):
    shutil.copytree(data, tmp_path / 'data')
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'data').rglob('*')}
    assert not maker.make_demo_data(tmp_path / 'data', **NUMBERS)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / 'data').rglob('*')}


def test_anything_else_is_not_overwritten(data, tmp_path):
    shutil.copytree(data, tmp_path / 'data')
    with pytest.raises(ValueError, match='data holds something else.*--out'):
        maker.make_demo_data(tmp_path / 'data', **{**NUMBERS, 'val': 4})
    (tmp_path / 'data' / 'val' / '000001.jpg').unlink()
    with pytest.raises(ValueError, match='nothing is overwritten'):
        maker.make_demo_data(tmp_path / 'data', **NUMBERS)
    (tmp_path / 'foreign').mkdir()
    (tmp_path / 'foreign' / 'thesis.txt').write_text('years of work')
    with pytest.raises(ValueError, match='foreign holds something else'):
        maker.make_demo_data(tmp_path / 'foreign', **NUMBERS)
    assert files(tmp_path / 'foreign') == ['thesis.txt']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['data', 'foreign']


def test_empty_folder_is_filled(tmp_path):
    assert maker.make_demo_data(tmp_path, **NUMBERS)
    assert len(files(tmp_path)) == 11


@pytest.mark.parametrize(
    'change', [dict(size=31), dict(size=99_999), dict(train=0), dict(seed=-1)]
)
def test_numbers_out_of_range(tmp_path, change):
    with pytest.raises(ValueError, match='train and val must be at least 1, seed at'):
        maker.make_demo_data(tmp_path / 'data', **{**NUMBERS, **change})
