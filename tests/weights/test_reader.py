"""Files are read without running them; a damaged or hostile one says what it is."""

import argparse
import builtins
import functools
import io
import os
import pickle
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

from mmnextvit import NextViT
from mmnextvit.utils.errors import UserError
from mmnextvit.weights import calls, unpickler
from mmnextvit.weights.calls import Array
from mmnextvit.weights.loading import adapt
from mmnextvit.weights.reader import LEGACY, read_checkpoint
from mmnextvit.weights.records import Record, walk_modules
from mmnextvit.weights.sources import Checkpoint
from mmnextvit.weights.unpickler import Unpickler

import mmengine.runner.checkpoint as mmengine_checkpoint_module
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.fileio.backends import PetrelBackend
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from mmyolo.registry import MODELS
from safetensors.torch import save_file
from torch import nn

from tests.conftest import TINY
from tests.helpers.commands import run_here
from tests.helpers.tiny_run import write_tiny_run
from tests.helpers.yolov5_models import document_model, write_yaml
from tests.helpers.yolov5_pickle import ANCHORS, write_yolov5_checkpoint


def load(path, **kwargs):
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu', **kwargs)


def write(path: Path, pickled: bytes, form: str) -> Path:
    """A file with these bytes where torch.save puts the content's pickle.

    Args:
        form: ``'zip'``, ``'legacy'`` (before torch 1.6) or ``'bare'``, a pickle alone.
    """
    if form == 'bare':
        path.write_bytes(pickled)
        return path
    torch.save({'x': torch.ones(4)}, path, _use_new_zipfile_serialization=form == 'zip')
    if form == 'legacy':
        whole = path.read_bytes()
        file = io.BytesIO(whole)
        for _ in range(3):
            Unpickler(file).load()
        path.write_bytes(whole[: file.tell()] + pickled + pickle.dumps([], 2))
        return path
    with zipfile.ZipFile(path) as source:
        parts = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, 'w') as target:
        for name, content in parts.items():
            target.writestr(name, pickled if name.endswith('data.pkl') else content)
    return path


def text(value: str) -> bytes:
    """The opcode that pushes a text."""
    return b'X' + struct.pack('<I', len(value)) + value.encode()


# ----------------------------------------------------------------- what is read


def mmengine_checkpoint() -> dict:
    """With every kind of content that MMEngine's Runner and hooks write."""
    history = HistoryBuffer()
    for i in range(5):
        history.update(float(i), 2)
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    info = dict(
        eta=np.float64(1.5),
        count=np.int64(3),
        flag=np.bool_(True),
        half=np.float32(0.5),
        dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3)], map=np.arange(3)),
        names=np.array(['a', 'bc']),
        none=np.zeros((0, 2)),
        columns=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        big_endian=np.arange(3, dtype='>i4'),
    )
    return dict(
        meta=dict(epoch=1, iter=2, experiment_name='a = 1', time=b'x'),
        state_dict=net.state_dict(),
        message_hub=dict(log_scalars={'train/loss': history}, runtime_info=info),
        optimizer=optimizer.state_dict(),
        param_schedulers=[{'milestones': scheduler.milestones}],  # a Counter
    )


def assert_same(a, b):
    if isinstance(a, HistoryBuffer):
        a, b = a.__dict__, b.__dict__
    assert type(a) is type(b) or isinstance(a, (Checkpoint, Array))
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, (np.ndarray, torch.Tensor)):
        assert a.dtype == b.dtype and a.tolist() == b.tolist()
        assert a.shape == b.shape
    else:
        assert a == b


@pytest.mark.parametrize('zipped', [True, False])
def test_reads_what_mmengine_writes(tmp_path, zipped):
    path, again = tmp_path / 'epoch_1.pth', tmp_path / 'again.pth'
    checkpoint = mmengine_checkpoint()
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    expected = torch.load(path, weights_only=False)
    read = load(path)
    assert_same(read, expected)
    history = read['message_hub']['log_scalars']['train/loss']
    assert history.mean(2) == 7 / 4 and history.statistics('max') == 4.0
    # A run that goes on saves what it read: for others to read, without mmnextvit.
    history.update(1.0)
    torch.save(dict(read), again)
    assert b'mmnextvit' not in again.read_bytes()
    assert load(again)['message_hub']['log_scalars']['train/loss'].mean(1) == 1.0


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(
    'dtype', [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint64]
)
def test_reads_types_without_storages_of_their_own(tmp_path, zipped, dtype):
    """torch has its third function for them."""
    path = tmp_path / 'x.pth'
    whole = torch.arange(12).to(dtype).reshape(3, 4)
    state = {'x': whole, 'part': whole[1:].T}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    read = load(path)
    for name, value in state.items():
        assert read[name].dtype == dtype and read[name].stride() == value.stride()
        assert read[name].double().equal(value.double())
    assert read['x'].untyped_storage().nbytes() == whole.untyped_storage().nbytes()


@pytest.mark.parametrize('size, dtype', [('13', 'uint16'), ('1', 'Size')])
def test_a_wrong_type_or_size_without_a_storage_of_its_own(tmp_path, size, dtype):
    path = tmp_path / 'x.pth'
    pid = b'(' + text('storage') + b'ctorch.storage\nUntypedStorage\n'
    pid += text('0') + text('cpu') + b'K\x10tQ'  # 16 bytes
    tensor = b'ctorch._utils\n_rebuild_tensor_v3\n(' + pid + b'K\x00'
    tensor += f'(I{size}\nt(I1\nt'.encode() + b'\x89Nctorch\n' + dtype.encode()
    write(path, b'\x80\x02}' + text('y') + tensor + b'\ntRs.', 'zip')
    with pytest.raises(ValueError, match='larger than what|of the type|setStorage'):
        load(path)


