"""An imported config resizes as detect.py, and evaluates as val.py."""

import argparse

from mmnextvit.cli.predict import add_arguments
from mmnextvit.deploy.metadata import describe_resizing, resize_test_pipeline
from mmnextvit.engine.runner import build_array_pipeline, choose_resizing
from mmnextvit.evaluation.coco_metric import VerifiedCocoMetric
from mmnextvit.runtime import fit, stack, to_image
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import METRICS, init_default_scope

from tests.helpers.small_yolov5 import small_yolov5
from tests.helpers.yolov5_commands import letterbox, scale_boxes
from tests.helpers.yolov5_detectors import import_content

SIZES = [
    (480, 640),
    (333, 500),
    (500, 333),
    (71, 23),
    (640, 640),
    (1, 50),
    (1081, 1921),
]


@pytest.fixture(scope='module', params=[3, 4], ids=['P5', 'P6'])
def imported(request, tmp_path_factory):
    """Config and stride of a model."""
    folder = tmp_path_factory.mktemp('model')
    strides = [2 ** (3 + level) for level in range(request.param)]
    content = small_yolov5(request.param)
    _, cfg, _ = import_content(folder, content, img_size=256, strides=strides)
    return cfg, strides[-1]


def test_evaluates_as_val(imported, load_config):
    cfg, stride = imported
    test_cfg = cfg.model.test_cfg
    assert test_cfg == dict(
        multi_label=True,
        nms_pre=30_000,
        score_thr=0.001,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=300,
    )
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        init_default_scope('mmyolo')
        metric = METRICS.build({**evaluator, 'ann_file': None})
        assert isinstance(metric, VerifiedCocoMetric)
        assert metric.settings.map_detections == 300
        assert metric.settings.rules == 'yolov5'
    shapes = cfg.val_dataloader.dataset.batch_shapes_cfg
    assert (shapes.size_divisor, shapes.extra_pad_ratio) == (stride, 0.5)
    ours = load_config('yolov5_nextvit_s')  # is COCO's as ever
    assert ours.model.test_cfg.nms.iou_threshold == 0.65
    metric = METRICS.build({**ours.val_evaluator, 'ann_file': None})
    assert metric.settings.map_detections == 100
    assert metric.settings.rules == 'coco'
    assert 'predict_resizing' not in ours


@pytest.mark.parametrize('rect', [None, True, False])
def test_predicts_on_the_letterbox_of_detect(rect, imported):
    """In torch and in the runtime, to the pixel, and boxes come back as there."""
    cfg, stride = imported
    pipeline = build_array_pipeline(choose_resizing(cfg, rect))
    dynamic = rect is not False
    steps = describe_resizing(resize_test_pipeline(cfg, (256, 256), dynamic))
    assert steps[-1]['mini_pad'] == dynamic
    rng = np.random.default_rng(0)
    for size in SIZES:
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        wanted = letterbox(image, 256, stride, dynamic)
        made = pipeline(dict(img=image, img_id=0))
        assert (made['inputs'].numpy() == wanted.transpose(2, 0, 1)).all()
        prepared = fit(image, steps)
        assert (stack([prepared])[0] == wanted[..., ::-1].transpose(2, 0, 1)).all()

        corners = rng.uniform(0, 128, (50, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(0, 128, (50, 2))], 1)
        there = scale_boxes(boxes, wanted.shape[:2], size)
        ours = to_image(boxes.astype(np.float32), prepared[1])
        np.testing.assert_allclose(ours, there, atol=1e-2, rtol=1e-5)
        sample = made['data_samples']
        top, _, left, _ = sample.pad_param
        moved = (boxes - [left, top, left, top]) / np.tile(sample.scale_factor, 2)
        limits = [*size[::-1], *size[::-1]]
        np.testing.assert_allclose(moved.clip(0, limits), there, atol=1e-2, rtol=1e-5)


@pytest.mark.parametrize(
    ('words', 'rect'), [([], None), (['--rect'], True), (['--square'], False)]
)
def test_options_of_predict(words, rect):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(['a.py', 'a.pth', 'a.jpg', *words]).rect is rect


def test_rectangles_of_other_configs(load_config):
    """They pad to squares, as ever, unless told otherwise."""
    cfg = load_config('yolov5_nextvit_s')
    image = np.zeros((320, 640, 3), np.uint8)
    shapes = [
        tuple(
            build_array_pipeline(choose_resizing(cfg, rect))(dict(img=image, img_id=0))[
                'inputs'
            ].shape
        )
        for rect in (None, True, False)
    ]
    assert shapes == [(3, 640, 640), (3, 320, 640), (3, 640, 640)]
    assert not cfg.test_dataloader.dataset.pipeline[2].get('use_mini_pad')
    plain = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[]))))
    with pytest.raises(UserError, match='--rect.*LetterResize'):
        choose_resizing(plain, True)
