"""tools/export.py as a user runs it, and predict.py and test.py with what it wrote."""

import copy
import io
import json
import re
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.deploy import formats as export
from mmnextvit.deploy.formats import FORMATS
from mmnextvit.runtime import Detector

import cv2
import nncf
import numpy as np
import onnx
import pytest
import torch
from mmdet.registry import DATASETS
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmyolo.datasets import yolov5_collate
from mmyolo.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.conftest import ROOT, TINY
from tests.helpers.lively_detectors import SHALLOW, demo_images
from tests.helpers.tiny_run import load_tool, write_tiny_run

STEPS = 60


def train(cfg: Config) -> dict:
    """Learns the four validation images by heart; returns a checkpoint."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    data = dict(cfg.val_dataloader.dataset, test_mode=False)
    dataset = DATASETS.build(data)
    batch = yolov5_collate([dataset[i] for i in range(len(dataset))])
    boxes = batch['data_samples']['bboxes_labels']
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for m in model.modules():
        if isinstance(m, _BatchNorm):
            m.momentum = 1.0  # the statistics of the only batch
    for _ in range(STEPS):
        inputs = model.data_preprocessor(
            dict(
                inputs=batch['inputs'].clone(),
                data_samples=dict(bboxes_labels=boxes.clone(), img_metas=[]),
            ),
            True,
        )
        loss, _ = model.parse_losses(model(**inputs, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    meta = dict(dataset_meta=dict(cfg.val_dataloader.dataset.metainfo))
    return dict(state_dict=model.state_dict(), meta=meta)


@pytest.fixture(scope='module')
def user(tmp_path_factory):
    """A folder of no relation to the repository, with a config and a checkpoint."""
    folder = tmp_path_factory.mktemp('user')
    config = write_tiny_run(folder)
    text = config.read_text()
    assert str(TINY['depths']) in text
    config.write_text(text.replace(str(TINY['depths']), str(SHALLOW['depths'])))
    init_default_scope('mmyolo')
    torch.save(train(Config.fromfile(config)), folder / 'best.pth')
    wide = folder / 'wide'  # images that are letterboxed
    wide.mkdir()
    for i, image in enumerate(demo_images((40, 64), (64, 48), (30, 90))):
        cv2.imwrite(str(wide / f'{i}.png'), image)
    (folder / 'empty').mkdir()
    return folder


@pytest.fixture
def here(user, tmp_path, monkeypatch):
    """A folder that one test may change, with the user's files."""
    for name in ('tiny.py', 'best.pth'):
        shutil.copy(user / name, tmp_path)
    (tmp_path / 'data').symlink_to(user / 'data')
    (tmp_path / 'wide').symlink_to(user / 'wide')
    (tmp_path / 'empty').symlink_to(user / 'empty')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True, scope='module')
def converted_once():
    """The one checkpoint, which takes long in ONNX."""
    convert, networks = export.onnx_network, {}

    def network(candidates, **shape):
        key = candidates.dtype, json.dumps(shape)
        if key not in networks:
            networks[key] = convert(candidates, **shape)
        return networks[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, 'onnx_network', network)
        yield


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


GIVEN = {'tiny.py', 'best.pth', 'data', 'wide', 'empty'}


def call(monkeypatch, name: str, *args: object) -> str:
    """What a tool prints, in this process; or the message with which it refuses."""
    tool = load_tool(name)
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, args)])
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            tool.run(tool.main)
    except SystemExit as error:
        assert isinstance(error.value if hasattr(error, 'value') else error.code, str)
        return output.getvalue() + error.code
    return output.getvalue()


def run_export(monkeypatch, *args: object) -> str:
    return call(monkeypatch, 'export', 'tiny.py', 'best.pth', *args)


