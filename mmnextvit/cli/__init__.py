"""The commands: ``mmnextvit COMMAND``, ``python -m mmnextvit COMMAND``, ``tools/*.py``.

Each command is a module of its name here, with ``add_arguments(parser)`` and
``run(args)``; the first line of its docstring is its help, here and in the list of all.
What they need of torch and OpenMMLab's packages they import in ``run``, so that help
comes at once.
"""

import argparse
import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from ..utils.errors import (
    MissingFileError,
    Terminated,
    UserError,
    find_user_error,
    follow_causes,
)
from ..utils.messages import did_you_mean, escape
from ..utils.packages import explain_missing_package
from .arguments import parse_arguments
from .package_tools import find_tool, is_package_tool, run_script

COMMANDS = (
    'new',
    'check',
    'train',
    'test',
    'report',
    'predict',
    'export',
    'serve',
    'bench',
    'import_yolov5',
    'compute_anchors',
    'convert_weights',
    'get_flops',
    'benchmark',
    'demo',
    'make_demo_data',
)


def ignore_deprecations() -> None:
    """Shows no warnings that libraries have for those who call them.

    Python's own option ``-W`` and the variable ``PYTHONWARNINGS`` bring them back.
    """
    if sys.warnoptions:
        return
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.filterwarnings('ignore', category=category)
    for words in ('deprecated', 'upcoming release', 'future release', 'be removed'):
        warnings.filterwarnings('ignore', f'(?is).*{words}')


def describe(command: str) -> str:
    """A command's help in a line, the first one of its module's docstring."""
    module = importlib.import_module(f'.{command}', __name__)
    return (module.__doc__ or '').partition('\n')[0]  # python -OO drops it


def format_help() -> str:
    """What ``mmnextvit --help`` prints."""
    return '\n'.join(
        [
            'usage: mmnextvit COMMAND ...',
            '       mmnextvit COMMAND --help',
            '       mmnextvit --version',
            '',
            'commands:',
            *(f'  {name:16} {describe(name)}' for name in COMMANDS),
            '',
            'Tools of MMDetection and MMYOLO are named by package and path, as in',
            '  mmnextvit mmdet/analysis_tools/analyze_logs ...',
        ]
    )


