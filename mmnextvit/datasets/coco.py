"""COCO's annotation files, checked before MMDetection reads them."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmdet.datasets.api_wrappers import COCO

from ..utils.errors import UserError
from ..utils.messages import first_few
from .checks import VerifiedDataMixin, find_box_fault, warn, write_classes

# What the entries of each list must have.
KEYS = {
    'images': ('id', 'file_name', 'width', 'height'),
    'categories': ('id', 'name'),
    'annotations': ('id', 'image_id', 'category_id'),
}


def parse_coco(text: bytes, needs_annotations: bool = True) -> dict:
    """An annotation file's content, with every list and key that we read.

    Args:
        text: Content of the file.
        needs_annotations: Whether the list of annotations may not be absent; images to
            predict have none.

    Raises:
        UserError: It is no COCO detection data; the error lacks the file's name.
    """
    if not text.strip():
        raise UserError('the file is empty')
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f'the file is not JSON: {error}') from error
    wanted = set(KEYS) if needs_annotations else set(KEYS) - {'annotations'}
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in wanted
    ):
        present = list(content) if isinstance(content, dict) else type(content)
        raise UserError(
            'the file is not COCO detection data: lists named images, annotations and '
            f'categories are wanted, it has {present}'
        )
    content.setdefault('annotations', [])
    for part, keys in KEYS.items():
        _check_entries(part, content[part], keys)
    return content


def _check_entries(part: str, entries: list, keys: Sequence[str]) -> None:
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError('the entry has no keys', key=f'{part}[{index}]')
        lacking = [key for key in keys if key not in entry]
        if lacking:
            raise UserError(
                f'the entry lacks {", ".join(lacking)}', key=f'{part}[{index}]'
            )
    repeated = Counter(entry['id'] for entry in entries).most_common(1)
    if repeated and repeated[0][1] > 1:
        raise UserError(f'id {repeated[0][0]} occurs {repeated[0][1]} times in {part}')


def clean_coco(content: dict, min_size: float = 0) -> tuple[dict, dict[str, list[str]]]:
    """Leaves out the annotations that have no usable box.

    The others get the ``iscrowd`` and the ``area`` that MMDetection and pycocotools
    count on where they lack them (``area`` where it isn't positive, as w times h).

    Args:
        content: Content of an annotation file.
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
        try:
            x, y, w, h = map(float, annotation.get('bbox'))
            box = x, y, x + w, y + h
            fault = find_box_fault(box, image['width'], image['height'], min_size)
        except (TypeError, ValueError):
            fault = 'that are not four numbers'
        if fault:
            faults[fault].append(image['file_name'])
            continue
        annotation = dict(annotation)
        annotation.setdefault('iscrowd', 0)
        if not (annotation.get('area') or 0) > 0:
            annotation['area'] = w * h
        kept.append(annotation)
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
    both = f'its categories are {tuple(categories)}, the config has {tuple(classes)}'
    missing = [name for name in classes if name not in categories]
    if missing:
        raise UserError(
            f'the file has no category {first_few(map(repr, missing))}: {both}. Write '
            + write_classes(categories)
        )
    ordered = [name for name in categories if name in classes]
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
        try:
            content = parse_coco(Path(path).read_bytes(), not self.test_mode)
            categories = {c['id']: c['name'] for c in content['categories']}
            check_coco_classes(classes, list(categories.values()))
        except UserError as error:
            error.file = self.ann_file
            raise
        content, faults = clean_coco(content, min_size=1)
        self.box_faults.update(faults)
        ignored = count_ignored(content, classes)
        if ignored:
            counts = ', '.join(f'{name} ({n})' for name, n in ignored.items())
            warn(
                f'{self.ann_file}: boxes of categories that are no classes of the '
                f'config are ignored: {counts}'
            )
        return index_coco(content)
