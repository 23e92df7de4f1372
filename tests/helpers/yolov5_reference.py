"""A second, independent reading of YOLOv5's rows, to compare ours with.

Written from the facts of the YAML (module names, channels, index rules), with YOLOv5's
parameter names, plain torch, and Python's own list indexing for ``from``.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def norm(c):
    return nn.BatchNorm2d(c, eps=1e-3, momentum=0.03)


def silu(x):
    return x * torch.sigmoid(x)


class Conv(nn.Module):
    default = staticmethod(silu)  # what a YAML's `activation:` replaces

    def __init__(self, c1, c2, k=1, s=1, p=None, g=1, d=1, act=True):
        super().__init__()
        if p is None:  # half of what the dilated kernel covers
            spans = (d * (i - 1) + 1 for i in (k if isinstance(k, tuple) else (k, k)))
            p = tuple(i // 2 for i in spans)
        self.conv = nn.Conv2d(c1, c2, k, s, p, d, g, bias=False)
        self.bn, self.active = norm(c2), act

    def forward(self, x):
        x = self.bn(self.conv(x))
        return self.default(x) if self.active else x


def dw_conv(c1, c2, k=1, s=1, d=1, act=True):
    return Conv(c1, c2, k, s, g=math.gcd(c1, c2), d=d, act=act)


def dw_conv_transpose(c1, c2, k=1, s=1, p=0, out_p=0):
    return nn.ConvTranspose2d(c1, c2, k, s, p, out_p, groups=math.gcd(c1, c2))


class GhostConv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1, g=1, act=True):
        super().__init__()
        self.cv1 = Conv(c1, c2 // 2, k, s, g=g, act=act)
        self.cv2 = Conv(c2 // 2, c2 // 2, 5, g=c2 // 2, act=act)

    def forward(self, x):
        x = self.cv1(x)
        return torch.cat([x, self.cv2(x)], 1)


class Pair(nn.Module):
    """``cv2(cv1(x))``, plus x where wanted and possible."""

    def __init__(self, cv1, cv2, add):
        super().__init__()
        self.cv1, self.cv2, self.add = cv1, cv2, add

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


def bottleneck(c1, c2, shortcut=True, g=1, e=0.5):
    mid = int(c2 * e)
    return Pair(Conv(c1, mid), Conv(mid, c2, 3, g=g), shortcut and c1 == c2)


def cross_conv(c1, c2, k=3, s=1, g=1, e=1.0, shortcut=False):
    mid = int(c2 * e)
    across, down = Conv(c1, mid, (1, k), (1, s)), Conv(mid, c2, (k, 1), (s, 1), g=g)
    return Pair(across, down, shortcut and c1 == c2)


class GhostBottleneck(nn.Module):
    def __init__(self, c1, c2, k=3, s=1):
        super().__init__()
        mid = c2 // 2
        blocks = [GhostConv(c1, mid), nn.Identity(), GhostConv(mid, c2, act=False)]
        self.shortcut = nn.Sequential()
        if s == 2:
            blocks[1] = dw_conv(mid, mid, k, 2, act=False)
            self.shortcut.append(dw_conv(c1, c1, k, 2, act=False))
            self.shortcut.append(Conv(c1, c2, act=False))
        self.conv = nn.Sequential(*blocks)

    def forward(self, x):
        return self.conv(x) + self.shortcut(x)


class MixConv2d(nn.Module):
    def __init__(self, c1, c2, k=(1, 3), s=1, equal_ch=True):
        super().__init__()
        if equal_ch:  # as many channels for every kernel, about
            groups = torch.linspace(0, len(k) - 1e-6, c2).long()
            widths = groups.bincount(minlength=len(k)).tolist()
        else:  # as many weights
            total = sum(i**-2 for i in k)
            widths = [round(c2 * i**-2 / total) for i in k]
        self.m = nn.ModuleList(
            nn.Conv2d(c1, w, i, s, i // 2, groups=math.gcd(c1, w), bias=False)
            for w, i in zip(widths, k)
        )
        self.bn = norm(c2)

    def forward(self, x):
        return silu(self.bn(torch.cat([m(x) for m in self.m], 1)))


class Focus(nn.Module):
    def __init__(self, c1, c2, k=1, s=1, p=None, g=1, act=True):
        super().__init__()
        self.conv = Conv(4 * c1, c2, k, s, p, g, act=act)

    def forward(self, x):
        even, odd = x[..., ::2], x[..., 1::2]  # columns
        parts = [y[..., i::2, :] for y in (even, odd) for i in (0, 1)]
        return self.conv(torch.cat(parts, 1))


class BottleneckCSP(nn.Module):
    def __init__(self, c1, c2, n, shortcut=True, g=1, e=0.5):
        super().__init__()
        mid = int(c2 * e)
        self.cv1, self.cv4 = Conv(c1, mid), Conv(2 * mid, c2)
        self.cv2 = nn.Conv2d(c1, mid, 1, bias=False)
        self.cv3 = nn.Conv2d(mid, mid, 1, bias=False)
        self.bn = norm(2 * mid)
        self.m = nn.Sequential(
            *(bottleneck(mid, mid, shortcut, g, 1) for _ in range(n))
        )

    def forward(self, x):
        both = torch.cat([self.cv3(self.m(self.cv1(x))), self.cv2(x)], 1)
        return self.cv4(silu(self.bn(both)))


class CSP(nn.Module):
    """The family of C3: ``inner`` makes its middle from the inner width."""

    def __init__(self, c1, c2, e, inner):
        super().__init__()
        mid = int(c2 * e)
        self.cv1, self.cv2, self.cv3 = Conv(c1, mid), Conv(c1, mid), Conv(2 * mid, c2)
        self.m = inner(mid)

    def forward(self, x):
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


def repeated(n, block):
    return lambda c: nn.Sequential(*(block(c) for _ in range(n)))


def c3(c1, c2, n, shortcut=True, g=1, e=0.5):
    return CSP(c1, c2, e, repeated(n, lambda c: bottleneck(c, c, shortcut, g, 1)))


def c3x(c1, c2, n, shortcut=True, g=1, e=0.5):
    def block(c):
        return cross_conv(c, c, g=g, shortcut=shortcut)

    return CSP(c1, c2, e, repeated(n, block))


def c3_ghost(c1, c2, n, shortcut=True, g=1, e=0.5):
    return CSP(c1, c2, e, repeated(n, lambda c: GhostBottleneck(c, c)))


def c3_tr(c1, c2, n, shortcut=True, g=1, e=0.5):
    return CSP(c1, c2, e, lambda c: Transformer(c, n))


def c3_spp(c1, c2, k=(5, 9, 13), n=1, shortcut=True, g=1, e=0.5):
    return CSP(c1, c2, e, lambda c: SPP(c, c, k))


class Attention(nn.Module):
    """A layer without norms, on tokens (B, L, C)."""

    HEADS = 4

    def __init__(self, c):
        super().__init__()
        for name in ('q', 'k', 'v', 'fc1', 'fc2'):
            self.add_module(name, nn.Linear(c, c, bias=False))
        self.ma = nn.MultiheadAttention(c, self.HEADS)  # holds the weights

    def forward(self, x):
        weights = self.ma.in_proj_weight.chunk(3), self.ma.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(m(x), w, b).unflatten(-1, (self.HEADS, -1))
            for m, w, b in zip((self.q, self.k, self.v), *weights)
        )
        scores = torch.einsum('bihc,bjhc->bhij', q, k) / math.sqrt(q.shape[-1])
        y = torch.einsum('bhij,bjhc->bihc', scores.softmax(-1), v).flatten(2)
        x = x + F.linear(y, self.ma.out_proj.weight, self.ma.out_proj.bias)
        return x + self.fc2(self.fc1(x))


class Transformer(nn.Module):
    def __init__(self, c, n):
        super().__init__()
        self.linear = nn.Linear(c, c)
        self.tr = nn.Sequential(*(Attention(c) for _ in range(n)))

    def forward(self, x):
        tokens = x.flatten(2).mT
        return self.tr(tokens + self.linear(tokens)).mT.view_as(x)


class SPP(nn.Module):
    def __init__(self, c1, c2, k=(5, 9, 13)):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c1 // 2), Conv(c1 // 2 * (len(k) + 1), c2)
        self.k = k

    def forward(self, x):
        x = self.cv1(x)
        pooled = [F.max_pool2d(x, k, 1, k // 2) for k in self.k]
        return self.cv2(torch.cat([x, *pooled], 1))


class SPPF(nn.Module):
    def __init__(self, c1, c2, k=5):
        super().__init__()
        self.cv1, self.cv2, self.k = Conv(c1, c1 // 2), Conv(c1 // 2 * 4, c2), k

    def forward(self, x):
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(F.max_pool2d(maps[-1], self.k, 1, self.k // 2))
        return self.cv2(torch.cat(maps, 1))


class Lambda(nn.Module):
    """A module without parameters."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def contract(gain):
    return lambda x: torch.cat(
        [x[..., i::gain, j::gain] for i in range(gain) for j in range(gain)], 1
    )


