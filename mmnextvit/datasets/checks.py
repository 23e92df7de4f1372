"""Datasets that check their data before the first epoch, and say what to change.

MMDetection drops some bad boxes without a word, passes others on, swaps class names
whose order differs from the annotation file's, and meets a missing image hours into
an epoch. `VerifiedDataMixin` makes errors and warnings of these for MMDetection's
datasets.
"""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine import fileio
from mmengine.dataset import ClassBalancedDataset, Compose
from mmengine.logging import print_log
from mmengine.utils import is_abs

from ..utils.collector import resting_collector
from ..utils.errors import MissingFileError, UserError, naming_file
from ..utils.files import check_is_file
from ..utils.messages import first_few, shorten, show, tell
from .faults import describe_broken, describe_missing, describe_remarks, settle, warn
from .files import find_missing_files, find_namesake, is_local, read_bytes
from .image_list import pick_listed
from .images import REMARKS, BrokenImageError, check_images
from .loading import verify_loading
from .masks import describe_lost, describe_masks
from .mmdet_bases import DetDataset
from .packed import PackedSamples, keep
from .values import Identifier, number_lines, read_id

MAX_CLASS_CHARS = 2000  # COCO's 80 names have 900, to be copied into a config


# ------------------------------------------------------------------ boxes and classes


def find_box_fault(
    box: Sequence[float], width: float, height: float, min_size: float = 0
) -> str | None:
    """What makes a box useless, or ``None``. A part may lie outside the image.

    Args:
        box: ``x1, y1, x2, y2`` in pixels.
        width: The image's width.
        height: The image's height.
        min_size: The smallest width and height that count as a box.
    """
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return 'NaN or infinite'
    if x2 <= x1 or y2 <= y1:
        return 'of zero or negative size'
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return 'outside the image'
    if x2 - x1 < min_size or y2 - y1 < min_size:
        return f'under {min_size} pixel wide or high'
    return None


def describe_faults(faults: Mapping[str, Sequence[str]]) -> str:
    """``'2 of zero or negative size (a, b); 1 outside the image (c)'``.

    Args:
        faults: File names or places in files, by what is wrong there.
    """
    return '; '.join(
        f'{len(places)} {fault} ({first_few(dict.fromkeys(places))})'
        for fault, places in faults.items()
    )


def describe_counts(counts: Mapping[str, int]) -> str:
    """``'cat (3), dog (1)'``: names from a file, and how often each is met."""
    return first_few((f'{name} ({n})' for name, n in counts.items()), 20)


def show_classes(names: Iterable[str]) -> str:
    """Names of classes as a tuple; of very many the middle is left out."""
    return shorten(tuple(names), MAX_CLASS_CHARS)


def write_classes(names: Iterable[str]) -> str:
    """What to write into a config for these classes."""
    names = tuple(names)
    shown = show_classes(names)
    return f'metainfo=dict(classes={shown}), num_classes={len(names)} in the head'


def check_class_names(names: str | Sequence[str]) -> None:
    """Raises where a config's classes are one text, none, or named twice.

    Raises:
        UserError: What to write.
    """
    if isinstance(names, str):
        raise UserError(
            f'classes={show(names)} is one string (and no file of names): write '
            f'metainfo=dict(classes=({show(names)},)), with the comma'
        )
    repeated = [name for name, n in Counter(names).items() if n > 1]
    if not names or repeated:
        fault = f'names {first_few(repeated)} twice' if repeated else 'is empty'
        raise UserError(f'metainfo=dict(classes={show_classes(names)}) {fault}')


def check_class_ids(
    class_ids: object, classes: Sequence[str]
) -> tuple[Identifier, ...]:
    """The numbers that a dataset's annotations give its classes.

    Args:
        class_ids: What the config says.
        classes: Names of the classes, in the same order.

    Raises:
        UserError: They are no ids, not as many as the classes, or one of them twice.
    """
    shown = f'class_ids={show(class_ids)}'
    wanted = (
        'write one id for each of the classes '
        f'{show_classes(classes)}, in their order: those that the annotations give them'
    )
    if not isinstance(class_ids, (list, tuple)):
        raise UserError(f'{shown} is no tuple of ids: {wanted}')
    try:
        ids = tuple(map(read_id, class_ids))
    except UserError as error:
        raise UserError(f'{shown}: {error}') from None
    if len(ids) != len(classes):
        raise UserError(
            f'{shown} has {len(ids)} ids for {len(classes)} classes: {wanted}'
        )
    repeated = [number for number, n in Counter(ids).items() if n > 1]
    if repeated:
        raise UserError(f'{shown} has {first_few(repeated)} twice: {wanted}')
    return ids


