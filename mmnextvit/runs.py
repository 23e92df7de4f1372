"""The folder of a run: which config and which checkpoint it stands for.

Nothing heavy is imported, so that a command says at once what a folder lacks.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .utils.errors import MissingFileError, UserError
from .utils.files import read_short_text
from .utils.messages import first_few

if TYPE_CHECKING:
    from mmengine.config import Config

BEST_FILE, LAST_FILE = 'best.pth', 'last.pth'
CONFIGS = ('.py', '.yml', '.yaml', '.json')  # what MMEngine reads, and dumps
NAMED = 'last_checkpoint'  # MMEngine's file that names the newest checkpoint
RANKS = {  # where a launcher says which of its processes this one is
    'pytorch': 'RANK',
    'slurm': 'SLURM_PROCID',
    'mpi': 'OMPI_COMM_WORLD_RANK',
}


class Run(NamedTuple):
    """A training that was at least begun.

    Attributes:
        folder: Its ``work_dir``.
        config: The config that it was trained with last, without ``_base_``.
        checkpoint: Its best checkpoint, or its last where none is known to be best.
    """

    folder: Path
    config: Path
    checkpoint: Path


def is_first_process(launcher: str) -> bool:
    """Whether this process is the first of those that a launcher started, or alone."""
    return os.environ.get(RANKS.get(launcher, ''), '0') == '0'


def find_run(path: str | os.PathLike) -> Run:
    """The run in a folder, wherever the folder was moved to.

    Args:
        path: The ``work_dir`` of a training.

    Raises:
        MissingFileError: It is no folder, or lacks a config or a checkpoint.
        UserError: It has several configs, and nothing says which was used last.
    """
    folder = check_is_folder(path)
    configs = list_configs(folder)
    config = choose_config(folder, configs) if configs else None
    checkpoint = find_best(list_places(folder, config))
    if config is None or checkpoint is None:
        raise describe_missing(folder, config, checkpoint)
    return Run(folder, config, checkpoint)


def find_run_config(path: str | os.PathLike) -> Path:
    """The config of a run's folder, which need not have a checkpoint.

    Raises:
        MissingFileError: It is no folder, or has no config.
        UserError: It has several, and nothing says which was used last.
    """
    folder = check_is_folder(path)
    configs = list_configs(folder)
    if not configs:
        raise describe_missing(folder, None, folder)
    return choose_config(folder, configs)


def find_run_checkpoint(path: str | os.PathLike) -> Path:
    """The checkpoint of a run's folder, whose config need not be there.

    Raises:
        MissingFileError: It is no folder, or has no checkpoint.
    """
    folder = check_is_folder(path)
    checkpoint = find_best(list_places(folder))
    if checkpoint is None:
        raise describe_missing(folder, folder, None)
    return checkpoint


def check_is_folder(path: str | os.PathLike) -> Path:
    """
    Raises:
        MissingFileError: It is a file, or does not exist.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        problem = 'is a file' if folder.exists() else 'does not exist'
        raise MissingFileError(f'{folder} {problem}: name the folder of a run')
    return folder


def list_configs(folder: Path) -> list[Path]:
    """The configs in a run's folder, by name."""
    paths = sorted(folder.iterdir())
    return [p for p in paths if p.suffix in CONFIGS and p.is_file()]


def choose_config(folder: Path, configs: list[Path]) -> Path:
    """The config that a run had last: MMEngine keeps those of all its sessions.

    Args:
        folder: The run's folder, with a folder for each session.
        configs: One or more of its configs.

    Raises:
        UserError: There are several, and none is that of the last session.
    """
    if len(configs) == 1:
        return configs[0]
    # Times of files say nothing in a folder that was copied; names of sessions do.
    for session in sorted(folder.glob('*/vis_data/config.*'), reverse=True):
        same = [c for c in configs if c.read_bytes() == session.read_bytes()]
        if same:
            return same[0]
        break
    raise UserError(
        f'{folder} holds several configs ({first_few(c.name for c in configs)}), and '
        'none is that of its last session: name one, as CONFIG and then the folder'
    )


def find_best(folders: Iterable[Path]) -> Path | None:
    """The best checkpoint in the first folder that has any, else the last one.

    Runs of MMEngine's own have neither ``best.pth`` nor ``last.pth``.
    """
    for folder in folders:
        old = sorted(folder.glob('best_*.pth'), key=lambda p: p.stat().st_mtime)
        names = folder / BEST_FILE, *old[::-1], folder / LAST_FILE
        for path in (*names, *_find_named(folder)):
            if path.is_file() and path.stat().st_size:
                return path
    return None


def _find_named(folder: Path) -> Iterator[Path]:
    """What ``last_checkpoint`` names, wherever the folder was when it was written."""
    file = folder / NAMED
    if file.is_file():
        name = read_short_text(file).replace('\\', '/').rpartition('/')[2]
        if name and '\0' not in name:
            yield folder / name


def list_places(folder: Path, config: Path | None = None) -> Iterator[Path]:
    """Where the checkpoints of a run may lie, beginning with its own folder.

    Args:
        folder: The run's folder.
        config: Its config, which may have them saved elsewhere; the only one that is
            there if ``None``.
    """
    yield folder
    configs = list_configs(folder) if config is None else [config]
    if len(configs) != 1:
        return
    from mmengine.config import Config

    cfg = Config.fromfile(configs[0])
    cfg.work_dir = str(folder)
    place = find_checkpoint_folder(cfg)
    if place is not None and place != folder and place.is_dir():
        yield place


def find_checkpoint_folder(cfg: 'Config') -> Path | None:
    """Where a config has its checkpoints saved; ``None`` if it is no local folder."""
    hooks = cfg.get('default_hooks') or {}
    return place_checkpoints(
        cfg.work_dir, (hooks.get('checkpoint') or {}).get('out_dir')
    )


def place_checkpoints(
    work_dir: str | os.PathLike, out_dir: str | os.PathLike | None
) -> Path | None:
    """Where MMEngine's ``CheckpointHook`` saves.

    Args:
        work_dir: The folder of the run.
        out_dir: What the hook was given; a folder of the run's name is made in it.

    Returns:
        The folder; ``None`` if it is no local one.
    """
    absolute = os.path.abspath(work_dir)  # as the runner has it
    if out_dir is None or os.fspath(out_dir) == absolute:
        return Path(work_dir)
    if '://' in os.fspath(out_dir):
        return None
    return Path(out_dir, os.path.basename(absolute))


def describe_missing(
    folder: Path, config: Path | None, checkpoint: Path | None
) -> MissingFileError:
    """What a folder lacks to be that of a run."""
    parts = {f'config (NAME{CONFIGS[0]})': config}
    parts[f'checkpoint ({BEST_FILE} or {LAST_FILE})'] = checkpoint
    missing = ' and no '.join(part for part, found in parts.items() if not found)
    problem = f'{folder} is a folder, but not that of a run: it has no {missing}'
    inner = sorted(path.parent.name for path in folder.glob(f'*/{NAMED}'))
    if inner:
        return MissingFileError(f'{problem}. Name a run in it: {first_few(inner)}')
    return MissingFileError(f'{problem}, which mmnextvit train writes')