def expand(gain):
    return lambda x: F.pixel_shuffle(
        x.unflatten(1, (gain**2, -1)).transpose(1, 2).flatten(1, 2), gain
    )


# Modules whose first argument is their width, and those that repeat blocks inside.
WIDE = {
    'Conv': Conv,
    'DWConv': dw_conv,
    'GhostConv': GhostConv,
    'Bottleneck': bottleneck,
    'GhostBottleneck': GhostBottleneck,
    'SPP': SPP,
    'SPPF': SPPF,
    'Focus': Focus,
    'CrossConv': cross_conv,
    'MixConv2d': MixConv2d,
    'C3SPP': c3_spp,
    'nn.ConvTranspose2d': nn.ConvTranspose2d,
    'DWConvTranspose2d': dw_conv_transpose,
}
REPEATING = {
    'BottleneckCSP': BottleneckCSP,
    'C3': c3,
    'C3TR': c3_tr,
    'C3Ghost': c3_ghost,
    'C3x': c3x,
}
# The others: from the input's width and the arguments to the output's width and module.
OTHERS = {
    'nn.BatchNorm2d': lambda c, *_: (c, norm(c)),
    'nn.MaxPool2d': lambda c, *a: (c, Lambda(lambda x: F.max_pool2d(x, *a))),
    'nn.ZeroPad2d': lambda c, a: (
        c,
        Lambda(lambda x: F.pad(x, a if isinstance(a, list) else [a] * 4)),
    ),
    'nn.Upsample': lambda c, *a: (c, Lambda(lambda x: F.interpolate(x, *a))),
    'Concat': lambda c, dim=1: (sum(c), Lambda(lambda x: torch.cat(x, dim))),
    'Contract': lambda c, gain: (c * gain**2, Lambda(contract(gain))),
    'Expand': lambda c, gain: (c // gain**2, Lambda(expand(gain))),
}


class Rows(nn.Module):
    """Rows behind a backbone's maps; ``forward`` returns every map in a list."""

    def __init__(
        self, rows, channels, depth_multiple, width_multiple, num_outputs=None
    ):
        super().__init__()
        self.model, self.froms = nn.ModuleList(), []
        channels = [None] * (5 - len(channels)) + list(channels)
        for source, n, name, args in rows:
            n = n if n == 1 else max(round(n * depth_multiple), 1)
            c1 = [channels[i] for i in source] if name == 'Concat' else channels[source]
            modules = []
            for _ in range(1 if name in REPEATING else n):
                if name in OTHERS:
                    c2, module = OTHERS[name](c1, *args)
                else:
                    c2, *rest = args
                    if c2 != num_outputs:
                        c2 = math.ceil(c2 * width_multiple / 8) * 8
                    if name in REPEATING:
                        module = REPEATING[name](c1, c2, n, *rest)
                    else:
                        module = WIDE[name](c1, c2, *rest)
                modules.append(module)
            self.model.append(nn.Sequential(*modules) if modules[1:] else module)
            self.froms.append(source)
            channels.append(c2)
        self.channels = channels

    def forward(self, maps):
        y = [None] * (5 - len(maps)) + list(maps)
        for source, module in zip(self.froms, self.model):
            x = [y[i] for i in source] if isinstance(source, list) else y[source]
            y.append(module(x))
        return y


def decode(raw, anchors, stride):
    """YOLOv5's boxes from one level's raw map.

    Args:
        raw: (B, A * (5 + classes), H, W).
        anchors: A pairs of width and height in pixels.
        stride: Pixels a cell.

    Returns:
        (B, A * H * W, 5 + classes): x1, y1, x2, y2 in pixels, objectness, classes.
    """
    b, _, h, w = raw.shape
    y = raw.view(b, len(anchors), -1, h, w).permute(0, 1, 3, 4, 2).sigmoid()
    cells = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing='xy'))
    xy = (y[..., :2] * 2 - 0.5 + cells.permute(1, 2, 0)) * stride
    wh = (y[..., 2:4] * 2) ** 2 * torch.tensor(anchors).view(1, -1, 1, 1, 2)
    boxes = torch.cat([xy - wh / 2, xy + wh / 2, y[..., 4:]], -1)
    return boxes.reshape(b, -1, y.shape[-1])
