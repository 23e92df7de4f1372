"""Networks as torch's own exporter sees them, for the formats to convert."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
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


def make_example(size: Sequence[int], batch: int | None) -> Tensor:
    """A batch of images to trace with; a dimension of 1 could not become dynamic."""
    return torch.zeros(batch or 2, 3, *size)


def export_program(
    network: nn.Module,
    size: Sequence[int],
    batch: int | None = 1,
    dynamic_size: bool = False,
) -> torch.export.ExportedProgram:
    """``network`` as torch exports it.

    Args:
        network: A module from images (B, 3, H, W).
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
    with torch.no_grad(), silence_converters():
        return torch.export.export(
            network, (make_example(size, batch),), dynamic_shapes=(dims or None,)
        )
