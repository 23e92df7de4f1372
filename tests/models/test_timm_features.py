"""Backbones of timm against timm's own models, alone and in whole detectors."""

import copy
import re

from mmnextvit.models.timm_features import TimmFeatures, get_timm_mean_std
from mmnextvit.models.timm_maps import plan_maps
from mmnextvit.weights.layouts import to_yolov5
from mmnextvit.weights.loading import adapt, check, find_numbering

import pytest
import timm
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.runner import CheckpointLoader
from mmyolo.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.helpers.timm_families import DETECTORS, FAMILIES, MAXVIT, SWIN

families = pytest.mark.parametrize('name', FAMILIES)
SIZE = (128, 256)


def build(model_name: str, **options) -> TimmFeatures:
    torch.manual_seed(0)
    return TimmFeatures(model_name, **{**FAMILIES.get(model_name, {}), **options})


def pretrained(path, name: str = 'resnet10t', partial: bool = False, **options):
    checkpoint = dict(type='Pretrained', checkpoint=str(path), partial=partial)
    model = build(name, init_cfg=checkpoint, **options)
    model.init_weights()
    return model


def detector(load_config, backbone: dict) -> nn.Module:
    cfg = load_config('yolov5_nextvit_s')
    cfg.model.backbone = dict(type='mmdet.TimmFeatures', **backbone)
    cfg.model.bbox_head.head_module.num_classes = 3
    return MODELS.build(cfg.model)


def intermediates(model: nn.Module, x: torch.Tensor, out_indices: list[int]) -> list:
    """A classifier's maps by timm's other way of having them, in BCHW."""
    return model.forward_intermediates(
        x, indices=out_indices, output_fmt='NCHW', intermediates_only=True
    )


@pytest.fixture
def log(monkeypatch):
    """The receipts that go to the log, with their levels."""
    receipts = []

    def handle(record):
        if 'sha256' in record.getMessage():
            receipts.append((record.levelname, record.getMessage()))

    monkeypatch.setattr(MMLogger.get_instance('timm'), 'handle', handle)
    return receipts


@pytest.mark.slow
@families
def test_gives_timms_maps(name, lively):
    """In BCHW, with the published channels and strides, every parameter in use."""
    ours = lively(build(name))
    kwargs = {**ours.kwargs, 'out_indices': ours.out_indices}
    theirs = timm.create_model(name, features_only=True, **kwargs).eval()
    theirs.load_state_dict(ours.model.state_dict())
    x = torch.randn(2, 3, *SIZE)
    maps = ours.eval()(x)
    with torch.no_grad():
        expected = theirs(x)
    assert isinstance(maps, tuple)
    for y, z, channels, stride in zip(
        maps, expected, ours.out_channels, ours.strides, strict=True
    ):
        assert y.shape == (2, channels, SIZE[0] // stride, SIZE[1] // stride)
        z = z.permute(0, 3, 1, 2) if z.shape[1] != channels else z
        torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-5)
    sum(y.square().mean() for y in maps).backward()
    for name, param in ours.named_parameters():
        assert (param.grad is not None) == param.requires_grad, name


@pytest.mark.slow
@pytest.mark.parametrize('name', DETECTORS)
def test_in_a_detector_every_parameter_is_trained(name, load_config):
    model = detector(load_config, dict(model_name=name, **FAMILIES[name])).train()
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True)
    cfg = dict(
        type='OptimWrapper',
        constructor='ThreeGroupOptimWrapperConstructor',
        optimizer=optimizer,
    )
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    grouped = [id(p) for group in groups for p in group['params']]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert len(grouped) == len(trainable) and set(grouped) == trainable

    boxes = torch.tensor([[0, 0, 10, 20, 60, 90], [1, 2, 30, 10, 120, 100.0]])
    samples = dict(bboxes_labels=boxes, img_metas=[dict(batch_input_shape=SIZE)] * 2)
    losses = model(torch.rand(2, 3, *SIZE), samples, mode='loss')
    sum(loss.sum() for key, loss in losses.items() if 'loss' in key).backward()
    for key, param in model.named_parameters():
        if param.requires_grad:
            assert param.grad is not None and param.grad.isfinite().all(), key
    model.eval()
    meta = dict(ori_shape=SIZE, img_shape=SIZE, scale_factor=(1.0, 1.0))
    with torch.no_grad():
        found = model.predict(
            torch.rand(1, 3, *SIZE), [DetDataSample(metainfo=dict(meta))]
        )
    assert found[0].pred_instances.bboxes.shape[1] == 4


