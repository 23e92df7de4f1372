"""Files that are predicted on."""

import io
import os
from pathlib import Path

from mmnextvit.datasets.images import read_image
from mmnextvit.datasets.sources import count_frames, find_files, find_inputs, is_video
from mmnextvit.runtime import (
    ImageError,
    Stream,
    find_sources,
    hide_secrets,
    name_sources,
    open_frames,
)
from mmnextvit.runtime import frames as frames_of_videos
from mmnextvit.utils.errors import MissingFileError, UserError

import cv2
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
        video.write(np.full((32, 48, 3), 40 * value % 256, np.uint8))
    video.release()
    return path


def test_a_video_has_frames_and_a_rate(tmp_path):
    path = write_video(tmp_path / 'a.AVI')
    assert is_video(path) and not is_video(tmp_path / 'avi.jpg')
    assert count_frames(path) == 3 and open_frames(path).rate == 5
    images = [frame.image for frame in open_frames(path)]
    assert [round(float(image.mean()) / 40) for image in images] == [0, 1, 2]
    assert {image.shape for image in images} == {(32, 48, 3)}


def test_an_image_is_one_frame(tmp_path):
    write_image(tmp_path / 'a.png')
    assert count_frames(tmp_path / 'a.png') == 1
    image = read_image(str(tmp_path / 'a.png'))
    np.testing.assert_array_equal(image, cv2.imread(str(tmp_path / 'a.png')))


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
    with pytest.raises(ImageError, match=r'a.avi: .*(no video|FIFO)'):
        list(open_frames(path))


class Stating:
    """A video that states something else than it has.

    Args:
        path: The video.
        stated: By OpenCV's numbers of properties.
    """

    def __init__(self, path: Path, stated: dict[int, float]) -> None:
        self._capture, self._stated = cv2.VideoCapture(str(path)), stated

    def get(self, number: int) -> float:
        return self._stated.get(number, self._capture.get(number))

    def __getattr__(self, name: str) -> object:
        return getattr(self._capture, name)


@pytest.mark.parametrize('rate', [0, -1, float('nan'), float('inf'), 1e9])
def test_rates_that_are_impossible(tmp_path, monkeypatch, rate):
    path = write_video(tmp_path / 'a.avi')
    stating = Stating(path, {cv2.CAP_PROP_FPS: rate})
    monkeypatch.setattr(frames_of_videos, 'open_capture', lambda name: stating)
    assert open_frames(path).rate == 25


@pytest.mark.parametrize('count', [0, -1, 2, 4, 1e12])
def test_counts_of_frames_that_are_wrong(tmp_path, monkeypatch, count):
    """All frames are read; only what is stated and missing was left out."""
    path = write_video(tmp_path / 'a.avi')
    stating = Stating(path, {cv2.CAP_PROP_FRAME_COUNT: count})
    monkeypatch.setattr(frames_of_videos, 'open_capture', lambda name: stating)
    assert count_frames(path) == (count if 1 < count < 10 else 1)
    video = open_frames(path)
    assert [frame.number for frame in video] == [0, 1, 2]
    assert video.left_out == {'broken': int(count == 4)}


def test_sources_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / 'a.jpg')
    with pytest.raises(UserError, match='a.jpg: this is a FIFO'):
        find_files(str(tmp_path / 'a.jpg'))
    with pytest.raises(UserError, match='/dev/zero: this is a device'):
        find_files('/dev/zero')
    assert find_files(str(tmp_path)) == [tmp_path / 'a.jpg']  # is named when it is read


# Lists, webcams and addresses


def test_lists_of_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'lists').mkdir()
    for name in ('lists/a.jpg', 'b.jpg', 'film.mp4', '7'):
        Path(name).touch()
    text = '\ufeffa.jpg\r\n\nb.jpg\n  film.mp4\nrtsp://me:word@cam/1\n0\n7\n'
    expected = [
        *(Path('lists/a.jpg'), Path('b.jpg'), Path('film.mp4')),
        *(Stream('rtsp://me:word@cam/1'), Stream(0), Path('7')),
    ]
    Path('lists/all.txt').write_text(text, encoding='utf-8')
    assert find_sources(['lists/all.txt']) == find_inputs('lists/all.txt') == expected
    expected[0] = Path('b.jpg')
    stdin = io.BytesIO(text.replace('a.jpg', 'b.jpg', 1).encode())
    assert find_sources(['-'], stdin) == expected
    assert find_sources(['7', '0', 'b.jpg', 'no.jpg', '*.jpg']) == [
        *(Path('7'), Stream(0), Path('b.jpg'), Path('no.jpg'), Path('b.jpg'))
    ]


