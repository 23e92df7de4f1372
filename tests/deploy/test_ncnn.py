"""NCNN's folder: what is written, what the runtime makes of it, and what is refused."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.deploy import ncnn as our_ncnn
from mmnextvit.deploy.candidates import Candidates
from mmnextvit.deploy.choices import Options, check_options
from mmnextvit.deploy.formats import write
from mmnextvit.deploy.job import Job
from mmnextvit.deploy.metadata import build_metadata, resize_test_pipeline
from mmnextvit.deploy.ncnn import check_layers, convert, read_metadata
from mmnextvit.deploy.parity import compare_candidates, compare_detections, make_batches
from mmnextvit.runtime import (
    Detector,
    MissingModelError,
    ModelFileError,
    OptionError,
)
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest
import torch

from tests.helpers.commands import call_here
from tests.helpers.export_folder import GIVEN, names
from tests.helpers.lively_detectors import demo_images, lively_detector, small_config

pytestmark = pytest.mark.deploy

FILES = {'model.param', 'model.bin', 'model.json'}
SIZE = 64, 96


@pytest.fixture
def libraries():
    """NCNN and its converter."""
    for library in ('ncnn', 'pnnx'):
        pytest.importorskip(library, reason='needs the extra ncnn')


@pytest.fixture(scope='module')
def folder(user, converted_once, tmp_path_factory) -> Path:
    """The user's checkpoint for NCNN; copy it to change it."""
    for library in ('ncnn', 'pnnx'):
        pytest.importorskip(library, reason='needs the extra ncnn')
    out = tmp_path_factory.mktemp('ncnn') / 'best_ncnn'
    report = call_here(
        *('export', 'tiny.py', 'best.pth', '--to', 'ncnn', '--images', 'data/val'),
        *('-o', out),
        cwd=user,
    )
    assert report.path == out
    assert report.drift.images == 4 and report.drift.detections > 0
    compared = {'candidate boxes', 'candidate scores', 'boxes', 'scores'}
    assert compared <= report.drift.largest.keys()
    return out


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / 'best_ncnn'))


# ---------------------------------------------------------------------- what is written


@pytest.mark.slow
def test_the_folder(folder):
    assert names(folder) == FILES
    metadata = read_metadata(folder)
    assert metadata == Detector(folder).metadata
    assert metadata == Detector(folder / 'model.param').metadata
    assert metadata['nms']['in_graph'] is False and metadata['input']['batch'] == 1
    assert {'pnnx', 'ncnn'} <= metadata['versions'].keys()


