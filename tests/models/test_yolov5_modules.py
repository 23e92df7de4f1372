"""Every module that a row may name, against a second definition in plain torch."""

from fractions import Fraction
from functools import partial
from typing import NamedTuple

from mmnextvit.models import yolov5_fork_modules
from mmnextvit.models.yolov5_graph import RowGraph
from mmnextvit.models.yolov5_row_rules import ROW_RULES
from mmnextvit.models.yolov5_rows import FeatureMap, RowError

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers import yolov5_reference
from tests.helpers.yolov5_reference import REPEATING, WIDE, Rows

DEPTH, WIDTH = 0.5, 0.75  # a width of 32 is 24, as wide as the input; 20 is 16
C = 24


class Case(NamedTuple):
    rows: list
    exact: bool = True  # whether the sides divide as the stride says
    channels: int = C

    @property
    def name(self) -> str:
        return self.rows[-1][2]

    def __str__(self) -> str:
        (*_, n, name, args), x = self.rows[-1], f' of {self.channels}'
        more = '' if n == 1 else f' x {n}'
        return f'{name}{args}{more}{x if self.channels != C else ""}'

    def input(self) -> torch.Tensor:
        # Attention over 64 * 32 cells would fill the memory.
        side = 16 if self.name == 'C3TR' else 64
        g = torch.Generator().manual_seed(1)
        shape = 2, self.channels, side, side // 2
        return torch.randn(shape, generator=g, dtype=torch.float64)


def row(name: str, *args, n: int = 1, **options) -> Case:
    return Case([[-1, n, name, list(args)]], **options)


