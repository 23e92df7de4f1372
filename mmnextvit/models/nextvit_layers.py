"""The parts of Next-ViT's blocks, with the parameter names of the official release.

Shapes in comments: B images, C channels, H W cells, N tokens (H*W), heads of attention.
"""

from collections import OrderedDict

import torch
from einops import rearrange
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn import functional as F

from .nextvit_arch import HEAD_DIM, round_to_heads
from .recompute import compute_norm_act_conv


def build_sequential(**layers: nn.Module) -> nn.Sequential:
    """An ``nn.Sequential`` whose layers have the official parameter names."""
    return nn.Sequential(OrderedDict(layers))


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """A norm of so many channels."""
    return build_norm_layer(norm_cfg, channels)[1]


class Stem(nn.Sequential):
    """Convolutions of the stem, each with its norm: (B, 3, H, W) to quarter size."""

    def forward(self, x: Tensor) -> Tensor:
        x = self[0].conv(x)
        for before, part in zip(self, self[1:]):
            x = compute_norm_act_conv(x, before.norm, before.act, part.conv)
        return part.act(part.norm(x))


def build_stem_conv(
    in_channels: int, out_channels: int, stride: int, norm_cfg: dict
) -> nn.Sequential:
    """3x3 convolution of the stem: (B, C, H, W) to (B, C', ceil(H/s), ceil(W/s))."""
    return build_sequential(
        conv=nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        norm=build_norm(norm_cfg, out_channels),
        act=nn.ReLU(inplace=True),
    )


def build_patch_embed(
    in_channels: int, out_channels: int, stride: int, norm_cfg: dict
) -> nn.Sequential:
    """Fits a map to its block: (B, C, H, W) to (B, C', ceil(H/s), ceil(W/s))."""
    layers = {}
    if stride > 1:
        layers['avgpool'] = nn.AvgPool2d(
            stride, stride, ceil_mode=True, count_include_pad=False
        )
    if stride > 1 or in_channels != out_channels:
        layers['conv'] = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        layers['norm'] = build_norm(norm_cfg, out_channels)
    return build_sequential(**layers)


class MHCA(nn.Sequential):
    """Multi-head convolutional attention (paper, section 3.2); keeps the shape."""

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        groups = channels // HEAD_DIM
        conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
        projection = nn.Conv2d(channels, channels, 1, bias=False)
        super().__init__(
            OrderedDict(
                group_conv3x3=conv,
                norm=build_norm(norm_cfg, channels),
                act=nn.ReLU(inplace=True),
                projection=projection,
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.group_conv3x3(x)
        return compute_norm_act_conv(x, self.norm, self.act, self.projection)


class MLP(nn.Sequential):
    """Two 1x1 convolutions with a hidden width of ``ratio``; keeps the shape."""

    def __init__(self, channels: int, ratio: int) -> None:
        hidden = round_to_heads(channels * ratio)
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, hidden, 1),
                act=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(hidden, channels, 1),
            )
        )

    def forward(self, x: Tensor, norm: nn.Module) -> Tensor:
        """What the block's ``norm`` makes of ``x`` goes through both."""
        return self.conv2(self.act(compute_norm_act_conv(x, norm, None, self.conv1)))


class AddBranch(nn.Module):
    """Adds a residual branch, or in training leaves it out, image by image.

    Stochastic depth: a branch that is kept counts more, so that the mean stays. It is a
    pass over the map; a separate DropPath takes three.

    Args:
        drop_prob: Probability in [0, 1) that an image's branch is left out.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0:
            return x + branch
        keep = 1 - self.drop_prob
        factors = x.new_empty(len(x), 1, 1, 1).bernoulli_(keep).div_(keep)
        return torch.addcmul(x, branch, factors)

    def extra_repr(self) -> str:
        return f'drop_prob={self.drop_prob}'


class EMHSA(nn.Module):
    """Efficient multi-head self attention (paper, section 3.3); keeps (B, C, H, W).

    Keys and values come from the mean of every ``sr_ratio`` squared consecutive
    tokens in row-major order. The published weights were trained so: it is not a
    2-D window, and a remainder shorter than a run is dropped.
    """

    def __init__(self, channels: int, sr_ratio: int) -> None:
        super().__init__()
        self.num_heads = channels // HEAD_DIM
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(channels, channels)
        self.v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        # in two dimensions, the first of them 1: TensorRT has no other pooling
        self.pool = nn.AvgPool2d((1, sr_ratio**2)) if sr_ratio > 1 else nn.Identity()
        self.norm = nn.BatchNorm1d(channels) if sr_ratio > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        tokens = rearrange(x, 'B C H W -> B (H W) C')
        flat = x.flatten(2).unsqueeze(2)  # B C H W -> B C 1 N
        pooled = self.pool(flat).squeeze(2)  # B C 1 N' -> B C N', N' = N // sr**2
        pooled = self.norm(pooled)  # B C N'
        pooled = rearrange(pooled, 'B C N -> B N C')
        q, k, v = (
            rearrange(y, 'B N (heads C) -> B heads N C', heads=self.num_heads)
            for y in (self.q(tokens), self.k(pooled), self.v(pooled))
        )
        out = F.scaled_dot_product_attention(q, k, v)  # B heads N C
        out = self.proj(rearrange(out, 'B heads N C -> B N (heads C)'))
        return rearrange(out, 'B (H W) C -> B C H W', H=height)
