"""Folding and memory formats; candidates and metadata: what is exported, before it
is."""

import copy
from functools import cache

import mmnextvit  # noqa: F401  (first)
from mmnextvit.deploy.candidates import Candidates, check_head, get_mean_and_std
from mmnextvit.deploy.metadata import (
    build_metadata,
    describe_resizing,
    read_input_size,
    resize_test_pipeline,
    round_up,
)
from mmnextvit.models import compute_options
from mmnextvit.models.fold import (
    can_fold,
    copy_folded,
    fold_batchnorms,
    fold_conv_module,
    set_memory_format,
)
from mmnextvit.runtime import lay_out

import pytest
import torch
from mmcv.cnn import ConvModule
from mmcv.ops import RoIAlign
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.conftest import relative_error
from tests.helpers.lively_detectors import (
    as_input,
    demo_images,
    lively_detector,
    preprocessed,
    small_config,
)

pytestmark = pytest.mark.deploy

HEADS = ['yolov5_nextvit_s', 'yolov8_nextvit_s', 'rtmdet_nextvit_s']
SIZE = 64, 96


@cache
def detector(name: str, seed: int = 0) -> nn.Module:
    """Shared by the tests, which may not change it."""
    return lively_detector(small_config(name), seed)


@pytest.fixture(scope='module')
def images():
    return demo_images(SIZE, SIZE)


def maps_of(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """What the head gives, all levels flat."""
    with torch.no_grad():
        outputs = model.bbox_head(model.neck(model.backbone(images)))
    return [level for levels in outputs for level in levels]


# ------------------------------------------------------------------------ folding


@pytest.mark.parametrize('name', HEADS)
def test_folded_detectors_are_what_they_were(name, images):
    """In float64, where a fault cannot hide behind rounding, and in float32."""
    inputs = as_input(images) / 255
    whole = copy.deepcopy(detector(name)).double()
    before = maps_of(whole, inputs.double())
    folded = fold_batchnorms(copy.deepcopy(whole))
    assert not [n for n, m in folded.named_modules() if isinstance(m, _BatchNorm)]
    for ours, theirs in zip(maps_of(folded, inputs.double()), before, strict=True):
        assert relative_error(ours, theirs) < 1e-11

    rounded = fold_batchnorms(copy.deepcopy(detector(name)))
    for ours, theirs in zip(maps_of(rounded.double(), inputs.double()), before):
        assert relative_error(ours, theirs) < 1e-4  # weights are rounded once

    state = copy.deepcopy(folded.state_dict())
    fold_batchnorms(folded)
    again = folded.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[key], again[key]) for key in state)


def test_shared_convolution_of_rtmdet_is_parted():
    """One convolution has a BatchNorm for each level: it becomes three."""
    model = copy.deepcopy(detector('rtmdet_nextvit_s'))
    convs = [level[0].conv for level in model.bbox_head.head_module.cls_convs]
    assert convs[0] is convs[1] is convs[2]
    fold_batchnorms(model)
    convs = [level[0].conv for level in model.bbox_head.head_module.cls_convs]
    assert not torch.equal(convs[0].weight, convs[1].weight)
    assert not torch.equal(convs[1].weight, convs[2].weight)


@pytest.mark.parametrize(
    'arguments, folds',
    [
        (dict(), True),
        (dict(bias=True), True),
        (dict(order=('act', 'conv', 'norm')), True),
        (dict(fast_conv_bn_eval=True), True),  # mmcv's own folding, in each pass
        (dict(order=('norm', 'conv', 'act')), False),
        (dict(order=('conv', 'act', 'norm')), False),
        (dict(norm_cfg=dict(type='GN', num_groups=2)), False),
        (dict(norm_cfg=None), False),
        (dict(conv_cfg=dict(type='ConvWS')), False),  # computes its weight in each pass
    ],
)
def test_conv_modules(lively, arguments, folds):
    torch.manual_seed(0)
    arguments = dict(norm_cfg=dict(type='BN', eps=1e-3)) | arguments
    # As wide as its input, for the order in which the norm is of that.
    module = lively(ConvModule(4, 4, 3, **arguments)).eval().double()
    images = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        before = module(images)
        names = {n for n, m in module.named_modules() if isinstance(m, _BatchNorm)}
        fold_conv_module(module)
        assert relative_error(module(images), before) < 1e-13
    left = {n for n, m in module.named_modules() if isinstance(m, _BatchNorm)}
    assert left == (set() if folds else names)


