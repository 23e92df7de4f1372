"""What threads of the runtime make ahead of its use."""

import sys
import threading
from collections.abc import Iterator

from mmnextvit.runtime import (
    Detections,
    Detector,
    ImageError,
    map_ahead,
    open_threads,
    print_objects,
)

import numpy as np
import pytest


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

    def __init__(self) -> None:
        pass

    def preprocess(self, image):
        if image == 'bad':
            raise ImageError('bad cannot be read')
        return np.full(1, float(image)), None

    def detect_prepared(self, prepared, score_thr=None):
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
