"""Exports onto full or missing disks, exports that are ended, and broken weights."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import mmnextvit  # noqa: F401  (first)
from mmnextvit.deploy import coreml, export, exported, onnx, openvino, torchscript
from mmnextvit.deploy.comparison import Comparison
from mmnextvit.deploy.metadata import build_metadata
from mmnextvit.deploy.space import explain_full_disk
from mmnextvit.engine.runner import load_detector
from mmnextvit.runtime import KEY, Detector, ModelFileError, programs
from mmnextvit.utils.errors import UserError

import numpy as np
import onnx as onnx_library
import openvino as openvino_library
import pytest
import torch
from mmengine.config import Config

from tests.helpers.commands import fresh_process_state, run_here
from tests.helpers.export_folder import GIVEN, names
from tests.helpers.full_disk import limit_file_size
from tests.helpers.toy_exports import (
    WRITERS,
    metadata,
    write_onnx,
    write_openvino,
    write_torchscript,
)

pytestmark = pytest.mark.deploy

QUICK = '--to', 'torchscript', '--images', 'wide'


def last_line(printed: str) -> str:
    assert 'Traceback' not in printed
    return printed.rstrip().splitlines()[-1]


# ---------------------------------------------------------------------- full disks


@pytest.mark.slow
@pytest.mark.parametrize(
    'to, name', [('torchscript', 'best.torchscript'), ('openvino', 'best_openvino')]
)
def test_no_space(here, run_export, to, name):
    """The next try, with space, is not in the way of what the first one left."""
    with limit_file_size(1 << 20):
        printed = run_export('--to', to, '--images', 'wide', code=1)
    assert last_line(printed) == f'mmnextvit export: {here / name}: File too large'
    assert names(here) == GIVEN
    if to == 'torchscript':  # the quickest
        run_export('--to', to, '--images', 'wide')
        assert names(here) == GIVEN | {name}


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason='mounting a file system takes root')
def test_disk_of_a_megabyte(here, run_export, monkeypatch):
    """coremltools copies a folder; its own error lists what it could not copy."""
    model = make_coreml('x' * (1 << 21))
    monkeypatch.setattr(coreml, 'write', lambda job, path: model.save(str(path)))
    small = here / 'small'
    small.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(small)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip('no file system can be mounted here')
    try:
        out = small / 'best.mlpackage'
        args = '--to', 'coreml', '--images', 'wide', '-o', out
        printed = run_export(*args, code=1)
        assert last_line(printed) == f'mmnextvit export: {out}: No space left on device'
        assert names(small) == set()
    finally:
        subprocess.run(['umount', str(small)], check=True)


def make_coreml(text: str | None) -> Any:
    """A model that computes nothing, with a text as its metadata."""
    import coremltools  # not every Python has it

    inputs = [('x', coremltools.models.datatypes.Array(1))]
    builder = coremltools.models.neural_network.NeuralNetworkBuilder(inputs, inputs)
    model = coremltools.models.MLModel(builder.spec, skip_model_load=True)
    if text is not None:
        model.user_defined_metadata[KEY] = text
    return model


def fail(error: BaseException) -> None:
    raise error


def test_libraries_that_do_not_say_that_a_disk_is_full(tmp_path, monkeypatch):
    for error in (RuntimeError('basic_ios::clear'), shutil.Error([('a', 'b', 'c')])):
        with pytest.raises(type(error)), explain_full_disk(tmp_path, 1 << 20):
            fail(error)  # there is space, so that something else is wrong
        with (
            limit_file_size(1 << 16),
            pytest.raises(OSError) as full,
            explain_full_disk(tmp_path, 1 << 20),
        ):
            fail(error)
        assert full.value.errno == errno.EFBIG and full.value.filename is None
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'gone'))
    with pytest.raises(OSError) as missing, explain_full_disk(tmp_path, 1):
        fail(RuntimeError())
    assert missing.value.filename == str(tmp_path / 'gone')


def test_no_space_for_temporary_files(tmp_path, monkeypatch):
    """Python then finds no folder for them, and names none."""
    temporary = tempfile.TemporaryFile

    def open_temporary(dir: Path | None) -> object:
        return temporary(dir=dir) if dir else fail(FileNotFoundError(2, 'none usable'))

    monkeypatch.setattr(tempfile, 'tempdir', None)
    monkeypatch.setattr(tempfile, 'TemporaryFile', open_temporary)
    with pytest.raises(OSError) as missing, explain_full_disk(tmp_path, 1):
        fail(RuntimeError())
    assert 'TMPDIR' in missing.value.filename
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('number', [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_folders_that_cannot_be_written(here, run_export, monkeypatch, number):
    """Before anything is converted."""

    make = tempfile.mkdtemp

    def refuse(*args: object, **more: object) -> str:
        if Path(more.get('dir') or '') == here:
            raise OSError(number, os.strerror(number), 'a hidden name')
        return make(*args, **more)

    monkeypatch.setattr(tempfile, 'mkdtemp', refuse)
    monkeypatch.setattr(torchscript, 'write', lambda job, path: pytest.fail('written'))
    printed = run_export(*QUICK, code=1)
    path = here / 'best.torchscript'
    assert last_line(printed) == f'mmnextvit export: {path}: {os.strerror(number)}'
    assert names(here) == GIVEN


@pytest.mark.slow
def test_a_file_that_the_runtime_refuses(here, run_export, monkeypatch):
    """One message names the text, and nothing is kept."""
    monkeypatch.setitem(programs.PLAIN, 'target', re.compile('none'))
    printed = run_export('--to', 'pt2', '--images', 'wide', code=1)
    assert 'Traceback' not in printed
    message = last_line(printed)
    assert re.search(
        r'best\.pt2 is not kept, since the runtime does not read it: its target has '
        r"'torch\.ops\.aten.*which is not known here.*report it",
        message,
    )
    assert '/.best' not in message  # a folder that is gone
    assert names(here) == GIVEN


def test_names_that_cannot_be(here, run_export):
    printed = run_export(*QUICK, '-o', 'best.pth/x.torchscript', code=1)
    assert last_line(printed) == f'mmnextvit export: {here}/best.pth: Not a directory'
    printed = run_export(*QUICK, '-o', f'{"x" * 300}.torchscript', code=1)
    assert last_line(printed).endswith('x.torchscript: File name too long')
    (here / 'folder.torchscript').mkdir()
    printed = run_export(*QUICK, '--force', '-o', 'folder.torchscript', code=1)
    assert 'folder.torchscript is no file, and is not replaced' in last_line(printed)
    assert names(here) == GIVEN | {'folder.torchscript'}


# ------------------------------------------------------------------- ended exports


@pytest.mark.parametrize(
    'number, said, code',
    [(signal.SIGINT, 'interrupted', 130), (signal.SIGTERM, 'terminated', 143)],
)
@pytest.mark.parametrize('place', ['write', 'compare', 'map'])
def test_signals(
    here, run_export, tmp_path_factory, monkeypatch, number, said, code, place
):
    """While a file is written, compared, and measured beside the checkpoint."""
    temporary = tmp_path_factory.mktemp('temporary')  # the system's is others' too
    monkeypatch.setattr(tempfile, 'tempdir', str(temporary))

    def write(job, path):
        path.write_text('half of it')
        if place == 'write':
            signal.raise_signal(number)

    def compare(*args):
        if place == 'compare':
            signal.raise_signal(number)
        return export.Drift(images=1)

    monkeypatch.setattr(export, 'write', lambda to, job, path: write(job, path))
    monkeypatch.setattr(Comparison, 'compare', compare)
    monkeypatch.setattr(
        export, 'compare_map', lambda *args: signal.raise_signal(number)
    )
    printed = run_export('--to', 'torchscript', '--half', '--images', 'wide', code=code)
    assert last_line(printed) == f'mmnextvit export: {said}'
    whole = {'best_half.torchscript'} if place == 'map' else set()
    assert names(here) == GIVEN | whole
    assert not names(temporary)


# ---------------------------------------------------------------- broken weights


# Finite as a weight, but what comes of it is not.
HUGE = 3e38


def spoil_bias(weights: dict[str, torch.Tensor]) -> None:
    weights['bbox_head.head_module.convs_pred.0.bias'][4] = np.nan


def spoil_variance(weights: dict[str, torch.Tensor]) -> None:
    """Finite, but of no variance: its root is NaN."""
    weights['neck.rows.13.cv3.bn.running_var'][0] = -1


@pytest.mark.slow
@pytest.mark.parametrize(
    'spoil, message',
    [
        (
            spoil_bias,
            'best.pth: 1 of its tensors hold NaN or infinity, the first of them '
            'bbox_head.head_module.convs_pred.0.bias',
        ),
        (spoil_variance, "torch's own scores are not all finite"),
    ],
)
def test_weights_that_are_not_finite(here, run_export, spoil, message):
    checkpoint = torch.load('best.pth', weights_only=False)
    spoil(checkpoint['state_dict'])
    torch.save(checkpoint, 'best.pth')
    printed = run_export(*QUICK, code=1)
    assert message in last_line(printed)
    assert names(here) == GIVEN


def break_weights(path: Path, value: float) -> Path:
    """A copy of an exported ONNX file with a value, of either sign, in the weights of
    its last convolutions."""
    model = onnx_library.load(path)
    values = {i.name: i for i in model.graph.initializer}
    convolutions = [n for n in model.graph.node if n.op_type == 'Conv']
    for node in convolutions[-3:]:
        tensor = values[node.input[1]]
        broken = np.full_like(onnx_library.numpy_helper.to_array(tensor), value)
        broken[:, ::2] *= -1
        tensor.CopyFrom(onnx_library.numpy_helper.from_array(broken, tensor.name))
    onnx_library.save(model, 'broken.onnx')
    return Path('broken.onnx')


@pytest.mark.slow
@pytest.mark.parametrize(
    'value, message',
    [
        (np.nan, r'broken.onnx: its tensor \S+ holds NaN'),
        (HUGE, 'its scores are not all finite'),
    ],
)
def test_broken_weights_in_an_exported_file(here, exported_file, capfd, value, message):
    """Suppression inside the file leaves nothing of NaN, and must not hide it."""
    path = break_weights(exported_file, value)
    text = json.dumps(Detector(exported_file).metadata)
    folder = Path('broken_openvino')
    folder.mkdir()
    model = openvino_library.convert_model(path)
    model.set_rt_info(text, [KEY])
    openvino_library.save_model(model, folder / 'model.xml', compress_to_fp16=False)
    image = np.zeros((64, 64, 3), np.uint8)
    for file in (path, folder):
        with pytest.raises(ModelFileError, match='gives wrong results: its scores are'):
            Detector(file).detect([image])
    for command in (('test',), ('predict', 'data/val')):
        name, *more = command
        args = 'tiny.py', path, *more
        printed = run_here(name, *args, cwd=here, capfd=capfd, code=1)
        assert re.search(message, last_line(printed))


@pytest.fixture
def exported_file(exported) -> Path:
    return exported.path


def test_nan_in_torchscript():
    """The same in the script that suppresses there; the other image is unharmed."""
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30]]).repeat(2, 1, 1)
    scores = torch.tensor([[[0.9], [0.8]], [[0.9], [np.nan]]])
    script = torch.jit.script(torchscript.suppress)
    numbers, _, kept, _ = script(boxes, scores, 0.5, 0.5, 4)
    assert kept[0].tolist() == pytest.approx([0.9, 0.8, 0, 0])
    assert numbers[0] == 2 and kept[1].isnan().all()


# -------------------------------------------------------------------- other faults


def test_an_exported_file_is_opened_once(here, exported_file, monkeypatch, capfd):
    shutil.copy(exported_file, here)
    opened = []
    open_exported = exported.open_exported

    def note(path, device='cpu'):
        opened.append(str(path))
        return open_exported(path, device)

    monkeypatch.setattr(exported, 'open_exported', note)
    run_here('test', 'tiny.py', 'best.onnx', cwd=here, capfd=capfd)
    assert opened == ['best.onnx']
    dumped = Config.fromfile('work_dirs/tiny/test/tiny.py')
    assert dumped.model == dict(
        type='mmdet.ExportedDetector', path='best.onnx', device='cpu'
    )


READERS = {
    'model.onnx': (write_onnx, onnx.read_metadata),
    'model_openvino': (write_openvino, openvino.read_metadata),
    'model.torchscript': (write_torchscript, torchscript.read_metadata),
}


@pytest.mark.parametrize('name', READERS)
def test_metadata_are_checked_where_an_export_reads_them(tmp_path, name):
    writer, read = READERS[name]
    path = writer(tmp_path / name, metadata())
    assert read(path) == json.loads(json.dumps(metadata()))
    file = path / 'model.xml' if path.is_dir() else path
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ModelFileError, match=name):
        read(path)
    assert name in WRITERS


def test_coreml_packages_that_are_damaged(tmp_path):
    path = tmp_path / 'm.mlpackage'

    def write(text: str | None) -> None:
        shutil.rmtree(path, ignore_errors=True)
        make_coreml(text).save(str(path))

    write(json.dumps(metadata()))
    assert coreml.read_metadata(path) == json.loads(json.dumps(metadata()))
    for text in (None, '{', json.dumps(metadata() | {'classes': [None]})):
        write(text)
        with pytest.raises(ModelFileError, match=r'm\.mlpackage'):
            coreml.read_metadata(path)
    (spec,) = path.rglob('*.mlmodel')
    for content in (b'', b'\xff' * 99, spec.read_bytes()[:-5]):
        spec.write_bytes(content)
        with pytest.raises(ModelFileError, match=r'm\.mlpackage'):
            coreml.read_metadata(path)


@pytest.mark.parametrize(
    'key, value, message',
    [
        ('nms.iou_threshold', 1.5, 'nms.iou_threshold is 1.5, and must be a number'),
        ('max_per_img', -1, 'nms.max_per_img is -1, and must be a whole number'),
        ('score_thr', float('nan'), 'nms.score_thr is nan, and must be a number'),
    ],
)
def test_configs_that_ask_for_what_no_file_can_have(here, key, value, message):
    with fresh_process_state():
        cfg = Config.fromfile('tiny.py')
        cfg.merge_from_dict({f'model.test_cfg.{key}': value})
        detector = load_detector(cfg, 'best.pth')
        with pytest.raises(UserError, match=f'tiny.py: what it asks .*{message}'):
            build_metadata(cfg, detector, ['a', 'b', 'c'], (64, 64))


def test_classes_that_no_file_can_have(here):
    with fresh_process_state():
        cfg = Config.fromfile('tiny.py')
        detector = load_detector(cfg, 'best.pth')
        with pytest.raises(UserError, match=r"classes\[1\] is 'b\\x1b\[2J', and must"):
            build_metadata(cfg, detector, ['a', 'b\x1b[2J', 'c'], (64, 64))
