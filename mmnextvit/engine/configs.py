"""Configs as a notebook has them: read already, or in a file."""

import copy
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..utils.errors import UserError
from ..utils.files import require_file
from ..utils.messages import show
from ..utils.packages import explain_missing_mmyolo
from .runs import CONFIGS


def open_config(source: Config | str | os.PathLike | Any) -> Config:
    """A copy of a config, or the one in a file.

    Raises:
        MissingFileError: There is no such file.
        UserError: It is no config of a detector.
    """
    if isinstance(source, Config):
        return copy.deepcopy(source)
    if not isinstance(source, (str, os.PathLike)):
        raise UserError(
            f'{show(source)} is neither a config nor the path of one: give '
            "mmengine.Config, or a path such as 'my_data.py'"
        )
    path = require_file(os.fspath(source), 'config')
    if Path(path).suffix not in CONFIGS:
        problem = f'this is no config: its name must end in {" or ".join(CONFIGS)}'
        raise UserError(problem, file=path)
    with explain_missing_mmyolo():
        cfg = Config.fromfile(path)
    if not isinstance(cfg.get('model'), dict):
        raise UserError("the file has no model: it is no detector's config", file=path)
    return cfg
