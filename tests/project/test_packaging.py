"""What pyproject.toml asks for, and that the lock keeps to it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from types import SimpleNamespace

from mmnextvit import __version__
from mmnextvit.deploy import formats
from mmnextvit.deploy.formats import FORMATS, NEWEST_PYTHON
from mmnextvit.utils.errors import MissingPackageError
from mmnextvit.utils.packages import FOLDERS

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
EXTRAS = PROJECT['project']['optional-dependencies']
FOLDER = ROOT / 'requirements'
SETS = {'official-lite': 'all', 'onedl': 'onedl'}
PYTHONS = ('3.11', '3.12', '3.13', '3.14')


def requirements(extra: str) -> list[Requirement]:
    """What an extra brings, those that it names of mmnextvit's own included."""
    every = [Requirement(text) for text in EXTRAS[extra]]
    own = [name for r in every if r.name == 'mmnextvit' for name in r.extras]
    others = [r for r in every if r.name != 'mmnextvit']
    return others + [r for name in own for r in requirements(name)]


@pytest.fixture(scope='module')
def needed() -> list[Requirement]:
    return [Requirement(text) for text in PROJECT['project']['dependencies']]


def read_lock(name: str) -> list[Requirement]:
    """The pins of a lock file, and of the one that it begins with."""
    lines = (FOLDER / name).read_text().splitlines()
    lines = [line for line in lines if not line.startswith('#')]
    others = [line.removeprefix('-r ') for line in lines if line.startswith('-r ')]
    pins = [Requirement(line) for line in lines if not line.startswith('-r ')]
    assert all(re.fullmatch(r'==[\w.]+', str(pin.specifier)) for pin in pins)
    return [*(pin for other in others for pin in read_lock(other)), *pins]


def holds(requirement: Requirement, python: str) -> bool:
    """Whether a Python needs it, by its marker."""
    return not requirement.marker or requirement.marker.evaluate(
        {'python_version': python, 'python_full_version': f'{python}.0'}
    )


@pytest.fixture(scope='module')
def locked() -> dict[str, str]:
    pins = read_lock('official-lite.txt')
    return {pin.name: str(pin.specifier).removeprefix('==') for pin in pins}


def test_no_distribution_that_could_overwrite_a_users_own(needed):
    names = {r.name for r in needed}
    assert {'timm', 'einops', 'torch'} <= names
    shared_folders = {'mmcv', 'mmdet', 'mmengine', 'mmyolo', 'onedl', 'opencv'}
    assert not [n for n in names if any(part in n for part in shared_folders)]
    extras = {r.name for r in requirements('all')}
    assert {'mmcv-lite', 'opencv-python-headless', 'mmyolo'} <= extras
    assert {'mmengine', 'mmdet'} <= extras
    fork = {'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection'}
    assert {r.name for r in requirements('onedl')} == fork
    # MMYOLO is of the first set: what brings it brings its MMDetection.
    assert {r.name for r in requirements('yolo')} == {'mmdet', 'mmyolo'}


def test_no_set_has_two_distributions_in_one_folder():
    for name, extra in SETS.items():
        names = [pin.name for pin in read_lock(f'{name}.txt')]
        assert len(names) == len(set(names))
        assert {r.name for r in requirements(extra)} <= set(names)
        for folder, distributions in FOLDERS.items():
            twice = [each for each in distributions if each in names]
            needs_both = (name, folder) == ('onedl', 'cv2')  # onedl-mmcv and imaug
            assert len(twice) == (2 if needs_both else 1), (name, folder)
    opencv = [p for p in read_lock('onedl.txt') if p.name in FOLDERS['cv2']]
    assert len({str(pin.specifier) for pin in opencv}) == 1


@pytest.mark.parametrize('python', PYTHONS)
@pytest.mark.parametrize('name', SETS)
def test_lock_has_what_each_python_needs(needed, name, python):
    asked = [*needed, *requirements(SETS[name]), *requirements('deploy')]
    there = {p.name: p for p in read_lock(f'{name}.txt') if holds(p, python)}
    for requirement in asked:
        assert (requirement.name in there) == holds(requirement, python), requirement
        if requirement.name in there:
            version = str(there[requirement.name].specifier).removeprefix('==')
            assert requirement.specifier.contains(version, prereleases=True)


def test_the_pythons_are_those_that_are_declared():
    declared = SpecifierSet(PROJECT['project']['requires-python'])
    near = [f'3.{minor}' for minor in range(9, 18)]
    assert tuple(v for v in near if declared.contains(v)) == PYTHONS
    classified = [
        text.rpartition(' :: ')[2]
        for text in PROJECT['project']['classifiers']
        if re.search(r' :: 3\.\d+$', text)
    ]
    assert tuple(classified) == PYTHONS
    for python in PYTHONS:
        assert f'python{python}' in (ROOT / 'Makefile').read_text()


