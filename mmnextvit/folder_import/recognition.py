"""Recognises what layout a folder has, and says what it saw where it has none."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..datasets.samples import Sample
from ..utils.errors import MissingFileError, UserError
from ..utils.messages import first_few, list_lines, shorten
from .conversions import CONVERSIONS
from .layouts import LAYOUTS, RECOGNISERS
from .peeks import is_label_file
from .reading import Reading
from .tree import Tree, get_suffix, read_tree
from .unsupported import find_unsupported
from .yolo_layouts import find_labelled_folders

ARCHIVES = ('.zip', '.tar', '.tgz', '.gz', '.rar', '.7z')
FIRST = 8  # files that are named
MAX_LOOKS = 100  # text files that are looked into
MAX_DEPTH = 3  # folders, one in another, of which the files are counted


class Counted(NamedTuple):
    """A reading with what its datasets have read.

    Attributes:
        reading: The reading.
        classes: The names that the samples' labels are numbers of.
        samples: Of all its splits.
    """

    reading: Reading
    classes: Sequence[str]
    samples: Sequence[Sample]


# --------------------------------------------------------------------- recognition


def open_folder(path: str | os.PathLike) -> tuple[Tree, str | None]:
    """Looks through a folder, or the one around a file of annotations, once.

    Where that holds no image, as ``annotations`` or ``labels`` do, it is the folder
    around that. A YAML file says itself where its images lie.

    Returns:
        What lies there, and the absolute path of the file if it is one.

    Raises:
        UserError: There is no such folder.
        OSError: It cannot be listed.
    """
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        return read_tree(path), None
    tree = read_tree(os.path.dirname(path))
    if tree.images or get_suffix(path) in ('.yaml', '.yml'):
        return tree, path
    return read_tree(os.path.dirname(tree.root)), path


def recognise(
    folder: str | os.PathLike,
    out_stem: str | os.PathLike,
    count: Callable[[Reading], Counted],
) -> Reading:
    """What a folder is read as: its most usual layout, or what it is converted to.

    Args:
        folder: The folder, one that it lies in, or its file of annotations, such as a
            ``data.yaml``: then what is read from this file.
        out_stem: What the paths of files begin with that annotations are converted to,
            if none of our datasets reads them; nothing else is written.
        count: Reads a reading with its datasets. It is asked only where a folder can be
            read in several ways.

    Raises:
        UserError: There is no layout that is known: what there is, and what was looked
            for. What there is is faulty, or two layouts of it differ.
        OSError: Something cannot be read or written.
    """
    if get_suffix(str(folder)) in ARCHIVES and os.path.isfile(folder):
        raise UserError('unpack it first, and give the folder', file=folder)
    tree, file = open_folder(folder)
    fault = None
    try:
        readings = _keep_of_file(find_readings(tree), file)
    except UserError as error:
        readings, fault = [], error
    found = [(conversion, conversion.recognise(tree)) for conversion in CONVERSIONS]
    converted = [(c, f) for c, f in found if (file in f if file else f)]
    notes = [f'left out: {shorten(fault, 400)}'] if fault else []
    if readings:
        reading = _choose(readings, count)
    elif converted:
        conversion, files = converted.pop(0)
        reading = conversion.convert(tree, [file] if file else files, Path(out_stem))
    elif fault:
        raise fault
    elif file:
        raise UserError(
            'this is no file of annotations that is read by itself. Give the folder '
            'that holds it and the images',
            file=file,
        )
    else:
        raise find_unsupported(tree) or describe_unknown(tree)
    notes += [
        f'{conversion.layout} is there too, and not used: '
        f'{first_few(map(tree.shorten_path, files), 1)}'
        for conversion, files in converted
    ]
    return add_notes(reading, notes)


def _choose(
    readings: Sequence[Reading], count: Callable[[Reading], Counted]
) -> Reading:
    """The first of the readings, if those that can be read are of the same boxes."""
    if len(readings) == 1:
        return readings[0]
    counted = [count(readings[0])]
    notes = []
    for reading in readings[1:]:
        try:
            counted.append(count(reading))
        except UserError as error:
            fault = shorten(error, 400)
            notes.append(f'{reading.layout} is there too, and cannot be read: {fault}')
    return add_notes(choose_reading(counted), notes)


def list_readings(folder: str | os.PathLike) -> tuple[Tree, list[Reading]]:
    """All that our datasets can read a folder as, the most usual layout first.

    Whether several are of the same boxes, only the datasets can tell: see
    `choose_reading`.

    Args:
        folder: The folder, one that it lies in, or its file of annotations.

    Raises:
        UserError: Nothing, but something is there that is faulty; or there is no such
            folder.
        OSError: It cannot be listed.
    """
    tree, file = open_folder(folder)
    return tree, _keep_of_file(find_readings(tree), file)


def _keep_of_file(readings: Iterable[Reading], file: str | None) -> list[Reading]:
    """The readings of one file of annotations, or all."""
    return [r for r in readings if file is None or file in list_files(r)]


def find_readings(tree: Tree) -> list[Reading]:
    """All that a folder can be read as, the most usual layout first.

    Raises:
        UserError: Nothing, but something is there that is faulty.
    """
    readings: list[Reading] = []
    errors: list[UserError] = []
    for group in RECOGNISERS:
        for recogniser in group:
            try:
                found = recogniser(tree)
            except UserError as error:
                errors.append(error)
                continue
            readings += found
            if found:
                break
    if errors and not readings:
        raise errors[0]
    notes = [f'left out: {shorten(error, 400)}' for error in errors]
    if tree.unreadable:
        paths = first_few(map(tree.shorten_path, tree.unreadable))
        notes.append(f'{paths}: left out, since these folders may not be read')
    order = [*LAYOUTS]
    readings.sort(key=lambda reading: order.index(reading.layout))
    return [add_notes(reading, notes) for reading in readings]


def list_files(reading: Reading) -> list[str]:
    """The files and folders of annotations that a reading is read from."""
    return [dataset['ann_file'] for dataset in reading.datasets.values()]


def add_notes(reading: Reading, notes: Iterable[str]) -> Reading:
    """The reading with more to be said of it."""
    return replace(reading, notes=(*reading.notes, *notes))


# ------------------------------------------------------------------- two readings


def choose_reading(counted: Sequence[Counted]) -> Reading:
    """The first of several readings, if they all are of the same boxes.

    Args:
        counted: What was read, the most usual layout first.

    Raises:
        UserError: They differ: how many images and boxes each has, and where.
    """
    first, *others = counted
    notes = []
    for other in others:
        difference = find_difference(first, other)
        if difference:
            raise UserError(
                'the folder can be read in two ways, and they differ:\n  '
                f'{list_lines(map(_describe_counted, counted))}\n'
                f'{difference}. Give the file of the right one in place of the folder, '
                'or move the other one out of it'
            )
        notes.append(
            f'the same boxes stand there as {other.reading.layout} '
            f'({_name_files(other.reading)}), which is not used'
        )
    return add_notes(first.reading, notes)


def find_difference(first: Counted, second: Counted) -> str | None:
    """Where two readings differ in what stands on images, or ``None``.

    Compared is how many boxes of each class an image has, by the name of its file;
    images without a box may be listed in one alone.
    """
    ours, theirs = map(_count_by_image, (first, second))
    different = [
        name
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if not different:
        return None
    name = different[0]
    sides = [
        f'{_describe_boxes(counts.get(name))} in {counted.reading.layout}'
        for counted, counts in ((first, ours), (second, theirs))
    ]
    return (
        f'{len(different)} images differ: {first_few(different)}. Of {shorten(name)} '
        f'there are {" and ".join(sides)}'
    )


Boxes = Counter[tuple[tuple[str, int], ...]]


def _count_by_image(counted: Counted) -> Mapping[str, Boxes]:
    """For each file name what its images hold; images of one name lie in two splits."""
    by_name: dict[str, Boxes] = defaultdict(Counter)
    for sample in counted.samples:
        classes = Counter(counted.classes[label] for label in sample.labels)
        if classes:
            by_name[os.path.basename(sample.path)][tuple(sorted(classes.items()))] += 1
    return by_name


def _describe_boxes(boxes: Boxes | None) -> str:
    if not boxes:
        return 'no boxes'
    return ' or '.join(
        ', '.join(f'{count} {shorten(name)}' for name, count in classes)
        for classes in sorted(boxes)
    )


def _describe_counted(counted: Counted) -> str:
    boxes = Counter(
        counted.classes[label] for sample in counted.samples for label in sample.labels
    )
    named = first_few(f'{name} {count}' for name, count in sorted(boxes.items()))
    return (
        f'{counted.reading.layout} ({_name_files(counted.reading)}): '
        f'{len(counted.samples)} images, {boxes.total()} boxes ({named})'
    )


def _name_files(reading: Reading) -> str:
    return first_few(dict.fromkeys(list_files(reading)))


# ------------------------------------------------------------------------ nothing


def describe_unknown(tree: Tree) -> UserError:
    """The error about a folder of no known layout: what it holds, and what was wanted.

    It is to be raised.
    """
    if not tree.files:
        return MissingFileError('the folder holds no file', file=tree.root)
    suffixes = {suffix or 'without': len(f) for suffix, f in tree.by_suffix.items()}
    first = list(map(tree.shorten_path, tree.files[:FIRST]))
    rest = len(tree.files) - len(first)
    seen = [
        f'by suffix: {_describe_counts(Counter(suffixes))}',
        f'by folder: {_describe_counts(_count_by_folder(tree))}',
        f'the first: {first_few(first, FIRST)}' + (f' and {rest} more' if rest else ''),
    ]
    wanted = [f'{layout}: {sign}' for layout, sign in LAYOUTS.items()]
    wanted += [conversion.layout for conversion in CONVERSIONS]
    problem = (
        'this folder has no layout that is known. It holds '
        f'{len(tree.files)} files, {len(tree.images)} of them images:\n'
        f'  {list_lines(seen)}\n'
        f'{_hint(tree)}Looked for:\n  {list_lines(wanted, len(wanted))}'
    )
    return UserError(problem, file=tree.root)


def _hint(tree: Tree) -> str:
    """What may be amiss, as a sentence with a line's end."""
    archives = [file for file in tree.files if get_suffix(file) in ARCHIVES]
    texts = tree.by_suffix.get('.txt', ())[:MAX_LOOKS]
    label_file = next(filter(is_label_file, texts), None)
    if archives and not tree.images:
        return f'Unpack {first_few(map(tree.shorten_path, archives))} first.\n'
    if not tree.images:
        return 'There is no image: give the folder that holds images and annotations.\n'
    if label_file and not find_labelled_folders(tree):
        return (
            f'{tree.shorten_path(label_file)} looks like a label file of YOLO, but no '
            'image lies beside it or in the folder images/ beside its folder labels/: '
            'name the folders so.\n'
        )
    if label_file:
        return (
            'There are label files of YOLO, but nothing names the classes: write '
            'classes.txt into the folder, with one name a line, that of number 0 '
            'first.\n'
        )
    return ''


def _count_by_folder(tree: Tree) -> Counter[str]:
    """How many files lie in each folder near the root, and below it."""
    counts: Counter[str] = Counter()
    for folder, files in tree.by_folder.items():
        near = tree.shorten_path(folder).split('/')[:MAX_DEPTH]
        counts['/'.join(near)] += len(files)
    return counts


def _describe_counts(counts: Counter[str]) -> str:
    return first_few((f'{name} {count}' for name, count in counts.most_common()), 10)
