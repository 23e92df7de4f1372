"""Folders with YOLO's label files: a data.yaml, Darknet's obj.data, or names alone."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ..datasets.darknet import find_list, read_darknet, read_names_file
from ..datasets.data_yaml import (
    SPLITS,
    DataYAML,
    find_images,
    find_sources,
    read_data_yaml,
)
from ..datasets.yolo_labels import find_label_file
from ..utils.errors import UserError
from ..utils.messages import first_few
from .locate import find_common_folder, find_split, read_split
from .parts import Part, join_parts
from .reading import Reading
from .tree import Tree, get_stem, get_suffix, is_image, read_head

TYPE = 'VerifiedYOLOTxtDataset'
ROBOFLOW_NAMES = '_darknet.labels'
MAX_FOLDERS = 10  # that stand one by one in a config
NAMES_FILES = (
    'classes.txt', 'obj.names', ROBOFLOW_NAMES, 'predefined_classes.txt',
    'class_names.txt', 'names.txt', 'labels.txt', 'labelmap.txt',
)  # fmt: skip

YAML_NAMES = re.compile(r'^names\s*:', re.M)
YAML_SPLITS = re.compile(r'^(train|val|test)\s*:', re.M)
YAML_ROBOFLOW = re.compile(r'^roboflow\s*:|^(train|val|test)\s*:\s*["\']?\.\./', re.M)
DATA_NAMES = re.compile(r'^\s*names\s*=', re.M)
DATA_SPLITS = re.compile(r'^\s*(train|valid|val)\s*=', re.M)


# ----------------------------------------------------------------------- data.yaml


def find_data_yaml(tree: Tree) -> list[Reading]:
    """Folders with a ``data.yaml``, of Roboflow or as Ultralytics has them."""
    files = [*tree.by_suffix.get('.yaml', ()), *tree.by_suffix.get('.yml', ())]
    heads = {path: read_head(path) for path in sorted(files, key=_rank_yaml)}
    return _read_first(
        [
            (
                path,
                'Roboflow YOLO' if YAML_ROBOFLOW.search(head) else 'Ultralytics YOLO',
            )
            for path, head in heads.items()
            if YAML_NAMES.search(head) and YAML_SPLITS.search(head)
        ],
        lambda path, layout: _read_yaml(tree, path, layout),
    )


def _rank_yaml(path: str) -> tuple:
    return path.count(os.sep), get_stem(path).lower() not in ('data', 'dataset'), path


def _read_yaml(tree: Tree, path: str, layout: str) -> Reading:
    content = read_data_yaml(path, may_repeat=True)
    name = tree.shorten_path(path)
    sources: dict[str, list[str]] = {}
    notes = []
    for split in SPLITS:
        if split not in content['splits']:
            continue
        try:
            sources[split] = find_sources(path, split, tree.root).paths
        except UserError as error:
            if split == 'train':
                known = _suggest_source(tree, content, error)
                if known is None:
                    raise
                raise known from error
            sources[split] = []
        if not any(_has_images(tree, source) for source in sources[split]):
            if split == 'train' and sources[split]:
                raise UserError(
                    f'{first_few(sources[split])} holds no image', file=path, key=split
                )
            named = first_few(content['splits'][split])
            fault = 'holds no image' if sources[split] else 'is not there'
            notes.append(f'{name} names {named} as {split}, which {fault}: left out')
            del sources[split]
    real = {s: {os.path.realpath(p) for p in places} for s, places in sources.items()}
    return _build_reading(tree, path, layout, content['classes'], real, notes)


def _has_images(tree: Tree, source: str) -> bool:
    """Whether a folder holds images, below the tree's root or elsewhere; or a list."""
    if os.path.isfile(source):
        return os.path.getsize(source) > 0
    inside = tree.below(source) if source.startswith(tree.root) else None
    if inside is not None and (inside.files or len(inside.folders) > 1):
        return bool(inside.images)
    for _, folders, names in os.walk(source):  # outside the tree, or behind a link
        folders.sort()
        if any(map(is_image, names)):
            return True
    return False


