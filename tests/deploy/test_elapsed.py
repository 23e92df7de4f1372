"""The lines that say how long a conversion has taken."""

import threading

from mmnextvit.deploy.elapsed import describe_time, telling_time

import pytest


def test_lines_come_while_the_block_lasts():
    said, twice = [], threading.Event()

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            twice.set()

    with telling_time(say, 'Writing a.onnx', first=0.01):
        assert twice.wait(60)
    assert said[0] == 'Writing a.onnx: not done after 0 s ...'


def test_a_quick_block_says_nothing():
    said = []
    with telling_time(said.append, 'Writing'):
        pass
    assert not said


def test_what_the_block_raises_comes_out_and_lines_end():
    before = threading.active_count()
    with (
        pytest.raises(KeyboardInterrupt),
        telling_time(lambda text: None, 'Writing', first=0.001),
    ):
        raise KeyboardInterrupt
    assert threading.active_count() == before


def test_an_output_that_is_gone_ends_nothing():
    tried = threading.Event()

    def say(text: str) -> None:
        tried.set()
        raise BrokenPipeError

    with telling_time(say, 'Writing', first=0.001):
        assert tried.wait(60)


def test_times():
    assert [describe_time(x) for x in (30.2, 59.7, 245)] == [
        '30 s',
        '1 min 0 s',
        '4 min 5 s',
    ]
