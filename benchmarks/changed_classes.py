"""What a detector still knows of its classes once it learns another one.

    changed_classes.py -o FOLDER --data BCCD --held-back Platelets --epochs 30

It is trained without one class, then a config that `mmnextvit new --weights` writes
goes on with all of them. Prints COCO's mAP of each class, as means over the last
validations.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean


def run(*command: object, cwd: Path) -> None:
    """Runs a command of mmnextvit, which must succeed."""
    words = [sys.executable, '-m', 'mmnextvit', *map(str, command)]
    print(' '.join(words[2:]), flush=True)
    subprocess.run(words, cwd=cwd, check=True)


def read_classes(config: Path) -> list[str]:
    """The classes that a config of ours names, in its line of them."""
    line = re.search(r'^classes = (\(.*\))$', config.read_text(encoding='utf-8'), re.M)
    if line is None:
        raise SystemExit(f'{config} has no line with classes')
    return re.findall(r"'([^']+)'", line[1])


def read_precisions(work_dir: Path, last: int) -> dict[str, float]:
    """mAP of each class, and of all, as means over the last validations of a run."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    entries = [
        json.loads(line)
        for file in files
        for line in file.read_text(encoding='utf-8').splitlines()
    ]
    found = [entry for entry in entries if 'coco/bbox_mAP' in entry][-last:]
    names = [
        key.removeprefix('coco/').removesuffix('_precision')
        for key in found[-1]
        if key.endswith('_precision')
    ]
    means = {n: mean(entry[f'coco/{n}_precision'] for entry in found) for n in names}
    return means | {'all': mean(entry['coco/bbox_mAP'] for entry in found)}


def train(config: str, out: Path, args: argparse.Namespace, *more: str) -> None:
    """Trains a config with validations of each class in the last epochs."""
    options = [
        f'max_epochs={args.epochs}',
        'train_cfg.val_interval=1',
        f'train_cfg.val_begin={args.epochs - args.last + 1}',
        'val_evaluator.classwise=True',
        f'randomness.seed={args.seed}',
        *more,
        *args.options,
    ]
    amp = ['--amp'] if args.amp else []
    run('train', config, '--no-report', *amp, '--cfg-options', *options, cwd=out)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    p.add_argument('-o', '--out', required=True, type=Path, help='folder for all of it')
    p.add_argument('--data', required=True, type=Path, help='folder of images')
    p.add_argument('--held-back', required=True, help='class that comes second')
    p.add_argument('--model', default='s', help='as of mmnextvit new')
    p.add_argument('--weights', help='of the backbone, to begin with')
    p.add_argument('--imgsz', type=int, default=320)
    p.add_argument('--epochs', type=int, default=30)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--last', type=int, default=5, help='validations to average')
    p.add_argument('--amp', action='store_true', help='train in mixed precision')
    p.add_argument('--tuning', help='recipe of the second training, if not of `new`')
    p.add_argument('--options', nargs='*', default=[], help='--cfg-options of both')
    args = p.parse_args()

    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    model = '--model', args.model, '--imgsz', args.imgsz
    weights = ('--weights', Path(args.weights).resolve()) if args.weights else ()
    started = time.perf_counter()
    run('new', args.data.resolve(), '-o', 'before.py', *model, *weights, cwd=out)
    classes = read_classes(out / 'before.py')
    if args.held_back not in classes:
        raise SystemExit(f'{args.held_back} is none of {", ".join(classes)}')
    first = tuple(name for name in classes if name != args.held_back)
    train('before.py', out, args, f'classes={first}'.replace(' ', ''))
    runs = out / 'work_dirs'
    best = runs / 'before' / 'last.pth'
    run(
        'new', args.data.resolve(), '-o', 'after.py', *model, '--weights', best, cwd=out
    )
    tuning = [f'tuning={args.tuning}'] if args.tuning else []
    train('after.py', out, args, *tuning)

    before, after = (read_precisions(runs / n, args.last) for n in ('before', 'after'))
    print('| class | before | after | change |\n| --- | --- | --- | --- |')
    for name in classes:
        if name in before:
            change = f'{after[name] - before[name]:+.3f}'
            print(f'| {name} | {before[name]:.3f} | {after[name]:.3f} | {change} |')
        else:
            print(f'| {name} | held back | {after[name]:.3f} | |')
    kept = [after[name] - before[name] for name in first]
    minutes = (time.perf_counter() - started) / 60
    print(f'\nThe greatest loss is {max(0.0, -min(kept)):.3f}; {minutes:.0f} minutes.')


if __name__ == '__main__':
    main()