CASES = [
    row('Conv', 64),
    row('Conv', 20, 3),
    row('Conv', 32, 3, 2),
    row('Conv', 64, 6, 2, 2, channels=3),
    row('Conv', 64, 5, 1, None, 4),
    row('Conv', 32, 3, 1, None, 1, 2),
    row('Conv', 32, 5, 2, None, 2, 3),
    row('Conv', 32, 3, 1, None, 1, 1, False),
    row('Conv', 32, 2, exact=False),
    row('Conv', 32, 3, 1, 0, exact=False),
    row('DWConv', 32, 3),
    row('DWConv', 20, 5, 2),
    row('DWConv', 32, 4, 2, exact=False),
    row('DWConv', 64, 3, 1, 2),
    row('DWConv', 64, 3, 2, 1, False),
    row('GhostConv', 64),
    row('GhostConv', 32, 3, 2),
    row('GhostConv', 32, 3, 1, 4),
    row('GhostConv', 20, 5, 1, 1, False),
    row('Bottleneck', 32),
    row('Bottleneck', 64),
    row('Bottleneck', 32, False),
    row('Bottleneck', 32, True, 4),
    row('Bottleneck', 32, True, 1, 0.3),
    row('GhostBottleneck', 32),
    row('GhostBottleneck', 32, 5, 1),
    row('GhostBottleneck', 64, 3, 2),
    row('GhostBottleneck', 20, 5, 2),
    row('SPP', 64),
    row('SPP', 32, [3, 5]),
    row('SPP', 20, [7]),
    row('SPPF', 64),
    row('SPPF', 32, 3),
    row('SPPF', 20, 9),
    row('Focus', 64, channels=3),
    row('Focus', 64, 3, channels=3),
    row('Focus', 32, 3, 2),
    row('Focus', 32, 3, 1, None, 4),
    row('Focus', 32, 5, 1, None, 1, False),
    row('CrossConv', 64),
    row('CrossConv', 32, 5, 2),
    row('CrossConv', 32, 4, exact=False),
    row('CrossConv', 32, 3, 1, 4, 0.5),
    row('CrossConv', 32, 3, 1, 1, 1.0, True),
    row('CrossConv', 64, 7, 1, 1, 0.3, True),
    row('MixConv2d', 64),
    row('MixConv2d', 20, [1, 3, 5]),
    row('MixConv2d', 52, [1, 3, 5, 7, 9]),
    row('MixConv2d', 64, [3, 5], 2),
    row('MixConv2d', 32, [2, 4], exact=False),
    row('MixConv2d', 32, [1, 3], 1, False),
    row('MixConv2d', 80, [1, 3, 5], 2, False),
    row('BottleneckCSP', 64),
    row('BottleneckCSP', 32, False, n=3),
    row('BottleneckCSP', 32, True, 4, n=5),
    row('BottleneckCSP', 32, True, 1, 0.3, n=6),
    row('C3', 64),
    row('C3', 32, False, n=3),
    row('C3', 32, True, 4, n=5),
    row('C3', 32, True, 1, 0.3, n=6),
    row('C3TR', 64),
    row('C3TR', 32, False, n=3),
    row('C3TR', 32, True, 1, 0.34, n=6),
    row('C3SPP', 64),
    row('C3SPP', 32, [3, 5]),
    row('C3SPP', 32, [5], 1, False, 1, 0.25),
    row('C3Ghost', 64),
    row('C3Ghost', 32, False, n=3),
    row('C3Ghost', 64, True, 1, 0.34, n=6),
    row('C3x', 64),
    row('C3x', 32, False, n=3),
    row('C3x', 32, True, 4, n=5),
    row('C3x', 32, True, 1, 0.3, n=6),
    row('nn.ConvTranspose2d', 64, 4, 2, 1),
    row('nn.ConvTranspose2d', 32, 2, 2),
    row('nn.ConvTranspose2d', 20, 3, 2, 1, 1, 4, False),
    row('DWConvTranspose2d', 64, 4, 2, 1),
    row('DWConvTranspose2d', 20, 3, 2, 1, 1),
    row('DWConvTranspose2d', 32),
    row('nn.BatchNorm2d'),
    row('nn.BatchNorm2d', 7),
    row('nn.MaxPool2d', 2),
    row('nn.MaxPool2d', 2, 2, 0),
    row('nn.MaxPool2d', 3, 2, 1),
    row('nn.MaxPool2d', 2, 1, 0, exact=False),
    row('nn.ZeroPad2d', [0, 1, 0, 1], exact=False),
    row('nn.ZeroPad2d', 1, exact=False),
    Case([[-1, 1, 'nn.ZeroPad2d', [[0, 1, 0, 1]]], [-1, 1, 'nn.MaxPool2d', [2, 1, 0]]]),
    row('nn.Upsample', None, 2, 'nearest'),
    row('nn.Upsample', None, 4, 'bilinear'),
    row('nn.Upsample', None, 2, 'bilinear', True),
    row('nn.Upsample', None, 1.5, 'nearest-exact'),
    Case([[-1, 1, 'Conv', [20, 3]], [[-1, -2], 1, 'Concat', [1]]]),
    Case([[-1, 1, 'Conv', [20, 3]], [[-2, -1, -2], 1, 'Concat', []]]),
    row('Contract', 2),
    row('Contract', 4, channels=3),
    row('Expand', 2),
    row('Expand', 4, channels=32),
    Case([[-1, 1, 'Contract', [2]], [-1, 1, 'Expand', [2]]]),
]

# Arguments with which a module keeps the width of the input.
MINIMAL = {
    **{name: [32] for name in WIDE},
    'GhostBottleneck': [32, 5, 1],
    'nn.ConvTranspose2d': [32, 2, 2],
    'DWConvTranspose2d': [32, 4, 2, 1],
    'nn.BatchNorm2d': [],
    'nn.MaxPool2d': [2, 2],
    'nn.ZeroPad2d': [[0, 1, 0, 1]],
    'nn.Upsample': [None, 2, 'nearest'],
}


@pytest.fixture
def pair(lively):
    """Builds our rows, and the second ones with our parameters."""

    def build(case: Case, activation: str | None = None, **options):
        options = dict(depth_multiple=DEPTH, width_multiple=WIDTH, **options)
        ours = RowGraph(
            case.rows,
            {-1: FeatureMap(case.channels, Fraction(1))},
            outputs=range(len(case.rows)),
            first_row=0,
            activation=activation,
            **options,
        )
        g = torch.Generator().manual_seed(2)
        for m in lively(ours).double().modules():
            if isinstance(m, nn.MultiheadAttention):  # starts with biases of 0
                m.in_proj_bias.data.normal_(generator=g)
                m.out_proj.bias.data.normal_(generator=g)
        second = Rows(case.rows, [case.channels], **options).double()
        state = {f'model.{k}': v.clone() for k, v in ours.state_dict().items()}
        second.load_state_dict(state, strict=True)
        return ours, second

    return build


