"""The commands: ``mmnextvit COMMAND``, ``python -m mmnextvit COMMAND``, ``tools/*.py``.

Each command is a module of its name here, with ``add_arguments(parser)`` and
``run(args)``; the first line of its docstring is its help, here and in the list of all.
What they need of torch and
OpenMMLab's packages they import in ``run``, so that help comes at once.
"""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from ..utils.errors import MissingFileError, UserError, user_error
from ..utils.messages import did_you_mean
from .package_tools import find_tool, is_package_tool, run_script

COMMANDS = (
    'train',
    'test',
    'predict',
    'export',
    'import_yolov5',
    'compute_anchors',
    'convert_weights',
    'get_flops',
    'benchmark',
    'demo',
    'make_demo_data',
)


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
    the usage and exit code 2, Ctrl-C in exit code 130. A bug keeps its traceback.

    Args:
        command: Name of the command, of another package's tool, ``--help`` or
            ``--version``; the first argument if ``None``.
        argv: Arguments; those of the process if ``None``.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if command is None:
        command = argv.pop(0) if argv else ''
    with _exit_codes(command):
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
            _end(f'mmnextvit: {_unknown(command)}', 2)
        else:
            call(command, *argv)


def call(command: str, *argv: object) -> object:
    """Runs a command in this process and returns what its ``run`` does.

    Args:
        command: Name of the command; ``-`` may stand for ``_``, and ``.py`` may follow.
        argv: Arguments, which are made texts.

    Raises:
        UserError: What the user can mend.
        SystemExit: The arguments are not the command's.
    """
    command = command.removesuffix('.py').replace('-', '_')
    if command not in COMMANDS:
        raise UserError(_unknown(command))
    module = importlib.import_module(f'.{command}', __name__)
    parser = argparse.ArgumentParser(
        prog=f'mmnextvit {command}', description=describe(command)
    )
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(arg) for arg in argv]))


@contextlib.contextmanager
def _exit_codes(command: str) -> Iterator[None]:
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
    except KeyboardInterrupt:
        _end(f'mmnextvit {command}: interrupted', 130)
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        sys.exit(141)  # as a shell reports a process that a closed pipe has ended
    except Exception as error:
        if _was_interrupted(error):
            _end(f'mmnextvit {command}: interrupted', 130)
        found = user_error(error)
        if found is None:
            raise
        _end(f'mmnextvit {command}: {_message(found)}', 1)


def _was_interrupted(error: BaseException) -> bool:
    """Whether an error was raised in the place of Ctrl-C's.

    MMEngine formats its config at each checkpoint, and raises a ``SyntaxError``
    whatever ends that.
    """
    link: BaseException | None = error
    while link is not None and not isinstance(link, KeyboardInterrupt):
        link = link.__cause__ or link.__context__
    return link is not None


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


def _message(error: UserError | OSError) -> str:
    """The text of an error, without the number that ``OSError`` puts before its own."""
    if isinstance(error, UserError):
        return str(error)
    names = [os.fsdecode(n) for n in (error.filename, error.filename2) if n is not None]
    return ': '.join([*names, error.strerror or type(error).__name__])


def _unknown(command: str) -> str:
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