@pytest.mark.slow
def test_the_choice_of_maps():
    by_index = build('resnet10t', out_indices=(0, 3))
    by_stride = build('resnet10t', strides=[2, 16])
    assert by_index.out_indices == by_stride.out_indices == (0, 3)
    assert by_index.strides == by_stride.strides == (2, 16)
    assert by_index.out_channels == by_stride.out_channels == (64, 256)
    assert build('resnet10t').strides == (4, 8, 16, 32)
    assert build('test_vit', strides=None).out_indices == (5,)
    assert len(build('resnet10t')(torch.rand(1, 3, 65, 97))) == 4  # an odd size


@pytest.mark.slow
def test_layers_of_maps_that_are_left_out_are_not_trained():
    model = build('hrnet_w18_small')
    still = {n for n, p in model.named_parameters() if not p.requires_grad}
    parts = {re.sub(r'^model\.(\w+)\.(.*?)(\d)\..*', r'\1 \2\3', n) for n in still}
    assert 'incre_modules 0' in parts and 'incre_modules 1' not in parts
    # the branch of stride 4 is still computed, as the others read it
    assert all(n.split('.')[1] in ('incre_modules', 'stage4') for n in still)
    assert all(p.requires_grad for p in build('resnet10t').parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, options, expected',
    [
        ('resnet10t', {}, ['conv1 bn1', 'layer1', 'layer2', 'layer3', 'layer4']),
        ('resnet10t', dict(strides=(16,)), ['conv1 bn1', 'layer1', 'layer2', 'layer3']),
        ('convnext_atto', {}, ['stem_', *(f'stages_{i}' for i in range(4))]),
        ('swin_tiny_patch4_window7_224', SWIN,
         ['patch_embed', *(f'layers_{i}' for i in range(4))]),
        ('test_efficientnet', {},
         ['conv_stem bn1 blocks.0', *(f'blocks.{i}' for i in range(1, 5))]),
        ('test_vit', dict(strides=(16,)),
         ['model.patch_embed model.pos_embed model.cls_token',
          *(f'model.blocks.{i}.' for i in range(6))]),
    ],
)  # fmt: skip
def test_frozen_stages(name, options, expected, lively):
    for stages in (-1, 0, 2, len(expected) - 1):
        model = lively(build(name, frozen_stages=stages, **options))
        parts = ' '.join(expected[: stages + 1]).split()
        prefixes = tuple(f'model.{part}' for part in parts)
        for key, param in model.named_parameters():
            assert param.requires_grad != key.startswith(prefixes), (stages, key)
        assert model.train() is model
        for key, module in model.named_modules():
            if key and [*module.parameters()]:
                frozen = not any(p.requires_grad for p in module.parameters())
                assert module.training != frozen, key
    before = copy.deepcopy(model.state_dict())
    model(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_norm_eval():
    model = build('resnet10t', norm_eval=True).train()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    assert norms and not any(m.training for m in norms)
    assert model.model.conv1.training and model.model.layer1.training
    assert all(p.requires_grad for p in model.parameters())
    assert model.eval() is model


@pytest.mark.slow
def test_norm_cfg():
    model = build('resnet10t', norm_cfg=dict(type='BN', eps=1e-3, momentum=0.03))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}
    untouched = [m for m in build('resnet10t').modules() if isinstance(m, _BatchNorm)]
    assert {(m.eps, m.momentum) for m in untouched} == {(1e-5, 0.1)}


