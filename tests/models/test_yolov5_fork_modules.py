"""Modules of YOLOv5's forks against their papers, written out in plain torch."""

import io
from fractions import Fraction

from mmnextvit.models import yolov5_fork_modules
from mmnextvit.models.yolov5_graph import RowGraph
from mmnextvit.models.yolov5_rows import ROW_RULES, FeatureMap, RowError

import pytest
import torch
from torch.nn import functional as F

C = 32  # channels in
H, W = 16, 12


def build(name: str, *args, n: int = 1, inputs: int = 1, c: int = C, **options):
    """A graph of one row in float64 and eval mode, with weights of no symmetry."""
    torch.manual_seed(0)
    maps = {-i: FeatureMap(c, Fraction(1)) for i in range(1, inputs + 1)}
    from_ = list(maps) if name.startswith('BiFPN') else -1
    graph = RowGraph([[from_, n, name, list(args)]], maps, (0,), 0, **options)
    for name, value in graph.state_dict().items():
        if 'running_var' in name:
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            value.add_(0.3 * torch.randn_like(value))
    return graph.double().eval()


def make_maps(number: int = 1, c: int = C) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, c, H, W, generator=g, dtype=torch.float64) for _ in range(number)
    ]


class Names(dict):
    """A state dict, and layers computed from its names alone."""

    def __init__(self, graph: RowGraph) -> None:
        super().__init__(
            {name.removeprefix('0.'): v for name, v in graph.state_dict().items()}
        )

    def norm(self, x, name: str):
        mean, var = self[f'{name}.running_mean'], self[f'{name}.running_var']
        shape = 1, -1, 1, 1
        x = (x - mean.view(shape)) / (var.view(shape) + 1e-3).sqrt()
        weight, bias = self[f'{name}.weight'], self[f'{name}.bias']
        return x * weight.view(shape) + bias.view(shape)

    def conv(self, x, name: str, **options):
        weight = self[f'{name}.weight']
        options.setdefault('padding', weight.shape[-1] // 2)
        return F.conv2d(x, weight, self.get(f'{name}.bias'), **options)

    def linear(self, x, name: str):
        return x @ self[f'{name}.weight'].T + self.get(f'{name}.bias', 0)

    def block(self, x, name: str, act=F.silu, **options):
        """YOLOv5's Conv."""
        y = self.norm(self.conv(x, f'{name}.conv', **options), f'{name}.bn')
        return act(y) if act else y


def se(s: Names, x):
    weights = s.linear(F.relu(s.linear(x.mean((2, 3)), 'l1')), 'l2').sigmoid()
    return x * weights[..., None, None]


def cbam(s: Names, x):
    def excite(v):
        hidden = F.relu(s.conv(v[..., None, None], 'channel_attention.fc1'))
        return s.conv(hidden, 'channel_attention.fc2')

    x = x * (excite(x.mean((2, 3))) + excite(x.flatten(2).max(2)[0])).sigmoid()
    pooled = torch.stack((x.mean(1), x.max(1)[0]), dim=1)
    return x * s.conv(pooled, 'spatial_attention.conv').sigmoid()


def eca(s: Names, x):
    (kernel,) = s['conv.weight'][0]
    side = len(kernel) // 2
    means = F.pad(x.mean((2, 3)), (side, side))
    weights = sum(k * means[:, i : i + x.shape[1]] for i, k in enumerate(kernel))
    return x * weights.sigmoid()[..., None, None]


def coordinate_attention(s: Names, x):
    def encode(v):
        return F.hardswish(s.norm(s.conv(v, 'conv1'), 'bn1'))

    rows = s.conv(encode(x.mean(3, keepdim=True)), 'conv_h').sigmoid()
    columns = s.conv(encode(x.mean(2, keepdim=True)), 'conv_w').sigmoid()
    return x * rows * columns


def weighted_concat(s: Names, *maps):
    total = s['w'].sum() + 1e-4
    return torch.cat([w / total * x for w, x in zip(s['w'], maps)], dim=1)


def c2f(s: Names, x, blocks: int, shortcut: bool):
    maps = [*s.block(x, 'cv1').split(s['cv1.conv.weight'].shape[0] // 2, dim=1)]
    for i in range(blocks):
        y = s.block(s.block(maps[-1], f'm.{i}.cv1'), f'm.{i}.cv2')
        maps.append(maps[-1] + y if shortcut else y)
    return s.block(torch.cat(maps, dim=1), 'cv2')


def mobilenet_v2(s: Names, x, stride: int, add: bool, expands: bool):
    y, i = x, 0
    if expands:
        y, i = F.relu6(s.norm(s.conv(y, 'conv.0.0'), 'conv.0.1')), 1
    groups = y.shape[1]
    y = s.conv(y, f'conv.{i}.0', groups=groups, stride=stride)
    y = F.relu6(s.norm(y, f'conv.{i}.1'))
    y = s.norm(s.conv(y, f'conv.{i + 1}'), f'conv.{i + 2}')
    return x + y if add else y


def mobilenet_v3(s: Names, x, stride: int, use_se: bool, act, add: bool, expands: bool):
    def attend(y, name):
        if not use_se:
            return y
        hidden = F.relu(s.linear(y.mean((2, 3)), f'{name}.fc.0'))
        return y * F.hardsigmoid(s.linear(hidden, f'{name}.fc.2'))[..., None, None]

    y, i = x, 0
    if expands:
        y, i = act(s.norm(s.conv(y, 'conv.0'), 'conv.1')), 3
    y = s.conv(y, f'conv.{i}', groups=y.shape[1], stride=stride)
    y = s.norm(y, f'conv.{i + 1}')
    y = act(attend(y, f'conv.{i + 2}')) if expands else attend(act(y), f'conv.{i + 3}')
    y = s.norm(s.conv(y, f'conv.{i + 4}'), f'conv.{i + 5}')
    return x + y if add else y


def shuffle(s: Names, x, stride: int):
    def right(y):
        y = F.relu(s.norm(s.conv(y, 'branch2.0'), 'branch2.1'))
        y = s.conv(y, 'branch2.3', groups=y.shape[1], stride=stride)
        return F.relu(s.norm(s.conv(s.norm(y, 'branch2.4'), 'branch2.5'), 'branch2.6'))

    if stride == 1:
        left, y = x[:, : C // 2], right(x[:, C // 2 :])
    else:
        left = s.norm(s.conv(x, 'branch1.0', groups=C, stride=2), 'branch1.1')
        left, y = F.relu(s.norm(s.conv(left, 'branch1.2'), 'branch1.3')), right(x)
    pairs = [c for both in zip(left.unbind(1), y.unbind(1)) for c in both]
    return torch.stack(pairs, dim=1)


def carafe(s: Names, x, k: int, scale: int):
    """Cell by cell, as the paper's equations have it."""
    kernels = s.block(s.block(x, 'comp'), 'enc', act=None)
    kernels = F.pixel_shuffle(kernels, scale).softmax(1)  # B k*k sH sW
    r = k // 2
    padded = F.pad(x, (r, r, r, r))
    y = x.new_zeros(len(x), x.shape[1], scale * H, scale * W)
    for i in range(scale * H):
        for j in range(scale * W):
            u, v = i // scale, j // scale
            around = padded[:, :, u : u + k, v : v + k].flatten(2)  # B C k*k
            y[:, :, i, j] = (around * kernels[:, None, :, i, j]).sum(2)
    return y


def space_to_depth(s: Names, x):
    corners = x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]
    return torch.cat(corners, dim=1)


def conv_bn_hswish(s: Names, x, stride: int):
    y = s.norm(s.conv(x, 'conv', stride=stride), 'bn')
    return y * (y + 3).clamp(0, 6) / 6


HALF = dict(width_multiple=0.5)
CASES = [  # a row, what computes it, and what that is told
    (('SE', 64, 4), HALF, se, ()),
    (('SE',), {}, se, ()),
    (('CBAM', 64), HALF, cbam, ()),
    (('CBAM', C, 8, 3), {}, cbam, ()),
    (('ECA', 64), HALF, eca, ()),
    (('ECA', C, 5), HALF, eca, ()),
    (('CoordAtt', 64), HALF, coordinate_attention, ()),
    (('CA', C, 4), {}, coordinate_attention, ()),
    (('BiFPN_Concat2', 1), dict(inputs=2), weighted_concat, ()),
    (('BiFPN_Concat2', 256, 256), dict(inputs=2), weighted_concat, ()),
    (('BiFPN_Concat3', 1), dict(inputs=3), weighted_concat, ()),
    (('C2f', 64, True), dict(n=3), c2f, (3, True)),
    (('C2f', 64), dict(n=2, **HALF), c2f, (2, False)),
    (('conv_bn_hswish', 16, 2), {}, conv_bn_hswish, (2,)),
    (('InvertedResidual', 24, 2, 6), {}, mobilenet_v2, (2, False, True)),
    (('InvertedResidual', C, 1, 1), {}, mobilenet_v2, (1, True, False)),
    (('InvertedResidual', 24, 72, 5, 2, 1, 1), {}, mobilenet_v3,
     (2, True, F.hardswish, False, True)),
    (('MobileNet_Block', C, C, 3, 1, 1, 0), {}, mobilenet_v3,
     (1, True, F.relu, True, False)),
    (('MobileNetV3', 24, 88, 3, 1, 0, 0), {}, mobilenet_v3,
     (1, False, F.relu, False, True)),
    (('MobileNetV3_InvertedResidual', C, 48, 5, 1, 1, 1), {}, mobilenet_v3,
     (1, True, F.hardswish, True, True)),
    (('Shuffle_Block', 64, 2), {}, shuffle, (2,)),
    (('Shuffle_Block', C, 1), {}, shuffle, (1,)),
    (('space_to_depth', 1), {}, space_to_depth, ()),
    (('CARAFE',), {}, carafe, (5, 2)),
    (('CARAFE', 1, 3, 16, 3), {}, carafe, (3, 3)),
]  # fmt: skip
IDS = [f'{row[0]}{list(row[1:])}' for row, *_ in CASES]


@pytest.mark.parametrize('row, options, compute, args', CASES, ids=IDS)
def test_output(row, options, compute, args):
    graph = build(*row, **options)
    maps = make_maps(options.get('inputs', 1))
    with torch.no_grad():
        (y,) = graph(maps)
        expected = compute(Names(graph), *maps, *args)
        (again,) = graph([x.to(memory_format=torch.channels_last) for x in maps])
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(again, expected, rtol=1e-9, atol=1e-9)
    promised = graph.maps[0]
    assert y.shape[1] == promised.channels
    assert tuple(y.shape[2:]) == (H / promised.stride, W / promised.stride)


def test_every_module_is_tested():
    own = yolov5_fork_modules.__name__
    names = {n for n, rule in ROW_RULES.items() if rule.module.__module__ == own}
    assert {row[0] for row, *_ in CASES} == names


@pytest.mark.parametrize('row, options, compute, args', CASES[::2], ids=IDS[::2])
def test_gradients_reach_every_parameter(row, options, compute, args):
    graph = build(*row, **options).train()
    maps = [x.requires_grad_() for x in make_maps(options.get('inputs', 1))]
    graph(maps)[0].square().sum().backward()
    wanted = {f'x{i}': x for i, x in enumerate(maps)} | dict(graph.named_parameters())
    assert not [name for name, p in wanted.items() if p.grad is None]
    assert all(torch.isfinite(p.grad).all() for p in wanted.values())


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted({row[0] for row, *_ in CASES}))
def test_onnx(name):
    """An image of another size than that of the export gives the same."""
    import onnxruntime

    row, options, *_ = next(case for case in CASES if case[0][0] == name)
    graph = build(*row, **options).float()
    inputs = options.get('inputs', 1)
    names = [f'x{i}' for i in range(inputs)]
    file = io.BytesIO()
    torch.onnx.export(
        torch.nn.Sequential(graph).eval(),
        ([torch.randn(1, C, 8, 8) for _ in names],),
        file,
        input_names=names,
        dynamic_axes={each: {0: 'b', 2: 'h', 3: 'w'} for each in names},
        opset_version=17,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(file.getvalue())
    maps = [x.float() for x in make_maps(inputs)]
    (y,) = session.run(None, {n: x.numpy() for n, x in zip(names, maps)})
    with torch.no_grad():
        (expected,) = graph(maps)
    error = (torch.from_numpy(y) - expected).abs().max() / expected.abs().max()
    assert y.shape == expected.shape and error < 1e-5


@pytest.mark.parametrize(
    'row, message',
    [
        ([-1, 1, 'CBAM', [48]], 'row 0: .*first argument is the width.*write 32'),
        ([-1, 1, 'CBAM', [32, 16, 4]], 'row 0: .*kernel is an odd number, not 4'),
        ([-1, 1, 'SE', [32, 0]], 'row 0: .*ratio is 1 or more'),
        ([-1, 1, 'SE', [32, 64]], 'row 0: .*ratio 64 leaves nothing of 32 channels'),
        ([-1, 1, 'CBAM', [32, 64]], 'row 0: .*ratio 64 leaves nothing of 32 channels'),
        ([-1, 1, 'InvertedResidual', [32, 1]], 'row 0: .*stride, expansion'),
        ([-1, 1, 'CARAFE', [2]], r'row 0: .*k_enc, k_up, c_mid, scale'),
        ([[-1, -1, -1], 1, 'BiFPN_Concat2', [1]], 'row 0: .*reads 2 maps'),
        ([-1, 1, 'MobileNetV3', [24, 72, 3, 3, 0, 0]], 'row 0: .*1 or 2, not 3'),
        ([-1, 1, 'Shuffle_Block', [64, 1]], 'row 0: .*do not fit Shuffle_Block'),
    ],
)
def test_wrong_arguments_are_named(row, message):
    with pytest.raises(RowError, match=message):
        RowGraph([row], {-1: FeatureMap(C, Fraction(1))}, (0,), 0)
