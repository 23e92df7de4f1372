"""The packages that run files: imported so that they send nothing."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from .errors import DetectorError, ModelFileError

# What tells packages to send nothing and to look for no update, and the modules that
# others send with.
SEND_NOTHING = {
    'ORT_DISABLE_TELEMETRY': '1',
    'HF_HUB_DISABLE_TELEMETRY': '1',
    'NO_ALBUMENTATIONS_UPDATE': '1',
}

REPORTERS = ('openvino_telemetry',)
# What everything here imports, beside the runtimes of the formats.
NEEDED = {'numpy': 'numpy', 'cv2': 'opencv-python-headless'}


def send_nothing() -> None:
    """Keeps what is imported after this from sending data or looking for updates.

    ONNX Runtime and OpenVINO report their use to their makers, from their import on. In
    this process, and in what it starts, the one is told not to, and the other's
    reporter cannot be imported, as if it were not installed. The environment variable
    ``MMNEXTVIT_TELEMETRY=1`` leaves the choice to them.
    """
    if os.environ.get('MMNEXTVIT_TELEMETRY') == '1':
        return
    os.environ.update(SEND_NOTHING)
    for name in REPORTERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # import fails


def require_packages() -> None:
    """Looks for what everything here imports, and imports none of it.

    Raises:
        ModuleNotFoundError: Something is missing; the message has the command.
    """
    found = sys.modules.keys()
    missing = [x for x in NEEDED if x not in found and find_spec(x) is None]
    if missing:
        raise ModuleNotFoundError(
            f'mmnextvit.runtime needs {" and ".join(missing)}, not installed here: '
            f'pip install {" ".join(NEEDED[name] for name in missing)}',
            name=missing[0],
        )


def import_runtime(package: str, extra: str | None = None) -> ModuleType:
    """Imports a runtime, which sends nothing, or says how to install it."""
    send_nothing()
    try:
        return import_module(package)
    except ImportError as error:
        ours = f', or pip install "mmnextvit[{extra}]"' if extra else ''
        raise ImportError(
            f'This file needs {package}, which is not installed or does not start '
            f'({error}): pip install {package}{ours}',
            name=package,
        ) from error


@contextmanager
def name_file(path: Path, package: str) -> Iterator[None]:
    """Names the file in whatever error a runtime raises on it.

    Raises:
        ModelFileError: In the place of any error but those of this module.
    """
    try:
        yield
    except DetectorError:
        raise
    except Exception as error:  # each runtime has types of its own
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ModelFileError(
            f'{path} is damaged, or too new for the installed {package}: export it '
            f'again with mmnextvit export. {package} says: {reason[:500]}'
        ) from error
