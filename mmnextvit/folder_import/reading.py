"""What a folder of images is read as."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reading:
    """A folder of one layout: what the datasets of a config need to read it.

    Attributes:
        layout: Its name, as its users call it: ``'Roboflow YOLO'``, ``'Pascal VOC'``.
        classes: The names that the folder gives, in the order of its numbers; those
            that own no box included. Empty where the boxes alone name them.
        datasets: By split, of ``'train'``, ``'val'`` and ``'test'``, the config of a
            dataset that reads it, with absolute paths and without a pipeline, classes
            or ``class_ids``. Without a split there is ``'train'`` alone.
        class_ids: The numbers of ``classes`` in the annotations, where these have any.
        notes: Lines to be printed: what was chosen, left out, or not there.
    """

    layout: str
    classes: tuple[str, ...]
    datasets: Mapping[str, Mapping[str, Any]]
    class_ids: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
