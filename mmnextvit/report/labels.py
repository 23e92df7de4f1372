"""Statistics of the annotated boxes that a detector is trained and judged on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from mmengine.dataset import BaseDataset

from ..datasets.samples import Sample, list_samples


class LabelStatistics(NamedTuple):
    """The boxes of a split.

    Attributes:
        classes: Their names.
        labels: (n,) class of each box.
        sizes: (n, 2) width and height in pixels of its image.
        shares: (n, 2) the same in parts of the image's width and height.
        centres: (n, 2) x and y in parts of the image's width and height.
        per_image: (images,) boxes of each image.
        images_by_class: (classes,) images with a box of the class.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    sizes: np.ndarray
    shares: np.ndarray
    centres: np.ndarray
    per_image: np.ndarray
    images_by_class: np.ndarray

    @property
    def by_class(self) -> np.ndarray:
        """(classes,) boxes."""
        return np.bincount(self.labels, minlength=len(self.classes))


def read_samples(datasets: Iterable[BaseDataset]) -> list[Sample]:
    """The images and boxes of datasets without wrappers."""
    return [
        sample
        for dataset in datasets
        for sample in list_samples(map(dataset.get_data_info, range(len(dataset))))
    ]


def count_labels(samples: Sequence[Sample], classes: Sequence[str]) -> LabelStatistics:
    """The statistics of a split.

    Args:
        samples: Its images.
        classes: Names of the labels.
    """
    boxes = np.concatenate([np.zeros((0, 4)), *(s.boxes for s in samples)])
    labels = np.concatenate([[], *(s.labels for s in samples)]).astype(int)
    per_image = np.array([len(s.boxes) for s in samples], int)
    images = np.repeat(
        np.array([s.size for s in samples], float).reshape(-1, 2), per_image, axis=0
    )
    images = np.maximum(images, 1)
    sizes = boxes[:, 2:] - boxes[:, :2]
    seen = [np.unique(s.labels) for s in samples]
    return LabelStatistics(
        classes=tuple(classes),
        labels=labels,
        sizes=sizes,
        shares=sizes / images,
        centres=(boxes[:, :2] + boxes[:, 2:]) / 2 / images,
        per_image=per_image,
        images_by_class=np.bincount(
            np.concatenate([[], *seen]).astype(int), minlength=len(classes)
        ),
    )


def tabulate_labels(
    splits: Mapping[str, LabelStatistics],
) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of a table: each class of each split."""
    columns = ['split', 'class', 'images', 'boxes']
    columns += [f'{what}_{how}' for what in ('width', 'height') for how in QUANTILES]
    rows: list[list[object]] = []
    for split, statistics in splits.items():
        for label, name in enumerate(statistics.classes):
            sizes = statistics.sizes[statistics.labels == label]
            quantiles = (
                np.quantile(sizes, list(QUANTILES.values()), axis=0).T.ravel().round(1)
                if len(sizes)
                else np.full(2 * len(QUANTILES), np.nan)
            )
            counts = statistics.images_by_class[label], statistics.by_class[label]
            rows.append([split, name, *map(int, counts), *quantiles.tolist()])
    return columns, rows


QUANTILES = {'min': 0.0, 'median': 0.5, 'max': 1.0}
