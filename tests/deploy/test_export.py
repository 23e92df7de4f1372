"""What is written in each format, compared with torch; and every shipped config."""

import json
import sys
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import mmnextvit  # noqa: F401  (first)
from mmnextvit.deploy import coreml as our_coreml
from mmnextvit.deploy.candidates import Candidates
from mmnextvit.deploy.formats import write
from mmnextvit.deploy.job import Job
from mmnextvit.deploy.metadata import build_metadata, resize_test_pipeline
from mmnextvit.deploy.onnx import (
    OPSET,
    add_nms,
    build_network,
    leave_nms_out,
    read_metadata,
    run_by_onnxruntime,
)
from mmnextvit.deploy.parity import (
    Drift,
    compare_candidates,
    compare_detections,
    compare_inputs,
    make_batches,
)
from mmnextvit.deploy.tensorrt import build_engine, check_operators, format_trtexec
from mmnextvit.deploy.torchscript import suppress
from mmnextvit.runtime import Detector

import coremltools
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmyolo.models.dense_heads import YOLOv5Head
from mmyolo.registry import MODELS
from onnx.parser import parse_model
from torch import nn
from torchvision.ops import batched_nms

from tests.conftest import ROOT
from tests.helpers.lively_detectors import (
    as_input,
    demo_images,
    lively_detector,
    small_config,
)

pytestmark = pytest.mark.deploy

SIZE = 64, 96
NMS = dict(score_thr=0.05, iou_threshold=0.5, max_per_img=50, in_graph=True)


def is_yolo(path: Path) -> bool:
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    head = cfg.model.get('bbox_head')  # two-stage detectors have none here
    head_type = head and MODELS.get(head.type)  # None where it is MMDetection's
    return bool(head_type) and issubclass(head_type, YOLOv5Head)


CONFIGS = [p.stem for p in sorted((ROOT / 'configs').glob('*.py')) if is_yolo(p)]


@pytest.fixture(scope='module')
def images() -> list[np.ndarray]:
    """One that is letterboxed above and below, one at the sides, one that fits."""
    return demo_images((40, 110), (90, 70), SIZE)


@dataclass
class Exported:
    """A detector and what there is to write of it."""

    cfg: Config
    model: nn.Module
    metadata: dict

    @cached_property
    def job(self) -> Job:
        job = Job(Candidates(self.model), self.metadata)
        ALL[job.candidates] = self
        return job

    @cached_property
    def network(self):
        return build_network(self.job.candidates, **self.job.shape)

    def drift(self, run, path, images) -> Drift:
        inputs = make_batches(images, self.metadata)
        drift = compare_candidates(run, self.model, inputs)
        return drift + self.detections_drift(Detector(path), images, rounding=drift)

    def detections_drift(self, detector, images, size=SIZE, rounding=None) -> Drift:
        cfg = resize_test_pipeline(self.cfg, size)
        rounding = rounding or Drift()
        return compare_inputs(detector.steps, cfg, images) + compare_detections(
            detector, self.model, cfg, images, rounding
        )


ALL: dict[nn.Module, Exported] = {}  # by their candidates
# Most take one image at a time.
SHAPES = {
    'yolov5_nextvit_b': dict(batch=None, dynamic_size=True),
    'yolov5_nextvit_s_bccd': dict(batch=2),
    'yolov5_nextvit_s_demo': dict(batch=None),
}


@cache
def model_of(name: str) -> str:
    return str(small_config(name).model)


@cache
def to_export(name: str) -> Exported:
    """A config's detector with a small backbone, which makes some configs equal."""
    first = next(c for c in CONFIGS if model_of(c) == model_of(name))
    if first != name:
        return to_export(first)
    cfg = resize_test_pipeline(small_config(name), SIZE)
    cfg.model.test_cfg.update(score_thr=0.05, max_per_img=100)
    model = lively_detector(cfg)
    labels = [f'class {i}' for i in range(model.bbox_head.num_classes)]
    metadata = build_metadata(cfg, model, labels, SIZE, **SHAPES.get(name, {}))
    return Exported(cfg, model, metadata)


