"""MMYOLO, which is optional: whether it is there, and what to do where it is not."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from .errors import MissingPackageError


def has_mmyolo() -> bool:
    """Whether MMYOLO is installed; it is not imported."""
    return find_spec('mmyolo') is not None


def require_mmyolo() -> None:
    """Does nothing where MMYOLO is installed.

    Raises:
        MissingPackageError: It is not; the message has the command that installs it.
    """
    if not has_mmyolo():
        raise MissingPackageError(
            'this needs MMYOLO, which is not installed. Install it with: '
            'pip install "mmnextvit[yolo]"'
        )


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
