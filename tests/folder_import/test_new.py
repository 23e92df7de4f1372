"""A folder of every layout as a config that reads it, and trains on it."""

import pytest

from tests.helpers.layouts import (
    BUILDERS,
    ODD,
    PLAIN,
)
from tests.helpers.new_configs import list_files, make_config, read, train
from tests.helpers.tool_layouts import TOOL_BUILDERS

ALL = BUILDERS | TOOL_BUILDERS


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
    make_config(tmp_path, '--imgsz', 64)
    train(tmp_path / 'my.py')
