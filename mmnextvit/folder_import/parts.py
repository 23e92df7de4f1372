"""Parts of a folder, one a split, put together to readings."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..datasets.data_yaml import SPLITS
from ..utils.errors import UserError
from ..utils.messages import first_few
from .reading import Reading
from .tree import Tree


@dataclass(frozen=True)
class Part:
    """A file or folder of annotations, with what reads it.

    Attributes:
        path: It.
        split: What its name or its folders say, or ``None``.
        dataset: The config of a dataset.
        classes: The names that it gives.
        class_ids: Their numbers.
    """

    path: str
    split: str | None
    dataset: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    class_ids: tuple[int, ...] | None = None


def join_parts(
    tree: Tree, layout: str, parts: Iterable[Part], notes: Sequence[str] = ()
) -> list[Reading]:
    """Readings of the parts of one layout: the first of each split, the second, ...

    Args:
        tree: The folder.
        layout: Its name.
        parts: Those that are to be preferred first.
        notes: Of all readings.

    Raises:
        UserError: The parts of a reading number other classes.
    """
    by_split: dict[str | None, list[Part]] = defaultdict(list)
    for part in parts:
        by_split[part.split].append(part)
    named, left_out = _name_splits(by_split)
    count = max(len(named.get('train', ())), 1)
    left_out += [part for of_split in named.values() for part in of_split[count:]]
    if left_out:
        paths = first_few(tree.shorten_path(part.path) for part in left_out)
        notes = (*notes, f'{paths}: left out, since other files are named after splits')
    return [
        _build_reading(
            tree,
            layout,
            {s: named[s][n] for s in SPLITS if len(named.get(s, ())) > n},
            tuple(notes),
        )
        for n in range(count if named else 0)
    ]


def _name_splits(
    by_split: Mapping[str | None, list[Part]],
) -> tuple[dict[str, list[Part]], list[Part]]:
    """The parts by split, each with a name, and those that are left out.

    What says no split is for training, unless something else says that it is; so is
    the only split, whatever it is called.
    """
    named = {split: parts for split, parts in by_split.items() if split is not None}
    nameless = by_split.get(None, [])
    if not nameless and len(named) == 1:
        return {'train': next(iter(named.values()))}, []
    if nameless and 'train' not in named:
        return {**named, 'train': nameless}, []
    return named, list(nameless)


def _build_reading(
    tree: Tree, layout: str, parts: Mapping[str, Part], notes: tuple[str, ...]
) -> Reading:
    shown = ', '.join(tree.shorten_path(part.path) for part in parts.values())
    if 'train' not in parts:
        raise UserError(
            f'there is nothing to train on: of {layout} there is only {shown}. Call '
            'the part to train on train',
            file=tree.root,
        )
    numbered = {
        (part.classes, part.class_ids) for part in parts.values() if part.classes
    }
    if len(numbered) > 1:
        lists = first_few(
            ', '.join(classes) for classes, _ in sorted(numbered, key=str)
        )
        raise UserError(
            f'the classes of {shown} differ, or their numbers do: {lists}. Export or '
            'number them alike',
            file=tree.root,
        )
    classes, class_ids = next(iter(numbered), ((), None))
    datasets = {split: part.dataset for split, part in parts.items()}
    return Reading(layout, classes, datasets, class_ids, notes)