def check_oversample(share: object, test_mode: bool) -> float:
    """The share of the images below which a class is rare, as a config says it.

    Raises:
        UserError: It is no share, or the dataset is not for training.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)):
        share = math.nan
    if not 0 <= share <= 1:
        raise UserError(
            'oversample is the share of the images below which a class is rare: write '
            'a number from 0 (none is) to 1'
        )
    if share and test_mode:
        raise UserError(
            'oversample is for training: evaluated with some images several times, the '
            'mAP would be of another data set. Set it in the training dataset alone'
        )
    return float(share)


def complete_metainfo(metainfo: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's meta information as all of our datasets have it.

    ``ConcatDataset`` joins only datasets whose information is equal: the classes are a
    tuple. MMDetection draws only what has a colour: the palette begins anew where
    there are more classes.
    """
    classes, palette = tuple(metainfo['classes']), metainfo.get('palette')
    if isinstance(palette, (list, tuple)) and 0 < len(palette) < len(classes):
        palette = [palette[i % len(palette)] for i in range(len(classes))]
        return {**metainfo, 'classes': classes, 'palette': palette}
    return {**metainfo, 'classes': classes}


# ------------------------------------------------------------------------- datasets


def make_marks(count: int) -> dict[str, torch.Tensor]:
    """Flags in shared memory for samples, by the keys of `REMARKS`."""
    return {
        key: torch.zeros(count, dtype=torch.bool).share_memory_() for key in REMARKS
    }


