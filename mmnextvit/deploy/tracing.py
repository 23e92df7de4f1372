"""Networks as torch's own exporter sees them, for the formats to convert."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO

import torch
from torch import Tensor, nn

from .metadata import STRIDE


@contextmanager
def silence_converters() -> Iterator[None]:
    """Keeps converters from printing their own progress and deprecations."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter('ignore')
        yield


def make_example(size: Sequence[int], batch: int | None, channels: int = 3) -> Tensor:
    """A batch of images to trace with; a dimension of 1 could not become dynamic."""
    return torch.zeros(batch or 2, channels, *size)


@contextmanager
def fixing_masks(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Has masks that depend on the image's size alone computed once, before tracing.

    timm's Swin transformers draw the mask of each block anew for every image. Traced,
    and then converted, that is half of such a network's operators.

    Args:
        network: It is as before behind the block.
        images: Of the size that it is traced with.
    """
    blocks = [m for m in network.modules() if hasattr(m, 'get_attn_mask')]

    def keep(block: nn.Module) -> None:
        compute = block.get_attn_mask

        def compute_and_keep(*args: object, **kwargs: object) -> Tensor | None:
            mask = compute(*args, **kwargs)
            if not hasattr(block, 'fixed_mask'):
                block.register_buffer('fixed_mask', mask, persistent=False)
            return mask

        block.get_attn_mask = compute_and_keep

    def give(block: nn.Module) -> None:
        block.get_attn_mask = lambda *args, **kwargs: block.fixed_mask

    try:
        for block in blocks:
            keep(block)
        if blocks:
            with torch.no_grad():
                network(images)
        for block in blocks:
            if hasattr(block, 'fixed_mask'):
                give(block)
        yield
    finally:
        for block in blocks:
            del block.get_attn_mask
            if hasattr(block, 'fixed_mask'):
                del block.fixed_mask


def export_program(
    network: nn.Module,
    size: Sequence[int],
    batch: int | None = 1,
    dynamic_size: bool = False,
) -> torch.export.ExportedProgram:
    """``network`` as torch exports it.

    Args:
        network: A module from images (B, C, H, W), C being its ``image_channels`` or 3.
        size: H and W, multiples of 32.
        batch: B; ``None`` for any number.
        dynamic_size: Whether H and W may be any multiples of 32 from 64.
    """
    dims = {}
    if batch is None:
        dims[0] = torch.export.Dim('batch', min=1)
    if dynamic_size:
        size = [max(side, 2 * STRIDE) for side in size]
        dims[2] = STRIDE * torch.export.Dim('rows', min=2)
        dims[3] = STRIDE * torch.export.Dim('columns', min=2)
        if size[0] == size[1]:  # torch would take equal sides for the same dimension
            size = [size[0], size[1] + STRIDE]
    images = make_example(size, batch, getattr(network, 'image_channels', 3))
    fixing = nullcontext() if dynamic_size else fixing_masks(network, images)
    with torch.no_grad(), silence_converters(), fixing:
        return torch.export.export(network, (images,), dynamic_shapes=(dims or None,))
