"""Instance segmentation: what is exported, what the runtime makes of it, and torch."""

import json
import pickle
from types import SimpleNamespace

import mmnextvit  # noqa: F401  (first)
from mmnextvit import runtime
from mmnextvit.deploy import onnx as our_onnx
from mmnextvit.deploy.candidates import Candidates
from mmnextvit.deploy.choices import check_detector
from mmnextvit.deploy.exported import to_instances
from mmnextvit.deploy.formats import write
from mmnextvit.deploy.job import Job
from mmnextvit.deploy.metadata import build_metadata, resize_test_pipeline
from mmnextvit.deploy.parity import (
    compare_candidates,
    compare_detections,
    compare_inputs,
    make_batches,
    predict_by_torch,
)
from mmnextvit.predictors import Predictor
from mmnextvit.runtime.slicing import Patch
from mmnextvit.utils.errors import UserError

import cv2
import numpy as np
import pycocotools.mask
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope

from tests.helpers.commands import call_here, run_here
from tests.helpers.letterbox import make_steps
from tests.helpers.lively_detectors import (
    demo_images,
    lively_detector,
    small_masks_config,
)
from tests.helpers.yolov5_data import write_yolo_data
from tests.helpers.yolov5_models import yolov5_model

pytestmark = pytest.mark.deploy
SIZE = 64, 96


@pytest.fixture(scope='module')
def images():
    # One has an odd padding, of which MMYOLO cuts half from each side of a mask.
    return demo_images((40, 110), (90, 71), SIZE)


@pytest.fixture(scope='module')
def network() -> dict:
    """What is converted to ONNX, which takes long."""
    return {}


@pytest.fixture
def whole(network, monkeypatch):
    """Makes a detector that finds masks, and what there is to write of it."""
    build = our_onnx.build_network

    def build_once(candidates, **shape):
        if 'made' not in network:
            network['made'] = build(candidates, **shape)
        return network['made']

    monkeypatch.setattr(our_onnx, 'build_network', build_once)

    def make(smooth: bool, in_graph: bool) -> SimpleNamespace:
        cfg = resize_test_pipeline(small_masks_config(), SIZE)
        cfg.model.test_cfg.update(score_thr=0.2, max_per_img=12, fast_test=smooth)
        model = lively_detector(cfg)
        names = list('abc')
        metadata = build_metadata(
            cfg, model, names, SIZE, batch=None, nms_in_graph=in_graph
        )
        job = Job(Candidates(model), metadata)
        return SimpleNamespace(cfg=cfg, model=model, metadata=metadata, job=job)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    'to, smooth, in_graph',
    [
        ('onnx', True, True),
        ('onnx', False, False),
        ('openvino', False, True),
        ('torchscript', True, True),
        ('torchscript', False, False),
        ('pt2', True, False),
    ],
)
def test_masks_are_those_of_torch(to, smooth, in_graph, whole, images, tmp_path):
    made = whole(smooth, in_graph)
    path = tmp_path / f'model{"" if to == "openvino" else f".{to}"}'
    written = write(to, made.job, path)
    assert written.metadata['masks'] == dict(channels=32, threshold=0.5, smooth=smooth)
    inputs = make_batches(images, made.metadata)
    drift = compare_candidates(written.run, made.model, inputs)
    file = runtime.Detector(path)
    drift += compare_inputs(file.steps, made.cfg, images)
    drift += compare_detections(file, made.model, made.cfg, images, drift)
    assert not drift.list_faults(), drift
    of_masks = {'candidate coefficients', 'candidate prototypes', 'masks'}
    assert of_masks <= drift.largest.keys()

    several = 0
    for ours, theirs, image in zip(
        file.detect(images), predict_by_torch(made.model, made.cfg, images), images
    ):
        masks = ours.masks.to_array()
        assert masks.shape == (len(ours.scores), *image.shape[:2])
        found = to_instances(ours)
        assert found.masks.dtype == torch.bool and found.masks.shape == masks.shape
        if len(ours.scores) == len(theirs.scores):
            own = theirs.masks.numpy()
            assert (masks != own).mean() < 0.005
            several += own.any((1, 2)).sum()
    assert several > 5


@pytest.mark.slow
def test_batches_keep_the_masks(whole, images, tmp_path):
    made = whole(False, True)
    path = tmp_path / 'model.onnx'
    write('onnx', made.job, path)
    given = [*images, images[2], images[0]]
    for detector in (runtime.Detector(path), Predictor(path)):
        together = detector.batch(given, 0.2, batch_size=2)
        assert sum(map(len, together)) > 5
        for objects, image in zip(together, given, strict=True):
            alone = detector(image, 0.2)
            assert objects.names == alone.names
            assert objects.masks.shape == (len(objects), *image.shape[:2])
            assert (objects.masks != alone.masks).mean() < 0.001
            supervised = objects.to_supervision()
            assert (supervised.mask == objects.masks).all()
            assert supervised.data['class_name'].tolist() == objects.names
            coded = [one['segmentation'] for one in objects.to_coco(1)]
            decoded = pycocotools.mask.decode(coded).transpose(2, 0, 1)
            assert (decoded == objects.masks).all()


