"""What was found in an image."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np

from .masks import Masks, outline_mask


class Arrays(NamedTuple):
    """What is known of every detection."""

    boxes: np.ndarray  # (N, 4), float32: x1, y1, x2, y2 in pixels
    scores: np.ndarray  # (N,), float32
    labels: np.ndarray  # (N,): index into the classes


class Detections(Arrays):
    """The detections in one image, by falling score: a tuple of their arrays.

    Args:
        boxes: (N, 4), float32: x1, y1, x2, y2 in pixels.
        scores: (N,), float32.
        labels: (N,): index into the classes.
        masks: Theirs, of a network that finds masks; an attribute, and no part of the
            tuple.
    """

    masks: Masks | None = None

    def __new__(
        cls,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        masks: Masks | None = None,
    ) -> 'Detections':
        made = super().__new__(cls, boxes, scores, labels)
        made.masks = masks
        return made


class Array(Protocol):
    """An array of NumPy or a tensor of torch."""

    def tolist(self) -> list: ...


class Objects(list[dict[str, Any]]):
    """The objects in an image by falling score: a list of dicts, and their arrays.

    An entry is ``{'class': name, 'score': 0.9876, 'box': [x1, y1, x2, y2]}``, rounded
    to four and two digits, with the box in pixels from the image's top left corner.

    Args:
        boxes: (N, 4).
        scores: (N,).
        labels: (N,), integers.
        classes: Names of the labels.
        masks: (N, H, W), bool, of a detector that finds masks.

    Attributes:
        boxes: (N, 4), float32, not rounded; and so are the others.
        scores: (N,), float32.
        labels: (N,), int64.
        names: The class of each object.
        masks: (N, H, W), bool, or ``None``.
    """

    def __init__(
        self,
        boxes: Array,
        scores: Array,
        labels: Array,
        classes: Sequence[str],
        masks: np.ndarray | None = None,
    ) -> None:
        self.boxes = np.array(boxes.tolist(), np.float32).reshape(-1, 4)
        self.scores = np.array(scores.tolist(), np.float32)
        self.labels = np.array(labels.tolist(), np.int64)
        self.names = [classes[label] for label in self.labels.tolist()]
        self.masks = masks
        rows = zip(self.names, scores.tolist(), boxes.tolist())
        super().__init__(
            {
                'class': name,
                'score': round(score, 4),
                'box': [round(x, 2) for x in box],
            }
            for name, score, box in rows
        )

    def add_polygons(self) -> list[dict[str, Any]]:
        """The objects with the ``polygons`` of their masks, if there are any."""
        if self.masks is None:
            return list(self)
        return [
            dict(found, polygons=outline_mask(mask))
            for found, mask in zip(self, self.masks)
        ]

    def to_supervision(self) -> Any:
        """The same as ``supervision.Detections``, names in ``.data['class_name']``.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            supervision = import_module('supervision')
        except ImportError as error:
            raise ImportError(
                f'to_supervision() needs supervision, which is not installed or does '
                f'not start ({error}): pip install "supervision>=0.31.2"',
                name='supervision',
            ) from error
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels,
            mask=self.masks,
            data={'class_name': np.array(self.names, str)},
        )
