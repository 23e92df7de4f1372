"""A validation split for a folder that has none, written beside the config.

The rules of :func:`split_samples`, the first ones before the later:

1. Near duplicates stay on one side.
2. Every class stays in training.
3. A class is in the validation split, too, if several groups of near duplicates have
   it and training keeps one of them.
4. Of each class, and of the images without boxes, the validation split has its share.

Which images it takes is decided by hashes of their names relative to the data root: the
split is the same in another folder, on another system and with the files in another
order, and one more image exchanges few of the others.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..datasets.samples import Sample
from ..utils.errors import UserError
from ..utils.files import atomic_write, check_new_file
from ..utils.messages import first_few, show

SHARE = 0.2  # of the images, for validation


class Split(NamedTuple):
    """Indices of images, ascending. None is on both sides, but an only one."""

    train: list[int]
    val: list[int]


# ------------------------------------------------------------------------- the split


def split_samples(
    samples: Sequence[Sample],
    root: str | os.PathLike,
    groups: Sequence[Sequence[int]] = (),
    share: float = SHARE,
) -> Split:
    """Splits a data set into training and validation, each of one image at least.

    Where the rules above leave no image, or none with a box, for validation:

    - Groups with several images of a class are cut, as where one slow video is all
      that there is, or each class has its own: of each, a run of images in the order
      of their names is taken. It is the last of the runs that leave, and have, the
      most of its classes.
    - If there are none, the group or image is taken that training loses the fewest
      classes by.
    - An only image is on both sides.

    Args:
        samples: The images and their boxes.
        root: The folder that names are relative to.
        groups: Indices of images that must not be parted. They do not overlap; who is
            in none of them is alone.
        share: Of the images, how many go to validation, roughly. They are more where
            classes or groups make that necessary.

    Raises:
        UserError: There are no images, or the share is not between 0 and 1.
    """
    if not samples:
        raise UserError('there are no images to split')
    if not 0 < share < 1:
        raise UserError(f'a share of {share} for validation: give one between 0 and 1')
    if len(samples) == 1:
        return Split([0], [0])
    names = [make_relative(sample.path, root) for sample in samples]
    units = _order_units(names, groups)
    classes = _tell_classes(samples)
    counts = np.array([classes[unit].sum(0) for unit in units])
    chosen = _draw(counts, share)
    val = [i for unit, taken in zip(units, chosen) if taken for i in unit]
    if not counts[chosen, :-1].any():
        cut = (counts[:, :-1] > 1).any(1) | (len(units) == 1)
        for unit in (units[i] for i in cut.nonzero()[0]):
            unit.sort(key=lambda i: _make_natural(names[i]))
            val += _choose_run(classes[unit, :-1], unit, share)
    if not val:
        val = units[_find_least_lost(counts)]
    return Split(sorted(set(range(len(samples))) - set(val)), sorted(val))


def _order_units(
    names: Sequence[str], groups: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Groups, and images that are in none, in an order that depends on names alone."""

    def make_key(name: str) -> bytes:
        # Systems differ in how they write letters with accents.
        text = unicodedata.normalize('NFC', name).encode(errors='surrogateescape')
        return hashlib.blake2b(text, digest_size=16).digest()

    grouped = {i for group in groups for i in group}
    units = [sorted(group) for group in groups if group]
    units += [[i] for i in range(len(names)) if i not in grouped]
    keys = [make_key(name) for name in names]
    return sorted(units, key=lambda unit: min(keys[i] for i in unit))


def _tell_classes(samples: Sequence[Sample]) -> np.ndarray:
    """(n, classes + 1) 1 where an image has a class; the last is to have no box."""
    count = max((int(s.labels.max()) + 1 for s in samples if len(s.labels)), default=0)
    classes: np.ndarray = np.zeros((len(samples), count + 1), np.int32)
    for row, sample in zip(classes, samples):
        row[sample.labels if len(sample.labels) else count] = 1
    return classes


def _draw(counts: np.ndarray, share: float) -> np.ndarray:
    """Draws units for validation, class by class from the rarest on.

    What a class leaves stays in training, so that common classes, which come last,
    settle what others took of them.

    Args:
        counts: (units, classes + 1) how many images of a unit have a class.
        share: Of the images of each class, how many are to be drawn.

    Returns:
        (units,) whether it is drawn. No class is drawn completely.
    """
    carries = counts > 0
    totals, carriers = counts.sum(0), carries.sum(0)
    room = np.floor(share * totals + 0.5).astype(int)
    room[:-1] = np.maximum(room[:-1], 1)
    room[carriers < 2] = 0
    left = carriers.copy()  # units of each class in training
    chosen: np.ndarray = np.zeros(len(counts), bool)
    free: np.ndarray = np.ones(len(counts), bool)

    def take(unit: int) -> None:
        chosen[unit] = True
        room[:] -= counts[unit]
        left[:] -= carries[unit]

    for column in np.argsort(totals, kind='stable'):
        for unit in (free & carries[:, column]).nonzero()[0]:
            if room[column] <= 0:
                break
            if (left[carries[unit]] > 1).all() and (counts[unit] <= room).all():
                take(unit)
        free &= ~carries[:, column]
        if room[column] > 0 and not (chosen & carries[:, column]).any():
            # Every unit is larger than the share: the one that exceeds it least.
            alone = (carries & (left == 1)).any(1)
            possible = (carries[:, column] & ~alone).nonzero()[0]
            excess = np.maximum(counts[possible] - room, 0).sum(1)
            for unit in possible[np.argsort(excess, kind='stable')[:1]]:
                take(unit)
    return chosen


