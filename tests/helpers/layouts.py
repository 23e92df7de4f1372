"""Small folders of every layout, all of the same images and boxes, and what is in them.

Each builder writes one folder as the program that it is named after does.
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import cv2
import numpy as np

CLASSES = ('cat', 'dog')
SIDES = ('xmin', 'ymin', 'xmax', 'ymax')
PLAIN = tuple(f'{number:06}.jpg' for number in range(8))
ODD = (
    'two words.jpg', 'brackets [1].JPG', 'round (2).jpeg', 'кошка.PNG', '猫と犬.jpg',
    'dots.and.dots.JPEG', "it's, 100% & co #1.png", 'é.bmp',
)  # fmt: skip
# The names that labelImg's classes.txt begins with, whatever is labelled.
LABELIMG = (
    'dog', 'person', 'cat', 'tv', 'car', 'meatballs', 'marinara sauce', 'tomato soup',
    'chicken noodle soup', 'french onion soup', 'chicken breast', 'ribs',
    'pulled pork', 'hamburger', 'cavity',
)  # fmt: skip


class Drawn(NamedTuple):
    """An image: its width and height, and the class and the sides of each box."""

    size: tuple[int, int]
    boxes: tuple[tuple[str, tuple[int, int, int, int]], ...]


def draw_truth() -> tuple[Drawn, ...]:
    """Eight images; the last of each split has no box of the second class."""
    rng = np.random.default_rng(0)
    drawn = []
    for number in range(8):
        width, height = (int(side) for side in rng.integers(48, 81, 2))
        boxes = []
        for k in range(1 + number % 3):
            x1, y1 = (int(side) for side in rng.integers(1, 20, 2))
            w, h = (int(side) for side in rng.integers(8, 25, 2))
            name = CLASSES[(number + k) % 2 if number not in (3, 5, 7) else 0]
            boxes.append((name, (x1 + k, y1 + k, x1 + k + w, y1 + k + h)))
        drawn.append(Drawn((width, height), tuple(boxes)))
    return tuple(drawn)


TRUTH = draw_truth()
SPLITS = dict(train=range(4), val=range(4, 6), test=range(6, 8))
ROBOFLOW = dict(train='train', val='valid', test='test')  # its names of folders


@dataclass(frozen=True)
class Expected:
    """What a folder is to be read as.

    Attributes:
        layout: As `Reading` names it.
        splits: The numbers of the images of each split.
        names: Of the files of all images.
        classes: All that the folder names, or none.
        class_ids: Their numbers, where they have any.
    """

    layout: str
    splits: Mapping[str, Sequence[int]]
    names: Sequence[str]
    classes: tuple[str, ...] = ()
    class_ids: tuple[int, ...] | None = None

    def count_images(self, split: str) -> int:
        return len(self.splits[split])

    def count_boxes(self, split: str) -> Counter[str]:
        """How many boxes a split has of each class that owns any."""
        return Counter(name for n in self.splits[split] for name, _ in TRUTH[n].boxes)

    def list_boxes(self, split: str) -> dict[str, list[tuple[str, tuple]]]:
        """The boxes of each image of a split, by its file's name."""
        return {self.names[n]: list(TRUTH[n].boxes) for n in self.splits[split]}


Names = Sequence[str]


# -------------------------------------------------------------------------- pieces


def write_image(folder: Path, names: Names, number: int) -> Path:
    """Draws an image: noise of its own, a plain patch for each box."""
    width, height = TRUTH[number].size
    rng = np.random.default_rng(number + 1)
    image = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
    for name, (x1, y1, x2, y2) in TRUTH[number].boxes:
        image[y1:y2, x1:x2] = (0, 0, 255) if name == 'cat' else (255, 0, 0)
    path = folder / names[number]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix.lower(), image)[1].tobytes())
    return path


def write_images(folder: Path, names: Names, numbers: Iterable[int]) -> list[Path]:
    return [write_image(folder, names, number) for number in numbers]