@pytest.mark.parametrize('model_name', ['tf_efficientnet_lite0', 'resnet18', 'vgg11'])
def test_init_std(model_name):
    """Of what a norm follows alone: without norms the maps of VGG would fade."""
    usual, changed = build(model_name), build(model_name, init_std=0.02)
    changed.init_weights()
    weights = dict(changed.named_parameters())
    for key, weight in usual.named_parameters():
        is_conv = weight.ndim == 4 and key.replace('weight', 'bias') not in weights
        if not is_conv:
            torch.testing.assert_close(weights[key], weight, rtol=0, atol=0)
        elif weight.numel() > 2000:
            assert weights[key].std().item() == pytest.approx(0.02, rel=0.1)
    image = torch.randn(2, 3, 64, 64)
    for mine, timms in zip(changed(image), usual(image)):
        assert (mine.std() / timms.std()).item() == pytest.approx(1, abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    ['resnet10t', 'test_efficientnet', 'convnext_atto', 'test_vit'],
)
def test_checkpointing_changes_neither_gradients_nor_statistics(name, lively):
    plain, saving = lively(build(name)), lively(build(name, with_cp=True))
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for _ in range(2):
        for model in (plain.train(), saving.train()):
            model.zero_grad()
            torch.manual_seed(0)
            sum(y.square().mean() for y in model(x)).backward()
    saved = dict(saving.named_parameters())
    for key, param in plain.named_parameters():
        torch.testing.assert_close(param.grad, saved[key].grad, msg=key)
    for key, value in plain.state_dict().items():
        if 'num_batches' not in key:  # which nothing depends on
            torch.testing.assert_close(value, saving.state_dict()[key], msg=key)
    with torch.no_grad():
        for y, z in zip(plain.eval()(x), saving.eval()(x), strict=True):
            torch.testing.assert_close(y, z)


@pytest.mark.slow
def test_checkpointing_saves_memory():
    """Fewer tensors wait for the backward pass."""
    waiting = []
    for with_cp in (False, True):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t
        ):
            build('convnext_atto', with_cp=with_cp)(torch.rand(1, 3, 64, 64))
        waiting.append(len(kept))
    assert waiting[1] < 0.7 * waiting[0]  # timm leaves the first and last part alone


@pytest.mark.slow
def test_mean_and_std_in_the_configs_units():
    model = build('convnext_atto')
    assert model.mean == [123.675, 116.28, 103.53]
    assert model.std == [58.395, 57.12, 57.375]
    other = get_timm_mean_std('mobilenetv3_small_050.lamb_in1k')
    cfg = timm.get_pretrained_cfg('mobilenetv3_small_050.lamb_in1k')
    assert other['std'] == pytest.approx([255 * x for x in cfg.std], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    'options, message',
    [
        (dict(model_name='resnet51'), "no model 'resnet51': did you mean .*resnet50"),
        (dict(model_name='resnet18.a1_in1kk'), r'did you mean .*resnet18\.a1_in1k'),
        (dict(pretrained=True), r"Pretrained', checkpoint='timm://resnet10t'"),
        (dict(out_indices=(1,), strides=(4,)), r'not both.*\[2, 4, 8, 16, 32\]'),
        (dict(out_indices=(3, 1)), 'out_indices.*increasing.*0 to 4'),
        (dict(out_indices=(1, 5)), 'out_indices.*0 to 4 have the strides'),
        (dict(out_indices=()), 'out_indices=.*allowed'),
        (dict(strides=(4, 64)), r'strides=\(4, 64\).*\[2, 4, 8, 16, 32\]'),
        (dict(frozen_stages=5), 'frozen_stages=5.*0 .the stem. to 4'),
        (dict(frozen_stages=-2), 'frozen_stages=-2.*allowed'),
        (dict(out_indices=(0, 1), frozen_stages=2), 'frozen_stages=2.*to 1'),
        (dict(model_name='hrnet_w18_small', frozen_stages=1), 'one after another'),
        (dict(model_name='hrnet_w18_small', with_cp=True), 'leave with_cp out'),
        (dict(norm_cfg=dict(type='GN')), 'norm_cfg=.*allowed'),
    ],
    ids=lambda x: str(x)[:40],
)
def test_what_cannot_be_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        build(**{'model_name': 'resnet10t', **options})


