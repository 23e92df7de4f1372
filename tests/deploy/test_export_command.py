"""mmnextvit export as a user runs it, and the other commands with what it wrote."""

import copy
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.cli import call
from mmnextvit.deploy import exported as exported_module
from mmnextvit.deploy import torchscript
from mmnextvit.deploy.choices import Options, check_options, choose_path, take_evenly
from mmnextvit.runtime import Detector
from mmnextvit.utils.errors import MissingPackageError, UserError

import cv2
import nncf
import numpy as np
import onnx
import pytest
import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from tests.conftest import ROOT, TINY
from tests.helpers.commands import fresh_process_state, run_here
from tests.helpers.export_folder import GIVEN, names
from tests.helpers.tiny_run import run_tool

pytestmark = pytest.mark.deploy


# -------------------------------------------------------------------- what it does


@pytest.mark.slow
def test_report(exported):
    assert exported.path.is_file()
    largest = exported.drift.largest
    for name in ('candidate boxes', 'candidate scores', 'boxes', 'scores'):
        assert 0 < largest[name] < 1e-2, name
    assert exported.drift.images == 4 and exported.drift.detections >= 4
    first, second = str(exported).splitlines()
    assert first == f'{exported.path}: onnx, float32, 64x64'
    assert re.fullmatch(
        r'Compared with torch: largest differences: candidate boxes \S+, '
        r'candidate scores \S+, boxes \S+, scores \S+, .*, '
        r'\d+ detections in 4 images',
        second,
    )
    folder = exported.path.parent
    assert not [p for p in folder.iterdir() if p.name.startswith('.')]
    assert Detector(exported.path).classes == ('circle', 'square', 'triangle')


@pytest.mark.slow
def test_best_scores_go_along(here, export_here, capfd):
    """From the checkpoint into the file; both then find the same, class by class."""
    best = {'all': 0.2, 'classes': {'circle': 0.05, 'triangle': 0.3}}
    content = torch.load('best.pth', weights_only=False)
    for file in ('without.pth', 'best.pth'):
        torch.save(content, file)
        content['meta']['best_scores'] = best
    for to in ('onnx', 'torchscript'):
        path = export_here(to, images='wide').path
        assert Detector(path).metadata['best_scores'] == best
    options = 'wide', '--score-thr', 'best', '--out-dir'
    results = []
    for file in ('best.pth', 'best.onnx'):
        run_here(
            'predict', 'tiny.py', file, *options, f'of_{file}', cwd=here, capfd=capfd
        )
        results.append(json.loads(Path(f'of_{file}', 'predictions.json').read_text()))
        used = {'circle': 0.05, 'square': 0.2, 'triangle': 0.3}
        assert results[-1]['score_thr'] == used
        found = [o for p in results[-1]['predictions'] for o in p['objects']]
        assert found and all(o['score'] >= used[o['class']] for o in found)
    first, second = results
    for one, other in zip(first['predictions'], second['predictions'], strict=True):
        classes = [[o['class'] for o in p['objects']] for p in (one, other)]
        assert classes[0] == classes[1]

    for file in ('best.pth', 'best.onnx'):
        options = ('--score-thr', 'best', '--work-dir', 'log')
        run_here('test', 'tiny.py', file, *options, cwd=here, capfd=capfd)
        log = max(Path('log').glob('*/*.log')).read_text()
        assert re.search(r'\| triangle +\| 0.3 +\| [01]\.\d{3}', log)
        assert re.search(r'\| all +\| +\| [01]\.\d{3}', log)
    for command, rest in (('predict', ('wide',)), ('test', ())):
        args = command, 'tiny.py', 'without.pth', *rest, '--score-thr'
        printed = run_here(*args, 'best', cwd=here, capfd=capfd, code=1)
        assert "without.pth: score_thr='best' (--score-thr): the file has no" in printed
        printed = run_here(*args, 'bset', cwd=here, capfd=capfd, code=2)
        assert '--score-thr' in printed


