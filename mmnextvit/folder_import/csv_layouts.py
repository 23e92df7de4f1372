"""Folders with tables of boxes, as for TensorFlow and RetinaNet."""

import os

from .locate import find_prefix, find_split
from .parts import Part, join_parts
from .peeks import peek_csv
from .reading import Reading
from .tree import Tree

ROBOFLOW = '_annotations.csv'


def find_csv(tree: Tree) -> list[Reading]:
    """Folders with CSV files of boxes, one a split or one for all."""
    parts: dict[str, list[Part]] = {}
    for path in tree.by_suffix.get('.csv', ()):
        names = peek_csv(path)
        if names is None:
            continue
        folder = os.path.dirname(path)
        split = find_split(tree.root, path)
        dataset = dict(
            type='VerifiedCSVDataset',
            data_root=tree.root,
            ann_file=path,
            data_prefix=dict(img=find_prefix(tree, names, folder, split)),
        )
        is_roboflow = os.path.basename(path).lower() == ROBOFLOW
        layout = 'Roboflow CSV' if is_roboflow else 'TensorFlow CSV'
        parts.setdefault(layout, []).append(Part(path, split, dataset))
    return [
        reading
        for layout, of_layout in parts.items()
        for reading in join_parts(tree, layout, of_layout)
    ]
