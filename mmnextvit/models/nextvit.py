"""Next-ViT, the hybrid of convolution and attention blocks of arXiv 2207.05501.

Leaves first: the parts of a block, the two blocks, the backbone. Parameters carry the
names of the official release (bytedance/Next-ViT, Apache-2.0), so that its checkpoints
load as they are. Shapes in comments: B images, C channels, H W cells, N tokens (H*W).
"""

from collections import OrderedDict
from contextlib import contextmanager, nullcontext

import torch
from einops import rearrange
from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .fold import (
    ScaleShift,
    fold_before,
    fold_convs,
    folds,
    in_faster_format,
    scale_and_shift,
)
from .recompute import norm_act_conv

HEAD_DIM = 32  # channels of an attention head and of a convolution group
ATTENTION_SHARE = 0.75  # of an NTB's width and drop path rate
STRIDES = (4, 8, 16, 32)
SR_RATIOS = (8, 4, 2, 1)

# A variant is one line; ``arch`` may also be a dict of what differs from 'small'.
ARCHS = {
    'small': dict(
        depths=(3, 4, 10, 3),
        drop_path_rate=0.1,
        stem_channels=(64, 32, 64),
        ncb_channels=(96, 192, 384, 768),
        stage_channels=(96, 256, 512, 1024),
    ),
    'base': dict(depths=(3, 4, 20, 3), drop_path_rate=0.2),
    'large': dict(depths=(3, 4, 30, 3), drop_path_rate=0.2),
}


