"""What is missing or doubled of OpenMMLab's packages, and the command that mends it."""

import importlib.metadata
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import SimpleNamespace

from mmnextvit.utils import packages
from mmnextvit.utils.errors import MissingPackageError, UserError
from mmnextvit.utils.packages import check_packages, explain_missing_package

import pytest


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes distributions known, and no others, as if all were in one folder."""
    monkeypatch.setattr(
        packages,
        'distribution',
        lambda name: (
            next(
                iter(importlib.metadata.distributions(name=name, path=[str(tmp_path)])),
                None,
            )
            or importlib.metadata.distribution('no-such-distribution')
        ),
    )

    def write(*pins: str, folder: str = '.') -> None:
        for pin in pins:
            name, version = pin.split('==')
            info = tmp_path / folder / f'{name.replace("-", "_")}-{version}.dist-info'
            info.mkdir(parents=True)
            text = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
            (info / 'METADATA').write_text(text)

    return write


@pytest.fixture
def hide(monkeypatch):
    """Has packages not be found, as if they were not installed."""
    hidden = set()

    class Hiding(PathFinder):
        @classmethod
        def find_spec(cls, fullname, path=None, target=None):
            found = fullname not in hidden
            return PathFinder.find_spec(fullname, path, target) if found else None

    finders = [Hiding if f is PathFinder else f for f in sys.meta_path]
    monkeypatch.setattr(sys, 'meta_path', finders)

    def hide_packages(*names: str) -> None:
        hidden.update(names)
        for name in names:
            monkeypatch.delitem(sys.modules, name, raising=False)

    return hide_packages


def test_one_distribution_in_each_folder_is_as_it_must_be(install, recwarn):
    install('mmengine==0.11.0rc3', 'mmcv-lite==2.0.1', 'mmdet==3.3.0')
    install('opencv-python-headless==4.14.0.94')
    check_packages()
    assert not recwarn


DOUBLED = [
    ('mmdet', 'mmdet==3.3.0', 'onedl-mmdetection==3.5.1'),
    ('mmcv', 'mmcv==2.1.0', 'mmcv-lite==2.0.1'),
    ('mmcv', 'mmcv==2.0.1', 'mmcv-lite==2.0.1'),
    ('mmcv', 'mmcv-lite==2.0.1', 'onedl-mmcv==2.3.6'),
    ('mmengine', 'mmengine==0.11.0rc3', 'onedl-mmengine==0.10.12'),
]


@pytest.mark.parametrize(('folder', 'one', 'other'), DOUBLED)
def test_two_distributions_in_one_folder(install, folder, one, other):
    install(one, other)
    with pytest.raises(UserError) as error:
        check_packages()
    first, second = (pin.split('==')[0] for pin in (one, other))
    assert str(error.value) == (
        f'{one} and {other} are installed into one folder, {folder}, so that files of '
        f'them are mixed. Remove them: pip uninstall -y {first} {second}. Then install '
        f'the one that you want: pip install --no-deps {one}, or {other}.'
    )


def test_both_sets_in_the_same_folders(install):
    """One pair of commands mends them; what else is doubled has its own."""
    for _, *pins in (DOUBLED[0], DOUBLED[4], DOUBLED[2]):
        install(*pins)
    with pytest.raises(UserError) as error:
        check_packages()
    assert str(error.value) == (
        'mmengine==0.11.0rc3 and onedl-mmengine==0.10.12 and mmdet==3.3.0 and '
        'onedl-mmdetection==3.5.1 are installed into the same folders, mmengine and '
        'mmdet, so that files of them are mixed. Remove them: pip uninstall -y '
        'mmengine onedl-mmengine mmdet onedl-mmdetection. Then install the ones that '
        'you want: pip install --no-deps mmengine==0.11.0rc3 mmdet==3.3.0, or '
        'onedl-mmengine==0.10.12 onedl-mmdetection==3.5.1. '
        'mmcv==2.0.1 and mmcv-lite==2.0.1 are installed into one folder, mmcv, so that '
        'files of them are mixed. Remove them: pip uninstall -y mmcv mmcv-lite. Then '
        'install the one that you want: pip install --no-deps mmcv==2.0.1, or '
        'mmcv-lite==2.0.1.'
    )


@pytest.mark.parametrize('versions', [('4.14.0.94', '5.0.0.93'), ('5.0.0.93',) * 2])
def test_opencv_twice_is_a_warning(install, versions):
    install(*map('=='.join, zip(packages.FOLDERS['cv2'], versions)))
    with pytest.warns(UserWarning, match='installed into one folder, cv2') as seen:
        check_packages()
    (warning,) = seen
    text = str(warning.message)
    assert 'pip uninstall -y opencv-python opencv-python-headless' in text


def test_opencv_twice_where_the_fork_needs_both(install, recwarn):
    install('onedl-mmcv==2.3.6', 'opencv-python==5.0.0.93')
    install('opencv-python-headless==5.0.0.93')
    check_packages()
    assert not recwarn


@pytest.mark.parametrize('other', ['4.14.0.94', '4.9.0+5a3e2f1', '5.0.0rc1'])
def test_opencv_in_two_versions_where_the_fork_needs_both(install, other):
    """One's own build, and a candidate, have versions of other forms."""
    install('onedl-mmcv==2.3.6', 'opencv-python==5.0.0.93')
    install(f'opencv-python-headless=={other}')
    command = (
        'pip install --no-deps --force-reinstall opencv-python==5.0.0.93 '
        'opencv-python-headless==5.0.0.93'
    )
    with pytest.warns(UserWarning, match=command):
        check_packages()


