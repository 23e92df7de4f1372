"""A tiny run with everything that draws random numbers, and comparisons of its ends."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader

from tests.helpers.commands import call_here
from tests.helpers.tiny_run import write_tiny_run

CONFIG = """
_base_ = './tiny.py'
affine = dict(
    type='YOLOv5RandomAffine',
    scaling_ratio_range=(0.5, 1.5),
    border=(-32, -32),
    border_val=(114, 114, 114),
)
load = _base_.pipeline[:2]
mosaic = [
    dict(type='Mosaic', img_scale=(64, 64), pad_val=114.0, OTHERS_OF_MOSAIC),
    affine,
]
train_pipeline = [
    *load,
    *mosaic,
    dict(type='YOLOv5MixUp', prob=0.5, OTHERS_OF_MIXUP),
    dict(type='YOLOv5HSVRandomAug'),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape'),
    ),
]
model = dict(backbone=dict(drop_path_rate=0.4))
train_dataloader = dict(
    num_workers=WORKERS,
    persistent_workers=WORKERS > 0,
    dataset=dict(pipeline=train_pipeline),
)
train_cfg = dict(max_epochs=2, val_begin=VAL_BEGIN, val_interval=1)
randomness = dict(seed=SEED)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=2, max_keep_ckpts=-1),
    param_scheduler=dict(
        nominal_batch_size=NOMINAL, warmup_epochs=0, warmup_mim_iter=1
    ),
)
"""

# What CONFIG's capitals stand for, unless a test says otherwise.
USUAL = dict(
    OTHERS_OF_MOSAIC='pre_transform=load',
    OTHERS_OF_MIXUP='pre_transform=[*load, *mosaic]',
    WORKERS=0,
    SEED=0,
    NOMINAL=2,  # each batch of two images brings a step
    VAL_BEGIN=3,  # no epoch is validated
)


def write_random_run(folder: Path, **values: object) -> Path:
    """Writes data and the config, ``random.py``, with values in the place of some."""
    write_tiny_run(folder)
    text = CONFIG
    for key, value in (USUAL | values).items():
        text = text.replace(key, str(value))
    config = folder / 'random.py'
    config.write_text(text)
    return config


@dataclass
class Run:
    """A training that has ended."""

    work_dir: Path

    def losses(self) -> dict[int, float]:
        """The loss of each iteration, from 1."""
        return {e['step']: e['loss'] for e in self._scalars() if 'loss' in e}

    def validations(self) -> list[int]:
        """The epochs that were validated."""
        return [e['step'] for e in self._scalars() if 'coco/bbox_mAP' in e]

    def _scalars(self) -> list[dict]:
        files = sorted(self.work_dir.glob('*/vis_data/scalars.json'))
        lines = [line for file in files for line in file.read_text().splitlines()]
        return [json.loads(line) for line in lines]

    def read(self, name: str) -> dict:
        path = str(self.work_dir / name)
        return CheckpointLoader.load_checkpoint(path, map_location='cpu')


def train(folder: Path, work_dir: str, *options: object) -> Run:
    """Trains by the config in a folder, to the end."""
    call_here('train', 'random.py', '--work-dir', work_dir, *options, cwd=folder)
    return Run(folder / work_dir)


def find_differences(a: object, b: object, path: str = '') -> list[str]:
    """Where two nested contents differ, by a single bit."""
    if type(a) is not type(b):
        return [path]
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return [] if same else [path]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f'{path}: {sorted(map(str, a.keys() ^ b.keys()))}']
        return [d for k in a for d in find_differences(a[k], b[k], f'{path}.{k}')]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [path]
        pairs = enumerate(zip(a, b))
        return [d for i, (x, y) in pairs for d in find_differences(x, y, f'{path}.{i}')]
    return [] if a == b else [path]


def assert_same_end(resumed: Run, whole: Run, name: str) -> None:
    """Asserts that two runs have the same losses, and end with the same checkpoint."""
    ends = resumed.read(name), whole.read(name)
    for key in ('state_dict', 'ema_state_dict', 'optimizer'):
        assert find_differences(*(end[key] for end in ends)) == [], key
    assert find_differences(*(end['meta']['progress'] for end in ends)) == []
    assert ends[0].get('param_schedulers') == ends[1].get('param_schedulers')
    losses = whole.losses()
    assert resumed.losses() == {step: losses[step] for step in resumed.losses()} != {}
