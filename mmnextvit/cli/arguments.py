"""Arguments that commands share, and the config that they name."""

import argparse
import ast
import json
from collections.abc import Mapping, Sequence
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..recipes import SETTINGS, check_followed, find_changes, fitting
from ..utils.errors import UserError, naming_file
from ..utils.files import check_new_file, require_file
from ..utils.packages import explain_missing_mmyolo

CONFIGS = ('.py', '.yml', '.yaml', '.json')  # what MMEngine reads

if TYPE_CHECKING:
    from mmengine.config import Config


class ConfigOptions(argparse.Action):
    """MMEngine's ``DictAction``, imported at its use so that help comes at once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,  # a list, by nargs='+'
        option_string: str | None = None,
    ) -> None:
        from mmengine.config import DictAction

        for value in values or ():
            if '=' not in value:
                parser.error(f'{option_string}: {value!r} is not KEY=VALUE')
        action = DictAction(self.option_strings, self.dest, nargs=self.nargs)
        action(parser, namespace, values, option_string)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds ``config`` and ``--cfg-options``."""
    parser.add_argument('config', help='config file')
    add_cfg_options(parser)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        default={},
        metavar='KEY=VALUE',
        help='change the config, as in model.backbone.frozen_stages=1 data_root=x/',
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds ``--work-dir`` and ``--launcher``."""
    parser.add_argument(
        '--work-dir', help='folder for logs and results (./work_dirs/<config>)'
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )


def check_new_config(path: str) -> Path:
    """The path of ``-o``, if a config may be written there.

    Raises:
        UserError: It may not.
        OSError: It cannot be written.
    """
    out = check_new_file(path)
    if out.suffix != '.py' or not out.stem.isidentifier() or iskeyword(out.stem):
        raise UserError(f'-o {out}: a config is called like my_config.py')
    return out


def to_share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to 1')
    return value


def to_count(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**9:
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number from 1 on')
    return int(text)


def to_hours(text: str) -> float:
    """A time above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text!r} is no number of hours above 0')
    return value


def read_config(path: str, options: Mapping[str, Any] = {}) -> 'Config':
    """A detector's config file, with changes.

    Where it calls :func:`~mmnextvit.fit_recipe`, or inherits from one that does, the
    image size, the classes, the epochs and the batch size may be changed by their name
    alone, by the options as by a config that inherits: what follows from them follows.

    Args:
        path: The file.
        options: Values by key, as in ``{'model.backbone.frozen_stages': 1}``.

    Raises:
        UserError: The file cannot be read as a config, or has no ``model``; or nothing
            in it follows an option that is a setting of ``fit_recipe``. What its own
            code raises goes on, with its traceback.
        MissingPackageError: It inherits from MMYOLO, which is not installed.
    """
    cfg = _read_changed(path, options)
    with naming_file(path):
        changes = find_changes(cfg)
    if changes:
        with fitting(changes):
            cfg = _read_changed(path, options)
    check_followed(cfg, SETTINGS.keys() & options)
    return cfg


def _read_changed(path: str, options: Mapping[str, Any]) -> 'Config':
    """A config file with options, and with the paths that follow ``data_root``."""
    cfg = _read_file(path)
    data_root = cfg.get('data_root')
    cfg.merge_from_dict(dict(options))
    if cfg.get('data_root') != data_root and Path(data_root or '').parts:
        move_data_root(cfg, data_root)
    return cfg


def _read_file(path: str) -> 'Config':
    """A detector's config file as it is."""
    from mmengine.config import Config

    require_file(path, 'config')
    if Path(path).suffix not in CONFIGS:
        problem = f'this is no config: its name must end in {" or ".join(CONFIGS)}'
        raise UserError(problem, file=path)
    if Path(path).suffix == '.py':
        try:
            ast.parse(Path(path).read_bytes(), path)
        except SyntaxError as error:
            problem = f'the file is not Python: {error.msg}'
            raise UserError(problem, file=path, line=error.lineno) from error
        except ValueError as error:  # NUL bytes
            raise UserError(f'the file is not Python: {error}', file=path) from error
    try:
        with explain_missing_mmyolo():
            cfg = Config.fromfile(path)
    except UserError as error:  # of the YAML, or of fit_recipe
        error.file = error.file or path
        raise
    except UnicodeDecodeError as error:
        raise UserError(f'the file is not text in UTF-8: {error}', file=path) from error
    except json.JSONDecodeError as error:
        problem = f'the file is not JSON: {error.msg}'
        raise UserError(problem, file=path, line=error.lineno) from error
    except AttributeError as error:
        if Path(path).suffix == '.py':
            raise
        problem = 'the file, or one of its _base_, holds no keys and values'
        raise UserError(problem, file=path) from error
    except RecursionError as error:
        problem = 'its _base_ files inherit from each other in a circle'
        raise UserError(problem, file=path) from error
    if not isinstance(cfg.get('model'), dict):
        raise UserError(
            'the file has no model, so it is not the config of a detector: inherit '
            'from one with _base_ or write model = dict(...)',
            file=path,
        )
    return cfg


def load_config(args: argparse.Namespace) -> 'Config':
    """The config with the command line's changes.

    Raises:
        UserError: As :func:`read_config`.
    """
    cfg = read_config(args.config, args.cfg_options)
    if 'launcher' in args:
        cfg.launcher = args.launcher
        name = Path(args.config).stem
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'./work_dirs/{name}'
    return cfg


def move_data_root(cfg: 'Config', before: str) -> None:
    """Carries a new ``data_root`` into the paths of the config that begin with it.

    MMEngine fills in a config's variables while it reads the file, so that changing
    one afterwards changes nothing else.

    Args:
        cfg: Config whose ``data_root`` is the new one.
        before: The one that the file was read with.
    """

    def move(node: object) -> object:
        if isinstance(node, dict):
            return {key: move(value) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return type(node)(move(value) for value in node)
        if isinstance(node, str) and Path(node).is_relative_to(before):
            return str(Path(cfg.data_root, Path(node).relative_to(before)))
        return node

    for part in ('dataloader', 'evaluator'):
        for mode in ('train', 'val', 'test'):
            if cfg.get(f'{mode}_{part}'):
                cfg[f'{mode}_{part}'] = move(cfg[f'{mode}_{part}'])