def test_the_detector_is_copied():
    model = copy.deepcopy(detector('yolov5_nextvit_s')).train()
    state = copy.deepcopy(model.state_dict())
    candidates = Candidates(model)
    assert not [m for m in candidates.modules() if isinstance(m, _BatchNorm)]
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert state.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


class Odd(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    'norm, expected',
    [
        (nn.BatchNorm1d(4), True),
        (nn.SyncBatchNorm(4), True),
        (nn.BatchNorm2d(4, affine=False), False),
        (nn.BatchNorm2d(4, track_running_stats=False), False),
        (Odd(4), False),
        (nn.GroupNorm(2, 4), False),
        (nn.Identity(), False),
    ],
)
def test_which_norms_fold(norm, expected):
    assert can_fold(norm) is expected


def channels_last(model: nn.Module) -> list[nn.Conv2d]:
    """The convolutions whose weights lie in memory like that, and in no other way."""
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    return [m for m in convs if not m.weight.is_contiguous()]


@pytest.mark.parametrize('name', HEADS)
def test_deployed_copies(name, images):
    """Judged by float64 they are as near as the model itself."""
    inputs = as_input(images) / 255
    model = copy.deepcopy(detector(name))
    fast = copy_folded(model)
    assert not [m for m in fast.modules() if isinstance(m, _BatchNorm)]
    assert len(channels_last(fast)) > 10 and not channels_last(model)
    truth = maps_of(copy.deepcopy(detector(name)).double(), inputs.double())
    for ours, plain, exact in zip(
        maps_of(fast, inputs), maps_of(detector(name), inputs), truth, strict=True
    ):
        least = max(relative_error(plain.double(), exact), 1e-6)
        assert relative_error(ours.double(), exact) < 3 * least
    state, before = model.state_dict(), detector(name).state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], before[key]) for key in state)


def test_a_copy_shares_hooks(lively):
    """A bound method would otherwise be copied with its object."""

    class Seen(list):
        def __deepcopy__(self, memo):
            raise AssertionError

        def before(self, module, args):
            self.append(module)

        def after(self, module, args, output):
            self.append(module)

    model, seen = (
        lively(nn.Sequential(ConvModule(3, 4, 3, norm_cfg=dict(type='BN')))),
        Seen(),
    )
    model.register_forward_pre_hook(seen.before)
    model[0].register_forward_hook(seen.after)
    fast = copy_folded(model.eval())
    fast(torch.rand(1, 3, 8, 8))
    assert seen == [fast, fast[0]] and not isinstance(fast[0].norm, _BatchNorm)


def test_the_memory_format_of_other_devices_stays(monkeypatch):
    monkeypatch.delenv(compute_options.FORMAT_VARIABLE, raising=False)
    monkeypatch.setattr(compute_options, '_decided', {})
    monkeypatch.setattr(compute_options, '_overrides', None)
    conv = nn.Conv2d(4, 4, 3, device='meta')
    assert set_memory_format(conv).weight.is_contiguous()