@pytest.mark.slow
def test_command_as_a_process(here):
    printed = run_tool(
        'export.py', 'tiny.py', 'best.pth', '--to', 'torchscript', cwd=here
    )
    assert 'torchscript: torch has deprecated TorchScript' in printed
    assert '--to pt2' in printed
    assert 'Writing best.torchscript ...' in printed
    assert 'Comparing best.torchscript with torch ...' in printed
    assert 'best.torchscript: torchscript, float32, 64x64' in printed
    assert 'Compared with torch: largest differences: candidate boxes' in printed
    assert names(here) == GIVEN | {'best.torchscript'}


def objects(folder: Path) -> dict[str, list[dict]]:
    result = json.loads((folder / 'predictions.json').read_text())
    assert result['classes'] == ['circle', 'square', 'triangle']
    return {Path(p['file']).name: p['objects'] for p in result['predictions']}


@pytest.mark.slow
def test_predictions_are_those_of_the_checkpoint(here, exported, capfd):
    shutil.copy(exported.path, here)
    source = here / 'images'
    shutil.copytree(here / 'data' / 'val', source)
    for path in (here / 'wide').iterdir():
        shutil.copy(path, source / f'wide{path.name}')
    for name in ('best.pth', 'best.onnx'):
        args = 'tiny.py', name, source, '--out-dir', f'of {name}', '--score-thr=0.2'
        output = run_here('predict', *args, '--device=cpu', cwd=here, capfd=capfd)
        assert re.search(r'[1-9]\d* objects in 7 files', output)
    theirs, ours = objects(here / 'of best.pth'), objects(here / 'of best.onnx')
    assert ours.keys() == theirs.keys() and len(ours) == 7
    assert sum(map(len, theirs.values())) > 10
    assert len({o['class'] for found in theirs.values() for o in found}) == 3
    for name, wanted in theirs.items():
        assert len(ours[name]) == len(wanted)
        for a, b in zip(ours[name], wanted):
            assert a['class'] == b['class']
            assert a['score'] == pytest.approx(b['score'], abs=1e-3)
            assert a['box'] == pytest.approx(b['box'], abs=0.1)
        plain, *drawn = (
            cv2.imread(str(path)).astype(int)
            for path in (
                source / name,
                *(here / f'of {x}' / 'drawn' / name for x in ('best.pth', 'best.onnx')),
            )
        )
        assert drawn[0].shape == drawn[1].shape == plain.shape
        assert np.abs(drawn[0] - drawn[1]).mean() < 1
        if wanted:
            assert np.abs(drawn[1] - plain).mean() > 1


@pytest.mark.slow
def test_an_exported_file_needs_no_config(here, exported, capfd):
    shutil.copy(exported.path, here)
    found = []
    for args in (('tiny.py', 'best.onnx'), ('best.onnx',)):
        options = 'data/val', '--out-dir', f'of {len(args)}'
        run_here('predict', *args, *options, cwd=here, capfd=capfd)
        found.append(json.loads(Path(options[-1], 'predictions.json').read_text()))
    both, alone = (one['predictions'] for one in found)
    assert [one['objects'] for one in alone] == [one['objects'] for one in both]
    assert any(one['objects'] for one in alone)
    assert (found[1]['config'], found[1]['checkpoint']) == (None, 'best.onnx')
    args = 'best.onnx', 'data/val', '--cfg-options', 'classes=("a",)'
    message = run_here('predict', *args, cwd=here, capfd=capfd, code=2)
    assert '--cfg-options changes a config, and an exported file alone' in message
    for command in ('test', 'report'):  # which need the config's data
        message = run_here(command, 'best.onnx', cwd=here, capfd=capfd, code=2)
        assert 'required: checkpoint (best.onnx is not' in message


@pytest.mark.slow
def test_map_is_that_of_the_checkpoint(here, exported):
    shutil.copy(exported.path, here)
    metrics = []
    for name in ('best.pth', 'best.onnx'):
        with fresh_process_state():
            args = 'tiny.py', name, '--work-dir', f'of {name}'
            metrics.append(call('test', *args))
    theirs, ours = metrics
    assert theirs['coco/bbox_mAP_50'] > 0.3
    assert ours == pytest.approx(theirs, abs=1e-3)


