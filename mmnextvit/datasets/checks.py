"""Datasets that check their data before the first epoch, and say what to change.

MMDetection drops some bad boxes without a word, passes others on, swaps class names
whose order differs from the annotation file's, and meets a missing image hours into
an epoch. `VerifiedDataMixin` makes errors and warnings of these for MMDetection's
datasets.
"""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import fileio
from mmengine.fileio.backends import LocalBackend
from mmengine.logging import print_log

from ..utils.errors import MissingFileError, UserError
from ..utils.messages import first_few, shorten, show
from .images import (
    BrokenImageError,
    find_broken_images,
    find_missing_files,
    use_verified_loader,
)
from .mmdet_bases import DetDataset

MAX_CLASS_CHARS = 2000  # COCO's 80 names have 900, to be copied into a config


def warn(message: str) -> None:
    """Logs a warning with the run's logger."""
    print_log(message, logger='current', level=logging.WARNING)


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


# ------------------------------------------------------------------------- datasets


class VerifiedDataMixin(DetDataset):
    """Checks the data of one of MMDetection's datasets while it loads its list.

    Mix it in before such a class. Faults that it meets while annotations are parsed go
    to ``self.box_faults`` and are reported in one warning. Images are read through
    `LoadVerifiedImage` wherever the pipeline says ``LoadImageFromFile``; a pipeline
    that a hook puts in later must name it itself.

    Args:
        skip_broken: For training: go on without images that are missing, truncated
            or undecodable. Each is named once in a warning, and `DataReportHook`
            counts them. Without it they are errors.
        decode_all: Decode every image beforehand, so that all broken ones are named
            at once; with ``skip_broken`` they are left out.
        pipeline: Transforms, as for MMEngine's ``BaseDataset``.

    Attributes:
        broken: Bool tensor in shared memory, one flag for each sample: what this
            process and the data loader's workers met as broken. Empty until the data
            are loaded.
        box_faults: File names or places of the boxes that are dropped, by fault.

    Raises:
        MissingFileError: The annotation file or images are missing.
        UserError: The annotation file is unusable, or disagrees with the classes.
        BrokenImageError: ``decode_all`` found broken images.
    """

    def __init__(
        self,
        *args: Any,
        skip_broken: bool = False,
        decode_all: bool = False,
        pipeline: Sequence = (),
        **kwargs: Any,
    ) -> None:
        if skip_broken and kwargs.get('test_mode'):
            raise UserError(
                'skip_broken=True is for training: evaluated without some images, '
                'the mAP would be of another data set. Repair the images or take '
                'them out of the annotations'
            )
        self.skip_broken = skip_broken
        self.decode_all = decode_all
        self.box_faults: dict[str, list[str]] = defaultdict(list)
        self.broken = torch.zeros(0, dtype=torch.bool)
        super().__init__(*args, pipeline=use_verified_loader(pipeline), **kwargs)

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        super().full_init()
        self.broken = torch.zeros(len(self), dtype=torch.bool).share_memory_()

    def load_data_list(self) -> list[dict]:
        self._check_classes()
        self._check_ann_file()
        data_list = self._read_data_list()
        if not data_list:
            raise UserError('the file lists no images', file=self.ann_file)
        if self.box_faults:
            warn(f'{self.ann_file}: boxes dropped: {describe_faults(self.box_faults)}')
        if not self.test_mode and not any(data['instances'] for data in data_list):
            raise UserError(
                'the file holds no usable box of '
                f'{show_classes(self.metainfo["classes"])}: there is nothing to train '
                'on',
                file=self.ann_file,
            )
        unusable = self._find_unusable_images([data['img_path'] for data in data_list])
        return [data for data in data_list if data['img_path'] not in unusable]

    def filter_data(self) -> list[dict]:
        return self._check_filtered(super().filter_data())

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

    def _read_data_list(self) -> list[dict]:
        """What MMDetection's dataset reads; another format is read in its place."""
        return super().load_data_list()

    def _check_filtered(self, data_list: list[dict]) -> list[dict]:
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

    def _find_missing(self, paths: Sequence[str]) -> list[str]:
        """Files that are missing on a local disk.

        Elsewhere a look-up may cost a request: what reads a file names it.
        """
        backend = fileio.get_file_backend(paths[0], backend_args=self.backend_args)
        return find_missing_files(paths) if isinstance(backend, LocalBackend) else []

    def _find_unusable_images(self, paths: Sequence[str]) -> set[str]:
        """Images that are missing or, with ``decode_all``, broken.

        Raises:
            MissingFileError: Images are missing and not skipped, or all are missing.
            BrokenImageError: Images are broken and not skipped, or all are broken.
        """
        missing = self._find_missing(paths)
        if missing:
            message = (
                f'{len(missing)} of the {len(paths)} images that {self.ann_file} '
                f'names are missing: {first_few(missing)}'
            )
            if not self.skip_broken or len(missing) == len(set(paths)):
                raise MissingFileError(
                    f'{message}. Set data_prefix (now {self.data_prefix}) or data_root '
                    f'(now {self.data_root!r}) of the dataset to where they lie'
                )
            warn(f'{message}: skipped')
        unusable = set(missing)
        if not self.decode_all:
            return unusable
        present = [path for path in paths if path not in unusable]
        title = f'Decoding the images of {Path(self.ann_file).name}'
        broken = find_broken_images(present, title, self.backend_args)
        if broken:
            message = f'{len(broken)} of {len(present)} images are broken'
            lines = '\n  '.join([f'{message}:', *map(str, broken.values())])
            if not self.skip_broken or len(broken) == len(present):
                raise BrokenImageError(lines)
            warn(f'{lines}\n{message}: skipped')
        return unusable | broken.keys()