def test_the_memory_format_of_models_with_ops_of_mmcv_stays():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), RoIAlign(7))
    assert not channels_last(set_memory_format(model))
    assert channels_last(set_memory_format(model[:1]))


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Of all parameters and losses, in float64, from a step on two images."""
    dtype = next(model.parameters()).dtype
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, *SIZE), generator=g)
    boxes = torch.tensor(  # image, class, x1, y1, x2, y2
        [[0, 0, 4, 6, 40, 50], [0, 1, 30, 20, 90, 60], [1, 2, 10, 10, 70, 52]],
        dtype=dtype,
    )
    batch = dict(inputs=images, data_samples=dict(bboxes_labels=boxes, img_metas=[]))
    torch.set_default_dtype(dtype)
    try:
        data = model.data_preprocessor(batch, True)
        total, losses = model.parse_losses(model(**data, mode='loss'))
        total.backward()
    finally:
        torch.set_default_dtype(torch.float32)
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: x.detach().double() for name, x in {**losses, **found}.items()}


@pytest.mark.parametrize('name', HEADS)
def test_training_in_the_memory_format(name):
    """Judged by float64, losses and gradients are as near as the plain model's."""

    def of(dtype, change=lambda model: model):
        return gradients(change(copy.deepcopy(detector(name)).to(dtype)).train())

    def checkpointed(model):
        model.backbone.with_cp = True
        return set_memory_format(model)

    truth, plain = of(torch.float64), of(torch.float32)
    # A shift before a BatchNorm or of all keys has none but for rounding.
    least = 1e-12 * max(x.norm() for x in truth.values())
    names = [key for key in truth if truth[key].norm() > least]
    assert len(names) > 200

    def errors(found):
        assert found.keys() == truth.keys()
        return torch.tensor([
            (found[key] - truth[key]).norm() / truth[key].norm()
            for key in names
        ])  # fmt: skip

    for change in (set_memory_format, checkpointed):
        ours = errors(of(torch.float32, change))
        # A single one may be far off in either where an activation rounds across 0.
        assert ours.mean() < 3 * errors(plain).mean() and ours.max() < 0.05


# --------------------------------------------------------------------- candidates


def by_mmyolo(model: nn.Module, images, **test_cfg):
    """Candidates by MMYOLO's own preprocessing and decoding, for each image."""
    inputs = preprocessed(model, images)
    metas = [dict(ori_shape=SIZE, scale_factor=(1.0, 1.0)) for _ in images]
    cfg = copy.deepcopy(model.bbox_head.test_cfg)
    cfg.update(score_thr=0.0, nms_pre=10**6, **test_cfg)
    with torch.no_grad():
        maps = model.bbox_head(model.neck(model.backbone(inputs)))
        return model.bbox_head.predict_by_feat(
            *maps, batch_img_metas=metas, cfg=cfg, rescale=False, with_nms=False
        )


def assert_same(candidates, found):
    """Boxes (N, 4) and scores (N, C) are those that MMYOLO lists by falling score."""
    boxes, scores = candidates
    boxes = boxes.clone()
    boxes[:, 0::2].clamp_(0, SIZE[1])
    boxes[:, 1::2].clamp_(0, SIZE[0])
    ours = scores[scores > 0].sort().values.flip(0)
    assert len(found) == len(ours) > 100 and 0.05 < ours[0] < 1
    assert torch.allclose(found.scores, ours, atol=1e-5)
    apart = torch.cdist(found.bboxes, boxes, p=1)
    apart += 100 * (found.scores[:, None] - scores.T[found.labels]).abs()
    assert apart.min(1).values.max() < 5e-3


@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize('multi_label', [True, False])
def test_candidates_are_mmyolos(name, multi_label, images, monkeypatch):
    model = detector(name)
    monkeypatch.setattr(model.bbox_head, 'test_cfg', copy.deepcopy(model.test_cfg))
    model.bbox_head.test_cfg.multi_label = multi_label
    wanted = by_mmyolo(model, images)
    candidates = Candidates(model)
    with torch.no_grad():
        boxes, scores = candidates(as_input(images))
    assert boxes.shape == (2, scores.shape[1], 4)
    assert scores.shape[2] == model.bbox_head.num_classes
    for image, found in enumerate(wanted):
        assert_same((boxes[image], scores[image]), found)
    if not multi_label:
        assert ((scores > 0).sum(2) == 1).all()


def test_best_class_among_equals(images):
    """Where scores are equal the first class is taken, as by MMYOLO."""
    model = copy.deepcopy(detector('yolov8_nextvit_s'))
    for level in model.bbox_head.head_module.cls_preds:
        level[-1].weight.data.zero_()
        level[-1].bias.data.fill_(40.0)  # 1.0 after the sigmoid
    model.bbox_head.test_cfg.multi_label = False
    with torch.no_grad():
        _, scores = Candidates(model)(as_input(images))
    assert (scores[..., 0] == 1).all() and not scores[..., 1:].any()
    for found in by_mmyolo(model, images):
        assert not found.labels.any() and len(found) == scores.shape[1]


