"""The checks: pure functions from what is known to what is wrong.

Each takes the `Facts` and gives `Finding`s. `CHECKS` lists them in the order in which
their findings are printed within a level.
"""

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ..datasets.anchors import compute_match_ratios
from ..datasets.duplicates import find_exact, find_leaks, find_near
from ..datasets.images import REMARKS, WrongSizeError
from ..datasets.samples import Sample
from ..engine.data_report import describe_counts
from ..utils.messages import first_few, list_lines, show
from .facts import Facts
from .findings import Finding, plural

MIN_SIDE = 3  # pixels of a box, as the model sees it
WANTED_RECALL = 0.98  # YOLOv5 fits anchors anew below this one
# The rarest class may have a share of the boxes of the most frequent one.
BALANCE = ((0.01, 'warning'), (0.1, 'note'))

Check = Callable[[Facts], Iterable[Finding]]

# Of what a dataset says itself, by its kind: the check's name, a title and advice.
TOLD = {
    'missing': (
        'missing_images',
        'images are missing',
        'Put them where the dataset looks (data_root and data_prefix), or take them '
        'out of the annotations; skip_broken=True trains without them.',
    ),
    'broken': (
        'broken_images',
        'images cannot be used',
        'Copy or download them again, or take them out of the annotations; '
        'skip_broken=True trains without them.',
    ),
    'imageless': (
        'missing_images',
        'labels have no image',
        'Put these images beside the others, as JPEG or PNG, or delete the label '
        'files: their boxes are not used.',
    ),
    'boxes': (
        'dropped_boxes',
        'boxes are dropped',
        'Correct these boxes in the annotations; training goes on without them.',
    ),
    'unreadable': (
        'unusable_data',
        'the data cannot be used',
        'Correct what it says: a training would end with it.',
    ),
    'annotations': (
        'annotations',
        'the annotations are odd',
        'Correct the annotations or the config, unless this is meant.',
    ),
}
MIN_BOXES_ADVICE = (
    'Train at a larger image size{at}, give the neck rows down to P2 (stride 4), cut '
    'the images into tiles, or take such boxes out of the annotations.'
)


# ------------------------------------------------------------------------- the config


def find_config_faults(facts: Facts) -> Iterator[Finding]:
    """What a training with the config would end with at once."""
    for fault in facts.faults:
        yield Finding(
            'error',
            'config',
            'the config cannot be used',
            str(fault),
            'Correct the config: a training would end with this.',
        )


def find_wrong_class_counts(facts: Facts) -> Iterator[Finding]:
    """Heads that have not as many classes as the data."""
    counts = facts.model.class_counts if facts.model else {}
    for split in facts.splits:
        classes = facts.find_classes(split)
        wrong = {name: n for name, n in counts.items() if n != len(classes)}
        if classes and wrong:
            name, number = next(iter(wrong.items()))
            yield Finding(
                'error',
                'class_count',
                'the head has another number of classes than the data',
                f'model.{name}.num_classes is {number}, but the data has '
                f'{len(classes)} classes: {first_few(classes)}',
                f'Set {describe_counts(wrong, len(classes))}, or metainfo=dict('
                f"classes=...) of the dataset to the head's {number} classes.",
                split,
                len(wrong),
                list(wrong),
            )


def find_different_classes(facts: Facts) -> Iterator[Finding]:
    """Splits whose labels mean other classes than those of the first one."""
    named = [(part, part.classes) for part in facts.parts if part.classes]
    for part, classes in named[1:]:
        first, wanted = named[0]
        if classes != wanted:
            yield Finding(
                'error',
                'different_classes',
                'the splits have different classes',
                f'{part.title} has {first_few(classes, 10)}; {first.title} '
                f'({first.split}) has {first_few(wanted, 10)}',
                'Give every dataset of the config the same metainfo=dict(classes=...), '
                'in the same order: a label is a number in it.',
                part.split,
            )


# --------------------------------------------------------------------- files and boxes


