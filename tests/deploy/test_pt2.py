"""Programs of torch.export: what is written, and what is not loaded."""

import io
import json
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.deploy.tracing import export_program
from mmnextvit.runtime import Detector, ModelFileError, OptionError
from mmnextvit.runtime.programs import check_texts

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.helpers.export_folder import GIVEN, names
from tests.helpers.toy_exports import metadata, save_pt2, write_onnx, write_pt2

pytestmark = pytest.mark.deploy


@pytest.mark.slow
def test_any_batch_and_any_size(here, run_export):
    """The command compares it at two sizes; nothing of this machine is in the file."""
    args = '--to', 'pt2', '--batch', 'dynamic', '--imgsz', 'dynamic', '--images', 'wide'
    printed = run_export(*args)
    assert 'best.pt2: pt2, float32, 64x64' in printed
    assert 'Compared with torch: largest differences: candidate boxes' in printed
    assert 'deprecated' not in printed
    assert names(here) == GIVEN | {'best.pt2'}
    detector = Detector('best.pt2', imgsz=(96, 128))
    images = sorted(str(path) for path in Path('wide').iterdir())
    together = detector.detect(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detector.detect([image])
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-5, rtol=0)
        # nearly equal scores may change places
        apart = np.abs(found.boxes[:, None] - alone.boxes).max(-1)
        apart[found.labels[:, None] != alone.labels] = np.inf
        assert apart.min(0).max() < 1e-2 and apart.min(1).max() < 1e-2
    with zipfile.ZipFile('best.pt2') as file:
        assert not any(
            entry.file_size for entry in file.infolist() if 'inputs' in entry.filename
        )
        texts = b''.join(file.read(n) for n in file.namelist() if n.endswith('.json'))
    assert str(ROOT).encode() not in texts and b'site-packages' not in texts


@pytest.mark.slow
def test_half(export_here):
    report = export_here('pt2', precision='half', images='wide', with_map=False)
    assert report.path.name == 'best_half.pt2' and report.drift.images == 3
    assert report.path.stat().st_size < 0.7 * Path('best.pth').stat().st_size


def test_it_finds_what_onnx_finds(tmp_path):
    (tmp_path / 'other').mkdir()
    paths = (
        write_pt2(tmp_path / 'm.pt2', metadata()),
        write_onnx(tmp_path / 'm.onnx', metadata()),
    )
    image = torch.full((64, 64, 3), 200, dtype=torch.uint8).numpy()
    ours, theirs = (Detector(path)(image, 0) for path in paths)
    assert ours == theirs and ours


# ----------------------------------------------------------------- what is not loaded


def change(path: Path, part: str, to: Callable[[bytes], bytes]) -> None:
    """Puts other content into the entries of a .pt2 whose names end in ``part``."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    assert any(name.endswith(part) for name in content)
    with zipfile.ZipFile(path, 'w') as file:
        for name, old in content.items():
            file.writestr(name, to(old) if name.endswith(part) else old)


class Touch:
    """A pickle that writes a file where it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def pickled(file: Path) -> bytes:
    content = io.BytesIO()
    torch.save(Touch(file), content)
    return content.getvalue()


def with_value(key: str, value: object) -> Callable[[bytes], bytes]:
    """Gives every object in a program's JSON that has ``key`` another value there."""

    def put(node: object) -> None:
        if isinstance(node, dict):
            if key in node:
                node[key] = value
            for child in node.values():
                put(child)
        elif isinstance(node, list):
            for child in node:
                put(child)

    def to(old: bytes) -> bytes:
        content = json.loads(old)
        put(content)
        return json.dumps(content).encode()

    return to


CODE = "__import__('pathlib').Path({file!r}).touch()"
CHANGES = {
    'sample inputs': ('sample_inputs/model.pt', lambda file: lambda old: pickled(file)),
    'pickled tensors': (
        'constants_config.json',
        lambda file: with_value('use_pickle', True),
    ),
    'an operator': (
        'models/model.json',
        lambda file: with_value('target', 'torch.hub.load'),
    ),
    'an operator of operators': (
        'models/model.json',
        lambda file: with_value('target', 'torch.ops.aten.add.__class__.mro'),
    ),
    'a size': (
        'models/model.json',
        lambda file: with_value('expr_str', CODE.format(file=str(file))),
    ),
    'guards': (
        'models/model.json',
        lambda file: with_value('guards_code', [CODE.format(file=str(file))]),
    ),
    'a type': ('models/model.json', lambda file: with_value('target', 3)),
    'no object': ('models/model.json', lambda file: lambda old: b'[' * 10**5),
}


@pytest.mark.parametrize('name', ['data/aotinductor/model/a.so', 'serialized.pt'])
def test_other_files_are_refused(tmp_path, name):
    """Compiled code, and the pickles of older versions."""
    path = write_pt2(tmp_path / 'm.pt2', metadata())
    with zipfile.ZipFile(path, 'a') as file:
        file.writestr(name, b'1')
    with pytest.raises(ModelFileError, match=f'it has {name}, which is not loaded'):
        Detector(path)