@pytest.fixture(autouse=True)
def written_once(monkeypatch):
    """Converting to ONNX is what takes the time."""

    def network(candidates, **shape):
        assert shape == ALL[candidates].job.shape
        return ALL[candidates].network

    monkeypatch.setattr('mmnextvit.deploy.onnx.build_network', network)


def assert_close(outputs, wanted):
    """Boxes to a hundredth of a pixel, scores to 1e-4."""
    for ours, theirs, limit in zip(outputs, wanted, (0.01, 1e-4), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() < limit


# ------------------------------------------------------------------ every config


def test_configs_are_found():
    assert {'yolov5_nextvit_s', 'yolov8_nextvit_s', 'rtmdet_nextvit_s'} <= {*CONFIGS}
    assert len(CONFIGS) >= 11 and not [c for c in CONFIGS if c.startswith('mask_rcnn')]


@pytest.mark.slow
def test_every_arch_and_head_is_there():
    """Configs that are equal but for the backbone share what is written."""
    assert {to_export(c).model.bbox_head.__class__.__name__ for c in CONFIGS} == {
        'YOLOv5Head',
        'YOLOv8Head',
        'RTMDetHead',
    }
    assert len({id(to_export(c)) for c in CONFIGS}) >= 7


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_every_config(name, images, tmp_path):
    """Its neck and head as they are, in ONNX with NMS, gives what MMYOLO finds."""
    whole, path = to_export(name), tmp_path / 'model.onnx'
    written = write('onnx', whole.job, path)
    assert written.metadata == whole.metadata and not written.float_layers
    drift = whole.drift(written.run, path, images)
    assert not drift.list_faults(), drift
    assert drift.images == 3 and drift.detections > 10
    compared = {'candidate boxes', 'candidate scores', 'boxes', 'scores'}
    assert compared <= drift.largest.keys()
    check_operators(onnx.load(path))


# -------------------------------------------------------------------------- sizes


@pytest.fixture(scope='module')
def static() -> Exported:
    """Three classes, two images at a time."""
    return to_export('yolov5_nextvit_s_bccd')


@pytest.fixture(scope='module')
def dynamic() -> Exported:
    """80 classes, any number of images of any size."""
    return to_export('yolov5_nextvit_b')


def shape_of(value) -> list:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.mark.slow
def test_one_file_at_several_sizes(dynamic):
    run, candidates = run_by_onnxruntime(dynamic.network), dynamic.job.candidates
    graph = dynamic.network.graph
    assert shape_of(graph.input[0]) == ['batch', 3, 'height', 'width']
    boxes, scores = map(shape_of, graph.output)
    assert boxes == ['batch', 'N', 4] and scores == ['batch', 'N', 80]
    for batch, size in [(1, (64, 64)), (3, (96, 64)), (2, (64, 160)), (1, (128, 128))]:
        images = as_input(demo_images(*[size] * batch))
        with torch.no_grad():
            wanted = candidates(images)
        assert wanted[0].shape == (batch, size[0] * size[1] // 64 * 3 * 21 // 16, 4)
        assert_close(run(images.numpy()), wanted)


@pytest.mark.slow
def test_any_number_of_images():
    """Of a fixed size."""
    whole = to_export('yolov5_nextvit_s_demo')
    assert shape_of(whole.network.graph.input[0]) == ['batch', 3, *SIZE]
    boxes, scores = map(shape_of, whole.network.graph.output)
    assert boxes == ['batch', 378, 4] and scores == ['batch', 378, 3]
    run = run_by_onnxruntime(whole.network)
    for batch in (1, 3):
        images = as_input(demo_images(*[SIZE] * batch))
        with torch.no_grad():
            assert_close(run(images.numpy()), whole.job.candidates(images))


@pytest.mark.slow
def test_dynamic_file_with_nms(dynamic, images, tmp_path):
    """Its detector at its own size and at another, as MMYOLO at that size."""
    path = tmp_path / 'model.onnx'
    write('onnx', dynamic.job, path)
    other = 128, 64
    drift = dynamic.detections_drift(Detector(path), images)
    drift += dynamic.detections_drift(Detector(path, imgsz=other), images, other)
    assert not drift.list_faults() and drift.images == 6 and drift.detections > 10, (
        drift
    )


@pytest.mark.slow
def test_two_images_at_a_time(static, images, tmp_path):
    path = tmp_path / 'model.onnx'
    write('onnx', static.job, path)
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == [2, 3, *SIZE]
    shapes = {o.name: (o.shape, o.type) for o in session.get_outputs()}
    assert shapes == {
        'num_detections': ([2, 1], 'tensor(int32)'),
        'boxes': ([2, 100, 4], 'tensor(float)'),
        'scores': ([2, 100], 'tensor(float)'),
        'labels': ([2, 100], 'tensor(int32)'),
    }
    run = run_by_onnxruntime(static.network)
    drift = static.drift(run, path, images)
    assert not drift.list_faults() and drift.detections > 10, drift
    # the third image is alone in its batch
    together = Detector(path).detect(images)
    for image, detections in zip(images, together):
        (alone,) = Detector(path).detect([image])
        assert_close(detections[:2], alone[:2])


@pytest.mark.slow
def test_file_by_itself(static, tmp_path):
    """Opset, metadata and checks, by nothing but onnx."""
    path = tmp_path / 'model.onnx'
    write('onnx', static.job, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    opsets = {o.domain: o.version for o in model.opset_import}
    assert opsets[''] >= OPSET == 18 and not set(opsets) - {''}
    (entry,) = model.metadata_props
    assert entry.key == 'mmnextvit' and json.loads(entry.value) == static.metadata
    assert read_metadata(path) == static.metadata
    assert static.metadata['classes'] == ['class 0', 'class 1', 'class 2']
    assert model.producer_name == 'mmnextvit'
    types = [n.op_type for n in model.graph.node]
    assert 'BatchNormalization' not in types and 'NonMaxSuppression' in types
    assert [i.name for i in model.graph.input] == ['images']
    assert not static.network.metadata_props  # the network itself is left as it is

    plain = leave_nms_out(static.network)
    assert [o.name for o in plain.graph.output] == ['boxes', 'scores']
    images = as_input(demo_images(SIZE, SIZE)).numpy()
    wanted = run_by_onnxruntime(static.network)(images)
    assert_close(run_by_onnxruntime(plain)(images), wanted)


# ------------------------------------------------------------ non-maximum suppression

THROUGH = """
    <ir_version: 10, opset_import: ["" : 18]>
    net (float[B,N,4] given_boxes, float[B,N,C] given_scores) => (
        float[B,N,4] candidate_boxes, float[B,N,C] candidate_scores) {
        candidate_boxes = Identity (given_boxes)
        candidate_scores = Identity (given_scores)
    }
"""


def suppressed_by_onnx(boxes, scores, nms) -> list[np.ndarray]:
    model = add_nms(parse_model(THROUGH), nms)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    given = dict(given_boxes=boxes.numpy(), given_scores=scores.numpy())
    return session.run(None, given)


def suppressed_by_torchscript(boxes, scores, nms) -> list[np.ndarray]:
    limits = nms['score_thr'], nms['iou_threshold'], nms['max_per_img']
    return [x.numpy() for x in torch.jit.script(suppress)(boxes, scores, *limits)]


SUPPRESS = [suppressed_by_onnx, suppressed_by_torchscript]


def candidates_at_random(batch, count, classes):
    g = torch.Generator().manual_seed(0)
    start = 80 * torch.rand(batch, count, 2, generator=g)
    boxes = torch.cat((start, start + 30 * torch.rand(start.shape, generator=g)), 2)
    scores = torch.rand(batch, count, classes, generator=g) ** 2
    scores[1] *= 0.1  # few of the second image, none of the third
    scores[2] *= 0.04
    return boxes, scores


@pytest.mark.parametrize('run', SUPPRESS)
@pytest.mark.parametrize('limit', [7, 400])
def test_nms_is_torchvisions(run, limit):
    boxes, scores = candidates_at_random(3, 60, 5)
    nms = dict(NMS, max_per_img=limit)
    numbers, out_boxes, out_scores, out_labels = run(boxes, scores, nms)
    assert numbers.dtype == out_labels.dtype == np.int32
    assert out_boxes.dtype == out_scores.dtype == np.float32
    assert numbers.shape == (3, 1) and out_boxes.shape == (3, limit, 4)
    assert out_scores.shape == out_labels.shape == (3, limit)
    for i in range(3):
        rows, labels = (scores[i] > nms['score_thr']).nonzero(as_tuple=True)
        passing = scores[i, rows, labels]
        keep = batched_nms(boxes[i, rows], passing, labels, nms['iou_threshold'])
        assert i > 0 or len(keep) < len(passing)  # something is suppressed
        keep = keep[:limit]
        n = int(numbers[i, 0])
        assert n == len(keep)
        assert np.array_equal(out_boxes[i, :n], boxes[i, rows[keep]])
        assert np.array_equal(out_scores[i, :n], passing[keep])
        assert np.array_equal(out_labels[i, :n], labels[keep])
        assert not out_boxes[i, n:].any() and not out_scores[i, n:].any()
        assert (out_labels[i, n:] == -1).all()
    assert numbers.flatten().tolist() == [limit, limit, 0] if limit == 7 else True
    assert limit == 7 or 0 < numbers[1] < numbers[0] < limit


@pytest.mark.parametrize('run', SUPPRESS)
def test_nms_at_the_thresholds(run):
    """A score equal to its threshold is left out, an overlap equal to its stays."""
    boxes = torch.tensor(
        [[[0, 0, 10, 10], [0, 0, 10, 5], [50, 0, 60, 10], [80, 0, 90, 9]]]
    ).float()
    above = np.nextafter(np.float32(0.25), np.float32(1))
    scores = torch.tensor([[[0.9], [0.8], [0.25], [above]]])
    nms = dict(score_thr=0.25, iou_threshold=0.5, max_per_img=4)
    numbers, out_boxes, out_scores, _ = run(boxes, scores, nms)
    assert numbers.tolist() == [[3]]
    assert out_scores[0, :3].tolist() == [np.float32(0.9), np.float32(0.8), above]
    assert out_boxes[0, 2].tolist() == [80, 0, 90, 9]
    numbers, _, out_scores, _ = run(boxes, scores, dict(nms, iou_threshold=0.49))
    assert numbers.tolist() == [[2]] and out_scores[0, 1] == above


@pytest.mark.parametrize('run', SUPPRESS)
def test_nms_with_a_tiny_threshold(run):
    """Python writes it as 1e-05."""
    boxes = torch.tensor([[[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]]]).float()
    scores = torch.tensor([[[2e-5], [0.9e-5], [0.5]]])
    nms = dict(score_thr=0.00001, iou_threshold=0.5, max_per_img=4)
    numbers, _, out_scores, _ = run(boxes, scores, nms)
    assert numbers.tolist() == [[2]]
    assert out_scores[0, :2].tolist() == [0.5, np.float32(2e-5)]


@pytest.mark.parametrize('run', SUPPRESS)
def test_nms_of_nothing(run):
    boxes, scores = torch.ones(2, 9, 4), torch.zeros(2, 9, 3)
    numbers, out_boxes, out_scores, labels = run(boxes, scores, NMS)
    assert not numbers.any() and not out_boxes.any() and not out_scores.any()
    assert (labels == -1).all() and labels.shape == (2, 50)


# ----------------------------------------------------------------------- TensorRT


@pytest.mark.slow
def test_efficient_nms(static, tmp_path):
    path = tmp_path / 'model.onnx'
    write('tensorrt', replace(static.job, efficient_nms=True), path)
    model = onnx.load(path)
    assert [(o.domain, o.version) for o in model.opset_import] == [('', 18), ('TRT', 1)]
    (node,) = (n for n in model.graph.node if n.domain)
    assert node.op_type == 'EfficientNMS_TRT' and node.domain == 'TRT'
    assert list(node.input) == ['candidate_boxes', 'candidate_scores']
    assert [o.name for o in model.graph.output] == list(node.output)
    assert list(node.output) == ['num_detections', 'boxes', 'scores', 'labels']
    assert [shape_of(o) for o in model.graph.output] == [
        [2, 1],
        [2, 100, 4],
        [2, 100],
        [2, 100],
    ]
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert given == {
        'plugin_version': b'1',
        'background_class': -1,
        'box_coding': 0,  # corners
        'score_activation': 0,  # they are scores
        'class_agnostic': 0,
        'max_output_boxes': 100,
        'score_threshold': pytest.approx(0.05),
        'iou_threshold': pytest.approx(static.metadata['nms']['iou_threshold']),
    }


NET = '<ir_version: 10, opset_import: ["" : 18]> net (float[1,3,N] x{}) => (float[] y)'


@pytest.mark.parametrize(
    'body, more, message',
    [
        ('y = Hardmax (x)', '', 'does not take Hardmax: choose another'),
        (
            'y = AveragePool <kernel_shape = [4], strides = [4]> (x)',
            '',
            'AveragePool in one dimension',
        ),
        ('y, i = TopK (x, k)', ', int64[1] k', 'TopK of a number that is not constant'),
        ('k = Constant <value = int64[1] {2}> () y, i = TopK (x, k)', '', None),
        ('y = Unsqueeze (x, k)', ', int64[1] k', 'Unsqueeze of an axis that is not'),
        (
            'y = NonMaxSuppression (x, s, k)',
            ', float[1,2,N] s, int64[1] k',
            'NonMaxSuppression of a limit that is not constant',
        ),
        ('z = Cast <to = 11> (x) y = Cast <to = 1> (z)', '', r'take DOUBLE \(z\)'),
        (
            'y = Resize <mode = "cubic"> (x, r, r)',
            ', float[0] r',
            'Resize with mode cubic',
        ),
        ('y = Resize <mode = "nearest"> (x, r, s)', ', float[0] r, float[3] s', None),
        ('y = Softmax (x)', '', None),
    ],
)
def test_what_tensorrt_takes(body, more, message):
    model = parse_model(f'{NET.format(more)} {{ {body} }}')
    if message is None:
        check_operators(model)
        return
    with pytest.raises(ValueError, match=message):
        check_operators(model)


def test_trtexec_line(static, dynamic):
    path = Path('a folder/model.onnx')
    line = format_trtexec(path, static.metadata)
    assert line == (
        "trtexec '--onnx=a folder/model.onnx' '--saveEngine=a folder/model.engine' "
        '--stronglyTyped'
    )
    line = format_trtexec(path, dynamic.metadata).removeprefix(line)
    assert line == (
        ' --minShapes=images:1x3x64x64 --optShapes=images:1x3x64x96 '
        '--maxShapes=images:16x3x64x96'
    )


class FakeTensorRT:
    """TensorRT's builder, as far as we call it; it notes what it is told."""

    def __init__(self, errors=(), content=b'engine'):
        self.seen = {}
        self.Logger = Mock(ERROR=1)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE=0)
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=4)
        self.errors, self.content = errors, content

    def init_libnvinfer_plugins(self, logger, namespace):
        self.seen['plugins'] = namespace

    def Builder(self, logger):
        return SimpleNamespace(
            create_network=lambda flags: self.seen.update(flags=flags),
            create_builder_config=lambda: SimpleNamespace(
                set_memory_pool_limit=lambda pool, size: None,
                add_optimization_profile=lambda profile: None,
            ),
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda *shapes: self.seen.update(shapes=shapes)
            ),
            build_serialized_network=lambda network, config: self.content,
        )

    def OnnxParser(self, network, logger):
        return SimpleNamespace(
            parse=lambda content: not self.errors,
            num_errors=len(self.errors),
            get_error=lambda i: self.errors[i],
        )