def _suggest_source(
    tree: Tree, content: DataYAML, error: UserError
) -> UserError | None:
    """The error about a missing train with the folder in the tree that it may mean."""
    for source in content['splits']['train']:
        parts = [part for part in re.split(r'[\\/]+', source) if part.strip('.')]
        for start in range(len(parts)):
            end = os.sep + os.path.join(*parts[start:])
            found = [f for f in tree.images_by_folder if f.endswith(end)]
            if found:
                relative = os.path.relpath(found[0], os.path.dirname(str(error.file)))
                return UserError(
                    f'write {relative.replace(os.sep, "/")}, as there is {found[0]}, '
                    f'and the other splits likewise: {error.problem}',
                    file=error.file,
                    line=error.line,
                    key=error.key,
                )
    return None


# ------------------------------------------------------------------------- Darknet


def find_darknet(tree: Tree) -> list[Reading]:
    """Folders with an ``obj.data``, or with Roboflow's ``_darknet.labels``."""
    files = sorted(tree.by_suffix.get('.data', ()), key=lambda p: (p.count(os.sep), p))
    heads = {path: read_head(path) for path in files}
    readings = _read_first(
        [
            (path, 'Darknet')
            for path, head in heads.items()
            if DATA_NAMES.search(head) and DATA_SPLITS.search(head)
        ],
        lambda path, layout: _read_data(tree, path, layout),
    )
    names = [*tree.by_name.get(ROBOFLOW_NAMES, ()), *tree.by_suffix.get('.names', ())]
    return readings or _find_named(tree, 'Darknet', names)


def _read_data(tree: Tree, path: str, layout: str) -> Reading:
    content = read_darknet(path, tree.root, may_repeat=True)
    lists: dict[str, str] = {}
    notes = []
    for split in SPLITS:
        if split not in content.splits:
            continue
        try:
            place = find_list(content, path, split)
            if os.path.isfile(place):
                images = find_images(place, content.bases, '')
                if not any(map(os.path.exists, images)):
                    raise UserError('none of the images in the list exists', file=place)
            lists[split] = place
        except UserError:
            if split == 'train':
                raise
            notes.append(
                f'{tree.shorten_path(path)} names {content.splits[split].value} as '
                f'{split}, which is not there: left out'
            )
    files = {split: os.stat(place) for split, place in lists.items()}
    places = {split: (file.st_dev, file.st_ino) for split, file in files.items()}
    return _build_reading(tree, path, layout, content.names, places, notes)


# ---------------------------------------------------- a list of names, labels, images


def find_named_labels(tree: Tree) -> list[Reading]:
    """Folders of images and label files with a ``classes.txt`` somewhere."""
    names = [path for name in NAMES_FILES for path in tree.by_name.get(name, ())]
    return _find_named(tree, 'YOLO with classes.txt', names)


def find_labelled_folders(tree: Tree) -> dict[str, str]:
    """The folder of the labels of each folder of images that has any."""
    labelled = {}
    for folder, images in tree.images_by_folder.items():
        labels = os.path.dirname(find_label_file(os.path.join(folder, 'x.jpg')))
        stems = {
            get_stem(path)
            for path in tree.by_folder.get(labels, ())
            if get_suffix(path) == '.txt'
            and os.path.basename(path).lower() not in NAMES_FILES
        }
        if stems and any(get_stem(image) in stems for image in images):
            labelled[folder] = labels
    return labelled


