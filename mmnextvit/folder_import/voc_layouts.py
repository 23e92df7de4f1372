"""Folders with Pascal VOC's XML files, with lists of the splits or without."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from .locate import (
    find_common_folder,
    find_image_folder,
    find_prefix,
    find_split,
    sample_evenly,
)
from .parts import Part, join_parts
from .peeks import SAMPLE, peek_voc
from .reading import Reading
from .tree import Tree, get_stem, get_suffix, read_head

TYPE = 'VerifiedVOCDataset'
PEEKS = 3  # XML files of a folder that are looked into, to see what they are
SUFFIX = re.compile(r'\.\w{3,4}$')
LISTS = dict(
    train='train', training='train', trainval='train', val='val', valid='val',
    validation='val', test='test',
)  # fmt: skip


def find_voc(tree: Tree) -> list[Reading]:
    """Folders with Pascal VOC's XML files, beside the images or apart."""
    folders = _find_xml_folders(tree)
    if not folders:
        return []
    listed = _find_listed(tree, folders)
    return listed or join_parts(tree, 'Pascal VOC', _build_parts(tree, folders))


def _find_xml_folders(tree: Tree) -> dict[str, tuple[str, ...]]:
    """Pascal VOC's XML files by folder."""
    by_folder: dict[str, list[str]] = {}
    for path in tree.by_suffix.get('.xml', ()):
        by_folder.setdefault(os.path.dirname(path), []).append(path)
    return {
        folder: tuple(paths)
        for folder, paths in by_folder.items()
        if any(peek_voc(path) for path in sample_evenly(tuple(paths), PEEKS))
    }


# ------------------------------------------------------------------- lists of splits


def _find_listed(tree: Tree, folders: Mapping[str, tuple[str, ...]]) -> list[Reading]:
    """A reading of each folder with lists of names of XML files, as ImageSets/Main."""
    by_root: dict[str, dict[str, list[str]]] = {}
    stems = {folder: {*map(get_stem, paths)} for folder, paths in folders.items()}
    missing: dict[str, list[str]] = {}
    for path in tree.by_suffix.get('.txt', ()):
        if get_stem(path).lower() not in LISTS:
            continue
        names = _read_ids(path)
        folder = max(folders, key=lambda f: (len(stems[f] & names), _share(f, path)))
        if len(stems[folder] & names):
            by_root.setdefault(folder, {}).setdefault(os.path.dirname(path), [])
            by_root[folder][os.path.dirname(path)].append(path)
        elif names and 'imagesets' in path.lower():
            missing.setdefault(folder, []).append(path)
    return [
        reading
        for folder, lists in by_root.items()
        for reading in _read_lists(
            tree,
            folder,
            folders[folder],
            max(lists.items(), key=lambda item: ('main' in item[0].lower(), *item))[1],
            missing.get(folder, ()),
        )
    ]


def _read_ids(path: str) -> set[str]:
    """The names that begin a list, with and without a suffix."""
    lines = [line.strip() for line in read_head(path).splitlines()[:SAMPLE]]
    names = {line for line in lines if line}
    return names | {SUFFIX.sub('', name) for name in names}


def _share(folder: str, path: str) -> int:
    return len(os.path.commonpath([folder, path]))


def _read_lists(
    tree: Tree,
    folder: str,
    paths: tuple[str, ...],
    lists: Sequence[str],
    missing: Iterable[str],
) -> list[Reading]:
    by_stem = {get_stem(path).lower(): path for path in lists}
    root = os.path.commonpath([folder, *lists])
    images = _find_images(tree, folder, paths, None)
    notes = [
        f'{tree.shorten_path(path)} names no file that is there: left out'
        for path in missing
    ]
    if 'train' in by_stem:
        by_stem.pop('trainval', None)
    if not {'val', 'valid', 'validation'} & by_stem.keys():
        shown = tree.shorten_path(os.path.dirname(lists[0]))
        notes.append(f'{shown} has no val.txt: there is no validation split')
    parts = [
        Part(
            path=path,
            split=LISTS[stem],
            dataset=dict(
                type=TYPE,
                data_root=root,
                ann_file=path,
                ann_subdir=os.path.relpath(folder, root),
                img_subdir=os.path.relpath(images, root),
            ),
        )
        for stem, path in sorted(by_stem.items())
    ]
    return join_parts(tree, 'Pascal VOC', parts, notes)


# ------------------------------------------------------------------ folders of splits


def _build_parts(tree: Tree, folders: Mapping[str, tuple[str, ...]]) -> list[Part]:
    groups: dict[str | None, list[str]] = {}
    for folder in folders:
        groups.setdefault(find_split(tree.root, folder), []).append(folder)
    if None in groups and len(groups) > 1 and 'train' in groups:
        del groups[None]
    return [
        _build_part(tree, split, group, folders)
        for split, of_split in groups.items()
        for group in _group_mirrored(tree, split, of_split, folders)
    ]


def _group_mirrored(
    tree: Tree,
    split: str | None,
    inside: Sequence[str],
    folders: Mapping[str, tuple[str, ...]],
) -> list[list[str]]:
    """Folders of XML files that one dataset can read, in groups.

    They are all below one folder, nothing else is, and so are the folders of their
    images below another.
    """
    common = find_common_folder(inside)
    below = [f for f in folders if f == common or f.startswith(common + os.sep)]
    roots = {
        _strip_end(
            _find_images(tree, folder, folders[folder], split),
            os.path.relpath(folder, common),
        )
        for folder in inside
    }
    fits = len(below) == len(inside) and len(roots) == 1 and None not in roots
    return [list(inside)] if fits else [[folder] for folder in inside]


def _strip_end(folder: str, end: str) -> str | None:
    """A folder without the parts at its end, ``None`` where it ends in others."""
    if end == '.':
        return folder
    return folder[: -len(end) - 1] if folder.endswith(os.sep + end) else None


def _build_part(
    tree: Tree,
    split: str | None,
    group: Sequence[str],
    folders: Mapping[str, tuple[str, ...]],
) -> Part:
    common = find_common_folder(group)
    images = _find_images(tree, group[0], folders[group[0]], split)
    images = _strip_end(images, os.path.relpath(group[0], common)) or images
    return Part(
        path=common,
        split=split,
        dataset=dict(
            type=TYPE,
            data_root=tree.root,
            ann_file=os.path.join(common, ''),
            img_subdir=os.path.relpath(images, tree.root),
        ),
    )


def _find_images(
    tree: Tree, folder: str, paths: tuple[str, ...], split: str | None
) -> str:
    """Where the images of a folder of XML files lie, by their names or by the files."""
    sample = sample_evenly(paths, SAMPLE)
    stems = [get_stem(path) for path in sample]
    if {get_stem(path) for path in tree.images_by_folder.get(folder, ())} & {*stems}:
        return folder
    if any(stem in tree.images_by_stem for stem in stems):
        return find_image_folder(tree, stems, folder, split)
    inside = [peek_voc(path) or '' for path in sample]
    names = [os.path.basename(name.replace('\\', '/')) for name in inside]
    if any(get_suffix(name) for name in names):
        return find_prefix(tree, names, folder, split)
    return find_image_folder(tree, names, folder, split)
