"""The folder in which the tests of ``mmnextvit export`` run, before and after."""

from pathlib import Path

# What the fixture `here` of tests/deploy puts there.
GIVEN = {'tiny.py', 'best.pth', 'data', 'wide', 'empty'}


def names(folder: Path) -> set[str]:
    """What lies in a folder, hidden files included."""
    return {p.name for p in folder.iterdir()}
