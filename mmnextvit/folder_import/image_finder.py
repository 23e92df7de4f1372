"""Which image of a folder is meant, where annotations name one as it once lay."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from ..utils.errors import UserError
from ..utils.messages import first_few
from .tree import Tree, get_stem


@dataclass(frozen=True)
class ImageFinder:
    """Finds the images of a folder by the names that annotations give them.

    Attributes:
        tree: The folder.
    """

    tree: Tree

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """The images of each name, however it is spelt, folders left out."""
        images = defaultdict(list)
        for path in self.tree.images:
            images[fold(os.path.basename(path))].append(path)
        return images

    @cached_property
    def by_stem(self) -> dict[tuple[str, str], str]:
        """An image of each folder and name without suffix."""
        return {(os.path.dirname(p), get_stem(p)): p for p in self.tree.images}

    def find(self, name: str, places: Sequence[str], stem: str = '') -> str:
        """The path of an image; the first where it would lie, if it is nowhere.

        It is looked for in the places; as the image that is called as its annotation;
        and then in the whole folder, where the image is taken whose last folders are
        those of the name, and which lies nearest to the annotation.

        Args:
            name: As the annotations have it, with the slashes of any system.
            places: Folders that it may count from, first that of the annotation.
            stem: Of the file of annotations, if it is of this image alone.

        Raises:
            UserError: Several images fit as well.
        """
        spellings = dict.fromkeys([name, name.replace('\\', '/')])
        for place, spelling in product(places, spellings):
            path = os.path.normpath(os.path.join(place, spelling))
            if self._is_there(path):
                return path
        beside = self.by_stem.get((places[0], stem))
        if beside:
            return beside
        written = os.path.normpath(os.path.join(places[0], [*spellings][-1]))
        paths = self.by_name.get(fold(os.path.basename(written)), [])
        ranks = [(_rank(path, written, places[0]), path) for path in paths]
        first = max(ranks, default=None)
        best = [path for rank, path in ranks if first and rank == first[0]]
        if len(best) > 1:
            shown = first_few(map(self.tree.shorten_path, best))
            raise UserError(f'several images are called {name}: {shown}. Rename them')
        return best[0] if best else written

    def _is_there(self, path: str) -> bool:
        if path.startswith(self.tree.root.rstrip(os.sep) + os.sep):
            return path in self.tree.file_set
        return os.path.isfile(path)


def fold(name: str) -> str:
    """A name in one spelling: systems differ in accents and in upper case."""
    return unicodedata.normalize('NFC', name).casefold()


def _rank(path: str, written: str, near: str) -> tuple[int, int]:
    """How well a path fits a name and a folder: by parts that they share."""
    tails = zip(*(reversed(fold(p).split(os.sep)) for p in (path, written)))
    heads = zip(path.split(os.sep), near.split(os.sep))
    return _count_equal(tails), _count_equal(heads)


def _count_equal(pairs: 'zip[tuple[str, str]]') -> int:
    """How many pairs are equal before the first that is not."""
    count = 0
    for one, other in pairs:
        if one != other:
            break
        count += 1
    return count