@pytest.mark.slow
def test_exported_files_where_they_do_not_fit(here, exported, capfd):
    def refuse(command: str, *args: object) -> str:
        return run_here(command, *args, cwd=here, capfd=capfd, code=1)

    shutil.copy(exported.path, here)
    args = 'tiny.py', 'best.onnx', 'data/val'
    message = refuse('predict', *args, '--feature-maps')
    assert '--feature-maps needs a checkpoint: exported files keep none' in message
    text = (here / 'tiny.py').read_text()
    (here / 'other.py').write_text(text.replace("'square'", "'hexagon'"))
    args = 'other.py', 'best.onnx'
    for command in (('test', *args), ('predict', *args, 'data/val')):
        message = refuse(*command)
        assert "finds the classes ['circle', 'square', 'triangle']" in message
        assert "have ['circle', 'hexagon', 'triangle']" in message
    message = refuse('predict', 'tiny.py', 'no.onnx', 'data/val')
    assert 'no.onnx does not exist' in message
    message = refuse('test', 'tiny.py', 'empty')
    assert 'empty is a folder with 0 .xml files' in message
    assert names(here) - {'work_dirs'} == GIVEN | {'best.onnx', 'other.py'}


def test_exported_detector(here, monkeypatch):
    """It is checked on the device that it will run on, and predicts only."""
    opened = []
    monkeypatch.setattr(
        exported_module, 'open_exported', lambda path, device: opened.append(device)
    )
    monkeypatch.setattr(exported_module, 'check_classes', lambda cfg, detector: {})
    cfg = Config.fromfile('tiny.py')
    cfg = exported_module.use_exported(cfg, 'best.onnx', 'cuda:1')
    assert opened == ['cuda:1'] and cfg.model.device == 'cuda:1'
    detector = exported_module.ExportedDetector('best.onnx')
    with pytest.raises(UserError, match='predicts only: it cannot be trained'):
        detector([], [], mode='loss')


@pytest.mark.slow
def test_sizes_and_batch(here, run_export):
    """Rounded up, and said; a folder is made; a whole other file is replaced."""
    args = '--to', 'torchscript', '--imgsz', '50', '70', '--batch', '2'
    out = here / 'new' / 'x.torchscript'
    output = run_export(*args, '-o', out)
    rounded = 'size 50 70 (--imgsz) becomes 64 96: both must be multiples of 32'
    assert rounded in output and 'torchscript, float32, 64x96' in output
    metadata = Detector(out).metadata
    assert (metadata['input']['size'], metadata['input']['batch']) == ([64, 96], 2)
    output = run_export('--to', 'torchscript', '-o', out, code=1)
    assert f'{out} exists, and is replaced only to overwrite it (--force)' in output
    args = '--to', 'torchscript', '--imgsz', '40', '--no-nms', '--force', '-o', out
    output = run_export(*args)
    assert 'size 40 40 (--imgsz) becomes 64 64' in output
    metadata = Detector(out).metadata
    assert metadata['input']['size'] == [64, 64] and not metadata['nms']['in_graph']
    assert names(out.parent) == {'x.torchscript'}


@pytest.mark.slow
def test_openvino_folder(here, run_export):
    """In half precision, named after the checkpoint; replaced as a whole."""
    folder = here / 'best_half_openvino'
    folder.mkdir()
    for name in ('model.xml', 'model.bin'):
        (folder / name).write_text('old')
    assert 'exists' in run_export('--to', 'openvino', '--half', code=1)
    args = '--to', 'openvino', '--half', '--no-map', '--force'
    output = run_export(*args)
    assert 'best_half_openvino: openvino, half, 64x64' in output
    assert 'mAP' not in output
    assert names(folder) == {'model.xml', 'model.bin'}
    assert Detector(folder).metadata['precision'] == 'half'
    assert names(here) == GIVEN | {folder.name}


