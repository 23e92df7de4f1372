"""Parts of a backbone that stay as they are in training."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..utils.errors import UserError


def check_frozen_stages(frozen_stages: int, num_stages: int, which: str) -> None:
    """Checks ``frozen_stages`` as MMDetection counts it.

    Args:
        frozen_stages: -1 for nothing, 0 for the stem, k for the stem and k stages.
        num_stages: How many stages may be frozen.
        which: What is said of them in the message, such as 'built'.

    Raises:
        UserError: It is none of these.
    """
    if frozen_stages not in range(-1, num_stages + 1):
        raise UserError(
            f'frozen_stages={frozen_stages!r}: allowed are -1 (nothing), 0 (the stem) '
            f'to {num_stages} (the stem and all stages that are {which})'
        )


def freeze(*parts: nn.Module) -> None:
    """Puts parts into eval mode and takes their parameters' gradients away."""
    for part in parts:
        part.eval().requires_grad_(False)


def set_norms_to_eval(model: nn.Module) -> None:
    """Puts every BatchNorm into eval mode, so that its statistics stay."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
