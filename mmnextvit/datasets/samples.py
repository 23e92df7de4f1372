"""A dataset's images and boxes, for whatever counts or compares them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
    """An image of a dataset, with its boxes.

    Attributes:
        path: Of the image.
        size: Its width and height in pixels, as the annotations say or as measured.
        boxes: (n, 4) as x1, y1, x2, y2 in pixels, those to be ignored left out.
        labels: (n,) their classes, from 0.
    """

    path: str
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray


def list_samples(data_list: Iterable[dict]) -> list[Sample]:
    """What MMDetection's datasets have loaded, as :class:`Sample`.

    Args:
        data_list: A dataset's ``data_list``, or what its ``load_data_list`` gives.
    """
    samples = []
    for data in data_list:
        boxes = [box for box in data['instances'] if not box.get('ignore_flag')]
        samples.append(
            Sample(
                data['img_path'],
                (data['width'], data['height']),
                np.array([box['bbox'] for box in boxes], float).reshape(-1, 4),
                np.array([box['bbox_label'] for box in boxes], int),
            )
        )
    return samples


def list_datasets(dataset: object) -> list:
    """The datasets inside wrappers such as ``ConcatDataset`` and ``RepeatDataset``."""
    if hasattr(dataset, 'datasets'):
        return [inner for part in dataset.datasets for inner in list_datasets(part)]
    return list_datasets(dataset.dataset) if hasattr(dataset, 'dataset') else [dataset]