@pytest.mark.slow
def test_predict_and_test_take_it(folder, here):
    """Their mAP and boxes are torch's."""
    scores, found = [], []
    for file in ('best.pth', folder):
        scores.append(call_here('test', 'tiny.py', file, '--work-dir', 'run', cwd=here))
        args = 'predict', 'tiny.py', file, 'wide', '--out-dir', f'of_{len(scores)}'
        call_here(*args, cwd=here)
        text = Path(f'of_{len(scores)}', 'predictions.json').read_text()
        found.append([o for p in json.loads(text)['predictions'] for o in p['objects']])
    ours, theirs = scores
    assert ours['coco/bbox_mAP'] == pytest.approx(theirs['coco/bbox_mAP'], abs=1e-3)
    assert found[0] and len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        assert one['class'] == other['class']
        np.testing.assert_allclose(one['box'], other['box'], atol=0.1)
        assert one['score'] == pytest.approx(other['score'], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('multi_label', [True, False])
@pytest.mark.parametrize(
    'name', ['yolov5_nextvit_s', 'yolov8_nextvit_s', 'rtmdet_nextvit_s']
)
def test_heads(libraries, name, multi_label, tmp_path):
    """Each gives what MMYOLO's own prediction finds, one class a box or several."""
    cfg = resize_test_pipeline(small_config(name, classes=3), SIZE)
    cfg.model.test_cfg.update(score_thr=0.05, max_per_img=100, multi_label=multi_label)
    model = lively_detector(cfg)
    metadata = build_metadata(cfg, model, ['a', 'b', 'c'], SIZE, nms_in_graph=False)
    path = tmp_path / 'out'
    written = write('ncnn', Job(Candidates(model), metadata), path)
    assert written.metadata == metadata
    images = demo_images((40, 110), (90, 70), SIZE)
    drift = compare_candidates(written.run, model, make_batches(images, metadata))
    drift += compare_detections(Detector(path), model, cfg, images, drift)
    assert not drift.list_faults(), drift
    assert drift.images == 3 and drift.detections > 10


@pytest.mark.slow
def test_half(folder, export_here):
    report = export_here('ncnn', precision='half', images='wide', with_map=False)
    assert report.path.name == 'best_half_ncnn' and names(report.path) == FILES
    half, whole = ((p / 'model.bin').stat().st_size for p in (report.path, folder))
    assert 0.45 * whole < half < 0.6 * whole
    assert 0 < report.drift.largest['candidate boxes'] < 1  # pixel


@pytest.mark.slow
def test_what_differs_is_not_kept(libraries, here, export_here, monkeypatch):
    trace = our_ncnn.trace

    def trace_another(job: Job) -> bytes:
        other = Candidates(lively_detector(small_config('yolov5_nextvit_s', 3)))
        return trace(replace(job, candidates=other))

    monkeypatch.setattr(our_ncnn, 'trace', trace_another)
    with pytest.raises(UserError, match='best_ncnn is not kept, since it differs'):
        export_here('ncnn', images='wide')
    assert names(here) == GIVEN


# --------------------------------------------------------------------------- bad input


def test_operators_that_it_has_not(tmp_path):
    file = tmp_path / 'model.param'
    lines = '7767517', '2 2', 'Input in0 0 1 in0', 'torch.argmax a 1 1 in0 out0'
    file.write_text('\n'.join([*lines[:3], 'ReLU b 1 1 in0 out0']))
    check_layers(file)
    file.write_text('\n'.join(lines))
    with pytest.raises(UserError, match=r'no layer for torch\.argmax: choose another'):
        check_layers(file)


@pytest.mark.slow
def test_a_program_that_pnnx_does_not_read(libraries, tmp_path):
    with pytest.raises(UserError, match='pnnx does not convert the network'):
        convert(b'no program', tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_damaged_folders(copied):
    """NCNN itself ends the process, or computes something, of such files."""
    for name in sorted(FILES):
        file = copied / name
        whole = file.read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[:-9], b'', b'x' + whole[1:]):
            file.write_bytes(damaged)
            with pytest.raises(ModelFileError, match='export'):
                Detector(copied)
        file.unlink()
        with pytest.raises((MissingModelError, ModelFileError), match='lacks|0 .param'):
            Detector(copied)
        file.write_bytes(whole)
    assert Detector(copied).detect([]) == []


@pytest.mark.slow
def test_metadata_that_are_not_ours(copied):
    file = copied / 'model.json'
    content = json.loads(file.read_text())
    for damaged, says in (
        (b'[]', 'no JSON object'),
        (b'{}', 'not written by mmnextvit export'),
        (b'[' * 100_000, 'no JSON'),
        (json.dumps({**content, 'sha256': 3}).encode(), 'sha256'),
        (json.dumps({**content, 'sha256': {}}).encode(), 'sha256'),
    ):
        file.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=says):
            Detector(copied)


@pytest.mark.slow
def test_options(folder, monkeypatch):
    with pytest.raises(OptionError, match='was made for the CPU'):
        Detector(folder, device='cuda')
    with pytest.raises(OptionError, match='has the fixed height and width'):
        Detector(folder, imgsz=(96, 96))
    image = demo_images((64, 64))
    one, other = (Detector(folder, threads=n).detect(image)[0] for n in (1, 2))
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
    monkeypatch.setitem(sys.modules, 'ncnn', None)
    with pytest.raises(ImportError, match=r'needs ncnn.*"mmnextvit\[ncnn\]"'):
        Detector(folder)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(batch=2), r'batch 2 \(--batch\): ncnn takes one image at a time'),
        (dict(batch=None), 'ncnn has fixed sizes here: onnx'),
        (dict(dynamic_size=True), 'ncnn has fixed sizes here: onnx'),
        (dict(precision='int8', calibration='x'), 'ncnn has no int8 here: onnx'),
        (dict(efficient_nms=True), 'is for tensorrt'),
    ],
)
def test_options_that_it_has_not(monkeypatch, options, message):
    for library in ('ncnn', 'pnnx'):  # whether or not they are installed
        monkeypatch.setitem(sys.modules, library, torch)
    with pytest.raises(UserError, match=message):
        check_options(Options('ncnn', **options))


@pytest.mark.slow
def test_folders_of_others_are_not_replaced(libraries, here, export_here):
    (here / 'best_ncnn').mkdir()
    (here / 'best_ncnn' / 'diary.txt').write_text('mine')
    with pytest.raises(UserError, match='a folder with diary.txt, which is not repl'):
        export_here('ncnn', overwrite=True)
    assert (here / 'best_ncnn' / 'diary.txt').read_text() == 'mine'
