"""Modules that YAMLs of YOLOv5's forks name, where their definition is settled.

Each is written from its paper, with parts of timm and torchvision where they have it
(imported at their use: that takes seconds), and with the parameter names that most
forks give it: docs/custom_modules.md says which reading was taken of what differs.
``register_row`` says what each does to channels and stride, and
:mod:`.yolov5_modules` how they are called.
"""

from typing import Any

import torch
from einops import rearrange
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn import functional as F

from ..utils.errors import UserError
from .yolov5_modules import TwoConvs, conv
from .yolov5_row_rules import (
    contract_four_fold,
    invert_stride,
    read_inverted_stride,
    read_stride,
    register_row,
)

USUAL_RATIO = 16  # of an attention's inner width, however narrow the map is

# ----------------------------------------------------------------------- attention


@register_row(channels='matched')
class SE(nn.Module):
    """Squeeze and excitation (1709.01507): weights of channels from their means."""

    def __init__(self, c1: int, c2: int, ratio: int = USUAL_RATIO) -> None:
        super().__init__()
        hidden = divide_width(c1, ratio)
        self.l1 = nn.Linear(c1, hidden, bias=False)
        self.l2 = nn.Linear(hidden, c1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.l2(F.relu(self.l1(x.mean((2, 3))))).sigmoid()
        return x * weights[:, :, None, None]  # B C -> B C 1 1


class SpatialAttention(nn.Module):
    """CBAM's weights of cells, (B, 1, H, W), from their mean and maximum."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)
        return x * self.conv(pooled).sigmoid()


@register_row(
    channels='matched',
    names={
        'channel_attention.f1.': 'channel_attention.fc1.',
        'channel_attention.f2.': 'channel_attention.fc2.',
    },
)
class CBAM(nn.Module):
    """Weights of channels, then of cells (1807.06521), without a BatchNorm."""

    def __init__(
        self, c1: int, c2: int, ratio: int = USUAL_RATIO, kernel_size: int = 7
    ) -> None:
        from timm.layers.cbam import ChannelAttn

        super().__init__()
        if kernel_size % 2 == 0:
            raise UserError(f'the kernel is an odd number, not {kernel_size}')
        hidden = divide_width(c1, ratio)
        self.channel_attention = ChannelAttn(c1, rd_channels=hidden)
        self.spatial_attention = SpatialAttention(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.spatial_attention(self.channel_attention(x))


@register_row('ECA', channels='matched')
def efficient_attention(c1: int, c2: int, kernel_size: int = 3) -> nn.Module:
    """Weights of channels from their neighbours' means (1910.03151), timm's.

    The kernel is 3 unless it is given, as in the authors' code; in the paper it follows
    from the channels.
    """
    from timm.layers.eca import EcaModule

    if kernel_size % 2 == 0:
        raise UserError(f'the kernel is an odd number, not {kernel_size}')
    return EcaModule(kernel_size=kernel_size)


@register_row('CA', channels='matched')
@register_row('CoordAtt', channels='matched')
def coordinate_attention(c1: int, c2: int, reduction: int = 32) -> nn.Module:
    """Weights of rows and of columns (2103.02907), timm's, with the authors' biases."""
    from timm.layers.coord_attn import CoordAttn

    if reduction < 1:
        raise UserError(f'the reduction is 1 or more, not {reduction}')
    return CoordAttn(c1, rd_channels=max(8, c1 // reduction), bias=True)


def divide_width(channels: int, ratio: int) -> int:
    """A width divided by a ratio, and at least 1."""
    if ratio < 1:
        raise UserError(f'the ratio is 1 or more, not {ratio}')
    if ratio > max(channels, USUAL_RATIO):
        raise UserError(f'the ratio {ratio} leaves nothing of {channels} channels')
    return max(channels // ratio, 1)


# -------------------------------------------------------------------------- fusion


class WeightedConcat(nn.Module):
    """Maps side by side, each weighted: BiFPN's fast normalised fusion (1911.09070).

    Weights start at 1. The paper's ReLU changes nothing of positive ones, and forks
    leave it out. Arguments, which forks write as a dimension or as widths, change
    nothing.
    """

    number: int  # of maps

    def __init__(self, c1: list[int], c2: int, *args: Any) -> None:
        super().__init__()
        if len(c1) != self.number:
            raise UserError(f'it reads {self.number} maps, and from has {len(c1)}')
        self.w = nn.Parameter(torch.ones(self.number))

    def forward(self, x: list[Tensor]) -> Tensor:
        weights = self.w / (self.w.sum() + 1e-4)
        return torch.cat([weights[i] * each for i, each in enumerate(x)], dim=1)


@register_row(channels='sum')
class BiFPN_Concat2(WeightedConcat):
    number = 2


@register_row(channels='sum')
class BiFPN_Concat3(WeightedConcat):
    number = 3


# -------------------------------------------------------------------------- blocks


@register_row(repeats='inside')
class C2f(nn.Module):
    """YOLOv8's CSP block: every inner block's map goes into the last convolution."""

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = False,
        g: int = 1,
        e: float = 0.5,
        *,
        layers: dict,
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = conv(c1, 2 * hidden, layers=layers)
        self.cv2 = conv((2 + n) * hidden, c2, layers=layers)

        def build_conv(groups: int) -> ConvModule:
            return conv(hidden, hidden, 3, g=groups, layers=layers)

        self.m = nn.ModuleList(
            TwoConvs(build_conv(1), build_conv(g), shortcut) for _ in range(n)
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = list(self.cv1(x).chunk(2, dim=1))
        for block in self.m:
            maps.append(block(maps[-1]))
        return self.cv2(torch.cat(maps, dim=1))


@register_row(stride=read_stride(1))
def conv_bn_hswish(c1: int, c2: int, stride: int = 1, *, layers: dict) -> nn.Module:
    """A 3x3 convolution, BatchNorm and h-swish, MobileNetV3's first (1905.02244)."""
    hswish = {**layers, 'act_cfg': dict(type='HSwish')}
    return conv(c1, c2, 3, stride, layers=hswish)


class HardSigmoidSE(nn.Module):
    """MobileNetV3's squeeze and excitation, with a quarter of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = divide_width(channels, 4)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]  # B C -> B C 1 1


class MobileNetV3Block(nn.Module):
    """MobileNetV3's inverted residual (1905.02244)."""

    def __init__(
        self,
        c1: int,
        c2: int,
        hidden: int,
        k: int,
        s: int,
        use_se: bool | int,
        use_hs: bool | int,
    ) -> None:
        super().__init__()
        if s not in (1, 2):
            raise UserError(f'the stride is 1 or 2, not {s}')
        act = nn.Hardswish if use_hs else nn.ReLU
        se = HardSigmoidSE(hidden) if use_se else nn.Identity()
        depthwise = nn.Conv2d(hidden, hidden, k, s, k // 2, groups=hidden, bias=False)
        last = nn.Conv2d(hidden, c2, 1, bias=False), nn.BatchNorm2d(c2)
        layers: tuple[nn.Module, ...]
        if c1 == hidden:  # no expansion, and the activation before the attention
            layers = depthwise, nn.BatchNorm2d(hidden), act(), se, *last
        else:
            first = nn.Conv2d(c1, hidden, 1, bias=False), nn.BatchNorm2d(hidden), act()
            layers = *first, depthwise, nn.BatchNorm2d(hidden), se, act(), *last
        self.conv = nn.Sequential(*layers)
        self.add = s == 1 and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.add else self.conv(x)


for _name in ('MobileNet_Block', 'MobileNetV3', 'MobileNetV3_InvertedResidual'):
    register_row(_name, stride=read_stride(3))(MobileNetV3Block)


@register_row('InvertedResidual', stride=read_inverted_stride)
def inverted_residual(c1: int, c2: int, *args: Any) -> nn.Module:
    """MobileNetV2's (1801.04381) of stride and expansion, or MobileNetV3's of five."""
    from torchvision.models.mobilenetv2 import InvertedResidual

    if len(args) == 2:
        return InvertedResidual(c1, c2, *args)
    if len(args) == 5:
        return MobileNetV3Block(c1, c2, *args)
    raise UserError(
        "write [width, stride, expansion], as of MobileNetV2's, or [width, hidden, "
        "kernel, stride, attention, h-swish], as of MobileNetV3's"
    )


@register_row('Shuffle_Block', stride=read_stride(1))
def shuffle_block(c1: int, c2: int, stride: int) -> nn.Module:
    """ShuffleNetV2's unit (1807.11164), torchvision's."""
    from torchvision.models.shufflenetv2 import InvertedResidual

    return InvertedResidual(c1, c2, stride)


# -------------------------------------------------------------------------- cells


@register_row(channels=contract_four_fold, stride=2)
class space_to_depth(nn.Module):
    """2x2 cells become channels, column by column, as SPD-Conv (2208.03641) has it."""

    def __init__(self, c1: int, c2: int, dimension: int = 1) -> None:
        super().__init__()
        if dimension != 1:
            raise UserError(f'cells become channels, [1], not {dimension}')

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(x, 'B C (H h) (W w) -> B (w h C) H W', h=2, w=2)


@register_row(channels='same', stride=invert_stride(3, default=2))
class CARAFE(nn.Module):
    """Upsampling whose kernel every cell computes anew (1905.02188).

    Args:
        c1: Channels in.
        c2: As many.
        k_enc: Kernel of the convolution that computes the kernels.
        k_up: Side of these, in cells.
        c_mid: Channels from which they are computed.
        scale: Cells out a cell in, along a side.
        layers: ``norm_cfg`` and ``act_cfg``.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k_enc: int = 3,
        k_up: int = 5,
        c_mid: int = 64,
        scale: int = 2,
        *,
        layers: dict,
    ) -> None:
        super().__init__()
        if k_enc % 2 == 0 or k_up % 2 == 0 or not 1 <= k_up <= 15:
            raise UserError(
                'write [k_enc, k_up, c_mid, scale], two odd kernels first, as in '
                '[3, 5, 64, 2], or no arguments'
            )
        self.k_up = k_up
        self.scale = scale
        self.comp = conv(c1, c_mid, layers=layers)
        self.enc = conv(c_mid, (scale * k_up) ** 2, k_enc, act=False, layers=layers)

    def forward(self, x: Tensor) -> Tensor:
        k, s = self.k_up, self.scale
        # As PixelShuffle counts, a kernel's cell first: k*k of s*s places.
        kernels = rearrange(self.enc(self.comp(x)), 'B (k s) H W -> B k s H W', k=k * k)
        kernels = kernels.softmax(dim=1)
        cells = torch.stack(
            [
                F.pad(x, (k // 2,) * 4)[..., i : i + x.shape[2], j : j + x.shape[3]]
                for i in range(k)
                for j in range(k)
            ],
            dim=2,
        )  # B C k H W
        y = torch.einsum('bckhw,bkshw->bcshw', cells, kernels)
        return F.pixel_shuffle(y.flatten(1, 2), s)  # B (C s) H W -> B C sH sW
