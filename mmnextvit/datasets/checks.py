"""Datasets that check their data before the first epoch, and say what to change.

MMDetection drops some bad boxes without a word, passes others on, swaps class names
whose order differs from the annotation file's, and meets a missing image hours into
an epoch; OpenCV's older versions return a truncated image half grey.
`VerifiedDataMixin` makes errors and warnings of these for any dataset of MMDetection's
kind. Only the two dataset classes at the end need MMYOLO.
"""

import io
import json
import logging
import math
import os
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from unittest.mock import patch

import cv2
import mmcv
import numpy as np
import torch
from faster_coco_eval import COCOeval_faster
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmengine import fileio
from mmengine.dist import all_reduce, get_rank
from mmengine.fileio.backends import LocalBackend
from mmengine.fileio.handlers.json_handler import set_default
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, METRICS, TRANSFORMS
from mmengine.runner import Runner
from PIL import Image
from rich.progress import track

from ..engine.hooks import unwrapped

# First bytes of a file, and the bytes that end its image.
END_MARKERS = {b'\xff\xd8\xff': b'\xff\xd9', b'\x89PNG': b'IEND\xaeB`\x82'}


def listed(items: Iterable[object], most: int = 5) -> str:
    """The first few of many, for a message: ``'a, b, c and 7 more'``."""
    items = [str(item) for item in items]
    rest = len(items) - most
    return ', '.join(items[:most]) + (f' and {rest} more' if rest > 0 else '')


def warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)


# ----------------------------------------------------------------------- images


class BrokenImageError(ValueError):
    """An image that is empty, truncated or no image at all."""


def read_image(
    path: str,
    color_type: str = 'color',
    imdecode_backend: str | None = None,
    backend_args: dict | None = None,
    decode_twice: bool = False,
) -> np.ndarray:
    """Reads an image and makes sure that it is whole.

    A JPEG or PNG that doesn't end as it should is decoded by Pillow too, which
    refuses truncated files; every other file costs a comparison of a few bytes.

    Args:
        path: File, local or of a backend that MMEngine knows.
        color_type: mmcv's flag: ``'color'``, ``'grayscale'``, ``'unchanged'``, ...
        imdecode_backend: mmcv's decoder; mmcv's global one if ``None``.
        backend_args: MMEngine's file backend.
        decode_twice: Have Pillow decode every JPEG and PNG.

    Returns:
        Image of H x W x C (BGR) or H x W, usually uint8 in 0..255.

    Raises:
        BrokenImageError: It names the file and what is wrong with it.
    """
    try:
        content = fileio.get(path, backend_args=backend_args)
        if not content:
            raise BrokenImageError(f'{path} is empty')
        for start, end in END_MARKERS.items():
            if content.startswith(start) and (
                decode_twice or not content.endswith(end)
            ):
                Image.open(io.BytesIO(content)).load()
        img = mmcv.imfrombytes(content, flag=color_type, backend=imdecode_backend)
    except (OSError, SyntaxError, cv2.error) as error:  # PNG faults are SyntaxErrors
        raise BrokenImageError(f'{path} cannot be read: {error}') from error
    if img is None:
        raise BrokenImageError(f'{path} is truncated, or no image')
    return img


@TRANSFORMS.register_module()
class LoadVerifiedImage(LoadImageFromFile):
    """Loads an image like mmcv's ``LoadImageFromFile``, and names it if it is broken.

    `VerifiedDataMixin` puts it in the place of ``LoadImageFromFile``, so that configs
    need not name it. If that dataset says ``skip_broken``, another image of the
    dataset takes the broken one's place, inside Mosaic or MixUp too.

    Raises:
        BrokenImageError: An image is broken; the message has path and sample index.
    """

    def transform(self, results: dict) -> dict:
        while True:
            try:
                img = read_image(
                    results['img_path'],
                    self.color_type,
                    self.imdecode_backend,
                    self.backend_args,
                )
                break
            except BrokenImageError as error:
                dataset = results.get('dataset')
                index = results.get('sample_idx')
                if not getattr(dataset, 'skip_broken', False):
                    raise BrokenImageError(
                        f'{error} (sample {index}). Repair the file or take it out of '
                        'the annotations; skip_broken=True in the training dataset '
                        'goes on without it, decode_all=True finds all such files '
                        'before training'
                    ) from error
                results = dataset.replace_broken(index, error)
        results['img'] = img.astype(np.float32) if self.to_float32 else img
        results['img_shape'] = results['ori_shape'] = img.shape[:2]
        return results


