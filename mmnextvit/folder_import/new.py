"""A config for a folder of images, and what the folder holds."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.runner import CheckpointLoader

from ..datasets.duplicates import find_near, hash_images
from ..datasets.samples import Sample, list_samples
from ..engine.runner import build_unread_dataset
from ..models.timm_models import get_timm_mean_std
from ..utils.errors import MissingFileError, UserError
from ..utils.files import atomic_write_text, check_new_file, require_file
from ..utils.messages import first_few
from .config_text import Plan, choose, write_text
from .conversions import CONVERSIONS, find_unsupported
from .reading import Reading
from .recognition import (
    Counted,
    add_notes,
    choose_reading,
    describe_unknown,
    list_readings,
)
from .split import split_samples, write_lists
from .summary import describe_data

BACKBONES = 'timm://', 'hf://'  # where weights of backbones come from


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
    contents = read_folder(options)
    if not options.all_classes:
        contents = leave_out_unused(contents)
    if 'val' not in contents.samples:
        contents = make_split(contents, options)
    elif options.skip_missing:
        contents = list_present(contents, options)
    train = contents.samples['train']
    plan = make_plan(train, options)
    reading = contents.reading
    text = write_text(
        plan,
        title=f'{reading.layout} in {os.path.abspath(options.folder)}',
        datasets=reading.datasets,
        classes=contents.classes,
        class_ids=contents.class_ids,
        num_images=len(train),
        data_root=find_root(options.folder),
        config_folder=options.out.absolute().parent,
    )
    atomic_write_text(check_new_file(options.out), text)
    return describe_data(
        reading, contents.classes, contents.samples, plan, options.out
    )


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
    tree, readings = list_readings(options.folder)
    stem = options.out.with_suffix('')
    if not readings:
        for conversion in CONVERSIONS:
            files = conversion.recognise(tree)
            if files:
                readings = [conversion.convert(tree, files, stem)]
                break
    if not readings:
        raise find_unsupported(tree) or describe_unknown(tree)
    read = [load(reading, options.skip_missing) for reading in readings]
    first = read[0]
    if len(read) == 1:
        return first
    counted = [
        Counted(one.reading, one.classes, [s for p in one.samples.values() for s in p])
        for one in read
    ]
    return replace(first, reading=choose_reading(counted))


def load(reading: Reading, skip_missing: bool = False) -> Contents:
    """What the datasets of a reading read, all classes kept.

    Raises:
        UserError: The data are faulty, or images are missing and not skipped.
    """
    classes = reading.classes or list_names(reading)
    samples = {}
    for split, dataset in reading.datasets.items():
        known: dict[str, Any] = dict(
            dataset,
            metainfo=dict(classes=classes),
            skip_broken=skip_missing,
        )
        if reading.class_ids is not None:
            known['class_ids'] = reading.class_ids
        try:
            data_list = build_unread_dataset(known).load_data_list()
        except MissingFileError as error:
            raise UserError(
                f'{error}\n(mmnextvit new --skip-missing goes on without images that '
                'are missing.)'
            ) from error
        samples[split] = list_samples(data_list)
    return Contents(reading, classes, reading.class_ids, samples)


def list_names(reading: Reading) -> tuple[str, ...]:
    """The names that boxes have, in the order of the alphabet."""
    names: set[str] = set()
    for dataset in reading.datasets.values():
        unread = build_unread_dataset(dict(dataset, metainfo=dict(classes=('?',))))
        names.update(unread.count_names())
    return tuple(sorted(names))


# ------------------------------------------------------------------------- choosing


def leave_out_unused(contents: Contents) -> Contents:
    """The same without the classes that own no box in any split."""
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
        f'{len(unused)} classes own no box and are left out: '
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
    prints = hash_images([s.path for s in samples], 'Comparing images')
    groups = find_near(prints)
    root = find_root(options.folder)
    train, val = split_samples(samples, root, groups)
    lists = write_lists(
        options.out.with_suffix(''),
        root,
        [samples[i].path for i in train],
        [samples[i].path for i in val],
    )
    note = (
        'the folder has no images for validation: '
        f'{len(val)} of {len(samples)} are set aside in {lists[1].name}, copies of an '
        'image on one side'
    )
    before = contents.reading.datasets
    datasets = {
        split: dict(before['train'], image_list=str(path.absolute()))
        for split, path in zip(('train', 'val'), lists)
    }
    rest = {k: v for k, v in contents.samples.items() if k != 'train'}
    return replace(
        contents,
        reading=replace(
            add_notes(contents.reading, [note]), datasets={**before, **datasets}
        ),
        samples=dict(train=[samples[i] for i in train], val=[samples[i] for i in val])
        | rest,
    )


def list_present(contents: Contents, options: Options) -> Contents:
    """The same with lists of the images that are there, which alone are used."""
    root = find_root(options.folder)
    datasets = dict(contents.reading.datasets)
    for split, samples in contents.samples.items():
        path = options.out.with_name(f'{options.out.stem}_{split}.txt')
        write_list(path, root, [sample.path for sample in samples])
        datasets[split] = dict(datasets[split], image_list=str(path.absolute()))
    return replace(contents, reading=replace(contents.reading, datasets=datasets))


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
        mean, std = get_timm_mean_std(options.model.removeprefix('timm:'))
        normalisation = dict(mean=mean, std=std)
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
    return not any(name.startswith(('bbox_head.', 'module.bbox_head.')) for name in names)