# ------------------------------------------------------------------- from file to mask


def make_masks(size=(20, 30), **settings) -> runtime.Masks:
    """Two masks of the left and the right half of an image, cropped to their boxes."""
    halves = np.zeros((2, 8, 8), np.float32)
    halves[0, :, :4] = halves[1, :, 4:] = 20
    steps = make_steps((32, 32), keep_ratio=False)
    settings = {'channels': 2, 'threshold': 0.5, 'smooth': False, **settings}
    boxes = np.float32([[0, 0, 32, 32], [0, 8, 32, 16]])
    layout = runtime.lay_out(size, steps)
    coefficients = np.float32([[1, -1], [-1, 1]])
    return runtime.ComputedMasks(coefficients, halves, boxes, layout, settings)


@pytest.mark.parametrize('smooth', [False, True])
def test_masks_in_pixels_polygons_and_run_lengths(smooth):
    masks = make_masks(smooth=smooth)  # 20 x 30, 6 pixels from above, 1 from the left
    first, second = masks.to_array()
    assert len(masks) == 2 and first.shape == (20, 30) and first.dtype == bool
    assert first[:, :15].all() and not first[:, 15:].any()
    assert second[2:10, 15:].all() and second.sum() == 8 * 15
    for mask, rle, polygons in zip(masks, masks.to_rles(), masks.to_polygons()):
        assert json.dumps(rle) and json.dumps(polygons)
        values = np.repeat(np.arange(len(rle['counts'])) % 2, rle['counts'])
        decoded = values.reshape(30, 20).T  # column by column
        assert (decoded == mask).all()
        (polygon,) = polygons
        x, y = np.reshape(polygon, (-1, 2)).T
        area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
        assert area == mask.sum()
    high = make_masks(smooth=smooth, threshold=1.0).to_array()
    assert not high.any() and runtime.outline_mask(high[0]) == []


def make_patched_masks() -> runtime.PatchedMasks:
    """Three masks, of which the last one has no pixels."""
    pixels = np.ones((2, 3), bool)
    patches = [[Patch(1, 2, pixels)], [Patch(5, 4, pixels)], []]
    return runtime.PatchedMasks((20, 30), patches)


@pytest.mark.parametrize('make', [make_masks, make_patched_masks])
def test_masks_are_selected_as_rows_of_an_array(make):
    masks = make()
    array, count = masks.to_array(), len(masks)
    chosen = np.arange(count) == 1
    for index in (
        *(np.array([0]), np.array([1, 0, 1]), [-1], chosen, chosen.tolist()),
        *(~chosen, np.zeros(count, bool), [], slice(1, None), slice(None, None, -1)),
        *(torch.tensor([1, 0]), torch.from_numpy(chosen)),
    ):
        some = masks[index]
        assert isinstance(some, type(masks)) and some.size == masks.size
        own = np.asarray(index) if isinstance(index, torch.Tensor) else index
        assert (some.to_array() == array[own]).all()
        assert len(some.to_polygons()) == len(array[own])
    for index in (0, -1, -count, np.int64(1), np.array(1)):
        assert (masks[index] == array[index]).all()
    for index in (count, -count - 1, [count], np.ones(count + 1, bool), 1.0, [[0, 1]]):
        with pytest.raises(IndexError):
            masks[index]


def test_masks_stay_when_other_arrays_are_replaced():
    found = runtime.Detections(np.zeros((2, 4)), np.ones(2), np.zeros(2), make_masks())
    boxes = np.ones((2, 4))
    other = found._replace(boxes=boxes)
    assert other.masks is found.masks and other.boxes is boxes
    one = found.masks[:1]
    assert found._replace(masks=one).masks is one
    with pytest.raises((TypeError, ValueError), match='mask'):
        found._replace(mask=one)
    assert pickle.loads(pickle.dumps(found)).masks.to_array().shape == (2, 20, 30)


def test_run_lengths_begin_with_what_is_off():
    mask = np.array([[1, 0], [1, 1]], bool)
    assert runtime.encode_mask(mask) == {'size': [2, 2], 'counts': [0, 2, 1, 1]}
    assert runtime.encode_mask(~mask) == {'size': [2, 2], 'counts': [2, 1, 1]}