def check_maps(case: Case, graph: RowGraph, y: tuple[torch.Tensor, ...]) -> None:
    """Compares the maps as predicted with the real ones."""
    for i, out in enumerate(y):
        assert graph.maps[i].channels == out.shape[1]
    if case.exact:
        h, w = case.input().shape[2:]
        stride = graph.maps[i].stride
        assert out.shape[2:] == (h / stride, w / stride)


@pytest.mark.parametrize('activation', [None, 'nn.LeakyReLU(0.1)'])
@pytest.mark.parametrize('case', CASES, ids=str)
def test_output(case, activation, pair, error, monkeypatch):
    if activation:
        leaky = partial(F.leaky_relu, negative_slope=0.1)
        monkeypatch.setattr(yolov5_reference.Conv, 'default', staticmethod(leaky))
    ours, second = pair(case, activation)
    ours.eval()
    second.eval()
    with torch.no_grad():
        y = ours([case.input()])
        expected = second([case.input()])[5:]
    for a, b in zip(y, expected, strict=True):
        assert a.shape == b.shape
        assert error(a, b) < 1e-9
    check_maps(case, ours, y)


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES, ids=str)
def test_training(case, pair, error):
    ours, second = pair(case)
    x, x2 = case.input().requires_grad_(), case.input().requires_grad_()
    y, expected = ours.train()([x])[-1], second.train()([x2])[-1]
    assert error(y, expected) < 1e-9
    g = torch.Generator().manual_seed(3)
    weights = torch.randn(y.shape, generator=g, dtype=y.dtype)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    assert error(x.grad, x2.grad) < 1e-9
    buffers = {f'model.{name}': b for name, b in ours.named_buffers()}
    torch.testing.assert_close(
        buffers, dict(second.named_buffers()), rtol=1e-9, atol=1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(MINIMAL))
def test_stacked(name, pair, error):
    """Two copies, from a ``number`` of 4; each has its own parameters."""
    case = row(name, *MINIMAL[name], n=4, exact=name != 'nn.ZeroPad2d')
    ours, second = pair(case)
    assert isinstance(ours['0'], nn.Sequential) and len(ours['0']) == 2
    with torch.no_grad():
        y = ours.eval()([case.input()])
        expected = second.eval()([case.input()])[-1]
    assert error(y[0], expected) < 1e-9
    check_maps(case, ours, y)


@pytest.mark.parametrize('name', ['Concat', 'Contract', 'Expand'])
def test_not_stacked(name):
    rows = [[[-1, -1] if name == 'Concat' else -1, 2, name, [2]]]
    with pytest.raises(RowError, match='2 copies in a row'):
        RowGraph(rows, {-1: FeatureMap(C, Fraction(1))}, outputs=(0,), first_row=0)


@pytest.mark.slow
@pytest.mark.parametrize('name', [*WIDE, *REPEATING])
def test_number_of_outputs_is_not_scaled(name, pair, error):
    case = row(name, 40, *MINIMAL.get(name, [32])[1:], channels=40)
    ours, second = pair(case, num_outputs=40)
    with torch.no_grad():
        y = ours.eval()([case.input()])
        expected = second.eval()([case.input()])[-1]
    assert y[0].shape[1] == 40
    assert error(y[0], expected) < 1e-9
    check_maps(case, ours, y)


@pytest.mark.parametrize('name', [*WIDE, *REPEATING])
@pytest.mark.parametrize(
    'width, multiple, scaled',
    [(64, 0.25, 16), (40, 0.75, 32), (40, 1.0, 40), (18, 1.0, 24), (64, 1.3, 88)],
)
def test_scaled_width(name, width, multiple, scaled):
    graph = RowGraph(
        [[-1, 1, name, [width, *MINIMAL.get(name, [32])[1:]]]],
        {-1: FeatureMap(scaled, Fraction(1))},
        outputs=(0,),
        first_row=0,
        width_multiple=multiple,
        num_outputs=255,
    )
    assert graph.maps[0].channels == scaled


def test_every_module_is_tested():
    """Those of forks are tested in test_yolov5_fork_modules.py."""
    forks = yolov5_fork_modules.__name__
    names = {n for n, rule in ROW_RULES.items() if rule.module.__module__ != forks}
    assert {case.name for case in CASES} == names
    assert {*MINIMAL, *REPEATING, 'Concat', 'Contract', 'Expand'} == names
