"""Runs a command as a user does, in this process or in one of its own."""

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmnextvit.cli import call, main
from mmnextvit.models import compute_options
from mmnextvit.utils.errors import UserError

import cv2
import numpy as np
import pytest
import torch
from mmengine.utils import ManagerMixin


@contextmanager
def fresh_process_state() -> Iterator[None]:
    """Takes back what a run leaves in the process: loggers, scopes, seeds, settings."""

    def managers(base: type = ManagerMixin) -> Iterator[type]:
        for cls in base.__subclasses__():
            yield cls
            yield from managers(cls)

    instances = {cls: dict(cls._instance_dict) for cls in managers()}
    for cls in instances:
        cls._instance_dict.clear()
    environment = dict(os.environ)
    python, numpy, generator = (
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
    )
    threads = torch.get_num_threads(), cv2.getNumThreads()
    deterministic = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    options = compute_options._overrides, dict(compute_options._decided)
    torch.set_num_threads(1)  # as in run_tool: sums differ with the number of threads
    try:
        yield
    finally:
        for cls in managers():
            for name, made in cls._instance_dict.items():
                for handler in getattr(made, 'handlers', ()):  # a logger's
                    if made is not instances.get(cls, {}).get(name):
                        handler.close()  # or its file is found open in another test
            cls._instance_dict.clear()
            cls._instance_dict.update(instances.get(cls, {}))
        for handler in [h for h in logging.root.handlers if hasattr(h, 'baseFilename')]:
            handler.close()
            logging.root.removeHandler(handler)
        compute_options._overrides, compute_options._decided = options
        os.environ.clear()
        os.environ.update(environment)
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(generator)
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = (
            deterministic
        )


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Makes a folder the current one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def call_here(command: str, *args: object, cwd: Path) -> object:
    """Runs a command in this process and returns what its ``run`` does.

    Args:
        command: Its name, as in ``mmnextvit COMMAND``.
        args: Its arguments.
        cwd: The folder that it runs in.
    """
    with working_in(cwd), fresh_process_state():
        return call(command, *args)


def refusal(command: str, *args: object, cwd: Path) -> str:
    """The message of the :class:`UserError` with which a command must end."""
    with pytest.raises(UserError) as error:
        call_here(command, *args, cwd=cwd)
    return str(error.value)


def run_here(
    command: str,
    *args: object,
    cwd: Path,
    capfd: pytest.CaptureFixture[str],
    code: int = 0,
) -> str:
    """Runs a command in this process, which must end with ``code``.

    Args:
        command: Its name, as in ``mmnextvit COMMAND``.
        args: Its arguments.
        cwd: The folder that it runs in.
        capfd: pytest's fixture of that name.
        code: The exit code: 0, 1 for what a user can mend, 2 for the usage.

    Returns:
        All that it printed, its last message included.
    """
    capfd.readouterr()
    ended, message = 0, ''
    try:
        with working_in(cwd), fresh_process_state():
            main(command, [str(arg) for arg in args])
    except SystemExit as error:
        ended = error.code if isinstance(error.code, int) else int(bool(error.code))
        message = error.code if isinstance(error.code, str) else ''
    printed = ''.join(capfd.readouterr()) + message
    assert (ended or 0) == code, printed
    return printed