def write_text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')


def write_labels(
    folder: Path, names: Names, numbers: Iterable[int], classes: Sequence[str] = CLASSES
) -> None:
    """YOLO's label files; a class that is named twice is meant the last time."""
    ids = {name: n for n, name in enumerate(classes)}
    for number in numbers:
        (width, height), boxes = TRUTH[number]
        lines = []
        for name, (x1, y1, x2, y2) in boxes:
            values = (
                (x1 + x2) / 2 / width, (y1 + y2) / 2 / height,
                (x2 - x1) / width, (y2 - y1) / height,
            )  # fmt: skip
            lines.append(f'{ids[name]} ' + ' '.join(map(repr, values)))
        write_text((folder / names[number]).with_suffix('.txt'), *lines)


def write_coco(
    path: Path,
    names: Names,
    numbers: Iterable[int],
    categories: Sequence[tuple[int, str]] = ((1, 'cat'), (2, 'dog')),
    **more: object,
) -> None:
    """A COCO file; a category that is named twice is meant the last time."""
    ids = {name: number for number, name in categories}
    images, annotations = [], []
    for number in numbers:
        (width, height), boxes = TRUTH[number]
        images.append(
            dict(id=number, file_name=names[number], width=width, height=height)
        )
        for name, (x1, y1, x2, y2) in boxes:
            annotations.append(
                dict(
                    id=len(annotations),
                    image_id=number,
                    category_id=ids[name],
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                    segmentation=[],
                    iscrowd=0,
                )
            )
    content = dict(
        **more,
        categories=[dict(id=n, name=name, supercategory='') for n, name in categories],
        images=images,
        annotations=annotations,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding='utf-8')


