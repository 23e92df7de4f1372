"""A config for a folder of images, and what the folder holds."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from ..datasets.duplicates import find_near, hash_images
from ..datasets.faults import listen
from ..datasets.samples import Sample, list_samples
from ..engine.runner import build_dataset
from ..models.timm_features import get_timm_mean_std
from ..utils.errors import UserError
from ..utils.files import atomic_write_text, check_new_file, require_file
from ..utils.messages import first_few, shorten
from .config_text import Plan, choose, format_text
from .reading import Reading
from .recognition import Counted, add_notes, recognise
from .split import describe_split, split_samples, write_lists
from .summary import describe_data

BACKBONES = 'timm://', 'hf://'  # where weights of backbones come from
IMAGES = 'missing', 'broken'  # what is told of images that --skip-missing leaves out
MAX_NOTE = 400  # characters


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        folder: The user's data.
        out: The config to write.
        image_size: The side of an image in training, in pixels; chosen if ``None``.
        model: ``'s'``, ``'b'``, ``'l'``, ``'timm:NAME'``, ``'yolov8'`` or ``'rtmdet'``.
        weights: A checkpoint to start from, of a detector or a backbone.
        all_classes: Keep classes that own no box.
        skip_missing: Go on without images that are missing.
    """

    folder: str
    out: Path
    image_size: int | None = None
    model: str = 's'
    weights: str | None = None
    all_classes: bool = False
    skip_missing: bool = False


@dataclass(frozen=True)
class Contents:
    """What a folder holds, as the datasets of the config will read it.

    Attributes:
        reading: How it is read.
        classes: Names, by label.
        class_ids: Their numbers in the annotations, if these have any.
        samples: Images with their boxes, by split.
    """

    reading: Reading
    classes: tuple[str, ...]
    class_ids: tuple[int, ...] | None
    samples: Mapping[str, Sequence[Sample]]


def write_config(options: Options) -> str:
    """Recognises a folder, and writes a config that trains on it.

    Beside the config, under its name, stand lists of images where a split is made, and
    COCO's JSON where annotations are converted.

    Returns:
        What was found and written.

    Raises:
        UserError: The folder cannot be read, or a file to be written is there.
        OSError: A file cannot be written.
    """
    out = check_new_file(options.out)
    contents = read_folder(options)
    if not options.all_classes:
        contents = leave_out_unused(contents)
    if 'val' not in contents.samples:
        contents = make_split(contents, options)
    elif options.skip_missing:
        contents = list_images(contents, options, contents.samples)
    train = contents.samples['train']
    plan = make_plan(train, options)
    reading = contents.reading
    text = format_text(
        plan,
        title=f'{reading.layout} in {os.path.abspath(options.folder)}',
        datasets=reading.datasets,
        classes=contents.classes,
        class_ids=contents.class_ids,
        num_images=len(train),
        data_root=find_root(options.folder),
        config_folder=out.absolute().parent,
    )
    atomic_write_text(out, text, overwrite=False)
    return describe_data(reading, contents.classes, contents.samples, plan, out)


# -------------------------------------------------------------------------- reading


def find_root(folder: str) -> Path:
    """The folder that the paths in the config count from."""
    path = Path(os.path.abspath(folder))
    return path.parent if path.is_file() else path


def read_folder(options: Options) -> Contents:
    """Reads a folder by our own datasets, as they will read it in training.

    Raises:
        UserError: It has no layout that is known, readings differ, or the data are
            faulty.
    """

    def count(reading: Reading) -> Counted:
        contents = read_contents(reading, options.skip_missing)
        samples = [s for part in contents.samples.values() for s in part]
        return Counted(reading, contents.classes, samples)

    stem = options.out.with_suffix('')
    return read_contents(recognise(options.folder, stem, count), options.skip_missing)


def read_contents(reading: Reading, skip_missing: bool = False) -> Contents:
    """What the datasets of a reading read, all classes kept.

    Raises:
        UserError: The data are faulty; it tells of all faults at once.
    """
    with listen() as told:
        classes = reading.classes or list_names(reading)
        samples = {
            split: read_samples(dataset, classes, reading.class_ids, split == 'train')
            for split, dataset in reading.datasets.items()
        }
    stops = [
        fault.text
        for fault in told
        if fault.stops and not (skip_missing and fault.kind in IMAGES)
    ]
    if stops:
        images = any(fault.stops and fault.kind in IMAGES for fault in told)
        hint = '\nmmnextvit new --skip-missing goes on without these images.'
        raise UserError('\n'.join(dict.fromkeys(stops)) + hint * images)
    notes = dict.fromkeys(shorten(fault.text, MAX_NOTE) for fault in told)
    return Contents(add_notes(reading, notes), classes, reading.class_ids, samples)


