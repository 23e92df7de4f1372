"""FIFOs, devices and odd images: one message each, and nothing waits for ever."""

import os
from collections.abc import Callable
from pathlib import Path

from mmnextvit.datasets.data_yaml import find_images, read_data_yaml
from mmnextvit.datasets.images import BrokenImageError, read_image, read_image_size
from mmnextvit.utils.errors import UserError

import cv2
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

from tests.helpers.bad_data import LOAD


def replace_by_fifo(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    'read', [read_image, read_image_size, read_data_yaml, find_images]
)
@pytest.mark.parametrize('kind', ['FIFO', 'device', 'folder'])
def test_readers_refuse_what_is_no_file(tmp_path, read: Callable, kind):
    path = tmp_path / 'a.txt'
    if kind == 'FIFO':
        os.mkfifo(path)
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    else:
        path.mkdir()
        if read is find_images:
            return
    with pytest.raises(UserError, match=f'a.txt: this is a {kind}, not a file'):
        read(str(path))


def test_coco_data_of_fifos(coco):
    replace_by_fifo(coco.paths[2])
    with pytest.raises(BrokenImageError, match='2.jpg: this is a FIFO.*sample 2'):
        coco.build()[2]
    with pytest.raises(BrokenImageError, match='1 of 8 images are broken'):
        coco.build(decode_all=True)
    replace_by_fifo(coco.root / 'pipe.json')
    with pytest.raises(UserError, match='pipe.json: this is a FIFO'):
        coco.build(ann_file='pipe.json')
    with pytest.raises(UserError, match='/dev/zero: this is a device'):
        coco.build(ann_file='/dev/zero')


def test_voc_data_of_fifos(voc):
    replace_by_fifo(voc.root / 'Annotations' / '2.xml')
    with pytest.raises(UserError, match='2.xml: this is a FIFO'):
        voc.build()
    replace_by_fifo(voc.root / 'train.txt')
    with pytest.raises(UserError, match='train.txt: this is a FIFO'):
        voc.build()


def test_yolo_data_of_fifos(yolo):
    yolo.build()
    replace_by_fifo(yolo.cache)
    assert len(yolo.build()) == 8  # reads all anew
    replace_by_fifo(yolo.label(3))
    with pytest.raises(UserError, match='3.txt: this is a FIFO'):
        yolo.build()
    replace_by_fifo(yolo.images[3])
    with pytest.raises(UserError, match='1 of the 8 images(.*\n)+.*this is a FIFO'):
        yolo.build()
    replace_by_fifo(yolo.root / 'data.yaml')
    with pytest.raises(UserError, match='data.yaml: this is a FIFO'):
        yolo.build()


@pytest.mark.parametrize('size', [(2, 30000), (30000, 2), (1, 1), (1, 70000)])
@pytest.mark.parametrize(
    'steps',
    [
        [dict(type='mmdet.Resize', scale=(64, 64), keep_ratio=True)],
        [dict(type='mmdet.FixScaleResize', scale=(64, 64), keep_ratio=True)],
        [
            dict(type='mmyolo.YOLOv5KeepRatioResize', scale=(64, 64)),
            dict(type='mmyolo.LetterResize', scale=(64, 64)),
        ],
    ],
)
def test_long_images_are_resized(tmp_path, size, steps):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), np.zeros((*size, 3), np.uint8))
    results = dict(img_path=str(path), width=size[1], height=size[0])
    for step in (*LOAD, *steps):
        results = TRANSFORMS.build(step)(results)
    assert min(results['img'].shape[:2]) >= 1 and max(results['img'].shape[:2]) <= 64
    assert all(0 < factor < 100 for factor in results['scale_factor'])