@pytest.mark.parametrize('zipped', [True, False])
def test_tensors_go_where_the_caller_wants(tmp_path, zipped):
    path = tmp_path / 'x.pth'
    values = torch.arange(6.0)
    torch.save({'x': values[2:]}, path, _use_new_zipfile_serialization=zipped)
    asked = []

    def place(storage, location):
        asked.append(location)
        return storage.clone()

    for map_location in (None, 'cpu', torch.device('cpu'), {'cpu': 'cpu'}, place):
        x = read_checkpoint(path, map_location)['x']
        assert torch.equal(x, values[2:]) and x.untyped_storage().nbytes() == 24
    assert asked == ['cpu']


def test_storages_of_the_other_byte_order(tmp_path):
    path, other = tmp_path / 'a.pth', tmp_path / 'b.pth'
    torch.save({'x': torch.arange(4.0), 'y': torch.arange(3)}, path)
    width = {'data/0': 4, 'data/1': 8}
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, 'w') as target:
        for part in source.namelist():
            content = source.read(part)
            if part.endswith('byteorder'):
                content = {b'little': b'big', b'big': b'little'}[content]
            elif size := width.get(part.removeprefix('a/')):
                content = np.frombuffer(content, f'u{size}').byteswap().tobytes()
            target.writestr(part, content)
    assert_same(load(other), load(path))


def test_parts_of_storages_in_files_from_before_torch_1_6(tmp_path):
    """A persistent id then names the elements that are meant."""
    part = b'(' + text('1') + b'K\x01K\x02t'
    pid = b'(' + text('storage') + b'ctorch\nFloatStorage\n' + text('0') + text('cpu')
    pid += b'K\x04' + part + b'tQ'
    tensor = b'ctorch._utils\n_rebuild_tensor_v2\n(' + pid + b'K\x00K\x02\x85K\x01\x85'
    tensor += b'\x89ccollections\nOrderedDict\n)RtR'
    pickled = b'\x80\x02}' + text('x') + tensor + b's.'
    path = tmp_path / 'x.pth'

    def save(keys):
        content = write(path, pickled, 'legacy').read_bytes()
        end = pickle.dumps(keys, 2) + struct.pack('<q4f', 4, 1, 2, 3, 4)
        path.write_bytes(content[: -len(pickle.dumps([], 2))] + end)

    save(['0'])
    assert load(path)['x'].tolist() == [2, 3]
    for keys in ([], ['1'], ['0', '0'], ['0', '1'], '0', [0]):
        save(keys)
        with pytest.raises(ValueError, match='damaged or incomplete'):
            load(path)


@pytest.mark.parametrize('zipped', [True, False])
def test_metadata_of_state_dicts_is_kept(tmp_path, zipped):
    state = nn.BatchNorm1d(2).state_dict()
    state.copy = state.hidden = 'x'
    torch.save(state, tmp_path / 'x.pth', _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(tmp_path / 'x.pth')
    assert read._metadata == {'': {'version': 2}}
    assert vars(read).keys() == {'_metadata'}


def test_a_history_leaves_the_class_alone(tmp_path):
    """MMEngine's own way to read it puts what the file names into the class."""
    methods = dict(HistoryBuffer()._statistics_methods)
    history = HistoryBuffer([1.0], [1])
    history._statistics_methods = {'polluted': HistoryBuffer.min}
    torch.save({'x': history}, tmp_path / 'x.pth')
    assert load(tmp_path / 'x.pth')['x'].statistics('min') == 1.0
    assert HistoryBuffer._statistics_methods == methods
    for key, value in (('max_length', 'x'), ('_log_history', [1.0])):
        odd = HistoryBuffer([1.0], [1])
        setattr(odd, key, value)
        torch.save({'x': odd}, tmp_path / 'x.pth')
        with pytest.raises(ValueError, match=f'damaged.*a history whose {key} is'):
            load(tmp_path / 'x.pth')


def test_a_foreign_class_in_a_runs_checkpoint_is_named(tmp_path):
    """Read as a record, it would be put into the run that goes on."""
    content = mmengine_checkpoint()
    content['message_hub']['runtime_info']['mine'] = argparse.Namespace(x=1)
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='it would call argparse.Namespace'):
        load(tmp_path / 'x.pth')


def test_reads_files_of_the_other_numpy(tmp_path):
    """numpy 1 and 2 have other names for the same functions."""
    path, other = tmp_path / 'a.pth', tmp_path / 'b.pth'
    torch.save(mmengine_checkpoint(), path)
    ours = np.array(0.0).__reduce__()[0].__module__.encode()
    names = b'numpy.core.multiarray', b'numpy._core.multiarray'
    theirs = names[ours == names[0]]
    with zipfile.ZipFile(path) as source:
        (name,) = (n for n in source.namelist() if n.endswith('data.pkl'))
        content = source.read(name)
    assert ours in content
    # The same storages: torch.save numbers them in the order of the pickle.
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, 'w') as target:
        for part in source.namelist():
            new = content.replace(ours, theirs) if part == name else source.read(part)
            target.writestr(part, new)
    assert_same(load(other), load(path))


def test_reads_safetensors_that_are_then_written_over(tmp_path):
    path = tmp_path / 'a.safetensors'
    state = {'x': torch.arange(10_000.0), 'y': torch.ones(2, 3, dtype=torch.half)}
    save_file(state, path)
    read = read_checkpoint(path)
    path.write_bytes(b'')  # a mapped file would end the process here
    assert_same(read, state)


