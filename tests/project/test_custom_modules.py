"""What docs/custom_modules.md shows works as it stands there."""

import re
import sys
from copy import deepcopy

from mmnextvit.cli import call
from mmnextvit.models import yolov5_row_files
from mmnextvit.models.yolov5_fork_modules import CBAM
from mmnextvit.models.yolov5_rows import OURS, ROW_RULES
from mmnextvit.models.yolov5_unknown import PAGE as PATH
from mmnextvit.models.yolov5_unknown import UNSETTLED
from mmnextvit.weights.layouts import make_formats
from mmnextvit.weights.loading import find_numbering

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS

from tests.conftest import ROOT
from tests.helpers.yolov5_models import write_yaml, yolov5_model

PAGE = (ROOT / PATH).read_text()
FILE, IMPORTS = re.findall(r'```python\n(.*?)```', PAGE, re.S)


def forget():
    """Takes back what a file has registered, as a new process has it."""
    ROW_RULES.clear()
    ROW_RULES.update(OURS)
    yolov5_row_files._IMPORTED.clear()
    sys.modules.pop('my_modules', None)


@pytest.fixture
def content():
    """A small YOLOv5 with the page's rows, and CBAM."""
    content = deepcopy(yolov5_model('n', nc=3))
    content['backbone'][1] = [-1, 3, 'DownBlock', [128]]
    content['backbone'][-1] = [-1, 1, 'ChannelGate', [1024, 8]]
    content['head'][0] = [-1, 1, 'CBAM', [1024]]
    content['head'][2] = [[-1, 6], 1, 'BiFPN_Concat2', [1]]
    return content


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ('models', 'elsewhere'):
        (tmp_path / name).mkdir()
    (tmp_path / 'models' / 'my_modules.py').write_text(FILE)
    monkeypatch.chdir(tmp_path / 'models')
    yield tmp_path
    forget()


def build(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    return cfg, MODELS.build(cfg.model)


def test_the_blocks_have_ten_lines():
    blocks = [b for b in FILE.split('\n\n\n') if 'class' in b]
    assert len(blocks) == 2
    assert all(sum(map(bool, b.splitlines())) <= 11 for b in blocks)
    assert max(len(x) for x in PAGE.splitlines() if not x.startswith('|')) <= 95


def test_every_module_of_forks_is_described():
    rows = re.findall(r'^\| ((?:`\w+`(?:, )?)+) \|', PAGE, re.M)
    named = {name for row in rows for name in re.findall(r'`(\w+)`', row)}
    forks = {
        name for name, rule in OURS.items() if rule.module.__module__ == CBAM.__module__
    }
    assert forks <= named
    assert all(f'`{name}`' in PAGE for name in UNSETTLED)


@pytest.mark.slow
def test_an_imported_model_is_built_from_any_folder(content, folder, monkeypatch):
    write_yaml(folder / 'models' / 'm.yaml', content)
    config = folder / 'models' / 'my_config.py'
    call('import_yolov5', 'm.yaml', '--modules', 'my_modules.py', '-o', config)

    monkeypatch.chdir(folder / 'elsewhere')
    forget()
    cfg, model = build(config)
    cfg.dump('dumped.py')
    forget()
    _, model = build('dumped.py')
    down, gate = model.backbone.rows['1'], model.backbone.rows['9']
    assert (down.down.out_channels, len(down.m)) == (32, 1)
    assert (type(gate).__name__, gate.fc[0].out_channels) == ('ChannelGate', 32)
    model.train()
    maps = model.extract_feat(torch.randn(2, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [8, 4, 2]
    sum(m.square().sum() for m in maps).backward()
    assert all(p.grad is not None for p in (*down.parameters(), *gate.parameters()))


@pytest.mark.slow
def test_weights_have_the_names_that_forks_give_them(content, folder):
    write_yaml(folder / 'models' / 'm.yaml', content)
    config = folder / 'models' / 'my_config.py'
    call('import_yolov5', 'm.yaml', '--modules', 'my_modules.py', '-o', config)
    _, model = build(config)
    layout = make_formats(find_numbering(model))['yolov5']
    state = model.state_dict()
    theirs = layout.from_ours(state)
    assert {
        'model.1.down.weight',
        'model.9.fc.0.weight',
        'model.10.channel_attention.f1.weight',
        'model.10.channel_attention.f2.weight',
        'model.10.spatial_attention.conv.weight',
        'model.12.w',
    } <= theirs.keys()
    assert not [name for name in theirs if '.fc1.' in name]
    back = layout.to_ours(theirs)
    assert back.keys() == {name for name in state if 'prior' not in name}
    assert all(torch.equal(back[name], state[name]) for name in back)


@pytest.mark.slow
def test_custom_imports_bring_the_file(content, folder, monkeypatch):
    write_yaml(folder / 'models' / 'm.yaml', content)
    config = folder / 'models' / 'my_config.py'
    call('import_yolov5', 'm.yaml', '--modules', 'my_modules.py', '-o', config)
    plain = config.with_name('plain.py')
    text = re.sub(r"modules=\['[^']*'\],?", '', config.read_text())
    assert text != config.read_text()
    plain.write_text(f'{text}\n{IMPORTS}')
    forget()
    monkeypatch.syspath_prepend(folder / 'models')
    _, model = build(plain)
    assert type(model.backbone.rows['9']).__name__ == 'ChannelGate'
