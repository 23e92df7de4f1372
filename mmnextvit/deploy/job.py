"""What a format's module is given to write, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from ..runtime import Metadata, list_outputs
from .candidates import Candidates
from .sensitivity import Int8

# From images (B, 3, H, W) to boxes (B, N, 4) and scores (B, N, C) of all candidates,
# and to what masks are made of: coefficients (B, N, M) and prototypes (B, M, h, w).
Run = Callable[[np.ndarray], tuple[np.ndarray, ...]]


class Shape(TypedDict):
    """Arguments of :func:`~mmnextvit.deploy.tracing.export_program`."""

    size: list[int]
    batch: int | None
    dynamic_size: bool


@dataclass(frozen=True)
class Job:
    """What is to be written.

    Args:
        candidates: The network.
        metadata: Its metadata, which says what else is wanted of the file.
        calibration: Batches (B, 3, H, W) for int8 to calibrate with.
        efficient_nms: Whether to use TensorRT's plugin in place of ONNX's operator.
        int8: The network in ONNX and in int8, if it was quantised already.
        in_float: Names of layers that are left in float there.
        web_runtime: The files of ONNX Runtime Web for the format 'web', by name.
    """

    candidates: Candidates
    metadata: Metadata
    calibration: list[np.ndarray] | None = None
    efficient_nms: bool = False
    int8: Int8 | None = None
    in_float: tuple[str, ...] = ()
    web_runtime: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        """The shape of the network's input."""
        wanted = self.metadata['input']
        return Shape(
            size=wanted['size'],
            batch=wanted['batch'],
            dynamic_size=wanted['dynamic_size'],
        )

    @property
    def outputs(self) -> list[str]:
        """Names of what the network of candidates gives."""
        return list_outputs(False, self.candidates.mask_channels > 0)

    @property
    def size(self) -> int:
        """How many bytes the network's weights have."""
        return sum(tensor.nbytes for tensor in self.candidates.state_dict().values())


@dataclass(frozen=True)
class Written:
    """What was written.

    Args:
        run: The network's candidates, computed as near to the file as this machine
            can: by the format's own library, or by torch from what was converted.
        metadata: As it was read back from the file.
        float_layers: Names of the layers that int8 leaves in float.
    """

    run: Run
    metadata: Metadata
    float_layers: list[str] = field(default_factory=list)