def main(command: str | None = None, argv: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process where it fails.

    What a user can mend ends in one message and exit code 1, a wrong command line in
    the usage and exit code 2. Ctrl-C and SIGTERM end in one line and exit code 130 and
    143. A bug keeps its traceback.

    Args:
        command: Name of the command, of another package's tool, ``--help`` or
            ``--version``; the first argument if ``None``.
        argv: Arguments; those of the process if ``None``.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if command is None:
        command = argv.pop(0) if argv else ''
    ignore_deprecations()
    with _signals_raise(), _set_exit_codes(command):
        if command in ('-h', '--help'):
            print(format_help())
        elif command == '--version':
            from .. import __version__

            print(f'mmnextvit {__version__}')
        elif not command:
            _end(format_help(), 2)
        elif is_package_tool(command):
            try:
                script = find_tool(command)
            except MissingFileError as error:
                _end(f'mmnextvit: {error}', 2)
            run_script(script, argv)
        elif command.removesuffix('.py').replace('-', '_') not in COMMANDS:
            _end(f'mmnextvit: {_describe_unknown(command)}', 2)
        else:
            call(command, *argv)


def call(command: str, *argv: object) -> object:
    """Runs a command in this process and returns what its ``run`` does.

    Args:
        command: Name of the command; ``-`` may stand for ``_``, and ``.py`` may follow.
        argv: Arguments, which are made texts.

    Raises:
        UserError: What the user can mend, packages that are missing among it.
        SystemExit: The arguments are not the command's.
    """
    command = command.removesuffix('.py').replace('-', '_')
    if command not in COMMANDS:
        raise UserError(_describe_unknown(command))
    module = importlib.import_module(f'.{command}', __name__)
    parser = argparse.ArgumentParser(
        prog=f'mmnextvit {command}', description=describe(command)
    )
    module.add_arguments(parser)
    args = parse_arguments(parser, [str(arg) for arg in argv])
    try:
        return module.run(args)
    except ModuleNotFoundError as error:
        explain_missing_package(error)
        raise
    except (KeyError, TypeError) as error:
        # What raises one of a registry has imported these packages before.
        if 'mmengine.registry' not in sys.modules:
            raise
        from ..engine.config_faults import explain_build_error

        explained = explain_build_error(error, getattr(args, 'config', None))
        if explained is None:
            raise
        raise explained from error
    except (RuntimeError, MemoryError) as error:
        if 'torch' not in sys.modules:
            raise
        from ..engine.memory_faults import explain_memory_error

        explained = explain_memory_error(error)
        if explained is None:
            raise
        raise explained from error


@contextlib.contextmanager
def _set_exit_codes(command: str) -> Iterator[None]:
    """Turns what a command raises into a message and an exit code; see :func:`main`."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal without the characters of a path or a class must not end a run.
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
    try:
        try:
            yield
        finally:
            print(end='', flush=True)  # a closed pipe shows here, not after the end
    except KeyboardInterrupt as error:
        _tear_down(error)
        _end_interrupted(command, error)
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        sys.exit(141)  # as a shell reports a process that a closed pipe has ended
    except Exception as error:
        cause = _find_interrupt(error)
        found = find_user_error(error)
        if cause is None and found is None:
            raise
        _tear_down(error)
        if cause is not None:
            _end_interrupted(command, cause)
        if found is not None:
            _end(f'mmnextvit {command}: {_describe_error(found)}', 1)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Has the signals that end a process raise :class:`Terminated`, as Ctrl-C does.

    So files are written whole or not at all, and scratch folders are removed, whatever
    ends a command. A signal that is ignored, or that a program which calls
    :func:`main` handles, stays as it is.
    """
    here = os.getpid()
    last = -1.0

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if os.getpid() != here:  # a worker that was forked ends as it always does
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        # Launchers pass a signal on that the whole group gets anyway: the second one
        # must not end the tidying up after the first.
        before, last = last, time.monotonic()
        if before < 0 or last - before > 1:
            raise Terminated(number=number)

    numbers = []
    if threading.current_thread() is threading.main_thread():
        known = (getattr(signal, name, None) for name in ('SIGTERM', 'SIGHUP'))
        numbers = [n for n in known if n and signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _tear_down(error: BaseException) -> None:
    """Lets go of all that a command had in hand, before its message is printed.

    What fails meanwhile, as a half-made data loader of torch's does, is not shown: the
    message says why the command ends.
    """
    before = sys.unraisablehook
    sys.unraisablehook = lambda args: None
    try:
        for link in follow_causes(error):
            traceback.clear_frames(link.__traceback__)
        gc.collect()
    finally:
        sys.unraisablehook = before


def _find_interrupt(error: BaseException) -> KeyboardInterrupt | None:
    """The interrupt in whose place an error was raised.

    MMEngine formats its config at each checkpoint, and raises a ``SyntaxError``
    whatever ends that.
    """
    causes = follow_causes(error)
    return next((e for e in causes if isinstance(e, KeyboardInterrupt)), None)


def _end_interrupted(command: str, interrupt: KeyboardInterrupt) -> NoReturn:
    """Ends with one line, and the exit code by which shells know the signal."""
    what, number = 'interrupted', int(signal.SIGINT)
    if isinstance(interrupt, Terminated):
        what, number = 'terminated', interrupt.number
    text = f'mmnextvit {command}: {what}'
    _end(f'{text}; {interrupt}' if str(interrupt) else text, 128 + number)


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


def _describe_error(error: UserError | OSError) -> str:
    """The text of an error, without the number that ``OSError`` puts before its own."""
    if isinstance(error, UserError):
        return str(error)
    names = [os.fsdecode(n) for n in (error.filename, error.filename2) if n is not None]
    return escape(': '.join([*names, error.strerror or type(error).__name__]))


def _describe_unknown(command: str) -> str:
    hint = did_you_mean(command, COMMANDS) or f'there are {", ".join(COMMANDS)}'
    return f'there is no command {command!r}: {hint}'


def _stdout_is_closed() -> bool:
    """Whether nobody reads what is printed, as after ``| head``; if so, drops it."""
    try:
        print(flush=True)
    except BrokenPipeError:
        # Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
