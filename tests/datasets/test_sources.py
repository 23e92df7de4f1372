"""Files that are predicted on."""

import os
from pathlib import Path

from mmnextvit.datasets.images import BrokenImageError
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

from tests.helpers.bad_data import write_image


def test_files_of_folder_and_pattern(tmp_path: Path) -> None:
    (tmp_path / 'a' / 'b').mkdir(parents=True)
    files = [tmp_path / 'a' / '1.JPG', tmp_path / 'a' / 'b' / '[2].png']
    for path in (*files, tmp_path / 'a' / 'x.txt'):
        path.touch()
    assert find_files(str(tmp_path / 'a')) == files[:1]
    assert find_files(str(tmp_path / '**' / '*.[pJ]*')) == files
    assert find_files(str(files[1])) == files[1:]


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


@pytest.mark.parametrize('count', [0, -1])
def test_a_count_of_frames_below_one(tmp_path, monkeypatch, count):
    path = write_video(tmp_path / 'a.avi')
    monkeypatch.setattr(mmcv.VideoReader, 'frame_cnt', count)
    assert count_frames(path) == 1


def test_sources_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / 'a.jpg')
    with pytest.raises(UserError, match='a.jpg: this is a FIFO'):
        find_files(str(tmp_path / 'a.jpg'))
    with pytest.raises(UserError, match='/dev/zero: this is a device'):
        find_files('/dev/zero')
    assert find_files(str(tmp_path)) == [tmp_path / 'a.jpg']  # is named when it is read
