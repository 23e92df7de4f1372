"""Folding BatchNorms into the layers beside them, for deployment.

Computed in float64, so that the only error left is the rounding of the new weights.
"""

import copy

import torch
from mmcv.cnn import ConvModule
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
                if conv.bias is not None:
                    shift = shift + conv.bias.detach().double() * scale
                conv.weight.data = weight.to(conv.weight)
                conv.bias = nn.Parameter(shift.to(conv.weight))
                part.norm = nn.Identity()


def fold_conv_module(module: ConvModule) -> None:
    """Folds the BatchNorm right behind the convolution of mmcv's ``ConvModule``.

    Layers of another kind or order are left as they are.
    """
    adjacent = ('conv', 'norm') in zip(module.order, module.order[1:])
    # A subclass may compute its weight anew in every pass.
    if not (module.with_norm and adjacent and type(module.conv) is nn.Conv2d):
        return
    if isinstance(module.norm, _BatchNorm):
        # RTMDet's head has one convolution with a BatchNorm a level.
        module.conv = copy.deepcopy(module.conv)
        part = nn.Sequential()
        part.conv, part.norm = module.conv, module.norm
        fold_convs(part)
        setattr(module, module.norm_name, nn.Identity())


def fold_batchnorms(model: nn.Module) -> nn.Module:
    """Folds the BatchNorms of a detector or of a part of it, in place and exactly.

    Modules with a ``switch_to_deploy`` (:class:`~mmnextvit.NextViT` and MMYOLO's) do
    it by that, mmcv's ``ConvModule`` by :func:`fold_conv_module`. Other BatchNorms
    stay. Running statistics are used, so the model gives what it gave in eval mode.
    A second call changes nothing.

    Returns:
        ``model``
    """
    for module in [*model.modules()]:
        if hasattr(module, 'switch_to_deploy'):
            module.switch_to_deploy()
    for module in model.modules():
        if isinstance(module, ConvModule):
            fold_conv_module(module)
    return model


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
