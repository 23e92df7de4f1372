"""The config with which a folder of images is trained on."""

import os
import re
from keyword import iskeyword
from pathlib import Path

from mmengine.config import Config

from ..utils.errors import UserError
from ..utils.files import make_numbered_folder, missing_folders, remove_empty_folders
from .new import Options, write_config

CONFIG_FOLDER = 'config'  # in that of the run, whose own config MMEngine writes


def name_config(folder: str | os.PathLike) -> str:
    """The config's file name for a folder: ``blood_cells.py`` for ``Blood cells/``."""
    path = Path(folder).resolve()
    stem = path.stem if path.is_file() else path.name
    name = re.sub(r'\W+', '_', stem).strip('_').lower()
    if not name.isidentifier() or iskeyword(name):
        name = f'data_{name}'.rstrip('_')
    return f'{name}.py'


def read_folder_config(
    folder: str | os.PathLike,
    work_dir: str | os.PathLike | None = None,
    resume: str | None = None,
) -> Config:
    """The config for a folder, which is written into the folder of its run.

    Args:
        folder: Images and annotations, in any layout that ``mmnextvit new`` reads.
        work_dir: Folder of the run; a new one below ``work_dirs`` if ``None``.
        resume: What a run is to go on from, if it is: its config is taken.

    Returns:
        The config, with its ``work_dir``.

    Raises:
        UserError: The folder cannot be read, or nothing says which run is to go on.
            Nothing is left then.
        OSError: A file cannot be written.
    """
    name = name_config(folder)
    if resume and work_dir is None:
        raise UserError(
            f'resume={resume!r}: say by work_dir which run goes on; each run on a '
            'folder of images has a new one'
        )
    made = missing_folders(Path(work_dir or 'work_dirs'))
    run = Path(work_dir or make_numbered_folder(Path('work_dirs', Path(name).stem)))
    written = sorted(run.glob(f'{CONFIG_FOLDER}*/{name}'), key=os.path.getmtime)
    if resume and written:
        path = written[-1]
    else:
        place = make_numbered_folder(run / CONFIG_FOLDER)
        path = place / name
        try:
            print(write_config(Options(os.fspath(folder), path)))
        except BaseException:
            remove_empty_folders([place, *([] if work_dir else [run]), *made])
            raise
    cfg = Config.fromfile(path)
    cfg.work_dir = str(run)
    return cfg
