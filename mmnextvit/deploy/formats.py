"""The formats that can be written, as a table.

Each format has a module of its name here, whose ``write(job, path)`` writes the network
of :class:`~mmnextvit.deploy.candidates.Candidates`, the format's own non-maximum
suppression behind it, and the metadata. This module imports none of them, nor torch.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.errors import MissingPackageError, UserError
from ..utils.messages import did_you_mean
from . import web_folder

if TYPE_CHECKING:
    from .job import Job, Written


@dataclass(frozen=True)
class Format:
    """One line of :data:`FORMATS`.

    Args:
        suffix: Of the file or folder.
        libraries: What it needs, each called as it is imported.
        extra: Our extra that brings them.
        int8: Whether it has int8.
        dynamic: Whether batch, height and width may be dynamic.
        batches: Whether it takes several images at a time.
        nms: Whether non-maximum suppression may be in the file; the runtime does it
            otherwise.
        halves: Whether its converter makes float16 of float32 itself.
        runs: Whether :class:`~mmnextvit.runtime.Detector` runs what is written.
        files: What a folder of it consists of.
        model: Which of them the detector opens, where it is not the folder itself.
        note: What to know before it is chosen, in a sentence.
        masks: Whether detectors that find masks can be written.
        channels: How many channels images may have.
    """

    suffix: str
    libraries: tuple[str, ...] = ()
    extra: str = ''
    int8: bool = False
    dynamic: bool = False
    batches: bool = True
    nms: bool = True
    halves: bool = False
    runs: bool = True
    files: tuple[str, ...] = ()
    model: str = ''
    note: str = ''
    masks: bool = False
    channels: tuple[int, ...] = (3,)

    @property
    def ending(self) -> str:
        """What the name of a file must end in; nothing for a folder."""
        return Path(f'x{self.suffix}').suffix

    @property
    def is_folder(self) -> bool:
        return self.ending in ('', '.mlpackage')


ANY = 1, 3, 4  # channels: grey, RGB, RGB and a fourth
ONNX = ('onnx', 'onnxscript', 'onnxslim', 'onnxruntime')
OPENVINO = (*ONNX, 'openvino')
FORMATS = {
    'onnx': Format(
        '.onnx', ONNX, 'onnx', int8=True, dynamic=True, masks=True, channels=ANY
    ),
    'openvino': Format(
        '_openvino',
        OPENVINO,
        'openvino',
        int8=True,
        dynamic=True,
        halves=True,
        files=('model.xml', 'model.bin'),
        masks=True,
        channels=ANY,
    ),
    'tensorrt': Format(
        '_tensorrt.onnx', ONNX, 'onnx', int8=True, dynamic=True, channels=ANY
    ),
    'coreml': Format(
        '.mlpackage',
        ('coremltools',),
        'coreml',
        batches=False,
        halves=True,
        runs=False,
    ),
    'ncnn': Format(
        '_ncnn',
        ('pnnx', 'ncnn'),
        'ncnn',
        batches=False,
        nms=False,
        halves=True,
        files=('model.param', 'model.bin', 'model.json'),
    ),
    'pt2': Format('.pt2', dynamic=True, nms=False, masks=True, channels=ANY),
    'torchscript': Format(
        '.torchscript',
        note='torch has deprecated TorchScript, and later versions may not write or '
        "load it: --to pt2 writes torch.export's format in its place",
        masks=True,
        channels=ANY,
    ),
    'web': Format(
        '_web',
        ONNX,
        'onnx',
        int8=True,
        dynamic=True,
        batches=False,
        files=web_folder.FILES,
        model=web_folder.MODEL,
    ),
}


def check_format(name: str) -> str:
    """``name``, if it is one of :data:`FORMATS`.

    Raises:
        UserError: It is not; the message has the near ones and all.
    """
    if name not in FORMATS:
        near = did_you_mean(name.lower(), FORMATS)
        hint = f' ({near})' if near else ''
        raise UserError(f'there is no format {name!r}{hint}: {", ".join(FORMATS)}')
    return name


def holds_export(folder: str | os.PathLike) -> bool:
    """Whether a folder has the file that a format's folder is opened by."""
    suffixes = {
        Path(known.files[0]).suffix
        for known in FORMATS.values()
        if known.files and not known.model
    }
    return any(file.suffix in suffixes for file in Path(folder).expanduser().glob('*'))


def names_export(path: str | os.PathLike) -> bool:
    """Whether a path has the name of a file, or is a folder, of one of the formats."""
    endings = {known.ending for known in FORMATS.values() if not known.is_folder}
    return Path(path).suffix in endings or holds_export(path)


def write(to: str, job: 'Job', path: Path) -> 'Written':
    """Writes a job to a path in a format of :data:`FORMATS`."""
    return import_module(f'.{to}', __package__).write(job, path)


# The newest Python that a library has packages for, where we run on newer ones. Its
# extra has the same bound in pyproject.toml, so that all other extras install.
NEWEST_PYTHON = {'coremltools': (3, 13)}


def require(libraries: Iterable[str], extra: str) -> None:
    """Makes sure that libraries are there, before any work is done.

    Raises:
        MissingPackageError: One is not; the message has the command that installs it,
            and the Python that it needs.
    """
    for library in libraries:
        try:
            import_module(library)
        except ImportError as error:
            raise MissingPackageError(
                f'{library} is not installed or does not start ({error}): '
                f'{_describe_python(library)}pip install "mmnextvit[{extra}]"'
            ) from error


def _describe_python(library: str) -> str:
    """Which Python a library needs, where it has no packages for this one."""
    newest = NEWEST_PYTHON.get(library, sys.version_info[:2])
    if sys.version_info[:2] <= newest:
        return ''
    here, there = ('.'.join(map(str, v[:2])) for v in (sys.version_info, newest))
    return (
        f'it has no packages for Python {here}. In an environment of Python {there}: '
    )
