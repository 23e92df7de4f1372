"""A config for a folder of images, and what the folder holds."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from torch import Tensor

from ..datasets.data_yaml import SPLITS
from ..datasets.duplicates import find_near, hash_images
from ..datasets.faults import listen
from ..datasets.samples import Sample, list_samples
from ..engine.runner import build_dataset
from ..models.timm_features import get_timm_mean_std
from ..models.timm_models import check_name
from ..utils.errors import UserError, naming_key
from ..utils.files import atomic_write, require_file
from ..utils.messages import first_few, shorten
from .config_text import check_choices, choose, format_text
from .held_config import read_backbone, read_model, read_normalisation
from .reading import Reading
from .recognition import ARCHIVES, Counted, add_notes, recognise
from .split import describe_split, split_samples, write_lists
from .summary import describe_data
from .tree import get_suffix, read_tree

BACKBONES = 'timm://', 'hf://'  # where weights of backbones come from
# Names in detectors whose head ours can go on with: MMDetection's, and YOLOv5's own.
HEAD = re.compile(r'(module\.)?(bbox_head\.|model\.\d+\.m\.\d+\.weight$)')
# What --skip-missing leaves out, by what datasets tell of it.
IMAGES = dict(missing='missing', imageless='missing', broken='broken')
MAX_NOTE = 400  # characters
SUFFIXES = '.txt', '.json'  # of lists, and of annotations that are converted


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
    out = Path(os.path.abspath(options.out))
    taken = list(filter(os.path.lexists, list_outputs(out)))
    if taken:
        raise UserError(
            f'{first_few(taken)} exists, and nothing is overwritten: choose another '
            'name for the config with -o'
        )
    check_choices(options.model, options.image_size)
    if options.model.startswith('timm:'):
        with naming_key('--model'):
            check_name(options.model.removeprefix('timm:'))
    weights = find_weights(options)
    # All files are made beside the scratch and get their names together, at the end.
    with atomic_write(out, overwrite=False) as scratch:
        moved = partial(move, start=str(scratch.parent), to=str(out.parent))
        try:
            contents = prepare_contents(options, scratch.with_suffix(''))
        except UserError as error:
            raise UserError(moved(str(error))) from error
        reading = replace(
            contents.reading,
            datasets=moved(contents.reading.datasets),
            notes=moved(contents.reading.notes),
        )
        train = contents.samples['train']
        plan = choose(
            options.model, train, image_size=options.image_size, **weights._asdict()
        )
        text = format_text(
            plan,
            title=f'{reading.layout} in {os.path.abspath(options.folder)}',
            datasets=reading.datasets,
            classes=contents.classes,
            class_ids=contents.class_ids,
            num_images=len(train),
            data_root=find_root(reading),
            config_folder=out.parent,
        )
        scratch.write_text(text, encoding='utf-8')
    return describe_data(reading, contents.classes, contents.samples, plan, options.out)


def list_outputs(out: Path) -> list[Path]:
    """The config, and what may be written beside it."""
    made = (f'{out.stem}_{split}{suffix}' for split in SPLITS for suffix in SUFFIXES)
    return [out, *map(out.with_name, made)]


def move(value: Any, start: str, to: str) -> Any:
    """A value in which texts name one folder where they have named another."""
    if isinstance(value, Mapping):
        return {key: move(item, start, to) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(move(item, start, to) for item in value)
    return value.replace(start, to) if isinstance(value, str) else value


# -------------------------------------------------------------------------- reading


def find_root(reading: Reading) -> Path:
    """The folder that the paths in the config and in lists count from."""
    return Path(reading.datasets['train']['data_root'])


def prepare_contents(options: Options, stem: Path) -> Contents:
    """What is to be trained on and validated with.

    Args:
        options: What the command line says.
        stem: What the paths of files begin with that are written.

    Raises:
        UserError: The folder cannot be read, or no image or no box is left of it.
    """
    contents = leave_out_empty(read_folder(options, stem))
    if not options.all_classes:
        contents = leave_out_unused(contents)
    check_distinct(contents.classes)
    listed: Iterable[str] = ()
    if 'val' not in contents.samples:
        contents = make_split(contents)
        listed = 'train', 'val'
    if options.skip_missing:
        listed = contents.samples
    return list_images(contents, stem, listed) if listed else contents


def read_folder(options: Options, stem: Path) -> Contents:
    """Reads a folder by our own datasets, as they will read it in training.

    Raises:
        UserError: It has no layout that is known, readings differ, or the data are
            faulty.
    """

    def count(reading: Reading) -> Counted:
        contents = read_contents(reading, options.skip_missing)
        samples = [s for part in contents.samples.values() for s in part]
        return Counted(reading, contents.classes, samples)

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
    # A training would go on without what has a label alone, and nobody would know.
    of_images = [
        fault
        for fault in told
        if fault.kind == 'imageless' or (fault.stops and fault.kind in IMAGES)
    ]
    faults = [fault for fault in told if fault.stops or fault in of_images]
    stops = [f.text for f in faults if not (skip_missing and f in of_images)]
    if stops:
        if of_images and not skip_missing:
            stops += hint_at_archives(find_root(reading))
            stops.append('mmnextvit new --skip-missing goes on without these images.')
        raise UserError('\n'.join(dict.fromkeys(stops)))
    # Where names repeat, each reading of some of the classes is silent about the rest.
    partial_reading = len(set(classes)) < len(classes)
    notes = [
        f'{len(fault.places)} left out, since images are {IMAGES[fault.kind]}: '
        f'{first_few(fault.places)}'
        if fault in of_images
        else shorten(fault.text, MAX_NOTE)
        for fault in told
        if not (partial_reading and fault.kind == 'annotations')
    ]
    reading = add_notes(reading, dict.fromkeys(notes))
    return Contents(reading, classes, reading.class_ids, samples)


def hint_at_archives(root: Path) -> list[str]:
    """A line about archives, if there are any: images may be in them."""
    tree = read_tree(root)
    archives = [file for file in tree.files if get_suffix(file) in ARCHIVES]
    named = first_few(map(tree.shorten_path, archives))
    return [f'They may be in {named}: unpack it.'] if archives else []


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
    if len(parts) == 1:
        return parts[0]
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


def leave_out_empty(contents: Contents) -> Contents:
    """The same without the splits of which no image is left.

    Raises:
        UserError: Training is one of them.
    """
    empty = [split for split, part in contents.samples.items() if not part]
    datasets = contents.reading.datasets
    if 'train' in empty:
        raise UserError(
            'no image to train on is there', file=datasets['train']['ann_file']
        )
    notes = [f'no image of {split} is there: left out' for split in empty]
    kept = {split: data for split, data in datasets.items() if split not in empty}
    return replace(
        contents,
        reading=add_notes(replace(contents.reading, datasets=kept), notes),
        samples={split: contents.samples[split] for split in kept},
    )


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


def check_distinct(classes: Sequence[str]) -> None:
    """Refuses two classes of one name.

    Raises:
        UserError: There are such.
    """
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise UserError(
            f'several classes have the name {first_few(map(repr, repeated))}, and '
            'results could not tell them apart. Rename them in the annotations or, '
            'where only one of each owns boxes, leave out --all-classes'
        )


def make_split(contents: Contents) -> Contents:
    """The same with part of the training images for validation."""
    samples = contents.samples['train']
    groups = find_near(hash_images([s.path for s in samples], 'Comparing images'))
    split = split_samples(samples, find_root(contents.reading), groups)
    parts = {side: [samples[i] for i in getattr(split, side)] for side in split._fields}
    note = (
        f'no images are set aside for validation: {len(split.val)} of {len(samples)} '
        'are now, near duplicates on one side'
    )
    lines = describe_split(samples, groups, split, contents.classes)
    rest = {k: v for k, v in contents.samples.items() if k != 'train'}
    reading = add_notes(contents.reading, [note, *lines])
    return replace(contents, reading=reading, samples=parts | rest)


def list_images(contents: Contents, stem: Path, splits: Iterable[str]) -> Contents:
    """The same with lists of the images of some splits, which alone are used.

    Args:
        contents: What a folder holds.
        stem: What the paths of the lists begin with.
        splits: Those that get a list.
    """
    datasets = contents.reading.datasets
    lists = write_lists(
        stem,
        find_root(contents.reading),
        {split: [s.path for s in contents.samples[split]] for split in splits},
    )
    listed = {
        split: dict(datasets.get(split, datasets['train']), image_list=str(path))
        for split, path in lists.items()
    }
    reading = replace(contents.reading, datasets={**datasets, **listed})
    return replace(contents, reading=reading)


class Weights(NamedTuple):
    """Weights to start from, as `choose` takes them.

    Attributes:
        weights: Their file or address, if there are any.
        whole_detector: Whether they are those of a detector; else of a backbone.
        normalisation: Mean and std that they were trained with, where that is known.
        backbone: Arguments of the backbone that they need.
    """

    weights: str | None = None
    whole_detector: bool = False
    normalisation: Mapping[str, list[float]] | None = None
    backbone: Mapping[str, Any] = {}


def find_weights(options: Options) -> Weights:
    """What the option ``--weights`` names.

    Of a detector with another head, such as the official Mask R-CNN, the backbone is
    what there is to start from.

    Raises:
        UserError: It cannot be read.
    """
    weights = options.weights
    if weights is None:
        return Weights()
    is_timm = options.model.startswith('timm:')
    normalisation = None
    if is_timm:
        normalisation = get_timm_mean_std(options.model.removeprefix('timm:'))
    if weights.startswith('timm://'):
        with naming_key('--weights'):
            check_name(weights.removeprefix('timm://'))
    if weights.startswith(BACKBONES):
        return Weights(weights, False, normalisation)
    if '://' not in weights:
        require_file(weights, '--weights')
    content = CheckpointLoader.load_checkpoint(weights, map_location='cpu')
    values = content.get('state_dict', content)
    names = [name for name, value in values.items() if isinstance(value, Tensor)]
    if not names:
        raise UserError('the file holds no weights', file=weights)
    path = weights if '://' in weights else os.path.abspath(weights)
    if any(map(HEAD.match, names)):
        model = read_model(content)
        own = read_normalisation(model) or normalisation
        return Weights(path, True, own, {} if is_timm else read_backbone(model))
    inside = [name for name in names if name.startswith('backbone.')]
    lacks_norm = bool(inside) and 'backbone.norm.weight' not in inside
    needs = {'final_norm': False} if lacks_norm and not is_timm else {}
    return Weights(path, False, normalisation, needs)
