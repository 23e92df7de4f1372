"""Checkpoints are read without running them, and a wrong one says what does not fit."""

import builtins
import functools
import os
import pickle
import re
import subprocess
import zipfile
from pathlib import Path

from mmnextvit import NextViT
from mmnextvit.checkpoint import fit

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import nn


def load(path, **kwargs):
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu', **kwargs)


def mmengine_checkpoint() -> dict:
    """With every kind of content that MMEngine's Runner and hooks write."""
    history = HistoryBuffer()
    for i in range(5):
        history.update(float(i), 2)
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    info = dict(
        eta=np.float64(1.5),
        count=np.int64(3),
        flag=np.bool_(True),
        half=np.float32(0.5),
        dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3)], map=np.arange(3)),
        names=np.array(['a', 'bc']),
    )
    return dict(
        meta=dict(epoch=1, iter=2, cfg='a = 1', time=b'x'),
        state_dict=net.state_dict(),
        message_hub=dict(log_scalars={'train/loss': history}, runtime_info=info),
        optimizer=optimizer.state_dict(),
    )


def assert_same(a, b):
    if isinstance(a, HistoryBuffer):
        a, b = a.__dict__, b.__dict__
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, (np.ndarray, torch.Tensor)):
        assert a.dtype == b.dtype and a.tolist() == b.tolist()
    else:
        assert a == b


@pytest.mark.parametrize('zipped', [True, False])
def test_reads_what_mmengine_writes(tmp_path, zipped):
    path = tmp_path / 'epoch_1.pth'
    checkpoint = mmengine_checkpoint()
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    read = load(path)
    assert_same(read, torch.load(path, weights_only=False))
    history = read['message_hub']['log_scalars']['train/loss']
    assert history.mean(2) == 7 / 4 and history.statistics('max') == 4.0


def test_reads_files_of_the_other_numpy(tmp_path):
    """numpy 1 and 2 have other names for the same functions."""
    path, other = tmp_path / 'a.pth', tmp_path / 'b.pth'
    torch.save(mmengine_checkpoint(), path)
    ours = np.array(0.0).__reduce__()[0].__module__.encode()
    names = b'numpy.core.multiarray', b'numpy._core.multiarray'
    theirs = names[ours == names[0]]
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, 'w') as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith('data.pkl'):
                assert ours in content
                content = content.replace(ours, theirs)
            target.writestr(name, content)
    assert_same(load(other), load(path))


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


MARK = 'hostile_code_ran'
HOSTILE = {
    'system': (Call(os.system, f'touch {MARK}'), r'(posix|nt)\.system'),
    'eval': (Call(eval, f"open('{MARK}', 'w')"), 'eval'),
    'open': (Call(builtins.open, MARK, 'w'), 'open'),
    'Popen': (Call(subprocess.Popen, ['touch', MARK]), 'Popen'),
    'partial': (Call(functools.partial(os.system, f'touch {MARK}')), 'partial'),
    'getattr': (Call(getattr, HistoryBuffer, '__init__'), 'getattr'),
    'getattr of os': (Call(getattr, Call(__import__, 'os'), 'system'), '__import__'),
    'nested': ([{'x': (1, Call(os.system, f'touch {MARK}'))}], 'system'),
    'numpy pickles': (Call(np.load, MARK), 'load'),
    'module': (nn.Linear(2, 2), 'torch.nn.modules.linear.Linear'),
}


@pytest.mark.parametrize('name', HOSTILE)
@pytest.mark.parametrize('form', ['zip', 'legacy', 'pickle'])
def test_hostile_files_are_refused_and_not_run(tmp_path, monkeypatch, name, form):
    monkeypatch.chdir(tmp_path)
    content, asked_for = HOSTILE[name]
    path = tmp_path / 'hostile.pth'
    if form == 'pickle':
        path.write_bytes(pickle.dumps(dict(state_dict=content), protocol=2))
    else:
        torch.save(
            dict(state_dict=content), path, _use_new_zipfile_serialization=form == 'zip'
        )
    with pytest.raises(ValueError) as error:
        load(path)
    assert not Path(MARK).exists()
    assert str(path) in str(error.value) and 'Nothing of it was run' in str(error.value)
    assert re.search(asked_for, str(error.value))


