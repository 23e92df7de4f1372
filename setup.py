"""What building mmnextvit needs code for; pyproject.toml has all else."""

import contextlib
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
MIM = ('configs', 'tools', 'model-index.yml')


def add_mim(package: Path, link: bool = False) -> None:
    """Puts what MIM looks for into ``package/.mim``, as copies or as links."""
    mim = package / '.mim'
    shutil.rmtree(mim, ignore_errors=True)  # of an earlier build
    mim.mkdir(parents=True)
    for source in (ROOT / name for name in MIM):
        if link:
            # Windows may forbid links: hub.py then finds the repository's own.
            with contextlib.suppress(OSError):
                (mim / source.name).symlink_to(Path('../..') / source.name)
        elif source.is_dir():
            ignored = shutil.ignore_patterns('__pycache__')
            shutil.copytree(source, mim / source.name, ignore=ignored)
        else:
            shutil.copy(source, mim)


class BuildWithMIM(build_py):
    """For wheels and ``pip install``, editable or not."""

    def run(self) -> None:
        super().run()
        # An editable package stays here, and so do its configs.
        if getattr(self, 'editable_mode', False):
            add_mim(ROOT / 'mmnextvit', link=True)
        else:
            add_mim(Path(self.build_lib, 'mmnextvit'))


class SDistWithMIM(sdist):
    """For the sdist."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        add_mim(Path(base_dir, 'mmnextvit'))


setup(cmdclass={'build_py': BuildWithMIM, 'sdist': SDistWithMIM})