def test_building_an_engine(static, dynamic, tmp_path, monkeypatch):
    """What TensorRT is told, without it: types of the file, plugins, shapes, errors."""
    path, engine = tmp_path / 'model.onnx', tmp_path / 'model.engine'
    path.write_bytes(b'')

    def build(metadata, **fake):
        trt = FakeTensorRT(**fake)
        monkeypatch.setitem(sys.modules, 'tensorrt', trt)
        build_engine(path, engine, metadata)
        return trt.seen

    message = 'model.onnx: TensorRT does not read it: no such operator; bad shape'
    with pytest.raises(ValueError, match=message):
        build(static.metadata, errors=('no such operator', 'bad shape'))
    with pytest.raises(ValueError, match='TensorRT builds no engine of it'):
        build(static.metadata, content=None)
    assert not engine.exists()
    assert build(static.metadata) == dict(plugins='', flags=1 << 4)
    assert engine.read_bytes() == b'engine'
    shapes = 'images', (1, 3, 64, 64), (1, 3, 64, 96), (16, 3, 64, 96)
    assert build(dynamic.metadata)['shapes'] == shapes


# ------------------------------------------------------------------ other formats


@pytest.mark.slow
def test_openvino(static, images, tmp_path):
    """As torch, its candidates as ONNX's; in half precision it has half the bytes."""
    inputs = as_input(demo_images(SIZE, SIZE)).numpy()
    folder, plain = tmp_path / 'whole', tmp_path / 'plain'
    written = write('openvino', static.job, folder)
    assert {p.name for p in folder.iterdir()} == {'model.xml', 'model.bin'}
    assert written.metadata == static.metadata
    drift = static.drift(written.run, folder, images)
    assert not drift.list_faults() and drift.detections > 10, drift
    wanted = run_by_onnxruntime(static.network)(inputs)
    assert_close(written.run(inputs), wanted)

    nms = dict(static.metadata['nms'], in_graph=False)
    metadata = dict(static.metadata, precision='half', nms=nms)
    write('openvino', replace(static.job, metadata=metadata), plain)
    sizes = [(f / 'model.bin').stat().st_size for f in (plain, folder)]
    assert sizes[0] < 0.6 * sizes[1]
    outputs = Detector(plain).session.run(inputs)
    assert outputs.keys() == {'boxes', 'scores'}
    assert outputs['boxes'].shape == (2, 378, 4)
    assert 0 < np.abs(outputs['scores'] - wanted[1]).max() < 0.1


