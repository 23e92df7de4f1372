"""OpenMMLab's packages: which are installed, missing, or twice in one folder.

They come in two sets, *official-lite* (``mmnextvit[all]``) and *onedl*, a maintained
fork whose distributions have other names and the same folders (``mmnextvit[onedl]``).
pip sees no conflict between two distributions that write into one folder.
"""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec

from .errors import MissingPackageError, UserError

NEEDED = ('mmengine', 'mmcv', 'mmdet')
# What else we import. The last row comes with OpenMMLab's packages, torch and timm; the
# others are missing where pip was told `--no-deps`, OpenCV also without an extra.
BROUGHT = (
    *('torch', 'torchvision', 'timm', 'einops', 'numpy', 'safetensors', 'cv2', 'PIL'),
    *('faster_coco_eval', 'imagehash'),
    *('rich', 'yaml', 'matplotlib', 'scipy', 'jinja2', 'huggingface_hub'),
)
# Folders that several distributions write into.
FOLDERS = {
    'mmengine': ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'mmcv-full', 'mmcv-lite', 'onedl-mmcv'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'cv2': (
        'opencv-python',
        'opencv-python-headless',
        'opencv-contrib-python',
        'opencv-contrib-python-headless',
    ),
}
FORK = 'onedl-'
Doubled = dict[str, list[Distribution]]  # folders, and what was installed into each

INSTALL_OFFICIAL = (
    'pip install "mmnextvit[all]", which brings OpenCV and MMYOLO too, or '
    '"mmnextvit[lite]" for MMEngine, mmcv-lite and MMDetection alone'
)
INSTALL_FORK = 'pip install "mmnextvit[onedl]"'


def check_packages() -> None:
    """Looks for OpenMMLab's packages, torch and OpenCV, before they are imported.

    It imports none of them. Two of OpenCV's distributions in one folder are a warning,
    since common images of containers and notebooks have them, and the last installed
    one works.

    Raises:
        MissingPackageError: One is not installed; the message has the command.
        UserError: Two distributions are in one folder; the message has the commands.
    """
    missing = list_missing('torch', *NEEDED, 'cv2')
    if missing:
        raise MissingPackageError(_describe_missing(missing))
    doubled = find_doubled()
    opencv = doubled.pop('cv2', [])
    if doubled:
        raise UserError(' '.join(map(_describe_doubled, _split_sets(doubled))))
    if opencv and find_distribution('onedl-mmcv') is None:
        warnings.warn(_describe_doubled({'cv2': opencv}), stacklevel=3)
    elif len({each.version for each in opencv}) > 1:
        warnings.warn(_describe_versions(opencv), stacklevel=3)


def explain_missing_package(error: ModuleNotFoundError) -> None:
    """Does nothing where an error is not about a package that this one imports itself.

    Those are OpenMMLab's, of both :data:`NEEDED` and MMYOLO, and :data:`BROUGHT`.

    Raises:
        MissingPackageError: It is; the message has the command that installs it.
    """
    package = str(error.name).partition('.')[0]
    if package == 'mmyolo' and not has_mmyolo():
        raise MissingPackageError(describe_missing_mmyolo()) from error
    if package in (*NEEDED, *BROUGHT) and list_missing(package):
        missing = [package, *list_missing(*NEEDED)]
        raise MissingPackageError(_describe_missing(missing)) from error


def list_missing(*packages: str) -> list[str]:
    """Those that are not installed.

    A folder of a package's name is no package: a clone of MMYOLO's repository in the
    current folder is called ``mmyolo`` and has no ``__init__.py``.
    """
    found = {package: find_spec(package) for package in packages}
    return [name for name, spec in found.items() if spec is None or not spec.origin]


def find_doubled() -> Doubled:
    """The folders that more than one installed distribution wrote into, and those."""
    doubled = {}
    for folder, names in FOLDERS.items():
        places = defaultdict(list)
        for found in filter(None, map(find_distribution, names)):
            places[str(found.locate_file(folder))].append(found)
        # Where one place hides another, as a user's own folder does, nothing is mixed.
        mixed = [group for group in places.values() if len(group) > 1]
        if mixed:
            doubled[folder] = mixed[0]
    return doubled


