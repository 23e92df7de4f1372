"""The backbone against timm's, float64, and references written here."""

import copy
import warnings

from mmnextvit import NextViT
from mmnextvit.models.nextvit import NCB, NTB
from mmnextvit.models.nextvit_layers import EMHSA, AddBranch

import pytest
import timm
import torch
from mmdet.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.timm_names import timm_names

# SPEC: arch, parameters, GMACs at 224 and 640, index of each stage's last block
SPEC = [
    ('small', 30_738_368, 5.79, 49.2, (2, 6, 16, 19)),
    ('base', 43_793_856, 8.27, 70.3, (2, 6, 26, 29)),
    ('large', 56_849_344, 10.75, 91.4, (2, 6, 36, 39)),
]
EVERY_ARCH = [
    'small',
    pytest.param('base', marks=pytest.mark.slow),
    pytest.param('large', marks=pytest.mark.slow),
]


@pytest.mark.parametrize('size', [(64, 64), (65, 97), (25, 25)])
@pytest.mark.parametrize('arch', EVERY_ARCH)
def test_gives_timms_maps(arch, size, lively, error):
    ours = lively(NextViT(arch, final_norm=False)).eval()
    theirs = timm.create_model(f'nextvit_{arch}', features_only=True).eval()
    theirs.load_state_dict(timm_names(ours.state_dict(), ours.arch['depths']))
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        for a, b in zip(ours(x), theirs(x), strict=True):
            assert a.shape == b.shape
            assert error(a, b) < 1e-5


@pytest.mark.slow
def test_gives_timms_gradients_in_training(lively, error):
    """In float64, where two right ways agree; and its running statistics."""
    ours = lively(NextViT('small', final_norm=False, drop_path_rate=0.0)).double()
    theirs = timm.create_model('nextvit_small', features_only=True, drop_path_rate=0.0)
    depths = ours.arch['depths']
    theirs.double().load_state_dict(timm_names(ours.state_dict(), depths))
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    for model in (ours, theirs):
        for m in model.modules():
            if isinstance(m, _BatchNorm):
                m.momentum = 0.1
        sum(y.square().mean() for y in model.train()(x)).backward()
    grads = {name: p.grad for name, p in ours.named_parameters()}
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    for name, grad in timm_names(grads, depths).items():
        largest = max(expected[name].abs().max(), 1e-6)
        assert (grad - expected[name]).abs().max() < 1e-9 * largest, name
    state = timm_names(ours.state_dict(), depths)
    for name, value in theirs.state_dict().items():
        assert torch.allclose(state[name].double(), value.double(), rtol=1e-9), name


def test_computes_channels_last_on_a_cpu_and_gives_the_format_it_got(tiny):
    model = NextViT(tiny)
    seen = []
    model.features[1].register_forward_pre_hook(lambda module, args: seen.extend(args))
    x = torch.randn(2, 3, 64, 64)
    for wanted in (torch.contiguous_format, torch.channels_last):
        maps = model(x.to(memory_format=wanted))
        assert all(y.is_contiguous(memory_format=wanted) for y in maps)
        assert seen.pop().is_contiguous(memory_format=torch.channels_last)
    assert all(p.is_contiguous() for p in model.parameters())


def test_the_mean_of_a_dropped_branch_stays():
    add = AddBranch(0.3).train()
    x, branch = torch.randn(2, 1000, 2, 3, 4).double()
    y = add(x, branch)
    left_out = (y == x).flatten(1).all(1)
    assert left_out.double().mean().item() == pytest.approx(0.3, abs=0.06)
    torch.testing.assert_close(y[~left_out], (x + branch / 0.7)[~left_out])
    assert torch.equal(add.eval()(x, branch), x + branch)


def test_final_norm_is_on_the_last_map_only(lively):
    model = lively(NextViT('small')).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        normed = model(x)
        norm, model.norm = model.norm, nn.Identity()
        plain = model(x)
        std = (norm.running_var + norm.eps).sqrt()
        expected = (plain[3].permute(0, 2, 3, 1) - norm.running_mean) / std
        expected = (expected * norm.weight + norm.bias).permute(0, 3, 1, 2)
    assert all(torch.equal(a, b) for a, b in zip(normed[:3], plain[:3]))
    torch.testing.assert_close(normed[3], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('arch', EVERY_ARCH)
def test_float32_agrees_with_float64(arch, lively, error):
    model = lively(NextViT(arch)).eval()
    x = torch.randn(1, 3, 96, 71)
    with torch.no_grad():
        single = model(x)
        double = model.double()(x.double())
    for a, b in zip(single, double, strict=True):
        assert error(a, b) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('arch, params, gmacs_224, gmacs_640, last_blocks', SPEC)
def test_counts(arch, params, gmacs_224, gmacs_640, last_blocks):
    with torch.device('meta'), warnings.catch_warnings(action='ignore'):
        model = NextViT(arch).eval()
    assert sum(p.numel() for p in model.parameters()) == params
    assert model.stage_out_idx == last_blocks
    for size, gmacs in ((224, gmacs_224), (640, gmacs_640)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, size, size, device='meta'))
        assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize('sr_ratio, height, width', [(4, 9, 7), (2, 5, 3), (1, 3, 4)])
