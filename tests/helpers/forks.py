"""A command in a forked process, which starts without importing torch once more."""

import faulthandler
import multiprocessing.process
import multiprocessing.util
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from tests.helpers.commands import fresh_process_state, working_in

PATIENCE = 300  # seconds that a process may take


class Fork(NamedTuple):
    """A process that was forked."""

    pid: int
    output: Path

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code, or the negative number of the signal that ended it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGUSR1)  # it says where it is
        time.sleep(1)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f'it did not end in {seconds} s:\n{self.printed()}')

    def printed(self) -> str:
        return self.output.read_text(errors='replace')


def fork(work: Callable[[], object], folder: Path, name: str, **env: object) -> Fork:
    """Starts some work in another process, whose output goes into ``folder``.

    Args:
        work: What to do; a ``SystemExit`` has the exit code.
        folder: The current folder there.
        name: Of the file that it prints to.
        env: Further environment variables.
    """
    output = folder / f'{name}.log'
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Fork(pid, output)
    code = 1
    # As multiprocessing's own children do: what another test has left, such as the
    # workers of a data loader, is not this process's to end.
    multiprocessing.process._children.clear()
    multiprocessing.util._finalizer_registry.clear()
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = open(1, 'w', buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, 'w', buffering=1, closefd=False)  # noqa: SIM115
        os.environ.update({key: str(value) for key, value in env.items()})
        faulthandler.register(signal.SIGUSR1, sys.stderr)  # for one that hangs
        torch.set_num_threads(1)
        # Nothing is taken back in a process that ends here: what is released late may
        # wait for threads that were not forked.
        state = fresh_process_state()
        state.__enter__()
        with working_in(folder):
            work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):
            print(error.code)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        # Ends data-loader workers, as the end of Python does.
        multiprocessing.util._exit_function()
        os._exit(code)


def is_running(pid: int) -> bool:
    """Whether a process lives; one that has ended, and is not waited for, does not."""
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in 'ZX'


def wait_until(condition: Callable[[], object], seconds: float) -> float:
    """Waits until a condition holds, and returns how many seconds that took.

    Raises:
        AssertionError: It did not hold in time.
    """
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f'not within {seconds} s'
        time.sleep(0.05)
    return time.monotonic() - begin
