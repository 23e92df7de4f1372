"""A run that several commands are tested with."""

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.commands import call_here
from tests.helpers.tiny_run import write_tiny_run


@dataclass
class TrainedRun:
    """A folder, of no relation to the repository, after two epochs of ``tiny.py``."""

    folder: Path
    warnings: list[str]  # what Python warned of meanwhile

    @property
    def work_dir(self) -> Path:
        return self.folder / 'work_dirs' / 'tiny'


@pytest.fixture(scope='session')
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = tmp_path_factory.mktemp('user')
    write_tiny_run(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        call_here('train', 'tiny.py', cwd=folder)
    return TrainedRun(folder, [str(warning.message) for warning in caught])


@pytest.fixture
def copy(trained: TrainedRun, tmp_path: Path) -> Path:
    """What one test may change."""
    shutil.copytree(trained.folder / 'work_dirs', tmp_path / 'work_dirs')
    shutil.copy(trained.folder / 'tiny.py', tmp_path)
    return tmp_path