@pytest.mark.slow
def test_half_reports_map(here, export_here):
    report = export_here('onnx', precision='half')
    first, *_, last = str(report).splitlines()
    assert first == 'best_half.onnx: onnx, half, 64x64'
    assert report.mean_ap.keys() == {'coco/bbox_mAP', 'coco/bbox_mAP_50'}
    torchs, ours = report.mean_ap['coco/bbox_mAP_50']
    assert last == (
        f'coco/bbox_mAP_50: torch {torchs:.4f}, exported {ours:.4f} '
        f'({ours - torchs:+.4f})'
    )
    assert torchs > 0.3 and abs(ours - torchs) < 0.1
    model = onnx.load(here / 'best_half.onnx')
    large = [i for i in model.graph.initializer if np.prod(i.dims) > 1000]
    assert {i.data_type for i in large} == {onnx.TensorProto.FLOAT16} and large


@pytest.mark.slow
def test_int8(here, export_here, monkeypatch):
    """Calibrated on the images that are given, compared, and measured."""
    given = []

    class Noted(nncf.Dataset):
        def __init__(self, images, *more):
            given.extend(images)
            super().__init__(images, *more)

    monkeypatch.setattr(nncf, 'Dataset', Noted)
    report = export_here('onnx', precision='int8', calibration='wide', out='small.onnx')
    first, second, *_ = str(report).splitlines()
    assert first == 'small.onnx: onnx, int8, 64x64'
    layers = report.float_layers
    assert len(layers) < 20 and second == f'Layers in float: {", ".join(layers)}'
    torchs, ours = report.mean_ap['coco/bbox_mAP_50']
    assert torchs > 0.3 and ours > 0.2  # of a net so small that 8 bits cost it much
    graph = onnx.load(here / 'small.onnx').graph
    assert [n.op_type for n in graph.node].count('QuantizeLinear') > 20
    shapes = {i.name: list(i.dims) for i in graph.initializer}
    named = [n for n in graph.node if n.name in layers and n.op_type == 'Conv']
    # the head's, a level each: three anchors with a box, objectness and three classes
    assert [shapes[n.input[1]][:1] for n in named] == [[3 * (4 + 1 + 3)]] * 3
    assert [g.shape for g in given] == [(1, 3, 64, 64)] * 3
    first = cv2.imread('wide/0.png')[..., ::-1].transpose(2, 0, 1)
    assert (given[0][0, :, 12:52] == first).all() and (given[0][0, :, :12] == 114).all()
    assert 1e-3 < report.drift.largest['candidate scores'] < 1


@pytest.mark.slow
def test_int8_for_tensorrt(here, run_export):
    """It takes int8 around 0 only."""
    args = '--to', 'tensorrt', '--int8', '--calib', 'wide', '--no-map', '--no-nms'
    output = run_export(*args)
    assert 'trtexec --onnx=best_int8_tensorrt.onnx' in output
    model = onnx.load(here / 'best_int8_tensorrt.onnx')
    values = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    points = [
        values[n.input[2]]
        for n in model.graph.node
        if n.op_type in ('QuantizeLinear', 'DequantizeLinear')
    ]
    assert len(points) > 20
    assert {p.dtype for p in points} == {np.dtype(np.int8)}
    assert not any(p.any() for p in points)


# ------------------------------------------------------------- files that are wrong


class Permuted(nn.Module):
    """Candidates whose classes have changed places."""

    def __init__(self, candidates):
        super().__init__()
        self.candidates = candidates
        self.image_channels = candidates.image_channels

    def forward(self, images):
        boxes, scores = self.candidates(images)
        return boxes, scores[..., [1, 0, 2]]


@torch.no_grad()
def other_weights(job):
    for p in job.candidates.parameters():
        p.mul_(1.02)
    return job


@torch.no_grad()
def other_mean(job):
    job.candidates.mean += 20
    return job


def other_classes(job):
    return replace(job, candidates=Permuted(job.candidates))


def with_metadata(job, change):
    metadata = copy.deepcopy(job.metadata)
    change(metadata)
    return replace(job, metadata=metadata)


def other_threshold(job):
    return with_metadata(job, lambda m: m['nms'].update(iou_threshold=0.3))


def other_limit(job):
    return with_metadata(job, lambda m: m['nms'].update(max_per_img=3))


def other_fill(job):
    return with_metadata(job, lambda m: m['resize'][-1].update(fill=0))


def other_resize(job):
    return with_metadata(job, lambda m: m['resize'][0].update(scale=[60, 60]))


