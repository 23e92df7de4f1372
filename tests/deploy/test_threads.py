"""What threads of the runtime make ahead of its use."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmnextvit.predictors import Predictor
from mmnextvit.runtime import (
    SESSIONS,
    Detections,
    Detector,
    ImageError,
    map_ahead,
    open_threads,
    print_objects,
)

import numpy as np
import pytest

from tests.helpers.toy_exports import WRITERS, metadata, write_ncnn

THREADS = 8
FORMATS = {**WRITERS, 'model_ncnn': write_ncnn}


def test_results_come_in_order():
    first = threading.Event()

    def square(number: int) -> int:
        if number == 0:
            assert first.wait(60)  # until the second is made
        else:
            first.set()
        return number**2

    with open_threads(2) as threads:
        results = map_ahead(threads, square, range(20))
        assert list(results) == [number**2 for number in range(20)]
        assert list(map_ahead(threads, square, [])) == []


@pytest.mark.parametrize('ahead', [1, 3])
def test_no_more_items_are_taken_than_may_be_held(ahead):
    taken = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    with open_threads(4) as threads:
        for used, _ in enumerate(map_ahead(threads, abs, items(), ahead)):
            assert len(taken) == min(used + ahead, 10)


@pytest.mark.parametrize('error', [ValueError('a'), KeyboardInterrupt('b')])
def test_what_was_begun_is_given_before_an_error_of_the_items(error):
    def items() -> Iterator[int]:
        yield from range(5)
        raise error

    given = []
    with pytest.raises(type(error)) as raised, open_threads(3) as threads:
        for one in map_ahead(threads, abs, items()):
            given.append(one)
    assert given == [*range(5)] and raised.value is error


def test_an_error_takes_the_place_of_a_result():
    given = []
    with pytest.raises(ZeroDivisionError), open_threads(3) as threads:
        for one in map_ahead(threads, lambda x: 6 // x, [1, 2, 0, 3]):
            given.append(one)
    assert given == [6, 3]


def test_what_is_not_begun_is_not_done():
    done, go = [], threading.Event()

    def note(number: int) -> None:
        assert go.wait(60)
        done.append(number)

    with open_threads(1) as threads:
        for number in range(50):
            threads.submit(note, number)
        go.set()
    assert len(done) < 50


class Bright(Detector):
    """Finds one object in an image, whose score is the image's first value."""

    classes = ('thing',)
    metadata = {'input': {'batch': None}}

    def __init__(self) -> None:
        pass

    def preprocess(self, image):
        if image == 'bad':
            raise ImageError('bad cannot be read')
        return np.full(1, float(image)), None

    def detect_prepared(self, prepared, score_thr, batch_size):
        for (value,), _ in prepared:
            yield Detections(np.zeros((1, 4)), np.array([value]), np.array([0]))


def test_lines_come_in_order_without_broken_images(capsys):
    names = ['0.5', 'bad', *(str(i / 16) for i in range(8)), 'bad', '0.25']
    assert print_objects(Bright(), iter(names), 0.3, sys.stdout) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    whole = [name for name in names if name != 'bad']
    for line, name in zip(lines, whole, strict=True):
        assert f'"file": "{name}"' in line
        assert f'"score": {round(float(name), 4)}' in line
    assert captured.err == 'bad cannot be read\n' * 2


# Detectors that threads share


def make_images() -> list[np.ndarray]:
    """Images of unlike sizes, each of another brightness."""
    sizes = [(64, 64), (40, 90), (90, 40), (64, 20), (33, 64)]
    return [
        np.full((*sizes[i % len(sizes)], 3), 10 + 6 * i, np.uint8) for i in range(40)
    ]


def call_together(call: Callable, items: list, rounds: int) -> list[tuple]:
    """What a call gives in many threads at once, beside what it is given."""
    given = [(i, item) for _ in range(rounds) for i, item in enumerate(items)]
    with ThreadPoolExecutor(THREADS) as threads:
        results = threads.map(lambda pair: call(pair[1]), given)
        return [(i, result) for (i, _), result in zip(given, results, strict=True)]


@pytest.mark.deploy
@pytest.mark.parametrize('name', FORMATS)
@pytest.mark.parametrize('threads', [None, 1])
def test_threads_that_share_a_detector_get_their_own_boxes(name, threads, tmp_path):
    if name == 'model_ncnn':
        pytest.importorskip('ncnn', reason='needs the extra ncnn')
    path = FORMATS[name](tmp_path / name, metadata(dynamic=True, mini_pad=True))
    detector, images = Detector(path, threads=threads), make_images()
    alone = [detector(image, 0) for image in images]
    assert len({tuple(found.scores.tolist()) for found in alone}) == len(images)
    for i, found in call_together(lambda image: detector(image, 0), images, 10):
        np.testing.assert_array_equal(found.scores, alone[i].scores)
        np.testing.assert_array_equal(found.boxes, alone[i].boxes)
    predictor = Predictor(path)
    for i, found in call_together(lambda image: predictor(image, 0), images, 3):
        np.testing.assert_allclose(found.scores, alone[i].scores, rtol=1e-5)
        np.testing.assert_allclose(found.boxes, alone[i].boxes, rtol=1e-5)


@pytest.mark.deploy
def test_every_format_is_tested_with_threads():
    folders = {'.xml': 'model_openvino', '.param': 'model_ncnn'}
    assert {*FORMATS} == {folders.get(s, f'model{s}') for s in SESSIONS}


class Forgetful:
    """A session that gives what was put down last, whoever asks."""

    package = 'numpy'

    def __init__(self, **more: object) -> None:
        self.metadata = metadata(dynamic=True, batch=None)
        vars(self).update(more)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.images = images
        time.sleep(0.002)
        scores = self.images.mean((1, 2, 3))[:, None] / 255
        return dict(
            num_detections=np.ones((1, 1), int),
            boxes=np.zeros((1, 1, 4), np.float32),
            scores=scores,
            labels=np.zeros((1, 1), int),
        )


def test_a_session_that_does_not_say_so_runs_in_one_thread_at_a_time(monkeypatch):
    images = [np.full((64, 64, 3), 10 + 20 * i, np.uint8) for i in range(12)]

    def count_wrong(**more: object) -> int:
        detector = Detector.__new__(Detector)
        detector._use(Path('forgetful'), Forgetful(**more))
        results = call_together(lambda image: detector(image, 0)[0], images, 4)
        return sum(
            abs(found['score'] - (10 + 20 * i) / 255) > 1e-3 for i, found in results
        )

    assert count_wrong() == count_wrong(concurrent=False) == 0
    assert count_wrong(concurrent=True) > 0  # so that the test can fail