@pytest.mark.parametrize('protocol', range(2, 6))
@pytest.mark.parametrize('zipped', [True, False])
def test_reads_tensors_of_any_protocol(tmp_path, zipped, protocol):
    shared = torch.arange(12.0)
    content = {
        'state_dict': {
            'a': shared.view(3, 4).t(),
            'b': shared[4:6],
            'c': nn.Linear(1, 1).weight,
        },
        'args': argparse.Namespace(lr=1e-3, tags={'x'}, size=torch.Size([1, 2])),
        'dtype': torch.float16,
    }
    path = tmp_path / 'a.pth'
    torch.save(
        content,
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    read = read_checkpoint(path)
    for name, tensor in content['state_dict'].items():
        assert torch.equal(read['state_dict'][name], tensor)
    assert read['state_dict']['a'].stride() == (1, 4)
    args = read['args']
    assert isinstance(args, Record) and args.source == 'argparse.Namespace'
    assert args.state == vars(content['args']) and read['dtype'] is torch.float16


# Some of each kind of module, under YOLOv5's names.
YOLOV5 = {
    'model.0.stem.0.conv.weight': (4, 3, 3, 3),
    **{f'model.0.stem.0.norm.{k}': (4,) for k in ('weight', 'bias')},
    **{f'model.0.stem.0.norm.running_{k}': (4,) for k in ('mean', 'var')},
    'model.1.cv1.conv.weight': (2, 4, 1, 1),
    'model.4.m.0.cv1.conv.weight': (2, 2, 1, 1),
    'model.5.m.0.weight': (24, 2, 1, 1),
    'model.5.m.0.bias': (24,),
}
TYPES = ['NextViT', 'SPPF', 'nn.Upsample', 'Concat', 'C3', 'Detect']


def yolov5_state(seed=0):
    g = torch.Generator().manual_seed(seed)
    return {k: torch.randn(shape, generator=g).half() for k, shape in YOLOV5.items()}


@pytest.mark.slow
@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('protocol', [2, 4])
def test_reads_yolov5_without_yolov5(tmp_path, monkeypatch, zipped, protocol):
    path = write_yolov5_checkpoint(
        tmp_path / 'best.pt',
        yolov5_state(1),
        TYPES,
        ema=yolov5_state(2),
        names={0: 'circle', 1: 'square'},
        zipped=zipped,
        protocol=protocol,
    )
    # A converter of another library leaves a module of that name behind.
    monkeypatch.delitem(sys.modules, 'models', raising=False)
    with pytest.raises((ImportError, AttributeError)):
        torch.load(path, weights_only=False)
    read = load(path)
    for key, seed in (('model', 1), ('ema', 2)):
        model = read[key]
        assert model.source == 'models.yolo.DetectionModel'
        tensors = {}
        for prefix, module in walk_modules(model):
            for table in ('_parameters', '_buffers'):
                for name, tensor in (module.attribute(table) or {}).items():
                    if tensor is not None:
                        tensors[prefix + name] = tensor
        cells = tensors.pop('model.5.anchors').float()
        pixels = cells * torch.tensor([8, 16, 32]).view(3, 1, 1)
        torch.testing.assert_close(
            pixels, torch.tensor(ANCHORS).float(), rtol=1e-3, atol=0
        )
        assert_same(tensors, yolov5_state(seed))
        modules = dict(walk_modules(model))
        assert [modules[f'model.{i}.'].source for i in range(6)] == [
            'models.nextvit.NextViT',
            'models.common.SPPF',
            'torch.nn.modules.upsampling.Upsample',
            'models.common.Concat',
            'models.common.C3',
            'models.yolo.Detect',
        ]
        assert modules['model.0.stem.0.norm.'].attribute('eps') == 1e-3
        assert model.attribute('names') == {0: 'circle', 1: 'square'}
        assert modules['model.5.'].attribute('stride').tolist() == [8, 16, 32]
    assert read['best_fitness'].tolist() == [0.5]
    assert read['opt'].state == {'cfg': 'nextvit.yaml', 'project': 'runs/train'}
    assert 'models' not in sys.modules


def endless() -> nn.Module:
    model = nn.Module()
    model.a = model.b = nn.Module()
    model.a.c = model
    return model


def doubling() -> nn.Module:
    """Few modules, each in two places of the next: 2 to the 40th paths."""
    model = nn.Module()
    for _ in range(40):
        above = nn.Module()
        above.a = above.b = model
        model = above
    return model


def odd() -> nn.Module:
    """YOLOv5 by its names, with attributes of any kind."""
    model = nn.Module()
    model.model = nn.Sequential(nn.Module(), nn.BatchNorm2d(1, eps={}))
    model.model[0].stem = nn.Sequential(nn.Linear(1, 1))
    model.model[1].stride, model.model[1].anchors = torch.ones(3), torch.ones(2)
    model.model.x = nn.Linear(1, 1)
    model.names = [model, 1]
    return model


@pytest.mark.parametrize(
    'model, message',
    [
        (nn.Linear(1, 1), 'torch.nn.modules.linear.Linear has no numbered modules'),
        (endless(), 'the modules of torch.nn.modules.module.Module do not end'),
        (doubling(), 'the modules of torch.nn.modules.module.Module do not end'),
        (odd(), 'model.x.weight is in no numbered module'),
    ],
)
def test_models_that_are_no_yolov5(tmp_path, model, message):
    torch.save({'model': model}, tmp_path / 'x.pt')
    with pytest.raises(ValueError, match=f'x.pt: the file holds no weights.*{message}'):
        adapt(load(tmp_path / 'x.pt'), NextViT(TINY))


def test_a_config_inside_a_checkpoint_is_left_out(tmp_path):
    """MMEngine would execute it as Python, on resuming and for an inferencer."""
    content = mmengine_checkpoint()
    program = 'raise SystemExit'
    content['meta'].update(config=program, cfg=program)
    content['message_hub']['runtime_info']['cfg'] = program
    torch.save(content, tmp_path / 'x.pth')
    read = load(tmp_path / 'x.pth')
    assert not {'config', 'cfg'} & read['meta'].keys()
    assert 'cfg' not in read['message_hub']['runtime_info']
    with pytest.raises(UserError, match=r'x.pth: .* not run: give .*model=CONFIG'):
        DetInferencer(weights=str(tmp_path / 'x.pth'), device='cpu')


# ---------------------------------------------------------------- hostile pickles

MARK = 'hostile_code_ran'


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


SYSTEM = Call(os.system, f'touch {MARK}')
CHAIN = Call(getattr, Call(getattr, Path, '__init__'), '__globals__')
HOSTILE = {  # and what the message names
    'system': (SYSTEM, r'(posix|nt)\.system'),
    'eval': (Call(eval, f"open('{MARK}', 'w')"), r'builtins\.eval'),
    'exec': (Call(exec, f"open('{MARK}', 'w')"), r'builtins\.exec'),
    'open': (Call(builtins.open, MARK, 'w'), r'io\.open'),
    'Popen': (Call(subprocess.Popen, ['touch', MARK]), r'subprocess\.Popen'),
    'partial': (Call(functools.partial(os.system, f'touch {MARK}')), 'partial'),
    'getattr': (Call(getattr, HistoryBuffer, '__init__'), r'builtins\.getattr'),
    'getattr of os': (Call(getattr, Call(__import__, 'os'), 'system'), '__import__'),
    'getattr chain': (Call(getattr, CHAIN, 'os'), r'builtins\.getattr'),
    'nested': ([{'x': (1, SYSTEM)}], r'\.system'),
    'nested reductions': (Call(Call, Call(Call, SYSTEM)), r'\.system'),
    'in a state': (argparse.Namespace(x=SYSTEM), r'\.system'),
    'numpy.load': (Call(np.load, MARK), r'\.load'),
    'an array of a buffer': (Call(np.ndarray, (1,), 'O', b'A' * 8), r'numpy\.ndarray'),
    'an array of objects': (np.array([{}], dtype=object), r'numpy\.dtype'),
    'torch.load': (Call(torch.load, MARK), r'torch\.serialization\.load'),
    'torch.hub': (Call(torch.hub.load, '.', 'x'), r'torch\.hub\.load'),
    'allocation': (Call(bytearray, 1 << 40), 'bytearray'),
}
FORMS = ['zip', 'legacy', 'bare']


def refusal(path: Path) -> str:
    """The message with which a hostile file is refused."""
    with pytest.raises(ValueError) as error:
        load(path)
    assert not Path(MARK).exists()
    message = str(error.value)
    assert str(path) in message and 'Nothing in the file was run' in message, message
    return message


@pytest.mark.parametrize('name', HOSTILE)
@pytest.mark.parametrize('form', FORMS)
def test_hostile_files_are_refused_and_not_run(tmp_path, monkeypatch, name, form):
    monkeypatch.chdir(tmp_path)
    content, named = HOSTILE[name]
    pickled = pickle.dumps({'state_dict': content}, protocol=2)
    assert re.search(named, refusal(write(tmp_path / 'x.pth', pickled, form)))


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('form', FORMS)
def test_hostile_files_of_any_protocol(tmp_path, monkeypatch, protocol, form):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps({'state_dict': SYSTEM}, protocol=protocol)
    path = write(tmp_path / 'x.pth', pickled, form)
    if form == 'bare' and protocol < 2:
        with pytest.raises(ValueError, match='text file|no checkpoint'):
            load(path)
        assert not Path(MARK).exists()
    else:
        assert re.search(r'\.system', refusal(path))


TOUCH = text(f'touch {MARK}')
RAW = {  # opcodes that Python's own pickler does not write so, and what is named
    b'(' + TOUCH + b'ios\nsystem\n': r'os\.system',  # INST
    b'(cos\nsystem\n' + TOUCH + b'o': r'os\.system',  # OBJ
    text('os') + text('system') + b'\x93' + TOUCH + b'\x85R': r'os\.system',
    # through an allowed module, by dots
    b'ctorch.serialization\nos.system\n' + TOUCH + b'\x85R': r'serialization\.os\.',
    b'ccollections\nOrderedDict.__init__.__globals__\n)R': '__globals__',
    b'ctorch._utils\nsys.modules.get\n' + text('os') + b'\x85R': r'modules\.get',
    b'cnumpy\n_core.multiarray._reconstruct.__call__\n)R': '__call__',
    b'cmmnextvit.weights.calls\nCALLS.update\n)R': r'CALLS\.update',
    b'cmmengine.logging.history_buffer\nnp.load\n' + TOUCH + b'\x85R': r'np\.load',
    # what was called is called again, or made to an object first
    b'cos\nsystem\n)\x81' + TOUCH + b'\x85R': r'os\.system',  # NEWOBJ
    b'cos\nsystem\n)}\x92' + TOUCH + b'\x85R': r'os\.system',  # NEWOBJ_EX
    # by the memo
    b'cos\nsystem\nq\x050h\x05' + TOUCH + b'\x85R': r'os\.system',
    b'cos\nsystem\n20' + TOUCH + b'\x85R': r'os\.system',  # DUP, POP
    # a persistent id that names a function
    b'(' + text('module') + b'cos\nsystem\n' + text('a') * 2 + b'tQ'
    + TOUCH + b'\x85R': r'os\.system',
}  # fmt: skip


@pytest.mark.parametrize('opcodes', RAW)
@pytest.mark.parametrize('form', FORMS)
def test_hostile_opcodes(tmp_path, monkeypatch, opcodes, form):
    monkeypatch.chdir(tmp_path)
    pickled = b'\x80\x04}' + text('x') + opcodes + b's.'
    assert re.search(RAW[opcodes], refusal(write(tmp_path / 'x.pth', pickled, form)))


def slots(target: bytes) -> bytes:
    return target + b'N}' + text('polluted') + b'K\x01s\x86b'


def attributes(target: bytes) -> bytes:
    return target + b'}' + text('polluted') + b'K\x01sb'


@pytest.mark.parametrize('build', [slots, attributes])
@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_no_file_changes_what_others_get(tmp_path, build, form):
    """BUILD sets attributes, of classes and functions too, if one lets it."""
    good = tmp_path / 'good.pth'
    torch.save(mmengine_checkpoint(), good)
    before = load(good)
    targets = {
        'torch._utils._rebuild_tensor_v2': torch._utils._rebuild_tensor_v2,
        'torch._utils._rebuild_parameter': torch._utils._rebuild_parameter,
        'torch.Size': torch.Size,
        'torch.float32': torch.float32,
        'torch.device': torch.device,
        'collections.OrderedDict': OrderedDict,
        'builtins.getattr': calls._get_statistic,
        'numpy.dtype': calls.DType,
        'numpy.ndarray': calls.Array,
        'numpy._core.multiarray._reconstruct': calls._make_array,
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        'torch.nn.modules.module.Module': nn.Module,
        'mmnextvit.weights.records.Record': Record,
    }
    foreign = text('y') + b'cargparse\nNamespace\n)\x81s'  # for our own reader
    for name, target in targets.items():
        module, _, member = name.rpartition('.')
        opcodes = text('x') + build(f'c{module}\n{member}\n'.encode()) + b's.'
        for start in (b'\x80\x02}', b'\x80\x02}' + foreign):
            with pytest.raises(ValueError, match='damaged.*sets attributes'):
                load(write(tmp_path / 'x.pth', start + opcodes, form))
        assert not hasattr(target, 'polluted')
    assert_same(load(good), before)


def test_globals_that_others_allow_stay_out(tmp_path):
    """torch's list is one for the process, and widely written to."""
    path = tmp_path / 'x.pth'
    torch.save({'x': Call(np.ndarray, (1,), 'O', b'A' * 8)}, path)
    others = [np.ndarray, np.dtype, os.system]
    with torch.serialization.safe_globals(others):
        allowed = torch.serialization.get_safe_globals()
        assert 'numpy.ndarray' in refusal(path)
        torch.save({'x': SYSTEM}, path)
        assert '.system' in refusal(path)
        assert set(torch.serialization.get_safe_globals()) == set(allowed)


def test_torch_writes_no_file_for_a_legacy_one(tmp_path, monkeypatch):
    """It would write `NAME.patch` where a file has another source for a class."""
    monkeypatch.chdir(tmp_path)
    function = b'ctorch._utils\n_rebuild_tensor_v2\n'
    named = b'}' + text('dump_patches') + b'\x88s}' + text('__name__') + text('pwned')
    pid = b'(' + text('module') + function + named + b's\x86b' + text('a') * 2 + b'tQ'
    foreign = text('y') + b'cargparse\nNamespace\n)\x81s'
    pickled = b'\x80\x02}' + foreign + text('x') + pid + b's.'
    with pytest.raises(ValueError, match='damaged'):
        load(write(tmp_path / 'x.pth', pickled, 'legacy'))
    # Without the attributes it is what torch before 1.6 wrote of each module.
    pid = b'(' + text('module') + function + text('a') * 2 + b'tQ'
    pickled = b'\x80\x02}' + foreign + text('x') + pid + b's.'
    load(write(tmp_path / 'y.pth', pickled, 'legacy'))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['x.pth', 'y.pth']


# ------------------------------------------------------------------------ bombs

DEEP = b')' + b'\x85' * 200_000  # a tuple in a tuple in ...; Python crashes at its hash
LONG = b'(' + b''.join(b'J' + struct.pack('<i', i) for i in range(50_000)) + b'lq\x01'
BOMBS = {
    'deep key': b'}' + DEEP + b'K\x01s',
    'deep item of a set': b'c__builtin__\nset\n](' + DEEP + b'e\x85R',
    'deep key of a dict of another class': b'ccollections\nOrderedDict\n](]('
    + DEEP
    + b'K\x01eae\x85R',
    'deep item of a frozenset': b'(' + DEEP + b'\x91',
    'deep module name': DEEP + text('x') + b'\x93',
    'deep persistent id': b'(' + text('storage') + DEEP + b'NNN' + b'tQ',
    'long bytes': b'\x8e' + struct.pack('<Q', 1 << 62),
    'long bytearray': b'\x96' + struct.pack('<Q', 1 << 40),
    'many opcodes': b'N0' * 140_000 + b'N',
    'the same again and again': LONG
    + b'c__builtin__\nset\nq\x02h\x01\x85R' * 900
    + b'',
    'a shape': b'cnumpy._core.multiarray\n_reconstruct\n)R(K\x01'
    + b'\x8a\x06\x00\x00\x00\x00\x00\x01\x85cnumpy\ndtype\n'
    + text('f8')
    + b'\x85R\x89C\x00tb',
    'a scalar of a number': b'cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n'
    + text('f8')
    + b'\x85R\x8a\x06\x00\x00\x00\x00\x00\x01\x86R',
}


@pytest.mark.slow
@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_bombs(tmp_path, monkeypatch, form):
    monkeypatch.setattr(unpickler, 'MAX_OPCODES', 250_000)  # to be through sooner
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, opcodes in BOMBS.items():
        pickled = b'\x80\x02}' + text('x') + opcodes + b's.'
        with pytest.raises(ValueError, match='damaged or incomplete'):
            load(write(tmp_path / f'{name}.pth', pickled, form))
    # deep or recursive, but nothing that Python stumbles over
    for opcodes in (
        b']' * 100_000 + b'a' * 99_999,
        b']q\x01h\x01a',
        b'Nr\xff\xff\xff\x7f',
    ):
        pickled = b'\x80\x02}' + text('x') + opcodes + b's.'
        assert load(write(tmp_path / 'x.pth', pickled, form)).keys() == {'x'}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 * 1024  # KB


@pytest.mark.slow
def test_deep_names_in_the_legacy_form(tmp_path):
    """Its last pickle holds the storages' names, which torch looks up."""
    path = write(tmp_path / 'x.pth', b'\x80\x02}.', 'legacy')
    path.write_bytes(path.read_bytes()[:-4] + b'\x80\x02](' + DEEP + b'e.')
    with pytest.raises(ValueError, match='damaged or incomplete'):
        load(path)
    key = b'(' + DEEP + b'K\x00K\x01t'
    storage = text('storage') + b'ctorch\nFloatStorage\n' + text('0') + text('cpu')
    pid = b'(' + storage + b'K\x04' + key + b'tQ'
    with pytest.raises(ValueError, match='refers to something that is no tensor'):
        load(write(path, b'\x80\x02}' + text('x') + pid + b's.', 'legacy'))


SIZE, STRIDE = b'K\x04\x85', b'K\x01\x85'
HUGE = b'J' + struct.pack('<i', 2_000_000_000)
FORGED = {
    'a storage': (b'K\x04tQ', HUGE + b'tQ'),
    'a size': (SIZE, HUGE + b'\x85'),
    'a stride': (STRIDE, HUGE + b'\x85'),
    'an expanded tensor': (SIZE + STRIDE, HUGE + b'\x85' + b'K\x00\x85'),
    'an offset': (b'QK\x00', b'Q' + HUGE),
    'a negative offset': (b'QK\x00', b'QJ' + struct.pack('<i', -4)),
    'a negative stride': (STRIDE, b'J' + struct.pack('<i', -1) + b'\x85'),
    'a dtype': (b'FloatStorage', b'DoubleStorage'),
    'a name': (text('0'), text('../x')),
}


@pytest.mark.parametrize('name', FORGED)
@pytest.mark.parametrize('form', ['zip', 'legacy'])
@pytest.mark.parametrize('foreign', [False, True])
def test_forged_tensors(tmp_path, name, form, foreign):
    """By torch's reader and, where there is an object, by ours."""
    pid = b'ctorch\nFloatStorage\n' + text('0') + text('cpu') + b'K\x04'
    pid = b'(' + text('storage') + pid + (b'tQ' if form == 'zip' else b'NtQ')
    tensor = b'ctorch._utils\n_rebuild_tensor_v2\n(' + pid + b'K\x00' + SIZE + STRIDE
    tensor += b'\x89ccollections\nOrderedDict\n)RtR'
    object_ = text('y') + b'cargparse\nNamespace\n)\x81s' if foreign else b''
    pickled = b'\x80\x02}' + object_ + text('x') + tensor + b's.'
    path = tmp_path / 'x.pth'

    def save(pickled):
        write(path, pickled, form)
        if form == 'legacy':  # its storage follows
            end = pickle.dumps(['0'], 2) + struct.pack('<q4f', 4, 1, 2, 3, 4)
            path.write_bytes(path.read_bytes()[: -len(pickle.dumps([], 2))] + end)

    save(pickled)
    assert load(path)['x'].tolist() == [1, 1, 1, 1] if form == 'zip' else [1, 2, 3, 4]
    was, forged = FORGED[name]
    if form == 'legacy':
        was, forged = (
            was.replace(b'K\x04tQ', b'K\x04NtQ'),
            forged.replace(b'tQ', b'NtQ'),
        )
    assert pickled.count(was) >= 1
    save(pickled.replace(was, forged, 1))
    with pytest.raises(ValueError, match='damaged or incomplete'):
        load(path)


def test_compressed_or_doubled_parts(tmp_path):
    path = write(tmp_path / 'x.pth', b'\x80\x02}.', 'zip')
    with zipfile.ZipFile(path, 'a', zipfile.ZIP_DEFLATED) as file:
        file.writestr('x/data/1', bytes(1 << 20))
    with pytest.raises(ValueError, match='damaged.*compressed'):
        load(path)
    path = write(tmp_path / 'x.pth', b'\x80\x02}.', 'zip')
    with zipfile.ZipFile(path, 'a') as file, pytest.warns(UserWarning, match='Dup'):
        file.writestr(file.namelist()[0], pickle.dumps({'x': SYSTEM}, 2))
    with pytest.raises(ValueError, match='damaged.*twice'):
        load(path)


@pytest.mark.parametrize('first', [True, False])
def test_two_archives_end_to_end(tmp_path, monkeypatch, first):
    """Some readers of zip files see the first one, some the second."""
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(nn.ReLU()), 'program.pt')
    torch.save({'x': torch.ones(4)}, 'plain.pth')
    write(Path('hostile.pth'), pickle.dumps({'x': SYSTEM}, 2), 'zip')
    plain = Path('plain.pth').read_bytes()
    for name in ('program.pt', 'hostile.pth', 'plain.pth'):
        other = Path(name).read_bytes()
        Path('x.pth').write_bytes(other + plain if first else plain + other)
        with pytest.raises(ValueError, match='damaged.*not one archive|TorchScript'):
            load('x.pth')
    Path('x.pth').write_bytes(b'PK\x03\x04' + plain)
    with pytest.raises(ValueError, match='damaged.*not one archive'):
        load('x.pth')
    assert not Path(MARK).exists()


