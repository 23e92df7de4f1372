"""Next-ViT, the hybrid of convolution and attention blocks of arXiv 2207.05501.

The two blocks, and the backbone that they make; :mod:`.nextvit_layers` has their parts.
Parameters carry the names of the official release (bytedance/Next-ViT, Apache-2.0), so
that its checkpoints load as they are. Shapes: B images, C channels, H W cells.
"""

from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..utils.errors import UserError
from .fold import (
    ScaleShift,
    can_fold,
    compute_scale_and_shift,
    fold_before,
    fold_convs,
    in_faster_format,
)
from .freezing import check_frozen_stages, freeze, set_norms_to_eval
from .nextvit_arch import (
    ATTENTION_SHARE,
    SR_RATIOS,
    STRIDES,
    check_image_size,
    check_out_indices,
    compute_attention_channels,
    compute_drop_path_rates,
    compute_stage_bounds,
    list_block_channels,
    resolve_arch,
)
from .nextvit_layers import (
    EMHSA,
    MHCA,
    MLP,
    AddBranch,
    Stem,
    build_norm,
    build_patch_embed,
    build_stem_conv,
)
from .recompute import checkpoint_block

# A variant is one line; ``arch`` may also be a dict of what differs from 'small'.
ARCHS: dict[str, dict[str, Any]] = {
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


class NCB(nn.Module):
    """Next convolution block: (B, C, H, W) to (B, C', ceil(H/s), ceil(W/s)).

    Args:
        in_channels: C, channels of the map that comes in.
        out_channels: C', a multiple of 32.
        stride: s, 1 or 2.
        drop_path: Probability in [0, 1) that a residual branch is left out.
        norm_cfg: Config of the BatchNorm2d layers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        drop_path: float,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        self.patch_embed = build_patch_embed(
            in_channels, out_channels, stride, norm_cfg
        )
        self.mhca = MHCA(out_channels, norm_cfg)
        self.norm = build_norm(norm_cfg, out_channels)
        self.mlp = MLP(out_channels, ratio=3)
        self.drop_path = AddBranch(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = self.drop_path(x, self.mhca(x))
        return self.drop_path(x, self.mlp(x, self.norm))

    def switch_to_deploy(self) -> None:
        """Folds the block's BatchNorms, in place."""
        fold_convs(self.patch_embed, self.mhca)
        self.norm = fold_before(self.norm, self.mlp.conv1)


class NTB(nn.Module):
    """Next transformer block; shapes and arguments as :class:`NCB`, and one more.

    Three quarters of the width come from attention, the rest from a convolution
    branch on a projection of it (paper, section 3.3).

    Args:
        sr_ratio: Square root of how many tokens attention averages into one.
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
        attention = compute_attention_channels(out_channels)
        rest = out_channels - attention
        self.patch_embed = build_patch_embed(in_channels, attention, stride, norm_cfg)
        self.norm1 = build_norm(norm_cfg, attention)
        self.e_mhsa = EMHSA(attention, sr_ratio)
        self.projection = build_patch_embed(attention, rest, 1, norm_cfg)
        self.mhca = MHCA(rest, norm_cfg)
        self.norm2 = build_norm(norm_cfg, out_channels)
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
        """Folds the block's BatchNorms, in place."""
        fold_convs(self.patch_embed, self.projection, self.mhca)
        attention = self.e_mhsa
        # norm first: the tokens pass norm1, are averaged (which commutes with a scale
        # and shift per channel), then pass the attention's own norm.
        attention.norm = fold_before(attention.norm, attention.k, attention.v)
        self.norm1 = fold_before(self.norm1, attention.q, attention.k, attention.v)
        self.norm2 = fold_before(self.norm2, self.mlp.conv1)


def build_stem(arch: dict, norm_cfg: dict, in_channels: int = 3) -> Stem:
    """The stem of a variant: images (B, C', H, W) to (B, C, ceil(H/4), ceil(W/4))."""
    widths = [in_channels, *arch['stem_channels'], arch['stem_channels'][-1]]
    return Stem(
        *(
            build_stem_conv(c_in, c_out, stride, norm_cfg)
            for c_in, c_out, stride in zip(widths, widths[1:], (2, 1, 1, 2))
        )
    )


def build_blocks(
    arch: dict, num_stages: int, drop_path: list[float], norm_cfg: dict
) -> list[NCB | NTB]:
    """The blocks of a variant's first stages, an NTB where a stage gets wider.

    Args:
        arch: Full description of the variant.
        num_stages: How many stages are built.
        drop_path: Rate of each block.
        norm_cfg: Config of the BatchNorm2d layers.
    """
    blocks: list[NCB | NTB] = []
    channels = arch['stem_channels'][-1]
    for stage in range(num_stages):
        for i, out_channels in enumerate(list_block_channels(arch, stage)):
            widens = out_channels > arch['ncb_channels'][stage]
            stride = 2 if stage > 0 and i == 0 else 1
            rate = drop_path[len(blocks)]
            block = (
                NTB(channels, out_channels, stride, SR_RATIOS[stage], rate, norm_cfg)
                if widens
                else NCB(channels, out_channels, stride, rate, norm_cfg)
            )
            blocks.append(block)
            channels = out_channels
    return blocks


def reset_parameters(model: nn.Module) -> None:
    """Gives weights a normal distribution of std 0.02, and biases 0, in place."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # The source truncates at +-2, 100 standard deviations away.
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


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
        in_channels: Channels of the images. Weights of other images are fitted where
            they are loaded, see :mod:`mmnextvit.weights.image_channels`.
        init_cfg: MMEngine's initialisation config. Without one the weights are those
            of the constructor: normal with std 0.02, biases 0.

    Raises:
        UserError: An argument is out of range; the message lists what is allowed.
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
        in_channels: int = 3,
    ) -> None:
        super().__init__(init_cfg)
        if type(in_channels) is not int or in_channels < 1:
            raise UserError(
                f'in_channels={in_channels!r}: it is the number of channels of an '
                'image, such as 1, 3 or 4'
            )
        self.in_channels = in_channels
        self.arch = resolve_arch(arch, ARCHS)
        self.out_indices = check_out_indices(out_indices, len(self.arch['depths']))
        num_stages = self.out_indices[-1] + 1  # those after it are never built
        check_frozen_stages(frozen_stages, num_stages, 'built')
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp

        self.stem = build_stem(self.arch, norm_cfg, in_channels)
        rates = compute_drop_path_rates(self.arch, drop_path_rate)
        blocks = build_blocks(self.arch, num_stages, rates, norm_cfg)
        self.features = nn.Sequential(*blocks)
        if final_norm and num_stages == len(self.arch['depths']):
            self.norm = build_norm(norm_cfg, self.arch['stage_channels'][-1])
        reset_parameters(self)
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
    def compute_stage_bounds(self) -> tuple[int, ...]:
        """Index in ``features`` of each built stage's first block, and the end."""
        return compute_stage_bounds(self.arch['depths'][: self.out_indices[-1] + 1])

    @property
    def stage_out_idx(self) -> tuple[int, ...]:
        """Index in ``features`` of the last block of each stage that is built."""
        return tuple(end - 1 for end in self.compute_stage_bounds[1:])

    @property
    def stages(self) -> list[nn.Sequential]:
        """The blocks of each stage that is built."""
        bounds = self.compute_stage_bounds
        return [self.features[a:b] for a, b in zip(bounds, bounds[1:])]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the maps of the stages in ``out_indices``.

        Args:
            x: Images (B, in_channels, H, W) of any size that gives each attention at
                least one run of tokens; 25x25 and larger always does.

        Returns:
            One (B, C, ceil(H/s), ceil(W/s)) a stage, high to low resolution, with C
            and s from ``out_channels`` and ``strides``.

        Raises:
            UserError: The image is too small.
        """
        height, width = x.shape[-2:]
        check_image_size(height, width, num_stages=self.out_indices[-1] + 1)
        wanted = [self.stage_out_idx[i] for i in self.out_indices]
        last = x.is_contiguous(memory_format=torch.channels_last)
        given = torch.channels_last if last else torch.contiguous_format
        before, x = x, in_faster_format(x)
        converted = x is not before
        outs = []
        for i, part in enumerate((self.stem, *self.features), start=-1):
            x = checkpoint_block(part, x) if self.with_cp else part(x)
            if i in wanted:
                outs.append(x)
        if hasattr(self, 'norm'):
            outs[-1] = self.norm(outs[-1])
        # mmcv's compiled ops read any map as if it were contiguous.
        if converted:
            return tuple(y.contiguous(memory_format=given) for y in outs)
        return tuple(outs)

    def train(self, mode: bool = True) -> 'NextViT':
        """Sets the training mode; frozen parts and ``norm_eval`` stay in eval."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            set_norms_to_eval(self)
        return self

    def switch_to_deploy(self) -> None:
        """Folds every BatchNorm into the layer beside it, in place and exactly.

        Running statistics are used, so the model gives what it gave in eval mode.
        A second call changes nothing. Norms of other types stay.
        """
        fold_convs(*self.stem)
        for block in self.features:
            block.switch_to_deploy()
        # The final norm follows no convolution, and the map before it is not needed.
        if hasattr(self, 'norm') and can_fold(self.norm):
            self.norm = ScaleShift(
                *compute_scale_and_shift(self.norm), like=self.norm.weight
            )

    def _freeze(self) -> None:
        freeze(*[self.stem, *self.stages][: self.frozen_stages + 1])
        if self.frozen_stages == len(self.arch['depths']) and hasattr(self, 'norm'):
            freeze(self.norm)
