"""What follows from the numbers that describe a Next-ViT, before anything is built."""

from collections.abc import Iterable, Mapping
from itertools import accumulate

from ..utils.errors import UserError

HEAD_DIM = 32  # channels of an attention head and of a convolution group
ATTENTION_SHARE = 0.75  # of an NTB's width and drop path rate
STRIDES = (4, 8, 16, 32)
SR_RATIOS = (8, 4, 2, 1)


def round_to_heads(channels: float) -> int:
    """The multiple of ``HEAD_DIM`` nearest to ``channels``, but at most 10 % below."""
    rounded = max(HEAD_DIM, int(channels + HEAD_DIM / 2) // HEAD_DIM * HEAD_DIM)
    return rounded if rounded >= 0.9 * channels else rounded + HEAD_DIM


def compute_attention_channels(channels: int) -> int:
    """How many of an NTB's channels come from attention; the rest is convolution's."""
    return round_to_heads(int(channels * ATTENTION_SHARE))


def compute_stage_bounds(depths: Iterable[int]) -> tuple[int, ...]:
    """Index of each stage's first block, and behind them the number of blocks.

    Args:
        depths: Number of blocks of each stage.
    """
    return tuple(accumulate(depths, initial=0))


def list_block_channels(arch: Mapping, stage: int) -> list[int]:
    """Width of each block of a stage: all narrow but the one that ends a group.

    A group is the whole stage, or five blocks in the third stage.
    """
    depth = arch['depths'][stage]
    group = 5 if stage == 2 else depth
    narrow, wide = arch['ncb_channels'][stage], arch['stage_channels'][stage]
    return ([narrow] * (group - 1) + [wide]) * (depth // group)


def compute_drop_path_rates(arch: Mapping, drop_path_rate: float | None) -> list[float]:
    """Rate of each block, growing linearly from 0 at the first to that of the last.

    Args:
        arch: Full description of a variant.
        drop_path_rate: Rate of the last block, in [0, 1); ``None`` for the arch's own.

    Raises:
        UserError: The rate is out of range.
    """
    rate = arch['drop_path_rate'] if drop_path_rate is None else drop_path_rate
    if not 0 <= rate < 1:
        raise UserError(f'drop_path_rate={rate!r}: allowed is [0, 1)')
    last = sum(arch['depths']) - 1
    return [rate * i / last for i in range(last + 1)]


def resolve_arch(arch: str | dict, variants: Mapping[str, dict]) -> dict:
    """The full description of a variant: 'small' with ``arch``'s changes.

    Args:
        arch: Name of a variant, or a dict with what differs from 'small'.
        variants: Descriptions by name; that of 'small' is full.

    Raises:
        UserError: The name or a key is unknown, or the numbers make no Next-ViT.
    """
    small = variants['small']
    if isinstance(arch, str) and arch in variants:
        arch = variants[arch]
    elif not isinstance(arch, dict):
        raise UserError(
            f'arch={arch!r} is unknown: write one of {sorted(variants)}, or a dict '
            f'with some of {sorted(small)}'
        )
    unknown = sorted(set(arch) - set(small))
    if unknown:
        raise UserError(f'arch has unknown keys {unknown}: allowed are {sorted(small)}')
    arch = {**small, **arch}
    depths = arch['depths']
    if len(depths) != 4 or min(depths) < 1 or depths[2] % 5:
        raise UserError(
            f'arch depths={depths!r}: allowed are four positive numbers, the third a '
            'multiple of 5'
        )
    for key in ('ncb_channels', 'stage_channels'):
        if len(arch[key]) != 4 or any(c < 32 or c % HEAD_DIM for c in arch[key]):
            raise UserError(
                f'arch {key}={arch[key]!r}: allowed are four multiples of {HEAD_DIM}'
            )
    for narrow, wide in zip(arch['ncb_channels'], arch['stage_channels']):
        if wide < narrow or (
            wide > narrow and compute_attention_channels(wide) == wide
        ):
            raise UserError(
                f'arch stage_channels={arch["stage_channels"]!r}: {wide} is allowed '
                f'to be the {narrow} of ncb_channels, or wider and at least 128'
            )
    return arch


def check_out_indices(out_indices: Iterable[int], num_stages: int) -> tuple[int, ...]:
    """``out_indices`` as a tuple.

    Raises:
        UserError: They are not stages in increasing order.
    """
    try:
        indices = tuple(out_indices)
    except TypeError:
        indices = ()
    increasing = all(a < b for a, b in zip(indices, indices[1:]))
    if not indices or not increasing or not set(indices) <= set(range(num_stages)):
        raise UserError(
            f'out_indices={out_indices!r}: allowed are strictly increasing numbers '
            f'out of {tuple(range(num_stages))}'
        )
    return indices


def check_image_size(height: int, width: int, num_stages: int) -> None:
    """Checks that every stage's attention has a run of tokens to average.

    Args:
        height: Height of the images in pixels.
        width: Their width.
        num_stages: How many stages are computed.

    Raises:
        UserError: The image is too small.
    """
    for stage in range(1, num_stages):
        stride, run = STRIDES[stage], SR_RATIOS[stage] ** 2
        rows, columns = -(-height // stride), -(-width // stride)
        if rows * columns < run:
            side = max(s * (r - 1) + 1 for s, r in zip(STRIDES[1:], SR_RATIOS[1:]))
            raise UserError(
                f'NextViT: an image of {height}x{width} (height x width) is too '
                f'small. Stage {stage} averages runs of {run} tokens and its map '
                f'holds {rows}x{columns} = {rows * columns}: ceil(H/{stride}) * '
                f'ceil(W/{stride}) must be at least {run}. The smallest square image '
                f'is {side}x{side}.'
            )