def test_a_file_whose_end_python_takes_for_no_zip_files(tmp_path, monkeypatch):
    """Newer releases of Python do so where the end is not where it says to be."""
    torch.save({'x': torch.ones(4)}, tmp_path / 'plain.pth')
    plain = (tmp_path / 'plain.pth').read_bytes()
    monkeypatch.setattr(zipfile, 'is_zipfile', lambda path: False)
    path = tmp_path / 'x.pth'
    for end in (b'', b'a comment', bytes(0xFFFF)):
        path.write_bytes(plain + plain + end)
        with pytest.raises(ValueError, match='damaged.*not one archive'):
            load(path)
    for cut in (1, 21, 22, 200):
        path.write_bytes(plain[:-cut])
        with pytest.raises(ValueError, match='the file is truncated: its end is miss'):
            load(path)


def test_no_file_reaches_torch_load(tmp_path, monkeypatch):
    """Its reader may see other things in a file than ours, and it opens programs."""
    files = []
    for zipped in (True, False):
        files += [tmp_path / f'{zipped}.pth', tmp_path / f'{zipped}.pt']
        torch.save(
            mmengine_checkpoint(), files[-2], _use_new_zipfile_serialization=zipped
        )
        write_yolov5_checkpoint(files[-1], yolov5_state(), TYPES, zipped=zipped)

    def called(*args, **kwargs):
        raise AssertionError('called')

    for name in ('torch.load', 'torch.jit.load', 'torch.serialization._load'):
        monkeypatch.setattr(name, called)
    for path in files:
        load(path)
    # MMEngine's loaders of other schemes call it by themselves.
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    (tmp_path / 'open_mmlab.json').write_text('{"own": "True.pth"}')
    assert load('open-mmlab://own').keys() == load(files[0]).keys()
    monkeypatch.setattr(PetrelBackend, '__init__', lambda self, **_: None)
    content = files[0].read_bytes()
    monkeypatch.setattr(PetrelBackend, 'get', lambda self, path: content)
    for address in ('s3://bucket/x.pth', 'mine:s3://x.pth', 'petrel://x.pth'):
        assert load(address).keys() == load(files[0]).keys()
    torch_of_mmengine = mmengine_checkpoint_module.torch
    assert torch_of_mmengine.load(files[0]).keys() == load(files[0]).keys()
    assert torch_of_mmengine.save is torch.save