def test_attention_averages_runs_of_row_major_tokens(sr_ratio, height, width, lively):
    attention = lively(EMHSA(64, sr_ratio)).eval().double()
    x = torch.randn(2, 64, height, width, dtype=torch.float64)

    tokens = torch.stack(
        [x[:, :, i, j] for i in range(height) for j in range(width)], 1
    )
    run = sr_ratio**2
    pooled = [
        tokens[:, i : i + run].mean(1) for i in range(0, height * width - run + 1, run)
    ]
    pooled = torch.stack(pooled, 1)
    if sr_ratio > 1:
        norm = attention.norm
        assert (norm.eps, norm.momentum) == (1e-5, 0.1)
        pooled = (pooled - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        pooled = pooled * norm.weight + norm.bias
    q, k, v = attention.q(tokens), attention.k(pooled), attention.v(pooled)
    heads = []
    for h in range(0, 64, 32):
        scores = q[..., h : h + 32] @ k[..., h : h + 32].transpose(1, 2) / 32**0.5
        heads.append(scores.softmax(-1) @ v[..., h : h + 32])
    expected = attention.proj(torch.cat(heads, -1))
    expected = expected.transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize(
    'out_indices', [(0,), (1,), (3,), (0, 2), (1, 2, 3), (0, 1, 2, 3), [2, 3]]
)
@pytest.mark.parametrize('size', [(64, 64), (61, 83)])
def test_contract(out_indices, size, tiny):
    model = NextViT(tiny, out_indices=out_indices, drop_path_rate=0)
    last = out_indices[-1]
    assert len(model.features) == sum(tiny['depths'][: last + 1])
    assert hasattr(model, 'norm') == (last == 3)
    assert model.stage_out_idx[-1] == len(model.features) - 1
    outs = model(torch.randn(2, 3, *size))
    assert isinstance(outs, tuple)
    shapes = [
        (2, c, -(-size[0] // s), -(-size[1] // s))
        for c, s in zip(model.out_channels, model.strides, strict=True)
    ]
    assert [tuple(x.shape) for x in outs] == shapes
    assert model.out_channels == tuple(tiny['stage_channels'][i] for i in out_indices)
    assert model.strides == tuple((4, 8, 16, 32)[i] for i in out_indices)

    sum(x.square().mean() for x in outs).backward()
    without = [n for n, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    # A bias that a softmax or a BatchNorm takes out again has a gradient of rounding
    # errors or zero, so only these may be zero.
    assert all(n.endswith('e_mhsa.k.bias') for n in without), without


@pytest.mark.parametrize('size', [(8, 128), (25, 25), (24, 48), (1, 121), (640, 17)])
def test_smallest_images(size, tiny):
    model = NextViT(tiny).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, *size))[3].numel() > 0


@pytest.mark.parametrize('size', [(24, 24), (16, 56), (1, 120), (7, 7)])
def test_an_image_too_small_is_named_with_the_smallest_size(size, tiny):
    model = NextViT(tiny).eval()
    with pytest.raises(ValueError, match=f'{size[0]}x{size[1]}.*smallest.*25x25'):
        model(torch.randn(1, 3, *size))
    with torch.no_grad():  # where that stage is not wanted, there is nothing to refuse
        NextViT(tiny, out_indices=(0,)).eval()(torch.randn(1, 3, *size))


@pytest.mark.slow
def test_names_and_strict_load_of_an_official_state_dict():
    """The shapes of a few official entries, written from the release's layout."""
    state = NextViT('small').state_dict()
    shapes = {
        'stem.0.conv.weight': (64, 3, 3, 3),
        'stem.1.norm.running_var': (32,),
        'features.0.patch_embed.conv.weight': (96, 64, 1, 1),
        'features.0.mhca.group_conv3x3.weight': (96, 32, 3, 3),
        'features.3.patch_embed.norm.weight': (192,),
        'features.6.e_mhsa.q.weight': (192, 192),
        'features.6.e_mhsa.norm.running_mean': (192,),
        'features.6.projection.conv.weight': (64, 192, 1, 1),
        'features.6.mhca.projection.weight': (64, 64, 1, 1),
        'features.6.norm1.bias': (192,),
        'features.6.norm2.bias': (256,),
        'features.19.e_mhsa.proj.bias': (768,),
        'features.19.mlp.conv1.weight': (2048, 1024, 1, 1),
        'features.18.norm.num_batches_tracked': (),
        'norm.weight': (1024,),
    }
    assert {k: tuple(state[k].shape) for k in shapes} == shapes
    assert 'features.19.e_mhsa.norm.weight' not in state  # nothing is pooled there
    fresh = NextViT('small')
    assert not any(fresh.load_state_dict(state, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize('frozen_stages', range(-1, 5))
def test_frozen_stages(frozen_stages, tiny):
    model = NextViT(tiny, frozen_stages=frozen_stages)
    assert model.train() is model
    parts = [[model.stem]]
    ends = [0, *(i + 1 for i in model.stage_out_idx)]
    parts += [list(model.features[a:b]) for a, b in zip(ends, ends[1:])]
    for i, part in enumerate(parts):
        frozen = i <= frozen_stages
        for block in part:
            assert all(m.training != frozen for m in block.modules()), i
            assert all(p.requires_grad != frozen for p in block.parameters()), i
    assert model.norm.training == model.norm.weight.requires_grad == (frozen_stages < 4)

    before = copy.deepcopy(model.state_dict())
    model.train()
    loss = sum(x.square().mean() for x in model(torch.randn(2, 3, 64, 64)))
    if frozen_stages < 4:
        loss.backward()
    for name, value in model.stem.state_dict().items():
        changed = not torch.equal(value, before[f'stem.{name}'])
        assert changed == (frozen_stages < 0 and name.split('.')[-1] in MOVING)
    assert model.eval() is model


MOVING = ('running_mean', 'running_var', 'num_batches_tracked')


def test_norm_eval(tiny):
    model = NextViT(tiny, norm_eval=True).train()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    assert norms and not any(m.training for m in norms)
    assert model.features[0].mhca.act.training
    assert all(p.requires_grad for p in model.parameters())


def test_checkpointing_changes_neither_gradients_nor_statistics(tiny, lively):
    plain = lively(NextViT(tiny, drop_path_rate=0.3)).train()
    saving = copy.deepcopy(plain)
    saving.with_cp = True
    x = torch.randn(4, 3, 64, 64)
    for model in (plain, saving):
        torch.manual_seed(0)  # the same paths are dropped
        sum(y.square().mean() for y in model(x)).backward()
    for (name, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    for (name, p), q in zip(plain.named_buffers(), saving.buffers(), strict=True):
        torch.testing.assert_close(p, q, msg=name)
    assert {m.momentum for m in saving.modules() if isinstance(m, _BatchNorm)} == {0.1}


@pytest.mark.slow
def test_drop_path_grows_linearly():
    model = NextViT('small', drop_path_rate=0.19)
    for i, block in enumerate(model.features):
        rate = 0.19 * i / 19
        if isinstance(block, NCB):
            assert block.drop_path.drop_prob == pytest.approx(rate)
        else:
            assert isinstance(block, NTB)
            assert block.mhsa_drop_path.drop_prob == pytest.approx(0.75 * rate)
            assert block.mhca_drop_path.drop_prob == pytest.approx(0.25 * rate)
            assert block.mlp_drop_path.drop_prob == pytest.approx(rate)
    ends = {
        a: NextViT(a).features[-1].mlp_drop_path.drop_prob for a in ('base', 'small')
    }
    assert ends == pytest.approx({'base': 0.2, 'small': 0.1})


def test_norm_cfg_governs_every_batchnorm2d(tiny):
    cfg = dict(type='BN', eps=1e-3, momentum=0.03)
    model = NextViT(tiny, norm_cfg=cfg)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            assert (m.eps, m.momentum) == (1e-3, 0.03)
        elif isinstance(m, nn.BatchNorm1d):
            assert (m.eps, m.momentum) == (1e-5, 0.1)
    assert cfg == dict(type='BN', eps=1e-3, momentum=0.03)
    sync = NextViT(tiny, norm_cfg=dict(type='SyncBN'))
    norms = [m for m in sync.modules() if isinstance(m, _BatchNorm)]
    assert sum(isinstance(m, nn.BatchNorm1d) for m in norms) == 2
    others = [m for m in norms if not isinstance(m, nn.BatchNorm1d)]
    assert others and all(isinstance(m, nn.SyncBatchNorm) for m in others)


def test_initial_weights():
    torch.manual_seed(0)
    for name, p in NextViT('small').named_parameters():
        if p.ndim > 1:
            bound = 0.02 * 4 / (2 * p.numel()) ** 0.5  # 4 sigma of the estimate
            assert p.std().item() == pytest.approx(0.02, abs=bound + 1e-4), name
        else:
            assert (p == (1 if name.endswith('weight') else 0)).all(), name


@pytest.mark.parametrize(
    'options',
    [
        dict(arch='small'),
        pytest.param(dict(arch='base'), marks=pytest.mark.slow),
        pytest.param(dict(arch='large'), marks=pytest.mark.slow),
        pytest.param(dict(arch='small', final_norm=False), marks=pytest.mark.slow),
        dict(arch='small', out_indices=(0, 2)),
        dict(arch='small', norm_cfg=dict(type='SyncBN', eps=1e-3)),
        dict(arch='small', frozen_stages=2, norm_eval=True),
    ],
    ids=str,
)
def test_deploy_is_exact_and_idempotent(options, lively, error):
    model = lively(NextViT(**options)).eval()
    x = torch.randn(1, 3, 64, 97)
    with torch.no_grad():
        before = model(x)
        assert model.switch_to_deploy() is None
        after = model(x)
        assert not any(isinstance(m, _BatchNorm) for m in model.modules())
        for a, b in zip(after, before, strict=True):
            assert error(a, b) < 1e-5
        state = copy.deepcopy(model.state_dict())
        model.switch_to_deploy()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert model.train() is model


def test_deploy_leaves_norms_that_do_not_fold(tiny, lively, error):
    """All are GroupNorms but the one inside the attention."""
    model = lively(NextViT(tiny, norm_cfg=dict(type='GN', num_groups=4))).eval()
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    kept = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    x = torch.randn(1, 3, 64, 97)
    with torch.no_grad():
        before = model(x)
        model.switch_to_deploy()
        for a, b in zip(model(x), before, strict=True):
            assert error(a, b) < 1e-5
    assert kept == [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert not any(isinstance(m, _BatchNorm) for m in model.modules())


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(arch='tiny'), "arch='tiny' is unknown.*base.*large.*small.*depths"),
        (dict(arch=None), 'arch=None is unknown'),
        (dict(arch=dict(depth=(3, 4, 10, 3))), r"unknown keys \['depth'\].*depths"),
        (dict(arch=dict(depths=(3, 4, 9, 3))), 'depths.*third a multiple of 5'),
        (dict(arch=dict(stage_channels=(96, 250, 512, 1024))), 'multiples of 32'),
        (dict(arch=dict(stage_channels=(96, 192, 512, 96))), '96 .*768.*at least 128'),
        (dict(out_indices=()), r'out_indices=\(\).*\(0, 1, 2, 3\)'),
        (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\).*\(0, 1, 2, 3\)'),
        (dict(out_indices=(-1,)), r'out_indices.*\(0, 1, 2, 3\)'),
        (dict(out_indices=(1, 1)), 'strictly increasing'),
        (dict(out_indices=(2, 1)), 'strictly increasing'),
        (dict(out_indices=3), r'out_indices=3.*\(0, 1, 2, 3\)'),
        (dict(frozen_stages=5), 'frozen_stages=5.*-1.*0.*4'),
        (dict(frozen_stages=-2), 'frozen_stages=-2.*-1.*0.*4'),
        (dict(out_indices=(0, 1), frozen_stages=3), 'frozen_stages=3.*0.*2'),
        (dict(drop_path_rate=1.0), r'drop_path_rate=1.0.*\[0, 1\)'),
    ],
    ids=lambda x: str(x)[:40],
)
def test_bad_arguments_list_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        NextViT(**options)


def test_arguments_are_left_alone(tiny):
    arch, indices = dict(tiny), [1, 3]
    NextViT(arch, out_indices=indices)
    assert arch == tiny and indices == [1, 3]


def test_registered_in_mmdetection(tiny):
    model = MODELS.build(dict(type='mmdet.NextViT', arch=tiny, out_indices=(2,)))
    assert isinstance(model, NextViT)