@pytest.mark.parametrize(
    'content, problem, line',
    [
        ('a.jpg\n\nnone.jpg\n', "'none.jpg' does not exist: give a path", 3),
        ('\n \n', 'this list is empty: give a path in each line', None),
        ('a\0b', 'does not exist', 1),
    ],
)
def test_lists_that_cannot_be_used(content, problem, line, tmp_path):
    (tmp_path / 'a.jpg').touch()
    path = tmp_path / 'list.txt'
    path.write_text(content)
    with pytest.raises(UserError, match=problem) as error:
        find_inputs(str(path))
    assert error.value.file == str(path) and error.value.line == line


def test_inputs_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match='list.txt: this list of images cannot be read'):
        find_inputs(str(tmp_path / 'list.txt'))
    os.mkfifo(tmp_path / 'pipe.txt')
    with pytest.raises(UserError, match='pipe.txt: this list is no regular file'):
        find_inputs(str(tmp_path / 'pipe.txt'))
    with pytest.raises(MissingFileError, match='none.jpg does not exist, and matches'):
        find_inputs(str(tmp_path / 'none.jpg'))
    with pytest.raises(MissingFileError, match='There is no image or video in'):
        find_inputs(str(tmp_path))


def test_passwords_are_not_shown():
    shown = hide_secrets('rtsp://me:p@ss@cam:554/1?token=abc&x=1')
    assert shown == 'rtsp://***@cam:554/1?token=***&x=1'
    assert str(Stream('rtsp://me:word@cam/1')) == 'rtsp://***@cam/1'
    assert hide_secrets('a@b.jpg') == 'a@b.jpg' and str(Stream(2)) == 'webcam 2'


def test_names_of_what_is_made_of_sources():
    sources = [Path('x/a/1.jpg'), Path('x/b/1.jpg').absolute(), Stream(0)]
    sources.append(Stream('http://me:word@cam/1?key=2'))
    names = ['a/1.jpg', 'b/1.jpg', 'webcam_0', 'http_cam_1_key']
    assert name_sources(sources) == names
    assert name_sources(sources[2:]) == names[2:] and name_sources([]) == []


# Frames


def test_frames_a_second(tmp_path):
    """Ten a second, of which some lie on a coarser grid of time."""
    path = write_video(tmp_path / 'a.avi', 12, 10)
    numbers = {fps: [f.number for f in open_frames(path, fps)] for fps in (2, 4, 30)}
    assert numbers == {2: [0, 5, 10], 4: [0, 3, 5, 8, 10], 30: [*range(12)]}
    assert [open_frames(path, fps).rate for fps in (2, 30)] == [2, 10]


def break_video(path: Path) -> None:
    """Fills a tenth of a video's bytes, in its middle, with zeros."""
    content = bytearray(path.read_bytes())
    start, length = len(content) * 4 // 10, len(content) // 10
    content[start : start + length] = bytes(length)
    path.write_bytes(content)


def test_a_video_goes_on_behind_a_broken_part(tmp_path):
    path = write_video(tmp_path / 'a.avi', 60, 10)
    break_video(path)
    video = open_frames(path)
    given = list(video)
    assert 40 < len(given) < 60 and len(given) + video.left_out['broken'] == 60
    assert [frame.number for frame in given] == sorted({f.number for f in given})
    last = list(open_frames(write_video(tmp_path / 'b.avi', 60, 10)))[-1]
    np.testing.assert_array_equal(given[-1].image, last.image)


def test_a_video_that_was_cut(tmp_path):
    path = write_video(tmp_path / 'a.avi', 60, 10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video = open_frames(path)
    assert 10 < len(list(video)) == 60 - video.left_out['broken']


def test_webcams_that_are_not_there():
    with pytest.raises(ImageError, match='webcam 97 cannot be opened: there is none'):
        open_frames(Stream(97))