def find_told(facts: Facts) -> Iterator[Finding]:
    """What the datasets say themselves: missing images, dropped boxes, bad lines."""
    for part in facts.parts:
        by_kind = defaultdict(list)
        for told in part.told:
            by_kind[told.kind, told.stops].append(told)
        for (kind, stops), several in by_kind.items():
            if kind not in TOLD:  # another check counts the same
                continue
            check, title, advice = TOLD[kind]
            places = list(dict.fromkeys(p for told in several for p in told.places))
            count = sum(len(told.places) or 1 for told in several)
            texts = [told.text for told in several]
            if not any(part.title in text for text in texts):
                texts.insert(0, f'{part.title}:')
            yield Finding(
                'error' if stops else 'warning',
                check,
                title,
                list_lines(texts),
                advice,
                part.split,
                count,
                places,
            )


def find_broken_images(facts: Facts) -> Iterator[Finding]:
    """Images that cannot be decoded, or are of another size than annotated."""
    for part in facts.parts:
        looks = {sample.path: facts.look_at(sample) for sample in part.samples}
        broken = {path: look.error for path, look in looks.items() if look.error}
        level = 'warning' if part.skips_broken and len(broken) < len(looks) else 'error'
        wrong = {p: e for p, e in broken.items() if isinstance(e, WrongSizeError)}
        other = {p: e for p, e in broken.items() if p not in wrong}
        for found, check, title, advice in (
            (other, *TOLD['broken']),
            (
                wrong,
                'image_sizes',
                'images have another size than their annotations say',
                'Correct width and height there if the boxes are of these images, else '
                'put the annotated images here.',
            ),
        ):
            if found:
                total = plural(len(looks), 'image')
                first = f'{len(found)} of {total} of {part.title}:'
                yield Finding(
                    level,
                    check,
                    title,
                    list_lines([first, *found.values()]),
                    advice,
                    part.split,
                    len(found),
                    list(found),
                )


def find_odd_images(facts: Facts) -> Iterator[Finding]:
    """Images of which the last rows are missing, or whose orientation is in doubt."""
    for split, samples in facts.samples.items():
        looks = {sample.path: facts.look_at(sample) for sample in samples}
        turned = [path for path, look in looks.items() if look.turned_by_exif]
        cut = [path for path, look in looks.items() if 'cut' in look.remarks]
        unsettled = [path for path, look in looks.items() if 'turned' in look.remarks]
        for found, level, check, title, seen, advice in (
            (
                cut,
                'warning',
                'cut_images',
                'images lack their end',
                REMARKS['cut'],
                'Copy or download them again.',
            ),
            (
                turned,
                'warning',
                'exif_rotation',
                'EXIF turns images that are annotated unturned',
                'have an EXIF orientation, but their annotations have the size of the '
                'image without it: training follows the annotations, and a prediction '
                'sees the same image turned',
                'Remove the EXIF orientation from these files (exiftool -Orientation= '
                'FILE) if they lie right as stored. Otherwise turn the pixels (mogrify '
                '-auto-orient FILE) and annotate them again.',
            ),
            (
                unsettled,
                'note',
                'exif_unsettled',
                'EXIF turns images, and their size does not show whether boxes follow',
                REMARKS['turned'],
                'Look at one with its boxes. If they are off, remove the EXIF '
                'orientation (exiftool -Orientation= FILE).',
            ),
        ):
            if found:
                yield Finding(
                    level,
                    check,
                    title,
                    f'{len(found)} of {plural(len(looks), "image")} {seen}: '
                    f'{first_few(found)}',
                    advice,
                    split,
                    len(found),
                    found,
                )


def find_filtered_images(facts: Facts) -> Iterator[Finding]:
    """Images that ``filter_cfg`` leaves out without a word."""
    for part in facts.parts:
        if part.filtered:
            yield Finding(
                'note',
                'filtered_images',
                'images are left out by filter_cfg',
                f'{part.filtered} of the {part.filtered + len(part.samples)} images of '
                f'{part.title}',
                'Set filter_empty_gt=False there to train on images without a box, and '
                'min_size=0 for small ones.',
                part.split,
                part.filtered,
            )


