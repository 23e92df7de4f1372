"""What commands write: tried at first, whole or not at all, and of one process only."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from mmnextvit.datasets import demo_data
from mmnextvit.datasets.demo_data import make_demo_data
from mmnextvit.models.nextvit import NextViT
from mmnextvit.utils import files
from mmnextvit.utils.errors import UserError
from mmnextvit.weights import conversion
from mmnextvit.yolov5_import import import_model

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY
from tests.helpers.commands import call_here, run_here
from tests.helpers.full_disk import limit_file_size
from tests.helpers.yolov5_models import write_yaml, yolov5_model

pytestmark = pytest.mark.slow


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A user's folder: weights, YAML of YOLOv5, a file, and a full folder."""
    state = NextViT(TINY).state_dict()
    torch.save({'state_dict': state}, tmp_path / 'x.pth')
    write_yaml(tmp_path / 'm.yaml', yolov5_model('n', nc=3))
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'file.pkl').write_text('mine')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine.txt').touch()
    return tmp_path


LONG = 'n' * 300
# Arguments of each command that writes to a place that a user names, less that place,
# and how its name ends.
WRITES: dict[str, tuple[tuple[str, ...], str]] = {
    'test': (('no.py', 'no.pth', '--out'), '.pkl'),
    'test --show-dir': (('no.py', 'no.pth', '--show-dir'), ''),
    'test --work-dir': (('no.py', 'no.pth', '--work-dir'), ''),
    'predict': (('no.py', 'no.pth', 'no.jpg', '--out-dir'), ''),
    'convert_weights': (('no.pth',), '.pth'),
    'import_yolov5': (('no.yaml', '-o'), '.py'),
    'compute_anchors': (('no.py', '-o'), '.py'),
    'bench': (('no.py', 'no.pth', '-o'), ''),
    'benchmark': (('startup', '-o'), '.md'),
    'benchmark --plot': (('growth', '--plot'), '.png'),
    'make_demo_data': (('--out',), ''),
    'demo': (('--out',), ''),
}
IN_A_FILE = dict.fromkeys(
    ('test', 'import_yolov5', 'compute_anchors'), 'its folder is a file'
)


@pytest.mark.parametrize('write', WRITES)
def test_outputs_are_tried_before_anything_is_read(write, here, monkeypatch, capfd):
    """What the commands read does not exist; their messages are about the outputs."""
    command = write.split()[0]
    args, suffix = WRITES[write]
    before = everything(here)

    def refused(place: str, text: str, code: int = 1) -> None:
        printed = run_here(
            command, *args, place, cwd=here, capfd=capfd, code=code
        ).strip()
        last = printed.splitlines()[-1]
        assert last.startswith(f'mmnextvit {command}: ') and text in last, printed
        assert 'Traceback' not in printed
        assert everything(here) == before

    if command in ('test', 'predict'):  # nothing heavy is even imported
        monkeypatch.setitem(sys.modules, 'mmnextvit.apis', None)
    if command == 'benchmark':
        refused(f'file/x{suffix}', 'there is no such folder', code=2)
    else:
        refused(f'file/x{suffix}', IN_A_FILE.get(write, 'Not a directory'))
    refused(f'{LONG}{suffix}', 'File name too long')
    for code in (errno.EACCES, errno.EROFS, errno.ENOSPC):

        def refuse(prefix: str, dir: Path, code: int = code) -> str:
            raise OSError(code, os.strerror(code), str(dir / prefix))

        with monkeypatch.context() as patched:
            patched.setattr(files.tempfile, 'mkdtemp', refuse)
            refused(f'new{suffix}', f'new{suffix}')
            refused(f'new{suffix}', os.strerror(code))


@pytest.mark.parametrize(
    'command, args, place, message',
    [
        ('test', ('no.py', 'no.pth', '--out'), 'file.pkl', 'exists, and nothing is ov'),
        ('test', ('no.py', 'no.pth', '--out'), 'full', 'the name must end in .pkl'),
        ('test', ('no.py', 'no.pth', '--show-dir'), 'file', 'Not a directory'),
        (
            *('test', ('no.py', 'no.pth', '--show-dir'), 'file'),
            'file is a file: choose another folder',
        ),
        (
            *('test', ('no.py', 'no.pth', '--work-dir'), 'file'),
            'file is a file: choose another folder',
        ),
        ('predict', ('no.py', 'no.pth', 'x', '--out-dir'), 'full', 'is not empty'),
        ('predict', ('no.py', 'no.pth', 'x', '--out-dir'), 'file', 'is not a folder'),
        ('convert_weights', ('no.pth',), 'x.pth', 'nothing is overwritten'),
        ('convert_weights', ('no.pth',), 'full', 'nothing is overwritten'),
        ('import_yolov5', ('no.yaml', '-o'), 'full', 'nothing is overwritten'),
        (
            'import_yolov5',
            ('m.yaml', '--weights', 'no.pt', '-o'),
            'x.py',
            'x.pth exists, and nothing is overwritten',
        ),
        ('compute_anchors', ('no.py', '-o'), 'file', 'nothing is overwritten'),
        ('make_demo_data', ('--out',), 'full', 'nothing is overwritten'),
        ('make_demo_data', ('--out',), 'file', 'nothing is overwritten'),
    ],
)
def test_nothing_is_overwritten(command, args, place, message, here, monkeypatch):
    if command in ('test', 'predict'):
        monkeypatch.setitem(sys.modules, 'mmnextvit.apis', None)
    before = {p: p.read_bytes() for p in here.rglob('*') if p.is_file()}
    with pytest.raises((UserError, OSError)) as error:
        call_here(command, *args, place, cwd=here)
    assert message in str(error.value)
    assert {p: p.read_bytes() for p in here.rglob('*') if p.is_file()} == before