@pytest.mark.slow
@pytest.mark.parametrize(
    'change, message',
    [
        (other_weights, 'candidate boxes differ by .* candidate scores differ by '),
        (other_mean, 'candidate scores differ by '),
        (other_classes, 'candidate scores differ by '),
        (
            other_threshold,
            '[:;] [1-9][0-9]* detections (should be suppressed|are missing)',
        ),
        (other_limit, '[:;] [1-9][0-9]* detections (should be suppressed|are missing)'),
        (other_fill, "MMYOLO's (boxes|scores) differ by "),
        (other_resize, "MMYOLO's (boxes|scores) differ by "),
    ],
)
def test_a_file_that_differs_is_not_kept(
    here, run_export, monkeypatch, change, message
):
    """Each by a little, in what is written only; TorchScript is the quickest."""
    write = torchscript.write
    monkeypatch.setattr(
        torchscript, 'write', lambda job, path: write(change(job), path)
    )
    (here / 'best.torchscript').write_text('what was there before')
    args = '--to', 'torchscript', '--images', 'wide', '--force'
    output = run_export(*args, code=1)
    said = 'best.torchscript is not kept, since it differs from torch: '
    assert said in output
    assert re.search(message, output[output.index(said) :]), output
    assert (here / 'best.torchscript').read_text() == 'what was there before'
    assert names(here) == GIVEN | {'best.torchscript'}
    if change in (other_threshold, other_limit, other_fill, other_resize):
        assert 'candidate' not in output  # the network itself is right


@pytest.mark.parametrize('error', [ZeroDivisionError, KeyboardInterrupt])
def test_a_writer_that_stops_leaves_nothing(here, run_export, monkeypatch, error):
    """As a bug of ours stops it, or Ctrl-C."""

    def broken(job, path):
        path.write_text('half of it')
        raise error

    monkeypatch.setattr(torchscript, 'write', broken)
    if error is KeyboardInterrupt:
        assert 'interrupted' in run_export('--to', 'torchscript', code=130)
    else:
        with pytest.raises(error):
            run_export('--to', 'torchscript')
    assert names(here) == GIVEN


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    'name, near',
    [
        ('onxx', 'onnx'),
        ('OpenVino', 'openvino'),
        ('trt', 'tensorrt'),
        ('torch', 'torchscript'),
        ('tflite', None),
    ],
)
def test_unknown_format(here, run_export, name, near):
    message = run_export('--to', name, code=2)
    assert f'there is no format {name!r}' in message
    assert 'onnx, openvino, tensorrt, coreml, ncnn, pt2, torchscript' in message
    meant = re.search(r'\(did you mean (.*)\?\)', message)
    assert near in meant[1].split(' or ') if near else meant is None
    with pytest.raises(UserError, match=f'there is no format {name!r}'):
        check_options(Options(name))


@pytest.mark.parametrize(
    'library, extra, args',
    [
        ('onnxslim', 'onnx', ['--to', 'onnx']),
        ('onnx', 'onnx', ['--to', 'tensorrt']),
        ('openvino', 'openvino', ['--to', 'openvino']),
        ('coremltools', 'coreml', ['--to', 'coreml']),
        ('pnnx', 'ncnn', ['--to', 'ncnn']),
        ('nncf', 'int8', ['--to', 'onnx', '--int8', '--calib', 'wide']),
    ],
)
def test_library_that_is_not_installed(
    here, run_export, monkeypatch, library, extra, args
):
    monkeypatch.setitem(sys.modules, library, None)
    message = run_export(*args, code=1)
    assert f'{library} is not installed or does not start' in message
    assert message.rstrip().endswith(f'pip install "mmnextvit[{extra}]"')
    assert names(here) == GIVEN


TO = '--to', 'onnx'
NO_DATA = '--cfg-options', 'test_dataloader.dataset.data_root=/nowhere/'
RESIZE = 'test_dataloader.dataset.pipeline.2.'