@pytest.mark.parametrize(
    ('there', 'hidden', 'named', 'command'),
    [
        ([], ['mmdet'], 'mmdet, which is', 'pip install mmdet'),
        ([], ['mmcv'], 'mmcv, which is', 'pip install "mmnextvit[all]"'),
        ([], ['cv2'], 'OpenCV (cv2), which is', 'pip install "mmnextvit[opencv]"'),
        (
            ['onedl-mmcv==2.3.6'],
            ['cv2'],
            'OpenCV (cv2), which is',
            'pip install "mmnextvit[onedl]"',
        ),
        (
            [],
            ['torch', 'mmdet', 'cv2'],
            'torch, mmdet and OpenCV (cv2), which are',
            'pip install "mmnextvit[all]"',
        ),
        (
            [],
            ['mmengine', 'mmcv', 'mmdet'],
            'mmengine, mmcv and mmdet, which are',
            'pip install "mmnextvit[all]"',
        ),
        (
            ['onedl-mmengine==0.10.12'],
            ['mmdet'],
            'mmdet, which is',
            'pip install "mmnextvit[onedl]"',
        ),
    ],
)
def test_missing_packages_are_named_with_the_command(
    install, hide, there, hidden, named, command
):
    install(*there)
    hide(*hidden)
    with pytest.raises(MissingPackageError) as error:
        check_packages()
    assert str(error.value).startswith(f'mmnextvit needs {named} not installed. ')
    assert command in str(error.value)


def test_an_error_about_another_package_is_left_alone(hide):
    explain_missing_package(ModuleNotFoundError(name='seaborn'))
    explain_missing_package(ModuleNotFoundError(name='mmdet.no_such_module'))
    hide('mmdet')
    with pytest.raises(MissingPackageError, match='mmnextvit needs mmdet'):
        explain_missing_package(ModuleNotFoundError(name='mmdet.models'))


def test_what_comes_with_openmmlabs_packages_is_missing_with_them(hide):
    """As `pip install mmnextvit` leaves it, without an extra."""
    everything = ['rich', 'mmengine', 'mmcv', 'mmdet']
    hide(*everything)
    with pytest.raises(MissingPackageError) as error:
        explain_missing_package(ModuleNotFoundError(name='rich'))
    assert 'needs rich, mmengine, mmcv and mmdet, which are' in str(error.value)
    explain_missing_package(ModuleNotFoundError(name='seaborn'))


@pytest.mark.parametrize('package', ['mmyolo', 'mmdet'])
def test_a_folder_of_a_packages_name_is_not_that_package(
    package, hide, install, tmp_path, monkeypatch
):
    """A clone of a repository lies in the current folder and has no __init__.py."""
    hide(package)
    (tmp_path / package / package).mkdir(parents=True)
    empty = ModuleSpec(package, None, is_package=True)
    empty.submodule_search_locations = [str(tmp_path / package)]
    finder = SimpleNamespace(
        find_spec=lambda name, *_: empty if name == package else None
    )
    monkeypatch.setattr(sys, 'meta_path', [*sys.meta_path, finder])
    assert find_spec(package) is empty
    assert packages.list_missing(package, 'torch') == [package]
    with pytest.raises(MissingPackageError, match=f'(?i){package}'):
        packages.require_mmyolo() if package == 'mmyolo' else check_packages()


def test_mmyolo_beside_the_fork_needs_another_environment(install, hide):
    hide('mmyolo')
    with pytest.raises(MissingPackageError) as error:
        packages.require_mmyolo()
    assert str(error.value).endswith('pip install "mmnextvit[yolo]"')
    install('onedl-mmdetection==3.5.1')
    with pytest.raises(MissingPackageError) as error:
        packages.require_mmyolo()
    assert 'pip install "mmnextvit[all]" in an environment of its' in str(error.value)
