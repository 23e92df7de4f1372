"""Builds wheels and sdists, and installs into fresh environments, without network."""

import os
import sys
import sysconfig
from pathlib import Path

from tests.conftest import ROOT
from tests.helpers.tiny_run import run_command

SITE = Path(sysconfig.get_path('purelib'))


def run(*command: object, cwd: Path, code: int = 0, warm: bool = True) -> str:
    """Runs a command without ``PYTHONPATH``, on one thread and no GPU; its output.

    The arguments are those of ``run_command``.
    """
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    env.update(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1')
    return run_command(*command, cwd=cwd, env=env, code=code, warm=warm)


def environment(folder: Path, bare: bool = False) -> Path:
    """A fresh environment without mmnextvit; its Python.

    A path does not bring this environment's own .pth files, and so no editable install.
    """
    run(sys.executable, '-m', 'venv', '--without-pip', folder, cwd=ROOT)
    python = folder / 'bin' / 'python'
    if not bare:
        command = 'import sysconfig; print(sysconfig.get_path("purelib"))'
        site = Path(run(python, '-c', command, cwd=folder, warm=False).strip())
        # What setuptools' own .pth file does: MMEngine imports distutils, which Python
        # 3.12 and newer do not have.
        shim = 'import _distutils_hack; _distutils_hack.add_shim()'
        (site / 'packages.pth').write_text(f'{SITE}\n{shim}\n')
    return python


def install(python: Path, *what: object) -> None:
    """Installs with this environment's pip, without network."""
    options = '-q', '--no-deps', '--no-build-isolation', '--ignore-installed'
    pip = sys.executable, '-m', 'pip', '--python', python
    run(*pip, 'install', *options, *what, cwd=python.parent)


def build_wheel(source: Path, folder: Path) -> Path:
    """Builds the wheel of a source folder or archive into ``folder``; its path."""
    pip = sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', folder
    run(*pip, '--no-build-isolation', source, cwd=folder)
    return next(folder.glob('*.whl'))


def build_sdist(source: Path, folder: Path) -> Path:
    """Builds the sdist of a source folder into ``folder``; its path."""
    command = f'from setuptools import build_meta as b; b.build_sdist({str(folder)!r})'
    run(sys.executable, '-c', command, cwd=source)
    return next(folder.glob('*.tar.gz'))
