"""A process that is killed in the midst of its work, at a chosen moment."""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# What changes a file system, by the names of Python's audit events.
CHANGES = 'os.rename os.remove os.rmdir os.mkdir os.link os.truncate shutil.rmtree'


class Moment(NamedTuple):
    """When a process is killed; without any of the three it is not.

    Args:
        change: Before its change of this number, from 1, to what is in the folder.
        size: In the midst of writing a file, once that has so many bytes.
        seconds: After this time.
    """

    change: int | None = None
    size: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        given = self._asdict().items()
        return ', '.join(f'{k} {v}' for k, v in given if v is not None) or 'none'


def run_until(moment: Moment, work: Callable[[], object], folder: Path) -> bool:
    """Does some work in a forked process, which is killed by SIGKILL or the kernel.

    Returns:
        Whether it was killed, and did not end before.

    Raises:
        AssertionError: It ended by itself with an error, which is printed.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if moment.change is not None:
                _kill_before_change(moment.change, str(folder.resolve()))
            if moment.size is not None:
                # Without Python's handling of the signal the kernel ends the process
                # when so many bytes of a file are written.
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                resource.setrlimit(resource.RLIMIT_FSIZE, (moment.size, hard))
            work()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if moment.seconds is not None:
        time.sleep(moment.seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXFSZ), status
        return True
    assert os.WEXITSTATUS(status) == 0, f'it ended with an error at {moment}'
    return False


def _kill_before_change(number: int, folder: str) -> None:
    """Kills this process before its change of this number to what is in a folder."""
    left = number

    def watch(event: str, args: tuple) -> None:
        nonlocal left
        if event == 'open':
            changes = isinstance(args[2], int) and args[2] & (os.O_CREAT | os.O_TRUNC)
        else:
            changes = event in CHANGES.split()
        if not changes or isinstance(args[0], int):
            return
        if os.path.abspath(os.fsdecode(args[0])).startswith(folder):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
