"""The wheel, the sdist and an editable install, each used from a foreign folder.

The environments are fresh, and take what mmnextvit needs from this one by a path.
"""

import re
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from shutil import copytree, ignore_patterns

import pytest

from tests.conftest import ROOT
from tests.helpers.tiny_run import write_tiny_run
from tests.helpers.wheel import (
    SITE,
    build_sdist,
    build_wheel,
    environment,
    install,
    run,
)

pytestmark = pytest.mark.slow
TOP = 'configs', 'tools', 'model-index.yml'
INHERITED = "__import__('mmnextvit').config_file('yolov5_nextvit_s')"


@pytest.fixture(scope='module')
def repository(tmp_path_factory):
    """A copy of the repository, which building may write into."""
    folder = tmp_path_factory.mktemp('source') / 'repository'
    unneeded = '.*', '__pycache__', 'work_dirs', 'data', 'build', 'dist', '*.egg-info'
    return Path(copytree(ROOT, folder, ignore=ignore_patterns(*unneeded)))


@pytest.fixture(scope='module')
def wheel(repository, tmp_path_factory):
    return build_wheel(repository, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def sdist(repository, tmp_path_factory):
    return build_sdist(repository, tmp_path_factory.mktemp('sdist'))


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    """Python of an environment with the wheel."""
    python = environment(tmp_path_factory.mktemp('environment') / 'venv')
    install(python, wheel)
    return python


@pytest.fixture(scope='module')
def user(tmp_path_factory):
    """A user's folder: images, and a config that inherits from ours in one line."""
    folder = tmp_path_factory.mktemp('user')
    config = write_tiny_run(folder)
    absolute = f"'{ROOT}/configs/yolov5_nextvit_s.py'"
    text = config.read_text()
    assert absolute in text
    config.write_text(text.replace(absolute, INHERITED))
    (folder / 'one_line.py').write_text(f'_base_ = {INHERITED}\n')
    return folder


@pytest.fixture(scope='module')
def trained(python, user):
    """The folder after one epoch by MMDetection's own script."""
    script = SITE / 'mmdet' / '.mim' / 'tools' / 'train.py'
    options = 'train_cfg.max_epochs=1', 'default_hooks.checkpoint.save_best=None'
    run(python, script, 'tiny.py', '--cfg-options', *options, cwd=user)
    return user


def ours(root: Path) -> set[str]:
    """Names of the repository's files that MIM looks for."""
    files = (path for name in TOP for path in [root / name, *(root / name).rglob('*')])
    return {
        path.relative_to(root).as_posix()
        for path in files
        if path.is_file() and '__pycache__' not in path.parts
    }


def names_in(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as file:
        return {name.partition('/')[2] for name in file.getnames()}


def test_wheel_has_every_module_and_says_what_it_is(wheel, repository):
    with zipfile.ZipFile(wheel) as archive:
        built = {PurePosixPath(name) for name in archive.namelist()}
        (metadata,) = (x for x in built if x.match('*.dist-info/METADATA'))
        text = archive.read(str(metadata)).decode()
        entry_points = archive.read(str(metadata.with_name('entry_points.txt')))
    modules = (repository / 'mmnextvit').rglob('*.py')
    wanted = {PurePosixPath(path.relative_to(repository)) for path in modules}
    inside = {x for x in built if x.parts[0] == 'mmnextvit' and x.parts[1] != '.mim'}
    page = (repository / 'mmnextvit' / 'deploy' / 'web_page').rglob('*')
    data = {PurePosixPath(x.relative_to(repository)) for x in page if x.is_file()}
    assert inside == wanted | data | {PurePosixPath('mmnextvit/py.typed')}
    assert metadata.parent / 'licenses' / 'LICENSE' in built
    assert 'License-Expression: Apache-2.0\n' in text
    assert 'Author: mmnextvit contributors\n' in text
    assert b'mmnextvit = mmnextvit.cli:main\n' in entry_points


def test_console_script(python, tmp_path):
    said = run(python.with_name('mmnextvit'), 'compute_anchors', '--help', cwd=tmp_path)
    assert 'usage: mmnextvit compute_anchors' in said


def test_wheel_and_sdist_carry_what_mim_looks_for(wheel, sdist, repository, tmp_path):
    wanted = {f'mmnextvit/.mim/{name}' for name in ours(repository)}
    assert 'mmnextvit/.mim/model-index.yml' in wanted
    assert 'mmnextvit/.mim/configs/_base_/yolov5_recipe.py' in wanted
    built = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in built if '/.mim/' in name} == wanted

    assert wanted | ours(repository) <= names_in(sdist)
    again = build_wheel(sdist, tmp_path)
    assert set(zipfile.ZipFile(again).namelist()) == built


def test_sdist_runs_its_tests(sdist, repository, tmp_path):
    """Nearly all are collected, which reads the files they name, and a few run."""
    folders = 'benchmarks', 'configs', 'docs', 'requirements', 'tests', 'tools'
    files = (path for x in folders for path in (repository / x).rglob('*.*'))
    kept = {x for x in files if x.is_file() and '__pycache__' not in x.parts}
    missing = {x.relative_to(repository).as_posix() for x in kept} - names_in(sdist)
    assert not missing
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter='data')
    (source,) = tmp_path.iterdir()
    few = 'test_packaging or test_errors or test_files or yolov5_nextvit_s_demo'
    pytest_here = sys.executable, '-m', 'pytest', '-q', '--ignore=tests/deploy'
    said = run(*pytest_here, '-k', few, cwd=source)
    passed = re.search(r'(\d+) passed', said.splitlines()[-1])
    assert passed and int(passed[1]) >= 20, said


