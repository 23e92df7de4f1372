"""Configs that ``mmnextvit new`` writes for the tests, what they read, and a run."""

import json
from collections import Counter
from pathlib import Path

from mmnextvit.datasets.samples import list_samples
from mmnextvit.engine.configs import read_config
from mmnextvit.engine.runner import build_dataset

from mmengine.config import Config

from tests.conftest import TINY

from .commands import call_here

# A run of seconds on any of these configs.
FAST = [
    'max_epochs=1',
    'batch_size=2',
    *(f'model.backbone.arch.{key}={list(value)}' for key, value in TINY.items()),
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'default_hooks.checkpoint.save_best=None',
]


def make_config(folder: Path, *options: object) -> Config:
    """The config that ``mmnextvit new`` writes for ``folder/data``."""
    call_here('new', 'data', '-o', 'my.py', *options, cwd=folder)
    return read_config(str(folder / 'my.py'))


def read(cfg: Config, split: str) -> tuple[list[str], Counter[str]]:
    """The images' names, and the boxes of each class, of a split of a config."""
    dataset = build_dataset(cfg, split)
    samples = list_samples(dataset.get_data_info(i) for i in range(len(dataset)))
    classes = cfg[f'{split}_dataloader'].dataset.metainfo.classes
    return (
        sorted(Path(sample.path).name for sample in samples),
        Counter(classes[label] for sample in samples for label in sample.labels),
    )


def list_files(folder: Path) -> dict[str, bytes]:
    """All files of a folder but those in which scans of labels are kept."""
    paths = (p for p in sorted(folder.rglob('*')) if p.is_file())
    return {str(p): p.read_bytes() for p in paths if 'mmnextvit-cache' not in p.name}


def train(config: Path) -> None:
    """Trains an epoch in the config's folder, which is validated."""
    options = [str(option).replace(' ', '') for option in FAST]
    call_here(
        *('train', config, '--no-report', '--cfg-options', *options), cwd=config.parent
    )
    work_dir = config.parent / 'work_dirs' / config.stem
    assert (work_dir / 'epoch_1.pth').is_file()
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert any('coco/bbox_mAP' in entry for entry in entries)
