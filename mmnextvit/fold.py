"""Folding BatchNorms into the layers beside them, for deployment.

Computed in float64, so that the only error left is the rounding of the new weights.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a BatchNorm does in eval mode, as (C,) scale and shift in float64."""
    if not isinstance(norm, _BatchNorm):
        raise TypeError(f'only BatchNorm folds, not {type(norm).__name__}')
    std = torch.sqrt(norm.running_var.double() + norm.eps)
    scale = norm.weight.detach().double() / std
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def fold_convs(*parts: nn.Sequential) -> None:
    """Folds each part's ``norm`` into the convolution right before it."""
    for part in parts:
        layers = list(part.named_children())
        for (_, conv), (name, norm) in zip(layers, layers[1:]):
            if name == 'norm' and not isinstance(norm, nn.Identity):
                scale, shift = scale_and_shift(norm)
                weight = conv.weight.detach().double()
                weight = weight * scale.reshape(-1, 1, 1, 1)
                conv.weight.data = weight.to(conv.weight)
                conv.bias = nn.Parameter(shift.to(conv.weight))
                part.norm = nn.Identity()


def fold_before(norm: nn.Module, *layers: nn.Conv2d | nn.Linear) -> nn.Identity:
    """Folds a norm into the 1x1 convolutions or linear layers that follow it."""
    if not isinstance(norm, nn.Identity):
        scale, shift = scale_and_shift(norm)
        for layer in layers:
            weight = layer.weight.detach().double().flatten(1)  # C' C
            bias = layer.bias.detach().double() + weight @ shift
            layer.bias.data = bias.to(layer.bias)
            weight = (weight * scale).reshape(layer.weight.shape)
            layer.weight.data = weight.to(layer.weight)
    return nn.Identity()


class ScaleShift(nn.Module):
    """``x * weight + bias`` per channel, what is left of a lone BatchNorm2d."""

    def __init__(self, scale: Tensor, shift: Tensor, like: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale.to(like))
        self.bias = nn.Parameter(shift.to(like))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.reshape(-1, 1, 1) + self.bias.reshape(-1, 1, 1)
