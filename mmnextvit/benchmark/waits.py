"""Seconds from a command until it says something: what a user waits for."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from mmengine.config import Config
from rich.progress import track

from ..datasets.demo_data import make_demo_data
from ..engine.runner import build_model
from ..hub import config_file
from .startup import IMPORTS, PACKAGE

END = ''  # in place of a line's pattern: the process ends
LIBRARIES = 'import torch, mmdet, mmyolo'
MODELS = f'import {next(iter(IMPORTS))}'


class Process(NamedTuple):
    """A process, and what is waited for in it.

    Attributes:
        arguments: Of Python; those in braces are of :func:`prepare`.
        lines: What the table calls the lines that are waited for, in their order, and
            the pattern of each.
        base: What is compared with, a process whose end is waited for.
    """

    arguments: Sequence[str]
    lines: Mapping[str, str] = {'': END}
    base: str = LIBRARIES


def call(command: str, *arguments: str) -> Sequence[str]:
    """The arguments of Python for one of our commands."""
    return '-m', 'mmnextvit', command, *arguments


DATA = ('--cfg-options', 'data_root={data}/', 'default_hooks.logger.interval=1')
DETECTOR = ('{config}', '{weights}')
TRAIN = call('train', '{config}', '--work-dir', '{new}', *DATA)
PREDICT = call('predict', *DETECTOR, '{image}', '--out-dir', '{new}')
EXPORT = call('export', *DETECTOR, '--to', 'torchscript', '-o', '{new}.torchscript')
FIRST = {'first line': '^config '}
# What follows the first line needs all models.
PROCESSES = {
    LIBRARIES: Process(('-c', LIBRARIES)),
    MODELS: Process(('-c', next(iter(IMPORTS.values())))),
    'import mmnextvit.runtime': Process(('-c', 'import mmnextvit.runtime')),
    'mmnextvit --help': Process(call('--help')),
    'mmnextvit train': Process(TRAIN, FIRST),
    'mmnextvit predict': Process(PREDICT, FIRST),
    'mmnextvit export': Process((*EXPORT, *DATA), FIRST),
    'train': Process(
        TRAIN, {'summary': '^model ', 'first iteration': r'Epoch\(train\)'}, MODELS
    ),
    'predict': Process(PREDICT, {'one image done': r'^\d+ objects in'}, MODELS),
    'export': Process((*EXPORT, *DATA), {'first step': '^Writing '}, MODELS),
}


class Wait(NamedTuple):
    """How long a user waits.

    Attributes:
        what: For what.
        seconds: The median.
        base: What is compared with.
        ratio: The seconds divided by those of the base.
    """

    what: str
    seconds: float
    base: str
    ratio: float


def measure_waits(rounds: int) -> list[Wait]:
    """Times all :data:`PROCESSES`, which take turns."""
    times: dict[tuple[str, str], list[float]] = {
        (name, line): [] for name, p in PROCESSES.items() for line in p.lines
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = prepare(Path(folder))
        for turn in track(range(rounds), 'Waiting'):
            for number, (name, process) in enumerate(PROCESSES.items()):
                new = Path(folder, f'{number}_{turn}')
                arguments = [
                    word.format(**paths, new=new) if '{' in word else word
                    for word in process.arguments
                ]
                waited = time_lines(arguments, [*process.lines.values()])
                for line, seconds in zip(process.lines, waited):
                    times[name, line].append(seconds)
    return [*compare(times)]


def compare(times: Mapping[tuple[str, str], Sequence[float]]) -> Iterator[Wait]:
    """The medians, and their ratios.

    Args:
        times: Seconds, by the names of process and line.
    """
    for (name, line), seconds in times.items():
        base = PROCESSES[name].base
        middle, of = median(seconds), median(times[base, ''])
        yield Wait(': '.join(filter(None, (name, line))), middle, base, middle / of)


def prepare(folder: Path) -> dict[str, Path]:
    """Writes what the commands need into a folder; returns it by name.

    That is a few small images, a detector's config, and weights as it has them at
    first.
    """
    make_demo_data(folder / 'data', train=8, val=1, size=96, seed=0)
    config = Path(config_file('yolov5_nextvit_s_demo'))
    state = build_model(Config.fromfile(config)).state_dict()
    classes = dict(classes=('circle', 'square', 'triangle'))
    content = dict(state_dict=state, meta=dict(dataset_meta=classes))
    torch.save(content, folder / 'weights.pth')
    return dict(
        data=folder / 'data',
        image=next((folder / 'data' / 'val').iterdir()),
        config=config,
        weights=folder / 'weights.pth',
    )


def time_lines(arguments: Sequence[str], patterns: Sequence[str]) -> list[float]:
    """Seconds from the start of a Python process until each line of it.

    It is ended after the last.

    Args:
        arguments: Of Python.
        patterns: Of the lines, in their order; :data:`END` for the end.

    Raises:
        RuntimeError: The process has ended without one of the lines, or in an error.
    """
    env = {**os.environ, 'PYTHONPATH': str(PACKAGE.parent)}
    start, times, said = time.perf_counter(), [], []
    with subprocess.Popen(
        [sys.executable, *arguments],
        text=True,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None  # it is a pipe
        left = list(patterns)
        for line in process.stdout:
            said.append(line)
            if left and left[0] != END and re.search(left[0], line):
                times.append(time.perf_counter() - start)
                left.pop(0)
                if not left:
                    process.kill()
                    return times
    times.append(time.perf_counter() - start)
    if left != [END] or process.returncode:
        raise RuntimeError(f'{" ".join(arguments)}: {"".join(said)}')
    return times
