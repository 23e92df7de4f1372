"""Predictions on streams and videos, by a predictor that needs no network."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mmnextvit.engine.prediction import (
    Entries,
    LeftOut,
    Unreadable,
    open_results,
    predict_files,
)
from mmnextvit.runtime import (
    Choices,
    ImageError,
    Stream,
    frames,
    open_frames,
    open_video,
    stop_by_key,
)

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from tests.helpers.full_disk import limit_file_size
from tests.helpers.mjpeg_server import serve_mjpeg


class BrightPredictor:
    """Finds white squares, or nothing where the image is even."""

    classes = ['thing/one']

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def detect(self, image: np.ndarray, score_thr: float) -> DetDataSample:
        grey = (image[..., 0] > 200).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(grey)
        boxes = [(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:].tolist()]
        found = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float).reshape(-1, 4),
            scores=torch.full([len(boxes)], 0.9),
            labels=torch.zeros(len(boxes), dtype=torch.long),
        )
        return DetDataSample(pred_instances=found)

    def detect_prepared(self, images: list, score_thr: float) -> list[DetDataSample]:
        self.sizes.append(len(images))
        return [self.detect(image, score_thr) for image in images]

    def list_objects(self, sample: DetDataSample) -> list[dict[str, object]]:
        boxes = sample.pred_instances.bboxes.tolist()
        return [{'class': 'thing/one', 'score': 0.9, 'box': box} for box in boxes]

    def draw(self, image: np.ndarray, sample: DetDataSample) -> np.ndarray:
        return image


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Tries to connect again follow at once."""
    monkeypatch.setattr(frames, 'FIRST_WAIT', 0.01)


def find(sources: list, out: Path, predictor=None, **choices) -> Iterator:
    return predict_files(
        *(predictor or BrightPredictor(), sources, out),
        show_progress=False,
        prepare=lambda image: image,
        choices=Choices(**choices),
    )


def draw_squares(number: int) -> np.ndarray:
    """Two squares: one moves to the right, and one down."""
    image = np.zeros((96, 128, 3), np.uint8)
    image[10:26, 4 + 3 * number : 20 + 3 * number] = 255
    image[40 + 2 * number : 56 + 2 * number, 90:106] = 255
    return image


@pytest.fixture
def film(tmp_path: Path) -> Path:
    with open_video(tmp_path / 'film.mp4', 10) as write:
        for number in range(12):
            write(draw_squares(number))
    return tmp_path / 'film.mp4'


def test_a_stream_that_is_dropped_and_comes_back(tmp_path, capfd):
    with serve_mjpeg(20, 15) as address:
        given = find([Stream(address)], tmp_path, save_video=True, reconnect=2)
        *entries, last = given
    assert isinstance(last, Unreadable) and 'were' not in last.path
    name = address.replace('me:word@', '***@')
    assert last.path == name and '2 tries to connect again failed' in last.reason
    assert last.reason.startswith(f'{name} was lost after ')
    assert {entry['file'] for entry in entries} == {name}
    numbers = [entry['frame'] for entry in entries]
    assert numbers == sorted(set(numbers)) and 20 < numbers[-1] < 35
    assert all(abs(entry['time'] - time.time()) < 60 for entry in entries)
    assert 'try 1 of 2 to connect again' in capfd.readouterr().err
    (video,) = (tmp_path / 'drawn').iterdir()  # what there was until it was lost
    assert entries[0]['drawn'] == f'drawn/{video.name}' and 'word' not in video.name
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) > 5


def test_a_stream_that_may_end_is_not_drawn_unless_asked(tmp_path):
    with serve_mjpeg(10) as address:
        found = [*find([Stream(address)], tmp_path, reconnect=0)]
    entries = [
        one for one in found if not isinstance(one, LeftOut)
    ]  # on a busy machine
    assert entries and all(
        e.keys() == {'file', 'frame', 'time', 'objects'} for e in entries
    )
    assert not any(tmp_path.iterdir())


def test_late_frames_are_dropped_and_not_queued():
    with serve_mjpeg(60, pause=0.01) as address:
        live = open_frames(Stream(address), reconnect=0)
        numbers = []
        for frame in live:
            numbers.append(frame.number)
            time.sleep(0.1)
    assert len(numbers) < 25 and live.left_out['dropped'] > 20
    assert numbers[1] - numbers[0] > 2


def test_frames_a_second_of_a_stream():
    with serve_mjpeg(40, pause=0.01) as address:
        live = open_frames(Stream(address), fps=4, reconnect=0)
        seconds = [frame.seconds for frame in live]
    assert live.rate == 4 and len(seconds) < 10
    assert not seconds[1:] or min(np.diff(seconds)) > 0.1


def test_streams_that_are_not_there(tmp_path):
    with serve_mjpeg() as address:
        (one,) = find([Stream(address)], tmp_path)
    assert 'me:word' not in one.reason and 'Check the address' in one.reason
    with serve_mjpeg(3) as address:
        live = open_frames(Stream(address), reconnect=1)
        with pytest.raises(ImageError, match='1 tries to connect again failed'):
            list(live)


def test_an_interrupt_leaves_whole_files_of_a_stream(tmp_path):
    out = tmp_path / 'out'
    with (
        serve_mjpeg(10_000) as address,
        pytest.raises(KeyboardInterrupt),
        open_results(out, {}, (), True) as result,
    ):
        given = find([Stream(address)], out, save_video=True)
        for number, one in enumerate(given):
            result.predictions.add(one)
            if number == 5:
                given.throw(KeyboardInterrupt)
    content = json.loads((out / 'predictions.json').read_text())
    lines = (out / 'predictions.jsonl').read_text().splitlines()
    assert list(map(json.loads, lines)) == content['predictions'] and len(lines) == 6
    assert content['partial'].startswith('interrupted')
    (video,) = (out / 'drawn').iterdir()
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) > 1


