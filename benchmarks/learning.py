"""Curves and means of training runs: learning.py -o IMAGE NAME=WORK_DIR ...

Reads the logs of work dirs, those of resumed runs too, draws mAP and training loss by
epoch, and prints a table: means over the last validations, and seconds an iteration.
With --worst it puts the pictures of the worst images, as the runs' reports have them
(mmnextvit report), into one: a row for each run.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, median

from mmnextvit.utils.files import atomic_write

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

SIDE = 320  # pixels of a picture of the worst images


def read(work_dir: str) -> tuple[dict, dict, list]:
    """Validations by epoch, training losses by epoch, seconds of iterations."""
    found, losses, times = {}, {}, []
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'{work_dir} holds no log of a training run')
    for file in files:
        for entry in map(json.loads, file.read_text(encoding='utf-8').splitlines()):
            if 'coco/bbox_mAP' in entry:
                found[entry['step']] = entry
            elif 'loss' in entry:
                losses[entry['epoch']] = entry['loss']
                times.append(entry['time'])
    return found, losses, times


def fit(picture: np.ndarray) -> np.ndarray:
    """A picture whose longer side is that of all."""
    scale = SIDE / max(picture.shape[:2])
    return cv2.resize(picture, None, fx=scale, fy=scale)


def draw_worst(work_dirs: list[str], count: int) -> np.ndarray:
    """The first of the worst images in the reports of runs, (H, W, 3), BGR."""
    rows = []
    for work_dir in work_dirs:
        files = sorted(Path(work_dir).glob('**/worst_*.jpg'))[:count]
        if not files:
            raise FileNotFoundError(f'{work_dir} holds no report with its worst images')
        pictures = [fit(cv2.imread(str(file))) for file in files]
        row = np.full((max(map(len, pictures)), SIDE * count, 3), 255, np.uint8)
        for place, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            row[:height, place * SIDE : place * SIDE + width] = picture
        rows.append(row)
    return np.concatenate(rows)


def main():
    p = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    p.add_argument('runs', nargs='+', metavar='NAME=DIR')
    p.add_argument('-o', '--out', required=True, help='image to write')
    p.add_argument('--last', type=int, default=5, help='validations to average')
    p.add_argument('--worst', help='image to write of the worst images in the reports')
    p.add_argument('--count', type=int, default=4, help='worst images of a run')
    args = p.parse_args()

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), dpi=80)
    print(f'| run | epochs | mAP | mAP50 | small | medium | large | s an iteration |\n'
          f'{"| --- " * 8}|')  # fmt: skip
    keys = ['mAP', 'mAP_50', 'mAP_s', 'mAP_m', 'mAP_l']
    for name, work_dir in (run.split('=', 1) for run in args.runs):
        found, losses, times = read(work_dir)
        right.plot(losses.keys(), losses.values(), label=name)
        if not found:
            continue
        for key, style in (('mAP_50', '--'), ('mAP', '-')):
            values = [entry[f'coco/bbox_{key}'] for entry in found.values()]
            colour = right.lines[-1].get_color()
            left.plot(found.keys(), values, style, color=colour, marker='.')
        epochs = sorted(found)[-args.last :]
        means = [mean(found[e][f'coco/bbox_{key}'] for e in epochs) for key in keys]
        cells = [name, f'{epochs[0]}-{epochs[-1]}', *(f'{m:.3f}' for m in means)]
        print(f'| {" | ".join(cells)} | {median(times):.2f} |')
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel='epoch', title='mAP, and mAP50 dashed')
    right.set(xlabel='epoch', title='training loss', yscale='log')
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    with atomic_write(args.out) as scratch:
        figure.savefig(scratch)
    if args.worst:
        work_dirs = [run.partition('=')[2] for run in args.runs]
        drawn = draw_worst(work_dirs, args.count)
        with atomic_write(args.worst) as scratch:
            cv2.imwrite(str(scratch), drawn)


if __name__ == '__main__':
    main()
