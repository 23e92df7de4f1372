"""What setup.py asks for, and that the lock keeps to it."""

import re
import runpy
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


@pytest.fixture
def asked(monkeypatch):
    """What setup.py hands to setuptools."""
    asked = {}
    monkeypatch.setattr(setuptools, 'setup', asked.update)
    runpy.run_path(str(ROOT / 'setup.py'))
    return asked


def test_no_distribution_that_could_overwrite_a_users_own(asked):
    names = {Requirement(r).name for r in asked['install_requires']}
    assert {'timm', 'einops', 'mmdet'} <= names
    shared_folders = {'mmcv', 'mmengine', 'opencv'}
    assert not [n for n in names if any(part in n for part in shared_folders)]
    extras = {Requirement(r).name for r in asked['extras_require']['all']}
    assert {'mmcv-lite', 'opencv-python-headless', 'mmyolo'} <= extras


def test_lock_keeps_to_the_bounds(asked):
    lines = (ROOT / 'requirements' / 'lock.txt').read_text().splitlines()
    pins = [line for line in lines if not line.startswith('#')]
    assert all(re.fullmatch(r'[\w.-]+==[\w.]+', pin) for pin in pins)
    locked = dict(pin.split('==') for pin in pins)
    extras = asked['extras_require']
    for text in asked['install_requires'] + extras['all'] + extras['deploy']:
        requirement = Requirement(text)
        version = locked[requirement.name]
        assert requirement.specifier.contains(version, prereleases=True), text
