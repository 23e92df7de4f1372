"""What tiles gain on large images, and how detections of several tiles become one.

    mmnextvit demo
    python benchmarks/slicing.py work_dirs/demo

Draws images with shapes of 18 to 340 pixels, and detects in them with the demo's
detector, which learned shapes of 20 to 56 pixels in images of 128: in each whole image,
and in tiles of 128, merged in several ways.
"""

import argparse
import contextlib
import io
import time
from collections.abc import Callable, Iterable, Iterator

import mmnextvit  # noqa: F401  (first)
from mmnextvit.datasets.demo_data import CLASSES, CORNERS, HUES
from mmnextvit.predictors import Predictor
from mmnextvit.runtime.slicing import (
    Found,
    Placed,
    Slicing,
    join,
    list_tiles,
    measure_overlap,
    merge,
    place,
)

import cv2
import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

SIZE = 640  # of the images
TILE = 128
LIMIT = 300
SCORE = 0.001


def draw(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, list[float]]]]:
    """An image, and the class and the box (x1, y1, x2, y2) of each of its shapes.

    Half of the places are for small shapes, and some of these touch large ones.
    """
    ground = rng.integers(60, 196) + rng.normal(0, 8, 3)
    for cells, strength in ((4, 14), (SIZE // 6, 12), (SIZE, 8)):
        noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        ground = ground + cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    image = ground.clip(0, 255).astype(np.uint8)
    shapes: list[tuple[int, list[float]]] = []
    taken: list[tuple[float, float, float]] = []
    for number in range(60):
        radius = np.exp(rng.uniform(*np.log((60, 170) if number < 4 else (9, 60))))
        x, y = rng.uniform(radius, SIZE - radius, 2)
        label = int(rng.integers(len(CLASSES)))
        if any(np.hypot(x - u, y - v) < 1.02 * (radius + r) for u, v, r in taken):
            continue
        taken.append((x, y, radius))
        hue = (HUES[label] + rng.integers(-12, 13)) % 180
        hsv = np.uint8([[[hue, *rng.integers(140, 256, 2)]]])
        angles = (
            rng.uniform(0, 2 * np.pi)
            + 2 * np.pi * np.arange(CORNERS[label]) / (CORNERS[label])
        )
        polygon = np.stack(
            [x + radius * np.cos(angles), y + radius * np.sin(angles)], 1
        )
        colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
        points = ((polygon - 0.5) * 16).round().astype(np.int32)
        cv2.fillPoly(image, [points], colour, cv2.LINE_AA, shift=4)
        shapes.append((label, [*polygon.min(0), *polygon.max(0)]))
    return image, shapes


def detect(predictor: Predictor, images: Iterable[np.ndarray]) -> Iterator[Found]:
    network = predictor.network
    for sample in network.detect(map(network.prepare, images), SCORE):
        found = sample.pred_instances.cpu().numpy()
        yield Found(found.bboxes, found.scores, found.labels)


def collect(predictor: Predictor, image: np.ndarray, slicing: Slicing) -> Placed:
    size = image.shape[:2]
    tiles = list_tiles(size, slicing)
    cuts = (image[t.top : t.bottom, t.left : t.right] for t in tiles)
    found = zip(tiles, detect(predictor, cuts))
    return join(place(one, n, tile, size) for n, (tile, one) in enumerate(found))


def drop(found: Placed, slicing: Slicing, grow: bool) -> Found:
    """Plain suppression, or (grow) SAHI's GREEDYNMM: the box around all that match."""
    order = np.argsort(-found.scores, kind='stable')
    boxes, scores, labels = (values[order] for values in found[:3])
    free = np.ones(len(order), bool)
    kept = []
    for best in range(len(order)):
        if not free[best] or len(kept) == LIMIT:
            continue
        free[best] = False
        others = np.flatnonzero(free & (labels == labels[best]))
        shares = measure_overlap(boxes[best], boxes[others], slicing.merge == 'ios')
        others = others[shares >= slicing.threshold]
        free[others] = False
        group = [best, *others] if grow else [best]
        low, high = boxes[group, :2].min(0), boxes[group, 2:].max(0)
        kept.append((np.append(low, high), scores[best], labels[best]))
    found_boxes, found_scores, found_labels = zip(*kept)
    return Found(*map(np.array, (found_boxes, found_scores, found_labels)))


def ours(found: Placed, slicing: Slicing) -> Found:
    return merge(found, slicing, (SIZE, SIZE), LIMIT)


def evaluate(
    truths: list[list[tuple[int, list[float]]]], results: list[Found]
) -> dict[str, float]:
    """COCO's mAP, its mAP at IoU 0.5, and mAPs by size, up to 300 detections."""
    annotations, entries = [], []
    for number, (truth, found) in enumerate(zip(truths, results), 1):
        for label, (x1, y1, x2, y2) in truth:
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                dict(
                    id=len(annotations) + 1, image_id=number, category_id=label + 1,
                    bbox=box, area=box[2] * box[3], iscrowd=0,
                )
            )  # fmt: skip
        for (x1, y1, x2, y2), score, label in zip(*map(np.ndarray.tolist, found[:3])):
            box = [x1, y1, x2 - x1, y2 - y1]
            entries.append(
                dict(image_id=number, category_id=label + 1, bbox=box, score=score)
            )
    images = [dict(id=i, width=SIZE, height=SIZE) for i in range(1, len(truths) + 1)]
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(
            dict(images=images, annotations=annotations, categories=categories)
        )
        run = COCOeval_faster(truth, truth.loadRes(entries), 'bbox')
        run.params.maxDets = [1, 10, LIMIT]
        run.params.areaRng = [[0, 1e10], [0, 40**2], [40**2, 110**2], [110**2, 1e10]]
        run.evaluate()
        run.accumulate()
    precisions = run.eval['precision']  # threshold, recall, class, area, limit
    means = {'mAP': precisions[:, :, :, 0], 'mAP50': precisions[0, :, :, 0]}
    for i, name in enumerate(('small', 'medium', 'large'), 1):
        means[name] = precisions[:, :, :, i]
    return {k: float(p[..., 2][p[..., 2] > -1].mean()) for k, p in means.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('source', help='a run of mmnextvit demo')
    parser.add_argument('checkpoint', nargs='?')
    parser.add_argument('--images', type=int, default=40)
    parser.add_argument('--overlap', type=float, default=0.2)
    args = parser.parse_args()
    predictor = Predictor(args.source, args.checkpoint, 'cpu')
    drawn = [draw(np.random.default_rng([1, i])) for i in range(args.images)]
    truths = [shapes for _, shapes in drawn]
    print('| way | threshold | mAP | mAP50 | small | medium | large |')
    print('| --- | --- | --- | --- | --- | --- | --- |')

    def show(name: str, threshold: object, results: list[Found]) -> None:
        numbers = evaluate(truths, results).values()
        row = [name, str(threshold), *(f'{value:.3f}' for value in numbers)]
        print(f'| {" | ".join(row)} |', flush=True)

    begun = time.perf_counter()
    show('the whole image', '', list(detect(predictor, (image for image, _ in drawn))))
    middle = time.perf_counter()
    collected = {}
    for whole in (False, True):
        slicing = Slicing(TILE, args.overlap, whole=whole)
        collected[whole] = [collect(predictor, image, slicing) for image, _ in drawn]
    ratio = (time.perf_counter() - middle) / 2 / (middle - begun)
    rules: dict[str, Callable[[Placed, Slicing], Found]] = {
        'suppressed': lambda found, slicing: drop(found, slicing, False),
        'box around all': lambda found, slicing: drop(found, slicing, True),
        'ours': ours,
    }
    for whole, placed in collected.items():
        for name, rule in rules.items():
            for measure in ('iou', 'ios'):
                for threshold in (0.3, 0.5, 0.7):
                    slicing = Slicing(TILE, args.overlap, measure, threshold, whole)
                    with_whole = ', whole image' if whole else ''
                    title = f'tiles{with_whole}, {measure}, {name}'
                    show(title, threshold, [rule(one, slicing) for one in placed])
    print(f'\nTiles took {ratio:.1f} times as long as the whole images.')


if __name__ == '__main__':
    main()
