"""Reads a folder's reading with the datasets that it names, as training will."""

from collections.abc import Sequence
from pathlib import Path

from mmnextvit.datasets.samples import Sample, list_samples
from mmnextvit.folder_import.reading import Reading

from mmyolo.registry import DATASETS

from tests.helpers.layouts import CLASSES

Boxes = dict[str, list[tuple[str, tuple[int, ...]]]]


def read_samples(
    reading: Reading, classes: Sequence[str] = CLASSES
) -> dict[str, list[Sample]]:
    """The images and boxes of each split; of two classes of one name the last."""
    numbers = {}
    if reading.class_ids is not None:
        by_name = dict(zip(reading.classes, reading.class_ids))
        numbers = dict(class_ids=tuple(by_name[name] for name in classes))
    return {
        split: list_samples(
            DATASETS.build(
                dict(
                    config,
                    _scope_=DATASETS.scope,  # whatever scope a test has left
                    metainfo=dict(classes=tuple(classes)),
                    filter_cfg=None,
                    serialize_data=False,
                    **numbers,
                )
            ).data_list
        )
        for split, config in reading.datasets.items()
    }


def read_boxes(reading: Reading) -> dict[str, Boxes]:
    """The boxes of each split by the names of the images' files, in whole pixels."""
    return {
        split: {
            Path(sample.path).name: [
                (CLASSES[label], tuple(box.round().astype(int).tolist()))
                for label, box in zip(sample.labels, sample.boxes)
            ]
            for sample in samples
        }
        for split, samples in read_samples(reading).items()
    }