# Two at once


def after(real: Callable, other: Callable[[], object]) -> Callable:
    """A function that has another process run to its end before it is done itself."""
    calls = []

    def call(*args: object, **kwargs: object) -> object:
        result = real(*args, **kwargs)
        if not calls:
            calls.append(True)
            other()
        return result

    return call


def test_two_conversions_to_one_name(here, monkeypatch, capfd):
    """The second has ended when the first, of other weights, gives its file a name."""
    other = {k: v + 1 for k, v in NextViT(TINY).state_dict().items()}
    torch.save({'state_dict': other}, here / 'other.pth')
    real = conversion.save

    def convert_other() -> None:
        call_here('convert_weights', 'other.pth', 'out.safetensors', cwd=here)

    monkeypatch.setattr(conversion, 'save', after(real, convert_other))
    before = everything(here)
    args = 'convert_weights', 'x.pth', 'out.safetensors'
    printed = run_here(*args, cwd=here, capfd=capfd, code=1)
    message = 'this exists by now, and nothing is overwritten: choose another name'
    last = printed.strip().splitlines()[-1]
    assert last == f'mmnextvit convert_weights: {here}/out.safetensors: {message}'
    assert everything(here) == sorted([*before, 'out.safetensors'])
    saved = load_file(here / 'out.safetensors')
    kept = {k.removeprefix('backbone.'): tensor for k, tensor in saved.items()}
    assert kept.keys() == other.keys()
    assert all(torch.equal(kept[k], other[k]) for k in other)


@pytest.mark.parametrize('with_weights', [False, True])
def test_two_imports_to_one_name(with_weights, tmp_path, monkeypatch):
    """Config and weights are of one of them, also where the other has no weights."""
    options = import_model.Options('m.yaml', tmp_path / 'out.py', weights='x.pt')

    def weights(value: float) -> SimpleNamespace:
        return SimpleNamespace(checkpoint={'x': torch.tensor(value)})

    def write_other() -> None:
        import_model._write(options, 'other', weights(2) if with_weights else None)

    real = import_model.save_checkpoint
    monkeypatch.setattr(import_model, 'save_checkpoint', after(real, write_other))
    with pytest.raises(FileExistsError) as error:
        import_model._write(options, 'mine', weights(1))
    name = 'out.pth' if with_weights else 'out.py'
    assert error.value.filename == str(tmp_path / name)
    assert (tmp_path / 'out.py').read_text() == 'other'
    names = ['out.pth', 'out.py'] if with_weights else ['out.py']
    assert everything(tmp_path) == names
    assert not with_weights or torch.load(tmp_path / 'out.pth') == {'x': 2}


@pytest.mark.parametrize('seed', [0, 1])
def test_two_that_make_demo_data_in_one_folder(seed, tmp_path, monkeypatch):
    """The same data are there already then; others end in a message."""
    numbers = dict(train=1, val=1, size=32)

    def make_other() -> None:
        assert make_demo_data(tmp_path / 'data', **numbers, seed=seed)

    real = demo_data.write_split
    monkeypatch.setattr(demo_data, 'write_split', after(real, make_other))
    if seed == 0:
        assert not make_demo_data(tmp_path / 'data', **numbers, seed=0)
    else:
        with pytest.raises(UserError, match='data holds something else'):
            make_demo_data(tmp_path / 'data', **numbers, seed=0)
    monkeypatch.undo()
    assert not make_demo_data(tmp_path / 'data', **numbers, seed=seed)
    assert [p.name for p in tmp_path.iterdir()] == ['data']


# No space


@pytest.mark.parametrize(
    'command, args',
    [
        ('convert_weights', ('x.pth', 'new.pth')),
        ('convert_weights', ('x.pth', 'new.safetensors')),
        ('make_demo_data', ('--out', 'new', '--train', 1, '--val', 1)),
    ],
)
def test_a_disk_that_gets_full_leaves_nothing(command, args, here, capfd):
    before = everything(here)
    with limit_file_size(1000):
        printed = run_here(command, *args, cwd=here, capfd=capfd, code=1)
    last = printed.strip().splitlines()[-1]
    assert last.startswith(f'mmnextvit {command}: ') and 'new' in last, printed
    assert last.endswith('File too large') and 'Traceback' not in printed
    assert everything(here) == before
    run_here(command, *args, cwd=here, capfd=capfd)