class VerifiedDataMixin(DetDataset):
    """Checks the data of one of MMDetection's datasets while it loads its list.

    Mix it in before such a class. Faults that it meets while annotations are parsed go
    to ``self.box_faults`` and are reported in one warning. Images are read through
    `LoadVerifiedImage` wherever the pipeline has ``LoadImageFromFile``, also in a
    pipeline that a hook puts in later.

    Args:
        skip_broken: For training: go on without images that are missing, truncated,
            undecodable, or of another size than their annotations say. Each is named
            once in a warning, and `DataReportHook` counts them. Without it they are
            errors.
        decode_all: Decode every image beforehand and compare its size with its
            annotations, so that all broken ones are named at once; with
            ``skip_broken`` they are left out.
        image_list: A file in UTF-8 with the path of an image on each line, absolute
            or relative to ``data_root``: the dataset has these images alone, and what
            is wrong with others does not concern it. The file's own path counts from
            ``data_root`` too, unless it is absolute.
        oversample: For training: the share of the images below which a class is rare.
            Images of rare classes come several times in an epoch, and so in mosaics, by
            the rule of MMEngine's ``ClassBalancedDataset`` (``oversample_thr``): the
            root of the share over that of the rarest class on them, rounded up. 0 has
            each image once.
        pipeline: Transforms, as for MMEngine's ``BaseDataset``.

    Attributes:
        marks: Bool tensors in shared memory, one flag for each sample, by the keys of
            `REMARKS`: what this process and the data loader's workers met. Empty until
            the data are loaded. `DataReportHook` reports them.
        box_faults: File names or places of the boxes that are dropped, by fault.
        distinct: Indices of samples, one for each image; all of them, but for
            ``oversample``.

    Raises:
        MissingFileError: The annotation file, the list or images are missing.
        UserError: The annotation file or the list is unusable, or the file disagrees
            with the classes.
        BrokenImageError: ``decode_all`` found broken images.
    """

    def __init__(
        self,
        *args: Any,
        skip_broken: bool = False,
        decode_all: bool = False,
        image_list: str | os.PathLike | None = None,
        oversample: float = 0.0,
        pipeline: Sequence = (),
        **kwargs: Any,
    ) -> None:
        if skip_broken and kwargs.get('test_mode'):
            raise UserError(
                'skip_broken=True is for training: evaluated without some images, '
                'the mAP would be of another data set. Repair the images or take '
                'them out of the annotations'
            )
        self.oversample = check_oversample(oversample, bool(kwargs.get('test_mode')))
        self.skip_broken = skip_broken
        self.decode_all = decode_all
        if not isinstance(image_list, (str, os.PathLike, type(None))):
            raise UserError(
                f'image_list={show(image_list)} is no path: write the images into a '
                'text file, one on a line, and name that file'
            )
        self.image_list = image_list
        self.box_faults: dict[str, list[str]] = defaultdict(list)
        self.marks = make_marks(0)
        self.distinct: Sequence[int] = ()
        super().__init__(*args, pipeline=pipeline, **kwargs)

    @property
    def pipeline(self) -> Compose:
        """What samples go through; a hook may replace it."""
        return self._pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Compose) -> None:
        self._pipeline = verify_loading(pipeline)

    @property
    def broken(self) -> torch.Tensor:
        """Of each sample, whether it was met as broken."""
        return self.marks['broken']

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        with resting_collector():
            super().full_init()
        self.distinct = range(len(self))
        if self.oversample:
            repeated = ClassBalancedDataset(self, self.oversample).repeat_indices
            self.get_subset_(repeated)
            self.distinct = np.unique(repeated, return_index=True)[1].tolist()
            print_log(
                f'{self.ann_file}: with oversample={self.oversample:g} an epoch has '
                f'{len(self)} samples of {len(self.distinct)} images',
                logger='current',
            )
        self.marks = make_marks(len(self))

    def prepare_data(self, idx: int) -> Any:
        """A sample through the pipeline, which may ask the dataset for others."""
        info = self.get_data_info(idx)
        try:
            data = self.pipeline(dict(info, dataset=self))
        except (cv2.error, MemoryError) as error:
            size = f'{info["width"]} x {info["height"]}'
            raise BrokenImageError(
                f'the pipeline cannot prepare this image of {size} pixels (sample '
                f'{idx}): {tell(error)}',
                file=info['img_path'],
            ) from error
        if isinstance(data, dict):
            data.pop('dataset', None)
        return data

    @resting_collector()
    def load_data_list(self) -> Sequence[dict]:
        self._check_classes()
        self._check_ann_file()
        self._metainfo = complete_metainfo(self._metainfo)
        if self.test_mode and self.image_list is not None:
            self._metainfo['image_list'] = True  # for an evaluator with an ann_file
        data_list = self._read_data_list()
        if not data_list:
            raise UserError('the file lists no images', file=self.ann_file)
        if self.box_faults:
            places = [place for part in self.box_faults.values() for place in part]
            faults = describe_faults(self.box_faults)
            warn(f'{self.ann_file}: boxes dropped: {faults}', 'boxes', places)
        of_list = f' in the images of {self.image_list}' if self.image_list else ''
        if not self.test_mode and not any(data['instances'] for data in data_list):
            raise UserError(
                'the file holds no usable box of '
                f'{show_classes(self.metainfo["classes"])}{of_list}: there is nothing '
                'to train on',
                file=self.ann_file,
            )
        if not self.test_mode:
            settle(describe_masks(data_list, self.pipeline, self.ann_file), False)
            lost = describe_lost(data_list, self.pipeline)
            if lost:
                warn(f'{self.ann_file}: {lost}')
        unusable = self._find_unusable_images(data_list)
        if not unusable:
            return data_list
        return keep(data_list, lambda data: data['img_path'] not in unusable)

    def filter_data(self) -> Sequence[dict]:
        return self._check_filtered(super().filter_data())

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        """MMEngine's bytes, which samples that are packed have already."""
        if not isinstance(self.data_list, PackedSamples):
            return super()._serialize_data()
        return self.data_list.serialize()

    def note(self, index: int, remarks: Iterable[str]) -> None:
        """Marks a sample, for the report.

        Args:
            index: The sample.
            remarks: Keys of `REMARKS`.
        """
        for key in remarks:
            self.marks[key][index] = True

    def replace_broken(self, index: int, error: BrokenImageError) -> dict:
        """Marks a sample as broken and gives another one's info, at random.

        Args:
            index: The broken sample.
            error: What is wrong with it.

        Raises:
            BrokenImageError: No image is left.
        """
        if not self.broken[index]:
            self.note(index, ['broken'])
            warn(f'{error} (sample {index}): skipped')
        whole = (~self.broken).nonzero()
        if not len(whole):
            raise BrokenImageError(f'No image of {self.ann_file} can be read')
        results = self.get_data_info(whole[np.random.randint(len(whole))].item())
        results['dataset'] = self
        return results

    def _read_data_list(self) -> Sequence[dict]:
        """What MMDetection's dataset reads; another format is read in its place."""
        return super().load_data_list()

    def _keep_listed(self, images: Iterable[str]) -> list[str]:
        """Those of the images that ``image_list`` names, all where there is none.

        What reads annotations asks this once, for all images together, and then looks
        at these alone.

        Args:
            images: Paths of all images that the annotations name.

        Raises:
            MissingFileError: The list does not exist.
            UserError: The list is unusable, or names other images.
        """
        if self.image_list is None:
            return list(dict.fromkeys(images))
        root, file = self.data_root or '', os.fspath(self.image_list)
        if not is_abs(file):
            file = os.path.join(root, file)
        if not fileio.exists(file, backend_args=self.backend_args):
            raise MissingFileError(
                'the list of images does not exist: set image_list of the dataset '
                f'(below data_root, now {self.data_root!r}, unless absolute)',
                file=file,
            )
        with naming_file(file):
            lines = number_lines(read_bytes(file, self.backend_args))
            return pick_listed(lines, root, images)

    def _check_filtered(self, data_list: Sequence[dict]) -> Sequence[dict]:
        if not data_list:
            raise UserError(
                f'filter_cfg={self.filter_cfg} leaves none of the '
                f'{len(self.data_list)} images of {self.ann_file}'
            )
        return data_list

    def _check_classes(self) -> None:
        check_class_names(self._metainfo.get('classes') or ())

    def _check_ann_file(self) -> None:
        if not fileio.exists(self.ann_file, backend_args=self.backend_args):
            raise MissingFileError(
                'the annotation file does not exist: set ann_file or data_root (now '
                f'{self.data_root!r}) in the dataset of train_dataloader, '
                'val_dataloader or test_dataloader',
                file=self.ann_file,
            )
        if is_local(self.ann_file, self.backend_args):
            check_is_file(self.ann_file)

    def _find_missing(self, paths: Sequence[str]) -> list[str]:
        """Files that are missing on a local disk.

        Elsewhere a look-up may cost a request: what reads a file names it.
        """
        return (
            find_missing_files(paths) if is_local(paths[0], self.backend_args) else []
        )

    def _find_unusable_images(self, data_list: Sequence[dict]) -> set[str]:
        """Images that are missing or, with ``decode_all``, broken.

        Raises:
            MissingFileError: Images are missing and not skipped, or all are missing.
            BrokenImageError: Images are broken and not skipped, or all are broken.
        """
        paths = [data['img_path'] for data in data_list]
        missing = set(self._find_missing(paths))
        place = self._say_where(sorted(missing)) if missing else ''
        settle(
            describe_missing(sorted(missing), paths, self.ann_file, place),
            self.skip_broken,
        )
        if not self.decode_all:
            return missing
        present = [data for data in data_list if data['img_path'] not in missing]
        title = f'Decoding the images of {Path(self.ann_file).name}'
        broken, remarks = check_images(present, title, self.backend_args)
        settle(describe_broken(broken, len(present)), self.skip_broken)
        for line in describe_remarks(remarks, len(present), self.ann_file):
            warn(line)
        return missing | broken.keys()

    def _name_places(self) -> str:
        """The settings that say where images lie, with their values."""
        root = f'data_root (now {self.data_root!r})'
        return f'data_prefix (now {self.data_prefix}) or {root}'

    def _say_where(self, missing: Sequence[str]) -> str:
        """How to go on where images are missing."""
        folders = [os.path.dirname(self.ann_file), self.data_root or '']
        folders += [*self.data_prefix.values(), os.path.dirname(missing[0])]
        namesake = find_namesake(missing[0], folders)
        hints = [
            f'Set {self._name_places()} of the dataset to where they lie',
            f'the first one may be {namesake}' if namesake else '',
            'a backslash separates folders on Windows alone, and with / in its place '
            'there is no such file either'
            if any('\\' in path for path in missing)
            else '',
            'to go on without them, name the others in an image_list, or set '
            'skip_broken=True in the training dataset',
        ]
        return '; '.join(filter(None, hints))