@pytest.mark.slow
def test_openvino_of_any_size(dynamic, images, tmp_path):
    write('openvino', dynamic.job, tmp_path / 'any')
    other = 128, 64
    detector = Detector(tmp_path / 'any', imgsz=other)
    assert detector.metadata == dynamic.metadata
    drift = dynamic.detections_drift(detector, images, other)
    assert not drift.list_faults() and drift.detections > 10, drift


def test_torchscript(static, images, tmp_path):
    path = tmp_path / 'model.torchscript'
    written = write('torchscript', static.job, path)
    assert written.metadata == static.metadata
    drift = static.drift(written.run, path, images)
    assert not drift.list_faults() and drift.detections > 10, drift
    files = {'mmnextvit.json': ''}
    torch.jit.load(path, _extra_files=files)
    assert json.loads(files['mmnextvit.json']) == static.metadata


# ------------------------------------------------------------------------- CoreML


class Grid(nn.Module):
    """A network that is quickly converted: boxes and scores by one convolution."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4 + 3, 16, 16)

    def forward(self, images):
        rows = self.conv(images / 255).flatten(2).transpose(1, 2)  # B N 7
        return rows[..., :4], rows[..., 4:].sigmoid()


@pytest.fixture(scope='module')
def coreml(static, tmp_path_factory):
    """A detector with NMS in float32, and a small network without in half."""
    folder = tmp_path_factory.mktemp('coreml')
    metadata = dict(static.metadata, input=dict(static.metadata['input'], batch=1))
    job = replace(static.job, metadata=metadata)
    written = write('coreml', job, folder / 'nms.mlpackage')
    nms = dict(metadata['nms'], in_graph=False)
    plain = dict(metadata, precision='half', nms=nms)
    write('coreml', Job(Grid(), plain), folder / 'half.mlpackage')
    return metadata, folder, written


def spec_of(path):
    return coremltools.models.MLModel(str(path), skip_model_load=True).get_spec()


@pytest.mark.slow
def test_coreml_pipeline(coreml):
    metadata, folder, _ = coreml
    spec = spec_of(folder / 'nms.mlpackage')
    network, nms = spec.pipeline.models
    assert network.WhichOneof('Type') == 'mlProgram'
    assert spec.specificationVersion >= 7  # of iOS 16
    (image,) = spec.description.input
    assert image.name == 'images'
    image_type = image.type.imageType
    assert (image_type.height, image_type.width) == SIZE
    assert image_type.colorSpace == image_type.ColorSpace.Value('RGB')
    assert {o.name for o in spec.description.output} == {'coordinates', 'confidence'}
    layer = nms.nonMaximumSuppression
    assert layer.iouThreshold == pytest.approx(metadata['nms']['iou_threshold'])
    assert layer.confidenceThreshold == pytest.approx(0.05)
    assert layer.pickTop.perClass
    assert [*layer.stringClassLabels.vector] == metadata['classes']
    assert {layer.coordinatesInputFeatureName, layer.confidenceInputFeatureName} == {
        o.name for o in network.description.output
    }
    stored = spec.description.metadata.userDefined['mmnextvit']
    assert json.loads(stored) == metadata


def float_types(spec) -> set[int]:
    """Types of the floats that a program's convolutions give."""
    (function,) = spec.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    return {
        op.outputs[0].type.tensorType.dataType
        for op in block.operations
        if op.type == 'conv'
    }