def test_lines_are_there_while_it_runs(tmp_path):
    lines = tmp_path / 'predictions.jsonl'
    entries = Entries(tmp_path, lines)
    for number in range(3):
        entries.append({'frame': number})
        assert len(lines.read_text().splitlines()) == number + 1
    assert list(entries) == [{'frame': number} for number in range(3)]
    with pytest.raises(FileExistsError):
        Entries(tmp_path, lines)


def test_a_full_disk_leaves_whole_lines(tmp_path):
    entries = Entries(tmp_path, tmp_path / 'a.jsonl')
    entries.append({'frame': 0})
    with limit_file_size(20), pytest.raises(OSError, match='File too large'):
        entries.append({'frame': 1})
    assert (tmp_path / 'a.jsonl').read_text() == '{"frame": 0}\n'
    entries.append({'frame': 2})
    assert list(entries) == [{'frame': 0}, {'frame': 2}]


def test_frames_that_are_left_out_are_told(film, tmp_path, capfd):
    content = film.read_bytes()
    middle = len(content) // 3
    film.write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
    *entries, last = find([film], tmp_path / 'out')
    broken = 12 - len(entries)
    assert last == LeftOut(str(film), {'broken': broken}) and 0 < broken < 12
    noun = 'frame' if broken == 1 else 'frames'
    said = f'{film}: left out {broken} {noun} that could not be decoded\n'
    assert said in capfd.readouterr().err
    with open_results(tmp_path / 'r', {}) as results:
        results.predictions.add(last)
    content = json.loads((tmp_path / 'r' / 'predictions.json').read_text())
    assert content['left_out'] == {str(film): {'broken': broken}}


@pytest.mark.parametrize('size', [2, 5, 100])
def test_batches_find_the_same(film, tmp_path, size):
    for number in range(7):
        cv2.imwrite(str(tmp_path / f'{number}.png'), draw_squares(number))
    (tmp_path / '3.png').write_bytes(b'broken')
    sources = [film, *sorted(tmp_path.glob('*.png'))]
    predictor = BrightPredictor()
    given = [*find(sources, tmp_path / 'a', predictor, batch=size)]
    assert given == [*find(sources, tmp_path / 'b')] and len(given) == 19
    assert max(predictor.sizes) == min(size, 12)


def test_one_image_that_fails_in_a_batch_costs_no_other(tmp_path):
    class Fussy(BrightPredictor):
        def detect(self, image, score_thr):
            if image.shape[1] == 33:
                raise MemoryError
            return super().detect(image, score_thr)

    for number in range(6):
        image = np.zeros((32, 30 + number, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f'{number}.png'), image)
    given = [*find(sorted(tmp_path.glob('*.png')), tmp_path / 'o', Fussy(), batch=6)]
    assert [isinstance(one, Unreadable) for one in given] == [
        number == 3 for number in range(6)
    ]


def test_crops_and_no_drawings(film, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), draw_squares(0))
    out = tmp_path / 'out'
    given = [*find([tmp_path / 'a.png', film], out, no_draw=True, save_crops=True)]
    assert len(given) == 13 and not any('drawn' in entry for entry in given)
    assert [path.name for path in out.iterdir()] == ['crops']
    folder = out / 'crops' / 'thing_one'
    names = {path.name for path in folder.iterdir()}
    assert {'a.png_0.jpg', 'a.png_1.jpg', 'film.mp4_000011_1.jpg'} <= names
    crop = cv2.imread(str(folder / 'a.png_0.jpg'))
    assert crop.shape == (16, 16, 3) and crop.mean() > 250
    assert len(names) == sum(len(entry['objects']) for entry in given)


def test_a_saved_video_has_what_came_until_an_interrupt(film, tmp_path):
    given = find([film], tmp_path / 'out', save_video=True)
    next(given)
    given.close()
    video = cv2.VideoCapture(str(tmp_path / 'out' / 'drawn' / 'film.mp4'))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) > 0


def test_tracks_of_two_moving_squares(film, tmp_path):
    pytest.importorskip('trackers')
    drawn = []

    class Drawing(BrightPredictor):
        def draw(self, image, sample):
            drawn.append(sample.pred_instances.tracks)
            return image

    entries = [*find([film], tmp_path, Drawing(), track=True)]
    ways: dict[int, list] = {}
    for entry in entries:
        for found in entry['objects']:
            ways.setdefault(found['track'], []).append(found['box'])
    assert drawn == [[one['track'] for one in entry['objects']] for entry in entries]
    assert ways.keys() == {None, 1, 2}  # of the first frame nobody knows yet
    right, down = sorted((ways[1], ways[2]), key=lambda boxes: boxes[0][1])
    assert len(right) == len(down) == 11
    for number, (a, b) in enumerate(zip(right, down), 1):
        moved = [4 + 3 * number, 10, 20 + 3 * number, 26]
        np.testing.assert_allclose(a, moved, atol=2)
        np.testing.assert_allclose(
            b, [90, 40 + 2 * number, 106, 56 + 2 * number], atol=2
        )


def test_q_ends_as_ctrl_c_does():
    master, slave = os.openpty()
    try:
        with pytest.raises(KeyboardInterrupt), stop_by_key(slave):
            os.write(master, b'x\nQ\n')
            assert not threading.Event().wait(20)
            raise AssertionError('nobody stops')
        with stop_by_key(slave):
            pass
        assert signal.getsignal(signal.SIGTTIN) is signal.SIG_DFL
    finally:
        os.close(master)
        os.close(slave)
