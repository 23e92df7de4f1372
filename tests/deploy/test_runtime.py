"""The deployment runtime, on small files of its kinds that are written here."""

import ctypes
import gc
import io
import json
import os
import re
import signal
import subprocess
import sys
import zlib
from functools import partial
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from shutil import copytree, ignore_patterns

import mmnextvit  # noqa: F401  (first)
from mmnextvit.datasets.images import read_image
from mmnextvit.runtime import (
    Detector,
    DetectorError,
    ImageError,
    MissingModelError,
    ModelFileError,
    OptionError,
    decode,
    has_end,
    lay_out,
    main,
    read,
    read_stated_size,
    resize,
    stack,
    suppress,
    to_image,
)

import cv2
import mmcv
import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from mmyolo.datasets.transforms import LetterResize, YOLOv5KeepRatioResize
from PIL import Image
from torchvision.ops import batched_nms

from tests.conftest import ROOT
from tests.helpers.full_disk import limit_file_size
from tests.helpers.toy_exports import (
    BOXES,
    CLASSES,
    SCORES,
    WRITERS,
    metadata,
    replace_metadata,
    steps,
    write_onnx,
    write_openvino,
)
from tests.helpers.wheel import build_wheel, environment, install, run

pytestmark = pytest.mark.deploy


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Writes the toy detector in one of the formats, with the given metadata."""
    return partial(WRITERS[request.param], tmp_path / request.param)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels)
    return np.random.default_rng(height).integers(0, 256, shape, np.uint8)


def grey(value: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


# ------------------------------------------------------------------------- layout


def mmyolo_layout(image, scale, keep_ratio, scale_up, mini_pad) -> dict:
    results = {'img': image, 'img_shape': image.shape[:2]}
    if keep_ratio:
        results = YOLOv5KeepRatioResize(scale=scale)(results)
    letterbox = LetterResize(
        scale=scale,
        allow_scale_up=scale_up,
        use_mini_pad=mini_pad,
        pad_val=dict(img=114),
    )
    return letterbox(results)


SIZES = [(h, w) for h in (1, 7, 31, 64, 65, 97, 200) for w in (1, 9, 64, 95, 128, 333)]


@pytest.mark.parametrize('mini_pad', [False, True])
@pytest.mark.parametrize('scale_up', [False, True])
@pytest.mark.parametrize('keep_ratio', [False, True])
@pytest.mark.parametrize('scale', [(64, 64), (96, 64), (32, 128)])
def test_pixels_and_boxes_are_mmyolos(
    scale, keep_ratio, scale_up, mini_pad, monkeypatch
):
    plain = mmcv.imresize.__wrapped__  # without our minimum of a pixel
    for module in (mmcv, mmcv.image, mmcv.image.geometric):
        monkeypatch.setattr(module, 'imresize', plain)
    boxes = np.random.default_rng(0).uniform(-30, 200, (50, 4)).astype(np.float32)
    compared = 0
    for size in SIZES:
        image = noise(*size)
        try:
            theirs = mmyolo_layout(image, scale, keep_ratio, scale_up, mini_pad)
        except cv2.error:  # a side of less than a pixel: see the extreme ones below
            continue
        compared += 1
        layout = lay_out(size, steps(scale, keep_ratio, scale_up, mini_pad))
        images = stack([(resize(image, layout), layout)])
        wanted = theirs['img'][..., ::-1].transpose(2, 0, 1)[None]
        np.testing.assert_array_equal(images, wanted.astype(np.float32))
        assert images.dtype == np.float32 and images.flags.c_contiguous

        # What MMYOLO's head does to its boxes, in torch.
        top, _, left, _ = theirs['pad_param']
        mapped = torch.tensor(boxes) - torch.tensor([left, top, left, top])
        mapped /= torch.tensor(theirs['scale_factor']).repeat(2)
        mapped[:, 0::2].clamp_(0, size[1])
        mapped[:, 1::2].clamp_(0, size[0])
        np.testing.assert_array_equal(to_image(boxes, layout), mapped.numpy())
    assert compared > len(SIZES) / 2


@pytest.mark.parametrize(
    'size, inner',
    [
        ((1, 5000), (1, 64)),
        ((5000, 1), (64, 1)),
        ((1, 1), (64, 64)),
        ((2, 999), (1, 64)),
    ],
)
def test_extreme_images_keep_a_pixel(size, inner):
    layout = lay_out(size, steps((64, 64)))
    (pixels,) = stack([(resize(grey(255, *size), layout), layout)])
    wanted = grey(114)
    top, left = ((64 - side) // 2 for side in inner)
    bottom, right = top + inner[0], left + inner[1]
    wanted[top:bottom, left:right] = 255
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), wanted)
    (box,) = to_image(np.float32([[left, top, right, bottom]]), layout)
    np.testing.assert_allclose(box, [0, 0, size[1], size[0]], rtol=1e-6)


# ---------------------------------------------------------------------------- nms


@pytest.mark.parametrize('multi_label', [True, False])
@pytest.mark.parametrize('nms_pre, min_kept', [(None, 61), (70, 30)])
def test_nms_is_torchvisions(multi_label, nms_pre, min_kept):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (800, 2))
    boxes = np.hstack([corners, corners + rng.uniform(20, 90, (800, 2))])
    boxes, scores = boxes.astype(np.float32), rng.random((800, 3), np.float32) ** 3
    nms = dict(multi_label=multi_label, score_thr=0.05, iou_threshold=0.5)
    nms |= dict(max_per_img=60) | (dict(nms_pre=nms_pre) if nms_pre else {})
    found = suppress(boxes, scores, nms)

    best = scores == scores.max(1, keepdims=True)
    wanted = (scores > 0.05) & (best | multi_label)
    rows, labels = map(torch.from_numpy, wanted.nonzero())
    scores, order = torch.tensor(scores)[rows, labels].sort(descending=True)
    scores, order = scores[:nms_pre], order[:nms_pre]
    boxes, labels = torch.tensor(boxes)[rows[order]], labels[order]
    kept = batched_nms(boxes, scores, labels, 0.5)
    assert min_kept <= len(kept) < len(boxes)
    assert (len(kept) > 60) == (nms_pre is None)  # so that each limit is met
    for ours, theirs in zip(found, (boxes, scores, labels)):
        np.testing.assert_array_equal(ours, theirs[kept[:60]].numpy())


def test_nms_of_nothing():
    nms = dict(score_thr=0.1, iou_threshold=0.5, max_per_img=9)
    for multi_label in (True, False):
        found = suppress(
            BOXES, np.zeros((4, 3), np.float32), dict(nms, multi_label=multi_label)
        )
        assert [values.shape for values in found] == [(0, 4), (0,), (0,)]
    assert to_image(found.boxes, lay_out((9, 9), steps((64, 64)))).shape == (0, 4)


BEST = {'all': 0.75, 'classes': {'white': 0.3, CLASSES[2]: 0.95}}


@pytest.mark.parametrize('in_graph', [True, False])
def test_best_score_of_each_class(tmp_path, in_graph):
    """That of all for the class without one; 0.9 is too low for its class."""
    rows = np.float32([[0, 0, 0.9], [0.8, 0, 0], [0, 0.3, 0], [0, 0.2, 0]])
    boxes = np.float32([[x, x, x + 8, x + 8] for x in (0, 10, 20, 30)])
    given = (
        dict(scores=np.float32([0.9, 0.8, 0.3, 0.2]), labels=np.int64([2, 0, 1, 1]))
        if in_graph
        else dict(scores=rows)
    )
    about = metadata(in_graph=in_graph, best_scores=BEST)
    file = write_onnx(tmp_path / 'm.onnx', about, boxes=boxes, **given)
    detector = Detector(file)
    assert detector.metadata['best_scores'] == BEST
    (found,) = detector.detect([grey(255)], 'best')
    assert found.labels.tolist() == [0, 1]
    assert [one['class'] for one in detector(grey(255), 'best')] == CLASSES[:2]
    assert [len(detector(grey(255), x)) for x in (0.3, 0.5)] == [3, 2]

    image = str(tmp_path / 'image.png')
    cv2.imwrite(image, grey(255))
    out = tmp_path / 'out.json'
    assert main([str(file), image, '--score-thr', 'best', '-o', str(out)]) == 0
    assert json.loads(out.read_text())['objects'] == detector(image, 'best')


def test_thresholds_that_are_none(tmp_path, capsys):
    """And the best score of a file from before there were any."""
    file = write_onnx(tmp_path / 'm.onnx', metadata())
    detector = Detector(file)
    for wrong in ('bset', '0.3', -0.1, 1.1, float('nan'), [0.3]):
        with pytest.raises(OptionError, match='a number from 0 to 1, or .best.'):
            detector.detect([grey(255)], wrong)
    assert detector(grey(255), np.float32(0.3)) == detector(grey(255))
    with pytest.raises(OptionError, match='the file has no best scores'):
        detector(grey(255), 'best')
    with pytest.raises(SystemExit):
        main([str(file), 'image.png', '--score-thr', 'best'])
    assert 'the file has no best scores' in capsys.readouterr().err
    for wrong in ('bset', '1.1', 'nan'):
        with pytest.raises(SystemExit):
            main([str(file), 'image.png', '--score-thr', wrong])
        assert f"{wrong} is not from 0 to 1, nor 'best'" in capsys.readouterr().err


def test_file_without_nms(tmp_path):
    scores = np.float32([[0, 0, 0.9], [0.6, 0, 0.8], [0, 0.3, 0], [0, 0, 0]])
    about = metadata(in_graph=False)
    detector = Detector(write_onnx(tmp_path / 'm.onnx', about, scores=scores))
    (found,) = detector.detect([grey(255)])
    assert found.labels.tolist() == [2, 0, 1]  # 0.8 lies under 0.9's box
    np.testing.assert_allclose(found.scores, SCORES[:3], rtol=1e-6)
    assert [len(detector(grey(255), x)) for x in (0, 0.6, 0.7, 0.95)] == [3, 2, 1, 0]


# ------------------------------------------------------------------------ formats


def test_objects_are_those_of_the_predict_tool(write):
    detector = Detector(write(metadata()))
    assert detector.classes == tuple(CLASSES)
    assert detector.metadata == json.loads(json.dumps(metadata()))
    # 128 x 96 shrinks to 64 x 48, with 8 rows of fill above and below it.
    image = grey(204, 96, 128)
    brightness = (204 * 48 + 114 * 16) / 64 / 255
    objects = detector(image, score_thr=0.3)
    assert objects == [
        {
            'class': 'Blutplättchen <"3">',
            'score': round(0.9 * brightness, 4),
            'box': [16.0, 0.0, 80.0, 40.0],
        },
        {
            'class': 'red',
            'score': round(0.6 * brightness, 4),
            'box': [18.0, 0.0, 82.0, 42.0],
        },
    ]
    assert list(objects[0]) == ['class', 'score', 'box']
    json.dumps(objects)
    assert objects == detector(image)
    (found,) = detector.detect([image])
    assert len(found.boxes) == 3  # the last row is padding
    assert found.boxes.dtype == found.scores.dtype == np.float32
    np.testing.assert_allclose(found.boxes[2], [0, 0, 128, 96])


def test_threads(tmp_path):
    session = Detector(write_onnx(tmp_path / 'm.onnx', metadata()), threads=1).session
    assert session.session.get_session_options().intra_op_num_threads == 1
    path = write_openvino(tmp_path / 'ov', metadata()) / 'model.xml'
    model = Detector(path, threads=1).session.model
    assert model.get_property('INFERENCE_NUM_THREADS') == 1
    assert model.get_property('INFERENCE_PRECISION_HINT') == openvino.Type.f32


@pytest.mark.skipif(
    sys.platform != 'linux', reason='as other systems have no such call'
)
def test_openvino_leaves_the_stack_of_signals(tmp_path):
    """It frees its own with the model, and the next signal ended the process."""

    def read_stack() -> bytes:
        stack = ctypes.create_string_buffer(24)  # address, flags, size
        assert ctypes.CDLL(None).sigaltstack(None, stack) == 0
        return stack.raw

    file = write_openvino(tmp_path / 'ov', metadata())
    before = read_stack()
    detectors = [Detector(file) for _ in range(3)]
    assert read_stack() == before
    for detector in detectors:
        detector(grey(255))
    del detector, detectors
    gc.collect()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize('able', [['FP32'], ['FP32', 'BF16']])
def test_precision_in_openvino(monkeypatch, tmp_path, able):
    compile_model, options = openvino.Core.compile_model, {}

    def compile_plainly(core, model, device, asked):
        options.update(asked)
        return compile_model(core, model, device)

    monkeypatch.setattr(openvino.Core, 'compile_model', compile_plainly)
    monkeypatch.setattr(openvino.Core, 'get_property', lambda *_: able)
    hints = {
        'float32': 'f32',
        'int8': 'f32',
        'half': 'bf16' if len(able) > 1 else 'f32',
    }
    for precision, hint in hints.items():
        path = write_openvino(tmp_path / precision, metadata(precision=precision))
        Detector(path)
        assert options.pop('INFERENCE_PRECISION_HINT') == hint
        assert options == {'PERFORMANCE_HINT': 'LATENCY'}


def counted(detector: Detector) -> list[tuple]:
    """Shapes of the inputs that the detector's session gets from now on."""
    shapes, inner = [], detector.session.run

    def run_counted(images):
        shapes.append(images.shape)
        return inner(images)

    detector.session.run = run_counted
    return shapes


