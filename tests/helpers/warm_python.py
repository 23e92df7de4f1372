"""Python processes that need not import torch and the like once more.

A process that imports the whole stack spends most of its seconds on packages that are
no concern of ours. A server per interpreter imports these once, and becomes each
process by a fork. What a process prints, how it ends, its folder, its environment and
its arguments are those of an ordinary one. Options of the interpreter, and what must
differ while torch is imported, need an ordinary one.
"""

import atexit
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

SERVER = Path(__file__).with_name('warm_server.py')


class Server:
    """The server of an interpreter."""

    def __init__(self, python: str) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        env = {key: text for key, text in os.environ.items() if key != 'PYTHONPATH'}
        # Threads are set by each process's own environment.
        env.update(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1')
        self._process = subprocess.Popen(
            [python, str(SERVER), str(requests), str(answers)],
            env=env,
            pass_fds=(requests, answers),
            stdin=subprocess.DEVNULL,
        )
        os.close(requests)
        os.close(answers)
        atexit.register(self.stop)

    def run(self, **request: object) -> int:
        """Has a process run; returns its exit code."""
        os.write(self._requests, json.dumps(request).encode() + b'\n')
        answer = b''
        while not answer.endswith(b'\n'):
            read = os.read(self._answers, 100)
            assert read, 'the server of warm processes has ended'
            answer += read
        return int(answer)

    def stop(self) -> None:
        os.close(self._requests)
        self._process.wait()


start_server = cache(Server)


def run_python(
    python: object,
    *arguments: object,
    cwd: Path,
    env: Mapping[str, str],
    join: bool = False,
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run`` with ``capture_output=True``, from a warm interpreter.

    Args:
        python: The interpreter.
        arguments: Its arguments: a script, ``-c`` or ``-m``, and theirs.
        cwd: The folder that it runs in.
        env: Its environment.
        join: Whether errors are written where the output is.
    """
    with tempfile.TemporaryDirectory() as folder:
        stdout = Path(folder, 'stdout')
        stderr = stdout if join else Path(folder, 'stderr')
        for file in {stdout, stderr}:
            file.touch()
        code = start_server(str(python)).run(
            arguments=list(map(str, arguments)),
            cwd=str(cwd),
            env=dict(env),
            stdout=str(stdout),
            stderr=str(stderr),
        )
        printed = [file.read_text(errors='replace') for file in (stdout, stderr)]
    return subprocess.CompletedProcess(
        [str(python), *map(str, arguments)],
        code,
        printed[0],
        '' if join else printed[1],
    )
