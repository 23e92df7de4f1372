"""Gathers what the checks judge: reads the data, each image once, and builds the model.

Nothing here ends with the first fault: what cannot be read is noted as a fact, and the
rest is looked at.
"""

import copy
import io
import math
import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.datasets import CocoDataset, XMLDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from rich.progress import track
from torch import nn

from ..datasets.checks import VerifiedDataMixin
from ..datasets.coco import VerifiedCocoMixin
from ..datasets.data_yaml import SPLITS
from ..datasets.duplicates import take_fingerprint
from ..datasets.faults import Told, listen
from ..datasets.files import read_bytes
from ..datasets.images import (
    SIDEWAYS,
    BrokenImageError,
    Size,
    load_image,
    read_header,
)
from ..datasets.samples import list_samples
from ..datasets.voc import VerifiedVOCMixin
from ..engine.config_faults import check_numbers, explain_build_error
from ..engine.config_files import check_config
from ..engine.data_report import list_class_counts
from ..engine.precision import computes_in_bfloat16
from ..engine.runner import build_model
from ..runs import find_checkpoint_folder
from ..utils.errors import UserError, find_user_error
from ..utils.files import require_file
from ..utils.messages import tell
from .facts import Amp, Anchors, Disk, Facts, Look, ModelFacts, Part, Resizing

# What reads the data of MMDetection's own classes, to check them on the way.
VERIFYING = ((CocoDataset, VerifiedCocoMixin), (XMLDataset, VerifiedVOCMixin))

# Steps of a pipeline that bring an image to the model's size, with what they do where
# the config does not say.
RESIZES: dict[str, dict[str, Any]] = {
    'YOLOv5KeepRatioResize': dict(keep_ratio=True),
    'LetterResize': dict(keep_ratio=True, allow_scale_up=True),
    'Resize': dict(keep_ratio=False),
    'FixScaleResize': dict(keep_ratio=False),
}

# How many numbers an optimizer keeps for each parameter; most keep two.
OPTIMIZER_STATES = {'SGD': 1, 'Lion': 1, 'Adagrad': 1, 'RMSprop': 1}

# Flags of processors that compute in bfloat16, as Linux has them in /proc/cpuinfo.


class Info(NamedTuple):
    """An image to be looked at.

    Attributes:
        path: The file.
        size: Its width and height in the annotations.
        measured: Whether these were read from the file.
        backend_args: MMEngine's file backend.
    """

    path: str
    size: tuple[int, int]
    measured: bool
    backend_args: dict | None


