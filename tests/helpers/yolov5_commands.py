"""What YOLOv5's ``detect.py`` and ``val.py`` do around the network.

Written from the rules that its documentation and reports state, in loops over single
boxes: nothing here is shared with what it judges.
"""

import cv2
import numpy as np


def letterbox(
    image: np.ndarray, size: int, stride: int = 32, rect: bool = True
) -> np.ndarray:
    """An image, padded with grey on both sides alike, the odd pixel behind."""
    height, width = image.shape[:2]
    gain = min(size / height, size / width)
    inner = round(height * gain), round(width * gain)
    spare = [(size - side) % stride if rect else size - side for side in inner]
    if inner != (height, width):
        image = cv2.resize(image, inner[::-1], interpolation=cv2.INTER_LINEAR)
    (top, bottom), (left, right) = (
        (round(pad / 2 - 0.1), round(pad / 2 + 0.1)) for pad in spare
    )
    grey = cv2.BORDER_CONSTANT
    return cv2.copyMakeBorder(image, top, bottom, left, right, grey, value=(114,) * 3)


def scale_boxes(
    boxes: np.ndarray, canvas: tuple[int, int], image: tuple[int, int]
) -> np.ndarray:
    """Boxes (N, 4) of the letterbox in the image's pixels; sizes are height, width."""
    gain = min(canvas[0] / image[0], canvas[1] / image[1])
    left, top = (canvas[1] - image[1] * gain) / 2, (canvas[0] - image[0] * gain) / 2
    moved = (boxes - [left, top, left, top]) / gain
    return np.clip(moved, 0, [image[1], image[0], image[1], image[0]])


def decode(
    maps: list[np.ndarray], anchors: list[list[tuple]], strides: list[int]
) -> np.ndarray:
    """Rows (N, 5 + classes) of x, y, w, h, objectness, classes.

    Args:
        maps: Logits of each level, (anchors, H, W, 5 + classes).
        anchors: Width and height of each, in pixels, by level.
        strides: Of the levels.
    """
    rows = []
    for logits, sizes, stride in zip(maps, anchors, strides):
        values = 1 / (1 + np.exp(-logits.astype(float)))
        for anchor, size in enumerate(sizes):
            for y in range(values.shape[1]):
                for x in range(values.shape[2]):
                    v = values[anchor, y, x]
                    corner = (2 * v[:2] - 0.5 + (x, y)) * stride
                    rows.append([*corner, *((2 * v[2:4]) ** 2 * size), *v[4:]])
    return np.array(rows)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes x1, y1, x2, y2."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return common / (both - common)


def suppress(
    rows: np.ndarray,
    confidence: float = 0.001,
    overlap: float = 0.6,
    max_candidates: int = 30_000,
    max_detections: int = 300,
) -> list[tuple]:
    """Box, score and label of what val.py's NMS leaves of `decode`'s rows.

    With several classes each that reaches the confidence is a candidate of its own.
    """
    candidates = []
    for x, y, w, h, objectness, *classes in rows:
        if objectness <= confidence:
            continue
        box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        for label, share in enumerate(classes):
            if share * objectness > confidence:
                candidates.append((box, share * objectness, label))
    candidates.sort(key=lambda one: -one[1])
    kept: list[tuple] = []
    for one in candidates[:max_candidates]:
        same = (other for other in kept if other[2] == one[2])
        if all(iou(one[0], other[0]) <= overlap for other in same):
            kept.append(one)
    return kept[:max_detections]


def measure(images: list[tuple], classes: int) -> np.ndarray:
    """Average precisions (classes, 10) at IoU 0.5 to 0.95; NaN without objects.

    Args:
        images: Of each the detections (box, score, label) and the objects (box, label).
        classes: How many there are.
    """
    levels = np.linspace(0.5, 0.95, 10)
    marks: dict[int, list] = {label: [] for label in range(classes)}
    totals = dict.fromkeys(range(classes), 0)
    for detections, objects in images:
        for _, label in objects:
            totals[label] += 1
        taken: set[tuple] = set()  # IoU level and object
        for box, score, label in sorted(detections, key=lambda one: -one[1]):
            ious = [
                iou(box, other) if label == of else 0.0 for other, of in objects
            ] or [0.0]
            best = int(np.argmax(ious))
            right = []
            for level in levels:
                free = (level, best) not in taken
                right.append(ious[best] >= level and free)
                if right[-1]:
                    taken.add((level, best))
            marks[label].append((score, right))
    return np.array(
        [
            [
                integrate(marks[label], level, totals[label])
                for level in range(len(levels))
            ]
            for label in range(classes)
        ]
    )


def integrate(marks: list, level: int, total: int) -> float:
    """The area under precision over recall, at 101 recalls by trapezoids."""
    if not total:
        return float('nan')
    if not marks:
        return 0.0
    recalls, precisions, right = [0.0], [1.0], 0
    ordered = sorted(marks, key=lambda one: -one[0])
    for number, (_, hits) in enumerate(ordered, 1):
        right += hits[level]
        recalls.append(right / total)
        precisions.append(right / number)
    recalls.append(1.0)
    precisions.append(0.0)
    for i in reversed(range(len(precisions) - 1)):
        precisions[i] = max(precisions[i], precisions[i + 1])
    heights = np.interp(np.linspace(0, 1, 101), recalls, precisions)
    return float(((heights[1:] + heights[:-1]) / 2).sum() / 100)
