"""Detections on rectangles, in torch and in the runtime, against YOLOv5's rules."""

from mmnextvit.deploy.choices import Options
from mmnextvit.deploy.export import export
from mmnextvit.predictors import Predictor
from mmnextvit.runtime import Detector, OptionError, main
from mmnextvit.utils.errors import UserError

import cv2
import numpy as np
import pytest
import torch

from tests.helpers.lively_detectors import demo_images, enliven
from tests.helpers.small_yolov5 import small_yolov5
from tests.helpers.toy_exports import metadata, write_onnx
from tests.helpers.yolov5_commands import decode, letterbox, scale_boxes, suppress
from tests.helpers.yolov5_detectors import import_content

pytestmark = pytest.mark.slow

SIZE = 96
SIZES = [(70, 125), (131, 60), (96, 96), (21, 33)]  # two of them in odd paddings


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Config, detector, checkpoint, images and exported file of an imported model."""
    folder = tmp_path_factory.mktemp('model')
    torch.manual_seed(9)
    _, cfg, detector = import_content(folder, small_yolov5(), img_size=SIZE)
    enliven(detector)
    meta = dict(dataset_meta=dict(classes=('a', 'b', 'c')))
    checkpoint = folder / 'model.pth'
    torch.save(dict(state_dict=detector.state_dict(), meta=meta), checkpoint)
    images = demo_images(*SIZES)
    (folder / 'images').mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / 'images' / f'{number}.png'), image)
    options = Options(
        to='onnx', dynamic_size=True, batch=None, images=str(folder / 'images')
    )
    report = export(cfg, str(checkpoint), options)
    return cfg, detector, str(checkpoint), images, report.path


@torch.no_grad()
def detect(detector, image, rect):
    """Box, score and label as detect.py finds them with the thresholds of val.py."""
    padded = letterbox(image, SIZE, rect=rect)
    inputs = torch.tensor(padded[..., ::-1] / 255, dtype=torch.float32)
    maps = detector.neck(detector.backbone(inputs.permute(2, 0, 1)[None]))
    module = detector.bbox_head.head_module
    logits = [
        conv(one)[0].unflatten(0, (3, 8)).permute(0, 2, 3, 1).numpy()
        for conv, one in zip(module.convs_pred, maps)
    ]
    anchors = detector.bbox_head.prior_generator.base_sizes
    kept = suppress(decode(logits, anchors, [8, 16, 32]))
    boxes = scale_boxes(np.array([k[0] for k in kept]), padded.shape, image.shape)
    return boxes, np.array([k[1] for k in kept]), np.array([k[2] for k in kept])


def check_alike(found, wanted):
    """Each detection is there, and no other.

    Of equal scores, as even grey has in several places, NMS may keep either.
    """
    boxes, scores, labels = map(np.asarray, found)
    assert len(boxes) == len(wanted[0]) > 20
    compared = 0
    for box, score, label in zip(*wanted):
        if (np.abs(wanted[1] - score) < 1e-5).sum() > 1:
            continue
        near = np.abs(boxes - box).max(1) + 100 * np.abs(scores - score)
        assert near[labels == label].min() < 0.02
        compared += 1
    assert compared > len(boxes) / 2


@pytest.mark.parametrize('rect', [None, True, False])
def test_boxes_are_those_of_detect(rect, model):
    cfg, detector, checkpoint, images, file = model
    in_torch = Predictor(cfg, checkpoint, rect=rect).detect_all(images, 0)
    in_runtime = Detector(file, rect=rect).detect(images, 0)
    for image, sample, detections in zip(images, in_torch, in_runtime):
        wanted = detect(detector, image, rect is not False)
        found = sample.pred_instances
        check_alike((found.bboxes, found.scores, found.labels), wanted)
        check_alike(detections, wanted)


def test_file_keeps_the_rules_of_val(model):
    about = Detector(model[-1]).metadata
    assert about['nms']['iou_threshold'] == 0.6
    assert about['nms']['max_per_img'] == 300
    assert about['resize'] == [
        dict(
            type='letterbox',
            size=[SIZE, SIZE],
            fill=114,
            scale_up=True,
            mini_pad=True,
            stride=32,
            exact=True,
        )
    ]


def test_files_of_fixed_size_take_squares(tmp_path, capsys):
    file = write_onnx(tmp_path / 'model.onnx', metadata())
    assert Detector(file, rect=False).steps[-1]['mini_pad'] is False
    with pytest.raises(OptionError, match=r'rect=True.*fixed.*\[64, 64\].*dynamic'):
        Detector(file, rect=True)
    with pytest.raises(UserError, match='rect=True'):
        Predictor(str(file), rect=True)
    with pytest.raises(SystemExit):
        main([str(file), 'image.jpg', '--rect'])
    assert 'export it with --imgsz dynamic' in capsys.readouterr().err
