"""The report of a training that has just ended, which never fails the training."""

import os
import subprocess
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.runner import Runner

from ..runs import find_run_checkpoint
from ..utils.messages import tell
from .report import NAME, write_report

# By these a process of a launcher knows the others.
LAUNCHED = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'GROUP_RANK')


def report_training(runner: Runner, cfg: Config) -> None:
    """Writes the report of a run into its folder, and says in a line where it lies.

    Where it cannot be made, a warning says why, and by which command it is made again.
    Of several processes the first writes it, by a process of its own, so that none of
    the others has to wait.

    Args:
        runner: It has trained.
        cfg: Its config.

    Raises:
        KeyboardInterrupt: A signal came; the message says that the training is done.
    """
    if not is_main_process():
        return
    folder = Path(runner.work_dir)
    try:
        if get_world_size() > 1:
            report_apart(folder)
        else:
            checkpoint = find_run_checkpoint(folder)
            write_report(cfg, str(checkpoint), folder / NAME, folder)
    except KeyboardInterrupt as error:
        again = f'mmnextvit report {folder} makes its report'
        error.args = (f'the training is done, and {again}',)
        raise
    except Exception as error:  # whatever it is, the training is done
        runner.logger.warning(
            f'The training is done, but its report could not be made: {tell(error)}. '
            f'Make it by: mmnextvit report {folder}'
        )
    else:
        runner.logger.info(f'The report is in {folder / NAME / "index.html"}')


def report_apart(folder: Path) -> None:
    """Writes the report of a run by a process that knows of no others.

    Args:
        folder: Of the run.

    Raises:
        RuntimeError: It could not be written.
    """
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHED}
    done = subprocess.run(
        [sys.executable, '-m', 'mmnextvit', 'report', str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
    )
    if done.returncode:
        raise RuntimeError(done.stdout.strip().rpartition('\n')[2])