def test_a_model_without_features_says_so(monkeypatch):
    """Every model of timm's has some by now, so one is made that has none."""

    def plain(pretrained=False, features_only=False, **kwargs):
        if features_only:
            raise RuntimeError('features_only not implemented for plain models.')

    monkeypatch.setitem(timm.models._registry._model_entrypoints, 'plain', plain)
    with pytest.raises(ValueError, match='no feature maps of plain.*not implemented'):
        TimmFeatures('plain')


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, options, size, message',
    [
        ('test_maxvit', MAXVIT, (96, 160), '96x160.*256x256 fit'),
        ('coat_lite_tiny', {}, (96, 96), r'224x224 fit, and img_size=\(96, 96\)'),
        ('mobilevitv2_050', {}, (96, 96), r'stride 32 has \(4, 4\) cells.*of 64'),
    ],
)
def test_a_size_that_does_not_fit_is_named(name, options, size, message):
    model = TimmFeatures(name, **options)
    with pytest.raises(ValueError, match=message):
        model(torch.rand(1, 3, *size))


def test_other_failures_stay_what_they_are():
    with pytest.raises(RuntimeError, match='channels'):
        build('resnet10t')(torch.rand(1, 4, 64, 64))


RECEIPTS = {
    'resnet10t': {},
    'convnext_atto': {},
    'mobilenetv3_small_050': {},
    'swin_tiny_patch4_window7_224': dict(SWIN, strict_img_size=False),
    'hrnet_w18_small': {},
    'test_vit': dict(strides=(16,)),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', RECEIPTS)
def test_a_timm_classifier_gives_timms_maps(name, tmp_path, lively, log):
    kwargs = {k: v for k, v in RECEIPTS[name].items() if k != 'strides'}
    theirs = lively(timm.create_model(name, **kwargs)).eval()
    torch.save(theirs.state_dict(), tmp_path / 'model.pth')
    ours = pretrained(tmp_path / 'model.pth', name).eval()
    level, text = log[-1]
    assert level == 'INFO' and f'{tmp_path / "model.pth"}: timm, sha256' in text
    assert re.search(r"(\d+) of the model's \1 tensors fit", text)
    assert re.search(r'left out, as the model has no place for them: .*', text)
    x = torch.randn(1, 3, 128, 128)
    out_indices = [*ours.out_indices]
    with torch.no_grad():
        expected = intermediates(theirs, x, out_indices)
        for y, z in zip(ours(x), expected, strict=True):
            torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-5)

    # timm's features_only model and our own file bring the same
    for i, state in enumerate((ours.model.state_dict(), ours.state_dict())):
        torch.save(state, tmp_path / f'{i}.pth')
        again = pretrained(tmp_path / f'{i}.pth', name)
        for key, value in again.state_dict().items():
            assert torch.equal(value, ours.state_dict()[key]), key
        assert 'left out' not in log[-1][1]


