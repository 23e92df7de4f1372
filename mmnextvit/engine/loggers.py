"""Where a training's numbers go beside its own log: ``--log tensorboard`` and others.

They are MMEngine's visualizer backends. Whatever is wrong with one, be it that its
package is not installed or that its server does not answer, the training goes on.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from mmengine.visualization.vis_backend import (
    BaseVisBackend,
    ClearMLVisBackend,
    LocalVisBackend,
    MLflowVisBackend,
    TensorboardVisBackend,
    WandbVisBackend,
)

from ..utils.errors import UserError
from ..utils.messages import did_you_mean, tell

PROJECT = 'mmnextvit'  # on servers, where the user names none
# What the environment does not say otherwise. An MLflow server that does not answer is
# waited for by default for many minutes, and makers are told how packages are used.
ENVIRONMENT = {
    'MLFLOW_HTTP_REQUEST_MAX_RETRIES': '2',
    'MLFLOW_HTTP_REQUEST_TIMEOUT': '10',
    'MLFLOW_DISABLE_TELEMETRY': 'true',
    'WANDB_ERROR_REPORTING': 'false',
}
SIGNALS = ('SIGINT', 'SIGTERM', 'SIGHUP')


class WandbBackend(WandbVisBackend):
    """MMEngine's, without what it uploads unasked: all Python files around."""

    def add_config(self, config: Config, **kwargs: Any) -> None:
        self.experiment.config.update(config.to_dict(), allow_val_change=True)

    def close(self) -> None:
        if hasattr(self, '_wandb'):
            self._wandb.finish()  # MMEngine's `join` is gone


def open_tensorboard(folder: Path, name: str) -> BaseVisBackend:
    return TensorboardVisBackend(str(folder))


def open_wandb(folder: Path, name: str) -> BaseVisBackend:
    settings = dict(console='off', login_timeout=30)  # a prompt does not wait for ever
    project = os.environ.get('WANDB_PROJECT', PROJECT)
    options = dict(project=project, name=name, settings=settings)
    return WandbBackend(str(folder), options)


def open_mlflow(folder: Path, name: str) -> BaseVisBackend:
    place = os.environ.get('MLFLOW_TRACKING_URI')
    return MLflowVisBackend(
        str(folder),
        exp_name=os.environ.get('MLFLOW_EXPERIMENT_NAME', PROJECT),
        run_name=name,
        tracking_uri=place or f'sqlite:///{folder.absolute()}/mlflow.db',
        artifact_location=None if place else str(folder.absolute() / 'mlflow'),
        artifact_suffix=(),  # it would upload every log
        tracked_config_keys={},  # all of it is longer than parameters may be
    )


def open_clearml(folder: Path, name: str) -> BaseVisBackend:
    # It would patch torch, and send what is printed and all checkpoints.
    switches = ('frameworks', 'arg_parser', 'streams')
    options: dict[str, Any] = {f'auto_connect_{name}': False for name in switches}
    options.update(project_name=os.environ.get('CLEARML_PROJECT', PROJECT))
    options.update(task_name=name, reuse_last_task_id=False, output_uri=False)
    options.update(auto_resource_monitoring=False)
    return ClearMLVisBackend(str(folder), options, artifact_suffix=())


# What `--log` takes: how each is made of a folder for its files and the run's name.
LOGGERS: dict[str, Callable[[Path, str], BaseVisBackend]] = {
    'tensorboard': open_tensorboard,
    'wandb': open_wandb,
    'mlflow': open_mlflow,
    'clearml': open_clearml,
}


def check_logger(name: str) -> str:
    """
    Raises:
        UserError: There is no such logger.
    """
    if name not in LOGGERS:
        hint = did_you_mean(name, LOGGERS) or f'there are {", ".join(LOGGERS)}'
        raise UserError(f'there is no logger {name!r} (--log): {hint}')
    return name


