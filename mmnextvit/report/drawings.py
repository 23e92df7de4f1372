"""The validation images with most faults, drawn with what is wrong and why."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from ..datasets.images import BrokenImageError, load_image
from ..evaluation.curves import Fault, Kind, find_worst_images
from ..evaluation.matching import MATCH_IOU, Image, Matching
from ..utils.messages import first_few
from ..visualization.marks import Mark, draw_marks
from .batches import encode_jpeg
from .page import Block, Picture

FOUND, MISSED, FALSE = '#009e73', '#d55e00', '#0072b2'
CONFUSED, MISPLACED = '#cc79a7', '#e69f00'
LEGEND = (
    (FOUND, 'found'),
    (MISSED, 'missed: annotated, not detected (dashed)'),
    (FALSE, 'false: detected, nothing annotated'),
    (CONFUSED, 'other class: detected as something else than annotated'),
    (MISPLACED, 'badly placed: IoU with the annotated box (dashed) below 0.75'),
)
GOOD_IOU = 0.75  # a box that overlaps its object less is drawn as badly placed
COUNT = 8  # images of each kind
RANKINGS: dict[Kind, tuple[str, str]] = {
    'missed': ('Most missed', 'Images in which most annotated objects were not found.'),
    'false': ('Most false', 'Images with most detections of what is not annotated.'),
    'misplaced': (
        'Most badly placed',
        'Images with most boxes that are somewhere near the object, but not on it.',
    ),
}


def list_loose(matching: Matching, threshold: np.ndarray) -> list[Fault]:
    """Objects that were found by a box that lies badly.

    Args:
        matching: Of detections to truth.
        threshold: Minimum score, (classes,).
    """
    found = matching.detections
    is_loose = (found.truth >= 0) & ~found.ignored & (found.iou < GOOD_IOU)
    is_loose &= found.score >= threshold[found.label]
    return [
        Fault(
            'misplaced',
            int(found.image[i]),
            int(i),
            int(found.truth[i]),
            f'overlaps the object by IoU {found.iou[i]:.2f}',
        )
        for i in np.flatnonzero(is_loose)
    ]


def is_confused(matching: Matching, fault: Fault) -> bool:
    """Whether a false detection is of an object that has another class."""
    if fault.kind != 'false' or fault.truth < 0:
        return False
    detections, truths = matching.detections, matching.truths
    if detections.label[fault.detection] == truths.label[fault.truth]:
        return False
    boxes = detections.box[fault.detection], truths.box[fault.truth]
    return compute_iou(*boxes) >= MATCH_IOU


def compute_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes, x1, y1, x2, y2."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    both = float(np.prod(sides))
    areas = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]))
    return both / max(areas - both, 1e-9)


def list_marks(
    matching: Matching, image: int, faults: Iterable[Fault], threshold: np.ndarray
) -> list[Mark]:
    """What is drawn on an image: what was found first, what is wrong above it."""
    detections, truths = matching.detections, matching.truths
    names = matching.classes
    marks, wrong = [], []
    faults = list(faults)
    at_fault = {fault.detection for fault in faults if fault.kind != 'missed'}
    here = np.flatnonzero(
        (detections.image == image) & (detections.truth >= 0) & ~detections.ignored
    )
    for i in here:
        if detections.score[i] >= threshold[detections.label[i]] and i not in at_fault:
            marks.append(Mark(detections.box[i], FOUND, width=1))
    for fault in faults:
        if fault.kind == 'missed':
            name = names[truths.label[fault.truth]]
            box = truths.box[fault.truth]
            wrong.append(Mark(box, MISSED, f'missed {name}', dashed=True))
            continue
        name = names[detections.label[fault.detection]]
        score = detections.score[fault.detection]
        box = detections.box[fault.detection]
        if fault.kind == 'misplaced':
            truth = truths.box[fault.truth]
            iou = compute_iou(box, truth)
            wrong.append(Mark(truth, MISPLACED, dashed=True, width=1))
            wrong.append(Mark(box, MISPLACED, f'IoU {iou:.2f}'))
        elif is_confused(matching, fault):
            truth_name = names[truths.label[fault.truth]]
            text = f'{name} {score:.2f}, is {truth_name}'
            wrong.append(Mark(box, CONFUSED, text))
        else:
            wrong.append(Mark(box, FALSE, f'false {name} {score:.2f}'))
    return marks + wrong


def describe_faults(matching: Matching, image: int, faults: Iterable[Fault]) -> str:
    """What is wrong on an image, in a line."""
    faults = list(faults)
    detections, truths = matching.detections, matching.truths
    names = matching.classes
    here = (truths.image == image) & ~truths.crowd
    total = np.bincount(truths.label[here], minlength=len(names))
    missed = Counter(truths.label[f.truth] for f in faults if f.kind == 'missed')
    parts = [f'{n} of {total[c]} {names[c]} missed' for c, n in missed.most_common()]
    false: dict[tuple[int, bool], list[float]] = {}
    for fault in faults:
        if fault.kind == 'false':
            label = int(detections.label[fault.detection])
            key = label, is_confused(matching, fault)
            false.setdefault(key, []).append(float(detections.score[fault.detection]))
    for (label, confused), scores in false.items():
        what = f'{names[label]} for another class' if confused else names[label]
        shown = first_few((f'{score:.2f}' for score in scores), 3)
        parts.append(f'{len(scores)} false {what} ({shown})')
    ious = [
        compute_iou(detections.box[f.detection], truths.box[f.truth])
        for f in faults
        if f.kind == 'misplaced'
    ]
    if ious:
        boxes = 'box' if len(ious) == 1 else 'boxes'
        shown = first_few((f'{iou:.2f}' for iou in sorted(ious)), 3)
        parts.append(f'{len(ious)} {boxes} badly placed (IoU {shown})')
    return ', '.join(parts)


def describe_fault(matching: Matching, fault: Fault) -> str:
    """What is wrong and why, in a line."""
    if fault.kind == 'missed':
        name = matching.classes[matching.truths.label[fault.truth]]
        return f'{name} missed: {fault.why}'
    name = matching.classes[matching.detections.label[fault.detection]]
    score = matching.detections.score[fault.detection]
    what = 'badly placed' if fault.kind == 'misplaced' else 'false'
    return f'{name} {what} ({score:.2f}): {fault.why}'


def draw_worst_images(
    matching: Matching,
    faults: Sequence[Fault],
    threshold: np.ndarray,
    count: int = COUNT,
) -> tuple[list[Block], list[str]]:
    """The images with most faults of each kind, each image once.

    Args:
        matching: Of detections to truth.
        faults: All of it that is wrong.
        threshold: Minimum score, (classes,).
        count: Images of each kind at most.

    Returns:
        The parts of the page; and what could not be drawn, in sentences.
    """
    blocks, unread = [], []
    shown: set[int] = set()
    number = 0
    for kind, (title, text) in RANKINGS.items():
        pictures: list[Picture] = []
        for image, its_faults in find_worst_images(faults, kind, count + len(shown)):
            if len(pictures) == count or image in shown:
                continue
            shown.add(image)
            try:
                pixels = read_pixels(matching.images[image])
            except (BrokenImageError, OSError) as error:
                unread.append(f'An image is not drawn. {error}')
                continue
            number += 1
            marks = list_marks(matching, image, its_faults, threshold)
            name = name_image(matching.images[image])
            wrong = describe_faults(matching, image, its_faults)
            pictures.append(
                Picture(
                    f'worst_{number:02}.jpg',
                    encode_jpeg(draw_marks(pixels, marks, font_size=13)),
                    alt=f'{name} with its boxes: {wrong}',
                    caption=f'{name}: {wrong}',
                    details=[describe_fault(matching, f) for f in its_faults],
                )
            )
        if not pictures:
            again = any(fault.kind == kind for fault in faults)
            text = 'All of them are shown above.' if again else 'There are none.'
        blocks.append(Block(title, text, pictures=pictures))
    return blocks, unread


def read_pixels(image: Image) -> np.ndarray:
    """An image that was evaluated, (H, W, 3), RGB, uint8.

    Raises:
        BrokenImageError: It cannot be read.
        OSError: Its file is not known, or cannot be opened.
    """
    if not image.path:
        raise FileNotFoundError(f'The file of image {image.id} is not known')
    stated = image.width, image.height
    return load_image(image.path, stated=stated).image[..., ::-1].copy()


def name_image(image: Image) -> str:
    """The name of an image's file, or its id."""
    return image.path.replace('\\', '/').rpartition('/')[2] or f'image {image.id}'
