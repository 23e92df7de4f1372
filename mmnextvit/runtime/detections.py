"""What was found in an image."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from .errors import OptionError
from .masks import Masks, outline_mask

DIGITS = 6  # of YOLO's fractions


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

    def _replace(self, **values: Any) -> 'Detections':
        """A copy with other values, of which ``masks`` may be one."""
        masks = values.pop('masks', self.masks)
        return Detections(*Arrays(*self)._replace(**values), masks)


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
        masks: (N, H, W), bool, of a detector that finds masks; or ``Masks``, which are
            made when they are asked for.

    Attributes:
        boxes: (N, 4), float32, not rounded; and so are the others.
        scores: (N,), float32.
        labels: (N,), int64.
        names: The class of each object.
        masks: (N, H, W), bool, or ``None``.
        each_mask: The same, of a large image that was cut into tiles one by one, since
            its ``masks`` take N times as much memory.
    """

    def __init__(
        self,
        boxes: Array,
        scores: Array,
        labels: Array,
        classes: Sequence[str],
        masks: np.ndarray | Masks | None = None,
    ) -> None:
        self.boxes = np.array(boxes.tolist(), np.float32).reshape(-1, 4)
        self.scores = np.array(scores.tolist(), np.float32)
        self.labels = np.array(labels.tolist(), np.int64)
        self.names = [classes[label] for label in self.labels.tolist()]
        self.each_mask = masks
        rows = zip(self.names, scores.tolist(), boxes.tolist())
        super().__init__(
            {
                'class': name,
                'score': round(score, 4),
                'box': [round(x, 2) for x in box],
            }
            for name, score, box in rows
        )

    @property
    def masks(self) -> np.ndarray | None:
        masks = self.each_mask
        return masks.to_array() if isinstance(masks, Masks) else masks

    @masks.setter
    def masks(self, masks: np.ndarray | Masks | None) -> None:
        self.each_mask = masks

    def add_polygons(self) -> list[dict[str, Any]]:
        """The objects with the ``polygons`` of their masks, if there are any."""
        if self.each_mask is None:
            return list(self)
        return [
            dict(found, polygons=outline_mask(mask))
            for found, mask in zip(self, self.each_mask)
        ]

    def to_supervision(self) -> Any:
        """The same as ``supervision.Detections``, names in ``.data['class_name']``.

        Raises:
            ImportError: supervision is not installed.
        """
        supervision = import_for(
            'to_supervision()', 'supervision', 'supervision>=0.31.2'
        )
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels,
            mask=self.masks,
            data={'class_name': np.array(self.names, str)},
        )

    def to_coco(
        self,
        image_id: int | str,
        category_ids: Sequence[int] | Mapping[str, int] | None = None,
    ) -> list[dict[str, Any]]:
        """The same as entries of COCO's results, for ``json.dump``, not rounded.

        Args:
            image_id: The image's id in the annotations.
            category_ids: The id of each label, in their order, or by the name of the
                class; counted from 1 if ``None``, as ``predict --save-labels coco``
                does.

        Returns:
            ``{'image_id', 'category_id', 'bbox': [x, y, width, height], 'score'}`` of
            each object, and with masks their ``'segmentation'``, run-length encoded.

        Raises:
            OptionError: A class has no id.
            ImportError: There are masks, and pycocotools is not installed.
        """
        sizes = self.boxes[:, 2:] - self.boxes[:, :2]
        corners = self.boxes[:, :2]
        results = [
            {
                'image_id': image_id,
                'category_id': find_id(category_ids, label, name),
                'bbox': box,
                'score': score,
            }
            for label, name, box, score in zip(
                self.labels.tolist(),
                self.names,
                np.hstack([corners, sizes]).tolist(),
                self.scores.tolist(),
            )
        ]
        if self.each_mask is None or not results:
            return results
        coder = import_for('to_coco() of masks', 'pycocotools.mask', 'pycocotools')
        packed = [
            coder.encode(np.asfortranarray(mask, np.uint8)) for mask in self.each_mask
        ]
        return [
            {**one, 'segmentation': {**rle, 'counts': rle['counts'].decode()}}
            for one, rle in zip(results, packed, strict=True)
        ]

    def to_yolo(self, width: int, height: int, scores: bool = False) -> str:
        """The boxes as the text of a YOLO label file.

        Args:
            width: Of the image in pixels.
            height: The same.
            scores: Whether each line ends in the score, as ``--save-conf`` of YOLOv5
                has it.

        Returns:
            A line ``label x y width height`` for each object, x and y of the middle, in
            fractions of the image.

        Raises:
            OptionError: No image has that size, or a box lies outside of it.
        """
        if not (width > 0 and height > 0):
            raise OptionError(
                f'to_yolo({width!r}, {height!r}): width and height are pixels, above 0'
            )
        sides: np.ndarray = np.array([width, height] * 2, float)
        if (self.boxes > sides + 1).any() or (self.boxes < -1).any():
            raise OptionError(
                f'to_yolo({width!r}, {height!r}): boxes lie outside of such an image. '
                'Give the width, then the height of the image that was predicted on'
            )
        x1, y1, x2, y2 = (self.boxes.clip(0, sides) / sides).T
        columns = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
        rows = np.stack(columns + [self.scores] * scores, 1).tolist()
        return ''.join(
            ' '.join([str(label), *(f'{value:.{DIGITS}f}' for value in row)]) + '\n'
            for label, row in zip(self.labels.tolist(), rows, strict=True)
        )


def find_id(
    ids: Sequence[int] | Mapping[str, int] | None, label: int, name: str
) -> int:
    """The id of a category; see :meth:`Objects.to_coco`.

    Raises:
        OptionError: The class has none.
    """
    if ids is None:
        return label + 1
    try:
        return int(ids[name] if isinstance(ids, Mapping) else ids[label])
    except LookupError as error:
        raise OptionError(
            f'category_ids has no id of the class {name!r} (label {label}): it is a '
            'list of ids in the order of the classes, or a dict from names to ids'
        ) from error


def import_for(purpose: str, module: str, requirement: str) -> ModuleType:
    """Imports a package that is needed for one thing alone.

    Raises:
        ImportError: It is not installed; it says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition('.')[0]
        raise ImportError(
            f'{purpose} needs {package}, which is not installed or does not start '
            f'({error}): pip install "{requirement}"',
            name=package,
        ) from error