@pytest.mark.parametrize('batch', [1, 2, 3, None])
def test_batches(write, batch):
    detector = Detector(write(metadata(batch=batch)))
    shapes = counted(detector)
    values = range(10, 250, 24)
    found = detector.detect([grey(v, 20 + v, 300) for v in values])
    sizes = [batch] * -(-10 // batch) if batch else [8, 2]
    assert shapes == [(n, 3, 64, 64) for n in sizes]
    alone = [detector.detect([grey(v, 20 + v, 300)])[0] for v in values]
    assert len({one.scores[0] for one in alone}) == 10
    for one, other in zip(found, alone, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    assert detector.detect([]) == []


def test_canvases_of_more_than_one_size(tmp_path):
    about = metadata(dynamic=True, mini_pad=True)
    detector = Detector(write_onnx(tmp_path / 'm.onnx', about))
    shapes = counted(detector)
    images = [grey(90, 64, 64), grey(90, 30, 60), grey(90, 60, 120), grey(90, 90, 9)]
    found = detector.detect(images)
    assert shapes == [(1, 3, 64, 64), (2, 3, 32, 64), (1, 3, 64, 32)]
    for image, (boxes, _, _) in zip(images, found, strict=True):
        assert boxes[2].tolist() == [0, 0, image.shape[1], image.shape[0]]


def test_another_size(tmp_path):
    path = write_onnx(tmp_path / 'm.onnx', metadata(dynamic=True))
    detector = Detector(path, imgsz=(64, 96))
    shapes = counted(detector)
    assert detector(grey(255, 128, 192))[0]['box'] == [16.0, 8.0, 80.0, 56.0]
    assert shapes == [(1, 3, 64, 96)]
    for wrong in ((64, 100), (0, 64)):
        with pytest.raises(ValueError, match='multiples of 32'):
            Detector(path, imgsz=wrong)
    path = write_onnx(tmp_path / 'fixed.onnx', metadata())
    with pytest.raises(ValueError, match=r'fixed height and width \[64, 64\]'):
        Detector(path, imgsz=(96, 96))


# ------------------------------------------------------------------------ bad files


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none\.onnx does not exist'):
        Detector(tmp_path / 'none.onnx')
    (tmp_path / 'epoch_1.pth').write_bytes(b'1')
    with pytest.raises(ValueError, match=r"'\.pth': \.onnx, \.xml, .*mmnextvit export"):
        Detector(tmp_path / 'epoch_1.pth')
    with pytest.raises(ValueError, match=r'with 0 \.xml files and 0 \.param files:'):
        Detector(tmp_path)
    for name in ('a', 'b'):
        write_openvino(tmp_path / name, metadata())
    (tmp_path / 'a' / 'model.bin').unlink()
    with pytest.raises(FileNotFoundError, match=r'lacks model\.bin'):
        Detector(tmp_path / 'a')
    (tmp_path / 'b' / 'other.xml').write_text('')
    with pytest.raises(ValueError, match=r'a folder with 2 \.xml files'):
        Detector(tmp_path / 'b')


def test_files_without_our_metadata(write):
    path = write(metadata())
    for text in ('text', '', '[]', '{"format": 1}', None):
        replace_metadata(path, text)
        with pytest.raises(ModelFileError, match=r'not written by mmnextvit export'):
            Detector(path)


def test_newer_format(write):
    with pytest.raises(ModelFileError, match='format 2, and this mmnextvit reads up'):
        Detector(write(metadata() | {'format': 2}))


def test_damaged_files(write):
    path = write(metadata())
    for file in list(path.iterdir()) if path.is_dir() else [path]:
        whole = file.read_bytes()
        garbage = bytes(range(256)) * (len(whole) // 256 + 1)
        start = b'' if file.suffix == '.bin' else garbage  # weights may be any bytes
        for damaged in (whole[: len(whole) // 2], whole[:-9], b'', start):
            file.write_bytes(damaged)
            with pytest.raises(ModelFileError, match='export') as caught:
                Detector(path)
            assert path.name in str(caught.value)
        file.write_bytes(whole)
    assert Detector(path)(grey(255))


@pytest.mark.parametrize(
    'name, package, command',
    [
        ('model.onnx', 'onnxruntime', r'onnxruntime, or .* "mmnextvit\[onnx\]"'),
        ('model_openvino', 'openvino', r'openvino, or .* "mmnextvit\[openvino\]"'),
        ('model.torchscript', 'torch', 'torch$'),
        ('model.pt2', 'torch', 'torch$'),
    ],
)
def test_runtime_that_is_not_installed(monkeypatch, tmp_path, name, package, command):
    path = WRITERS[name](tmp_path / name, metadata())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f'needs {package}.*: pip install {command}'):
        Detector(path)


def test_devices_that_are_not_there(monkeypatch, tmp_path):
    path = write_onnx(tmp_path / 'm.onnx', metadata())
    providers = ['CPUExecutionProvider']
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: providers)
    for device in ('cuda', 'cuda:1'):
        with pytest.raises(ValueError, match='no CUDAExecutionProvider.*onnxruntime-'):
            Detector(path, device=device)
    with pytest.raises(ValueError, match='tpu'):
        Detector(path, device='tpu')
    path = write_openvino(tmp_path / 'ov', metadata())
    with pytest.raises(ValueError, match="'TPU'.*it has CPU"):
        Detector(path, device='tpu')


def test_errors_have_public_types(tmp_path):
    """All are ``DetectorError``, and so ``ValueError``."""
    for error in (ImageError, ModelFileError, MissingModelError, OptionError):
        assert issubclass(error, DetectorError) and issubclass(error, ValueError)
    with pytest.raises(MissingModelError):
        Detector(tmp_path / 'none.onnx')
    (tmp_path / 'epoch_1.pth').write_bytes(b'1')
    with pytest.raises(ModelFileError):
        Detector(tmp_path / 'epoch_1.pth')
    path = write_onnx(tmp_path / 'm.onnx', metadata())
    for options in (dict(device='tpu'), dict(imgsz=(96, 96))):
        with pytest.raises(OptionError):
            Detector(path, **options)


# ------------------------------------------------------------------------ images


@pytest.fixture
def exif_image(tmp_path):
    """A JPEG of 40 x 20 pixels that is to be shown upright, with a thumbnail."""
    thumbnail = io.BytesIO()
    image = Image.fromarray(cv2.GaussianBlur(noise(20, 40), (0, 0), 3))
    image.save(thumbnail, 'JPEG')
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    image.save(content, 'JPEG', exif=exif)
    jpeg = thumbnail.getvalue()
    segment = b'\xff\xe2' + (len(jpeg) + 2).to_bytes(2, 'big') + jpeg
    content = content.getvalue()
    path = tmp_path / 'turned.jpg'
    path.write_bytes(content[:2] + segment + content[2:])
    return path


def test_images_are_read_as_by_the_predict_tool(tmp_path, exif_image):
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (8, 9, 3), np.uint16)
    arrays = {
        'grey.png': noise(8, 9, 1),
        'flat.png': noise(8, 9)[..., 0],
        'alpha.png': noise(8, 9, 4),
        'deep.png': deep,
        'deep_grey.png': deep[..., 0],
        'deep_alpha.png': rng.integers(0, 65536, (8, 9, 4), np.uint16),
        'deep.tiff': deep,
        'plain.bmp': noise(8, 9),
        'one pixel.png': noise(1, 1),
        'wide.png': noise(1, 5000),
        'ümlaut.webp': noise(8, 9),
    }
    for name, array in arrays.items():
        path = tmp_path / name
        path.write_bytes(cv2.imencode(path.suffix, array)[1].tobytes())
        image = decode(path)
        np.testing.assert_array_equal(image, read_image(str(path)), name)
        if path.suffix in ('.png', '.bmp'):  # 16 bit TIFF is rounded otherwise
            np.testing.assert_array_equal(image, read(array), name)
        assert image.dtype == np.uint8 and image.shape == (*array.shape[:2], 3)
    assert decode(exif_image).shape == (40, 20, 3)
    np.testing.assert_array_equal(decode(exif_image), read_image(str(exif_image)))


def test_what_phones_append_does_not_matter(tmp_path, exif_image):
    whole = exif_image.read_bytes()
    exif_image.write_bytes(whole + b'\0MotionPhoto' * 9)
    np.testing.assert_array_equal(decode(exif_image), read_image(str(exif_image)))
    png = cv2.imencode('.png', noise(9, 9))[1].tobytes()
    assert has_end(png + b'\n')


def test_arrays_that_are_views():
    image, alpha, deep = noise(64, 80), noise(64, 80, 4), noise(64, 80) * np.uint16(9)
    assert read(image) is image  # no copy
    views = image[:, ::-1], image[..., ::-1], image[1:, 2::3], image[..., 1]
    for view in (*views, alpha[::-1], alpha[..., :3], deep[::2, ::-1]):
        for scale in ((64, 64), view.shape[1::-1]):
            same = []
            for array in (view, view.copy()):
                layout = lay_out(array.shape[:2], steps(scale))
                same.append(stack([(resize(read(array), layout), layout)]))
            np.testing.assert_array_equal(*same)


def test_files_that_are_no_whole_image(tmp_path, exif_image):
    with pytest.raises(ImageError, match=r'none\.jpg cannot be read'):
        decode(tmp_path / 'none.jpg')
    with pytest.raises(ImageError, match='cannot be read'):
        decode(tmp_path)
    path = tmp_path / 'bad.jpg'
    path.write_bytes(b'')
    with pytest.raises(ImageError, match=r'bad\.jpg is empty'):
        decode(path)
    path.write_text('<html>404</html>')
    with pytest.raises(ImageError, match=r'bad\.jpg is truncated, or no image'):
        decode(path)
    smooth = cv2.GaussianBlur(noise(64, 64), (0, 0), 3)
    png, bmp = (cv2.imencode(x, smooth)[1].tobytes() for x in ('.png', '.bmp'))
    for whole in (exif_image.read_bytes(), png):  # the JPEG's thumbnail has an end
        assert has_end(whole)
        for cut in (1, 2, 12, len(whole) // 3):
            path.write_bytes(whole[:-cut])
            with pytest.raises(ImageError, match=r'bad\.jpg is truncated: copy'):
                decode(path)
    path.write_bytes(bmp[:-99])
    assert has_end(bmp[:-99])  # the next line is OpenCV's doing
    with pytest.raises(ImageError, match=r'bad\.jpg is truncated, or no'):
        decode(path)


def test_what_may_not_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / 'fifo.jpg')
    with pytest.raises(ImageError, match=r'fifo\.jpg .* no regular file'):
        decode(tmp_path / 'fifo.jpg')
    with pytest.raises(ImageError, match='/dev/zero .* no regular file'):
        decode('/dev/zero')


def state_size(name: str, content: bytes, height: int, width: int) -> bytes:
    """The image with another size in its header."""
    changed = bytearray(content)
    if name.endswith('.png'):
        changed[16:24] = width.to_bytes(4, 'big') + height.to_bytes(4, 'big')
        changed[29:33] = zlib.crc32(changed[12:29]).to_bytes(4, 'big')
    else:
        at = content.index(b'\xff\xc0' if b'\xff\xc0' in content else b'\xff\xc2') + 5
        changed[at : at + 4] = height.to_bytes(2, 'big') + width.to_bytes(2, 'big')
    return bytes(changed)


@pytest.mark.parametrize('name', ['a.jpg', 'progressive.jpg', 'a.png'])
def test_images_that_would_fill_the_memory_are_not_decoded(name, tmp_path, monkeypatch):
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] * name.startswith('progressive')
    content = cv2.imencode(name[-4:], noise(8, 9), options)[1].tobytes()
    assert read_stated_size(content) == (8, 9)
    path = tmp_path / name
    path.write_bytes(state_size(name, content, 30_000, 20_000))
    monkeypatch.setattr(cv2, 'imdecode', None)
    with pytest.raises(ImageError, match=f'{name} is too large: 30000 x 20000 pixels'):
        decode(path)


def test_other_images_that_are_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr('mmnextvit.runtime.images.MAX_IMAGE_PIXELS', 72)
    for height in (8, 9):
        path = tmp_path / f'{height}.bmp'
        cv2.imwrite(str(path), noise(height, 9))
    assert decode(tmp_path / '8.bmp').shape == (8, 9, 3)
    with pytest.raises(ImageError, match=r'9\.bmp is too large: 9 x 9 pixels'):
        decode(tmp_path / '9.bmp')


def test_arrays_that_are_no_image():
    for dtype in (np.float32, np.int64, bool):
        with pytest.raises(ImageError, match=f'{np.dtype(dtype)}: uint8'):
            read(np.zeros((4, 4, 3), dtype))
    for shape in ((4,), (4, 4, 2), (3, 4, 5), (0, 4, 3), (4, 0), (1, 4, 4, 3)):
        with pytest.raises(ImageError, match=re.escape(f'{shape}: H x W')):
            read(np.zeros(shape, np.uint8))
    with pytest.raises(ImageError, match='neither a path nor a NumPy array'):
        read(None)


def test_one_image_is_no_list(tmp_path):
    detector = Detector(write_onnx(tmp_path / 'm.onnx', metadata()))
    for image in ('a.jpg', Path('a.jpg'), grey(3), grey(3)[..., 0]):
        with pytest.raises(TypeError, match='list of images'):
            detector.detect(image)
    assert len(detector.detect(np.stack([grey(3)] * 2))) == 2


def test_images_of_any_kind_pass(write, tmp_path, exif_image):
    detector = Detector(write(metadata()))
    for size in ((1, 1), (1, 5000), (5000, 1)):
        path = tmp_path / 'image.png'
        path.write_bytes(cv2.imencode('.png', grey(255, *size))[1].tobytes())
        objects = detector(path, 0)
        assert len(objects) == 3
        for one in objects:
            x1, y1, x2, y2 = one['box']
            assert 0 <= x1 <= x2 <= size[1] and 0 <= y1 <= y2 <= size[0]
    assert detector(exif_image, 0)[2]['box'] == [0, 0, 20, 40]


# ------------------------------------------------------------------- command line


def test_command_line(write, tmp_path, capsys, monkeypatch):
    model = str(write(metadata()))
    good, bad = str(tmp_path / 'good.png'), str(tmp_path / 'bad.png')
    cv2.imwrite(good, grey(255))
    Path(bad).write_bytes(b'no')
    wanted = {'file': good, 'objects': Detector(model)(good, 0.5)}
    assert len(wanted['objects']) == 2

    assert main([model, good, bad, good, '--score-thr', '0.5']) == 1
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [json.loads(line) for line in lines] == [wanted, wanted]
    assert 'bad.png is truncated, or no image' in printed.err

    out = tmp_path / 'found.json'
    command = [model, good, '--score-thr', '0.5', '-o', str(out)]
    assert main(command) == 0
    assert json.loads(out.read_text()) == wanted
    assert capsys.readouterr().out == ''
    out.write_text('mine')
    with pytest.raises(SystemExit):
        main(command)
    assert out.read_text() == 'mine'
    assert f"exists: '{out}'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['none.onnx', good])
    assert 'none.onnx does not exist' in capsys.readouterr().err


def test_command_line_without_space(tmp_path, capsys):
    """One line, and nothing that is in the way of the next try."""
    model = str(write_onnx(tmp_path / 'm.onnx', metadata()))
    image, out = str(tmp_path / 'image.png'), tmp_path / 'found.json'
    cv2.imwrite(image, grey(255))
    command = [model, image, '-o', str(out)]
    with limit_file_size(20), pytest.raises(SystemExit, match='1'):
        main(command)
    assert capsys.readouterr() == ('', f"[Errno 27] File too large: '{out}'\n")
    assert not out.exists()
    assert main(command) == 0 and out.read_text().count('\n') == 1
    with pytest.raises(SystemExit, match='1'):
        main([*command[:-1], str(tmp_path / 'none' / 'found.json')])
    assert 'No such file or directory' in capsys.readouterr().err


@pytest.mark.parametrize('error', [KeyboardInterrupt(), ModelFileError('it is broken')])
@pytest.mark.parametrize('whole', [0, 2])
def test_command_line_that_is_ended(tmp_path, capsys, monkeypatch, error, whole):
    """Ctrl-C keeps the lines so far; a file without any does not stay."""
    model = str(write_onnx(tmp_path / 'm.onnx', metadata()))
    image, out = str(tmp_path / 'image.png'), tmp_path / 'found.json'
    cv2.imwrite(image, grey(255))
    detect, calls = Detector.detect_prepared, []

    def detect_some(detector, prepared, *options):
        calls.append(prepared)
        if len(calls) > whole:
            raise error
        return detect(detector, prepared, *options)

    monkeypatch.setattr(Detector, 'detect_prepared', detect_some)
    ctrl_c = isinstance(error, KeyboardInterrupt)
    with pytest.raises(SystemExit, match='130' if ctrl_c else '1'):
        main([model, image, image, image, '-o', str(out)])
    said = 'interrupted' if ctrl_c else 'it is broken'
    assert capsys.readouterr() == ('', f'{said}\n')
    assert out.exists() == (ctrl_c and whole > 0)
    if out.exists():
        assert [json.loads(line)['file'] for line in out.open()] == [image] * whole


# --------------------------------------------------------------- bare environments


def link_distributions(folder: Path, *modules: str) -> None:
    """Links distributions and what they require, as pip would install them."""
    owners = packages_distributions()
    left, done = [owners[module][0] for module in modules], set()
    while left:
        found = distribution(left.pop())
        if found.name in done:
            continue
        done.add(found.name)
        for top in {file.parts[0] for file in found.files} - {'..', '__pycache__'}:
            (folder / top).symlink_to(found.locate_file(top))
        for requirement in found.requires or []:
            if 'extra ==' not in requirement:
                left.append(re.match(r'[\w.-]+', requirement)[0])


@pytest.fixture(scope='module')
def bare_wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp('source') / 'repository'
    names = '.*', '__pycache__', 'work_dirs', 'data', 'build', 'dist', '*.egg-info'
    copytree(ROOT, source, ignore=ignore_patterns(*names))
    return build_wheel(source, tmp_path_factory.mktemp('wheel'))


BARE = """
import json, sys
from importlib.util import find_spec
for name in ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmyolo', 'timm'):
    assert find_spec(name) is None, name
import mmnextvit
assert not {'numpy', 'cv2'} & set(sys.modules)
from mmnextvit.runtime import Detector
assert not {'onnxruntime', 'openvino'} & set(sys.modules)
objects = Detector(sys.argv[1])('image.png', 0)
print(json.dumps([mmnextvit.__file__, objects, sorted(sys.modules)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, package', [('model.onnx', 'onnxruntime'), ('model_openvino', 'openvino')]
)
def test_without_torch_and_openmmlab(bare_wheel, tmp_path, name, package):
    python = environment(tmp_path / 'venv', bare=True)
    (site,) = (tmp_path / 'venv').glob('lib/python*/site-packages')
    link_distributions(site, 'numpy', 'cv2', package)
    install(python, bare_wheel)
    model = WRITERS[name](tmp_path / name, metadata())
    cv2.imwrite(str(tmp_path / 'image.png'), noise(70, 90))
    printed = run(python, '-c', BARE, name, cwd=tmp_path, warm=False)
    file, objects, modules = json.loads(printed.splitlines()[-1])
    assert Path(file).is_relative_to(tmp_path / 'venv')
    assert objects == Detector(model)(tmp_path / 'image.png', 0)
    assert len(objects) == 3
    slow = {'pip', 'setuptools', 'onnx', 'google', 'sympy', 'PIL', 'scipy', 'pandas'}
    assert not slow & set(modules)

    command = python, '-m', 'mmnextvit.runtime', name, 'image.png', '--score-thr', 0
    line = run(*command, cwd=tmp_path, warm=False).splitlines()[-1]
    assert json.loads(line) == {'file': 'image.png', 'objects': objects}


@pytest.mark.slow
@pytest.mark.parametrize(
    'there, missing, command',
    [
        (['numpy'], 'cv2', 'opencv-python-headless'),
        ([], 'numpy and cv2', 'numpy opencv-python-headless'),
    ],
)
def test_without_opencv(bare_wheel, tmp_path, there, missing, command):
    python = environment(tmp_path / 'venv', bare=True)
    (site,) = (tmp_path / 'venv').glob('lib/python*/site-packages')
    link_distributions(site, *there)
    install(python, bare_wheel)
    ended = subprocess.run(
        [python, '-m', 'mmnextvit.runtime', 'model.onnx', 'image.png'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.stderr.splitlines()[-1] == (
        f'ModuleNotFoundError: mmnextvit.runtime needs {missing}, not installed here: '
        f'pip install {command}'
    )
