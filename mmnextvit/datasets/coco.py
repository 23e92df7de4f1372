"""COCO's annotation files, checked before MMDetection reads them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mmdet.datasets.api_wrappers import COCO

from ..utils.errors import UserError, naming_file
from ..utils.messages import first_few, shorten, show
from .checks import (
    VerifiedDataMixin,
    describe_counts,
    find_box_fault,
    show_classes,
    warn,
    write_classes,
)
from .json_reader import parse_json
from .values import (
    read_area,
    read_box,
    read_file_name,
    read_flag,
    read_id,
    read_mask,
    read_name,
    read_side,
)

# What the entries of each list must have.
KEYS = {
    'images': ('id', 'file_name', 'width', 'height'),
    'categories': ('id', 'name'),
    'annotations': ('id', 'image_id', 'category_id'),
}
# What reads the values of these lists' entries; what is not named here stays as it is.
READERS: dict[str, dict[str, Callable[[object], object]]] = {
    'images': dict(
        id=read_id, file_name=read_file_name, width=read_side, height=read_side
    ),
    'categories': dict(id=read_id, name=read_name),
    'annotations': dict(
        id=read_id,
        image_id=read_id,
        category_id=read_id,
        bbox=read_box,
        area=read_area,
        iscrowd=read_flag,
        ignore=read_flag,
        segmentation=lambda value: read_mask(value) or NO_MASK,
    ),
}
# MMDetection leaves out an object with this where it reads masks, and needs some value.
NO_MASK: list[list] = [[]]


def parse_coco(text: bytes, needs_annotations: bool = True) -> dict:
    """An annotation file's content, with every list, key and type that we read.

    Numbers and flags may be texts, ids whole floats or their texts, names numbers. What
    may be wrong with an annotation alone is ``None``: its box, its area; a mask that
    can't be read is `NO_MASK`.

    Args:
        text: Content of the file.
        needs_annotations: Whether the list of annotations may not be absent; images to
            predict have none.

    Raises:
        UserError: It is no COCO detection data; the error lacks the file's name.
    """
    content = parse_json(text, 'JSON of COCO')
    wanted = 'the file is not COCO detection data: lists named images, annotations and'
    if not isinstance(content, dict):
        raise UserError(f'{wanted} categories are wanted, it has {type(content)}')
    if content.get('annotations') is None and not needs_annotations:
        content['annotations'] = []
    if not KEYS.keys() <= content.keys():
        raise UserError(f'{wanted} categories are wanted, it has {show(list(content))}')
    return {**content, **{part: _read_entries(part, content[part]) for part in KEYS}}


def _read_entries(part: str, entries: object) -> list[dict]:
    if not isinstance(entries, list):
        raise UserError(
            f'the file is not COCO detection data: {show(entries)} is no list', key=part
        )
    read = [_read_entry(part, index, entry) for index, entry in enumerate(entries)]
    repeated = Counter(entry['id'] for entry in read).most_common(1)
    if repeated and repeated[0][1] > 1:
        number, times = repeated[0]
        raise UserError(f'id {shorten(number)} occurs {times} times in {part}')
    return read


def _read_entry(part: str, index: int, entry: object) -> dict:
    """An entry of a list with the values that the readers make of its own."""
    place = f'{part}[{index}]'
    if not isinstance(entry, dict):
        raise UserError(f'the entry has no keys, it is {show(entry)}', key=place)
    lacking = [key for key in KEYS[part] if key not in entry]
    if lacking:
        problem = f'the entry lacks {", ".join(lacking)}'
        raise UserError(problem + _of_id(entry), key=place)
    read = dict(entry)
    for key, reader in READERS[part].items():
        if key in entry:
            try:
                read[key] = reader(entry[key])
            except UserError as error:
                raise UserError(
                    error.problem + _of_id(entry), key=f'{place}.{key}'
                ) from None
    return read


def _of_id(entry: dict) -> str:
    return f' (id {show(entry["id"])})' if 'id' in entry else ''


def clean_coco(content: dict, min_size: float = 0) -> tuple[dict, dict[str, list[str]]]:
    """Leaves out the annotations that have no usable box.

    The others get the ``iscrowd`` and the ``area`` that MMDetection and pycocotools
    count on where they lack them (``area`` where it isn't positive, as w times h).

    Args:
        content: What `parse_coco` made of an annotation file.
        min_size: The smallest width and height of a box in pixels.

    Returns:
        The content with other annotations, and the file names of the images by fault,
        one for each box that is left out.
    """
    images = {image['id']: image for image in content['images']}
    faults: dict[str, list[str]] = defaultdict(list)
    kept = []
    for annotation in content['annotations']:
        image = images.get(annotation['image_id'])
        if image is None:
            faults['of images that are not listed'].append(annotation['image_id'])
            continue
        if annotation.get('bbox') is None:
            faults['that are not four numbers'].append(image['file_name'])
            continue
        x, y, w, h = annotation['bbox']
        box = x, y, x + w, y + h
        fault = find_box_fault(box, image['width'], image['height'], min_size)
        if fault:
            faults[fault].append(image['file_name'])
            continue
        known = dict(
            iscrowd=annotation.get('iscrowd', 0),
            area=annotation.get('area') or float(w) * h,
        )
        kept.append(annotation | known)
    return {**content, 'annotations': kept}, faults


def index_coco(content: dict) -> COCO:
    """MMDetection's index of an annotation file's content, which it shares."""
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
    return coco


def check_coco_classes(classes: Sequence[str], categories: Sequence[str]) -> None:
    """Raises where a config's classes disagree with a file's categories.

    MMDetection labels the boxes by the categories' order in the file, whatever order
    the config has, and leaves out names that the file lacks.

    Args:
        classes: Names in the config.
        categories: Names in the annotation file, in the file's order.

    Raises:
        UserError: A class is missing, named twice, or stands in another order; the
            error lacks the file's name.
    """
    both = (
        f'its categories are {show_classes(categories)}, the config has '
        f'{show_classes(classes)}'
    )
    known, wanted = set(categories), set(classes)
    missing = [name for name in classes if name not in known]
    if missing:
        raise UserError(
            f'the file has no category {first_few(map(repr, missing))}: {both}. Write '
            + write_classes(categories)
        )
    ordered = [name for name in categories if name in wanted]
    if len(ordered) > len(classes):
        raise UserError(f'the file has two categories of one name: {both}')
    if ordered != list(classes):
        raise UserError(
            'the classes stand in another order than in the file, which would swap '
            f'their names: {both}. Write {write_classes(ordered)}'
        )


def count_ignored(content: dict, classes: Iterable[str]) -> Counter[str]:
    """How many boxes each category has that is none of the classes."""
    names = {category['id']: category['name'] for category in content['categories']}
    classes = set(classes)
    return Counter(
        names.get(number, f'category_id {number}')
        for number in (a['category_id'] for a in content['annotations'])
        if names.get(number) not in classes
    )


class VerifiedCocoMixin(VerifiedDataMixin):
    """What `VerifiedDataMixin` needs to know of MMDetection's ``CocoDataset``.

    Categories that hold boxes but are no class of the config give a warning. Boxes
    under one pixel are dropped as ``CocoDataset`` does, but reported.
    """

    def COCOAPI(self, path: str) -> COCO:
        """The checked file, where ``CocoDataset`` reads it: it is parsed once."""
        classes = self._metainfo['classes']
        with naming_file(self.ann_file):
            content = parse_coco(Path(path).read_bytes(), not self.test_mode)
            categories = {c['id']: c['name'] for c in content['categories']}
            check_coco_classes(classes, list(categories.values()))
        content, faults = clean_coco(content, min_size=1)
        self.box_faults.update(faults)
        ignored = count_ignored(content, classes)
        if ignored:
            warn(
                f'{self.ann_file}: boxes of categories that are no classes of the '
                f'config are ignored: {describe_counts(ignored)}'
            )
        return index_coco(content)
