"""FIFOs, devices and odd images: one message each, and nothing waits for ever."""

import os
from collections.abc import Callable
from pathlib import Path

from mmnextvit.datasets.data_yaml import find_images, read_data_yaml
from mmnextvit.datasets.images import BrokenImageError, read_image, read_image_size
from mmnextvit.datasets.sources import (
    count_frames,
    find_files,
    is_video,
    read_frame_rate,
    read_frames,
)
from mmnextvit.utils.errors import UserError

import cv2
import mmcv
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

from tests.helpers.bad_data import LOAD, write_image


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


# ---------------------------------------------------------------------------- sources


def write_video(path: Path, frames: int = 3, rate: float = 5) -> Path:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), rate, (48, 32))
    for value in range(frames):
        video.write(np.full((32, 48, 3), 40 * value, np.uint8))
    video.release()
    return path


def test_a_video_has_frames_and_a_rate(tmp_path):
    path = write_video(tmp_path / 'a.AVI')
    assert is_video(path) and not is_video(tmp_path / 'avi.jpg')
    assert count_frames(path) == 3 and read_frame_rate(path) == 5
    frames = list(read_frames(path))
    assert [round(float(frame.mean()) / 40) for frame in frames] == [0, 1, 2]
    assert {frame.shape for frame in frames} == {(32, 48, 3)}


def test_an_image_is_one_frame(tmp_path):
    write_image(tmp_path / 'a.png')
    assert count_frames(tmp_path / 'a.png') == 1
    (frame,) = read_frames(tmp_path / 'a.png')
    np.testing.assert_array_equal(frame, cv2.imread(str(tmp_path / 'a.png')))


@pytest.mark.parametrize('kind', ['no video', 'cut', 'FIFO'])
def test_videos_that_cannot_be_read(tmp_path, kind):
    path = tmp_path / 'a.avi'
    if kind == 'FIFO':
        os.mkfifo(path)
    elif kind == 'cut':
        path.write_bytes(write_video(tmp_path / 'b.avi').read_bytes()[:100])
    else:
        path.write_text(kind)
    assert count_frames(path) == 1
    with pytest.raises(BrokenImageError, match=r'a.avi: .*(no video|FIFO)'):
        list(read_frames(path))


@pytest.mark.parametrize('rate', [0, -1, float('nan'), float('inf'), 1e9])
def test_rates_that_are_impossible(tmp_path, monkeypatch, rate):
    monkeypatch.setattr(mmcv.VideoReader, 'fps', rate)
    assert read_frame_rate(write_video(tmp_path / 'a.avi')) == 25


def test_a_count_of_frames_below_one(tmp_path, monkeypatch):
    path = write_video(tmp_path / 'a.avi')
    monkeypatch.setattr(mmcv.VideoReader, '__len__', lambda self: 0)
    assert count_frames(path) == 1


def test_sources_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / 'a.jpg')
    with pytest.raises(UserError, match='a.jpg: this is a FIFO'):
        find_files(str(tmp_path / 'a.jpg'))
    with pytest.raises(UserError, match='/dev/zero: this is a device'):
        find_files('/dev/zero')
    assert find_files(str(tmp_path)) == [tmp_path / 'a.jpg']  # is named when it is read