def write_voc(
    folder: Path, names: Names, numbers: Iterable[int], images: str = 'images'
) -> None:
    """Pascal VOC's XML files, which count pixels from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (width, height), boxes = TRUTH[number]
        name = escape(names[number])
        objects = ''.join(
            f'  <object>\n    <name>{cls}</name>\n    <pose>Unspecified</pose>\n'
            '    <truncated>0</truncated>\n    <difficult>0</difficult>\n    <bndbox>'
            + ''.join(f'<{tag}>{v + 1}</{tag}>' for tag, v in zip(SIDES, box))
            + '</bndbox>\n  </object>\n'
            for cls, box in boxes
        )
        (folder / names[number]).with_suffix('.xml').write_text(
            f'<annotation>\n  <folder>{images}</folder>\n'
            f'  <filename>{name}</filename>\n'
            f'  <path>C:\\work\\{images}\\{name}</path>\n  <size><width>{width}</width>'
            f'<height>{height}</height><depth>3</depth></size>\n{objects}</annotation>\n',
            encoding='utf-8',
        )


TENSORFLOW = ('filename', 'width', 'height', 'class', *SIDES)
RETINANET = ('file', *SIDES, 'class')


def write_csv(
    path: Path,
    names: Names,
    numbers: Iterable[int],
    columns: Sequence[str],
    header: bool = True,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, columns, extrasaction='ignore')
        if header:
            writer.writeheader()
        for number in numbers:
            (width, height), boxes = TRUTH[number]
            for name, box in boxes:
                row = dict(zip(SIDES, box), width=width, height=height)
                row['filename'] = row['file'] = names[number]
                writer.writerow({**row, 'class': name})


def expect(
    layout: str,
    names: Names,
    splits: Mapping[str, Sequence[int]] | None = None,
    classes: Sequence[str] = (),
    class_ids: Iterable[int] | None = None,
) -> Expected:
    """What is expected; without splits all images, without numbers 0, 1, ..."""
    numbered = range(len(classes)) if class_ids is None else class_ids
    return Expected(
        layout,
        dict(train=range(8)) if splits is None else splits,
        names,
        tuple(classes),
        tuple(numbered) if classes else None,
    )


# ------------------------------------------------------------------------ builders


def build_roboflow_yolo(root: Path, names: Names = PLAIN) -> Expected:
    for split, folder in ROBOFLOW.items():
        write_images(root / folder / 'images', names, SPLITS[split])
        write_labels(root / folder / 'labels', names, SPLITS[split])
    write_text(
        root / 'data.yaml',
        'train: ../train/images', 'val: ../valid/images', 'test: ../test/images', '',
        'nc: 2', "names: ['cat', 'dog']", '', 'roboflow:', '  workspace: w',
        '  version: 1',
    )  # fmt: skip
    write_text(root / 'README.roboflow.txt', '', 'pets - v1', '1 2 3')
    return expect('Roboflow YOLO', names, SPLITS, CLASSES)


def build_darknet(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root / 'data' / 'obj', names, range(8))
    write_labels(root / 'data' / 'obj', names, range(8))
    for split in ('train', 'test'):
        lines = [f'data/obj/{names[n]}' for n in SPLITS[split]]
        write_text(root / 'data' / f'{split}.txt', *lines)
    write_text(root / 'data' / 'obj.names', *CLASSES)
    write_text(
        root / 'data' / 'obj.data',
        'classes = 2', 'train  = data/train.txt', 'valid  = data/test.txt',
        'names = data/obj.names', 'backup = backup/',
    )  # fmt: skip
    splits = dict(train=SPLITS['train'], val=SPLITS['test'])
    return expect('Darknet', names, splits, CLASSES)


def build_cvat_yolo(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root / 'obj_train_data', names, range(8))
    write_labels(root / 'obj_train_data', names, range(8))
    write_text(root / 'train.txt', *(f'data/obj_train_data/{name}' for name in names))
    write_text(root / 'obj.names', *CLASSES)
    write_text(
        root / 'obj.data',
        'classes = 2', 'train = data/train.txt', 'names = data/obj.names',
        'backup = backup/',
    )  # fmt: skip
    return expect('Darknet', names, None, CLASSES)


def build_roboflow_darknet(root: Path, names: Names = PLAIN) -> Expected:
    for split, folder in ROBOFLOW.items():
        write_images(root / folder, names, SPLITS[split])
        write_labels(root / folder, names, SPLITS[split])
        write_text(root / folder / '_darknet.labels', *CLASSES)
    write_text(root / 'README.dataset.txt', '# pets', 'https://example.com', '')
    return expect('Darknet', names, SPLITS, CLASSES)


def build_tensorflow_csv(root: Path, names: Names = PLAIN) -> Expected:
    splits = dict(train=SPLITS['train'], test=SPLITS['test'])
    for split, numbers in splits.items():
        write_images(root / 'images' / split, names, numbers)
        write_csv(root / 'data' / f'{split}_labels.csv', names, numbers, TENSORFLOW)
    write_text(root / 'training' / 'labelmap.pbtxt', 'item {', '  id: 1', '}')
    return expect('TensorFlow CSV', names, splits)


def build_roboflow_csv(root: Path, names: Names = PLAIN) -> Expected:
    for split, folder in ROBOFLOW.items():
        write_images(root / folder, names, SPLITS[split])
        write_csv(root / folder / '_annotations.csv', names, SPLITS[split], TENSORFLOW)
    return expect('Roboflow CSV', names, SPLITS)


def build_roboflow_retinanet(root: Path, names: Names = PLAIN) -> Expected:
    for split, folder in ROBOFLOW.items():
        write_images(root / folder, names, SPLITS[split])
        file = root / folder / '_annotations.csv'
        write_csv(file, names, SPLITS[split], RETINANET, header=False)
        write_text(root / folder / '_classes.csv', 'cat,0', 'dog,1')
    return expect('Roboflow CSV', names, SPLITS)


def build_csv_with_header(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root, names, range(8))
    write_csv(root / '_annotations.csv', names, range(8), RETINANET)
    return expect('Roboflow CSV', names)


def build_roboflow_coco(root: Path, names: Names = PLAIN) -> Expected:
    categories = ((0, 'cat'), (1, 'cat'), (2, 'dog'))  # the parent comes first
    for split, folder in ROBOFLOW.items():
        write_images(root / folder, names, SPLITS[split])
        file = root / folder / '_annotations.coco.json'
        write_coco(file, names, SPLITS[split], categories, info=dict(year='2024'))
    classes = [name for _, name in categories]
    return expect('Roboflow COCO', names, SPLITS, classes, range(3))


def build_coco(root: Path, names: Names = PLAIN) -> Expected:
    splits = dict(train=SPLITS['train'], val=SPLITS['val'])
    for split, numbers in splits.items():
        write_images(root / f'{split}2017', names, numbers)
        file = root / 'annotations' / f'instances_{split}2017.json'
        write_coco(file, names, numbers, info=dict(year=2017), licenses=[])
    return expect('COCO', names, splits, CLASSES, (1, 2))


def build_coco_one_file(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root / 'images', names, range(8))
    write_coco(root / 'my pets.json', names, range(8))
    return expect('COCO', names, None, CLASSES, (1, 2))


def build_ultralytics_yolo(root: Path, names: Names = PLAIN) -> Expected:
    splits = dict(train=SPLITS['train'], val=SPLITS['val'])
    for split, numbers in splits.items():
        write_images(root / 'images' / split, names, numbers)
        write_labels(root / 'labels' / split, names, numbers)
    write_text(
        root / 'data.yaml',
        'path: ../datasets/pets', 'train: images/train', 'val: images/val', 'test:',
        'names:', '  0: cat', '  1: dog',
    )  # fmt: skip
    return expect('Ultralytics YOLO', names, splits, CLASSES)


def build_labelimg(root: Path, names: Names = PLAIN) -> Expected:
    classes = (*LABELIMG, *CLASSES)
    write_images(root / 'images', names, range(8))
    write_labels(root / 'labels', names, range(8), classes)
    write_text(root / 'labels' / 'classes.txt', *classes)
    return expect('YOLO with classes.txt', names, None, classes)


def build_labelimg_beside(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root, names, range(8))
    write_labels(root, names, range(8))
    write_text(root / 'classes.txt', *CLASSES)
    return expect('YOLO with classes.txt', names, None, CLASSES)


def build_label_studio_yolo(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root / 'images', names, range(8))
    write_labels(root / 'labels', names, range(8))
    write_text(root / 'classes.txt', *CLASSES)
    notes = dict(
        categories=[dict(id=n, name=name) for n, name in enumerate(CLASSES)],
        info=dict(year=2024, version='1.0', contributor='Label Studio'),
    )
    write_text(root / 'notes.json', json.dumps(notes, indent=2))
    return expect('YOLO with classes.txt', names, None, CLASSES)


def build_split_labels(root: Path, names: Names = PLAIN) -> Expected:
    splits = dict(train=SPLITS['train'], val=SPLITS['val'])
    for split, numbers in splits.items():
        write_images(root / 'images' / split, names, numbers)
        write_labels(root / 'labels' / split, names, numbers)
    write_text(root / 'labels' / 'classes.txt', *CLASSES)
    return expect('YOLO with classes.txt', names, splits, CLASSES)


def build_voc(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root / 'JPEGImages', names, range(8))
    write_voc(root / 'Annotations', names, range(8), 'VOC2012')
    stems = [os.path.splitext(name)[0] for name in names]
    for split, numbers in SPLITS.items():
        file = root / 'ImageSets' / 'Main' / f'{split}.txt'
        write_text(file, *(stems[n] for n in numbers))
        write_text(
            file.with_name(f'cat_{split}.txt'), *(f'{stems[n]}  1' for n in numbers)
        )
    numbers = [*SPLITS['train'], *SPLITS['val']]
    file = root / 'ImageSets' / 'Main' / 'trainval.txt'
    write_text(file, *(stems[n] for n in numbers))
    return expect('Pascal VOC', names, SPLITS)


def build_vocdevkit(root: Path, names: Names = PLAIN) -> Expected:
    return build_voc(root / 'VOCdevkit' / 'VOC2012', names)


def build_voc_lists(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root / 'images', names, range(8))
    write_voc(root / 'annotations', names, range(8))
    stems = [os.path.splitext(name)[0] for name in names]
    splits = dict(train=SPLITS['train'], val=SPLITS['val'])
    for split, numbers in splits.items():
        write_text(root / f'{split}.txt', *(stems[n] for n in numbers))
    return expect('Pascal VOC', names, splits)


def build_voc_folders(
    root: Path, names: Names = PLAIN, xml: str = 'annotations', images: str = 'images'
) -> Expected:
    write_images(root / images, names, range(8))
    write_voc(root / xml, names, range(8))
    return expect('Pascal VOC', names)


def build_voc_annots(root: Path, names: Names = PLAIN) -> Expected:
    return build_voc_folders(root, names, 'annots')


def build_voc_xml(root: Path, names: Names = PLAIN) -> Expected:
    return build_voc_folders(root, names, 'xml', 'JPEGImages')


def build_voc_split_folders(root: Path, names: Names = PLAIN) -> Expected:
    splits = dict(train=SPLITS['train'], val=SPLITS['val'])
    for split, numbers in splits.items():
        write_images(root / 'images' / split, names, numbers)
        write_voc(root / 'annotations' / split, names, numbers)
    return expect('Pascal VOC', names, splits)


def build_voc_beside(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root, names, range(8))
    write_voc(root, names, range(8))
    return expect('Pascal VOC', names)


def build_roboflow_voc(root: Path, names: Names = PLAIN) -> Expected:
    for split, folder in ROBOFLOW.items():
        write_images(root / folder, names, SPLITS[split])
        write_voc(root / folder, names, SPLITS[split])
    return expect('Pascal VOC', names, SPLITS)


def build_cvat_coco(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root / 'images' / 'default', names, range(8))
    write_coco(
        root / 'annotations' / 'instances_default.json',
        names,
        range(8),
        licenses=[dict(name='', id=0, url='')],
        info=dict(contributor='', date_created='', description='', url='', year=''),
    )
    return expect('CVAT COCO 1.0', names, None, CLASSES, (1, 2))


def build_label_studio_coco(root: Path, names: Names = PLAIN) -> Expected:
    write_images(root / 'images', names, range(8))
    write_coco(
        root / 'result.json',
        [f'images/{name}' for name in names],
        range(8),
        ((0, 'cat'), (1, 'dog')),
        info=dict(year=2024, version='1.0', contributor='Label Studio'),
    )
    return expect('Label Studio COCO', names, None, CLASSES, (0, 1))


Builder = Callable[..., Expected]


def name_builders(*builders: Builder) -> dict[str, Builder]:
    """Builders by their names, less ``build_``."""
    return {b.__name__.removeprefix('build_'): b for b in builders}


# All of them, by name. Each gets a folder, which need not exist, and names of images.
BUILDERS = name_builders(
    build_roboflow_yolo,
    build_darknet,
    build_cvat_yolo,
    build_roboflow_darknet,
    build_tensorflow_csv,
    build_roboflow_csv,
    build_roboflow_retinanet,
    build_csv_with_header,
    build_roboflow_coco,
    build_coco,
    build_coco_one_file,
    build_ultralytics_yolo,
    build_labelimg,
    build_labelimg_beside,
    build_label_studio_yolo,
    build_split_labels,
    build_voc,
    build_vocdevkit,
    build_voc_lists,
    build_voc_folders,
    build_voc_annots,
    build_voc_xml,
    build_voc_split_folders,
    build_voc_beside,
    build_roboflow_voc,
    build_cvat_coco,
    build_label_studio_coco,
)
