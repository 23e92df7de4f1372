"""Detections on an image: boxes, masks and texts, by OpenCV and Pillow.

MMDetection's visualizer draws by matplotlib, which takes several times as long as a
detector does for the image, and is not to be called by several threads.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import BaseInstanceMasks
from mmdet.visualization.palette import get_palette
from mmengine.structures import InstanceData

from ..runtime import Masks
from .marks import Mark, draw_marks

COVER = 0.45  # how much of a mask's pixels its colour takes


def list_colours(palette: Any, count: int) -> list[str]:
    """The colour of each class, as Pillow takes it.

    Args:
        palette: A list of (R, G, B), 0 to 255, or what else MMDetection's visualizer
            takes. Classes that it lacks get random colours, the same each time.
        count: How many classes there are.
    """
    own = list(palette) if isinstance(palette, (list, np.ndarray)) else []
    if not own and palette is not None and not isinstance(palette, list):
        own = list(get_palette(palette, count))
    colours = [*own, *get_palette('random', count)[len(own) :]]
    return ['#{:02x}{:02x}{:02x}'.format(*map(int, colour)) for colour in colours]


def draw_detections(
    image: np.ndarray,
    instances: InstanceData,
    classes: Sequence[str],
    colours: Sequence[str],
) -> np.ndarray:
    """An image with boxes, their classes and their scores in percent.

    Lines and letters grow with the image, and letters are smaller at small boxes. Its
    time is linear in the number of boxes. Several threads may draw at once.

    Args:
        image: (H, W, 3), RGB, uint8.
        instances: ``bboxes`` and ``labels`` on the CPU, and maybe ``scores`` and
            ``masks``, in pixels of ``image``; of falling score, if any.
        classes: Names of the labels.
        colours: Of the labels, as of :func:`list_colours`.

    Returns:
        (H, W, 3), RGB, uint8: a new image.
    """
    labels = instances.labels.tolist()
    boxes: np.ndarray = np.asarray(get_box_tensor(instances.bboxes), float)
    boxes = boxes.reshape(-1, 4)
    drawn = image.copy()
    if 'masks' in instances:
        masks = to_arrays(instances.masks)
        around: list[tuple[int, int, int, int]] = []
        for row in reversed(range(len(labels))):
            mask = masks[row]
            draw_mask(drawn, mask, colours[labels[row]])
            around.insert(0, measure_mask(mask))
        if labels:  # of detectors that find masks alone, boxes are zero
            boxes = np.where(boxes.any(1, keepdims=True), boxes, around)
    mean_side = np.sqrt(image.shape[0] * image.shape[1])
    width, largest = max(2, round(mean_side / 300)), max(12, mean_side / 38)
    smallest = max(9, 0.6 * largest)
    texts = write_texts(instances, [classes[label] for label in labels])
    marks = [
        Mark(
            box,
            colours[label],
            text,
            width=width,
            font_size=3 * round(np.clip(min(side) / 4, smallest, largest) / 3),
        )
        for box, label, text, side in zip(
            boxes, labels, texts, np.abs(boxes[:, 2:] - boxes[:, :2])
        )
    ]
    # The most certain one comes last: it covers others, and its text finds a place.
    return draw_marks(drawn, marks[::-1], max(image.shape[:2]))


def write_texts(instances: InstanceData, names: Sequence[str]) -> list[str]:
    """What stands at each box: ``'cat: 93.2'``, or of the truth the class alone.

    Where there are ``tracks``, their numbers follow: ``'cat: 93.2 #4'``.
    """
    if 'scores' not in instances:
        return list(names)
    percents = (round(score * 100, 1) for score in instances.scores.tolist())
    texts = [f'{name}: {percent}' for name, percent in zip(names, percents)]
    tracks = instances.get('tracks') or [None] * len(texts)
    return [
        text if track is None else f'{text} #{track}'
        for text, track in zip(texts, tracks)
    ]


def to_arrays(masks: Any) -> np.ndarray | Masks:
    """Masks as MMDetection has them, as arrays (N, H, W), bool; our own as they are."""
    if isinstance(masks, Masks):
        return masks
    if isinstance(masks, BaseInstanceMasks):
        masks = masks.to_ndarray()
    return np.asarray(masks, bool)


def measure_mask(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box around a mask (H, W), bool; x1, y1, x2, y2."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return left, top, left + width, top + height


def draw_mask(image: np.ndarray, mask: np.ndarray, colour: str) -> None:
    """Colours the pixels of a mask in an image, with a white line around its parts.

    Args:
        image: (H, W, 3), RGB, uint8, which is drawn on.
        mask: (H, W), bool.
        colour: '#rrggbb'.
    """
    x1, y1, x2, y2 = measure_mask(mask)
    if x1 == x2:
        return
    inside, part = mask[y1:y2, x1:x2], image[y1:y2, x1:x2]
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    part[inside] = (1 - COVER) * part[inside] + COVER * values
    outlines, _ = cv2.findContours(
        inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    for outline in outlines:
        part[outline[:, 0, 1], outline[:, 0, 0]] = 255