def microsofts(key: str) -> str:
    """Swin's first names: each downsampling at the end of the stage before."""
    key = re.sub(
        r'layers\.(\d)\.downsample',
        lambda m: f'layers.{int(m[1]) - 1}.downsample',
        key,
    )
    return key.replace('head.fc.', 'head.')


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, options, renamed',
    [
        ('swin_tiny_patch4_window7_224', SWIN, microsofts),
        ('test_vit', dict(img_size=96), str),  # fewer positions than in the file
    ],
)
def test_what_timm_converts_is_converted(name, options, renamed, tmp_path):
    path = tmp_path / 'old.pth'
    kwargs = {k: v for k, v in options.items() if k != 'img_size'}
    state = timm.create_model(name, **kwargs).state_dict()
    torch.save({renamed(k): v for k, v in state.items()}, path)
    ours = pretrained(path, name, **options)
    theirs = timm.create_model(
        name,
        features_only=True,
        pretrained=True,
        pretrained_cfg_overlay=dict(file=str(path)),
        **{**ours.kwargs, 'out_indices': ours.out_indices},
    )
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, ours.model.state_dict()[key]), key


@pytest.mark.slow
def test_a_file_of_another_model_is_refused_unless_partial(tmp_path, log):
    state = timm.create_model('resnet18').state_dict()
    torch.save(state, tmp_path / 'other.pth')
    wanted = 'other.pth: the weights do not fit, and all of the backbone must'
    with pytest.raises(ValueError, match=wanted):
        pretrained(tmp_path / 'other.pth')
    with pytest.raises(ValueError, match="0 of the model's"):
        pretrained(tmp_path / 'other.pth', 'convnext_atto')
    partly = pretrained(tmp_path / 'other.pth', partial=True)
    level, text = log[-1]
    assert level == 'WARNING' and re.search(r'layer1 \d+/\d+', text)
    weight = partly.model.layer1[0].conv1.weight
    assert torch.equal(weight, state['layer1.0.conv1.weight'])
    assert partly.model.conv1[0].weight.shape == (24, 3, 3, 3)


@pytest.mark.slow
def test_a_detectors_own_file(tmp_path, load_config, lively):
    backbone = dict(model_name='resnet10t')
    trained = lively(detector(load_config, backbone))
    torch.save(dict(state_dict=trained.state_dict(), meta={}), tmp_path / 'epoch.pth')
    content = CheckpointLoader.load_checkpoint(str(tmp_path / 'epoch.pth'), 'cpu')
    fresh = detector(load_config, backbone)
    receipt = adapt(content, fresh)
    check(receipt, None)
    assert receipt.layout == 'ours'
    fresh.load_state_dict(content['state_dict'])
    assert all(
        torch.equal(v, trained.state_dict()[k]) for k, v in fresh.state_dict().items()
    )

    # under YOLOv5's names, by rows
    state = to_yolov5(trained.state_dict(), find_numbering(trained))
    receipt = adapt(dict(state), detector(load_config, backbone))
    assert receipt.layout == 'yolov5' and receipt.fit.complete

    # the classifier as load_from fills the backbone only
    state = timm.create_model('resnet10t').state_dict()
    torch.save(state, tmp_path / 'timm.pth')
    content = CheckpointLoader.load_checkpoint(str(tmp_path / 'timm.pth'), 'cpu')
    receipt = adapt(content, fresh)
    check(receipt, 'backbone.')
    with pytest.raises(ValueError, match='not in the file: neck'):
        check(receipt, None)
    assert 'fc.weight' in str(receipt)


def test_registered_in_mmdetection():
    model = MMDET_MODELS.build(dict(type='mmdet.TimmFeatures', model_name='resnet10t'))
    assert isinstance(model, TimmFeatures)


def test_maps_are_planned_before_the_model_is_built():
    plan = plan_maps('resnet18', {}, strides=(8, 16), frozen_stages=1)
    assert plan.indices == (2, 3)
    assert [(x.channels, x.stride) for x in plan.maps] == [(128, 8), (256, 16)]
    first = {name.split('.')[0] for name in plan.frozen}
    assert first == {'conv1', 'bn1', 'layer1'}
    assert {name.split('.')[0] for name in plan.trained} == {'layer2', 'layer3'}