@pytest.fixture(scope='module')
def exported(user):
    """What the tool printed, and its file, which lies beside the checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(user)
        output = run_export(patch, '--to', 'onnx')
    return output, user / 'best.onnx'


# -------------------------------------------------------------------- what it does


def test_what_is_said(exported):
    output, path = exported
    assert path.is_file(), output
    assert 'best.onnx: onnx, float32, 64x64' in output
    said = re.search(
        r'Compared with torch: largest differences: candidate boxes (\S+), '
        r'candidate scores (\S+), boxes (\S+), scores (\S+), .*, '
        r'(\d+) detections in 4 images',
        output,
    )
    *differences, found = map(float, said.groups())
    assert found >= 4 and all(0 < d < 1e-2 for d in differences)
    assert not [p for p in path.parent.iterdir() if p.name.startswith('.')]
    assert Detector(path).classes == ('circle', 'square', 'triangle')


def objects(folder: Path) -> dict[str, list[dict]]:
    result = json.loads((folder / 'predictions.json').read_text())
    assert result['classes'] == ['circle', 'square', 'triangle']
    return {Path(p['file']).name: p['objects'] for p in result['predictions']}


def test_predictions_are_those_of_the_checkpoint(here, exported, monkeypatch):
    shutil.copy(exported[1], here)
    source = here / 'images'
    shutil.copytree(here / 'data' / 'val', source)
    for path in (here / 'wide').iterdir():
        shutil.copy(path, source / f'wide{path.name}')
    for name in ('best.pth', 'best.onnx'):
        args = 'tiny.py', name, source, '--out-dir', f'of {name}', '--score-thr=0.2'
        output = call(monkeypatch, 'predict', *args, '--device=cpu')
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


def test_map_is_that_of_the_checkpoint(here, exported, monkeypatch):
    shutil.copy(exported[1], here)
    tool, metrics = load_tool('test'), []
    build_runner = tool.build_runner

    def with_metrics(cfg):
        runner = build_runner(cfg)
        test = runner.test
        runner.test = lambda: metrics.append(test())
        return runner

    monkeypatch.setattr(tool, 'build_runner', with_metrics)
    for name in ('best.pth', 'best.onnx'):
        args = ['test.py', 'tiny.py', name, '--work-dir', f'of {name}']
        monkeypatch.setattr(sys, 'argv', args)
        tool.run(tool.main)
    theirs, ours = metrics
    assert theirs['coco/bbox_mAP_50'] > 0.3
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_exported_files_where_they_do_not_fit(here, exported, monkeypatch):
    shutil.copy(exported[1], here)
    args = 'tiny.py', 'best.onnx', 'data/val'
    message = call(monkeypatch, 'predict', *args, '--feature-maps')
    assert '--feature-maps needs a checkpoint: exported files keep none' in message
    text = (here / 'tiny.py').read_text()
    (here / 'other.py').write_text(text.replace("'square'", "'hexagon'"))
    args = 'other.py', 'best.onnx'
    for tool in (('test', *args), ('predict', *args, 'data/val')):
        message = call(monkeypatch, *tool)
        assert "finds the classes ['circle', 'square', 'triangle']" in message
        assert "have ['circle', 'hexagon', 'triangle']" in message
    message = call(monkeypatch, 'predict', 'tiny.py', 'no.onnx', 'data/val')
    assert 'no.onnx does not exist' in message
    message = call(monkeypatch, 'test', 'tiny.py', 'empty')
    assert 'empty is a folder with 0 .xml files' in message
    assert names(here) - {'work_dirs'} == GIVEN | {'best.onnx', 'other.py'}


def test_sizes_and_batch(here, monkeypatch):
    """Rounded up, and said; a folder is made; a whole other file is replaced."""
    args = '--to', 'torchscript', '--imgsz', '50', '70', '--batch', '2'
    out = here / 'new' / 'x.torchscript'
    output = run_export(monkeypatch, *args, '-o', out)
    rounded = '--imgsz 50 70 becomes 64 96: both must be multiples of 32'
    assert rounded in output and 'torchscript, float32, 64x96' in output
    about = Detector(out).metadata['input']
    assert (about['size'], about['batch']) == ([64, 96], 2)
    output = run_export(monkeypatch, '--to', 'torchscript', '-o', out)
    assert f'{out} exists, and is replaced with --force only' in output
    args = '--to', 'torchscript', '--imgsz', '40', '--no-nms', '--force', '-o', out
    output = run_export(monkeypatch, *args)
    assert '--imgsz 40 40 becomes 64 64' in output
    about = Detector(out).metadata
    assert about['input']['size'] == [64, 64] and not about['nms']['in_graph']
    assert names(out.parent) == {'x.torchscript'}


def test_openvino_folder(here, monkeypatch):
    """In half precision, named after the checkpoint; replaced as a whole."""
    folder = here / 'best_half_openvino'
    folder.mkdir()
    for name in ('model.xml', 'model.bin'):
        (folder / name).write_text('old')
    assert 'exists' in run_export(monkeypatch, '--to', 'openvino', '--half')
    args = '--to', 'openvino', '--half', '--no-map', '--force'
    output = run_export(monkeypatch, *args)
    assert 'best_half_openvino: openvino, half, 64x64' in output
    assert 'mAP' not in output
    assert names(folder) == {'model.xml', 'model.bin'}
    assert Detector(folder).metadata['precision'] == 'half'
    assert names(here) == GIVEN | {folder.name}


def maps(output: str) -> dict[str, tuple[float, float, float]]:
    pattern = r'(\S+): torch (\S+), exported (\S+) \((\S+)\)'
    return {n: tuple(map(float, x)) for n, *x in re.findall(pattern, output)}


def test_half_reports_map(here, monkeypatch):
    output = run_export(monkeypatch, '--to', 'onnx', '--half')
    assert 'best_half.onnx: onnx, half, 64x64' in output
    found = maps(output)
    assert found.keys() == {'coco/bbox_mAP', 'coco/bbox_mAP_50'}
    torchs, ours, difference = found['coco/bbox_mAP_50']
    assert torchs > 0.3 and difference == pytest.approx(ours - torchs, abs=1e-4)
    assert abs(difference) < 0.1
    model = onnx.load(here / 'best_half.onnx')
    large = [i for i in model.graph.initializer if np.prod(i.dims) > 1000]
    assert {i.data_type for i in large} == {onnx.TensorProto.FLOAT16} and large


def test_int8(here, monkeypatch):
    """Calibrated on the images that are given, compared, and measured."""
    given = []

    class Noted(nncf.Dataset):
        def __init__(self, images, *more):
            given.extend(images)
            super().__init__(images, *more)

    monkeypatch.setattr(nncf, 'Dataset', Noted)
    args = '--to', 'onnx', '--int8', '--calib', 'wide', '-o', 'small.onnx'
    output = run_export(monkeypatch, *args)
    assert 'small.onnx: onnx, int8, 64x64' in output
    layers = re.search('Layers in float: (.*)', output)[1].split(', ')
    assert len(layers) < 20
    torchs, ours, difference = maps(output)['coco/bbox_mAP_50']
    assert torchs > 0.3 and ours > 0.2  # of a net so small that 8 bits cost it much
    assert difference == pytest.approx(ours - torchs, abs=2e-4)
    graph = onnx.load(here / 'small.onnx').graph
    assert [n.op_type for n in graph.node].count('QuantizeLinear') > 20
    shapes = {i.name: list(i.dims) for i in graph.initializer}
    named = [n for n in graph.node if n.name in layers and n.op_type == 'Conv']
    # the head's, a level each: three anchors with a box, objectness and three classes
    assert [shapes[n.input[1]][:1] for n in named] == [[3 * (4 + 1 + 3)]] * 3
    assert [g.shape for g in given] == [(1, 3, 64, 64)] * 3
    first = cv2.imread('wide/0.png')[..., ::-1].transpose(2, 0, 1)
    assert (given[0][0, :, 12:52] == first).all() and (given[0][0, :, :12] == 114).all()
    drift = re.search(r'candidate scores (\S+),', output)
    assert 1e-3 < float(drift[1]) < 1


def test_int8_for_tensorrt(here, monkeypatch):
    """It takes int8 around 0 only."""
    args = '--to', 'tensorrt', '--int8', '--calib', 'wide', '--no-map', '--no-nms'
    output = run_export(monkeypatch, *args)
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

    def forward(self, images):
        boxes, scores = self.candidates(images)
        return boxes, scores[..., [1, 0, 2]]


@torch.no_grad()
def other_weights(job):
    for p in job.candidates.parameters():
        p.mul_(1.02)


@torch.no_grad()
def other_mean(job):
    job.candidates.mean += 20


def other_classes(job):
    job.candidates = Permuted(job.candidates)


def other_threshold(job):
    job.facts = copy.deepcopy(job.facts)
    job.facts['nms']['iou_threshold'] = 0.3


def other_limit(job):
    job.facts = copy.deepcopy(job.facts)
    job.facts['nms']['max_per_img'] = 3


def other_fill(job):
    job.facts = copy.deepcopy(job.facts)
    job.facts['resize'][-1]['fill'] = 0


def other_resize(job):
    job.facts = copy.deepcopy(job.facts)
    job.facts['resize'][0]['scale'] = [60, 60]


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
def test_a_file_that_differs_is_not_kept(here, monkeypatch, change, message):
    """Each by a little, in what is written only; TorchScript is the quickest."""
    write = FORMATS['torchscript'].write

    def wrong(job, path):
        change(job)
        return write(job, path)

    monkeypatch.setattr(FORMATS['torchscript'], 'write', wrong)
    (here / 'best.torchscript').write_text('what was there before')
    args = '--to', 'torchscript', '--images', 'wide', '--force'
    output = run_export(monkeypatch, *args)
    said = 'best.torchscript is not kept, since it differs from torch: '
    assert said in output
    assert re.search(message, output[output.index(said) :]), output
    assert (here / 'best.torchscript').read_text() == 'what was there before'
    assert names(here) == GIVEN | {'best.torchscript'}
    if change in (other_threshold, other_limit, other_fill, other_resize):
        assert 'candidate' not in output  # the network itself is right


def test_a_writer_that_fails_leaves_nothing(here, monkeypatch):
    def broken(job, path):
        path.write_text('half of it')
        raise ZeroDivisionError

    monkeypatch.setattr(FORMATS['torchscript'], 'write', broken)
    with pytest.raises(ZeroDivisionError):
        run_export(monkeypatch, '--to', 'torchscript')
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
def test_unknown_format(here, monkeypatch, capsys, name, near):
    tool = load_tool('export')
    monkeypatch.setattr(sys, 'argv', ['', 'tiny.py', 'best.pth', '--to', name])
    with pytest.raises(SystemExit) as error:
        tool.main()
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert f'there is no format {name!r}' in message
    assert 'onnx, openvino, tensorrt, coreml, torchscript' in message
    meant = re.search(r'\(did you mean (.*)\?\)', message)
    assert near in meant[1].split(' or ') if near else meant is None


@pytest.mark.parametrize(
    'library, extra, args',
    [
        ('onnxslim', 'onnx', ['--to', 'onnx']),
        ('onnx', 'onnx', ['--to', 'tensorrt']),
        ('openvino', 'openvino', ['--to', 'openvino']),
        ('coremltools', 'coreml', ['--to', 'coreml']),
        ('nncf', 'int8', ['--to', 'onnx', '--int8', '--calib', 'wide']),
    ],
)
def test_library_that_is_not_installed(here, monkeypatch, library, extra, args):
    monkeypatch.setitem(sys.modules, library, None)
    message = run_export(monkeypatch, *args)
    assert f'{library} is not installed or does not start' in message
    assert message.endswith(f'pip install "mmnextvit[{extra}]"')
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
        ([*TO, '--imgsz', '0'], '--imgsz 0 0: both must be positive'),
        ([*TO, '--batch', '0'], "--batch 0: write a number, or 'dynamic'"),
        ([*TO, '--batch', 'x'], "--batch x: write a number, or 'dynamic'"),
        ([*TO, '--int8'], '--int8 needs images to calibrate with: --calib FOLDER'),
        ([*TO, '--int8', '--calib', 'empty'], 'There is no image or video in empty'),
        ([*TO, '--int8', '--calib', 'no*'], r'no\* does not exist, and matches no'),
        ([*TO, '--images', 'empty'], 'There is no image or video in empty'),
        (['--to', 'coreml', '--int8'], 'coreml has no int8 here: onnx, openvino, ten'),
        (['--to', 'torchscript', '--int8'], 'torchscript has no int8 here: onnx, op'),
        (['--to', 'coreml', '--batch', 'dynamic'], 'coreml has fixed sizes here: onnx'),
        (['--to', 'coreml', '--imgsz', 'dynamic'], 'coreml has fixed sizes here: onnx'),
        (['--to', 'torchscript', '--batch', 'dynamic'], 'torchscript has fixed sizes'),
        (['--to', 'coreml', '--batch', '2'], 'CoreML takes one image at a time'),
        ([*TO, '--efficient-nms'], '--efficient-nms is for --to tensorrt'),
        ([*TO, '-o', 'x.pt'], '-o x.pt: the name must end in .onnx'),
        (['--to', 'openvino', '-o', 'x.xml'], '-o x.xml: .* folder, without a suffix'),
        (['--to', 'coreml', '-o', 'x'], '-o x: the name must end in .mlpackage'),
        (
            [*TO, *NO_DATA],
            'test images of tiny.py cannot be read: .*--pict',
        ),
        (
            [*TO, '--cfg-options', 'model.backbone.arch.depths=[1,2,10,2]'],
            'best.pth: the weights do not fit, and all must',
        ),
        (
            [*TO, '--cfg-options', 'model.test_cfg.nms.type=soft_nms'],
            'model.test_cfg.nms is .*soft_nms.* exported files have dict',
        ),
        (
            [*TO, '--cfg-options', RESIZE + 'type=mmdet.Resize'],
            'tiny.py: the test pipeline has mmdet.Resize; ',
        ),
    ],
)
def test_wrong_arguments(here, monkeypatch, args, message):
    output = run_export(monkeypatch, *args)
    assert re.search(f'export.py: .*{message}', output), output
    assert names(here) == GIVEN


def test_half_and_int8_together(here, monkeypatch, capsys):
    tool = load_tool('export')
    args = ['', 'tiny.py', 'best.pth', '--to', 'onnx', '--half', '--int8']
    monkeypatch.setattr(sys, 'argv', args)
    with pytest.raises(SystemExit):
        tool.main()
    assert '--half or --int8, not both' in capsys.readouterr().err


def test_images_that_cannot_be_read(here, monkeypatch):
    """One is left out, and said; where all are broken nothing is written."""
    mixed = here / 'mixed'
    mixed.mkdir()
    whole = (here / 'wide' / '0.png').read_bytes()
    (mixed / 'broken.png').write_bytes(whole[: len(whole) // 2])
    args = '--to', 'torchscript', '--images', 'mixed'
    output = run_export(monkeypatch, *args)
    assert 'None of the images to compare on can be read' in output
    assert names(here) == GIVEN | {'mixed'}
    (mixed / 'whole.png').write_bytes(whole)
    output = run_export(monkeypatch, *args)
    assert 'left out: ' in output and 'broken.png' in output.replace('\n', '')
    assert 'detections in 1 images' in output


def test_detectors_of_another_kind(here, monkeypatch):
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
    message = call(monkeypatch, 'export', *args)
    assert 'export.py: RetinaHead cannot be exported: the head must be' in message
    assert names(here) == GIVEN | {'retina.py', 'retina.pth'}
