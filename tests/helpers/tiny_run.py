"""A run of seconds for the tests: a tiny detector on 64-pixel images."""

import os
import subprocess
import sys
from pathlib import Path

from mmnextvit.datasets.demo_data import make_demo_data

from tests.conftest import TINY

from .warm_python import run_python

ROOT = Path(__file__).parents[2]

CONFIG = f"""
_base_ = '{ROOT}/configs/yolov5_nextvit_s.py'

metainfo = dict(classes=('circle', 'square', 'triangle'))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='YOLOv5KeepRatioResize', scale=(64, 64)),
    dict(type='LetterResize', scale=(64, 64), pad_val=dict(img=114)),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=(
            'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'pad_param'
        ),
    ),
]
train = dict(
    data_root='DATA/',
    metainfo=metainfo,
    ann_file='annotations/train.json',
    data_prefix=dict(img='train/'),
    pipeline=pipeline,
)
val = dict(
    data_root='DATA/',
    metainfo=metainfo,
    ann_file='annotations/val.json',
    data_prefix=dict(img='val/'),
    pipeline=pipeline,
    batch_shapes_cfg=None,
)
loader = dict(num_workers=0, persistent_workers=False)

model = dict(
    backbone=dict(arch={TINY}, drop_path_rate=0.0),
    bbox_head=dict(head_module=dict(num_classes=3)),
)
train_dataloader = dict(batch_size=2, dataset=train, **loader)
val_dataloader = dict(batch_size=1, dataset=val, **loader)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='DATA/annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
randomness = dict(seed=0)
report = None
"""


def write_tiny_run(folder: Path) -> Path:
    """Writes 6 + 4 images and a config into ``folder``; returns the config."""
    data = folder / 'data'
    make_demo_data(data, train=6, val=4, size=64, seed=0)
    config = folder / 'tiny.py'
    config.write_text(CONFIG.replace('DATA', str(data)))
    return config


def use_datasets(config: Path, *lines: str) -> None:
    """Has a tiny run take data of another format, for an epoch with validation.

    Args:
        config: What :func:`write_tiny_run` gave.
        lines: Python that changes its ``train`` and ``val``.
    """
    more = (
        *lines,
        "pipeline[-1]['meta_keys'] += ('instances',)",
        'val_evaluator = test_evaluator = dict(ann_file=None)',
        'train_cfg = dict(max_epochs=1, val_interval=1)',
    )
    config.write_text(config.read_text() + ''.join(f'{line}\n' for line in more))


def run_command(
    *command: object, cwd: Path, env: dict, code: int = 0, warm: bool = True
) -> str:
    """Runs a command that must end with ``code``; returns all that it printed.

    Args:
        command: It and its arguments.
        cwd: The folder that it runs in.
        env: Its environment.
        code: The exit code that it must have.
        warm: Whether Python starts with other projects' packages imported.
    """
    if warm and Path(str(command[0])).name.startswith('python'):
        done = run_python(*command, cwd=cwd, env=env, join=True)
    else:
        done = subprocess.run(
            list(map(str, command)),
            cwd=cwd,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    assert done.returncode == code, done.stdout
    return done.stdout


def run_tool(
    name: str, *args: object, cwd: Path, code: int = 0, **variables: object
) -> str:
    """Runs a script of ``tools/`` as a user does; returns all that it printed.

    Args:
        name: The script.
        args: Its arguments.
        cwd: The folder that it runs in.
        code: The exit code that it must have.
        variables: Further variables of its environment.
    """
    env = dict(
        os.environ,
        PYTHONPATH=str(ROOT),  # where the package is not installed
        OMP_NUM_THREADS='1',
        CUDA_VISIBLE_DEVICES='-1',  # the same numbers on every machine
        PYTHON=sys.executable,
        **{key: str(value) for key, value in variables.items()},
    )
    command = [ROOT / 'tools' / name, *args]
    if name.endswith('.py'):
        command.insert(0, sys.executable)
    return run_command(*command, cwd=cwd, env=env, code=code)
