"""MMEngine's own readers of pickles and YAML run nothing, in whatever they read."""

import ast
import os
import pickle
import re
from pathlib import Path

import mmnextvit
from mmnextvit.engine.configs import read_config
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.fileio import dump, load
from mmengine.registry import init_default_scope

from tests.helpers.source_code import parse

MARK = 'hostile_code_ran'


class Hostile:
    def __reduce__(self):
        return os.system, (f'touch {MARK}',)


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(MARK).exists()


@pytest.mark.parametrize('suffix', ['pkl', 'pickle'])
@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_a_pickle_that_would_run_something(suffix, protocol):
    path = f'x.{suffix}'
    Path(path).write_bytes(pickle.dumps([{'x': Hostile()}], protocol))
    refused = r'refused: it would call (posix|nt)\.system'
    for read in (
        lambda: load(path),
        lambda: load(open(path, 'rb'), suffix),  # noqa: SIM115
        lambda: Config.fromfile(path),
    ):
        with pytest.raises((UserError, OSError), match=f'{refused}|Only py/yml'):
            read()
    with pytest.raises(UserError, match=refused):
        load(path)


def test_annotations_and_proposals_in_a_pickle():
    """Every data set of MMDetection's takes them."""
    dump({'metainfo': {}, 'data_list': [Hostile()]}, 'x.pkl')
    init_default_scope('mmdet')
    cfg = dict(type='mmdet.BaseDetDataset', ann_file='x.pkl', pipeline=[])
    with pytest.raises(UserError, match='it would call'):
        DATASETS.build(cfg).full_init()


def test_an_object_of_a_foreign_class_is_named():
    Path('x.pkl').write_bytes(pickle.dumps(Config(dict(a=1))))
    with pytest.raises(UserError, match=r'it would call mmengine\.config'):
        load('x.pkl')


def test_pickles_of_data_are_read_as_they_were():
    content = [
        dict(
            boxes=torch.randn(3, 4), labels=torch.arange(3), empty=torch.zeros(0, 4),
            half=torch.ones(2, dtype=torch.bfloat16), flags=torch.tensor([True]),
            view=torch.arange(12.0).view(3, 4)[1:, ::2],
            array=np.arange(6).reshape(2, 3), scalar=np.float32(0.5),
            mask=dict(size=[3, 4], counts=b'abc'), shape=(3, 4), none=None, text='é',
        )
        for _ in range(20)
    ]  # fmt: skip
    for protocol in (2, 4, 5):
        Path('x.pkl').write_bytes(pickle.dumps(content, protocol))
        for read, wrote in zip(load('x.pkl'), content, strict=True):
            assert read.keys() == wrote.keys()
            for key, value in wrote.items():
                if isinstance(value, torch.Tensor):
                    assert torch.equal(read[key], value)
                    assert read[key].dtype == value.dtype
                elif isinstance(value, np.ndarray):
                    assert np.array_equal(read[key], value)
                else:
                    assert read[key] == value


@pytest.mark.parametrize(
    'content', [b'', b'abc', b'\x80\x04', pickle.dumps([1] * 9)[:-5]]
)
def test_a_damaged_pickle_has_one_message(content):
    Path('x.pkl').write_bytes(content)
    with pytest.raises(UserError, match='the pickle is damaged'):
        load('x.pkl')


def test_a_tensor_in_a_pickle_is_read_by_the_same_reader():
    """Its numbers are a file of torch's inside: that one may be hostile, too."""

    class Inner:
        def __init__(self, content):
            self.content = content

        def __reduce__(self):
            return torch.storage._load_from_bytes, (self.content,)

    torch.save(Hostile(), 'inner', _use_new_zipfile_serialization=False)
    torch.save([1], 'list', _use_new_zipfile_serialization=False)
    for name, message in (('inner', 'it would call'), ('list', 'without its numbers')):
        Path('x.pkl').write_bytes(pickle.dumps(Inner(Path(name).read_bytes()), 2))
        with pytest.raises(UserError, match=message):
            load('x.pkl')