def add_loggers(runner: Runner, names: Sequence[str]) -> None:
    """Has a run's numbers sent to loggers, too.

    They are no part of its config, so that a test of the run does not log anew.

    Args:
        runner: A runner that does not run yet.
        names: Of ``LOGGERS``.

    Raises:
        UserError: There is no logger of a name.
    """
    for name in dict.fromkeys(map(check_logger, names)):
        if not is_main_process():
            continue
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        folder = Path(runner.log_dir, 'vis_data')
        make = partial(LOGGERS[name], folder, Path(runner.work_dir).name)
        backend = GuardedBackend(name, make)
        runner.visualizer._vis_backends[name] = backend
        backend.add_config(runner.cfg)
        if backend.works:
            place = describe_place(backend)
            runner.logger.info(f'Losses and scores go to {name} as well: {place}')


def describe_place(backend: 'GuardedBackend') -> str:
    """Where a logger sends to."""
    experiment = backend.experiment
    for read in (
        lambda: experiment.run.url,
        lambda: experiment.Task.current_task().get_output_log_web_page(),
        lambda: experiment.get_tracking_uri(),
        lambda: experiment.log_dir,
    ):
        try:
            place = read()
        except Exception:  # it is another logger's
            continue
        # ClearML has an address offline, too.
        if isinstance(place, str) and place and '/offline-' not in place:
            return place
    return 'files of this computer'


def guard_backends(visualizer: Visualizer) -> None:
    """Has no backend that a config names end a run."""
    for key, backend in visualizer._vis_backends.items():
        if not isinstance(backend, LocalVisBackend | GuardedBackend):
            visualizer._vis_backends[key] = GuardedBackend(key, partial(_same, backend))


def _same(backend: BaseVisBackend) -> BaseVisBackend:
    return backend


class GuardedBackend(BaseVisBackend):
    """A backend that is left out from its first failure on, which is told once.

    Args:
        name: What messages call it.
        make: Gives the backend.

    Attributes:
        works: Whether nothing has failed yet.
    """

    def __init__(self, name: str, make: Callable[[], BaseVisBackend]) -> None:
        self.name = name
        self.works = True
        self._make = make
        self._backend: BaseVisBackend | None = None

    @property
    def experiment(self) -> Any:
        return self._do(lambda backend: backend.experiment)

    def _init_env(self) -> None:
        """MMEngine calls it of what is decorated, which nothing is here."""

    def add_config(self, config: Config, **kwargs: Any) -> None:
        self._do(lambda backend: backend.add_config(config, **kwargs))

    def add_graph(self, *args: Any, **kwargs: Any) -> None:
        self._do(lambda backend: backend.add_graph(*args, **kwargs))

    def add_image(self, *args: Any, **kwargs: Any) -> None:
        self._do(lambda backend: backend.add_image(*args, **kwargs))

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        self._do(lambda backend: backend.add_scalar(*args, **kwargs))

    def add_scalars(self, *args: Any, **kwargs: Any) -> None:
        self._do(lambda backend: backend.add_scalars(*args, **kwargs))

    def close(self) -> None:
        self._do(lambda backend: backend.close())

    def _do(self, call: Callable[[BaseVisBackend], Any]) -> Any:
        """Does something with the backend, or tells once why that does not work."""
        if not self.works:
            return None
        try:
            with kept_signals():
                if self._backend is None:
                    self._backend = self._make()
                return call(self._backend)
        except (Exception, SystemExit) as error:  # packages end a process, too
            self.works = False
            MMLogger.get_current_instance().warning(
                f'Nothing more is logged to {self.name}, which fails '
                f'({type(error).__name__}: {tell(error)}). The training goes on, and '
                f'its own log has all numbers. {advise(self.name, error)}'.rstrip()
            )
            return None


def advise(name: str, error: BaseException) -> str:
    """What a user can do about a logger that fails."""
    if isinstance(error, ImportError) and name in LOGGERS:
        return f'To install it: pip install "mmnextvit[{name}]"'
    return ''


@contextmanager
def kept_signals() -> Iterator[None]:
    """Has the handlers of signals be afterwards what they were.

    ClearML puts its own in their place, and then a signal would not end a training with
    a checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
