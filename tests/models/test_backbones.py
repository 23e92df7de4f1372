"""The contract of a backbone, which every backbone of ours keeps."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import mmnextvit
from mmnextvit import NextViT, TimmFeatures

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.conftest import TINY


@dataclass(frozen=True)
class Backbone:
    """A backbone, and what is expected of it.

    Attributes:
        build: Makes it, with more arguments.
        channels: Of its maps.
        strides: Of its maps, in pixels of the image.
        frozen: By how much is frozen: beginnings of the frozen parameters' names.
        freeze: Name of the argument that freezes.
        odd_size: Height and width of an image that strides do not divide, or, where
            only multiples fit, of one that is not square.
        rounding: What rounds the maps' sizes then.
        without_gradient: Ends of names of parameters whose gradient is zero but for
            rounding errors, because a softmax takes them out again.
    """

    build: Callable[..., nn.Module]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    frozen: dict[int, tuple[str, ...]]
    freeze: str = 'frozen_stages'
    odd_size: tuple[int, int] = (65, 97)
    rounding: Callable[[float], int] = math.ceil
    without_gradient: tuple[str, ...] = ()

    def __call__(self, **options: object) -> nn.Module:
        torch.manual_seed(0)
        return self.build(**options)


def timm_model(name: str, **kwargs: object) -> Callable[..., nn.Module]:
    return lambda **options: TimmFeatures(name, **kwargs, **options)


def nextvit(**kwargs: object) -> Callable[..., nn.Module]:
    return lambda **options: NextViT(
        **dict(arch=TINY, drop_path_rate=0), **kwargs, **options
    )


ROWS = [
    [-1, 1, 'Conv', [16, 6, 2, 2]],
    [-1, 1, 'Conv', [32, 3, 2]],
    [-1, 3, 'C3', [32]],
    [-1, 1, 'Conv', [64, 3, 2]],
    [-1, 3, 'C3', [64]],
    [-1, 1, 'SPPF', [64, 5]],
]
NEXTVIT_PARTS = ('stem', 'features.0.', 'features.1. features.2.',
                 ' '.join(f'features.{i}.' for i in range(3, 8)),
                 'features.8. features.9. norm')  # fmt: skip


def parts(*names: str) -> dict[int, tuple[str, ...]]:
    """Names of the frozen parts, by ``frozen_stages``; -1 freezes nothing."""
    return {
        last: tuple(' '.join(names[: last + 1]).split())
        for last in range(-1, len(names))
    }


BACKBONES = {
    'NextViT': Backbone(
        nextvit(),
        channels=(32, 128, 128, 128),
        strides=(4, 8, 16, 32),
        frozen=parts(*NEXTVIT_PARTS),
        without_gradient=('e_mhsa.k.bias',),
    ),
    'NextViT, two maps': Backbone(
        nextvit(out_indices=(0, 2)),
        channels=(32, 128),
        strides=(4, 16),
        frozen=parts(*NEXTVIT_PARTS[:-1]),
        without_gradient=('e_mhsa.k.bias',),
    ),
    'ResNet': Backbone(
        timm_model('resnet10t'),
        channels=(64, 128, 256, 512),
        strides=(4, 8, 16, 32),
        frozen=parts(
            'model.conv1 model.bn1', *(f'model.layer{i}' for i in range(1, 5))
        ),
    ),
    'ConvNeXt': Backbone(
        timm_model('convnext_atto'),
        channels=(40, 80, 160, 320),
        strides=(4, 8, 16, 32),
        frozen=parts('model.stem_', *(f'model.stages_{i}' for i in range(4))),
        rounding=math.floor,
    ),
    'Swin': Backbone(
        timm_model(
            'swin_tiny_patch4_window7_224',
            embed_dim=24,
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 4, 8),
        ),  # fmt: skip
        channels=(24, 48, 96, 192),
        strides=(4, 8, 16, 32),
        frozen=parts('model.patch_embed', *(f'model.layers_{i}' for i in range(4))),
        odd_size=(64, 96),
    ),
    'EfficientNet': Backbone(
        timm_model('test_efficientnet', strides=(8, 32)),
        channels=(32, 64),
        strides=(8, 32),
        frozen=parts(
            'model.conv_stem model.bn1 model.blocks.0',
            *(f'model.blocks.{i}' for i in range(1, 5)),
        ),
    ),
    'YOLOv5 rows': Backbone(
        lambda **o: mmnextvit.YOLOv5YAMLBackbone(ROWS, out_rows=(2, 5), **o),
        channels=(32, 64),
        strides=(4, 8),
        frozen={
            count: tuple(f'rows.{i}.' for i in range(count))
            for count in range(len(ROWS) + 1)
        },
        freeze='frozen_rows',
        odd_size=(72, 40),
    ),
}


@pytest.fixture(params=BACKBONES.values(), ids=BACKBONES)
def backbone(request) -> Backbone:
    return request.param


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def sum_squares(maps: tuple[Tensor, ...]) -> Tensor:
    return sum(y.square().mean() for y in maps)


@pytest.mark.slow
def test_maps_are_a_tuple_of_the_published_channels_and_strides(backbone):
    model = backbone()
    assert model.out_channels == backbone.channels
    assert model.strides == backbone.strides
    for mode in (True, False):
        maps = model.train(mode)(images(64, 96))
        assert isinstance(maps, tuple)
        shapes = [
            (2, c, 64 // s, 96 // s)
            for c, s in zip(backbone.channels, backbone.strides, strict=True)
        ]
        assert [tuple(y.shape) for y in maps] == shapes


@pytest.mark.slow
def test_maps_of_odd_sizes_are_rounded(backbone):
    with torch.no_grad():
        maps = backbone().eval()(images(*backbone.odd_size))
    for y, stride in zip(maps, backbone.strides, strict=True):
        expected = [backbone.rounding(side / stride) for side in backbone.odd_size]
        assert list(y.shape[-2:]) == expected
        assert y.isfinite().all()


@pytest.mark.slow
def test_train_and_eval_return_the_model(backbone):
    model = backbone()
    assert model.training
    assert model.eval() is model and not any(m.training for m in model.modules())
    assert model.train() is model and all(m.training for m in model.modules())
    assert model.train(False) is model and not model.training


@pytest.mark.slow
def test_every_trainable_parameter_gets_a_gradient(backbone, lively):
    model = lively(backbone())
    assert all(p.requires_grad for p in model.parameters())
    sum_squares(model(images())).backward()
    for name, param in model.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all(), name
        zero_allowed = name.endswith(backbone.without_gradient)
        assert zero_allowed or param.grad.abs().sum() > 0, name


@pytest.mark.slow
def test_frozen_parts_are_in_eval_mode_and_do_not_train(backbone, lively):
    for how_much, names in backbone.frozen.items():
        model = lively(backbone(**{backbone.freeze: how_much}))
        assert model.eval().train() is model
        for name, param in model.named_parameters():
            is_frozen = name.startswith(names)
            assert param.requires_grad != is_frozen, (how_much, name)
        for name, module in model.named_modules():
            if not [*module.children()]:
                is_frozen = name.startswith(names)
                has_params = bool([*module.parameters()])
                assert not (is_frozen and module.training), (how_much, name)
                assert is_frozen or module.training or not has_params, (how_much, name)
        before = copy.deepcopy(model.state_dict())
        loss = sum_squares(model(images()))
        if loss.requires_grad:
            loss.backward()
        for name, value in model.state_dict().items():
            if name.startswith(names):
                assert torch.equal(value, before[name]), (how_much, name)
        for name, param in model.named_parameters():
            assert (param.grad is not None) == param.requires_grad, (how_much, name)


@pytest.mark.slow
def test_what_cannot_be_frozen_is_refused(backbone):
    for how_much in (min(backbone.frozen) - 1, max(backbone.frozen) + 1):
        message = f'{backbone.freeze}.*{how_much}.*allowed'
        with pytest.raises(ValueError, match=message):
            backbone(**{backbone.freeze: how_much})


@pytest.mark.slow
def test_a_copy_computes_the_same_and_shares_nothing(backbone, lively):
    model = lively(backbone()).eval()
    copied = copy.deepcopy(model)
    x = images()
    with torch.no_grad():
        expected = model(x)
        for a, b in zip(copied(x), expected, strict=True):
            assert torch.equal(a, b)
        for param in copied.parameters():
            param.zero_()
        for a, b in zip(model(x), expected, strict=True):
            assert torch.equal(a, b)
    assert not {id(m) for m in model.modules()} & {id(m) for m in copied.modules()}


@pytest.mark.slow
def test_a_copy_freezes_its_own_parts(backbone):
    how_much = max(backbone.frozen)
    model = backbone(**{backbone.freeze: how_much})
    copied = copy.deepcopy(model)
    for module in (*model.modules(), *copied.modules()):
        module.training = True
    copied.train()
    for module in copied.modules():
        if isinstance(module, _BatchNorm):
            assert not module.training
    assert all(m.training for m in model.modules())


@pytest.mark.slow
def test_a_state_dict_makes_another_model_compute_the_same(backbone, lively, tmp_path):
    model = lively(backbone()).eval()
    torch.save(model.state_dict(), tmp_path / 'state.pth')
    torch.manual_seed(1)
    other = backbone.build().eval()
    state = torch.load(tmp_path / 'state.pth', weights_only=True)
    assert not any(other.load_state_dict(state, strict=True))
    with torch.no_grad():
        for a, b in zip(other(images()), model(images()), strict=True):
            assert torch.equal(a, b)
