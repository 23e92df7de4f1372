"""A folder of every layout as a config that reads it, and trains on it."""

import json
from collections import Counter
from pathlib import Path

from mmnextvit.datasets.samples import list_samples
from mmnextvit.engine.runner import build_dataset

import pytest
from mmengine.config import Config

from tests.conftest import TINY
from tests.helpers.commands import call_here
from tests.helpers.layouts import (
    BUILDERS,
    ODD,
    PLAIN,
)
from tests.helpers.tool_layouts import TOOL_BUILDERS

ALL = BUILDERS | TOOL_BUILDERS


def make_config(folder: Path, *options: object) -> Config:
    """The config that ``mmnextvit new`` writes for ``folder/data``."""
    call_here('new', 'data', '-o', 'my.py', *options, cwd=folder)
    return Config.fromfile(folder / 'my.py')


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
    paths = (p for p in sorted(folder.rglob('*')) if p.is_file())
    return {str(p): p.read_bytes() for p in paths if 'mmnextvit-cache' not in p.name}


@pytest.mark.slow
@pytest.mark.parametrize('names', [PLAIN, ODD], ids=['plain', 'odd'])
@pytest.mark.parametrize('layout', ALL)
def test_the_config_reads_what_the_folder_holds(layout, names, tmp_path):
    expected = ALL[layout](tmp_path / 'data', names)
    before = list_files(tmp_path / 'data')
    cfg = make_config(tmp_path)
    assert list_files(tmp_path / 'data') == before
    text = (tmp_path / 'my.py').read_text(encoding='utf-8')
    assert len(text.splitlines()) <= 25
    content = {split: read(cfg, split) for split in ('train', 'val', 'test')}
    if 'val' in expected.splits:
        for split in expected.splits:
            images, boxes = content[split]
            assert images == sorted(expected.names[n] for n in expected.splits[split])
            assert boxes == expected.count_boxes(split)
    else:
        made = content['train'][0] + content['val'][0]
        assert sorted(made) == sorted(
            expected.names[n] for n in expected.splits['train']
        )
        assert content['train'][1] + content['val'][1] == expected.count_boxes('train')
        assert content['val'][1].keys() == {'cat', 'dog'}
    if 'test' not in expected.splits:
        assert content['test'] == content['val']
    assert cfg.train_dataloader.dataset.metainfo == dict(
        classes=cfg.val_dataloader.dataset.metainfo.classes
    )
    assert set(cfg.classes) == {'cat', 'dog'}


@pytest.mark.slow
@pytest.mark.parametrize('layout', ALL)
def test_the_config_trains(layout, tmp_path):
    ALL[layout](tmp_path / 'data')
    config = make_config(tmp_path, '--imgsz', 64).filename
    options = [
        'max_epochs=1',
        'batch_size=2',
        *(f'model.backbone.arch.{key}={list(value)}' for key, value in TINY.items()),
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
        'default_hooks.checkpoint.save_best=None',
    ]
    options = [str(option).replace(' ', '') for option in options]
    call_here('train', config, '--cfg-options', *options, cwd=tmp_path)
    work_dir = tmp_path / 'work_dirs' / 'my'
    assert (work_dir / 'epoch_1.pth').is_file()
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert any('coco/bbox_mAP' in entry for entry in entries)
