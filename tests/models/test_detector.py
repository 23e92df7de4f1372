"""The whole detector against the reference rows, and how its parts are fitted."""

import copy

from mmnextvit import NextViT
from mmnextvit.models.detector import FittedYOLODetector

import pytest
import timm
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from mmyolo.registry import MODELS
from torch import nn
from torchvision.ops import batched_nms

from tests.helpers.lively_detectors import (
    demo_images,
    lively_detector,
    preprocessed,
    small_config,
)
from tests.helpers.timm_names import timm_names
from tests.helpers.yolov5_neck import CHANNELS, YAML, yolov5_state
from tests.helpers.yolov5_reference import Rows, decode

ANCHORS = [
    [(10.0, 13.0), (16.0, 30.0), (33.0, 23.0)],
    [(30.0, 61.0), (62.0, 45.0), (59.0, 119.0)],
    [(116.0, 90.0), (156.0, 198.0), (373.0, 326.0)],
]


@pytest.fixture
def model_cfg(load_config, tiny):
    """The model of our base config with a tiny backbone."""
    cfg = load_config('yolov5_nextvit_s').model
    cfg.backbone.arch = tiny
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', ['yolov5', 'yolov8', 'rtmdet'])
def test_boxes_under_autocast_are_not_rounded_to_bfloat16(name):
    """Maps of 8 bits, but no coordinates: those would be off by up to 2 pixels."""
    detector = lively_detector(small_config(f'{name}_nextvit_s', 3)).eval()
    images = preprocessed(detector, demo_images((256, 256)))
    samples = [DetDataSample(metainfo=dict(scale_factor=(1, 1), ori_shape=(256, 256)))]
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert detector.extract_feat(images)[0].dtype == torch.bfloat16
        (found,) = detector.predict(images, samples)
    boxes = found.pred_instances.bboxes
    assert len(boxes) > 10 and boxes.dtype == torch.float32
    rounded = boxes == boxes.bfloat16().float()
    assert rounded.float().mean() < 0.5  # those at the border are


@pytest.mark.slow
@pytest.mark.parametrize(
    'config, params, p5_source',
    [
        ('yolov5_nextvit_s', 32_708_477, 5),
        ('yolov5_nextvit_b', 45_763_965, 5),
        ('yolov5_nextvit_l', 58_819_453, 5),
        ('yolov5_nextvit_s_v6neck', None, 6),
    ],
)
def test_equals_a_second_reading_of_the_yaml(
    config, params, p5_source, load_config, lively, error
):
    """Same weights, same image: timm's backbone, the reference rows, plain heads."""
    ours = MODELS.build(load_config(config).model)
    if params:
        assert sum(p.numel() for p in ours.parameters()) == params
    lively(ours).eval()

    arch = type(ours.backbone)(ours.backbone.arch).arch  # a full description
    name = {10: 'small', 20: 'base', 30: 'large'}[arch['depths'][2]]
    backbone = timm.create_model(f'nextvit_{name}', features_only=True)
    for m in backbone.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eps = 1e-3  # what YOLOv5 sets, on the 2-D ones only
    state = timm_names(ours.backbone.state_dict(), arch['depths'])
    final = {k[5:]: state.pop(k) for k in list(state) if k.startswith('norm.')}
    norm = nn.BatchNorm2d(1024, eps=1e-3)
    norm.load_state_dict(final)
    backbone.load_state_dict(state)
    yaml = copy.deepcopy(YAML)
    yaml[18 - 5][0][1] = p5_source
    rows = Rows(yaml, CHANNELS, 0.33, 0.25)
    rows.load_state_dict(yolov5_state(ours.neck.rows))
    for part in (backbone, norm, rows):
        part.eval()

    batch, height, width = 2, 96, 128
    images = torch.rand(batch, 3, height, width)
    with torch.no_grad():
        maps = backbone(images)
        maps[3] = norm(maps[3])
        outs = rows(maps)
        heads = ours.bbox_head.head_module.convs_pred
        raw = [head(outs[i]) for head, i in zip(heads, (13, 16, 19), strict=True)]
        scores, boxes, objectness = ours(images)
    for i, r in enumerate(raw):
        r = r.view(batch, 3, 85, *r.shape[2:])
        assert error(boxes[i], r[:, :, :4].flatten(1, 2)) < 1e-5
        assert error(objectness[i], r[:, :, 4]) < 1e-5
        assert error(scores[i], r[:, :, 5:].flatten(1, 2)) < 1e-5

    # And after decoding and NMS, on scores that are spread out, in float64: rounding
    # errors would change which of two boxes NMS keeps.
    ours.double()
    images = images.double()
    with torch.no_grad():
        for head in heads:
            head.weight.mul_(20)
        maps = backbone.double()(images)
        maps[3] = norm.double()(maps[3])
        outs = rows.double()(maps)
        raw = [head(outs[i]) for head, i in zip(heads, (13, 16, 19), strict=True)]
    levels = zip(raw, ANCHORS, (8, 16, 32), strict=True)
    flat = torch.cat([decode(*level) for level in levels], 1)
    meta = dict(
        ori_shape=(height, width), img_shape=(height, width),
        batch_input_shape=(height, width), scale_factor=(1.0, 1.0),
    )  # fmt: skip
    samples = [DetDataSample(metainfo=meta) for _ in range(batch)]
    threshold = 0.3
    ours.test_cfg.score_thr = ours.bbox_head.test_cfg.score_thr = threshold
    with torch.no_grad():
        found = ours.predict(images, samples)
    for sample, y in zip(found, flat, strict=True):
        y = y[y[:, 4] > threshold]
        box, label = (y[:, 4:5] * y[:, 5:] > threshold).nonzero(as_tuple=True)
        score = y[box, 4] * y[box, 5 + label]
        keep = batched_nms(y[box, :4], score, label, 0.65)[:300]
        expected = y[box[keep], :4]
        expected[:, 0::2] = expected[:, 0::2].clamp(0, width)
        expected[:, 1::2] = expected[:, 1::2].clamp(0, height)
        result = sample.pred_instances
        assert len(result) == len(keep) > 10
        torch.testing.assert_close(result.scores, score[keep])
        torch.testing.assert_close(result.bboxes, expected, rtol=0, atol=1e-4)


