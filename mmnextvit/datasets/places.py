"""Relative paths in files from elsewhere: the places where they may lead."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath, PureWindowsPath

# What a relative path may mean, besides what it says: Windows writes backslashes.
# Roboflow's `../train/images` is meant without its `../`, and the `data/` that Darknet
# and CVAT write is a folder that only Darknet's own has.
SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: name.replace('\\', '/'),
    lambda name: name.replace('\\', '/').removeprefix('../'),
    lambda name: name.replace('\\', '/').removeprefix('./').removeprefix('data/'),
)


def join(base: str, name: str) -> str:
    """A path that counts from a folder, unless it is absolute; without ``..``."""
    return os.path.abspath(os.path.join(base, name))


def list_places(name: str, bases: Sequence[str]) -> list[str]:
    """All places where a path may lead, in the order that they are tried.

    Args:
        name: The path as it was written; ``~`` is the user's own folder.
        bases: Folders that it may count from. Each of the `SPELLINGS` is tried from all
            of them before the next. An absolute path may be another machine's: then
            its ends are tried, the longest first.
    """
    name = os.path.expanduser(name)
    spelt = [spell(name) for spell in SPELLINGS]
    ends = list_ends(name)
    if ends:
        spelt = [name, *ends]
    return list(dict.fromkeys(join(base, way) for way in spelt for base in bases))


def list_ends(name: str) -> list[str]:
    """The ends of an absolute path, of any system, as relative ones; else none."""
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.is_absolute():
            parts = path.parts[1:]
            return ['/'.join(parts[i:]) for i in range(len(parts))]
    return []


def find_place(name: str, bases: Sequence[str]) -> str | None:
    """The first of `list_places` that exists."""
    return next(filter(os.path.exists, list_places(name, bases)), None)


def follow(name: str, spell: Callable[[str], str], base: str) -> str:
    """Where a path of a list leads."""
    return join(base, spell(name))


def choose_way(
    names: Iterable[str], bases: Sequence[str]
) -> tuple[Callable[[str], str], str]:
    """How the paths of a list are spelt, and the folder that they count from.

    The first of them that exists in any way decides; without one it is the first way.
    """
    ways = [(spell, base) for spell in SPELLINGS for base in bases]
    fitting = (w for name in names for w in ways if os.path.exists(follow(name, *w)))
    return next(fitting, ways[0])
