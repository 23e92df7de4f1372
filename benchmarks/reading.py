"""Time and memory of reading annotations: benchmarks/reading.py [--images N ...]
[--shuffle]

Makes data sets of tiny images with ten boxes each, as YOLO's txt files and as COCO's
JSON, without polygons and with them, and reads each with our datasets, the txt files
again with the scan kept. Each row is a process of its own. Processor time is that of
all threads; time an image that does not grow with the number of images is linear.
Memory is what the process grows by at its peak. Linux only.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import mmnextvit  # noqa: E402, F401  (first)
from mmnextvit.datasets.mmyolo_datasets import (  # noqa: E402
    VerifiedCocoDataset,
    VerifiedYOLOTxtDataset,
)

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402

from benchmarks.loading import memory  # noqa: E402

BOXES = 10  # of an image
CLASSES = tuple(f'class {i}' for i in range(80))
CORNERS = 20  # of a polygon
SIDE = 64  # of an image, in pixels


def write(folder: Path, count: int, shuffle: bool = False) -> None:
    """A data set of both formats, of COCO's with annotations in any order."""
    random = np.random.default_rng(0)
    for name in ('images', 'labels'):
        (folder / name).mkdir(parents=True)
    pixels = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    image = cv2.imencode('.jpg', pixels)[1].tobytes()
    images, annotations = [], []
    for i in range(count):
        (folder / 'images' / f'{i:08}.jpg').write_bytes(image)
        lines = []
        images.append(dict(id=i, file_name=f'{i:08}.jpg', width=SIDE, height=SIDE))
        for label in random.integers(0, len(CLASSES), BOXES).tolist():
            x, y, w, h = random.uniform(0.1, 0.4, 4).round(6).tolist()
            lines.append(f'{label} {x + w / 2:.6f} {y + h / 2:.6f} {w} {h}\n')
            box = [round(side * SIDE, 2) for side in (x, y, w, h)]
            area = round(box[2] * box[3], 4)
            annotations.append(
                dict(id=len(annotations), image_id=i, category_id=label, bbox=box)
                | dict(area=area, iscrowd=0)
            )
        (folder / 'labels' / f'{i:08}.txt').write_text(''.join(lines), encoding='utf-8')
    if shuffle:
        random.shuffle(annotations)
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'coco.json').write_text(json.dumps(content), encoding='utf-8')
    for annotation in annotations:
        polygon = random.uniform(0, SIDE, 2 * CORNERS).round(2).tolist()
        annotation['segmentation'] = [polygon]
    (folder / 'polygons.json').write_text(json.dumps(content), encoding='utf-8')
    names = json.dumps(CLASSES)
    (folder / 'data.yaml').write_text(
        f'train: images\nnames: {names}\n', encoding='utf-8'
    )


def read_yolo(folder: Path, name: str) -> None:
    VerifiedYOLOTxtDataset(ann_file=str(folder / name), pipeline=[])


def read_coco(folder: Path, name: str) -> None:
    VerifiedCocoDataset(
        ann_file=str(folder / name),
        data_prefix=dict(img=str(folder / 'images')),
        metainfo=dict(classes=CLASSES),
        pipeline=[],
    )


READINGS: list[tuple[str, Callable[[Path, str], None], str]] = [
    ('YOLO txt, first', read_yolo, 'data.yaml'),
    ('YOLO txt, again', read_yolo, 'data.yaml'),
    ('COCO JSON', read_coco, 'coco.json'),
    ('COCO JSON with polygons', read_coco, 'polygons.json'),
]


def measure(
    read: Callable[[Path, str], None], name: str, folder: Path, warm: Path
) -> tuple[float, float, float]:
    """Seconds, seconds of processors, and the peak in MB."""
    MMLogger.get_current_instance().setLevel('ERROR')
    read(warm, name)  # what is imported late is imported now
    Path('/proc/self/clear_refs').write_bytes(b'5')  # the peak from here on
    before = memory('VmRSS')
    start, used = time.perf_counter(), time.process_time()
    read(folder, name)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    return seconds, used, memory('VmHWM') - before


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--images', type=int, nargs='+', default=[1000, 3000, 10_000])
    p.add_argument('--shuffle', action='store_true', help='annotations in any order')
    args = p.parse_args()
    print('| read | images | s | of processors | ms an image | peak, MB | / file |')
    print('| --- ' * 7 + '|')
    with tempfile.TemporaryDirectory() as root:
        warm = Path(root, 'warm')
        write(warm, 10)
        for count in args.images:
            folder = Path(root, str(count))
            write(folder, count, args.shuffle)
            for title, read, name in READINGS:
                with ProcessPoolExecutor(1, get_context('spawn')) as pool:
                    found = pool.submit(measure, read, name, folder, warm).result()
                seconds, used, peak = found
                size = (folder / name).stat().st_size / 2**20
                share = f'{peak / size:.2f}' if read is read_coco else ''
                print(
                    f'| {title} | {count} | {seconds:.2f} | {used:.2f} '
                    f'| {1000 * used / count:.3f} | {peak:.0f} | {share} |',
                    flush=True,
                )


if __name__ == '__main__':
    main()