def find_distribution(name: str) -> Distribution | None:
    """An installed distribution, or ``None``."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _describe_missing(packages: list[str]) -> str:
    """What is missing, and the command that installs it.

    Args:
        packages: One or more, some perhaps more than once.
    """
    *others, last = dict.fromkeys(
        'OpenCV (cv2)' if package == 'cv2' else package for package in packages
    )
    names, verb = (f'{", ".join(others)} and {last}', 'are') if others else (last, 'is')
    command = INSTALL_OFFICIAL
    if any(map(find_distribution, _list_fork())):
        command = INSTALL_FORK
    elif packages == ['mmdet']:
        command = 'pip install mmdet'
    elif packages == ['cv2']:
        command = 'pip install "mmnextvit[opencv]"'
    return (
        f'mmnextvit needs {names}, which {verb} not installed. '
        f'Install {"them" if others else "it"} with: {command}'
    )


def _list_fork() -> list[str]:
    return [name for x in FOLDERS.values() for name in x if name.startswith(FORK)]


def _split_sets(doubled: Doubled) -> list[Doubled]:
    """The folders that hold both sets together, and each of the others alone."""
    both = [
        folder
        for folder, found in doubled.items()
        if [each.name.startswith(FORK) for each in found] == [False, True]
    ]
    alone = [[folder] for folder in doubled if folder not in both]
    parts = filter(None, [both, *alone])
    return [{folder: doubled[folder] for folder in part} for part in parts]


def _describe_doubled(doubled: Doubled) -> str:
    """What is twice in each folder, and the commands that leave one of it.

    Args:
        doubled: Folders, with what belongs together at the same place in each.
    """
    found = [each for group in doubled.values() for each in group]
    choices = [' '.join(map(_pin, each)) for each in zip(*doubled.values())]
    folders = f'one folder, {next(iter(doubled))}'
    if len(doubled) > 1:
        folders = f'the same folders, {" and ".join(doubled)}'
    return (
        f'{" and ".join(map(_pin, found))} are installed into {folders}, so that files '
        f'of them are mixed. Remove them: pip uninstall -y '
        f'{" ".join(each.name for each in found)}. Then install the '
        f'{"ones" if len(doubled) > 1 else "one"} that you want: '
        f'pip install --no-deps {", or ".join(choices)}.'
    )


def _pin(found: Distribution) -> str:
    return f'{found.name}=={found.version}'


def _describe_versions(opencv: list[Distribution]) -> str:
    """The same of OpenCV where the set needs both of its distributions.

    onedl-mmcv needs the one and imaug, which onedl-mmdetection needs, the other.
    """
    versions = (each.version for each in opencv)
    # One's own build has a commit's number behind a plus.
    version = max(versions, key=lambda v: [int(n) for n in re.findall(r'\d+', v)][:4])
    pins = ' '.join(f'{each.name}=={version}' for each in opencv)
    return (
        f'{" and ".join(map(_pin, opencv))} are '
        'installed into one folder, cv2, so that files of them are mixed. Have both '
        f'in one version: pip install --no-deps --force-reinstall {pins}'
    )


def has_mmyolo() -> bool:
    """Whether MMYOLO is installed; it is not imported."""
    return not list_missing('mmyolo')


def require_mmyolo() -> None:
    """Makes sure that MMYOLO is there.

    Raises:
        MissingPackageError: It is not; the message has the command that installs it.
    """
    if not has_mmyolo():
        raise MissingPackageError(describe_missing_mmyolo())


def describe_missing_mmyolo() -> str:
    """That something needs MMYOLO, and the command that installs it."""
    command = 'pip install "mmnextvit[yolo]"'
    if find_distribution('onedl-mmdetection'):  # which MMYOLO's would overwrite
        command = 'pip install "mmnextvit[all]" in an environment of its own'
    return f'this needs MMYOLO, which is not installed. Install it with: {command}'


@contextmanager
def explain_missing_mmyolo() -> Iterator[None]:
    """Around the reading of a config, which may inherit from one of MMYOLO's.

    Raises:
        MissingPackageError: It does, and MMYOLO is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if 'mmyolo' in str(error):
            require_mmyolo()
        raise