@pytest.mark.slow
def test_coreml_network(coreml):
    """Fixed candidates: (24, 4) and (24, 3), in the precision that was asked for."""
    _, folder, _ = coreml
    half, whole = spec_of(folder / 'half.mlpackage'), spec_of(folder / 'nms.mlpackage')
    assert half.WhichOneof('Type') == 'mlProgram'
    shapes = {o.name: [*o.type.multiArrayType.shape] for o in half.description.output}
    assert shapes == {'coordinates': [24, 4], 'confidence': [24, 3]}
    FLOAT16, FLOAT32 = 10, 11  # in MIL.proto
    assert float_types(half) == {FLOAT16}
    assert float_types(whole.pipeline.models[0]) == {FLOAT32}
    image_type = half.description.input[0].type.imageType
    assert (image_type.height, image_type.width) == SIZE
    assert json.loads(half.description.metadata.userDefined['mmnextvit'])['nms'] == {
        **coreml[0]['nms'],
        'in_graph': False,
    }


def test_boxes_as_coreml_has_them(static):
    """Centre, width and height in parts of an image that is not square."""
    candidates = static.job.candidates
    images = as_input(demo_images(SIZE))
    with torch.no_grad():
        boxes, scores = candidates(images)
        coordinates, confidence = our_coreml.ForCoreML(candidates, [*SIZE])(images)
    x, y, w, h = (coordinates * torch.tensor([96, 64, 96, 64])).T
    corners = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), 1)
    assert torch.allclose(corners, boxes[0], atol=1e-3)
    assert torch.equal(confidence, scores[0])