@pytest.mark.parametrize(
    'args, message',
    [
        ([*TO, '--imgsz', 'large'], "--imgsz large: write a height and a width, or 'd"),
        ([*TO, '--imgsz', '-64', '64'], '--imgsz -64 64: write a height and a width'),
        ([*TO, '--imgsz', '64', '64', '3'], '--imgsz 64 64 3: write a height and a wi'),
        ([*TO, '--imgsz', '0'], r'size 0 0 \(--imgsz\): both must be positive'),
        (
            [*TO, '--imgsz', '99999999999'],
            r'size 99999999999 99999999999 \(--imgsz\): both must be at most 16384',
        ),
        ([*TO, '--imgsz', '9' * 5000], "--imgsz 9+: write a height and a width, or 'd"),
        ([*TO, '--batch', '9' * 5000], "--batch 9+: write a number, or 'dynamic'"),
        ([*TO, '--batch', '99999999999'], 'input.batch is 99999999999, and must be a'),
        ([*TO, '--batch', '0'], "--batch 0: write a number, or 'dynamic'"),
        ([*TO, '--batch', 'x'], "--batch x: write a number, or 'dynamic'"),
        ([*TO, '--int8'], r'int8 needs images to calibrate with \(--calib FOLDER\)'),
        ([*TO, '--int8', '--calib', 'empty'], 'There is no image or video in empty'),
        ([*TO, '--int8', '--calib', 'no*'], r'no\* does not exist, and matches no'),
        ([*TO, '--calib', 'wide'], r'calibrate with \(--calib\) are for int8'),
        ([*TO, '--half', '--calib', 'wide'], r'\(--calib\) are for int8'),
        ([*TO, '--images', 'empty'], 'There is no image or video in empty'),
        (['--to', 'coreml', '--int8'], 'coreml has no int8 here: onnx, openvino, ten'),
        (['--to', 'torchscript', '--int8'], 'torchscript has no int8 here: onnx, op'),
        (['--to', 'coreml', '--batch', 'dynamic'], 'coreml has fixed sizes here: onnx'),
        (['--to', 'coreml', '--imgsz', 'dynamic'], 'coreml has fixed sizes here: onnx'),
        (['--to', 'torchscript', '--batch', 'dynamic'], 'torchscript has fixed sizes'),
        (
            ['--to', 'coreml', '--batch', '2'],
            r'batch 2 \(--batch\): coreml takes one image at a time',
        ),
        (
            ['--to', 'pt2', '--int8'],
            'pt2 has no int8 here: onnx, openvino, tens',
        ),
        (['--to', 'pt2', '--efficient-nms'], r'efficient_nms .* is for tensorrt, '),
        (['--to', 'pt2', '-o', 'x'], r'out x \(-o\): the name must end in .pt2'),
        (
            [*TO, '--efficient-nms'],
            r'efficient_nms \(--efficient-nms\) is for tensorrt, ',
        ),
        ([*TO, '-o', 'x.pt'], r'out x.pt \(-o\): the name must end in .onnx'),
        (
            ['--to', 'openvino', '-o', 'x.xml'],
            r'out x.xml \(-o\): .* folder, without a suffix',
        ),
        (
            ['--to', 'coreml', '-o', 'x'],
            r'out x \(-o\): the name must end in .mlpackage',
        ),
        (
            [*TO, *NO_DATA],
            'tiny.py: What is .* test images cannot be read: .*--images',
        ),
        (
            [*TO, '--cfg-options', 'model.backbone.arch.depths=[1,2,10,2]'],
            'best.pth: the weights do not fit, and all must',
        ),
        (
            [*TO, '--cfg-options', 'model.test_cfg.nms.type=soft_nms'],
            'model.test_cfg.nms: it is .*soft_nms.* exported files have dict',
        ),
        (
            [*TO, '--cfg-options', RESIZE + 'type=mmdet.Resize'],
            'tiny.py: the test pipeline has mmdet.Resize; ',
        ),
    ],
)
def test_wrong_arguments(here, run_export, args, message):
    output = run_export(*args, code=1)
    assert re.search(f'mmnextvit export: .*{message}', output), output
    assert names(here) == GIVEN


def test_half_and_int8_together(run_export):
    output = run_export('--to', 'onnx', '--half', '--int8', code=2)
    assert '--int8: not allowed with argument --half' in output