@pytest.mark.parametrize(
    'address, message',
    [
        (
            'foo://bar',
            r'foo://bar: nothing is known of addresses with foo://.*https://,',
        ),
        ('pavi://x', 'pavi://x: Please install pavi'),
        (
            'torchvision://no_such',
            "no_such: MMEngine knows no weights called 'no_such'",
        ),
        ('open-mmlab://no_such', "MMEngine knows no weights called 'no_such'"),
        ('mmcls://no_such', "MMEngine knows no weights called 'no_such'"),
    ],
)
def test_addresses_that_lead_nowhere(address, message):
    with pytest.raises(UserError, match=message):
        load(address)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:invalid escape sequence')
def test_broken_bytes_end_in_a_message(tmp_path):
    sources = []
    for zipped in (True, False):
        torch.save(
            mmengine_checkpoint(),
            tmp_path / f'm{zipped}',
            _use_new_zipfile_serialization=zipped,
        )
        sources.append((tmp_path / f'm{zipped}').read_bytes())
        path = tmp_path / f'y{zipped}'
        write_yolov5_checkpoint(path, yolov5_state(), TYPES, zipped=zipped)
        sources.append(path.read_bytes())
    r = random.Random(0)
    path, read = tmp_path / 'x.pth', 0
    for _ in range(400):
        content = bytearray(r.choice(sources))
        start = max(content.find(b'data.pkl'), 0)
        for _ in range(r.choice([1, 2, 8])):
            content[r.randrange(start, min(start + 5000, len(content)))] = r.randrange(
                256
            )
        path.write_bytes(content)
        try:
            load(path)
            read += 1
        except ValueError as error:
            assert str(path) in str(error)
    assert 0 < read < 200


