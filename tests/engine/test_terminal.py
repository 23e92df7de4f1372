"""What is shown of a run: little before it begins, and nothing that is lost."""

import io
import logging
import sys

from mmnextvit.engine.terminal import LiveLine, QuietStart, is_worth_reading

import pytest


@pytest.fixture
def shown() -> tuple[logging.Logger, logging.Handler, io.StringIO]:
    """A logger that is quiet, its handler, and what that has printed."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.Logger('quiet')
    logger.addHandler(handler)
    handler.addFilter(QuietStart(handler))
    return logger, handler, stream


def test_what_is_held_until_a_run_begins(shown, capsys):
    logger, handler, stream = shown
    logger.info('Config:\n' + 'x\n' * 400)
    logger.warning('7 images are broken: %s', 'a.jpg')
    logger.warning('"FileClient" will be deprecated in future.')
    logger.info('Load checkpoint from a.pth')
    logger.info("a.pth: ours\n384 of the model's 384 tensors fit\n  by part: x")
    assert stream.getvalue() == ''
    logger.error('an error is shown at once')
    (start,) = handler.filters
    start.release(20, 'run.log')
    assert stream.getvalue().splitlines() == [
        'an error is shown at once',
        '7 images are broken: a.jpg',
        'Load checkpoint from a.pth',
        'a.pth: ours',
        "384 of the model's 384 tensors fit",
        '  by part: x',
    ]
    logger.info('Epoch(train) [1][1/2]')
    logger.warning('this is deprecated')
    assert stream.getvalue().splitlines()[-1] == 'Epoch(train) [1][1/2]'
    assert capsys.readouterr().out == ''


def test_long_warnings_are_cut_with_a_word_of_it(shown, capsys):
    logger, handler, stream = shown
    logger.warning('a\n' * 9)
    logger.warning('b\nc')
    (start,) = handler.filters
    start.release(10, 'run.log')
    assert stream.getvalue().split() == [*'aaaaaaaaa', 'b']
    assert capsys.readouterr().out == '... and 1 more lines, which are in run.log\n'


@pytest.mark.parametrize(
    'message',
    [
        '"HardDiskBackend" is the alias of "LocalBackend" and the former will be '
        'deprecated in future.',
        'Failed to search registry with scope "mmyolo" in the "log_processor" registry',
        '`save_param_scheduler` is True but `self.param_schedulers` is None, so skip',
        'torch.meshgrid: in an upcoming release, it will be required to pass indexing',
        'pkg_resources is deprecated as an API',
    ],
)
def test_noise(message):
    record = logging.makeLogRecord(dict(msg=message, levelno=logging.WARNING))
    assert not is_worth_reading(record)


def test_a_line_that_rewrites_itself(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', terminal)
    line = LiveLine()
    assert not line.is_due()  # a pipe
    monkeypatch.setattr(terminal, 'isatty', lambda: True, raising=False)
    monkeypatch.setenv('COLUMNS', '20')
    assert line.is_due()
    line.show('x' * 50)
    assert not line.is_due()
    assert terminal.getvalue() == '\r' + 'x' * 19 + '\x1b[K'
    assert line.make_way(logging.makeLogRecord({}))
    assert terminal.getvalue().endswith('\r\x1b[K')
    before = terminal.getvalue()
    line.clear()
    assert terminal.getvalue() == before
