"""Everything once, on small images: data, training, evaluation, a drawing."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .datasets.demo_data import make_demo_data
from .hub import config_file
from .utils.files import make_numbered_folder


@dataclass
class DemoRun:
    """Where the files of a demo lie, and its metrics."""

    metrics: dict[str, float]
    image: Path  # predictions beside the truth
    checkpoint: Path
    log: Path
    curves: Path  # a JSON object a line
    next_command: list[str]  # that predicts with the checkpoint

    def summarize(self) -> str:
        """What a user wants to know at the end, as text of several lines."""
        map50, mean = (self.metrics[f'coco/bbox_{key}'] for key in ('mAP_50', 'mAP'))
        return f"""
mAP50 {map50:.3f}, mAP {mean:.3f}

predictions beside the truth  {show_path(self.image)}
checkpoint                    {show_path(self.checkpoint)}
log                           {show_path(self.log)}
curves, a JSON object a line  {show_path(self.curves)}

Next: {shlex.join(self.next_command)}"""


def run_demo(
    out: Path, train: int, val: int, size: int, options: Sequence[str] = ()
) -> DemoRun:
    """Makes data, and trains, evaluates and draws in a new folder.

    The commands run as processes of their own and are printed, so that they can be
    repeated by hand.

    Args:
        out: Folder for the data and for the runs, kept apart from each other.
        train: Images to train on.
        val: Images to validate on.
        size: Their height and width in pixels.
        options: Changes of the config, as in ``--cfg-options``.

    Raises:
        UserError: The data's folder holds something else, or a number is too small.
        subprocess.CalledProcessError: A command failed, and has said why.
    """
    data = out / 'demo_data'
    make_demo_data(data, train=train, val=val, size=size, seed=0)
    run = make_numbered_folder(out / 'demo')
    test = run / 'test'
    config = Path(config_file('yolov5_nextvit_s_demo'))
    options = ['--cfg-options', f'data_root={show_path(data)}', *options]
    run_command('train', config, '--work-dir', run, *options)
    checkpoint = Path((run / 'last_checkpoint').read_text(encoding='utf-8'))
    run_command('test', config, checkpoint, '--work-dir', test, *options)
    return DemoRun(
        metrics=json.loads(next(test.glob('*/*.json')).read_text(encoding='utf-8')),
        image=test / 'predictions.jpg',
        checkpoint=checkpoint,
        log=next(run.glob('*/*.log')),
        curves=next(run.glob('*/vis_data/scalars.json')),
        next_command=build_command_line('predict', config, checkpoint, data / 'val'),
    )


def run_command(command: str, *args: str | Path) -> None:
    """Prints a command as a user would type it, and runs it in a process."""
    print(f'\n$ {shlex.join(build_command_line(command, *args))}\n', flush=True)
    # Threads that spin while they wait are many times slower on busy cores.
    env = {'OMP_WAIT_POLICY': 'PASSIVE', **os.environ}
    words = [show_path(arg) if isinstance(arg, Path) else arg for arg in args]
    started = [sys.executable, '-m', 'mmnextvit', command, *words]
    subprocess.run(started, check=True, env=env)


def build_command_line(command: str, *args: str | Path) -> list[str]:
    """The words of one of our commands as a user would type it here."""
    words = [show_path(arg) if isinstance(arg, Path) else arg for arg in args]
    return [*find_console_script(), command, *words]


def find_console_script() -> list[str]:
    """How this environment's ``mmnextvit`` is called from the current folder."""
    script = Path(sys.executable).with_name('mmnextvit')
    on_path = shutil.which('mmnextvit')
    if not script.is_file():
        return [show_path(sys.executable), '-m', 'mmnextvit']
    if on_path is not None and script.samefile(on_path):
        return ['mmnextvit']
    return [show_path(script)]


def show_path(path: str | Path) -> str:
    """A path as one would type it in the current folder."""
    path = Path(path).absolute()
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
