"""Loggers that are not there or fail end no training; TensorBoard's files are read."""

import io
import json
import logging
import sys
from types import SimpleNamespace

from mmnextvit.engine.loggers import LOGGERS, GuardedBackend, check_logger
from mmnextvit.utils.errors import UserError

import pytest
from mmengine.logging import MMLogger

from tests.helpers.commands import call_here, refusal
from tests.helpers.tiny_run import write_tiny_run


class Warnings(logging.StreamHandler):
    """Keeps what a logger warns of."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.setLevel(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    handler = Warnings()
    logger = logging.Logger('current')
    logger.addHandler(handler)
    monkeypatch.setattr(MMLogger, 'get_current_instance', lambda: logger)
    return handler.texts


class Failing:
    """A stub of a package and all that it gives, which fails from a call on."""

    class MlflowException(Exception):
        """What onedl-mmengine catches."""

    def __init__(self, calls: int, error: BaseException) -> None:
        self.calls, self.error = calls, error

    def __getattr__(self, name: str) -> 'Failing':
        if name.startswith('__'):
            raise AttributeError(name)
        return self

    def __call__(self, *args: object, **kwargs: object) -> 'Failing':
        self.calls -= 1
        if self.calls < 0:
            raise self.error
        return self


PACKAGES = {'wandb': 'wandb', 'mlflow': 'mlflow', 'clearml': 'clearml'}


@pytest.mark.parametrize('name', PACKAGES)
@pytest.mark.parametrize('calls', [0, 1, 3, 6])
@pytest.mark.parametrize(
    'error',
    [ConnectionError('the network is down'), SystemExit(1), OSError(28, 'full')],
)
def test_what_fails_is_told_once(name, calls, error, tmp_path, monkeypatch, warned):
    """From its start on, or from any later call on."""
    monkeypatch.setitem(sys.modules, PACKAGES[name], Failing(calls, error))
    backend = GuardedBackend(name, lambda: LOGGERS[name](tmp_path, 'run'))
    config = SimpleNamespace(to_dict=dict, pretty_text='', work_dir=str(tmp_path))
    backend.add_config(config)
    for step in range(20):
        backend.add_scalars(dict(loss=1.0, lr=0.1), step=step)
    backend.close()
    assert not backend.works
    # MMEngine has a word on MLflow's server before.
    (message,) = (text for text in warned if 'server is running' not in text)
    assert f'Nothing more is logged to {name}' in message
    assert type(error).__name__ in message and 'The training goes on' in message


@pytest.mark.parametrize('name', LOGGERS)
def test_what_is_not_installed(name, tmp_path, monkeypatch, warned):
    package = PACKAGES.get(name, 'torch.utils.tensorboard')
    monkeypatch.setitem(sys.modules, package, None)  # its import fails
    backend = GuardedBackend(name, lambda: LOGGERS[name](tmp_path, 'run'))
    for step in range(3):
        backend.add_scalars(dict(loss=1.0), step=step)
    (message,) = warned
    assert f'pip install "mmnextvit[{name}]"' in message


def test_an_interruption_is_no_failure(tmp_path, warned):
    def interrupt() -> None:
        raise KeyboardInterrupt

    backend = GuardedBackend('mine', interrupt)
    with pytest.raises(KeyboardInterrupt):
        backend.add_scalars({})
    assert backend.works and not warned


def test_no_such_logger(tmp_path):
    with pytest.raises(UserError, match="no logger 'tensorbord' .*tensorboard"):
        check_logger('tensorbord')
    write_tiny_run(tmp_path)
    message = refusal('train', 'tiny.py', '--log', 'wandb', 'mlfow', cwd=tmp_path)
    assert message.startswith("there is no logger 'mlfow' (--log)")
    assert not (tmp_path / 'work_dirs').exists()


@pytest.mark.slow
def test_a_training_with_all_of_them(tmp_path, monkeypatch, capfd):
    """TensorBoard is installed, the others are not or fail, one of the config, too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setitem(sys.modules, 'wandb', None)
    monkeypatch.setitem(sys.modules, 'mlflow', Failing(0, ConnectionError('no answer')))
    monkeypatch.setitem(sys.modules, 'clearml', Failing(9, ConnectionError('gone')))
    monkeypatch.setitem(sys.modules, 'aim', None)
    config = write_tiny_run(tmp_path)
    config.write_text(
        f'{config.read_text()}\n'
        "visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), "
        "dict(type='AimVisBackend')])\n"
    )
    capfd.readouterr()
    args = 'tiny.py', '--log', *LOGGERS
    call_here('train', *args, cwd=tmp_path)
    printed = ''.join(capfd.readouterr())
    work_dir = tmp_path / 'work_dirs' / 'tiny'
    (folder,) = work_dir.glob('*/vis_data')
    events = EventAccumulator(str(folder)).Reload()
    lines = (folder / 'scalars.json').read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    for key in ('loss', 'loss_bbox', 'lr', 'coco/bbox_mAP'):
        expected = [(e['step'], e[key]) for e in logged if key in e]
        assert expected and [(e.step, e.value) for e in events.Scalars(key)] == [
            (step, pytest.approx(value)) for step, value in expected
        ]
    for name, count in (*((name, 1) for name in PACKAGES), ('tensorboard', 0)):
        assert printed.count(f'Nothing more is logged to {name},') == count, name
    assert printed.count('Nothing more is logged to AimVisBackend') == 1
    assert f'go to tensorboard as well: {folder}' in printed
    assert (work_dir / 'last.pth').samefile(work_dir / 'epoch_2.pth')
    # Nothing of it is in the run's config: a test of the run does not log anew.
    assert 'ensorboard' not in (work_dir / 'tiny.py').read_text()
