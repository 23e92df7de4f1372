"""The commands: ``mmnextvit COMMAND``, ``python -m mmnextvit COMMAND``, ``tools/*.py``.

Each command is a module of its name here, with ``add_arguments(parser)`` and
``run(args)``; the first line of its docstring is its help. What they need of torch and
OpenMMLab's packages they import in ``run``, so that help comes at once.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from ..utils.errors import UserError, user_error
from ..utils.messages import did_you_mean

COMMANDS = {
    'train': 'Train a detector',
    'test': 'Evaluate a checkpoint or an exported file on the test data',
    'compute_anchors': 'Fit anchors to a data set, and write a config with them',
    'make_demo_data': 'Make a small data set of drawn shapes',
}


def main(command: str | None = None, argv: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process where it fails.

    What a user can mend ends in one message and exit code 1, a wrong command line in
    the usage and exit code 2.

    Args:
        command: Name of the command; the first argument if ``None``.
        argv: Arguments; those of the process if ``None``.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if command is None:
        command = argv.pop(0)
    try:
        call(command, *argv)
    except Exception as error:
        found = user_error(error)
        if found is None:
            raise
        text = str(found)
        if not isinstance(found, UserError):
            text = f'{found.filename}: {found.strerror or found}'
        sys.exit(f'mmnextvit {command}: {text}')


def call(command: str, *argv: object) -> object:
    """Runs a command in this process and returns what its ``run`` does.

    Args:
        command: Name of the command.
        argv: Arguments, which are made texts.

    Raises:
        UserError: What the user can mend.
        SystemExit: The arguments are not the command's.
    """
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS) or f'there are {", ".join(COMMANDS)}'
        raise UserError(f'there is no command {command!r}: {hint}')
    module = importlib.import_module(f'.{command}', __name__)
    parser = argparse.ArgumentParser(
        prog=f'mmnextvit {command}', description=module.__doc__.partition('\n')[0]
    )
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(arg) for arg in argv]))
