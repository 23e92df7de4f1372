"""The modules that YOLOv5's YAML rows name, with YOLOv5's parameter names.

Leaves first. Every module maps (B, C1, H, W) to (B, C2, H/s, W/s) and takes C1, C2 and
then the arguments of its row, so that a row is a call; ``layers`` holds the
``norm_cfg`` and ``act_cfg`` of its convolutions. ``register_row`` says what each does
to channels and stride. Arguments that a module cannot have
raise a :class:`UserError`. The blocks are those of CSPNet
(1911.11929), GhostNet (1911.11907), MixConv (1907.09595), spatial pyramid pooling
(1406.4729) and the Transformer (1706.03762), with the details that YOLOv5 documents.
"""

from collections.abc import Sequence
from math import gcd
from typing import Any

import torch
from einops import rearrange
from mmcv.cnn import ConvModule, build_norm_layer
from torch import Tensor, nn

from ..utils.errors import UserError
from .yolov5_row_rules import (
    contract_width,
    expand_width,
    invert_stride,
    read_pool_stride,
    read_stride,
    read_upsample_stride,
    register_row,
)

NORM_CFG = dict(type='BN', eps=1e-3, momentum=0.03)  # YOLOv5's BatchNorm2d


@register_row('Conv', stride=read_stride(2))
def conv(
    c1: int,
    c2: int,
    k: int | tuple[int, int] = 1,
    s: int | tuple[int, int] = 1,
    p: int | tuple[int, ...] | None = None,
    g: int = 1,
    d: int = 1,
    act: bool = True,
    *,
    layers: dict,
) -> ConvModule:
    """Conv: convolution, BatchNorm, activation; pads by half the kernel or ``p``."""
    if not isinstance(act, bool):
        raise UserError(f'the activation is switched by True or False, not {act!r}')
    sizes = [(x, x) if isinstance(x, int) else tuple(x) for x in (k, s)]
    if min(map(min, sizes)) < 1:
        raise UserError(f'kernel {k} and stride {s} must be 1 or more')
    if p is None:
        p = tuple((d * (x - 1) + 1) // 2 for x in sizes[0])
    layers = layers if act else {**layers, 'act_cfg': None}
    return ConvModule(c1, c2, *sizes, p, dilation=d, groups=g, **layers)


@register_row('DWConv', stride=read_stride(2))
def dw_conv(
    c1: int,
    c2: int,
    k: int = 1,
    s: int = 1,
    d: int = 1,
    act: bool = True,
    *,
    layers: dict,
) -> ConvModule:
    """DWConv: a convolution in as many groups as both widths allow."""
    return conv(c1, c2, k, s, g=gcd(c1, c2), d=d, act=act, layers=layers)


@register_row('DWConvTranspose2d', stride=invert_stride(2))
def dw_conv_transpose(
    c1: int, c2: int, k: int = 1, s: int = 1, p1: int = 0, p2: int = 0
) -> nn.ConvTranspose2d:
    """DWConvTranspose2d; ``p1`` pads the input, ``p2`` the output."""
    return nn.ConvTranspose2d(c1, c2, k, s, p1, p2, groups=gcd(c1, c2))


class TwoConvs(nn.Module):
    """Two convolutions; with ``shortcut`` the input is added if it fits."""

    def __init__(self, cv1: ConvModule, cv2: ConvModule, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = cv1
        self.cv2 = cv2
        self.add = shortcut and cv1.in_channels == cv2.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


@register_row()
class Bottleneck(TwoConvs):
    """A 1x1, then a 3x3 convolution."""

    def __init__(
        self,
        c1: int,
        c2: int,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        *,
        layers: dict,
    ) -> None:
        hidden = int(c2 * e)
        cv1 = conv(c1, hidden, layers=layers)
        super().__init__(cv1, conv(hidden, c2, 3, g=g, layers=layers), shortcut)


@register_row(stride=read_stride(2))
class CrossConv(TwoConvs):
    """A 1xk, then a kx1 convolution."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        g: int = 1,
        e: float = 1.0,
        shortcut: bool = False,
        *,
        layers: dict,
    ) -> None:
        hidden = int(c2 * e)
        cv1 = conv(c1, hidden, (1, k), (1, s), layers=layers)
        cv2 = conv(hidden, c2, (k, 1), (s, 1), g=g, layers=layers)
        super().__init__(cv1, cv2, shortcut)


@register_row(repeats='inside')
class C3(nn.Module):
    """CSP with three convolutions; the inner blocks are what the variants change."""

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        *,
        layers: dict,
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        for name, module in self.build_branches(c1, hidden, c2, layers).items():
            self.add_module(name, module)
        self.m = self.build_inner(hidden, n, shortcut, g, layers)

    @staticmethod
    def build_branches(
        c1: int, hidden: int, c2: int, layers: dict
    ) -> dict[str, nn.Module]:
        """Builds all but the inner blocks, by name."""
        return dict(
            cv1=conv(c1, hidden, layers=layers),
            cv2=conv(c1, hidden, layers=layers),
            cv3=conv(2 * hidden, c2, layers=layers),
        )

    @staticmethod
    def build_inner(c: int, n: int, shortcut: bool, g: int, layers: dict) -> nn.Module:
        """Builds the blocks between the first and the last convolution."""
        return nn.Sequential(
            *(Bottleneck(c, c, shortcut, g, 1.0, layers=layers) for _ in range(n))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))


@register_row(repeats='inside')
class BottleneckCSP(C3):
    """CSP with one BatchNorm over both branches; always SiLU, as in YOLOv5."""

    @staticmethod
    def build_branches(
        c1: int, hidden: int, c2: int, layers: dict
    ) -> dict[str, nn.Module]:
        return dict(
            cv1=conv(c1, hidden, layers=layers),
            cv2=nn.Conv2d(c1, hidden, 1, bias=False),
            cv3=nn.Conv2d(hidden, hidden, 1, bias=False),
            cv4=conv(2 * hidden, c2, layers=layers),
            bn=build_norm_layer(layers['norm_cfg'], 2 * hidden)[1],
            act=nn.SiLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), dim=1)
        return self.cv4(self.act(self.bn(y)))


@register_row(repeats='inside')
class C3x(C3):
    """C3 of cross convolutions."""

    @staticmethod
    def build_inner(c: int, n: int, shortcut: bool, g: int, layers: dict) -> nn.Module:
        return nn.Sequential(
            *(CrossConv(c, c, 3, 1, g, 1.0, shortcut, layers=layers) for _ in range(n))
        )


@register_row(repeats='inside')
class C3TR(C3):
    """C3 of transformer layers with 4 heads."""

    @staticmethod
    def build_inner(c: int, n: int, shortcut: bool, g: int, layers: dict) -> nn.Module:
        return TransformerBlock(c, num_heads=4, num_layers=n)


@register_row(repeats='inside')
class C3Ghost(C3):
    """C3 of ghost bottlenecks."""

    @staticmethod
    def build_inner(c: int, n: int, shortcut: bool, g: int, layers: dict) -> nn.Module:
        return nn.Sequential(*(GhostBottleneck(c, c, layers=layers) for _ in range(n)))


@register_row()
class C3SPP(C3):
    """C3 around a spatial pyramid; ``n`` and the first two of ``csp`` change nothing.

    ``csp`` are the arguments of a :class:`C3` behind its ``n``.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Sequence[int] = (5, 9, 13),
        n: int = 1,
        *csp: Any,
        layers: dict,
    ) -> None:
        super().__init__(c1, c2, 0, *csp, layers=layers)
        hidden = self.cv1.out_channels
        self.m = SPP(hidden, hidden, k, layers=layers)


class TransformerLayer(nn.Module):
    """Self attention and an MLP without norms; (N, B, C) to the same."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        for name in ('q', 'k', 'v', 'fc1', 'fc2'):
            self.add_module(name, nn.Linear(channels, channels, bias=False))
        self.ma = nn.MultiheadAttention(channels, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        attention, _ = self.ma(self.q(x), self.k(x), self.v(x), need_weights=False)
        x = attention + x
        return self.fc2(self.fc1(x)) + x


class TransformerBlock(nn.Module):
    """Transformer layers behind a learned position; keeps (B, C, H, W)."""

    def __init__(self, channels: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.tr = nn.Sequential(
            *(TransformerLayer(channels, num_heads) for _ in range(num_layers))
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(x, 'B C H W -> (H W) B C')  # N B C with N = H * W
        tokens = self.tr(tokens + self.linear(tokens))
        return rearrange(tokens, '(H W) B C -> B C H W', H=x.shape[2])


@register_row()
class SPP(nn.Module):
    """The map beside its maxima over squares of ``k`` cells."""

    def __init__(
        self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13), *, layers: dict
    ) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = conv(c1, hidden, layers=layers)
        self.cv2 = conv(hidden * (len(k) + 1), c2, layers=layers)
        self.m = nn.ModuleList(nn.MaxPool2d(x, 1, x // 2) for x in k)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1))


@register_row()
class SPPF(nn.Module):
    """SPP of k, 2k - 1 and 3k - 2 cells by one pooling in three rounds."""

    def __init__(self, c1: int, c2: int, k: int = 5, *, layers: dict) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = conv(c1, hidden, layers=layers)
        self.cv2 = conv(hidden * 4, c2, layers=layers)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(self.m(maps[-1]))
        return self.cv2(torch.cat(maps, dim=1))


@register_row(stride=read_stride(2, times=2))
class Focus(nn.Module):
    """2x2 cells become channels, column by column, before a convolution."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        act: bool = True,
        *,
        layers: dict,
    ) -> None:
        super().__init__()
        self.conv = conv(4 * c1, c2, k, s, p, g, act=act, layers=layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(rearrange(x, 'B C (H h) (W w) -> B (w h C) H W', h=2, w=2))


@register_row(stride=read_stride(2))
class GhostConv(nn.Module):
    """Half the channels by a convolution, the rest from these by a cheap 5x5 one."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        g: int = 1,
        act: bool = True,
        *,
        layers: dict,
    ) -> None:
        super().__init__()
        half = c2 // 2
        self.cv1 = conv(c1, half, k, s, g=g, act=act, layers=layers)
        self.cv2 = conv(half, half, 5, g=half, act=act, layers=layers)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        return torch.cat((y, self.cv2(y)), dim=1)


@register_row(stride=read_stride(2))
class GhostBottleneck(nn.Module):
    """Two ghost convolutions, at stride 2 with a depthwise one between, and a sum."""

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, *, layers: dict
    ) -> None:
        super().__init__()
        half = c2 // 2

        def build_down(c: int) -> nn.Module:
            return dw_conv(c, c, k, s, act=False, layers=layers)

        self.conv = nn.Sequential(
            GhostConv(c1, half, layers=layers),
            build_down(half) if s == 2 else nn.Identity(),
            GhostConv(half, c2, act=False, layers=layers),
        )
        self.shortcut = nn.Identity()
        if s == 2:
            self.shortcut = nn.Sequential(
                build_down(c1), conv(c1, c2, act=False, layers=layers)
            )
        elif c1 != c2 or s != 1:
            raise UserError(
                f'GhostBottleneck has a stride of 2, or of 1 and as many channels in '
                f'as out; here stride {s}, {c1} in, {c2} out'
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shortcut(x)


@register_row(stride=read_stride(2))
class MixConv2d(nn.Module):
    """Convolutions of several kernel sizes side by side, BatchNorm, SiLU.

    Args:
        c1: Channels in.
        c2: Channels out, in all.
        k: Kernel sizes.
        s: Stride.
        equal_ch: Whether each size gives as many channels; otherwise each has about as
            many weights.
        layers: Holds the ``norm_cfg``.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Sequence[int] = (1, 3),
        s: int = 1,
        equal_ch: bool = True,
        *,
        layers: dict,
    ) -> None:
        super().__init__()
        if equal_ch:  # as equal as YOLOv5's, which floors c2 points between 0 and n
            cuts = [0, *(i * (c2 - 1) // len(k) + 1 for i in range(1, len(k))), c2]
            widths = [b - a for a, b in zip(cuts, cuts[1:])]
        else:
            shares = [1 / x**2 for x in k]
            widths = [round(c2 * share / sum(shares)) for share in shares]
        if min(widths) < 1 or sum(widths) != c2:
            raise UserError(f'{c2} channels do not divide among kernels {list(k)}')
        self.m = nn.ModuleList(
            nn.Conv2d(c1, c, x, s, x // 2, groups=gcd(c1, c), bias=False)
            for x, c in zip(k, widths)
        )
        self.bn = build_norm_layer(layers['norm_cfg'], c2)[1]
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(torch.cat([m(x) for m in self.m], dim=1)))


@register_row(channels='sum', takes_widths=False)
class Concat(nn.Module):
    """Joins maps of one stride: [(B, Ci, H, W)] to (B, sum of Ci, H, W)."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        if dim != 1:
            raise UserError(f'maps are joined by channels, [1], not by {dim}')

    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, dim=1)


@register_row(
    channels=contract_width, stride=read_stride(0, default=2), takes_widths=False
)
class Contract(nn.Module):
    """Cells become channels: (B, C, H, W) to (B, C * gain**2, H / gain, W / gain)."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        g = self.gain
        return rearrange(x, 'B C (H h) (W w) -> B (h w C) H W', h=g, w=g)


@register_row(
    channels=expand_width, stride=invert_stride(0, default=2), takes_widths=False
)
class Expand(nn.Module):
    """Channels become cells: (B, C, H, W) to (B, C / gain**2, H * gain, W * gain)."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        g = self.gain
        return rearrange(x, 'B (h w C) H W -> B C (H h) (W w)', h=g, w=g)


@register_row('nn.BatchNorm2d', channels='same')
def batch_norm(c1: int, c2: int, *args: Any, layers: dict) -> nn.Module:
    """A BatchNorm of as many channels as come in, whatever the row says."""
    return build_norm_layer(layers['norm_cfg'], c1)[1]


register_row('nn.ConvTranspose2d', stride=invert_stride(2))(nn.ConvTranspose2d)
register_row(
    'nn.MaxPool2d', channels='same', stride=read_pool_stride, takes_widths=False
)(nn.MaxPool2d)
register_row('nn.ZeroPad2d', channels='same', takes_widths=False)(nn.ZeroPad2d)
register_row(
    'nn.Upsample', channels='same', stride=read_upsample_stride, takes_widths=False
)(nn.Upsample)
