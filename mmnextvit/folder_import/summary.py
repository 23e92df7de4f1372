"""What a folder of images holds, as a user reads it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..datasets.samples import Sample
from ..utils.messages import first_few, shorten
from .config_text import Plan
from .reading import Reading
from .tree import is_image

SMALL = 8  # pixels a side, the stride of the finest feature map
MAX_CLASSES = 20  # that have a line of their own
RANGE = 0.05, 0.95  # of box sides, between which nine of ten lie


def describe_data(
    reading: Reading,
    classes: Sequence[str],
    samples: Mapping[str, Sequence[Sample]],
    plan: Plan,
    out: Path,
) -> str:
    """What was found and chosen, and what to do next.

    Args:
        reading: How the folder is read.
        classes: Names, by label.
        samples: Images with their boxes, by split.
        plan: What was chosen.
        out: The config that was written.
    """
    size = plan.image_size.value
    shown = show_size(size)
    every = [sample for part in samples.values() for sample in part]
    return '\n'.join(
        [
            reading.layout,
            *(f'  {note}' for note in reading.notes),
            *describe_splits(samples),
            *describe_unused(every),
            *describe_classes(classes, samples),
            describe_images(every),
            describe_boxes(every, size),
            f'{out}: {plan.base.value}, {shown} pixels, {plan.max_epochs.value} '
            f'epochs, batches of {plan.batch_size.value}',
            f'  mmnextvit check {out}  looks for what is wrong with the data',
            f'  mmnextvit train {out}  trains',
        ]
    )


def describe_splits(samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """A table of images and boxes."""
    rows = [
        (
            split,
            f'{len(part):,} images',
            f'{sum(len(sample.boxes) for sample in part):,} boxes',
            f'{sum(not len(sample.boxes) for sample in part):,} without a box',
        )
        for split, part in samples.items()
    ]
    return align(rows)


def describe_unused(samples: Sequence[Sample]) -> list[str]:
    """A line about images that lie among those of the splits, and are in none."""
    used = {os.path.abspath(sample.path) for sample in samples}
    unused = [
        path
        for folder in sorted({os.path.dirname(path) for path in used})
        for path in sorted(entry.path for entry in os.scandir(folder))
        if is_image(path)
        and path not in used
        and not os.path.basename(path).startswith('.')
    ]
    if not unused:
        return []
    named = first_few(map(os.path.basename, unused))
    return [f'  images beside these that no split has: {len(unused):,} ({named})']


def describe_classes(
    classes: Sequence[str], samples: Mapping[str, Sequence[Sample]]
) -> list[str]:
    """A table of the boxes of each class in each split, the most first."""
    counts = np.array(
        [
            sum(
                (np.bincount(s.labels, minlength=len(classes)) for s in part),
                np.zeros(len(classes), int),
            )
            for part in samples.values()
        ]
    )
    order = np.argsort(-counts.sum(0), kind='stable')
    rows = [('boxes of', *samples)]
    rows += [
        (shorten(classes[i]), *(f'{count:,}' for count in counts[:, i]))
        for i in order[:MAX_CLASSES]
    ]
    more = [f'  and {len(classes) - MAX_CLASSES} more'] * (len(classes) > MAX_CLASSES)
    return align(rows) + more


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        '  '.join(
            ['', row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        )
        for row in rows
    ]


def describe_images(samples: Sequence[Sample]) -> str:
    """The range of widths and heights, in pixels."""
    sizes = np.array([sample.size for sample in samples])
    (low_w, low_h), (high_w, high_h) = sizes.min(0), sizes.max(0)
    if (low_w, low_h) == (high_w, high_h):
        return f'  images of {low_w}x{low_h} pixels'
    return (
        f'  images {low_w:,} to {high_w:,} pixels wide and {low_h:,} to {high_h:,} high'
    )


def describe_boxes(samples: Sequence[Sample], size: int | tuple[int, int]) -> str:
    """The range of box sides in pixels, once images have their size in training."""
    sides = measure_sides(samples, size)
    if not len(sides):
        return '  no boxes'
    low, high = np.quantile(sides, RANGE)
    shown = show_size(size)
    text = f'  nine of ten box sides have {low:.0f} to {high:.0f} pixels at {shown}'
    small = int((sides.max(1) < SMALL).sum())
    return text + (f'; {small:,} boxes are smaller than {SMALL}x{SMALL}' * bool(small))


def show_size(size: int | tuple[int, int]) -> str:
    """A side in pixels, or width x height."""
    return str(size) if isinstance(size, int) else 'x'.join(map(str, size))


def measure_sides(samples: Sequence[Sample], size: int | tuple[int, int]) -> np.ndarray:
    """Width and height of each box in pixels, once its image fits into ``size``."""
    wanted = np.array([size, size] if isinstance(size, int) else size)
    sides = [
        (sample.boxes[:, 2:] - sample.boxes[:, :2])
        * (wanted / np.maximum(sample.size, 1)).min()
        for sample in samples
    ]
    return np.concatenate([np.zeros((0, 2)), *sides])