# ------------------------------------------------------------------- the ways in


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A hostile checkpoint, also in every cache of downloads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    # What people set to get around torch's own refusal does not open the door.
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    cache = tmp_path / 'hub' / 'checkpoints'
    cache.mkdir(parents=True)
    state = NextViT(TINY).state_dict()
    path = tmp_path / 'x.pth'
    torch.save({'state_dict': state, 'meta': {}, 'optimizer': SYSTEM}, path)
    for name in (
        'resnet18-f37072fd.pth',  # as torchvision calls it
        'nextvit_small.bd_ssld_6m_in1k.safetensors',
        'me--mine--model.safetensors',
        'me--mine--a.bin',
    ):
        (cache / name).symlink_to(path)
    (cache / 'x.pth').symlink_to(path)
    (tmp_path / 'open_mmlab.json').write_text('{"own": "x.pth"}')
    yield path
    assert not Path(MARK).exists()
    assert os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] == '1'
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ


REFUSED = r'refused: it would call (posix|nt)\.system'


@pytest.mark.slow
def test_every_address_is_safe(hostile):
    for source in (
        hostile,
        'x.pth',
        'http://example.org/x.pth',
        'https://example.org/x.pth?token=1',
        'torchvision://resnet18.imagenet1k_v1',
        'open-mmlab://own',
        'timm://nextvit_small.bd_ssld_6m_in1k',
        'hf://me/mine',
        'hf://me/mine:a.bin',
    ):
        with pytest.raises(ValueError, match=REFUSED):
            load(source)
        init_cfg = dict(type='Pretrained', checkpoint=str(source))
        for model in (NextViT(TINY, init_cfg=init_cfg), BaseModule(init_cfg)):
            with pytest.raises(ValueError, match=REFUSED):
                model.init_weights()


