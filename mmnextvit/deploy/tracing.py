"""Networks as torch's own exporter sees them, for the formats to convert."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO

import torch
from torch import Tensor, nn

from ..utils.errors import UserError
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


def list_masked(network: nn.Module) -> list[nn.Module]:
    """The blocks that draw their masks by the size of the image, as timm's Swin's."""
    return [module for module in network.modules() if hasattr(module, 'get_attn_mask')]


def check_any_size(network: nn.Module) -> None:
    """Refuses at once what torch.export would reason about for half an hour.

    The windows of such blocks do not divide an image of any size, and sympy simplifies
    the shape of each: five narrow blocks were not done in eight minutes.

    Raises:
        UserError: The network has such blocks.
    """
    if blocks := list_masked(network):
        raise UserError(
            f'the backbone has blocks ({type(blocks[0]).__name__}) whose windows and '
            'masks depend on the image size, and torch.export does not come to an end '
            'with any size: export it for a fixed one (--imgsz HEIGHT WIDTH)'
        )


@contextmanager
def fixing_masks(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Has masks that depend on the image's size alone computed once, before tracing.

    timm's Swin transformers draw the mask of each block anew for every image. Traced,
    and then converted, that is half of such a network's operators.

    Args:
        network: It is as before behind the block.
        images: Of the size that it is traced with.
    """
    blocks = list_masked(network)

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

    Raises:
        UserError: It cannot be traced for any size in a bearable time.
    """
    if dynamic_size:
        check_any_size(network)
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