def gather_facts(cfg: Config) -> Facts:
    """All that the checks judge of a config, with a progress bar.

    Args:
        cfg: Config with a ``work_dir``.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    faults: list[UserError] = []
    with _noting(faults, cfg.filename):
        check_numbers(cfg)
    with _noting(faults, cfg.filename):
        check_config(cfg)
    with _noting(faults, cfg.filename):
        load_from = cfg.get('load_from')
        if load_from and '://' not in load_from:
            require_file(load_from, 'load_from: checkpoint')
    parts, infos = [], []
    for split, index, leaf in list_leaves(cfg):
        part, listed = read_part(split, index, leaf, cfg.filename)
        parts.append(part)
        infos += listed
    looks = look_at_images(list({(i.path, i.size): i for i in infos}.values()))
    model = None
    with _noting(faults, cfg.filename):
        model = build_model(_without_weights(cfg))
    count = sum(len(part.samples) for part in parts if part.split == 'train')
    return Facts(
        parts=parts,
        looks=looks,
        resizing=find_resizing(cfg),
        model=None if model is None else describe_model(model),
        disk=None if model is None else measure_disk(cfg, model, count),
        amp=find_amp(),
        faults=faults,
    )


@contextmanager
def _noting(faults: list[UserError], file: str | None) -> Iterator[None]:
    """Notes what the user can mend, and goes on behind the block."""
    try:
        yield
    except Exception as error:
        faults.append(_explain(error, file))


def _explain(error: Exception, file: str | None) -> UserError:
    """What the user can mend of an error.

    Of another one the traceback is printed, and the report goes on.
    """
    found = find_user_error(error) or explain_build_error(error, file)
    if isinstance(found, UserError):
        return found
    if found is not None:  # of the system, such as a missing permission
        return UserError(found.strerror or found, file=found.filename)
    traceback.print_exception(error)
    return UserError(f'{type(error).__name__}: {tell(error)}', file=file)


# --------------------------------------------------------------------------- datasets


def list_leaves(cfg: Config) -> list[tuple[str, int, dict]]:
    """The configs of the datasets inside wrappers, with split and number, each once.

    As a rule the test data are those of the validation: they are looked at once.
    """
    leaves: list[tuple[str, int, dict]] = []
    seen: dict[str, list[dict]] = {}
    for split in SPLITS:
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        of_split = list(_unwrap(dataset)) if isinstance(dataset, dict) else []
        keys = [{k: v for k, v in d.items() if k != 'pipeline'} for d in of_split]
        if split != 'test' or keys != seen.get('val'):
            leaves += [(split, index, leaf) for index, leaf in enumerate(of_split)]
        seen[split] = keys
    return leaves


def _unwrap(dataset: dict) -> Iterator[dict]:
    if isinstance(dataset.get('datasets'), (list, tuple)):
        for part in dataset['datasets']:
            yield from _unwrap(part)
    elif isinstance(dataset.get('dataset'), dict):
        yield from _unwrap(dataset['dataset'])
    else:
        yield dataset


def read_part(
    split: str, index: int, leaf: Mapping[str, Any], file: str | None = None
) -> tuple[Part, list[Info]]:
    """Reads a dataset's annotations, with all that is wrong with them.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        index: Which of the split's datasets it is.
        leaf: Its config.
        file: The file of the config.

    Returns:
        The dataset, and its images to be looked at.
    """
    title = str(leaf.get('ann_file') or f'{split} dataset {index}')
    with listen() as told:
        try:
            dataset = build_verified(leaf)
            title = getattr(dataset, 'ann_file', None) or title
            dataset.data_list = listed = dataset.load_data_list()
            dataset.data_list = dataset.filter_data()
            kept = dataset.data_list
            if dataset._indices is not None:
                kept = dataset._get_unserialized_subset(dataset._indices)
        except Exception as error:
            fault = _explain(error, file)
            # What comes after a fault, as that no images are left, follows from it.
            if not any(one.stops for one in told):
                places = [str(fault.file)] if fault.file else []
                told.append(Told('unreadable', str(fault), places, stops=True))
            return Part(split, title, told=told), []
    infos = [
        Info(
            data['img_path'],
            (data['width'], data['height']),
            data.get('size_measured', False),
            getattr(dataset, 'backend_args', None),
        )
        for data in kept
    ]
    part = Part(
        split=split,
        title=title,
        classes=tuple(dataset.metainfo.get('classes') or ()),
        samples=list_samples(kept),
        told=told,
        filtered=len(listed) - len(dataset.data_list),
        skips_broken=bool(leaf.get('skip_broken')),
    )
    return part, infos


def build_verified(leaf: Mapping[str, Any]) -> BaseDataset:
    """A dataset that checks its annotations when it loads them, and no image.

    MMDetection's own classes get our checks mixed in.
    """
    cfg = copy.deepcopy(dict(leaf))
    with DATASETS.switch_scope_and_registry(cfg.get('_scope_')) as registry:
        kind = cfg.get('type')
        kind = registry.get(kind) if isinstance(kind, str) else kind
    if 'type' not in cfg:
        raise UserError('the config of a dataset has no type')
    for base, mixin in VERIFYING:
        # A class that reads another format has a method of its own for it.
        if kind and getattr(kind, 'load_data_list', None) is base.load_data_list:
            cfg['type'] = kind = type(kind.__name__, (mixin, kind), {})
    if kind and issubclass(kind, VerifiedDataMixin):
        cfg['decode_all'] = False  # all images are looked at anyway
    # Whether masks are needed is all that the pipeline says of the annotations.
    loading = [s for s in cfg.get('pipeline') or () if _name(s) == 'LoadAnnotations']
    return DATASETS.build(cfg | dict(pipeline=loading, lazy_init=True))


def _name(step: Mapping[str, Any]) -> str:
    """The name of a step's class, without a scope before it."""
    kind = step.get('type', '')
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


# ----------------------------------------------------------------------------- images


def look_at_images(infos: Sequence[Info]) -> dict[tuple[str, Size], Look]:
    """Reads and decodes each image once, by several threads, with a progress bar."""
    with ThreadPoolExecutor() as pool:
        looks = track(
            pool.map(look_at_image, infos), 'Looking at the images', len(infos)
        )
        return {
            (info.path, info.size): look
            for info, look in zip(infos, looks, strict=True)
        }


def look_at_image(info: Info) -> Look:
    """What an image file is seen to be."""
    content = None
    with suppress(OSError, UserError):  # what loads the image says what is wrong
        content = read_bytes(info.path, info.backend_args)
    try:
        remarks = load_image(
            info.path,
            backend_args=info.backend_args,
            decode_twice=True,
            stated=info.size,
            measured=info.measured,
            content=content,
        ).remarks
    except BrokenImageError as error:
        return Look(error)
    content = content or b''
    fingerprint = None
    with suppress(Exception):  # Pillow knows fewer formats than OpenCV
        fingerprint = take_fingerprint(content)
    header = read_header(io.BytesIO(content))
    turned = (
        header is not None
        and not info.measured
        and header.orientation in SIDEWAYS
        and info.size == header.size
        and info.size != header.size[::-1]
    )
    return Look(None, remarks, turned, fingerprint)


# ---------------------------------------------------------------- config and machine


def find_resizing(cfg: Config) -> Resizing | None:
    """How the model's images are resized: as for validation, or else in training."""
    for split in ('val', 'test', 'train'):
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        for leaf in _unwrap(dataset) if isinstance(dataset, dict) else ():
            for step in leaf.get('pipeline') or ():
                if _name(step) in RESIZES:
                    return read_resizing(step)
    return None