def find_small_boxes(facts: Facts) -> Iterator[Finding]:
    """Boxes of which next to nothing is left at the size that the model sees."""
    if facts.resizing is None:
        return
    for split, samples in facts.samples.items():
        sides = measure_boxes(facts, samples).min(axis=1)
        small = sides < MIN_SIDE
        if small.any():
            owners = list_owners(samples)
            paths = list(dict.fromkeys(owners[i] for i in small.nonzero()[0]))
            yield Finding(
                'warning',
                'small_boxes',
                f'boxes under {MIN_SIDE} pixels',
                f'{small.sum()} of {len(sides)} boxes are under {MIN_SIDE} pixels '
                f'wide or high at the image size{_show_scale(facts)}, too few to be '
                f'learnt: {first_few(_shorten_paths(paths))}',
                MIN_BOXES_ADVICE.format(at=_propose_scale(facts, sides)),
                split,
                int(small.sum()),
                paths,
            )


def _show_scale(facts: Facts) -> str:
    if facts.resizing is None or facts.resizing.is_factor:
        return ''
    return f' ({" x ".join(str(side) for side in facts.resizing.scale)})'


def _propose_scale(facts: Facts, sides: np.ndarray) -> str:
    """How many small boxes twice the image size leaves."""
    if facts.resizing is None or facts.resizing.is_factor:
        return ''
    doubled = ' x '.join(str(2 * side) for side in facts.resizing.scale)
    return f' ({(2 * sides < MIN_SIDE).sum()} would be left at {doubled})'


def measure_boxes(facts: Facts, samples: Sequence[Sample]) -> np.ndarray:
    """Widths and heights of all boxes in pixels, at the size that the model sees.

    Returns:
        (N, 2).
    """
    sizes = [
        (sample.boxes[:, 2:] - sample.boxes[:, :2])
        * (facts.resizing.compute_factors(sample.size) if facts.resizing else 1)
        for sample in samples
    ]
    return np.concatenate([np.empty((0, 2)), *sizes])


def list_owners(samples: Sequence[Sample]) -> list[str]:
    """The image of each box."""
    return [sample.path for sample in samples for _ in sample.labels]


# ---------------------------------------------------------------------------- classes


def find_absent_classes(facts: Facts) -> Iterator[Finding]:
    """Classes without a box."""
    advice = {
        'train': 'Nothing can be learnt of them: add images, or leave the classes out '
        'of metainfo and num_classes.',
    }
    for split in facts.samples:
        counts = facts.count_boxes(split)
        classes = facts.find_classes(split)
        absent = [name for name, n in zip(classes, counts) if not n]
        if absent:
            useless = not counts.any() and split != 'test'  # which may have no labels
            yield Finding(
                'error' if useless else 'warning',
                'absent_classes',
                'classes without a box',
                f'{len(absent)} of {len(classes)} classes: {first_few(absent, 10)}',
                advice.get(
                    split,
                    'Their average precision cannot be measured: move images with them '
                    'from the training data, by another split.',
                ),
                split,
                len(absent),
                absent,
            )


def find_imbalance(facts: Facts) -> Iterator[Finding]:
    """Classes of which there are far fewer boxes than of another one."""
    if 'train' not in facts.samples:
        return
    counts = facts.count_boxes('train')
    classes = facts.find_classes('train')
    present = [(int(n), name) for n, name in zip(counts, classes) if n]
    if len(present) < 2:
        return
    (fewest, rarest), (most, commonest) = min(present), max(present)
    level = next((level for share, level in BALANCE if fewest < share * most), None)
    if level:
        rare = [name for n, name in sorted(present) if n < BALANCE[-1][0] * most]
        yield Finding(
            level,
            'balance',
            'classes are rare',
            f'{show(rarest)} has {plural(fewest, "box")}, {show(commonest)} has {most}:'
            f' {100 * fewest / most:.2g} %',
            'Add images of rare classes, or have theirs repeated: oversample = 0.1 in '
            "a config of mmnextvit new, or dict(type='ClassBalancedDataset', "
            'oversample_thr=0.1, dataset=...) around the training dataset.',
            'train',
            len(rare),
            rare,
        )