def test_detections_are_a_tuple_of_arrays_that_have_masks():
    arrays = np.zeros((2, 4)), np.ones(2), np.zeros(2, int)
    found = runtime.Detections(*arrays, make_masks())
    boxes, scores, labels = found
    assert boxes is arrays[0] and len(found.masks) == 2
    assert runtime.Detections(*arrays).masks is None
    objects = runtime.Objects(*found, ['a'], found.masks.to_array())
    assert 'polygons' not in objects[0]
    assert [len(one['polygons']) for one in objects.add_polygons()] == [1, 1]
    plain = runtime.Objects(*arrays, ['a'])
    assert plain.add_polygons() == list(plain)
    drawn = runtime.draw_objects(np.zeros((20, 30, 3), np.uint8), objects)
    assert drawn.shape == (20, 30, 3) and (drawn[:, 25] > 0).any()


OUTPUTS = {
    'boxes': np.zeros((1, 5, 4), np.float32),
    'scores': np.zeros((1, 5, 2), np.float32),
    'coefficients': np.zeros((1, 5, 8), np.float32),
    'prototypes': np.zeros((1, 8, 4, 4), np.float32),
}


@pytest.mark.parametrize(
    'changed, message',
    [
        (dict(prototypes=None), "it has no output 'prototypes'"),
        (
            dict(coefficients=OUTPUTS['coefficients'][:, :4]),
            r"'coefficients' has .*5, 8",
        ),
        (
            dict(prototypes=OUTPUTS['prototypes'][:, :4]),
            r"'prototypes' has .*1, 8, h, w",
        ),
        (
            dict(coefficients=np.nan * OUTPUTS['coefficients']),
            'coefficients are not all',
        ),
    ],
)
def test_outputs_that_make_no_masks(changed, message):
    runtime.check_outputs(OUTPUTS, 1, 2, False, 8)
    outputs = {k: v for k, v in (OUTPUTS | changed).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        runtime.check_outputs(outputs, 1, 2, False, 8)


@pytest.mark.parametrize('to', ['tensorrt', 'coreml'])
def test_formats_without_masks(to):
    head = torch.nn.Module()
    head.head_module = torch.nn.Module()
    head.head_module.mask_channels = 32
    detector = torch.nn.Module()
    detector.bbox_head = head
    with pytest.raises(UserError, match=f'{to} has no masks here.*onnx, openvino'):
        check_detector(to, detector)
    check_detector('onnx', detector)


# ------------------------------------------------------------------------- by commands


@pytest.mark.slow
def test_an_imported_segment_model_by_commands(tmp_path, capfd):
    data = write_yolo_data(tmp_path / 'data')
    content = yolov5_model('n', head=('Segment', ['nc', 'anchors', 32, 256]), nc=3)
    content |= dict(depth_multiple=0.1, width_multiple=0.125)  # a block each
    (tmp_path / 'seg.yaml').write_text(yaml.safe_dump(content))

    def run(command, *args):
        return run_here(command, *args, cwd=tmp_path, capfd=capfd)

    run('import_yolov5', 'seg.yaml', '--data', data, '--imgsz', 64, '-o', 'seg.py')
    init_default_scope('mmyolo')
    cfg = Config.fromfile(tmp_path / 'seg.py')
    images = data.parent / 'images' / 'val'
    like = [cv2.imread(str(path)) for path in sorted(images.iterdir())]
    model = lively_detector(cfg, images=like)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'best.pth')
    printed = run('export', 'seg.py', 'best.pth', '--to', 'onnx')
    assert 'masks ' in printed and 'Compared with torch' in printed

    found = {}
    for file in ('best.pth', 'best.onnx'):
        out = file.replace('.', '_')
        options = (
            '--out-dir',
            out,
            '--score-thr',
            0.3,
            '--square',
            '--save-labels',
            'coco',
        )
        run('predict', 'seg.py', file, images, *options)
        entries = json.loads((tmp_path / out / 'predictions.json').read_text())
        found[file] = entries['predictions']
    for theirs, ours in zip(*found.values(), strict=True):
        assert len(ours['objects']) == len(theirs['objects']) > 0
        for a, b in zip(theirs['objects'], ours['objects']):
            assert a['class'] == b['class']
            assert a['polygons'] == b['polygons']
    numbers = call_here('test', 'seg.py', 'best.onnx', cwd=tmp_path)
    by_torch = call_here('test', 'seg.py', 'best.pth', cwd=tmp_path)
    assert {'coco/segm_mAP', 'coco/segm_mAP_50'} <= numbers.keys()
    assert by_torch.keys() >= numbers.keys()

    names = [str(path) for path in sorted(images.iterdir())]
    drawings = tmp_path / 'drawings'
    arguments = [
        '--square',
        '--draw',
        str(drawings),
        str(tmp_path / 'best.onnx'),
        *names,
    ]
    capfd.readouterr()
    assert runtime.main(arguments) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert len(lines) == len(names)
    for line, entry in zip(lines, found['best.onnx']):
        assert [o['polygons'] for o in line['objects']] == [
            o['polygons'] for o in entry['objects']
        ]
        assert cv2.imread(line['drawn']).shape == (64, 64, 3)