def read_resizing(step: Mapping[str, Any]) -> Resizing:
    """What one of the steps of `RESIZES` does."""
    step = RESIZES[_name(step)] | dict(step)
    scale, is_factor = step.get('scale'), False
    if scale is None:
        scale, is_factor = step['scale_factor'], True
    elif isinstance(scale, float) or (
        isinstance(scale, int) and _name(step) == 'YOLOv5KeepRatioResize'
    ):
        is_factor = True
    if isinstance(scale, (int, float)):
        scale = scale, scale
    return Resizing(
        tuple(scale), step['keep_ratio'], step.get('allow_scale_up', True), is_factor
    )


def _without_weights(cfg: Config) -> Config:
    """The config of a model that loads no weights when it is built."""
    cfg = copy.deepcopy(cfg)
    (cfg.model.get('backbone') or {}).pop('init_cfg', None)
    return cfg


def describe_model(model: nn.Module) -> ModelFacts:
    """What a model was built as."""
    head = getattr(model, 'bbox_head', None)
    sizes = getattr(getattr(head, 'prior_generator', None), 'base_sizes', None)
    threshold = getattr(head, 'prior_match_thr', None)  # YOLOv5's heads have it
    anchors = None
    if sizes is not None and threshold is not None:
        flat = [size for level in sizes for size in level]
        anchors = Anchors(np.array(flat, float).reshape(-1, 2), float(threshold))
    return ModelFacts(list_class_counts(model), anchors)


def measure_disk(cfg: Config, model: nn.Module, num_images: int) -> Disk | None:
    """What the checkpoints need, and what is free where they go.

    Args:
        cfg: Config with a ``work_dir``.
        model: The model that is to be trained.
        num_images: How many images it is trained on.
    """
    hooks = cfg.get('default_hooks') or {}
    hook = hooks.get('checkpoint', {})
    folder = find_checkpoint_folder(cfg)
    if hook is None or folder is None:
        return None
    hook = hook or dict(interval=1)  # MMEngine's, where the config has none
    saved = count_checkpoints(hook, count_rounds(cfg, hook, num_images))
    whole, best = measure_checkpoint(cfg, model, hook)
    keys = hook.get('save_best')
    bests = len(keys) if isinstance(keys, (list, tuple)) else int(bool(keys))
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    needed = saved * whole + bests * best
    return Disk(folder, free, needed, whole, saved + bests)


def count_rounds(cfg: Config, hook: Mapping[str, Any], num_images: int) -> int:
    """How many epochs, or iterations where the hook counts these, a run has."""
    train_cfg = cfg.get('train_cfg') or {}
    by_epoch = hook.get('by_epoch', True)
    epochs, iters = train_cfg.get('max_epochs'), train_cfg.get('max_iters')
    if by_epoch or epochs is None:
        return epochs or iters or 1
    batch = (cfg.get('train_dataloader') or {}).get('batch_size') or 1
    return epochs * max(1, math.ceil(num_images / batch))


def count_checkpoints(hook: Mapping[str, Any], rounds: int) -> int:
    """How many regular checkpoints there are at most at one time.

    Args:
        hook: The config of MMEngine's ``CheckpointHook``.
        rounds: Epochs or iterations, as it counts them.
    """
    interval = hook.get('interval', -1)
    saves = rounds // interval if interval > 0 else 0
    last = hook.get('save_last', True) and (interval <= 0 or rounds % interval > 0)
    saves += bool(last)
    kept = hook.get('max_keep_ckpts', -1)
    # One is removed only when the one that takes its place is whole.
    return min(saves, kept + 1) if kept > 0 else saves


def measure_checkpoint(
    cfg: Config, model: nn.Module, hook: Mapping[str, Any]
) -> tuple[int, int]:
    """The bytes of a checkpoint, and of one of the best weights alone."""
    state = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    hooks = [
        *(cfg.get('custom_hooks') or ()),
        *(cfg.get('default_hooks') or {}).values(),
    ]
    averaged = any(hook and _name(hook).endswith('EMAHook') for hook in hooks)
    best = state * (1 + averaged)
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    numbers = OPTIMIZER_STATES.get(_name(optimizer), 2)
    if _name(optimizer) == 'SGD' and not optimizer.get('momentum'):
        numbers = 0
    trained = sum(
        p.numel() * p.element_size() for p in model.parameters() if p.requires_grad
    )
    with_optimizer = hook.get('save_optimizer', True)
    return best + (numbers * trained if with_optimizer else 0), best


def find_amp() -> Amp:
    """What mixed precision is on the device that a training would take."""
    device = get_device()
    if device == 'cuda':
        # Tensor cores came with 7.0; half precision alone is hardly faster.
        fast = torch.cuda.get_device_capability() >= (7, 0)
        return Amp(f'the GPU ({torch.cuda.get_device_name()})', fast)
    if device != 'cpu':
        return Amp(f'the device {device}', None)
    return Amp('this processor', computes_in_bfloat16())
