"""Tools of MMDetection and MMYOLO, run with what is registered here.

``mmnextvit mmyolo/analysis_tools/browse_dataset my_config.py`` runs MMYOLO's script of
that path. It then knows our models and data sets, needs no compiled ops, and reads
checkpoints as our commands do.
"""

import contextlib
import functools
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..utils.errors import MissingFileError, MissingPackageError
from ..utils.messages import did_you_mean

PACKAGES = ('mmdet', 'mmyolo')


def is_package_tool(name: str) -> bool:
    """Whether a command names another package's tool."""
    return name.partition('/')[0] in PACKAGES


def find_tool(name: str) -> Path:
    """The script of a tool.

    Args:
        name: Its package and its path there, with or without ``.py``.

    Raises:
        MissingFileError: There is none of that name; the message has near ones.
        MissingPackageError: Its package is not installed.
    """
    package = name.partition('/')[0]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingPackageError(f'{package} is not installed')
    folder = Path(spec.origin).parent / '.mim' / 'tools'
    tools = {
        f'{package}/{path.relative_to(folder).with_suffix("").as_posix()}': path
        for path in sorted(folder.rglob('*.py'))
        if not path.name.startswith('_')
    }
    if name.removesuffix('.py') in tools:
        return tools[name.removesuffix('.py')]
    hint = did_you_mean(name, tools) or f'there are {", ".join(tools)}'
    raise MissingFileError(f'there is no tool {name!r}: {hint}')


def run_script(path: Path, argv: Sequence[str]) -> None:
    """Runs a script in this process, as Python runs one."""
    sys.argv = [str(path), *argv]
    sys.path[0] = str(path.parent)
    with _loading_by_our_reader():
        runpy.run_path(str(path), run_name='__main__')


@contextlib.contextmanager
def _loading_by_our_reader() -> Iterator[None]:
    """Has `torch.load` read files as our commands do.

    Tools call it without more, and then it refuses every checkpoint of a run, as that
    holds records of MMEngine's; and every file from before torch 1.6 that has more than
    tensors. Our reader runs nothing that a file holds either.
    """
    torch: Any = import_module('torch')
    load = torch.load

    @functools.wraps(load)
    def read(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or not isinstance(f, str | os.PathLike):
            return load(f, map_location, *args, **kwargs)
        from ..weights.reader import read_all

        return read_all(f, map_location)

    torch.load = read
    try:
        yield
    finally:
        torch.load = load