@pytest.mark.slow
@pytest.mark.parametrize('whole', [False, True])
def test_a_detectors_init_cfg_is_safe(hostile, load_config, tiny, whole):
    cfg = load_config('yolov5_nextvit_s').model
    cfg.backbone.arch = tiny
    part = cfg if whole else cfg.backbone
    part.init_cfg = dict(type='Pretrained', checkpoint=str(hostile))
    with pytest.raises(ValueError, match=REFUSED):
        MODELS.build(cfg).init_weights()


@pytest.mark.slow
def test_every_command_is_safe(hostile, tmp_path, capfd):
    config, x = str(write_tiny_run(tmp_path)), str(hostile)
    image = str(next((tmp_path / 'data/val').iterdir()))
    Path('resumed').mkdir()
    shutil.copy(x, 'resumed/x.pth')
    Path('resumed/last_checkpoint').write_text('x.pth')
    option = '--cfg-options'
    init = 'model.backbone.init_cfg'
    runs = [
        ('train', config, option, f'load_from={x}'),
        ('train', config, option, f'load_from={x}', 'resume=True'),
        ('train', config, '--resume', x),
        ('train', config, '--work-dir', 'resumed', '--resume'),
        ('train', config, option, f'{init}.type=Pretrained', f'{init}.checkpoint={x}'),
        ('test', config, x),
        ('predict', config, x, image),
        ('convert_weights', x, 'converted.pth'),
        ('export', config, x, '--to', 'onnx'),
        ('import_yolov5', 'm.yaml', '-o', 'imported.py', '--weights', x),
    ]
    write_yaml(Path('m.yaml'), document_model())
    for command, *args in runs:
        printed = run_here(command, *args, cwd=tmp_path, capfd=capfd, code=1)
        last = printed.strip().splitlines()[-1]
        assert re.search(f'{command}.*[:.] ({x}|resumed/x.pth): {REFUSED}', last), (
            printed
        )
        assert 'Traceback' not in printed
    assert not Path('converted.pth').exists()