def test_images_are_rgb_in_0_to_1(model_cfg):
    preprocessor = MODELS.build(model_cfg).data_preprocessor.eval()
    bgr = torch.tensor([0, 127.5, 255]).view(3, 1, 1).expand(3, 32, 32)
    out = preprocessor(dict(inputs=[bgr], data_samples=[DetDataSample()]), False)
    assert out['inputs'][0, :, 0, 0].tolist() == [1.0, 0.5, 0.0]


def test_batchnorm_constants(model_cfg):
    for name, m in MODELS.build(model_cfg).named_modules():
        if isinstance(m, nn.BatchNorm1d):
            assert (m.eps, m.momentum) == (1e-5, 0.1), name
        elif isinstance(m, nn.BatchNorm2d):
            assert (m.eps, m.momentum) == (1e-3, 0.03), name


@pytest.mark.slow
def test_channels_follow_the_backbone(model_cfg, tiny):
    model = MODELS.build(model_cfg)
    assert model.neck.rows.rows[3].inputs[1].channels == tiny['stage_channels'][2]
    assert model.bbox_head.head_module.in_channels == list(model.neck.out_channels)
    model_cfg.backbone.out_indices = (1, 2, 3)  # padded in front: rows stay as they are
    assert MODELS.build(model_cfg).neck.out_channels == model.neck.out_channels


@pytest.mark.slow
def test_other_backbones_and_necks_fit_too(model_cfg):
    """A backbone that publishes nothing needs its channels written, as usual."""
    model_cfg.backbone = dict(type='mmdet.ResNet', depth=18)
    model_cfg.neck.in_channels = (64, 128, 256, 512)
    model = MODELS.build(model_cfg)
    assert model.neck.rows.rows[3].inputs[1].channels == 256

    model_cfg.backbone = dict(type='mmdet.NextViT', out_indices=(1, 2, 3))
    model_cfg.neck = dict(type='YOLOv5PAFPN', out_channels=[256, 512, 1024],
                          in_channels=[256, 512, 1024], widen_factor=1.0)  # fmt: skip
    model = MODELS.build(model_cfg)
    assert model.bbox_head.head_module.in_channels == [256, 512, 1024]
    model.loss(torch.rand(1, 3, 64, 64), [one_box()])


def one_box() -> DetDataSample:
    instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8.0, 40.0, 48.0]]), labels=torch.tensor([1])
    )
    return DetDataSample(
        gt_instances=instances, metainfo=dict(batch_input_shape=(64, 64))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    'changes, message',
    [
        ({'neck.in_channels': (96, 256, 512, 768)},
         r'^model.neck.in_channels: the config says .*768.*backbone gives '
         r'\[32, 128, 128, 128\]: write in_channels=\[32, 128, 128, 128\]'),
        ({'neck.in_strides': (2, 4, 8, 16)}, r'neck.in_strides: .*\[4, 8, 16, 32\]'),
        ({'neck.out_rows': (13, 16)},
         r'bbox_head.prior_generator.strides.*8, 16, 32.*neck gives \[8, 16\]'),
        ({'neck.out_rows': (16, 13, 19)}, r'strides.*neck gives \[16, 8, 32\]'),
        ({'bbox_head.head_module.in_channels': [64, 128, 512]},
         r'head_module.in_channels: the config says \[64, 128, 512\].*gives '
         r'\[64, 128, 256\]: write'),
        ({'bbox_head.head_module.widen_factor': 0.5},
         r'widen_factor=0.5.*write in_channels=\[64, 128, 256\] and widen_factor=1.0'),
        ({'bbox_head.head_module.featmap_strides': [4, 8, 16]},
         r'head_module.featmap_strides: the config says \[4, 8, 16\].*'
         r'write featmap_strides=\[8, 16'),
        ({'bbox_head.head_module.num_base_priors': 2},
         '^model.bbox_head.head_module.num_base_priors: the config says 2, but a level '
         'has 3'),
        ({'bbox_head.obj_level_weights': [1.0, 2.0]},
         r'^model.bbox_head.obj_level_weights: the config says '
         r'\[1.0, 2.0\].*write \[4.0, 1.0'),
        ({'bbox_head.prior_generator.base_sizes': ANCHORS[:2]},
         r'^model.bbox_head.prior_generator.base_sizes: the config has '
         r'\[3, 3\] .* 3 levels'),
        ({'bbox_head.prior_generator.base_sizes': 0}, '0 anchors a level: write 1 to'),
    ],
)  # fmt: skip
def test_misfits_say_which_number_to_write(changes, message, model_cfg):
    for key, value in changes.items():
        *path, last = key.split('.')
        part = model_cfg
        for name in path:
            part = part[name]
        part[last] = value
    with pytest.raises(ValueError, match=message):
        MODELS.build(model_cfg)


@pytest.mark.slow
def test_configs_are_left_alone(model_cfg):
    before = copy.deepcopy(model_cfg)
    assert isinstance(MODELS.build(model_cfg), FittedYOLODetector)
    assert model_cfg == before
    assert isinstance(MODELS.build(model_cfg).backbone, NextViT)