def round_to_heads(channels: float) -> int:
    """The multiple of ``HEAD_DIM`` nearest to ``channels``, but at most 10 % below."""
    rounded = max(HEAD_DIM, int(channels + HEAD_DIM / 2) // HEAD_DIM * HEAD_DIM)
    return rounded if rounded >= 0.9 * channels else rounded + HEAD_DIM


def attention_channels(channels: int) -> int:
    """How many of an NTB's channels come from attention; the rest is convolution's."""
    return round_to_heads(int(channels * ATTENTION_SHARE))


def sequential(**layers: nn.Module) -> nn.Sequential:
    """An ``nn.Sequential`` whose layers have the official parameter names."""
    return nn.Sequential(OrderedDict(layers))


def norm_layer(norm_cfg: dict, channels: int) -> nn.Module:
    return build_norm_layer(norm_cfg, channels)[1]


class Stem(nn.Sequential):
    """Convolutions of the stem, each with its norm: (B, 3, H, W) to quarter size."""

    def forward(self, x: Tensor) -> Tensor:
        x = self[0].conv(x)
        for before, part in zip(self, self[1:]):
            x = norm_act_conv(x, before.norm, before.act, part.conv)
        return part.act(part.norm(x))


def conv_bn_relu(in_channels: int, out_channels: int, stride: int, norm_cfg: dict):
    """3x3 convolution of the stem: (B, C, H, W) to (B, C', ceil(H/s), ceil(W/s))."""
    return sequential(
        conv=nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        norm=norm_layer(norm_cfg, out_channels),
        act=nn.ReLU(inplace=True),
    )


def patch_embed(in_channels: int, out_channels: int, stride: int, norm_cfg: dict):
    """Fits a map to its block: (B, C, H, W) to (B, C', ceil(H/s), ceil(W/s))."""
    layers = {}
    if stride > 1:
        layers['avgpool'] = nn.AvgPool2d(
            stride, stride, ceil_mode=True, count_include_pad=False
        )
    if stride > 1 or in_channels != out_channels:
        layers['conv'] = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        layers['norm'] = norm_layer(norm_cfg, out_channels)
    return sequential(**layers)


class MHCA(nn.Sequential):
    """Multi-head convolutional attention (paper, section 3.2); keeps the shape."""

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        groups = channels // HEAD_DIM
        conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
        projection = nn.Conv2d(channels, channels, 1, bias=False)
        super().__init__(
            OrderedDict(
                group_conv3x3=conv,
                norm=norm_layer(norm_cfg, channels),
                act=nn.ReLU(inplace=True),
                projection=projection,
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.group_conv3x3(x)
        return norm_act_conv(x, self.norm, self.act, self.projection)


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
        return self.conv2(self.act(norm_act_conv(x, norm, None, self.conv1)))


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
        pooled = self.pool(x.flatten(2).unsqueeze(2)).squeeze(2)
        pooled = self.norm(pooled)  # B C N' with N' = N // sr**2
        pooled = rearrange(pooled, 'B C N -> B N C')
        q, k, v = (
            rearrange(y, 'B N (heads C) -> B heads N C', heads=self.num_heads)
            for y in (self.q(tokens), self.k(pooled), self.v(pooled))
        )
        out = F.scaled_dot_product_attention(q, k, v)  # B heads N C
        out = self.proj(rearrange(out, 'B heads N C -> B N (heads C)'))
        return rearrange(out, 'B (H W) C -> B C H W', H=height)


class NCB(nn.Module):
    """Next convolution block: (B, C, H, W) to (B, C', ceil(H/s), ceil(W/s)).

    Args:
        in_channels: C, channels of the map that comes in.
        out_channels: C', a multiple of 32.
        stride: s, 1 or 2.
        sr_ratio: Not used here; blocks share one signature.
        drop_path: Probability in [0, 1) that a residual branch is left out.
        norm_cfg: Config of the BatchNorm2d layers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        sr_ratio: int,
        drop_path: float,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed(in_channels, out_channels, stride, norm_cfg)
        self.mhca = MHCA(out_channels, norm_cfg)
        self.norm = norm_layer(norm_cfg, out_channels)
        self.mlp = MLP(out_channels, ratio=3)
        self.drop_path = AddBranch(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = self.drop_path(x, self.mhca(x))
        return self.drop_path(x, self.mlp(x, self.norm))

    def switch_to_deploy(self) -> None:
        fold_convs(self.patch_embed, self.mhca)
        self.norm = fold_before(self.norm, self.mlp.conv1)


class NTB(nn.Module):
    """Next transformer block; arguments and shapes as :class:`NCB`.

    Three quarters of the width come from attention, the rest from a convolution
    branch on a projection of it (paper, section 3.3).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        sr_ratio: int,
        drop_path: float,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        attention = attention_channels(out_channels)
        rest = out_channels - attention
        self.patch_embed = patch_embed(in_channels, attention, stride, norm_cfg)
        self.norm1 = norm_layer(norm_cfg, attention)
        self.e_mhsa = EMHSA(attention, sr_ratio)
        self.projection = patch_embed(attention, rest, 1, norm_cfg)
        self.mhca = MHCA(rest, norm_cfg)
        self.norm2 = norm_layer(norm_cfg, out_channels)
        self.mlp = MLP(out_channels, ratio=2)
        self.mhsa_drop_path = AddBranch(drop_path * ATTENTION_SHARE)
        self.mhca_drop_path = AddBranch(drop_path * (1 - ATTENTION_SHARE))
        self.mlp_drop_path = AddBranch(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = self.mhsa_drop_path(x, self.e_mhsa(self.norm1(x)))
        y = self.projection(x)
        y = self.mhca_drop_path(y, self.mhca(y))
        x = torch.cat((x, y), dim=1)
        return self.mlp_drop_path(x, self.mlp(x, self.norm2))

    def switch_to_deploy(self) -> None:
        fold_convs(self.patch_embed, self.projection, self.mhca)
        attention = self.e_mhsa
        # norm first: the tokens pass norm1, are averaged (which commutes with a scale
        # and shift per channel), then pass the attention's own norm.
        attention.norm = fold_before(attention.norm, attention.k, attention.v)
        self.norm1 = fold_before(self.norm1, attention.q, attention.k, attention.v)
        self.norm2 = fold_before(self.norm2, self.mlp.conv1)


@MODELS.register_module()
class NextViT(BaseModule):
    """Next-ViT as a backbone of MMDetection, ``mmdet.NextViT``.

    Args:
        arch: 'small', 'base' or 'large', or a dict with what differs from 'small':
            ``depths`` (blocks of each of the four stages, the third a multiple of
            5), ``drop_path_rate``, ``stem_channels``, ``ncb_channels``,
            ``stage_channels`` (multiples of 32).
        out_indices: Stages to emit, strictly increasing, out of 0 to 3.
        drop_path_rate: Rate of the last block, in [0, 1); it grows linearly from 0
            at the first. ``None`` takes the arch's own.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k
            stages (the last one with the final norm).
        norm_eval: Whether BatchNorm statistics stay as they are in training.
        with_cp: Whether the stem and the blocks are computed again in the backward
            pass to save memory. Gradients and BatchNorm statistics stay the same.
        norm_cfg: Config of every BatchNorm2d, 'BN' or 'SyncBN'. The BatchNorm1d
            inside the attention keeps eps 1e-5 and momentum 0.1.
        final_norm: Whether the last stage's map passes the final BatchNorm ``norm``.
        init_cfg: MMEngine's initialisation config. Without one the weights are those
            of the constructor: normal with std 0.02, biases 0.

    Raises:
        ValueError: An argument is out of range; the message lists what is allowed.
    """

    def __init__(
        self,
        arch: str | dict = 'small',
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        drop_path_rate: float | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        norm_cfg: dict = dict(type='BN', eps=1e-5, momentum=0.1),
        final_norm: bool = True,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = arch = resolve_arch(arch)
        depths = arch['depths']
        self.out_indices = check_out_indices(out_indices, len(depths))
        num_stages = self.out_indices[-1] + 1
        if frozen_stages not in range(-1, num_stages + 1):
            raise ValueError(
                f'frozen_stages={frozen_stages!r}: allowed are -1 (nothing), 0 (the '
                f'stem) to {num_stages} (the stem and all stages that are built)'
            )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp

        if drop_path_rate is None:
            drop_path_rate = arch['drop_path_rate']
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate={drop_path_rate!r}: allowed is [0, 1)')
        last = sum(depths) - 1
        drop_path_rates = [drop_path_rate * i / last for i in range(last + 1)]

        stem = [3, *arch['stem_channels'], arch['stem_channels'][-1]]
        self.stem = Stem(
            *(
                conv_bn_relu(c_in, c_out, stride, norm_cfg)
                for c_in, c_out, stride in zip(stem, stem[1:], (2, 1, 1, 2))
            )
        )
        # Stages after the last wanted one are never built.
        blocks, channels = [], stem[-1]
        for stage in range(num_stages):
            for i, out_channels in enumerate(block_channels(arch, stage)):
                widens = out_channels > arch['ncb_channels'][stage]
                block = NTB if widens else NCB
                blocks.append(
                    block(
                        channels,
                        out_channels,
                        stride=2 if stage > 0 and i == 0 else 1,
                        sr_ratio=SR_RATIOS[stage],
                        drop_path=drop_path_rates[len(blocks)],
                        norm_cfg=norm_cfg,
                    )
                )
                channels = out_channels
        self.features = nn.Sequential(*blocks)
        if final_norm and num_stages == len(depths):
            self.norm = norm_layer(norm_cfg, channels)

        # stem and whole stages as MMDetection counts them for freezing
        bounds = (0, *(i + 1 for i in self.stage_out_idx))
        self._stages = [self.features[a:b] for a, b in zip(bounds, bounds[1:])]
        self._reset_parameters()
        self._freeze()

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that ``forward`` returns."""
        return tuple(self.arch['stage_channels'][i] for i in self.out_indices)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image a cell, for the maps that ``forward`` returns."""
        return tuple(STRIDES[i] for i in self.out_indices)

    @property
    def stage_out_idx(self) -> tuple[int, ...]:
        """Index in ``features`` of the last block of each stage that is built."""
        depths = self.arch['depths'][: self.out_indices[-1] + 1]
        return tuple(sum(depths[: i + 1]) - 1 for i in range(len(depths)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the maps of the stages in ``out_indices``.

        Args:
            x: Images (B, 3, H, W) of any size that gives each attention at least
                one run of tokens; 25x25 and larger always does.

        Returns:
            One (B, C, ceil(H/s), ceil(W/s)) a stage, high to low resolution, with C
            and s from ``out_channels`` and ``strides``.

        Raises:
            ValueError: The image is too small.
        """
        self._check_size(*x.shape[-2:])
        wanted = [self.stage_out_idx[i] for i in self.out_indices]
        given, x = x, in_faster_format(x)
        converted = x is not given
        x = self._checkpointed(self.stem, x) if self.with_cp else self.stem(x)
        outs = []
        for i, block in enumerate(self.features):
            x = self._checkpointed(block, x) if self.with_cp else block(x)
            if i in wanted:
                outs.append(x)
        if hasattr(self, 'norm'):
            outs[-1] = self.norm(outs[-1])
        # mmcv's compiled ops read any map as if it were contiguous.
        return tuple(y.contiguous() if converted else y for y in outs)

    def train(self, mode: bool = True) -> 'NextViT':
        """Sets the training mode; frozen parts and ``norm_eval`` stay in eval."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def switch_to_deploy(self) -> None:
        """Folds every BatchNorm into the layer beside it, in place and exactly.

        Running statistics are used, so the model gives what it gave in eval mode.
        A second call changes nothing. Norms of another kind stay.
        """
        fold_convs(*self.stem)
        for block in self.features:
            block.switch_to_deploy()
        # The final norm follows no convolution, and the map before it is not needed.
        if hasattr(self, 'norm') and folds(self.norm):
            self.norm = ScaleShift(*scale_and_shift(self.norm), like=self.norm.weight)

    def _reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                # The source truncates at +-2, 100 standard deviations away.
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _freeze(self) -> None:
        frozen = [self.stem, *self._stages][: self.frozen_stages + 1]
        if self.frozen_stages == len(self.arch['depths']) and hasattr(self, 'norm'):
            frozen.append(self.norm)
        for part in frozen:
            part.eval().requires_grad_(False)

    def _check_size(self, height: int, width: int) -> None:
        for stage in range(1, self.out_indices[-1] + 1):
            stride, sr_ratio = STRIDES[stage], SR_RATIOS[stage]
            cells = -(-height // stride), -(-width // stride)
            if cells[0] * cells[1] < sr_ratio**2:
                least = max(s * (r - 1) + 1 for s, r in zip(STRIDES[1:], SR_RATIOS[1:]))
                raise ValueError(
                    f'NextViT: an image of {height}x{width} (height x width) is too '
                    f'small. Stage {stage} averages runs of {sr_ratio**2} tokens and '
                    f'its map holds {cells[0]}x{cells[1]} = {cells[0] * cells[1]}: '
                    f'ceil(H/{stride}) * ceil(W/{stride}) must be at least '
                    f'{sr_ratio**2}. The least square image is {least}x{least}.'
                )

    @staticmethod
    def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(
            block,
            x,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), without_running_stats(block)),
        )


@contextmanager
def without_running_stats(module: nn.Module):
    """Keeps the second pass of a checkpoint from counting its batch twice."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.num_batches_tracked -= 1


def resolve_arch(arch: str | dict) -> dict:
    """The full description of a variant: ``ARCHS['small']`` with ``arch``'s changes.

    Raises:
        ValueError: The name or a key is unknown, or the numbers make no Next-ViT.
    """
    small = ARCHS['small']
    if isinstance(arch, str) and arch in ARCHS:
        arch = ARCHS[arch]
    elif not isinstance(arch, dict):
        raise ValueError(
            f'arch={arch!r} is unknown: write one of {sorted(ARCHS)}, or a dict with '
            f'some of {sorted(small)}'
        )
    unknown = sorted(set(arch) - set(small))
    if unknown:
        raise ValueError(
            f'arch has unknown keys {unknown}: allowed are {sorted(small)}'
        )
    arch = {**small, **arch}
    depths = arch['depths']
    if len(depths) != 4 or min(depths) < 1 or depths[2] % 5:
        raise ValueError(
            f'arch depths={depths!r}: allowed are four positive numbers, the third a '
            'multiple of 5'
        )
    for key in ('ncb_channels', 'stage_channels'):
        if len(arch[key]) != 4 or any(c < 32 or c % HEAD_DIM for c in arch[key]):
            raise ValueError(
                f'arch {key}={arch[key]!r}: allowed are four multiples of {HEAD_DIM}'
            )
    for narrow, wide in zip(arch['ncb_channels'], arch['stage_channels']):
        if wide < narrow or (wide > narrow and attention_channels(wide) == wide):
            raise ValueError(
                f'arch stage_channels={arch["stage_channels"]!r}: {wide} is allowed '
                f'to be the {narrow} of ncb_channels, or wider and at least 128'
            )
    return arch


def check_out_indices(out_indices: tuple[int, ...], num_stages: int) -> tuple[int, ...]:
    """``out_indices`` as a tuple, or a ValueError that lists what is allowed."""
    allowed = f'strictly increasing numbers out of {tuple(range(num_stages))}'
    try:
        indices = tuple(out_indices)
    except TypeError:
        indices = ()
    increasing = all(a < b for a, b in zip(indices, indices[1:]))
    if not indices or not increasing or not set(indices) <= set(range(num_stages)):
        raise ValueError(f'out_indices={out_indices!r}: allowed are {allowed}')
    return indices


def block_channels(arch: dict, stage: int) -> list[int]:
    """Width of each block of a stage: all narrow but the one that ends a group.

    A group is the whole stage, or five blocks in the third stage.
    """
    depth = arch['depths'][stage]
    group = 5 if stage == 2 else depth
    narrow, wide = arch['ncb_channels'][stage], arch['stage_channels'][stage]
    return ([narrow] * (group - 1) + [wide]) * (depth // group)