@pytest.mark.parametrize('name', CHANGES)
def test_what_loading_would_run_is_refused(tmp_path, name):
    path = write_pt2(tmp_path / 'm.pt2', metadata())
    part, to = CHANGES[name]
    touched = tmp_path / 'touched'
    change(path, part, to(touched))
    with pytest.raises(ModelFileError, match=r'm\.pt2 is damaged, or too new for the'):
        Detector(path)
    assert not touched.exists()


SIDE = "(((-1) + (L['images'].size()[2] // 2)) // 16)"


@pytest.mark.parametrize(
    'text',
    [
        f'(4 + 4*{SIDE}) == 8 or {SIDE} > 0 and (36 % (4 + 4*{SIDE})) == 0',
        f'not ({SIDE} >= max(1, {SIDE})) and abs({SIDE}) != min(3, {SIDE}**2)',
        f'math.floor(2.5000000000000000*torch.sym_float({SIDE})) <= math.inf',
        f'math.ceil({SIDE}*1.0e-5) == math.trunc({SIDE} / 2) and math.sqrt({SIDE}) > 1',
    ],
)
def test_guards_that_torch_writes(text):
    check_texts({'guards_code': [text]})


@pytest.mark.parametrize(
    'text, rest',
    [
        (f'{SIDE} > 0 or exit()', r"has 'exit\(\)' behind 53"),
        ("L['images'].shape", 'has "L\\[\'images\'\\]\\.shape", which is not known'),
        ("L['other'].size()[0] == 1", "L\\['other'\\]"),
        ('torch.sym_float.__globals__', r"has '\.__globals__' behind 15 characters"),
        ('math.floor.__self__', r"has '\.__self__'"),
        ('1.0.real', r"has '\.real'"),
        ('max.__class__', r"has '\.__class__'"),
        ('torch.load(1)', "has 'torch.load"),
        ('math.flooring', "has 'math.flooring"),
        ('1 > 0 or oror', "has 'oror'"),
        ('[1][0]', r"has '\[1\]"),
        ('lambda: 1', "has 'lambda"),
        (3, 'is 3, which is no text'),
    ],
)
def test_guards_that_could_do_more_are_refused_by_name(text, rest):
    with pytest.raises(ValueError, match=f'its guards_code .*{rest}'):
        check_texts({'guards_code': [text]})


@pytest.mark.parametrize(
    'text, plain',
    [
        ("Mul(Float('1.5', precision=53), Symbol('s0', integer=True))", True),
        ("Float('1.5', precision=exit())", False),
        ("Float('x', precision=53)", False),
    ],
)
def test_sizes_of_fractions(text, plain):
    with nullcontext() if plain else pytest.raises(ValueError, match='its expr_str'):
        check_texts({'expr_str': text})


class Reshaped(torch.nn.Module):
    """Reshapes maps as the head for masks does, of sides that torch cannot tell."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 6, 2, 2), torch.nn.Conv2d(4, 16, 3, 2, 1)
        )

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.convs(images)
        height, width = maps.shape[2:]
        parts = maps.view(1, 2, 8, height, width)[:, :, 1:]
        rows = parts.reshape(1, -1, height, width).flatten(2).mT
        return rows[..., :4], rows[..., 4:7].sigmoid()


def test_guards_of_maps_that_are_reshaped(tmp_path):
    """torch joins comparisons of their sizes by "or" and "and"."""
    torch.manual_seed(0)
    network = Reshaped().eval()
    program = export_program(network, (64, 64), dynamic_size=True)
    assert any(' or ' in text for text in program._guards_code)
    program.example_inputs = None
    path = tmp_path / 'm.pt2'
    about = metadata(batch=1, dynamic=True, in_graph=False)
    save_pt2(program, path, json.dumps(about))
    for size in ((64, 64), (96, 128)):
        images = torch.rand(1, 3, *size)
        found = Detector(path, imgsz=size).run(images.numpy())
        for ours, theirs in zip(found.values(), network(images), strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs)


def test_entries_that_nothing_changed_are_loaded(tmp_path):
    """So that the test above refuses for the reasons that it names."""
    path = write_pt2(tmp_path / 'm.pt2', metadata())
    change(path, 'models/model.json', lambda old: json.dumps(json.loads(old)).encode())
    assert Detector(path)


def test_devices(tmp_path):
    path = write_pt2(tmp_path / 'm.pt2', metadata())
    with pytest.raises(OptionError, match=r'm\.pt2 was made for the CPU'):
        Detector(path, device='cuda')


def test_sizes_that_disagree(tmp_path):
    """The metadata say two images at a time, the program takes one."""
    path = tmp_path / 'm.pt2'

    class Fixed(torch.nn.Module):
        def forward(self, images):
            return images.mean((2, 3)), images.mean((1, 2, 3))

    program = torch.export.export(Fixed(), (torch.zeros(1, 3, 64, 64),))
    program.example_inputs = None
    files = {'mmnextvit.json': json.dumps(metadata(batch=2))}
    torch.export.save(program, path, extra_files=files)
    with pytest.raises(
        ModelFileError, match='takes 1 x 3 x 64 x 64, and metadata that'
    ):
        Detector(path)