def test_every_way_in_is_safe(tmp_path, monkeypatch):
    """Addresses too: torch finds the file in its cache, so nothing is fetched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    # What people set to get around torch's own refusal does not open the door.
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    cache = tmp_path / 'hub' / 'checkpoints'
    cache.mkdir(parents=True)
    name = 'resnet18-f37072fd.pth'  # as torchvision calls it
    bad = dict(state_dict=Call(os.system, f'touch {MARK}'))
    for folder in (cache, tmp_path):
        torch.save(bad, folder / name)
    (tmp_path / 'open_mmlab.json').write_text(f'{{"own": "{name}"}}')
    for source in (
        f'{tmp_path}/{name}',
        f'http://example.org/{name}',
        f'https://example.org/{name}',
        'torchvision://resnet18.imagenet1k_v1',
        'open-mmlab://own',
    ):
        with pytest.raises(ValueError, match='refused: it would call'):
            load(source)
    module = BaseModule(dict(type='Pretrained', checkpoint=str(cache / name)))
    with pytest.raises(ValueError, match='refused: it would call'):
        module.init_weights()
    assert not Path(MARK).exists()
    assert os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] == '1'
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ


def test_a_config_inside_a_checkpoint_is_left_out(tmp_path):
    """MMEngine's runner would execute it as Python on resuming."""
    content = mmengine_checkpoint()
    content['meta'].update(config='raise SystemExit', cfg='kept = 1')
    torch.save(content, tmp_path / 'x.pth')
    meta = load(tmp_path / 'x.pth')['meta']
    assert 'config' not in meta and meta['cfg'] == 'kept = 1'


def test_damaged_files(tmp_path):
    whole = tmp_path / 'whole.pth'
    torch.save(mmengine_checkpoint(), whole)
    damaged = {
        'truncated.pth': whole.read_bytes()[:-200],
        'text.pth': b'hello',
        'page.pth': b'<!DOCTYPE html><html><body>Quota exceeded</body></html>',
        'empty.pth': b'',
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f'{name} (cannot be read|is refused)'):
            load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        load(tmp_path / 'nowhere.pth')


@pytest.fixture(scope='module')
def states():
    return {
        arch: {f'backbone.{k}': v for k, v in NextViT(arch).state_dict().items()}
        for arch in ('small', 'base')
    }


def test_fit_of_the_same_model(states):
    found = fit(states['small'], {f'module.{k}': v for k, v in states['small'].items()})
    total = sum('num_batches_tracked' not in k for k in states['small'])
    assert found.complete and len(found.fitting) == total and not found.reason
    assert str(found) == f"{total} of the model's {total} tensors fit"


def test_fit_of_another_arch(states):
    small, base = states['small'], states['base']
    found = fit(small, base)
    fits = [k for k in small if k in base and small[k].shape == base[k].shape]
    assert len(found.fitting) == sum('num_batches' not in k for k in fits)
    text = str(found)
    assert text.startswith(f'{len(found.fitting)} of the model')
    name, shape = next(
        (k, v.shape)
        for k, v in base.items()
        if k in small and v.shape != small[k].shape
    )
    assert f'{name} ({"x".join(map(str, shape))} in the file, ' in text
    assert 'not in the model: backbone.features.' in text
    assert text.count(', and ') >= 2  # the lists are cut short
    assert "its backbone has 30 blocks (arch 'base'), the model's 20 blocks " in text
    assert text.endswith("(arch 'small').")
    # and the other way round tensors are missing
    assert 'not in the file: backbone.features.' in str(fit(base, small))


def test_fit_of_another_head(states):
    model = dict(states['small'], **{'bbox_head.conv.weight': torch.ones(24, 8, 1, 1)})
    file = dict(model, **{'bbox_head.conv.weight': torch.ones(255, 8, 1, 1)})
    found = fit(model, file)
    assert not found.complete and found.fits('backbone.')
    assert not found.fits('bbox_head.')
    assert 'weight (255x8x1x1 in the file, 24x8x1x1 in the model)' in str(found)
    assert 'another number of classes' in found.reason


def test_fit_of_nothing(states):
    found = fit(states['small'], {'conv.weight': torch.ones(1)})
    assert str(found).startswith('0 of the model') and found.unexpected == [
        'conv.weight'
    ]