def test_wheel_in_an_empty_folder(python, tmp_path):
    (tmp_path / 'mine.py').write_text(f'_base_ = {INHERITED}\n')
    code = """
        import mmnextvit
        from mmengine.config import Config
        folder = mmnextvit.hub.find_config_folder()
        assert folder.parent.name == '.mim', folder
        cfg = mmnextvit.get_config('yolov5_nextvit_s')
        assert Config.fromfile('mine.py').to_dict() == cfg.to_dict()
        assert mmnextvit.get_model('yolov5_nextvit_s').backbone.out_channels
        print(mmnextvit.__file__)
    """
    lines = '\n'.join(line.strip() for line in code.splitlines())
    printed = run(python, '-c', lines, cwd=tmp_path)
    package = Path(printed.splitlines()[-1]).parent
    assert package.is_relative_to(python.parents[2])
    tool = package / '.mim' / 'tools' / 'get_flops.py'
    assert '32,708,477 parameters' in run(python, tool, 'mine.py', cwd=tmp_path)
    assert not list(tmp_path.glob('*.pth'))


def test_mmdetections_own_script_trains(trained):
    assert (trained / 'work_dirs' / 'tiny' / 'epoch_1.pth').is_file()


def test_tools_of_other_packages(python, trained):
    def tool(name: str, *arguments: object) -> None:
        run(python, python.with_name('mmnextvit'), name, *arguments, cwd=trained)

    tool('test', 'tiny.py', 'work_dirs/tiny/epoch_1.pth', '--out', 'detections.pkl')
    for package in ('mmdet', 'mmyolo'):
        analysis = f'{package}/analysis_tools/'
        matrix = f'matrix_{package}'
        tool(f'{analysis}confusion_matrix', 'tiny.py', 'detections.pkl', matrix)
        assert (trained / matrix / 'confusion_matrix.png').is_file()
    analysis = 'mmyolo/analysis_tools/'
    tool(f'{analysis}browse_dataset', 'tiny.py', '--out-dir', 'seen', '--not-show')
    assert len(list((trained / 'seen').iterdir())) == 6
    tool(f'{analysis}vis_scheduler', 'tiny.py', '--out-dir', 'rates', '--not-show')
    assert list((trained / 'rates').glob('*.jpg'))


def test_editable_install_reaches_the_configs(repository, tmp_path):
    python = environment(tmp_path / 'venv')
    install(python, '-e', repository)
    mim = repository / 'mmnextvit' / '.mim'
    for name in TOP:
        assert (mim / name).samefile(repository / name)
    code = 'import mmnextvit as m; print(m.get_config("yolov5_nextvit_s").filename)'
    printed = run(python, '-c', code, cwd=tmp_path, warm=False)  # the only process
    assert Path(printed.splitlines()[-1]).is_relative_to(repository / 'configs')


def test_without_torch_the_package_and_its_configs_are_there(wheel, tmp_path):
    python = environment(tmp_path / 'venv', bare=True)
    install(python, wheel)
    code = 'import mmnextvit, sys; print(mmnextvit.config_file("yolov5_nextvit_s"))'
    code = f'{code}; assert "torch" not in sys.modules'
    printed = run(python, '-c', code, cwd=tmp_path, warm=False)
    assert Path(printed.strip()).is_file()
