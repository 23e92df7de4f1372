"""A small data set of shapes on textured ground, in COCO format, made anew anywhere.

The same arguments give the same files, byte for byte, with the same NumPy and OpenCV.
"""

import json
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
from rich.progress import track

from ..runtime import encode_image
from ..utils.errors import UserError
from ..utils.files import atomic_write

CLASSES = ('circle', 'square', 'triangle')
CORNERS = (32, 4, 3)
HUES = (0, 60, 115)  # of 180: mostly red, green and blue
MAX_SIZE = 10_000  # pixels
DESCRIPTION = 'Demo data of mmnextvit (mmnextvit make_demo_data)'


class SplitInfo(TypedDict):
    """What the annotations say about a split.

    Attributes:
        description: That they are demo data.
        images: Number of images.
        size: Their height and width in pixels.
        seed: Seed of the randomness.
    """

    description: str
    images: int
    size: int
    seed: int


def draw_image(
    rng: np.random.Generator, size: int
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """One image with one to four shapes that don't overlap.

    Args:
        rng: Where the randomness comes from.
        size: Height and width in pixels.

    Returns:
        The image (size x size x 3, BGR, uint8) and for each shape its class and its
        polygon (N x 2, x and y in pixels).
    """
    ground = rng.integers(60, 196) + rng.normal(0, 8, 3)
    for cells, strength in ((4, 14), (size // 6, 12), (size, 8)):
        noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        ground = ground + cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    image = ground.clip(0, 255).astype(np.uint8)

    shapes: list[tuple[int, np.ndarray]] = []
    taken: list[tuple[float, float, float]] = []
    for _ in range(rng.integers(1, 5)):
        radius = size * rng.uniform(0.08, 0.22)
        x, y = rng.uniform(radius, size - radius, 2)
        label = int(rng.integers(len(CLASSES)))
        turn = rng.uniform(0, 2 * np.pi)
        hue = (HUES[label] + rng.integers(-12, 13)) % 180
        hsv = np.uint8([[[hue, *rng.integers(140, 256, 2)]]])
        if any(np.hypot(x - u, y - v) < 1.1 * (radius + r) for u, v, r in taken):
            continue
        taken.append((x, y, radius))
        angles = turn + 2 * np.pi * np.arange(CORNERS[label]) / CORNERS[label]
        polygon = np.stack(
            [x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1
        )
        polygon = polygon.round(2)
        colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
        # OpenCV counts from the middle of the first pixel, in sixteenths here.
        points = ((polygon - 0.5) * 16).round().astype(np.int32)
        cv2.fillPoly(image, [points], colour, cv2.LINE_AA, shift=4)
        shapes.append((label, polygon))
    return image, shapes


def make_demo_data(out: Path, train: int, val: int, size: int, seed: int) -> bool:
    """Writes ``train/``, ``val/`` and ``annotations/{train,val}.json`` into ``out``.

    Args:
        out: Folder; made where it is missing.
        train: Images to train on.
        val: Images to validate on.
        size: Their height and width in pixels, 32 to ``MAX_SIZE``.
        seed: Seed of the randomness, at least 0. An image depends on it, its split and
            its number only, not on how many there are.

    Returns:
        Whether anything was written; not if the same data lie there already.

    Raises:
        UserError: Something else lies there, or a number is out of range.
        OSError: They cannot be written; nothing is left of them.
    """
    if not 32 <= size <= MAX_SIZE or min(train, val) < 1 or seed < 0:
        raise UserError(
            'train and val must be at least 1, seed at least 0, size from 32 to '
            f'{MAX_SIZE}'
        )
    counts = dict(train=train, val=val)
    info = {
        split: SplitInfo(description=DESCRIPTION, images=n, size=size, seed=seed)
        for split, n in counts.items()
    }
    if _holds(out, info):
        return False
    try:
        with atomic_write(out, overwrite=False) as scratch:
            (scratch / 'annotations').mkdir(parents=True)
            for number, split in enumerate(counts):
                content = write_split(scratch / split, info[split], number)
                file = scratch / 'annotations' / f'{split}.json'
                file.write_text(json.dumps(content), encoding='utf-8')
    except FileExistsError:
        if not _holds(out, info):
            raise
        return False  # another process was faster
    return True


def _holds(out: Path, info: dict[str, SplitInfo]) -> bool:
    """Whether a folder holds demo data already.

    Args:
        out: Folder, which may be empty or missing.
        info: What the annotations of each split are to say.

    Raises:
        UserError: It holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if info == {split: read_info(out, split) for split in info}:
        return True
    raise UserError(
        f'{out} holds something else than these demo data, and nothing is '
        'overwritten: choose another folder with --out, or remove it'
    )


def write_split(folder: Path, info: SplitInfo, number: int) -> dict:
    """Writes the images of a split.

    Args:
        folder: Folder of the images, which must not exist.
        info: What the annotations say about the split.
        number: Number of the split, which is a part of the seed of its images.

    Returns:
        The annotations, as COCO has them.
    """
    folder.mkdir()
    size = info['size']
    images: list[dict] = []
    annotations: list[dict] = []
    for i in track(range(info['images']), description=f'{folder.name} images'):
        rng = np.random.default_rng([info['seed'], number, i])
        image, shapes = draw_image(rng, size)
        name = f'{i:06}.jpg'
        # cv2.imwrite would go on where the disk is full.
        (folder / name).write_bytes(encode_image(folder / name, image))
        images.append(dict(id=i + 1, file_name=name, width=size, height=size))
        annotations += [
            dict(
                id=len(annotations) + k,
                image_id=i + 1,
                category_id=label + 1,
                **describe_polygon(polygon),
                iscrowd=0,
            )
            for k, (label, polygon) in enumerate(shapes, start=1)
        ]
    return dict(
        info=info,
        licenses=[],  # tools that split COCO's files copy them
        images=images,
        annotations=annotations,
        categories=[
            dict(id=number, name=name, supercategory='shape')
            for number, name in enumerate(CLASSES, start=1)
        ],
    )


def describe_polygon(polygon: np.ndarray) -> dict[str, object]:
    """COCO's entries for a polygon (N x 2, pixels): box, area, the polygon itself."""
    low, high = polygon.min(0), polygon.max(0)
    return dict(
        bbox=[*low.round(2).tolist(), *(high - low).round(2).tolist()],
        area=round(float(cv2.contourArea(polygon.astype(np.float32))), 2),
        segmentation=[polygon.flatten().tolist()],
    )


def read_info(out: Path, split: str) -> dict[str, object] | None:
    """The ``info`` of a split's annotations, or ``None`` where any image is missing."""
    try:
        content = json.loads((out / 'annotations' / f'{split}.json').read_bytes())
        whole = all((out / split / i['file_name']).is_file() for i in content['images'])
        return content['info'] if whole else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