# ------------------------------------------------------------------------- duplicates


def find_duplicates(facts: Facts) -> Iterator[Finding]:
    """Images that a split holds more than once, exactly or nearly."""
    for split, samples in facts.samples.items():
        paths = [sample.path for sample in samples]
        prints = [facts.look_at(sample).fingerprint for sample in samples]
        exact = find_exact(prints)
        near = [group for group in find_near(prints) if group not in exact]
        for groups, check, title, advice in (
            (
                exact,
                'duplicates',
                'images occur twice',
                'Leave one of each, with all boxes: copies whose boxes differ teach '
                'that objects are background.',
            ),
            (
                near,
                'near_duplicates',
                'images are nearly the same',
                'Leave one of each where they are copies; neighbours of a video do no '
                'harm within a split.',
            ),
        ):
            if groups:
                texts = [' = '.join(_shorten_paths([paths[i] for i in group[:3]]))
                         + (f' and {len(group) - 3} more' if len(group) > 3 else '')
                         for group in groups]  # fmt: skip
                surplus = sum(len(group) - 1 for group in groups)
                yield Finding(
                    'warning' if check == 'duplicates' else 'note',
                    check,
                    title,
                    f'{surplus} of {plural(len(paths), "image")} repeat another one: '
                    f'{first_few(texts)}',
                    advice,
                    split,
                    surplus,
                    [paths[i] for group in groups for i in group],
                )


def find_leakage(facts: Facts) -> Iterator[Finding]:
    """Images of one split that stand in another one too, exactly or nearly."""
    prints = {
        split: [facts.look_at(sample).fingerprint for sample in samples]
        for split, samples in facts.samples.items()
    }
    by_pair = defaultdict(list)
    for leak in find_leaks(prints):
        by_pair[leak.splits].append(leak)
    for (first, second), leaks in by_pair.items():
        paths = [
            tuple(facts.samples[s][i].path for s, i in zip(leak.splits, leak.images))
            for leak in leaks
        ]
        total = len(facts.samples[second])
        exact = sum(leak.exact for leak in leaks)
        pairs = (' = '.join(_shorten_paths(pair[::-1])) for pair in paths)
        yield Finding(
            'error' if len(leaks) == total else 'warning',
            'leaks',
            f'images of {second} are in {first}',
            f'{len(leaks)} of the {plural(total, "image")} of {second}, {exact} of '
            f'them as the same file: {first_few(pairs)}',
            f'Take them out of {first} or of {second}, or split anew: measured on '
            'images of the training, the average precision is too high.'
            if first == 'train'
            else f'Take them out of {first} or of {second}: they are to measure '
            'independently of each other.',
            f'{first}, {second}',
            len(leaks),
            [there for _, there in paths],
        )


# ----------------------------------------------------------------- anchors and machine


def compute_possible_recall(facts: Facts, split: str = 'train') -> float | None:
    """The share of boxes that some anchor can match, if there are anchors and boxes."""
    fits = _compute_fits(facts, split)
    return float(fits.mean()) if fits is not None and len(fits) else None


def _compute_fits(facts: Facts, split: str) -> np.ndarray | None:
    """Whether each box of a split can be matched with an anchor, (N,)."""
    anchors = facts.model.anchors if facts.model else None
    if anchors is None or facts.resizing is None or split not in facts.samples:
        return None
    sizes = measure_boxes(facts, facts.samples[split])
    if anchors.sizes.min() <= 0 or not len(sizes):
        return None
    best = compute_match_ratios(sizes, anchors.sizes).max(axis=1)
    return best > 1 / anchors.threshold


