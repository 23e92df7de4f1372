"""Installs mmnextvit. Every bound below has been run at both ends."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
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

setup(
    name='mmnextvit',
    version=re.search(r"__version__ = '(.+)'", INIT)[1],
    description='NextViT backbones and YOLOv5 detectors for MMDetection and MMYOLO',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=['mmnextvit'],
    python_requires='>=3.11,<3.13',
    install_requires=[
        'torch>=2.6,<2.16',
        'torchvision>=0.21,<0.30',
        'mmdet>=3.3,<3.4',
        'timm>=1.0.11,<1.1',
        'einops>=0.6,<0.9',
        'numpy>=1.26,<2.5',
        'safetensors>=0.8,<0.9',
    ],
    extras_require=EXTRAS,
)
