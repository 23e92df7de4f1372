"""What pyproject.toml asks for, and that the lock keeps to it."""

import re
import tomllib

from mmnextvit import __version__

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
EXTRAS = PROJECT['project']['optional-dependencies']
LOCK = ROOT / 'requirements' / 'lock.txt'


def requirements(extra: str) -> list[Requirement]:
    """What an extra brings, those that it names of mmnextvit's own included."""
    every = [Requirement(text) for text in EXTRAS[extra]]
    own = [name for r in every if r.name == 'mmnextvit' for name in r.extras]
    others = [r for r in every if r.name != 'mmnextvit']
    return others + [r for name in own for r in requirements(name)]


@pytest.fixture(scope='module')
def needed() -> list[Requirement]:
    return [Requirement(text) for text in PROJECT['project']['dependencies']]


@pytest.fixture(scope='module')
def locked() -> dict[str, str]:
    pins = [x for x in LOCK.read_text().splitlines() if not x.startswith('#')]
    assert all(re.fullmatch(r'[\w.-]+==[\w.]+', pin) for pin in pins)
    return dict(pin.split('==') for pin in pins)


def test_no_distribution_that_could_overwrite_a_users_own(needed):
    names = {r.name for r in needed}
    assert {'timm', 'einops', 'mmdet'} <= names
    shared_folders = {'mmcv', 'mmengine', 'opencv'}
    assert not [n for n in names if any(part in n for part in shared_folders)]
    extras = {r.name for r in requirements('all')}
    assert {'mmcv-lite', 'opencv-python-headless', 'mmyolo'} <= extras


def test_extras_of_the_export_formats():
    names = {e: {r.name for r in requirements(e)} for e in EXTRAS}
    assert names['onnx'] < names['openvino'] < names['int8']
    assert names['deploy'] == names['int8'] | names['coreml']


def test_lock_keeps_to_the_bounds(needed, locked):
    for requirement in [*needed, *requirements('all'), *requirements('deploy')]:
        version = locked[requirement.name]
        assert requirement.specifier.contains(version, prereleases=True), requirement
    build, *more = map(Requirement, PROJECT['build-system']['requires'])
    assert build.name == 'setuptools' and not more
    assert build.specifier.contains(locked['setuptools'])  # without build isolation


def test_lock_has_what_make_check_runs(locked):
    assert {'mypy', 'pytest', 'pytest-cov', 'pytest-xdist', 'ruff'} <= set(locked)


def test_version_is_one_that_pip_reads():
    assert 'version' in PROJECT['project']['dynamic']
    assert str(Version(__version__)) == __version__
