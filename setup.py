"""Installs mmnextvit. Every bound has been run at both ends, if not said otherwise."""

import contextlib
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
MIM = ('configs', 'tools', 'model-index.yml')
INIT = (ROOT / 'mmnextvit' / '__init__.py').read_text()

# mmcv-lite and OpenCV share a folder with other distributions (mmcv, onedl-mmcv;
# opencv-python), and would overwrite a user's own: they come by extra only.
EXTRAS = {
    # mmengine: the first without opencv-python and pkg_resources
    'lite': ['mmcv-lite>=2.0.1,<2.1', 'mmengine>=0.11.0rc3,<0.12'],
    'opencv': ['opencv-python-headless>=4.8.0.76,<5'],
    'yolo': ['mmyolo>=0.6,<0.7'],
}
EXTRAS['all'] = sum(EXTRAS.values(), [])

# What tools/export.py needs, by format. Run at the lower ends, which are the lock's.
ONNX = [
    'onnx>=1.23.2,<1.24',
    'onnxruntime>=1.32,<1.33',
    'onnxscript>=0.7.2,<0.8',
    'onnxslim>=0.1.98,<0.2',
]
EXTRAS.update(
    onnx=ONNX,
    openvino=[*ONNX, 'openvino>=2026.4.1,<2026.5'],
    int8=[*ONNX, 'openvino>=2026.4.1,<2026.5', 'nncf>=3.4,<3.5'],
    coreml=['coremltools>=9,<9.1'],
)
EXTRAS['deploy'] = EXTRAS['int8'] + EXTRAS['coreml']


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


setup(
    name='mmnextvit',
    version=re.search(r"__version__ = '(.+)'", INIT)[1],
    description='NextViT backbones and YOLOv5 detectors for MMDetection and MMYOLO',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmnextvit', 'mmnextvit.*']),
    python_requires='>=3.11,<3.13',
    install_requires=[
        'torch>=2.6,<2.16',
        'torchvision>=0.21,<0.30',
        'mmdet>=3.3,<3.4',
        'timm>=1.0.11,<1.1',
        'einops>=0.6,<0.9',
        'numpy>=1.26,<2.5',
        'safetensors>=0.8,<0.9',
        'faster-coco-eval>=1.8,<1.9',  # run at the lower end, which is the lock's
    ],
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['mmnextvit = mmnextvit.cli:main']},
    cmdclass={'build_py': BuildWithMIM, 'sdist': SDistWithMIM},
)
