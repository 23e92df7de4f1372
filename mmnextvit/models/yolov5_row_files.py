"""A user's own files of modules, imported by their path."""

import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from ..utils.errors import MissingFileError, UserError
from ..utils.files import require_file
from ..utils.messages import tell

# Names of the modules that were imported, by the files that they come from.
_IMPORTED: dict[Path, str] = {}


def import_row_files(paths: Iterable[str]) -> tuple[str, ...]:
    """Imports Python files, so that what they register is known; each one once.

    The files are run, as a config is. They may import others in their folder.

    Args:
        paths: The files.

    Returns:
        Their whole paths.

    Raises:
        MissingFileError: There is no such file.
        UserError: It is not Python, or cannot be imported; the error has the line.
    """
    files = []
    for path in paths:
        if '://' in path:
            raise MissingFileError(f'modules {path}: give a file of this machine')
        files.append(Path(require_file(path, 'modules')).expanduser().resolve())
    for file in files:
        if file not in _IMPORTED:
            _import_file(file)
    return tuple(map(str, files))


def _import_file(file: Path) -> None:
    if file.suffix != '.py':
        raise UserError('a file of modules is Python: its name ends in .py', file=file)
    # One that custom_imports brought under its plain name is not run a second time.
    loaded = sys.modules.get(file.stem)
    if loaded and Path(getattr(loaded, '__file__', None) or '').resolve() == file:
        _IMPORTED[file] = file.stem
        return
    name = file.stem if loaded is None else f'{file.stem}_{len(_IMPORTED)}'
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, for dataclasses and the like
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except UserError as error:  # of register_row
        del sys.modules[name]
        if error.file is None:
            error.file, error.line = file, _find_line(error, file)
        raise
    except Exception as error:
        del sys.modules[name]
        problem = f'it cannot be imported: {type(error).__name__}: {tell(error)}'
        line = error.lineno if isinstance(error, SyntaxError) else None
        line = line or _find_line(error, file)
        raise UserError(problem, file=file, line=line) from error
    finally:
        sys.path.remove(str(file.parent))
    _IMPORTED[file] = name


def _find_line(error: BaseException, file: Path) -> int | None:
    """The line of a file at which an error came through it last."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((f.lineno for f in frames if f.filename == str(file)), None)