@pytest.fixture
def make(tmp_path):
    """Runs make where Pythons are stubs: what it printed, and what the stubs got."""
    shutil.copytree(FOLDER, tmp_path / 'requirements')
    shutil.copy(ROOT / 'Makefile', tmp_path)
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in ('test', 'touch', 'echo'):
        (folder / name).symlink_to(shutil.which(name))

    def run(*args: str, fitting: tuple[str, ...]) -> tuple[str, str]:
        log = tmp_path / 'log'
        log.write_text('')
        for python in ('python3', *(f'python{version}' for version in PYTHONS)):
            code = 0 if python in fitting else 1
            stub = f'#!/bin/sh\necho {python} "$@" >> {log}\nexit {code}\n'
            (folder / python).write_text(stub)
            (folder / python).chmod(0o755)
        done = subprocess.run(
            [shutil.which('make'), 'env', *args],
            cwd=tmp_path,
            env={**os.environ, 'PATH': str(folder)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2  # the stubs make no pip
        return done.stderr, log.read_text()

    return run


def test_make_finds_the_first_python_that_fits(make):
    _, log = make(fitting=('python3.14', 'python3.13'))
    assert 'python3.14 -m venv --clear .venv\n' in log
    _, log = make(fitting=('python3.12',))
    assert 'python3.12 -m venv --clear .venv\n' in log
    _, log = make('OPENMMLAB=onedl', fitting=('python3', 'python3.12'))
    assert 'python3 -m venv --clear .venv-onedl\n' in log


def test_make_says_what_to_do_where_no_python_fits(make):
    printed, log = make(fitting=())
    assert 'Found no Python 3.11 to 3.14 (tried: python3 python3.14 ' in printed
    assert 'apt install python3 python3-venv' in printed
    assert 'make PYTHON=/path/to/python3.13' in printed
    assert 'venv' not in log
    condition = re.search(
        r'not (\(3, 11\) <= .* <= \(3, 14\))\)', (ROOT / 'Makefile').read_text()
    )[1]
    for minor, fits in ((10, False), (11, True), (14, True), (15, False)):
        seen = {'sys': SimpleNamespace(version_info=(3, minor, 9))}
        assert eval(condition, seen) is fits


def read_rows() -> list[list[str]]:
    """The rows of the page's table of what was run."""
    page = (ROOT / 'docs' / 'versions.md').read_text(encoding='utf-8')
    lines = page.partition('\n## What was run\n')[2].splitlines()
    rows = [
        [cell.strip() for cell in x.split('|')[1:-1]] for x in lines if x[:1] == '|'
    ]
    return rows[2:]


def test_the_page_has_what_was_run_on_each_python_and_set():
    rows = read_rows()
    for python in PYTHONS:
        assert any(row[0].startswith(f'{python}.') for row in rows), python
    assert {row[1].partition(' ')[0] for row in rows} == set(SETS)
    for python, _, what, command, libraries, day in rows:
        assert python.rpartition('.')[0] in PYTHONS
        assert what and command and libraries
        assert re.fullmatch(r'20\d\d-\d\d-\d\d', day)


def test_the_page_has_what_a_python_lacks():
    page = (ROOT / 'docs' / 'versions.md').read_text(encoding='utf-8')
    for library, newest in NEWEST_PYTHON.items():
        assert re.search(
            rf'^\| {library} .*\| {newest[0]}\.{newest[1]} \|$', page, re.M
        )


def test_formats_know_which_python_their_library_ends_with():
    bounded = {}
    for requirement in (r for extra in EXTRAS for r in requirements(extra)):
        able = [v for v in PYTHONS if holds(requirement, v)]
        if tuple(able) != PYTHONS:
            bounded[requirement.name] = tuple(map(int, able[-1].split('.')))
    assert bounded == NEWEST_PYTHON


@pytest.mark.parametrize(
    ('python', 'advice'),
    [
        ((3, 13, 2), ''),
        (
            (3, 14, 0),
            'it has no packages for Python 3.14. In an environment of Python 3.13: ',
        ),
    ],
)
def test_a_format_without_its_library_says_which_python_has_it(
    python, advice, monkeypatch
):
    monkeypatch.setitem(sys.modules, 'coremltools', None)
    monkeypatch.setattr(formats, 'sys', SimpleNamespace(version_info=python))
    with pytest.raises(MissingPackageError) as error:
        formats.require(FORMATS['coreml'].libraries, FORMATS['coreml'].extra)
    assert str(error.value).startswith('coremltools is not installed or does not start')
    assert str(error.value).endswith(f'{advice}pip install "mmnextvit[coreml]"')
    assert advice or 'Python' not in str(error.value)


def test_no_package_of_another_package_is_pinned(needed):
    """What the package imports, or a set of OpenMMLab's is, and nothing else."""
    own = {r.name for x in EXTRAS for r in requirements(x)} | {r.name for r in needed}
    own -= {r.name for r in requirements('docs')}  # which read ours
    own -= {'sahi'}  # which imports ours
    imported = {
        name.partition('.')[0]
        for path in (ROOT / 'mmnextvit').rglob('*.py')
        for name in re.findall(
            r"""^ *(?:import|from) ([\w.]+)|['"]([a-z]\w+)['"]""",
            path.read_text(encoding='utf-8'),
            re.M,
        )
        for name in name
        if name
    }
    modules = {'opencv-python-headless': 'cv2', 'mmcv-lite': 'mmcv'}
    modules |= {'onedl-mmcv': 'mmcv', 'onedl-mmdetection': 'mmdet'}
    modules |= {'onedl-mmengine': 'mmengine', 'ImageHash': 'imagehash'}
    for name in own:
        assert modules.get(name, name.replace('-', '_')) in imported, name


def test_extras_of_the_export_formats():
    names = {e: {r.name for r in requirements(e)} for e in EXTRAS}
    assert names['onnx'] < names['openvino'] < names['int8']
    assert names['deploy'] == names['int8'] | names['coreml'] | names['ncnn']


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
