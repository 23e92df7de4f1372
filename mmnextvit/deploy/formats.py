"""The formats that can be written, as a table.

Each format has a module of its name here, whose ``write(job, path)`` writes the network
of :class:`~mmnextvit.deploy.candidates.Candidates`, the format's own non-maximum
suppression behind it, and the metadata. This module imports none of them, nor torch.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.errors import MissingPackageError, UserError
from ..utils.messages import did_you_mean

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
        runs: Whether :class:`~mmnextvit.runtime.Detector` runs what is written.
    """

    suffix: str
    libraries: tuple[str, ...] = ()
    extra: str = ''
    int8: bool = False
    dynamic: bool = False
    runs: bool = True

    @property
    def ending(self) -> str:
        """What the name of a file must end in; nothing for a folder."""
        return Path(f'x{self.suffix}').suffix

    @property
    def is_folder(self) -> bool:
        return self.ending in ('', '.mlpackage')


ONNX = ('onnx', 'onnxscript', 'onnxslim', 'onnxruntime')
OPENVINO = (*ONNX, 'openvino')
FORMATS = {
    'onnx': Format('.onnx', ONNX, 'onnx', int8=True, dynamic=True),
    'openvino': Format('_openvino', OPENVINO, 'openvino', int8=True, dynamic=True),
    'tensorrt': Format('_tensorrt.onnx', ONNX, 'onnx', int8=True, dynamic=True),
    'coreml': Format('.mlpackage', ('coremltools',), 'coreml', runs=False),
    'torchscript': Format('.torchscript'),
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
    return f'it has none for Python {here}. In an environment of Python {there}: '