@pytest.mark.parametrize('bgr_to_rgb', [True, False])
def test_order_of_channels(bgr_to_rgb, images):
    """Three different means and standard deviations, for RGB and for BGR networks."""
    cfg = small_config('yolov5_nextvit_s', classes=3)
    mean, std = [100.0, 50.0, 10.0], [30.0, 60.0, 120.0]
    cfg.model.data_preprocessor.update(mean=mean, std=std, bgr_to_rgb=bgr_to_rgb)
    model = lively_detector(cfg)
    with torch.no_grad():
        boxes, scores = Candidates(model)(as_input(images))
    for image, found in enumerate(by_mmyolo(model, images)):
        assert_same((boxes[image], scores[image]), found)
    order = slice(None, None, 1 if bgr_to_rgb else -1)
    assert get_mean_and_std(model) == (mean[order], std[order])  # always as R, G, B


def test_half_precision(images):
    model = detector('yolov5_nextvit_s')
    half = Candidates(model, half=True)
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    with torch.no_grad():
        boxes, scores = half(as_input(images))
        wanted_boxes, wanted_scores = Candidates(model)(as_input(images))
    assert boxes.dtype == scores.dtype == torch.float32
    assert 0 < (scores - wanted_scores).abs().max() < 0.02
    sides = wanted_boxes[..., 2:] - wanted_boxes[..., :2]
    apart = (boxes - wanted_boxes).abs().amax(2)
    assert 0 < (apart / (1 + sides.amax(2))).max() < 0.02


# ----------------------------------------------------------------------- metadata


def test_metadata():
    cfg = small_config('yolov5_nextvit_s_demo')
    model = lively_detector(cfg)
    size = round_up((50, 96))
    metadata = build_metadata(
        resize_test_pipeline(cfg, size), model, ['a', 'b', 'c'], size, batch=None
    )
    assert metadata['classes'] == ['a', 'b', 'c'] and metadata['strides'] == [8, 16, 32]
    sizes = cfg.model.bbox_head.prior_generator.base_sizes
    assert metadata['anchors'] == [[list(wh) for wh in level] for level in sizes]
    assert metadata['input']['size'] == [64, 96] and metadata['input']['batch'] is None
    assert metadata['normalization']['std'] == pytest.approx([255] * 3)
    assert metadata['nms'] == {
        'in_graph': True,
        'score_thr': 0.001,
        'iou_threshold': 0.1,
        'max_per_img': 300,
        'multi_label': False,
        'nms_pre': 30000,
    }
    model.bbox_head.test_cfg.update(multi_label=True, nms=dict(iou_threshold=0.5))
    labelled = build_metadata(cfg, model, ['a', 'b', 'c'], size)['nms']
    assert labelled['multi_label'] and labelled['iou_threshold'] == 0.5
    assert metadata['resize'] == [
        {'type': 'keep_ratio', 'scale': [96, 64]},
        {
            'type': 'letterbox',
            'size': [64, 96],
            'fill': 114,
            'scale_up': False,
            'mini_pad': False,
        },
    ]
    assert {'mmnextvit', 'torch', 'mmdet', 'mmyolo'} <= metadata['versions'].keys()
    other = build_metadata(cfg, detector(HEADS[1]), ['a'] * 80, size)
    assert other['anchors'] is None


def test_sizes():
    assert round_up((1, 33)) == (32, 64) and round_up((640, 96)) == (640, 96)
    with pytest.raises(ValueError, match=r'size 0 64 \(--imgsz\): both must be pos'):
        round_up((0, 64))
    cfg = small_config('yolov8_nextvit_s')
    assert read_input_size(cfg) == (640, 640)
    resized = resize_test_pipeline(cfg, (64, 96))
    assert read_input_size(resized) == (64, 96)
    assert read_input_size(cfg) == (640, 640)  # the config itself stays
    assert (
        resize_test_pipeline(cfg, (64, 96)).test_dataloader.dataset.batch_shapes_cfg
        is None
    )