# -------------------------------------------------------------------- damaged files


OLD = dict(_use_new_zipfile_serialization=False)


def truncated(path: Path, **options) -> bytes:
    torch.save(mmengine_checkpoint(), path, **options)
    return path.read_bytes()[:-200]


def damaged_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Content, and what the message says, by name."""
    scratch = folder / 'scratch'
    save_file({'x': torch.ones(100)}, scratch)
    safetensors = scratch.read_bytes()
    with zipfile.ZipFile(scratch, 'w') as file:
        file.writestr('weights/best.pt', b'x')
    folder_in_zip = scratch.read_bytes()
    torch.jit.save(torch.jit.script(nn.ReLU()), scratch)
    program = scratch.read_bytes()
    with tarfile.open(scratch, 'w') as file:
        for name in ('storages', 'tensors', 'pickle'):
            file.addfile(tarfile.TarInfo(name))
    tar = scratch.read_bytes()
    forged = bytearray(tar)  # the first name begins as the legacy form does
    begin = b'\x80\x02' + LEGACY
    forged[: len(begin)] = begin
    checksum = sum(forged[:148]) + sum(forged[156:512]) + 8 * 32
    forged[148:156] = b'%06o\0 ' % checksum
    zip_, legacy = truncated(scratch), truncated(scratch, **OLD)
    torch.save([1, 2], scratch)
    items = scratch.read_bytes()
    torch.save(argparse.Namespace(x=1), scratch)
    lfs = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n'
    return {
        'empty.pth': (b'', 'is empty. Copy or download'),
        'zip.pth': (zip_, r'the file is truncated: its end is missing \([\d,]+ b'),
        'legacy.pth': (
            legacy,
            r'is damaged or incomplete \([\d,]+ bytes; \w+: .*\). Copy or download it',
        ),
        'head.pth': (zip_[:100], 'is truncated'),
        'x.safetensors': (safetensors[:-10], r'damaged or incomplete.*(?i:incomplete)'),
        'y.safetensors': (b'\xff' * 5 + bytes(3) + b'{"x":', 'damaged or incomplete'),
        'zip.pt': (folder_in_zip, r"a zip file but no checkpoint.*'weights/best.pt'"),
        'nothing.zip': (b'PK\x05\x06' + bytes(18), r'no checkpoint \(it holds nothing'),
        'program.pt': (program, 'a TorchScript program. Give the checkpoint'),
        'text.pth': (b'hello', "a text file, not a checkpoint: it begins 'hello'"),
        'lfs.pth': (lfs, "a text file.*'version https://git-lfs.*with git lfs pull"),
        'page.pth': (
            b'\n<!DOCTYPE html><html>Quota',
            'a web page.*Download it by hand',
        ),
        'page2.pth': (b'\xef\xbb\xbf<HTML><body>', 'a web page, not a checkpoint'),
        'error.xml': (b'<Error><Code>AccessDenied</Code>', 'a web page'),
        'random.pth': (
            bytes(range(255, 0, -1)),
            r"is no checkpoint: it begins b'\\xff",
        ),
        'old.tar': (tar, "is no checkpoint: it begins b'storages'"),
        'forged.tar': (bytes(forged), 'is damaged or incomplete'),
        'list.pth': (items, 'holds a list, not a dict'),
        'object.pth': (scratch.read_bytes(), 'holds a argparse.Namespace, not a dict'),
        'numbers.pkl': (pickle.dumps([1, 2]), 'holds a list, not a dict'),
        'state.pkl': (pickle.dumps({'x': 1}), 'a pickle, but not one that torch.save'),
        'half.pkl': (pickle.dumps({'x': 'y' * 99})[:50], 'is damaged or incomplete'),
    }


def test_each_damaged_file_has_its_message(tmp_path):
    for name, (content, message) in damaged_files(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            load(path)
        said = str(error.value)
        assert re.search(f'{re.escape(str(path))}: .*{message}', said), said
        assert '\n' not in said and len(said) < 600, said
    with pytest.raises(FileNotFoundError, match='nowhere.pth: the file does not exist'):
        load(tmp_path / 'nowhere.pth')
    with pytest.raises(FileNotFoundError, match=': this is a folder'):
        load(tmp_path)