def test_images_that_cannot_be_read(here, run_export):
    """One is left out, and said; where all are broken nothing is written."""
    mixed = here / 'mixed'
    mixed.mkdir()
    whole = (here / 'wide' / '0.png').read_bytes()
    (mixed / 'broken.png').write_bytes(whole[: len(whole) // 2])
    args = '--to', 'torchscript', '--images', 'mixed'
    output = run_export(*args, code=1)
    assert 'None of the images to compare on can be read' in output
    assert names(here) == GIVEN | {'mixed'}
    (mixed / 'whole.png').write_bytes(whole)
    output = run_export(*args)
    assert 'left out: ' in output and 'broken.png' in output.replace('\n', '')
    assert 'detections in 1 images' in output


def test_detectors_of_another_type(here, capfd):
    """RetinaNet and its own checkpoint; test_deploy.py has heads that give masks."""
    cfg = Config.fromfile(ROOT / 'configs' / 'retinanet_nextvit_s_fpn_1x_coco.py')
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.update(arch=TINY, init_cfg=None)
    cfg.model.neck.in_channels = [*TINY['stage_channels']]
    cfg.dump('retina.py')
    model = DETECTORS.build(cfg.model)
    meta = dict(dataset_meta=dict(classes=['a'] * 80))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), 'retina.pth')
    args = 'retina.py', 'retina.pth', '--to', 'onnx', '--images', 'wide'
    message = run_here('export', *args, cwd=here, capfd=capfd, code=1)
    assert (
        'mmnextvit export: RetinaHead cannot be exported: the head must be' in message
    )
    assert names(here) == GIVEN | {'retina.py', 'retina.pth'}


# -------------------------------------------------------- choices, without any work


def test_take_evenly():
    assert take_evenly(range(3), 8) == [0, 1, 2]
    assert take_evenly(range(100), 4) == [0, 25, 50, 75]
    assert take_evenly([], 8) == []


@pytest.mark.parametrize(
    'checkpoint, options, path',
    [
        ('run/best.pth', dict(to='onnx'), 'run/best.onnx'),
        ('run/best.pth', dict(to='openvino'), 'run/best_openvino'),
        ('run/best.pth', dict(to='tensorrt'), 'run/best_tensorrt.onnx'),
        ('run/best.pth', dict(to='onnx', precision='half'), 'run/best_half.onnx'),
        ('https://a.org/x/best.pth', dict(to='coreml'), 'best.mlpackage'),
        ('best.pth', dict(to='onnx', out='new/my.onnx'), 'new/my.onnx'),
    ],
)
def test_default_path(tmp_path, monkeypatch, checkpoint, options, path):
    monkeypatch.chdir(tmp_path)
    assert choose_path(checkpoint, Options(**options)) == Path(path)


def test_what_is_not_replaced(tmp_path, monkeypatch):
    """Folders with other files, links, files where a folder goes, and any engine."""
    monkeypatch.chdir(tmp_path)
    for folder in ('mine_openvino', 'my.mlpackage'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'thesis.tex').write_text('')
    (tmp_path / 'file').write_text('')
    (tmp_path / 'link.onnx').symlink_to('elsewhere.onnx')
    (tmp_path / 'x.engine').write_text('')

    def refused(message, overwrite=True, **options):
        with pytest.raises(UserError, match=message):
            choose_path('best.pth', Options(overwrite=overwrite, **options))

    refused('is a folder with thesis.tex', to='openvino', out='mine_openvino')
    refused('is a folder with thesis.tex', to='coreml', out='my.mlpackage')
    refused('file is no folder', to='openvino', out='file')
    refused('link.onnx is no file', to='onnx', out='link.onnx')
    refused('x.engine exists', overwrite=False, to='tensorrt', out='x.onnx')


def test_missing_packages_are_import_errors(monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(MissingPackageError) as error:
        check_options(Options('onnx'))
    assert isinstance(error.value, ImportError)


@pytest.mark.slow
def test_the_command_returns_its_report(here):
    with fresh_process_state():
        report = call('export', 'tiny.py', 'best.pth', '--to', 'torchscript')
    assert report.path == Path('best.torchscript') and report.drift.images == 4
