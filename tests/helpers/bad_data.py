"""Small data sets on disk, which a test spoils and builds."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from mmyolo.registry import DATASETS

CLASSES = ('cat', 'dog')
LOAD = [dict(type='LoadImageFromFile')]


def write_image(path: Path, number: int = 0, size: tuple = (48, 64)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
    content = cv2.imencode(path.suffix, cv2.GaussianBlur(pixels, (5, 5), 0))[1]
    path.write_bytes(content.tobytes())
    return content.tobytes()


def build_dataset(root: Path, **cfg: object) -> BaseDataset:
    """A data set in a folder, which loads its images unless ``cfg`` says otherwise."""
    return DATASETS.build(dict(data_root=str(root), pipeline=LOAD) | cfg)


class Coco:
    """A data set of eight images with a box each, to be spoilt and built."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / 'images').mkdir()
        self.paths = [root / 'images' / f'{i}.jpg' for i in range(8)]
        for number, path in enumerate(self.paths):
            write_image(path, number)
        self.content = dict(
            images=[
                dict(id=i, file_name=path.name, width=64, height=48)
                for i, path in enumerate(self.paths)
            ],
            annotations=[self.box(i, 1 + i % 2, [4, 4, 20, 20]) for i in range(8)],
            categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        )

    @staticmethod
    def box(image: int, category: int, bbox: list, number: int | None = None) -> dict:
        number = image if number is None else number
        return dict(
            id=number,
            image_id=image,
            category_id=category,
            bbox=bbox,
            area=400,
            iscrowd=0,
        )

    def add_boxes(self, *boxes: list) -> None:
        for number, bbox in enumerate(boxes):
            self.content['annotations'].append(
                self.box(number, 1, bbox, number=100 + number)
            )

    def truncate(self, *indices: int) -> None:
        for i in indices:
            content = self.paths[i].read_bytes()
            self.paths[i].write_bytes(content[: len(content) // 2])

    def build(
        self,
        classes: tuple[str, ...] = CLASSES,
        text: str | None = None,
        **kwargs: object,
    ) -> BaseDataset:
        if text is None:
            text = json.dumps(self.content)
        (self.root / 'boxes.json').write_text(text)
        cfg = dict(
            type='VerifiedCocoDataset',
            ann_file='boxes.json',
            data_prefix=dict(img='images'),
            metainfo=dict(classes=classes),
        )
        return build_dataset(self.root, **(cfg | kwargs))


XML = """<annotation><filename>whatever</filename>
<size><width>{width}</width><height>48</height><depth>3</depth></size>
<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{xmin}</xmin><ymin>5</ymin><xmax>{xmax}</xmax><ymax>25</ymax>
</bndbox></object></annotation>"""


class Voc:
    """Four images with a box each; ``write`` spoils one of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ('JPEGImages', 'Annotations'):
            (root / folder).mkdir()
        (root / 'train.txt').write_text('0\n1\n2\n3\n')
        for i in range(4):
            write_image(root / 'JPEGImages' / f'{i}.jpg', i)
            self.write(i, name=CLASSES[i % 2])

    def write(self, index: int, **values: object) -> None:
        values = dict(name='cat', difficult=0, width=64, xmin=5, xmax=25) | values
        path = self.root / 'Annotations' / f'{index}.xml'
        path.write_text(XML.format(**values))

    def build(
        self, classes: tuple[str, ...] = CLASSES, **kwargs: object
    ) -> BaseDataset:
        cfg = dict(
            type='VerifiedVOCDataset',
            ann_file='train.txt',
            data_prefix=dict(sub_data_root=''),
            metainfo=dict(classes=classes),
        )
        return build_dataset(self.root, **(cfg | kwargs))


class Yolo:
    """Eight images of random size with boxes; the last one has no label file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rng = np.random.default_rng(0)
        self.images, self.boxes, self.sizes = [], [], []
        for folder in ('images/train', 'labels/train'):
            (root / folder).mkdir(parents=True)
        for i in range(8):
            path = root / 'images' / 'train' / f'{i}.{"jpg" if i % 2 else "png"}'
            height, width = map(int, rng.integers(32, 80, 2))
            write_image(path, i, (height, width))
            self.images.append(path)
            self.sizes.append((width, height))
            center, size = rng.uniform(0.3, 0.7, (3, 2)), rng.uniform(0.1, 0.5, (3, 2))
            self.boxes.append(
                [
                    (j % 2, *map(float, c), *map(float, s))
                    for j, (c, s) in enumerate(zip(center, size))
                ]
            )
            if i < 7:
                self.write(i, *(' '.join(map(str, box)) for box in self.boxes[i]))
        self.boxes[7] = []
        self.yaml()

    def label(self, i: int) -> Path:
        return self.root / 'labels' / 'train' / f'{i}.txt'

    def write(self, i: int, *lines: str) -> None:
        self.label(i).write_text(''.join(f'{line}\n' for line in lines))

    def add(self, i: int, *lines: str) -> None:
        with self.label(i).open('a') as file:
            file.write(''.join(f'{line}\n' for line in lines))

    def yaml(self, text: str = 'train: images/train\nnames: [cat, dog]\n') -> Path:
        path = self.root / 'data.yaml'
        path.write_text(text)
        return path

    def build(self, **kwargs: object) -> BaseDataset:
        cfg = dict(type='VerifiedYOLOTxtDataset', ann_file='data.yaml')
        return build_dataset(self.root, **(cfg | kwargs))

    @property
    def cache(self) -> Path:
        return self.root / 'images' / 'train.train.mmnextvit-cache.json'


def list_infos(dataset: BaseDataset) -> list[dict]:
    """What the dataset knows of each sample."""
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def list_boxes(dataset: BaseDataset) -> list[list[float]]:
    """The boxes of all samples, x1, y1, x2, y2 in pixels."""
    return [box['bbox'] for info in list_infos(dataset) for box in info['instances']]


def fake_runner(model: torch.nn.Module | None, dataset: BaseDataset) -> SimpleNamespace:
    """What a hook reads of a runner that trains, validates and tests on a dataset."""
    loader = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(
        model=model,
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        val_loop=loader,
        logger=MMLogger.get_current_instance(),
    )


NAN = float('nan')
BAD_BOXES = [
    ([5, 5, 0, 8], 'of zero or negative size'),
    ([5, 5, 8, -3], 'of zero or negative size'),
    ([NAN, 5, 8, 8], 'NaN or infinite'),
    ([5, 5, float('inf'), 8], 'NaN or infinite'),
    ([64, 5, 8, 8], 'outside the image'),
    ([5, -9, 8, 8], 'outside the image'),
    ([5, 5, 8, 0.5], 'under 1 pixel'),
    ([5, 5, 8], 'not four numbers'),
    (None, 'not four numbers'),
]


def measure_truth(
    infos: list[dict], metainfo: dict, **given: object
) -> dict[str, float]:
    """Our metric's numbers where a data set's truth is what was predicted."""
    cfg = dict(type='mmdet.VerifiedCocoMetric', ann_file=None)
    metric = METRICS.build(cfg | given)
    metric.dataset_meta = metainfo
    for info in infos:
        truth = info['instances']
        sample = dict(info, ori_shape=(info['height'], info['width']))
        sample['pred_instances'] = dict(
            bboxes=torch.tensor([box['bbox'] for box in truth]).reshape(-1, 4),
            scores=torch.ones(len(truth)),
            labels=torch.tensor([box['bbox_label'] for box in truth], dtype=int),
        )
        metric.process({}, [sample])
    return metric.evaluate(len(infos))