def _choose_run(
    classes: np.ndarray, unit: Sequence[int], share: float
) -> Sequence[int]:
    """A run of the images of a group for validation; at least one is not in it.

    Args:
        classes: (images, classes) whether an image has a class.
        unit: The images, two or more, in the order of their names.
        share: Of them, how many are wanted.
    """
    length = min(max(1, int(share * len(unit) + 0.5)), len(unit) - 1)
    sums = np.cumsum(np.vstack((0 * classes[:1], classes)), axis=0)
    runs = sums[length:] - sums[:-length]  # (starts, classes)
    remain = (sums[-1] > runs).sum(1)
    start = max(range(len(runs)), key=lambda i: (remain[i], (runs[i] > 0).sum(), i))
    return unit[start : start + length]


def _make_natural(name: str) -> list:
    """A key that puts ``frame_2`` before ``frame_10``."""
    parts = re.split('([0-9]+)', unicodedata.normalize('NFC', name))
    return [int(p) if i % 2 else p for i, p in enumerate(parts)]


def _find_least_lost(counts: np.ndarray) -> int:
    """The unit that training loses the fewest classes by, of these the smallest.

    Args:
        counts: (units, classes + 1) how many images of a unit have a class.
    """
    carries = counts[:, :-1] > 0
    lost = (carries & (carries.sum(0) == 1)).sum(1)
    return int(np.lexsort((counts.sum(1), lost))[0])


def describe_split(
    samples: Sequence[Sample],
    groups: Sequence[Sequence[int]],
    split: Split,
    classes: Sequence[str],
    share: float = SHARE,
) -> list[str]:
    """What a split could not have, as lines to be printed.

    Args:
        samples: The images and their boxes.
        groups: What :func:`split_samples` got.
        split: What it gave.
        classes: The names of the classes.
        share: What :func:`split_samples` got.
    """
    if len(samples) == 1:
        return ['there is only one image, which is trained and validated on']
    lines = []
    train, val = {*split.train}, {*split.val}
    parted = [group for group in groups if train & {*group} and val & {*group}]
    if parted:
        lines.append(
            f'{sum(map(len, parted))} images that are nearly the same are on both '
            'sides, since nothing else could be validated on: results will look '
            'better than they are'
        )
    has = _tell_classes(samples)[:, :-1] > 0
    there = has.any(0)
    for side, images, reason in [
        ('training', split.train, 'there are too few images'),
        (
            'validation',
            split.val,
            'there is one image with it, or all that have it are near duplicates or '
            'needed for training',
        ),
    ]:
        missing = (there & ~has[images].any(0)).nonzero()[0]
        if len(missing):
            names = first_few(classes[i] for i in missing)
            lines.append(f'{side} has no image of {names}: {reason}')
    if 2 * len(val) < share * len(samples) and groups:
        lines.append(
            f'only {len(val)} of {len(samples)} images are for validation, since '
            f'near duplicates stay together, {max(map(len, groups))} of them in one '
            'group'
        )
    return lines


# ------------------------------------------------------------------------ its lists


def make_relative(path: str | os.PathLike, root: str | os.PathLike) -> str:
    """A path relative to a folder, with forward slashes; absolute if it is elsewhere.

    Neither has to exist, and links are not followed.
    """
    whole, folder = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    inside = whole.is_relative_to(folder)
    return (whole.relative_to(folder) if inside else whole).as_posix()


def write_lists(
    out_stem: str | os.PathLike,
    root: str | os.PathLike,
    paths: Mapping[str, Sequence[str]],
) -> dict[str, Path]:
    """Writes lists for ``image_list``, all of them or none.

    Args:
        out_stem: ``my`` for ``my_train.txt``, ``my_val.txt``.
        root: The datasets' ``data_root``. A path below it is written relative to it,
            with forward slashes, and another one as an absolute path.
        paths: The images of each split.

    Returns:
        The files that were written, by split.

    Raises:
        UserError: One of them exists, or an image's name cannot stand in a list.
        OSError: They cannot be written.
    """
    files = {
        split: check_new_file(f'{os.fspath(out_stem)}_{split}.txt') for split in paths
    }
    contents = {split: _make_list(images, root) for split, images in paths.items()}
    with atomic_write(next(iter(files.values())), overwrite=False) as scratch:
        for split, file in files.items():
            scratch.with_name(file.name).write_bytes(contents[split])
    return files


def _make_list(paths: Sequence[str], root: str | os.PathLike) -> bytes:
    """The content of a list: UTF-8, a path on each line.

    Raises:
        UserError: A name cannot stand in a list.
    """
    lines = [make_relative(path, root) for path in paths]
    unfit = [line for line in lines if not _is_line(line)]
    if unfit:
        raise UserError(
            'a list of images has one path on a line, in UTF-8, and these names have a '
            'line break, a space at their end, or other bytes: '
            f'{first_few(map(show, unfit))}. Rename these images'
        )
    # A reader strips lines, and takes a first one such as "[[1].jpg" for JSON.
    plain = re.compile(r'\w|/')
    lines = [line if plain.match(line) else f'./{line}' for line in lines]
    return ''.join(f'{line}\n' for line in lines).encode()


def _is_line(text: str) -> bool:
    """Whether a text is the same where it is written as a line and read again."""
    try:
        text.encode()
    except UnicodeEncodeError:  # a name that is no UTF-8, as of an old archive
        return False
    return text == text.rstrip() and len(text.splitlines()) == 1