def read_samples(
    dataset: Mapping[str, object],
    classes: Sequence[str],
    class_ids: Sequence[int] | None,
    training: bool,
) -> list[Sample]:
    """The images of a split, with all boxes, those of classes of one name included.

    Args:
        dataset: Its config.
        classes: Names.
        class_ids: Their numbers in the annotations, if these have any.
        training: Whether to check that the split can be trained on.
    """
    parts = []
    for labels in list_distinct(classes):
        known: dict[str, object] = dict(
            dataset,
            metainfo=dict(classes=tuple(classes[label] for label in labels)),
            # One class alone may own no box.
            test_mode=not (training and len(labels) == len(classes)),
            lazy_init=True,
        )
        if class_ids is not None:
            known['class_ids'] = tuple(class_ids[label] for label in labels)
        read = list_samples(build(known).load_data_list())
        renumbered = np.array(labels)
        parts.append([s._replace(labels=renumbered[s.labels]) for s in read])
    return [
        first._replace(
            boxes=np.concatenate([first.boxes, *(s.boxes for s in others)]),
            labels=np.concatenate([first.labels, *(s.labels for s in others)]),
        )
        for first, *others in zip(*parts, strict=True)
    ]


def list_distinct(classes: Sequence[str]) -> Iterator[list[int]]:
    """Parts of the labels, in none of which two classes have one name."""
    left = list(range(len(classes)))
    while left:
        first = {classes[label]: label for label in reversed(left)}
        yield sorted(first.values())
        left = [label for label in left if first[classes[label]] != label]


def list_names(reading: Reading) -> tuple[str, ...]:
    """The names that boxes have, in the order of the alphabet."""
    names: set[str] = set()
    for dataset in reading.datasets.values():
        unread = dict(dataset, metainfo=dict(classes=('?',)), lazy_init=True)
        names.update(build(unread).list_names())
    return tuple(sorted(names))


def build(dataset: Mapping[str, object]) -> Any:
    """A dataset by its config, which MMYOLO's registry has."""
    cfg = dict(default_scope='mmyolo', train_dataloader=dict(dataset=dict(dataset)))
    return build_dataset(Config(cfg), 'train')


# ------------------------------------------------------------------------- choosing


def leave_out_unused(contents: Contents) -> Contents:
    """The same without the classes that own no box in any split.

    Raises:
        UserError: No class owns one.
    """
    labels = [s.labels for part in contents.samples.values() for s in part]
    counts = np.bincount(np.concatenate(labels), minlength=len(contents.classes))
    used = [label for label, count in enumerate(counts) if count]
    unused = [name for name, count in zip(contents.classes, counts) if not count]
    if not unused:
        return contents
    if not used:
        raise UserError(
            'no image has a box of any class: there is nothing to train on',
            file=contents.reading.datasets['train']['ann_file'],
        )
    note = (
        f'{len(unused)} of the names own no box and are left out: '
        f'{first_few(map(repr, unused))} (--all-classes keeps them)'
    )
    ids = contents.class_ids
    renumbered = np.cumsum(counts > 0) - 1
    return Contents(
        add_notes(contents.reading, [note]),
        tuple(contents.classes[label] for label in used),
        None if ids is None else tuple(ids[label] for label in used),
        {
            split: [s._replace(labels=renumbered[s.labels]) for s in part]
            for split, part in contents.samples.items()
        },
    )


def make_split(contents: Contents, options: Options) -> Contents:
    """The same with part of the training images for validation, as lists of images."""
    samples = contents.samples['train']
    root = find_root(options.folder)
    groups = find_near(hash_images([s.path for s in samples], 'Comparing images'))
    split = split_samples(samples, root, groups)
    parts = {side: [samples[i] for i in getattr(split, side)] for side in split._fields}
    note = (
        f'no images are set aside for validation: {len(split.val)} of {len(samples)} '
        'are now, near duplicates on one side'
    )
    lines = describe_split(samples, groups, split, contents.classes)
    reading = add_notes(contents.reading, [note, *lines])
    rest = {k: v for k, v in contents.samples.items() if k != 'train'}
    contents = replace(contents, reading=reading, samples=parts | rest)
    return list_images(contents, options, parts)


def list_images(
    contents: Contents, options: Options, splits: Iterable[str]
) -> Contents:
    """The same with lists of the images of some splits, which alone are used."""
    datasets = contents.reading.datasets
    lists = write_lists(
        options.out.with_suffix(''),
        find_root(options.folder),
        {split: [s.path for s in contents.samples[split]] for split in splits},
    )
    listed = {
        split: dict(
            datasets.get(split, datasets['train']), image_list=str(path.absolute())
        )
        for split, path in lists.items()
    }
    reading = replace(contents.reading, datasets={**datasets, **listed})
    return replace(contents, reading=reading)


def make_plan(samples: Sequence[Sample], options: Options) -> Plan:
    """What suits the training images, the model and the weights that are at hand.

    Raises:
        UserError: There is no such model, or the weights cannot be read.
    """
    weights = options.weights
    backbone = weights is not None and is_backbone(weights)
    if weights is not None and '://' not in weights:
        weights = os.path.abspath(weights)
    normalisation = None
    if backbone and options.model.startswith('timm:'):
        normalisation = get_timm_mean_std(options.model.removeprefix('timm:'))
    return choose(
        options.model,
        samples,
        weights=weights,
        whole_detector=weights is not None and not backbone,
        image_size=options.image_size,
        normalisation=normalisation,
    )


def is_backbone(weights: str) -> bool:
    """Whether a checkpoint holds a backbone, not a detector.

    Raises:
        UserError: It cannot be read.
    """
    if weights.startswith(BACKBONES):
        return True
    if '://' not in weights:
        require_file(weights, '--weights')
    content = CheckpointLoader.load_checkpoint(weights, map_location='cpu')
    names = content.get('state_dict', content)
    return not any('bbox_head.' in name for name in names)
