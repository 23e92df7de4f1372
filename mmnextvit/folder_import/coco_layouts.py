"""Folders with COCO's JSON files, as many programs write them."""

import os
import re
from collections.abc import Iterator

from .locate import find_prefix, find_split, read_split, take_words
from .parts import Part, join_parts
from .peeks import CocoPeek, peek_coco
from .reading import Reading
from .tree import Tree, get_stem, read_head

# What begins CVAT's files, whatever its subsets are called.
CVAT = re.compile(r'"licenses"\s*:\s*\[\s*\{\s*"name"\s*:\s*""')
HEAD = 1 << 12  # bytes
ROBOFLOW = '_annotations.coco.json'
MAX_FILES = 50  # of a folder are looked into; hundreds of JSON files are one an image

# Words of names of files that hold the same images as another, which is preferred.
SECONDARY = {
    'keypoints',
    'stuff',
    'panoptic',
    'captions',
    'info',
    'rle',
    'old',
    'backup',
}


def find_coco(tree: Tree) -> list[Reading]:
    """Folders with COCO's JSON files, of one name or many, and images anywhere."""
    parts: dict[str, list[Part]] = {}
    for path, peek in _list_coco_files(tree):
        parts.setdefault(_name_layout(path), []).append(_build_part(tree, path, peek))
    return [
        reading
        for layout, of_layout in parts.items()
        for reading in join_parts(tree, layout, of_layout)
    ]


def _list_coco_files(tree: Tree) -> Iterator[tuple[str, CocoPeek]]:
    """COCO's files, those to be preferred first."""
    taken: dict[str, int] = {}
    candidates = []
    for path in tree.by_suffix.get('.json', ()):
        folder = os.path.dirname(path)
        taken[folder] = taken.get(folder, 0) + 1
        if taken[folder] <= MAX_FILES or read_split(get_stem(path)):
            candidates.append(path)
    for path in sorted(candidates, key=_rank):
        peek = peek_coco(path)
        if peek is not None:
            yield path, peek


def _rank(path: str) -> tuple:
    words = set(take_words(path))
    return 'instances' not in words, len(words & SECONDARY), path.count(os.sep), path


def _name_layout(path: str) -> str:
    """What users call a COCO file like this one."""
    name = os.path.basename(path).lower()
    if name == ROBOFLOW:
        return 'Roboflow COCO'
    head = read_head(path, HEAD)
    if name == 'instances_default.json' or CVAT.search(head):
        return 'CVAT COCO 1.0'
    if name == 'result.json' or '"Label Studio"' in head:
        return 'Label Studio COCO'
    return 'COCO'


def _build_part(tree: Tree, path: str, peek: CocoPeek) -> Part:
    folder = os.path.dirname(path)
    split = find_split(tree.root, path)
    ids = tuple(number for number, _ in peek.categories if isinstance(number, int))
    return Part(
        path=path,
        split=split,
        dataset=dict(
            type='VerifiedCocoDataset',
            data_root=tree.root,
            ann_file=path,
            data_prefix=dict(img=find_prefix(tree, peek.file_names, folder, split)),
        ),
        classes=tuple(name for _, name in peek.categories),
        class_ids=ids if len(ids) == len(peek.categories) else None,
    )
