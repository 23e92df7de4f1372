"""Time and memory of reading annotations: benchmarks/reading.py [--images N ...]

Makes data sets of tiny images with ten boxes each, as YOLO's txt files and as COCO's
JSON, and reads each with our datasets: the first time, and again with the scan kept.
Processor time is that of all threads; time an image that does not grow with the number
of images is linear. Memory is what the process grows by at its peak. Linux only.
"""

import argparse
import json
import sys
import tempfile
import time
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
SIDE = 64  # of an image, in pixels


def write(folder: Path, count: int) -> None:
    """A data set of both formats."""
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
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / 'coco.json').write_text(json.dumps(content), encoding='utf-8')
    names = json.dumps(CLASSES)
    (folder / 'data.yaml').write_text(
        f'train: images\nnames: {names}\n', encoding='utf-8'
    )


def read_yolo(folder: Path) -> None:
    VerifiedYOLOTxtDataset(ann_file=str(folder / 'data.yaml'), pipeline=[])


def read_coco(folder: Path) -> None:
    VerifiedCocoDataset(
        ann_file=str(folder / 'coco.json'),
        data_prefix=dict(img=str(folder / 'images')),
        metainfo=dict(classes=CLASSES),
        pipeline=[],
    )


def measure(read: object, folder: Path) -> tuple[float, float, float]:
    """Seconds, seconds of processors, and the peak in MB."""
    Path('/proc/self/clear_refs').write_bytes(b'5')  # the peak from here on
    before = memory('VmRSS')
    start, used = time.perf_counter(), time.process_time()
    read(folder)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    return seconds, used, memory('VmHWM') - before


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--images', type=int, nargs='+', default=[1000, 3000, 10_000])
    args = p.parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    print('| read | images | s | of processors | ms an image | peak, MB | / file |')
    print('| --- ' * 7 + '|')
    with tempfile.TemporaryDirectory() as root:
        write(Path(root, 'warm'), 10)
        for read in (read_yolo, read_coco):  # what is imported late is imported now
            read(Path(root, 'warm'))
        for count in args.images:
            folder = Path(root, str(count))
            write(folder, count)
            size = (folder / 'coco.json').stat().st_size / 2**20
            for name, read in [
                ('YOLO txt, first', read_yolo),
                ('YOLO txt, again', read_yolo),
                ('COCO JSON', read_coco),
            ]:
                seconds, used, peak = measure(read, folder)
                share = f'{peak / size:.2f}' if read is read_coco else ''
                print(
                    f'| {name} | {count} | {seconds:.2f} | {used:.2f} '
                    f'| {1000 * used / count:.3f} | {peak:.0f} | {share} |',
                    flush=True,
                )


if __name__ == '__main__':
    main()