def find_bad_anchors(facts: Facts) -> Iterator[Finding]:
    """Anchors that are placeholders, and boxes that none of them can match."""
    advice = (
        'Fit the anchors to the data: mmnextvit compute_anchors CONFIG -o NEW.py; a '
        'detector without anchors (YOLOv8, RTMDet) learns boxes of every shape.'
    )
    anchors = facts.model.anchors if facts.model else None
    if anchors is not None and anchors.sizes.min() <= 0:
        yield Finding(
            'error',
            'placeholder_anchors',
            'the anchors are placeholders',
            'model.bbox_head.prior_generator.base_sizes is a count of anchors, with '
            'which nothing can be learnt',
            advice,
        )
    fits = _compute_fits(facts, 'train')
    if anchors is None or fits is None or fits.all():
        return
    samples = facts.samples['train']
    sizes, owners = measure_boxes(facts, samples), list_owners(samples)
    lost = (~fits).nonzero()[0]
    texts = [
        f'{os.path.basename(owners[i])} ({sizes[i, 0]:.3g} x {sizes[i, 1]:.3g})'
        for i in lost
    ]
    recall = fits.mean()
    yield Finding(
        'warning',
        'anchors',
        'boxes that no anchor can match',
        f'{len(lost)} of {plural(len(fits), "box")} are never learnt, since a side is '
        f'at least {anchors.threshold:g} times off from that of every anchor at the '
        f'image size{_show_scale(facts)}: {first_few(texts)}. Best possible recall is '
        f'{recall:.2%}'
        + ('' if recall < WANTED_RECALL else ', which is enough for most uses'),
        advice,
        'train',
        len(lost),
        list(dict.fromkeys(owners[i] for i in lost)),
    )


def find_full_disk(facts: Facts) -> Iterator[Finding]:
    """A disk that the run's checkpoints would fill."""
    disk = facts.disk
    if disk is not None and disk.needed > disk.free:
        yield Finding(
            'error',
            'disk',
            'the disk has no space for the checkpoints',
            f'{disk.folder} has {show_bytes(disk.free)} free, and up to '
            f'{disk.checkpoints} checkpoints of up to {show_bytes(disk.checkpoint)} '
            f'need {show_bytes(disk.needed)}',
            'Free space, train in another folder (--work-dir), or keep fewer: '
            'default_hooks.checkpoint.max_keep_ckpts=1, or a larger interval.',
        )


def find_slow_amp(facts: Facts) -> Iterator[Finding]:
    """A machine on which ``--amp`` makes nothing faster."""
    if facts.amp is not None and facts.amp.fast is False:
        yield Finding(
            'note',
            'amp',
            '--amp is not fast here',
            f'{facts.amp.device} has no arithmetic in mixed precision',
            'Train without --amp on this machine.',
        )


def show_bytes(number: float) -> str:
    """``'1.5 GB'``."""
    units = ['bytes', 'kB', 'MB', 'GB', 'TB']
    power = min(int(math.log10(max(number, 1)) // 3), len(units) - 1)
    return f'{number / 1000**power:.3g} {units[power]}'


def _shorten_paths(paths: Sequence[str]) -> list[str]:
    """Files from where their folders part, but at least their folder and name."""
    parts = [os.path.abspath(path).split(os.sep) for path in paths]
    folders = os.path.commonprefix([p[:-1] for p in parts])
    return [os.sep.join(p[min(len(folders), len(p) - 2) :]) for p in parts]


CHECKS: tuple[Check, ...] = (
    find_config_faults,
    find_told,
    find_broken_images,
    find_different_classes,
    find_wrong_class_counts,
    find_leakage,
    find_absent_classes,
    find_bad_anchors,
    find_small_boxes,
    find_duplicates,
    find_odd_images,
    find_imbalance,
    find_full_disk,
    find_filtered_images,
    find_slow_amp,
)


def run_checks(facts: Facts) -> list[Finding]:
    """All findings."""
    return [finding for check in CHECKS for finding in check(facts)]
