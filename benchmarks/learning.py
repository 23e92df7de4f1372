"""Curves and means of training runs: learning.py -o IMAGE NAME=WORK_DIR ...

Reads the logs of work dirs, those of resumed runs too, draws mAP and training loss by
epoch, and prints a table: means over the last validations, and seconds an iteration.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, median

from mmnextvit.utils.files import atomic_write

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator


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


def main():
    p = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    p.add_argument('runs', nargs='+', metavar='NAME=DIR')
    p.add_argument('-o', '--out', required=True, help='image to write')
    p.add_argument('--last', type=int, default=5, help='validations to average')
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


if __name__ == '__main__':
    main()
