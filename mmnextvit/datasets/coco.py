"""COCO's annotation files, checked before MMDetection reads them."""

import math
import os
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmengine import fileio

from ..utils.errors import UserError, naming_file
from ..utils.messages import first_few, shorten, show
from .checks import (
    MAX_CLASS_CHARS,
    VerifiedDataMixin,
    check_class_ids,
    describe_counts,
    find_box_fault,
    show_classes,
    warn,
    write_classes,
)
from .faults import read_all
from .files import read_bytes
from .images import Size, measure_images
from .json_reader import parse_json
from .json_stream import read_lists
from .packed import Chosen, PackedEntries, PackedSamples, keep
from .values import (
    Identifier,
    read_area,
    read_box,
    read_file_name,
    read_flag,
    read_id,
    read_mask,
    read_name,
    read_optional_side,
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
        id=read_id,
        file_name=read_file_name,
        width=read_optional_side,
        height=read_optional_side,
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
    can't be read is `NO_MASK`. An image's width or height that is ``null`` stays so.

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


def read_coco(path: str, needs_annotations: bool = True) -> dict:
    """What `parse_coco` makes of a file's content, in little memory.

    The file is read piece by piece, and its annotations are kept as bytes, with the
    ``iscrowd`` and ``area`` that `clean_coco` gives those of a list. A file that is odd
    in any way is read again, as a whole, to say what is wrong with it.

    Args:
        path: A local file.
        needs_annotations: As of `parse_coco`.

    Raises:
        UserError: It is no COCO detection data; the error lacks the file's name.
        OSError: It cannot be read.
    """
    try:
        content = read_lists(path, PIECEWISE)
        is_plain = all(isinstance(content[part], LISTS) for part in KEYS)
    # UserError is a ValueError; an id may be too large for 64 bits.
    except (ValueError, KeyError, OverflowError, RecursionError):
        is_plain = False
    return content if is_plain else parse_coco(read_bytes(path), needs_annotations)


def _list_entries(part: str, entries: Iterable[object]) -> list[dict]:
    return _check_ids(part, [_read_entry(part, *item) for item in enumerate(entries)])


def _pack_annotations(entries: Iterable[object]) -> PackedEntries:
    numbers = array('q')  # a set of numbers takes as much as all boxes
    texts: list[str] = []

    def read() -> Iterator[dict]:
        for index, entry in enumerate(entries):
            annotation = _read_entry('annotations', index, entry)
            number = annotation['id']
            (numbers if isinstance(number, int) else texts).append(number)
            yield _complete(annotation) if annotation.get('bbox') else annotation

    packed = PackedEntries(read())
    if len(np.unique(numbers)) + len(set(texts)) < len(packed):
        raise UserError('an id occurs twice')
    return packed


LISTS = list, PackedEntries
# What makes them from their entries, each of which is gone before the next.
PIECEWISE: dict[str, Callable[[Iterable[object]], Sequence[dict]]] = dict(
    annotations=_pack_annotations,
    **{part: partial(_list_entries, part) for part in ('images', 'categories')},
)


def _read_entries(part: str, entries: object) -> list[dict]:
    if not isinstance(entries, list):
        raise UserError(
            f'the file is not COCO detection data: {show(entries)} is no list', key=part
        )
    read = read_all(lambda item: _read_entry(part, *item), enumerate(entries))
    return _check_ids(part, read)


def _check_ids(part: str, read: list[dict]) -> list[dict]:
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
    read, key = dict(entry), ''
    try:
        for key, reader in READERS[part].items():
            if key in entry:
                read[key] = reader(entry[key])
    except UserError as error:
        raise UserError(error.problem + _of_id(entry), key=f'{place}.{key}') from None
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
    kept = array('q')
    for number, annotation in enumerate(content['annotations']):
        image = images.get(annotation['image_id'])
        if image is None:
            faults['of images that are not listed'].append(annotation['image_id'])
            continue
        if annotation.get('bbox') is None:
            faults['that are not four numbers'].append(image['file_name'])
            continue
        x, y, w, h = annotation['bbox']
        box = x, y, x + w, y + h
        sides = (image['width'] or math.inf, image['height'] or math.inf)
        fault = find_box_fault(box, *sides, min_size)
        if fault:
            faults[fault].append(image['file_name'])
            continue
        kept.append(number)
    cleaned = content['annotations']
    if isinstance(cleaned, list):
        cleaned = [_complete(cleaned[number]) for number in kept]
    elif len(kept) < len(cleaned):
        cleaned = Chosen(cleaned, kept)
    return {**content, 'annotations': cleaned}, faults


def _complete(annotation: dict) -> dict:
    """An annotation with what MMDetection and pycocotools count on."""
    if 'iscrowd' in annotation and annotation.get('area'):
        return annotation
    _, _, w, h = annotation['bbox']
    return annotation | dict(
        iscrowd=annotation.get('iscrowd', 0),
        area=annotation.get('area') or float(w) * h,
    )


def index_coco(content: dict) -> COCO:
    """MMDetection's index of an annotation file's content, which it shares."""
    coco = COCO()
    coco.dataset = content
    with redirect_stdout(None):  # it says that it makes an index
        coco.createIndex()
    coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
    return coco


def leave_out_images(content: dict, left_out: Container[Identifier]) -> dict:
    """The content without some images, by their ids, and without their annotations."""
    annotations = content['annotations']
    kept = (n for n, a in enumerate(annotations) if a['image_id'] not in left_out)
    chosen: Sequence[dict] = Chosen(annotations, kept)
    return {
        **content,
        'images': [i for i in content['images'] if i['id'] not in left_out],
        'annotations': list(chosen) if isinstance(annotations, list) else chosen,
    }


def group_annotations(content: dict) -> Iterator[tuple[dict, list[dict]]]:
    """Each image of a content with its annotations, in the order of the images.

    Packed annotations that stand in this order, too, as most programs write them, are
    given back to the system one after another.

    Args:
        content: Of an annotation file, whose annotations are all of its images.
    """
    images, annotations = content['images'], content['annotations']
    numbers = {image['id']: number for number, image in enumerate(images)}
    owners = np.fromiter((numbers[a['image_id']] for a in annotations), np.int32)
    order = np.argsort(owners, kind='stable').astype(np.int32)
    ends = np.bincount(owners, minlength=len(images)).cumsum().tolist()
    is_ordered = bool((owners[1:] >= owners[:-1]).all())
    for image, start, end in zip(images, [0, *ends], ends):
        yield image, [annotations[number] for number in order[start:end].tolist()]
        if is_ordered and isinstance(annotations, (PackedEntries, Chosen)):
            annotations.forget(end)


def fill_sizes(content: dict, sizes: Mapping[Identifier, Size]) -> dict:
    """The content in which images whose sizes are ``null`` have these.

    Args:
        content: Of an annotation file.
        sizes: Width and height of such images, by their ids.
    """
    return {
        **content,
        'images': [
            image | dict(zip(('width', 'height'), sizes[image['id']]))
            if image['id'] in sizes and None in (image['width'], image['height'])
            else image
            for image in content['images']
        ],
    }


def read_windows_path(name: str, folder: str) -> str:
    """An image's name, with ``/`` for the backslashes of a path written on Windows.

    Args:
        name: Its ``file_name``. It stays as it is where a file has it, or where none
            has the other name either.
        folder: Where the images lie.
    """
    plain = name.replace('\\', '/')
    if plain == name or os.path.exists(os.path.join(folder, name)):
        return name
    return plain if os.path.exists(os.path.join(folder, plain)) else name


# ----------------------------------------------------------------------- categories


def count_boxes(content: dict) -> Counter[Identifier]:
    """How many annotations each category has, by its id."""
    return Counter(annotation['category_id'] for annotation in content['annotations'])


def leave_out_empty_twins(content: dict) -> dict:
    """The content with one category of each name, where only one of them owns a box.

    Roboflow's exports begin with a parent of all categories, which owns none and may
    bear the name of one of them. Where no category of a name owns a box, it is the last
    one that stays.
    """
    counts = count_boxes(content)
    twins = defaultdict(list)
    for category in content['categories']:
        twins[category['name']].append(category['id'])
    kept = {
        number
        for numbers in twins.values()
        for number in ([n for n in numbers if counts[n]] or numbers[-1:])
    }
    categories = [c for c in content['categories'] if c['id'] in kept]
    return {**content, 'categories': categories}


def match_categories(
    content: dict,
    classes: Sequence[str],
    class_ids: Sequence[Identifier] | None = None,
) -> list[Identifier]:
    """The category of each class, in the order of the classes.

    Args:
        content: Of an annotation file.
        classes: Names in the config.
        class_ids: The categories that the config gives them, as `check_class_ids` gives
            these. A class may then have another name than its category.

    Raises:
        UserError: The classes are not the content's, one of them is the name of several
            categories, or they stand in another order, so that a label would mean
            another category; the error lacks the file's name.
    """
    if class_ids is not None:
        _check_given_ids(content, classes, class_ids)
        return list(class_ids)
    _check_names(content, classes)
    wanted = set(classes)
    return [c['id'] for c in content['categories'] if c['name'] in wanted]


def _check_given_ids(
    content: dict, classes: Sequence[str], class_ids: Sequence[Identifier]
) -> None:
    names = {category['id']: category['name'] for category in content['categories']}
    unknown = [number for number in class_ids if number not in names]
    if unknown:
        known = first_few((f'{show(n)} ({name})' for n, name in names.items()), 20)
        raise UserError(
            f'class_ids of the dataset has {first_few(map(show, unknown))}, which is '
            f'the id of no category of the file. They are {known}'
        )
    owners = {name: number for number, name in names.items()}
    for name, number in zip(classes, class_ids):
        if name in owners and names[number] != name:
            raise UserError(
                f'class_ids of the dataset gives the class {show(name)} the id '
                f'{show(number)}, which is {show(names[number])} in the file, where '
                f'{show(name)} is {show(owners[name])}: write the ids in the order of '
                'the classes'
            )


def _check_names(content: dict, classes: Sequence[str]) -> None:
    """Raises where a config's classes disagree with a file's categories.

    MMDetection labels the boxes by the categories' order in the file, whatever order
    the config has, and leaves out names that the file lacks.
    """
    names = [category['name'] for category in content['categories']]
    both = (
        f'its categories are {show_classes(names)}, the config has '
        f'{show_classes(classes)}'
    )
    known, wanted = Counter(names), set(classes)
    missing = [name for name in classes if not known[name]]
    if missing:
        raise UserError(
            f'the file has no category {first_few(map(repr, missing))}: {both}. Write '
            + write_classes(list_usable_names(content, wanted))
        )
    twins = [name for name in classes if known[name] > 1]
    if twins:
        raise UserError(
            f'the file has two categories of one name: {both}. '
            + _describe_twins(content, twins, classes)
        )
    ordered = [name for name in names if name in wanted]
    if ordered != list(classes):
        usable = [n for n in list_usable_names(content, wanted) if n in wanted]
        raise UserError(
            'the classes stand in another order than in the file, which would swap '
            f'their names: {both}. Write {write_classes(usable or ordered)}'
        )


def list_usable_names(content: dict, wanted: Container[str] = ()) -> list[str]:
    """The names that a config can have as classes, in the file's order.

    They are those of the categories that own a box, or that the config names; without
    any of these, all. A category that owns no box and is the parent of others, as
    Roboflow writes it, is none of them.

    Args:
        content: Of an annotation file.
        wanted: The classes of the config.
    """
    categories, counts = content['categories'], count_boxes(content)
    children = defaultdict(set)
    for category in categories:
        children[str(category.get('supercategory'))].add(category['id'])
    parents = {c['id'] for c in categories if children[c['name']] - {c['id']}}
    usable = [
        c['name']
        for c in categories
        if counts[c['id']] or (c['name'] in wanted and c['id'] not in parents)
    ]
    others = [c['name'] for c in categories if c['id'] not in parents]
    return list(dict.fromkeys(usable or others or [c['name'] for c in categories]))


def _describe_twins(content: dict, twins: Sequence[str], classes: Sequence[str]) -> str:
    """What categories of one name own, and which of them to take."""
    counts = count_boxes(content)
    listed = (
        f'{show(category["name"])} of id {show(category["id"])} '
        f'({counts[category["id"]]} boxes)'
        for category in content['categories']
        if category['name'] in twins
    )
    left = leave_out_empty_twins(content)['categories']
    ids = {category['name']: category['id'] for category in left}
    wanted = tuple(ids[name] for name in classes)
    plain = sum(category['name'] in twins for category in left) == len(twins)
    write = f'class_ids={shorten(wanted, MAX_CLASS_CHARS)}' if plain else 'class_ids'
    return (
        f'They are {first_few(listed)}. Write {write} into the dataset: for each class '
        'the id of its category'
    )


def count_ignored(
    content: dict, classes: Iterable[str], category_ids: Iterable[Identifier]
) -> Counter[str]:
    """How many boxes each category has that is none of the classes.

    Args:
        content: Of an annotation file.
        classes: Names in the config.
        category_ids: Their categories.
    """
    names = {category['id']: category['name'] for category in content['categories']}
    classes, known = set(classes), set(category_ids)
    ignored: Counter[str] = Counter()
    for number, count in count_boxes(content).items():
        name = names.get(number, f'category_id {number}')
        if number not in known:
            ignored[f'{name} of id {number}' if name in classes else name] += count
    return ignored


class VerifiedCocoMixin(VerifiedDataMixin):
    """What `VerifiedDataMixin` needs to know of MMDetection's ``CocoDataset``.

    Categories that hold boxes but are no class of the config give a warning. Boxes
    under one pixel are dropped as ``CocoDataset`` does, but reported. Images lie below
    ``data_prefix['img']``, which is ``data_root`` unless set.

    Args:
        class_ids: The ids of the classes' categories in the file, in the order of the
            classes. Without them categories are found by their names, which must
            stand in the file's order.
    """

    def __init__(
        self, *args: Any, class_ids: Sequence[Identifier] | None = None, **kwargs: Any
    ) -> None:
        self.class_ids = class_ids
        self._measured: dict[Identifier, Size] = {}
        self._annotated: set[Identifier] = set()  # images with a box of a class
        kwargs['data_prefix'] = dict(img='') | (kwargs.get('data_prefix') or {})
        super().__init__(*args, **kwargs)

    def _check_classes(self) -> None:
        super()._check_classes()
        if self.class_ids is None:
            return
        self.class_ids = check_class_ids(self.class_ids, self._metainfo['classes'])
        if self.test_mode:
            self._metainfo['class_ids'] = self.class_ids  # for an evaluator's ann_file

    def _read_data_list(self) -> Sequence[dict]:
        """What ``CocoDataset`` makes of the checked file, without its index of dicts.

        The categories are those of the classes, in their order.
        """
        with fileio.get_local_path(
            self.ann_file, backend_args=self.backend_args
        ) as path:
            content = self._read_content(path)
        known = set(self.cat_ids)

        def list_infos() -> Iterator[dict]:
            for image, annotations in group_annotations(content):
                if any(a['category_id'] in known for a in annotations):
                    self._annotated.add(image['id'])
                yield self.parse_data_info(
                    dict(
                        raw_ann_info=annotations,
                        raw_img_info=dict(image, img_id=image['id']),
                    )
                )

        return PackedSamples(list_infos())

    def _read_content(self, path: str) -> dict:
        """The checked file's content, with the images and annotations that are used."""
        classes = self._metainfo['classes']
        with naming_file(self.ann_file):
            content = read_coco(path, not self.test_mode)
            self.cat_ids = match_categories(content, classes, self.class_ids)
        self.cat2label = {number: i for i, number in enumerate(self.cat_ids)}
        content = self._measure(self._choose_images(content))
        content, faults = clean_coco(content, min_size=1)
        self.box_faults.update(faults)
        ignored = count_ignored(content, classes, self.cat_ids)
        if ignored:
            warn(
                f'{self.ann_file}: boxes of categories that are no classes of the '
                f'config are ignored: {describe_counts(ignored)}'
            )
        return content

    def filter_data(self) -> Sequence[dict]:
        """What ``CocoDataset`` filters, in a list of the type that the samples have."""
        if self.test_mode or self.filter_cfg is None:
            return self._check_filtered(self.data_list)
        needs_boxes = self.filter_cfg.get('filter_empty_gt', False)
        min_size = self.filter_cfg.get('min_size', 0)
        kept = keep(
            self.data_list,
            lambda info: (
                min(info['width'], info['height']) >= min_size
                and (info['img_id'] in self._annotated or not needs_boxes)
            ),
        )
        return self._check_filtered(kept)

    def parse_data_info(self, raw_data_info: dict) -> dict:
        info = super().parse_data_info(raw_data_info)
        if info['img_id'] in self._measured:
            info['size_measured'] = True
        return info

    def _measure(self, content: dict) -> dict:
        """The content with the sizes of images for which it says ``null``.

        Those of an image that cannot be read are 0, as what reads it will say.
        """
        folder = self.data_prefix['img']
        paths = {
            image['id']: os.path.join(folder, image['file_name'])
            for image in content['images']
            if None in (image['width'], image['height'])
        }
        found, _ = measure_images(
            list(paths.values()), f'Measuring {self.ann_file}', self.backend_args
        )
        self._measured = {n: found.get(path, (0, 0)) for n, path in paths.items()}
        return fill_sizes(content, self._measured)

    def _choose_images(self, content: dict) -> dict:
        """The content with the images that are used, whose names are those of files."""
        folder = self.data_prefix['img']
        images = [
            dict(image, file_name=read_windows_path(image['file_name'], folder))
            if '\\' in image['file_name']
            else image
            for image in content['images']
        ]
        content = {**content, 'images': images}
        if self.image_list is None:
            return content
        paths = {i['id']: os.path.join(folder, i['file_name']) for i in images}
        listed = set(self._keep_listed(paths.values()))
        return leave_out_images(
            content, {i for i, p in paths.items() if p not in listed}
        )
