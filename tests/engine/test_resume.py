"""A run that stops anywhere and goes on ends as one that never stopped, bit for bit."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader

from tests.helpers.commands import call_here
from tests.helpers.tiny_run import write_tiny_run

pytestmark = pytest.mark.slow

# What is on in each run; everything that draws random numbers is in one of them.
RANDOM = """
_base_ = './tiny.py'
affine = dict(
    type='YOLOv5RandomAffine',
    scaling_ratio_range=(0.5, 1.5),
    border=(-32, -32),
    border_val=(114, 114, 114),
)
load = _base_.pipeline[:2]
mosaic = [
    dict(type='Mosaic', img_scale=(64, 64), pad_val=114.0, OTHERS_1),
    affine,
]
train_pipeline = [
    *load,
    *mosaic,
    dict(type='YOLOv5MixUp', prob=0.5, OTHERS_2),
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
train_cfg = dict(max_epochs=2, val_begin=3)
randomness = dict(seed=SEED)
"""


@dataclass
class Run:
    folder: Path
    work_dir: Path

    def losses(self) -> dict[int, float]:
        """The loss of each iteration."""
        lines = [
            line
            for path in self.work_dir.glob('*/vis_data/scalars.json')
            for line in path.read_text().splitlines()
        ]
        entries = [json.loads(line) for line in lines]
        return {e['step']: e['loss'] for e in entries if 'loss' in e}

    def read(self, name: str) -> dict:
        path = str(self.work_dir / name)
        return CheckpointLoader.load_checkpoint(path, map_location='cpu')


def train(folder: Path, work_dir: str, *options: object) -> Run:
    call_here('train', 'random.py', '--work-dir', work_dir, *options, cwd=folder)
    return Run(folder, folder / work_dir)


def differing(a: object, b: object, path: str = '') -> list[str]:
    """Where two nested contents differ, by a bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f'{path}: {a.keys() ^ b.keys()}']
        return [d for k in a for d in differing(a[k], b[k], f'{path}.{k}')]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [path]
        return [d for i, x in enumerate(a) for d in differing(x, b[i], f'{path}[{i}]')]
    return [] if a == b or callable(a) else [path]


def assert_same_end(resumed: Run, whole: Run, name: str) -> None:
    ends = resumed.read(name), whole.read(name)
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert ends[0].get(key) is not None or key == 'param_schedulers'
        assert differing(ends[0].get(key), ends[1].get(key)) == [], key
    assert differing(ends[0]['meta']['progress'], ends[1]['meta']['progress']) == []
    whole_losses = whole.losses()
    for step, loss in resumed.losses().items():
        assert loss == whole_losses[step], step


KEPT = 'use_cached=True, max_cached_images=6'
USUAL = dict(
    WORKERS=0,
    SEED=0,
    OTHERS_1='pre_transform=load',
    OTHERS_2='pre_transform=[*load, *mosaic]',
    batches=1,
)
RUNS = {
    'mosaic, mixup and drop path': dict(),
    'workers, and no seed in the config': dict(WORKERS=2, SEED=None),
    'kept images': dict(WORKERS=2, OTHERS_1=KEPT, OTHERS_2=KEPT),
    'summed batches': dict(batches=3),
}


@pytest.mark.parametrize('on', RUNS)
def test_resumed_run_equals_the_whole(tmp_path, on):
    values = USUAL | RUNS[on]
    text = RANDOM
    for key, value in values.items():
        text = text.replace(key, str(value))
    write_tiny_run(tmp_path)
    (tmp_path / 'random.py').write_text(text)
    options = (
        'default_hooks.param_scheduler.nominal_batch_size='
        + str(2 * values['batches']),
        'default_hooks.param_scheduler.warmup_mim_iter=1',
        'default_hooks.checkpoint.by_epoch=False',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.checkpoint.max_keep_ckpts=-1',
    )
    whole = train(tmp_path, 'whole', '--cfg-options', *options)
    resumed = train(
        tmp_path,
        'resumed',
        *('--resume', whole.work_dir / 'iter_2.pth'),
        *('--cfg-options', *options),
    )
    assert list(resumed.losses()) == [3, 4, 5, 6]
    assert_same_end(resumed, whole, 'iter_6.pth')