@pytest.mark.slow
def test_coreml_network_by_torch(static, coreml, images):
    """What is converted is run by torch, in place of the file."""
    metadata, _, written = coreml
    assert written.metadata == metadata
    inputs = list(make_batches(images, metadata))
    drift = compare_candidates(written.run, static.model, inputs)
    assert not drift.list_faults() and drift.largest['candidate scores'] > 0, drift


@pytest.mark.slow
def test_a_coreml_file_that_is_another(coreml):
    """The check reads the file again: other classes, size or stages are refused."""
    metadata, folder, _ = coreml
    path = folder / 'nms.mlpackage'
    our_coreml.check_specification(path, metadata)
    for other in (
        dict(metadata, classes=['a', 'b', 'c']),
        dict(metadata, input=dict(metadata['input'], size=[96, 64])),
        dict(metadata, nms=dict(metadata['nms'], in_graph=False)),
    ):
        with pytest.raises(ValueError, match='nms.mlpackage: the specification is'):
            our_coreml.check_specification(path, other)


@pytest.mark.slow
def test_coreml_labels_in_another_order(coreml, tmp_path):
    """Those of its NMS, where the metadata are right."""
    metadata, folder, _ = coreml
    model = coremltools.models.MLModel(
        str(folder / 'nms.mlpackage'), skip_model_load=True
    )
    spec = model.get_spec()
    labels = spec.pipeline.models[1].nonMaximumSuppression.stringClassLabels.vector
    labels[:] = labels[::-1]
    other = coremltools.models.MLModel(
        spec, weights_dir=model.weights_dir, skip_model_load=True
    )
    other.save(str(tmp_path / 'other.mlpackage'))
    with pytest.raises(ValueError, match="'class 2', 'class 1', 'class 0'"):
        our_coreml.check_specification(tmp_path / 'other.mlpackage', metadata)