@pytest.mark.parametrize(
    'tag',
    [
        f'!!python/object/apply:os.system ["touch {MARK}"]',
        f'!!python/object/new:os.system ["touch {MARK}"]',
        '!!python/name:os.system',
        '!!python/module:os',
        '!!python/object:mmengine.config.Config {}',
        '!mine [1]',
    ],
)
@pytest.mark.parametrize('suffix', ['yaml', 'yml'])
def test_a_yaml_config_that_would_run_something(tag, suffix):
    path = Path(f'x.{suffix}')
    path.write_text(f'model:\n  type: mmdet.RetinaNet\n  x: {tag}\n')
    with pytest.raises(UserError, match='the YAML is wrong in line 3'):
        load(str(path))
    with pytest.raises(UserError) as error:
        read_config(str(path))
    said = str(error.value)
    assert re.match(
        rf'x\.{suffix}: the YAML is wrong in line 3: could not determ', said
    )


def test_yaml_that_mmengine_writes_is_read():
    content = dict(a=(1, (2, 3)), b=[1, {'c': 'é', 'd': None}], e=1.5)
    dump(content, 'x.yaml')
    assert 'python/tuple' in Path('x.yaml').read_text()
    assert load('x.yaml') == content
    Path('x.yaml').write_text('a: [1\nb: 2')
    with pytest.raises(UserError, match='the YAML is wrong in line 2'):
        load('x.yaml')


# What runs or unpickles what a file holds, or may do so: by itself, and as a method.
BUILTINS = {'eval', 'exec', 'compile', '__import__'}
DANGEROUS = {
    *('load', 'loads', 'Unpickler', 'load_all', 'unsafe_load', 'full_load', 'run_path'),
    *('read_pickle', 'import_ir_module', 'load_url', 'load_state_dict_from_url'),
    *('unpack_archive', 'extractall', 'fromfile', 'fromstring'),
}
ALLOWED = {
    'onnx.load': 'a protobuf',
    'compile': "a config file, in the place of MMEngine's own call",
    'json.loads': 'plain data',
    'ET.fromstring': 'XML, whose entities expat bounds',
    'yaml.load': 'with the plain loader',
    'self.torch.jit.load': 'an exported file, which SECURITY.md calls a program',
    'self.torch.export.load': 'an exported file that check_program let pass',
    'Config.fromfile': 'a config, which is a program',
    'Config.fromstring': 'a config that the import has written',
    'runpy.run_path': "the tools of MMDetection's and MMYOLO's packages",
    'Image.open(io.BytesIO(content)).load': "an image's pixels",
    'Unpickler': 'our own',
    'marshal.loads': 'bytes that this process has packed',
    'pickle.loads': 'bytes that this process has packed',
    'Unpickler(file).load': 'our own',
    'unpickler.load': 'our own',
    'load': "around one of MMEngine's loaders, whose torch is ours; and torch's own, "
    'where a tool of another package says itself how it loads',
}


def list_dangerous_calls(source: str) -> set[str]:
    """The calls in a module that are of :data:`BUILTINS` or :data:`DANGEROUS`."""
    calls = (n.func for n in ast.walk(parse(source)) if isinstance(n, ast.Call))
    texts = {ast.unparse(function) for function in calls}
    return {t for t in texts if t in BUILTINS or t.rpartition('.')[2] in DANGEROUS}


def test_no_module_unpickles_or_runs_files_by_other_means():
    """Each way in a file's content is listed here, with the reason why it may stay."""
    package = Path(mmnextvit.__file__).parent
    found: dict[str, set[str]] = {}
    for path in package.rglob('*.py'):
        for call in list_dangerous_calls(path.read_text(encoding='utf-8')):
            found.setdefault(call, set()).add(path.relative_to(package).as_posix())
    assert found.keys() <= ALLOWED.keys(), found
    assert found['self.torch.jit.load'] == {'runtime/sessions.py'}
    assert found['self.torch.export.load'] == {'runtime/sessions.py'}
    assert found['load'] == {'cli/package_tools.py', 'weights/sources.py'}
    assert found['marshal.loads'] == {'datasets/packed.py'}
    assert found['pickle.loads'] == {'datasets/packed.py'}
    assert found['compile'] == {'engine/config_files.py'}
    assert found['yaml.load'] == {'weights/handlers.py'}
