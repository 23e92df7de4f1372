"""Where images lie, and which split a path is of, by names alone."""

import os
import re
from collections import Counter
from collections.abc import Iterable

from .tree import Tree, get_stem

# What folders and files of a split are called; a name may have more words and a year.
SPLIT_WORDS = dict(
    train='train', training='train', trainval='train', val='val', valid='val',
    validation='val', test='test', testing='test',
)  # fmt: skip
MAX_SAME = 1000  # images of one name that are looked at
WORD = re.compile(r'[A-Z]?[a-z]+|[A-Z]+')


def read_split(name: str) -> str | None:
    """The split that a name says: ``'val'`` of ``'instances_val2017.json'``."""
    words = (word.lower() for word in WORD.findall(name))
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def find_split(root: str, path: str) -> str | None:
    """The split that a path says below a root: its own name, or the nearest folder's.

    Args:
        root: The names of it and of the folders above it say nothing.
        path: A file or folder; of a file the suffix counts for nothing.
    """
    parts = os.path.relpath(os.path.splitext(path)[0], root).split(os.sep)
    splits = map(read_split, reversed(parts))
    return next((split for split in splits if split), None)


def find_prefix(tree: Tree, names: Iterable[str], near: str, split: str | None) -> str:
    """The folder that names of images count from.

    It is where most of the names are found. Where they are found nowhere as they are
    written, it is the folder that holds most of them by their last parts. Of several
    folders that of the split is taken, then the one that shares most with ``near``.

    Args:
        tree: The folder that is looked through.
        names: As annotations have them, with or without folders.
        near: The folder of the annotations, which is the answer where none is found.
        split: Of the annotations.
    """
    exact: Counter[str] = Counter()
    by_last_part: Counter[str] = Counter()
    for name in dict.fromkeys(names):
        written = os.path.normpath(name.replace('\\', '/'))
        same = tree.images_by_name.get(os.path.basename(written), ())
        for path in same[:MAX_SAME]:
            if path.endswith(os.sep + written):
                exact[path[: -len(written)].rstrip(os.sep)] += 1
            else:
                by_last_part[os.path.dirname(path)] += 1
    return _choose_folder(tree, exact or by_last_part, near, split)


def find_image_folder(
    tree: Tree, stems: Iterable[str], near: str, split: str | None
) -> str:
    """The folder that holds most images of such names without suffix.

    The arguments are those of :func:`find_prefix`.
    """
    found = Counter(
        os.path.dirname(path)
        for stem in dict.fromkeys(stems)
        for path in tree.images_by_stem.get(stem, ())[:MAX_SAME]
    )
    return _choose_folder(tree, found, near, split)


def _choose_folder(
    tree: Tree, found: Counter[str], near: str, split: str | None
) -> str:
    def rank(folder: str) -> tuple:
        shared = len(os.path.commonpath([folder, near]))
        fits = find_split(tree.root, folder) == split
        return found[folder], fits, shared, -len(folder), folder

    return max(found, key=rank, default=near)


def sample_evenly(items: tuple[str, ...], count: int) -> tuple[str, ...]:
    """At most so many of the items, from the first to the last."""
    return items[:: -(-len(items) // count) or 1]


def find_common_folder(folders: Iterable[str]) -> str:
    """The innermost folder that holds them all, or the one that there is."""
    return os.path.commonpath(list(folders))


def take_words(path: str) -> list[str]:
    """The words of a file's name, in lower case."""
    return [word.lower() for word in WORD.findall(get_stem(path))]