def _find_named(tree: Tree, layout: str, names_files: Sequence[str]) -> list[Reading]:
    if not names_files:
        return []
    by_folder: dict[str, str] = {}
    for path in names_files:
        by_folder.setdefault(os.path.dirname(path), path)
    groups: dict[str | None, list[str]] = {}
    chosen: dict[str | None, str] = {}
    for folder, labels in find_labelled_folders(tree).items():
        split = find_split(tree.root, folder)
        groups.setdefault(split, []).append(_cut_below_images(tree, folder))
        nearest = (by_folder[f] for f in _go_up(tree, labels, folder) if f in by_folder)
        chosen.setdefault(split, next(nearest, next(iter(by_folder.values()))))
    parts = []
    for split, folders in groups.items():
        names = read_names_file(chosen[split], may_repeat=True)
        kept = _merge_folders(tree, folders, groups)
        parts.append(
            Part(
                path=kept[0] if len(kept) == 1 else find_common_folder(kept),
                split=split,
                dataset=dict(
                    type=TYPE,
                    data_root=tree.root,
                    ann_file=chosen[split],
                    data_prefix=dict(img=kept[0] if len(kept) == 1 else kept),
                ),
                classes=names,
                class_ids=tuple(range(len(names))),
            )
        )
    return join_parts(tree, layout, parts)


def _go_up(tree: Tree, *folders: str) -> Iterator[str]:
    """Folders, then those around them up to the root, the innermost first."""
    yield from folders
    for folder in folders:
        while folder != tree.root and folder.startswith(tree.root):
            folder = os.path.dirname(folder)
            yield folder


def _cut_below_images(tree: Tree, folder: str) -> str:
    """A folder's part up to ``images`` or what names its split, whichever is inner."""
    parts = os.path.relpath(folder, tree.root).split(os.sep)
    ends = [
        end
        for end, part in enumerate(parts, start=1)
        if part.lower() == 'images' or read_split(part)
    ]
    return os.path.join(tree.root, *parts[: ends[-1]]) if ends else folder


def _merge_folders(
    tree: Tree, folders: Iterable[str], groups: Mapping[str | None, Iterable[str]]
) -> list[str]:
    """The folders of a split, without those inside another.

    It is the one that holds them all, where no other image lies in that, or where they
    are very many and nothing of other splits does.
    """
    distinct = sorted(set(folders))
    common = find_common_folder(distinct)
    below = {
        _cut_below_images(tree, folder)
        for folder in tree.below(common).images_by_folder
    }
    others = {f for of_split in groups.values() for f in of_split} - set(distinct)
    if below <= set(distinct) or (len(distinct) > MAX_FOLDERS and not below & others):
        return [common]
    kept: list[str] = []
    for folder in distinct:
        if not kept or not folder.startswith(kept[-1] + os.sep):
            kept.append(folder)
    return kept


# -------------------------------------------------------------------------- shared


def _read_first(
    files: Sequence[tuple[str, str]], read: Callable[[str, str], Reading]
) -> list[Reading]:
    """What can be read of some files.

    Raises:
        UserError: None of them can: what is wrong with the first.
    """
    readings, errors = [], []
    for path, layout in files:
        try:
            readings.append(read(path, layout))
        except UserError as error:
            errors.append(error)
    if errors and not readings:
        raise errors[0]
    return readings


def _build_reading(
    tree: Tree,
    path: str,
    layout: str,
    classes: tuple[str, ...],
    places: Mapping[str, object],
    notes: Sequence[str],
) -> Reading:
    """The reading of a file that names its splits.

    Args:
        tree: The folder.
        path: The file.
        layout: Its name.
        classes: What it names.
        places: Of each split where its images lie, equal where that is the same.
        notes: What there is to tell already.

    Raises:
        UserError: There is no split to train on.
    """
    if 'train' not in places:
        raise UserError(
            'the file has no train: there is nothing to train on', file=path
        )
    same = [s for s in SPLITS[1:] if s in places and places[s] == places['train']]
    more = (
        f'{tree.shorten_path(path)} names the same images as train and {split}, which '
        f'counts as no {split} split'
        for split in same
    )
    datasets = {
        split: dict(type=TYPE, data_root=tree.root, ann_file=path, split=split)
        for split in places
        if split not in same
    }
    numbers = tuple(range(len(classes)))
    return Reading(layout, classes, datasets, numbers, (*notes, *more))