def with_verified_loader(node: object) -> object:
    """A copy of a pipeline's config that says `LoadVerifiedImage`."""
    if isinstance(node, dict):
        node = {key: with_verified_loader(value) for key, value in node.items()}
        loader = node.get('type')
        if isinstance(loader, str):
            loader = loader.rpartition('.')[2]  # 'mmdet.LoadImageFromFile' is the same
        if loader in ('LoadImageFromFile', LoadImageFromFile):
            node['type'] = LoadVerifiedImage
    elif isinstance(node, (list, tuple)):
        node = type(node)(with_verified_loader(value) for value in node)
    return node


def missing_files(paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` that don't exist; each folder is listed once."""
    folders = defaultdict(dict)
    for path in paths:
        folder, name = os.path.split(path)
        folders[folder][name] = path
    missing = []
    for folder, files in folders.items():
        if os.path.isdir(folder or '.'):
            with os.scandir(folder or '.') as entries:
                for entry in entries:
                    files.pop(entry.name, None)
        # Some file systems spell a name otherwise than the annotations do.
        missing += [path for path in files.values() if not os.path.exists(path)]
    return sorted(missing)


# -------------------------------------------------------------------------- boxes


def box_fault(
    box: Sequence[float], width: float, height: float, least: float = 0
) -> str | None:
    """What makes a box useless, or ``None``. A part may lie outside the image.

    Args:
        box: ``x1, y1, x2, y2`` in pixels.
        width: The image's width.
        height: The image's height.
        least: Least width and height that count as a box.
    """
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return 'NaN or infinite'
    if x2 <= x1 or y2 <= y1:
        return 'of zero or negative size'
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return 'outside the image'
    if x2 - x1 < least or y2 - y1 < least:
        return f'under {least} pixel wide or high'
    return None


def clean_coco(coco: dict, least: float = 0) -> dict[str, list[str]]:
    """Takes the annotations without a usable box out of a COCO dict, in place.

    Also writes the ``iscrowd`` and the ``area`` that MMDetection and pycocotools count
    on where a file lacks them (``area`` where it isn't positive, as w times h).

    Args:
        coco: Content of an annotation file.
        least: Least width and height of a box in pixels.

    Returns:
        File names of the images, one for each box left out, by fault.
    """
    images = {image['id']: image for image in coco['images']}
    faults = defaultdict(list)
    kept = []
    for annotation in coco['annotations']:
        image = images.get(annotation['image_id'])
        box = annotation.get('bbox')
        if image is None:
            faults['of images that are not listed'].append(annotation['image_id'])
            continue
        try:
            x, y, w, h = map(float, box)
            box = x, y, x + w, y + h
            fault = box_fault(box, image['width'], image['height'], least)
        except (TypeError, ValueError):
            fault = 'that are not four numbers'
        if fault:
            faults[fault].append(image['file_name'])
            continue
        annotation.setdefault('iscrowd', 0)
        if not (annotation.get('area') or 0) > 0:
            annotation['area'] = w * h
        kept.append(annotation)
    coco['annotations'] = kept
    return faults


def dump_json(content: object, path: str) -> None:
    """MMEngine's ``dump``, whose encoder for files is ``json``'s slow one in Python."""
    fileio.put_text(json.dumps(content, default=set_default), path)


@METRICS.register_module()
class VerifiedCocoMetric(CocoMetric):
    """MMDetection's ``CocoMetric``, faster, without the boxes that nothing can match.

    ``CocoMetric`` reads ``ann_file`` by itself, where a box of zero size or of NaN, and
    any box with id 0, counts as missed, and a lack of ``area`` or ``iscrowd`` ends the
    run. It matches boxes in Python, where faster_coco_eval does the same in C++: that
    is taken for up to 100 boxes an image, as ``proposal_nums`` of YOLO's configs has.
    """

    def __init__(self, ann_file: str | None = None, **kwargs) -> None:
        backend_args = kwargs.get('backend_args')
        if ann_file is not None and not fileio.exists(ann_file, backend_args):
            raise FileNotFoundError(
                f'Annotation file {ann_file} does not exist: set ann_file of '
                'val_evaluator and test_evaluator to the file of the dataset'
            )
        super().__init__(ann_file, **kwargs)
        if self._coco_api is not None:
            content = self._coco_api.dataset
            content.setdefault('annotations', [])
            clean_coco(content)
            for number, annotation in enumerate(content['annotations'], start=1):
                annotation['id'] = number  # pycocotools takes 0 for 'no match'
            self._coco_api.createIndex()
        self._reads_file = ann_file is not None

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The same numbers as ``CocoMetric``'s."""
        if not self._reads_file and self.outfile_prefix is None:
            # VOC's ids are names; faster_coco_eval takes numbers.
            results = [
                (dict(truth, img_id=number), dict(found, img_id=number))
                for number, (truth, found) in enumerate(results)
            ]
        swaps = dict(dump=dump_json)
        numbered = all(isinstance(found['img_id'], Integral) for _, found in results)
        # For the mAP pycocotools takes 100 boxes, faster_coco_eval the most given.
        if numbered and max(self.proposal_nums) == 100:
            swaps['COCOeval'] = COCOeval_faster
        with patch.multiple(coco_metric, **swaps):
            return super().compute_metrics(results)


# ------------------------------------------------------------------------ classes


def classes_line(names: Iterable[str]) -> str:
    """What to write into a config."""
    names = tuple(names)
    return f'metainfo=dict(classes={names!r}), num_classes={len(names)} in the head'


def check_coco_classes(
    classes: Sequence[str], categories: Sequence[str], source: str
) -> None:
    """Raises where a config's classes disagree with a file's categories.

    MMDetection labels the boxes by the categories' order in the file, whatever order
    the config has, and leaves out names that it doesn't find.

    Args:
        classes: Names in the config.
        categories: Names in the annotation file, in the file's order.
        source: The file, for the message.

    Raises:
        ValueError: A class is missing, named twice, or stands in another order.
    """
    advice = f'Write {classes_line(categories)}'
    both = f'its categories are {tuple(categories)}, the config has {tuple(classes)}'
    missing = [name for name in classes if name not in categories]
    if missing:
        raise ValueError(
            f'{source} has no category {listed(map(repr, missing))}: {both}. {advice}'
        )
    ordered = [name for name in categories if name in classes]
    if len(ordered) > len(classes):
        raise ValueError(f'{source} has two categories of one name: {both}')
    if ordered != list(classes):
        raise ValueError(
            f'The classes stand in another order than in {source}, which would swap '
            f'their names: {both}. Write {classes_line(ordered)}'
        )


# ----------------------------------------------------------------------- datasets


class VerifiedDataMixin:
    """Checks the data of a dataset of MMDetection's kind while it loads its list.

    Mix it in before such a class. What it finds while annotations are parsed goes to
    ``self.box_faults`` (fault to file names) and is reported in one warning. Images
    are read through `LoadVerifiedImage` wherever the pipeline says
    ``LoadImageFromFile``; a pipeline that a hook puts in later must name it itself.

    Args:
        skip_broken: For training: go on without images that are missing, truncated
            or undecodable. Each is named once in a warning, and `DataReportHook`
            counts them. Without it they are errors.
        decode_all: Decode every image beforehand, so that all broken ones are named
            at once; with ``skip_broken`` they are left out.
        pipeline: Transforms, as for MMEngine's ``BaseDataset``.

    Attributes:
        broken: Bool tensor in shared memory, one flag for each sample: what this
            process and the data loader's workers met as broken.

    Raises:
        FileNotFoundError: The annotation file or images are missing.
        ValueError: The annotation file is unusable, or disagrees with the classes.
        BrokenImageError: ``decode_all`` found broken images.
    """

    def __init__(
        self,
        *args,
        skip_broken: bool = False,
        decode_all: bool = False,
        pipeline: Sequence = (),
        **kwargs,
    ) -> None:
        if skip_broken and kwargs.get('test_mode'):
            raise ValueError(
                'skip_broken=True is for training: evaluated without some images, '
                'the mAP would be of another data set. Repair the images or take '
                'them out of the annotations'
            )
        self.skip_broken = skip_broken
        self.decode_all = decode_all
        self.box_faults: dict[str, list[str]] = defaultdict(list)
        super().__init__(*args, pipeline=with_verified_loader(pipeline), **kwargs)

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        super().full_init()
        self.broken = torch.zeros(len(self), dtype=torch.bool).share_memory_()

    def load_data_list(self) -> list[dict]:
        self._check_class_names()
        self._check_ann_file()
        data_list = super().load_data_list()
        if not data_list:
            raise ValueError(f'{self.ann_file} lists no images')
        self._report_box_faults()
        if not self.test_mode and not any(data['instances'] for data in data_list):
            raise ValueError(
                f'{self.ann_file} holds no usable box of {self.metainfo["classes"]}: '
                'there is nothing to train on'
            )
        return self._check_images(data_list)

    def filter_data(self) -> list[dict]:
        kept = super().filter_data()
        if not kept:
            raise ValueError(
                f'filter_cfg={self.filter_cfg} leaves none of the '
                f'{len(self.data_list)} images of {self.ann_file}'
            )
        return kept

    def replace_broken(self, index: int, error: BrokenImageError) -> dict:
        """Marks a sample as broken and gives another one's info, at random.

        Args:
            index: The broken sample.
            error: What is wrong with it.

        Raises:
            BrokenImageError: No image is left.
        """
        if not self.broken[index]:
            self.broken[index] = True
            warn(f'{error} (sample {index}): skipped')
        whole = (~self.broken).nonzero()
        if not len(whole):
            raise BrokenImageError(f'No image of {self.ann_file} can be read')
        results = self.get_data_info(whole[np.random.randint(len(whole))].item())
        results['dataset'] = self
        return results

    def _check_class_names(self) -> None:
        names = self._metainfo.get('classes') or ()
        if isinstance(names, str):
            raise ValueError(
                f'classes={names!r} is one string (and no file of names): write '
                f'metainfo=dict(classes=({names!r},)), with the comma'
            )
        repeated = [name for name, n in Counter(names).items() if n > 1]
        if not names or repeated:
            fault = f'names {listed(repeated)} twice' if repeated else 'is empty'
            raise ValueError(f'metainfo=dict(classes={tuple(names)}) {fault}')

    def _check_ann_file(self) -> None:
        if not fileio.exists(self.ann_file, backend_args=self.backend_args):
            raise FileNotFoundError(
                f'Annotation file {self.ann_file} does not exist: set ann_file or '
                f'data_root (now {self.data_root!r}) in the dataset of '
                'train_dataloader, val_dataloader or test_dataloader'
            )

    def _report_box_faults(self) -> None:
        if self.box_faults:
            kinds = '; '.join(
                f'{len(names)} {fault} ({listed(dict.fromkeys(names))})'
                for fault, names in self.box_faults.items()
            )
            warn(f'{self.ann_file}: boxes dropped: {kinds}')

    def _check_images(self, data_list: list[dict]) -> list[dict]:
        paths = [data['img_path'] for data in data_list]
        backend = fileio.get_file_backend(paths[0], backend_args=self.backend_args)
        # Elsewhere a look-up may cost a request: LoadVerifiedImage names what it meets.
        missing = missing_files(paths) if isinstance(backend, LocalBackend) else []
        if missing:
            message = (
                f'{len(missing)} of the {len(paths)} images that {self.ann_file} '
                f'names are missing: {listed(missing)}'
            )
            if not self.skip_broken or len(missing) == len(set(paths)):
                raise FileNotFoundError(
                    f'{message}. Set data_prefix (now {self.data_prefix}) or data_root '
                    f'(now {self.data_root!r}) of the dataset to where they lie'
                )
            warn(f'{message}: skipped')
        left_out = set(missing)
        if self.decode_all:
            left_out |= self._decode(path for path in paths if path not in left_out)
        return [data for data in data_list if data['img_path'] not in left_out]

    def _decode(self, paths: Iterable[str]) -> set[str]:
        """Decodes all images with a progress bar; returns the broken ones."""
        paths = list(paths)

        def fault(path: str) -> str | None:
            try:
                read_image(path, backend_args=self.backend_args, decode_twice=True)
            except BrokenImageError as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:
            progress = track(
                pool.map(fault, paths),
                description=f'Decoding the images of {Path(self.ann_file).name}',
                total=len(paths),
                disable=get_rank() != 0,
            )
            faults = {path: f for path, f in zip(paths, progress, strict=True) if f}
        if faults:
            message = f'{len(faults)} of {len(paths)} images are broken'
            lines = '\n  '.join([f'{message}:', *faults.values()])
            if not self.skip_broken or len(faults) == len(paths):
                raise BrokenImageError(lines)
            warn(f'{lines}\n{message}: skipped')
        return set(faults)


class VerifiedCocoMixin(VerifiedDataMixin):
    """What `VerifiedDataMixin` needs to know of MMDetection's ``CocoDataset``.

    Categories that hold boxes but are no class of the config give a warning. Boxes
    under one pixel are dropped as ``CocoDataset`` does, but reported.
    """

    def COCOAPI(self, path: str) -> COCO:
        """The checked file, where ``CocoDataset`` reads it: it is parsed once."""
        text = Path(path).read_bytes()
        if not text.strip():
            raise ValueError(f'Annotation file {self.ann_file} is empty')
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f'{self.ann_file} is not JSON: {error}') from error
        self._check_content(content)
        self.box_faults.update(clean_coco(content, least=1))
        names = {category['id']: category['name'] for category in content['categories']}
        check_coco_classes(
            self._metainfo['classes'], list(names.values()), self.ann_file
        )
        ignored = Counter(
            names.get(number, f'category_id {number}')
            for number in (a['category_id'] for a in content['annotations'])
            if names.get(number) not in self._metainfo['classes']
        )
        if ignored:
            counts = ', '.join(f'{name} ({n})' for name, n in ignored.items())
            warn(
                f'{self.ann_file}: boxes of categories that are no classes of the '
                f'config are ignored: {counts}'
            )
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
        coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
        return coco

    def _check_content(self, content: object) -> None:
        wanted = {
            'images': ('id', 'file_name', 'width', 'height'),
            'categories': ('id', 'name'),
            'annotations': ('id', 'image_id', 'category_id'),
        }
        if not isinstance(content, dict) or not all(
            isinstance(content.get(key), list)
            for key in wanted
            if key != 'annotations' or not self.test_mode
        ):
            keys = list(content) if isinstance(content, dict) else type(content)
            raise ValueError(
                f'{self.ann_file} is not COCO detection data: lists named images, '
                f'annotations and categories are wanted, it has {keys}'
            )
        content.setdefault('annotations', [])  # images to predict have none
        for part, keys in wanted.items():
            for index, entry in enumerate(content[part]):
                lacking = [key for key in keys if key not in entry]
                if lacking:
                    raise ValueError(
                        f'{self.ann_file}: {part}[{index}] lacks {", ".join(lacking)}'
                    )
            repeated = Counter(entry['id'] for entry in content[part]).most_common(1)
            if repeated and repeated[0][1] > 1:
                raise ValueError(
                    f'{self.ann_file}: id {repeated[0][0]} occurs {repeated[0][1]} '
                    f'times in {part}'
                )


class VerifiedVOCMixin(VerifiedDataMixin):
    """What `VerifiedDataMixin` needs to know of MMDetection's ``XMLDataset``.

    A class that is never met is an error if unknown names are met, and a warning
    otherwise: a small validation set may lack it.
    """

    def _check_ann_file(self) -> None:
        super()._check_ann_file()
        self._names_met = Counter()
        root = os.path.join(self.sub_data_root, self.ann_subdir)
        ids = fileio.list_from_file(self.ann_file, backend_args=self.backend_args)
        if not any(ids):
            raise ValueError(f'Annotation file {self.ann_file} is empty')
        backend = fileio.get_file_backend(root, backend_args=self.backend_args)
        if isinstance(backend, LocalBackend):
            missing = missing_files(os.path.join(root, f'{i}.xml') for i in ids)
            if missing:
                raise FileNotFoundError(
                    f'{len(missing)} of the {len(ids)} annotation files that '
                    f'{self.ann_file} names are missing: {listed(missing)}. Set '
                    f'data_root (now {self.data_root!r}), data_prefix or ann_subdir '
                    'of the dataset'
                )

    def load_data_list(self) -> list[dict]:
        data_list = super().load_data_list()
        classes = self._metainfo['classes']
        unmet = [name for name in classes if name not in self._names_met]
        unknown = {n: c for n, c in self._names_met.items() if n not in classes}
        counts = ', '.join(f'{name} ({n})' for name, n in unknown.items())
        if unmet and unknown:
            raise ValueError(
                f'The annotations of {self.ann_file} never name the class '
                f'{listed(map(repr, unmet))} of the config, but they name {counts}: '
                f'write {classes_line(sorted(self._names_met))}'
            )
        if unmet:
            warn(f'{self.ann_file}: no box of the class {listed(map(repr, unmet))}')
        if unknown:
            warn(
                f'{self.ann_file}: boxes whose names are no classes of the config are '
                f'ignored: {counts}'
            )
        return data_list

    def parse_data_info(self, img_info: dict) -> dict:
        path = img_info['xml_path']
        self._xml_name = os.path.basename(path)
        try:
            data = super().parse_data_info(img_info)
        except (ET.ParseError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(f'{path} is no Pascal VOC annotation: {error}') from error
        if data['width'] <= 0 or data['height'] <= 0:  # some tools write 0
            with Image.open(data['img_path']) as image:
                data['width'], data['height'] = image.size
        kept = []
        for instance in data['instances']:
            fault = box_fault(instance['bbox'], data['width'], data['height'])
            if fault:
                self.box_faults[fault].append(self._xml_name)
            else:
                kept.append(instance)
        data['instances'] = kept
        return data

    def _parse_instance_info(self, raw_ann_info: ET.ElementTree, **kwargs) -> list:
        root = raw_ann_info.getroot()
        for item in root.findall('object'):
            self._names_met[item.findtext('name')] += 1
            sides = ('xmin', 'ymin', 'xmax', 'ymax')
            box = [float(item.find('bndbox').find(side).text) for side in sides]
            if not all(map(math.isfinite, box)):  # XMLDataset makes integers of them
                root.remove(item)
                self.box_faults[box_fault(box, 0, 0)].append(self._xml_name)
        return super()._parse_instance_info(raw_ann_info, **kwargs)


if find_spec('mmyolo') is not None:
    from mmyolo.datasets import YOLOv5CocoDataset, YOLOv5VOCDataset
    from mmyolo.registry import DATASETS

    @DATASETS.register_module()
    class VerifiedCocoDataset(VerifiedCocoMixin, YOLOv5CocoDataset):
        """MMYOLO's COCO dataset with the checks of `VerifiedDataMixin`."""

    @DATASETS.register_module()
    class VerifiedVOCDataset(VerifiedVOCMixin, YOLOv5VOCDataset):
        """MMYOLO's Pascal VOC dataset with the checks of `VerifiedDataMixin`."""


# --------------------------------------------------------------------------- hook


def leaves(dataset: object) -> list:
    """The datasets inside wrappers such as ``ConcatDataset`` and ``RepeatDataset``."""
    if hasattr(dataset, 'datasets'):
        return [leaf for part in dataset.datasets for leaf in leaves(part)]
    return leaves(dataset.dataset) if hasattr(dataset, 'dataset') else [dataset]


@HOOKS.register_module()
class DataReportHook(Hook):
    """Compares head and data before they meet, and counts the images skipped.

    Raises:
        ValueError: ``num_classes`` of a box or mask head is not the number of classes
            of the data that it is trained, validated or tested on.
    """

    def before_train(self, runner: Runner) -> None:
        self._check_num_classes(runner, 'train')
        if runner.val_loop is not None:
            self._check_num_classes(runner, 'val')

    def before_val(self, runner: Runner) -> None:
        self._check_num_classes(runner, 'val')

    def before_test(self, runner: Runner) -> None:
        self._check_num_classes(runner, 'test')

    def _check_num_classes(self, runner: Runner, mode: str) -> None:
        dataset = getattr(runner, f'{mode}_dataloader').dataset
        classes = dataset.metainfo.get('classes', ())
        # The innermost module is the one that the config sets.
        for name, module in reversed(list(unwrapped(runner).named_modules())):
            in_head = {'bbox_head', 'mask_head'} & set(name.split('.'))
            number = getattr(module, 'num_classes', len(classes))
            if in_head and number != len(classes):
                raise ValueError(
                    f'The head has num_classes={number}, but the {mode} data has '
                    f'{len(classes)} classes ({listed(classes)}): set '
                    f'model.{name}.num_classes={len(classes)}, or '
                    f'{mode}_dataloader.dataset.metainfo=dict(classes=...) to the '
                    f"head's {number} classes"
                )

    def after_train_epoch(self, runner: Runner) -> None:
        for dataset in leaves(runner.train_dataloader.dataset):
            if not getattr(dataset, 'skip_broken', False):
                continue
            broken = dataset.broken.int()
            all_reduce(broken, 'max')  # each process meets its own share
            indices = broken.nonzero().flatten().tolist()
            if indices:
                names = (dataset.get_data_info(i)['img_path'] for i in indices)
                runner.logger.warning(
                    f'{len(indices)} of {len(dataset)} images of {dataset.ann_file} '
                    f'are broken and have been skipped: {listed(names)}'
                )
