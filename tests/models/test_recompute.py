"""The norm that is computed again in the backward pass, judged by the plain layers."""

import copy
from functools import partial
from unittest.mock import Mock

from mmnextvit import NextViT
from mmnextvit.models.recompute import compute_norm_act_conv

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Part(nn.Module):
    """Convolution, norm, activation, convolution: in one piece, or as plain layers."""

    def __init__(self, act=True, groups=1, bias=False, norm=nn.BatchNorm2d, stride=1):
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Conv2d(3, 8, 1)
        self.norm = norm(8, eps=1e-3, momentum=0.03)
        self.act = nn.ReLU(inplace=True) if act else None
        self.conv = nn.Conv2d(8, 6, 3, stride, 1, groups=groups, bias=bias)
        self.plain = False

    def forward(self, x):
        x = self.before(x)
        if not self.plain:
            return compute_norm_act_conv(x, self.norm, self.act, self.conv)
        x = self.norm(x)
        return self.conv(x if self.act is None else self.act(x))


def images():
    return torch.randn(4, 3, 9, 7, generator=torch.Generator().manual_seed(1))


def gradients(part, x, call=None):
    """The output, and the gradients of the input and the parameters."""
    x = x.requires_grad_()
    y = (part if call is None else call)(x)
    weights = torch.linspace(-1, 2, y.numel()).reshape(y.shape).to(y)
    (y * weights).sum().backward()
    named = {name: p.grad for name, p in part.named_parameters()}
    return {'output': y.detach(), 'input': x.grad, **named}


@pytest.mark.parametrize(
    'memory_format', [torch.contiguous_format, torch.channels_last]
)
@pytest.mark.parametrize(
    'options',
    [{}, dict(act=False), dict(groups=2), dict(bias=True, stride=2)],
    ids=str,
)
def test_no_further_from_float64_than_the_plain_layers(
    options, memory_format, lively, error
):
    judge = lively(Part(**options)).double().train()
    judge.plain = True
    parts = {}
    for name in ('ours', 'plain'):
        parts[name] = copy.deepcopy(judge).float().to(memory_format=memory_format)
        parts[name].plain = name == 'plain'
    exact = gradients(judge, images().double())
    results = {
        k: gradients(p, images().to(memory_format=memory_format))
        for k, p in parts.items()
    }
    for key, value in exact.items():
        if key == 'before.bias':  # a norm follows: its gradient is 0
            assert results['ours'][key].abs().max() < 1e-4
            continue
        ours, plain = (error(results[k][key].double(), value) for k in parts)
        assert ours < max(3 * plain, 1e-6), key
    for (name, a), b in zip(judge.named_buffers(), parts['ours'].buffers()):
        assert error(b.double(), a.double()) < 1e-6, name
    assert parts['ours'].norm.num_batches_tracked == 1


def kept(part, x):
    """Elements of the maps that a forward pass keeps, each storage counted once."""
    weights = {p.data_ptr() for p in part.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = part(x)
    del y
    return sum(storages.values()) / 4


def test_a_map_less_is_kept(lively):
    ours, x = lively(Part()).train(), torch.randn(4, 3, 32, 32)
    plain = copy.deepcopy(ours)
    plain.plain = True
    assert kept(plain, x) - kept(ours, x) == pytest.approx(4 * 8 * 32 * 32, rel=0.01)


class OtherNorm(nn.BatchNorm2d):
    """Such as SyncBatchNorm, which trains on GPUs only."""


HOWS = ('eval', 'without gradients', 'other', 'cumulative', 'untracked', 'SiLU')


@pytest.mark.parametrize('how', HOWS)
def test_where_it_cannot_the_layers_are_called(how, lively, monkeypatch):
    """So that other norms and activations work as ever."""
    norm = OtherNorm if how == 'other' else nn.BatchNorm2d
    part = lively(Part(norm=norm)).train(how != 'eval')
    if how == 'cumulative':
        part.norm.momentum = None
    if how == 'untracked':
        part.norm = nn.BatchNorm2d(8, track_running_stats=False)
    if how == 'SiLU':
        part.act = nn.SiLU()
    plain = copy.deepcopy(part)
    plain.plain = True
    monkeypatch.setattr('mmnextvit.models.recompute._NormActConv.apply', None)
    with torch.set_grad_enabled(how != 'without gradients'):
        torch.testing.assert_close(part(images()), plain(images()))


@pytest.mark.parametrize('layer', ['norm', 'act', 'conv'])
@pytest.mark.parametrize(
    'kind', ['forward', 'forward_pre', 'full_backward', 'full_backward_pre']
)
def test_hooks_of_a_layer_are_called(layer, kind, lively):
    part = lively(Part()).train()
    part.act.inplace = False  # torch refuses backward hooks beside a change in place
    called = Mock(return_value=None)
    getattr(getattr(part, layer), f'register_{kind}_hook')(called)
    part(images()).sum().backward()
    called.assert_called_once()


def test_in_training_it_is_traced_as_the_layers(lively):
    part = lively(Part()).train()
    traced = torch.jit.trace(copy.deepcopy(part), images(), check_trace=False)
    torch.testing.assert_close(traced(images()), part(images()))


def test_frozen_parameters_get_no_gradient(lively):
    part = lively(Part(bias=True)).train()
    plain = copy.deepcopy(part)
    plain.plain = True
    for frozen in (('norm',), ('conv',), ('before',), ('before', 'norm')):
        results = []
        for p in (part, plain):
            p.zero_grad()
            for name, value in p.named_parameters():
                value.requires_grad_(not name.startswith(frozen))
            p(images()).square().sum().backward()
            results.append({n: v.grad for n, v in p.named_parameters()})
        for name, grad in results[1].items():
            assert (grad is None) == name.startswith(frozen)
            if name != 'before.bias':
                torch.testing.assert_close(results[0][name], grad, msg=name)


def test_under_autocast(lively, error):
    exact = lively(Part(bias=True)).train()
    results = {}
    for name in ('exact', 'ours', 'plain'):
        part = copy.deepcopy(exact)
        part.plain = name != 'ours'
        with torch.autocast('cpu', torch.bfloat16, enabled=name != 'exact'):
            results[name] = gradients(part, images())
    assert results['ours']['output'].dtype == torch.bfloat16
    for key, value in results['exact'].items():
        if key == 'before.bias':
            continue
        assert results['ours'][key].dtype == results['plain'][key].dtype
        ours, plain = (error(results[k][key].float(), value) for k in ('ours', 'plain'))
        assert ours < max(2 * plain, 0.01), key


@pytest.mark.slow
def test_with_checkpoints_and_compiled(lively):
    part = lively(Part()).train()
    expected = gradients(copy.deepcopy(part), images())
    for call in (
        partial(checkpoint, part, use_reentrant=False),
        torch.compile(part, backend='aot_eager'),
    ):
        part.zero_grad()
        found = gradients(part, images(), call)
        for key, value in expected.items():
            if key != 'before.bias':
                torch.testing.assert_close(found[key], value, msg=key)


def test_of_what_comes_again_a_second_derivative_is_refused():
    part = Part().train()
    x = images().requires_grad_()
    (grad,) = torch.autograd.grad(part(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


def test_the_backbone_keeps_a_fifth_less(tiny):
    """Than with all its norms called."""
    x = torch.randn(2, 3, 64, 64)
    ours = NextViT(tiny).train()
    plain = copy.deepcopy(ours)
    for module in plain.modules():
        if type(module) is nn.BatchNorm2d:
            module.momentum = None  # so that compute_norm_act_conv calls it
    assert kept(ours, x) < 0.8 * kept(plain, x)
