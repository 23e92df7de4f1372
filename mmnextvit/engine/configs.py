"""Configs: in a file, with changes; or, as a notebook has them, read already."""

import ast
import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..recipes import (
    RATE,
    SETTINGS,
    check_followed,
    find_changes,
    fitting,
    refit,
    set_rate,
)
from ..runs import CONFIGS
from ..utils.errors import UserError, naming_file
from ..utils.files import require_file
from ..utils.messages import show
from ..utils.packages import explain_missing_mmyolo
from .config_files import read_changed


def open_config(source: Config | str | os.PathLike | Any) -> Config:
    """A copy of a config, or the one in a file.

    Raises:
        MissingFileError: There is no such file.
        UserError: As of :func:`read_config`, or it is neither.
    """
    if isinstance(source, Config):
        return copy.deepcopy(source)
    if not isinstance(source, (str, os.PathLike)):
        raise UserError(
            f'{show(source)} is neither a config nor the path of one: give '
            "mmengine.Config, or a path such as 'my_data.py'"
        )
    return read_config(os.fspath(source))


def read_config(
    path: str,
    options: Mapping[str, Any] = {},
    settings: Mapping[str, Any] = {},
) -> Config:
    """A detector's config file, with changes.

    Where it calls :func:`~mmnextvit.fit_recipe`, or inherits from one that does, the
    image size, the classes, the epochs and the batch size may be changed by their name
    alone, by the options as by a config that inherits: what follows from them follows.
    What follows from ``in_channels`` does so in every config that has it, or gets it.

    Args:
        path: The file.
        options: Values by key, as in ``{'model.backbone.frozen_stages': 1}``. What
            follows from a variable of the file follows; a key that begins with ``+`` is
            added, whatever reads it.
        settings: ``image_size``, ``batch_size``, ``max_epochs`` and the optimizer's
            learning rate, by their keys, for any config: where it calls no
            ``fit_recipe``, :func:`~mmnextvit.recipes.refit` changes what follows.

    Raises:
        UserError: The file cannot be read as a config, or has no ``model``; or nothing
            reads one of its keys, or one of the options, or follows a setting. What its
            own code raises goes on, with its traceback.
        MissingPackageError: It inherits from MMYOLO, which is not installed.
    """
    follows = {key: value for key, value in options.items() if key == 'in_channels'}
    options = {key: value for key, value in options.items() if key not in follows}
    settings = {**follows, **settings}
    cfg = _read_changed(path, options)
    wanted = {key: value for key, value in settings.items() if key in SETTINGS}
    if 'in_channels' in cfg and 'recipe' not in cfg:
        wanted = {'in_channels': cfg.in_channels, **wanted}
    with naming_file(path):
        if 'recipe' in cfg:
            cfg.merge_from_dict(wanted)
            changes = find_changes(cfg)
            if changes:
                with fitting(changes):
                    cfg = _read_changed(path, {**options, **wanted})
            left = {k: v for k, v in find_changes(cfg).items() if k in wanted}
            if left:  # it was dumped, and calls it no more
                _change(cfg, refit(cfg, left))
        elif wanted:
            cfg = _read_changed(path, options, wanted)
        if RATE in settings:
            _change(cfg, set_rate(cfg, settings[RATE]))
    check_followed(cfg)
    return cfg


def parse_config(text: str) -> Config:
    """A config from the text of its file, with what follows from ``in_channels``.

    Raises:
        UserError: It does not follow.
    """
    cfg = Config.fromstring(text, '.py')
    if 'in_channels' in cfg:
        _change(cfg, refit(cfg, {'in_channels': cfg.in_channels}))
    return cfg


def _change(cfg: Config, changes: Mapping[str, Any]) -> None:
    """Gives keys of a config other values, as wholes."""
    for key, value in changes.items():
        cfg[key] = value


def _read_changed(
    path: str, options: Mapping[str, Any], settings: Mapping[str, Any] = {}
) -> Config:
    """A config file with settings and options, and with all that follows from them."""

    def adjust(cfg: Config) -> None:
        if settings:
            _change(cfg, refit(cfg, settings))

    return read_changed(lambda: _read_file(path), options, adjust)


def _read_file(path: str) -> Config:
    """A detector's config file as it is."""
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