def test_what_cannot_be_exported():
    cfg = small_config('yolov5_nextvit_s')

    def refused(message, change, function):
        changed = copy.deepcopy(cfg)
        change(changed)
        with pytest.raises(ValueError, match=message):
            function(changed)

    def pipeline(c):
        return c.test_dataloader.dataset.pipeline

    refused(
        'the test pipeline has mmdet.RandomFlip; .*YOLOv5KeepRatioResize and Letter',
        lambda c: pipeline(c).insert(2, dict(type='mmdet.RandomFlip')),
        read_input_size,
    )
    refused('must end in LetterResize', lambda c: pipeline(c).pop(2), read_input_size)
    for odd, message in [
        (dict(stretch_only=True), 'LetterResize with stretch_only or'),
        (dict(pad_val=dict(img=(1, 2, 3))), 'or a pad_val by channel'),
        (dict(interpolation='nearest'), "with interpolation='nearest', backend='cv2'"),
    ]:
        refused(
            message, lambda c, odd=odd: pipeline(c)[2].update(odd), describe_resizing
        )
    refused(
        "LoadImageFromFile has color_type='grayscale'",
        lambda c: pipeline(c)[0].update(color_type='grayscale'),
        read_input_size,
    )
    refused(
        'test_dataloader.dataset has no pipeline',
        lambda c: c.test_dataloader.dataset.pop('pipeline'),
        read_input_size,
    )


@pytest.mark.parametrize(
    'test_cfg, message',
    [
        (
            dict(nms=dict(type='soft_nms')),
            r'model.test_cfg.nms: it is \{.*class by class',
        ),
        (dict(nms=dict(class_agnostic=True)), r'model.test_cfg.nms: it is \{'),
        (dict(yolox_style=True), r"model.test_cfg: it has \['yolox_style'\]"),
        (dict(min_bbox_size=8), r"model.test_cfg: it has \['min_bbox_size'\]"),
        (dict(nms_pre=100), 'nms_pre: it is 100: .* where it is at least 3000'),
    ],
)
def test_test_configs_that_files_do_not_follow(test_cfg, message):
    cfg = small_config('yolov5_nextvit_s')
    model = copy.deepcopy(detector('yolov5_nextvit_s'))
    classes = ['a'] * 80
    build_metadata(cfg, model, classes, (64, 64))
    for key, value in test_cfg.items():
        if isinstance(value, dict):
            model.bbox_head.test_cfg[key].update(value)
        else:
            model.bbox_head.test_cfg[key] = value
    with pytest.raises(ValueError, match=message):
        build_metadata(cfg, model, classes, (64, 64))


def test_classes_without_names():
    cfg, model = small_config(HEADS[0]), detector(HEADS[0])
    with pytest.raises(ValueError, match='2 classes have names, and the head has'):
        build_metadata(cfg, model, ['a', 'b'], (64, 64))


def test_heads_that_cannot_be_exported():
    from mmyolo.models.dense_heads import RTMDetInsSepBNHead

    masks = RTMDetInsSepBNHead.__new__(RTMDetInsSepBNHead)
    for head, message in [
        (masks, 'RTMDetInsSepBNHead cannot be exported: .*only one whose masks can'),
        (nn.Conv2d(1, 1, 1), 'Conv2d cannot be exported: .*YOLOv5, YOLOv8, RTMDet'),
        (None, 'Identity cannot be exported'),
    ]:
        model = nn.Identity()
        nn.Module.__init__(masks)
        model.bbox_head = head
        with pytest.raises(ValueError, match=message):
            check_head(model)


def test_a_test_pipeline_with_half_of_the_padding():
    """MMYOLO's recipes for masks have it; boxes come back by it."""
    cfg = small_config('yolov5_nextvit_s')
    cfg.test_dataloader.dataset.pipeline[2].half_pad_param = True
    steps = describe_resizing(resize_test_pipeline(cfg, (64, 96)))
    assert steps[-1]['half_pad']
    layout = lay_out((31, 50), steps)
    assert layout.pad == (2, 0) and layout.origin == (2.5, 0.0)
