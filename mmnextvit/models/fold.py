"""What makes a model faster and keeps its results.

BatchNorms are folded into the layers beside them, and convolutions are put into the
memory format that is fastest on their device.

Folding is computed in float64, so that the only error left is the rounding of the new
weights.
"""

import copy

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .compute_options import FORMATS, find_options


def can_fold(norm: nn.Module) -> bool:
    """Whether a layer is, in eval mode, no more than a scale and shift per channel.

    A BatchNorm with statistics and weights is, unless a subclass computes something of
    its own.
    """
    plain = type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    return plain and norm.affine and norm.running_var is not None


def to_float64(tensor: Tensor) -> Tensor:
    """A tensor's values in float64 on the CPU, since not every device has float64."""
    return tensor.detach().cpu().double()


def compute_scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """What a BatchNorm does in eval mode, as scale (C,) and shift (C,) in float64."""
    std = torch.sqrt(to_float64(norm.running_var) + norm.eps)
    scale = to_float64(norm.weight) / std
    return scale, to_float64(norm.bias) - to_float64(norm.running_mean) * scale


def fold_convs(*parts: nn.Sequential) -> None:
    """Folds each part's ``norm`` into the convolution right before it."""
    for part in parts:
        layers = list(part.named_children())
        for (_, conv), (name, norm) in zip(layers, layers[1:]):
            if name == 'norm' and can_fold(norm):
                scale, shift = compute_scale_and_shift(norm)
                # scale: C' -> C' 1 1 1; weight: C' C H W of the kernel
                weight = to_float64(conv.weight) * scale.reshape(-1, 1, 1, 1)
                if conv.bias is not None:
                    shift = shift + to_float64(conv.bias) * scale
                conv.weight.data = weight.to(conv.weight)
                conv.bias = nn.Parameter(shift.to(conv.weight))
                part.norm = nn.Identity()


def fold_conv_module(module: ConvModule) -> None:
    """Folds the BatchNorm right behind the convolution of mmcv's ``ConvModule``.

    Layers of another type or order are left as they are.
    """
    adjacent = ('conv', 'norm') in zip(module.order, module.order[1:])
    # A subclass may compute its weight anew in every pass.
    if not (module.with_norm and adjacent and type(module.conv) is nn.Conv2d):
        return
    if can_fold(module.norm):
        # RTMDet's head has one convolution with a BatchNorm a level.
        module.conv = copy.deepcopy(module.conv)
        part = nn.Sequential()
        part.conv, part.norm = module.conv, module.norm
        fold_convs(part)
        setattr(module, module.norm_name, nn.Identity())
        module.with_norm = False


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


def copy_folded(model: nn.Module) -> nn.Module:
    """A folded copy of a model in the faster memory format on its device.

    It gives what the model gives in eval mode.

    Forward hooks are shared with the model: what they collect arrives where it did.
    Those of a norm that is folded away are not called.
    """
    # A copied method would bring a copy of its object, such as a runner, along.
    shared = [
        hook
        for module in model.modules()
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
        for hook in hooks.values()
    ]
    copied = copy.deepcopy(model, {id(hook): hook for hook in shared})
    return set_memory_format(fold_batchnorms(copied))


def set_memory_format(model: nn.Module) -> nn.Module:
    """Gives 2-d convolutions the format of inference on their device, in place.

    Values and shapes stay, and gradients; maps follow the format of the weights. To
    train in it, call this before anything else holds the parameters: MMYOLO's EMA
    would go on with the old ones, DistributedDataParallel mix gradients up, and torch's
    fused optimizers pair values with a state of another format by place. A
    model with ops of mmcv's stays as it is: compiled, they read any map as if it were
    contiguous (RoIAlign without an error, https://github.com/open-mmlab/mmcv/issues/2203).

    Returns:
        ``model``
    """
    if any(type(m).__module__.startswith('mmcv.ops.') for m in model.modules()):
        return model
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            options = find_options(module.weight.device)
            module.to(memory_format=FORMATS[options.inference])
    return model


def in_faster_format(x: Tensor) -> Tensor:
    """Maps in the faster format on their device, which convolutions pass on.

    Weights stay: an optimizer, an average or DistributedDataParallel may hold on to
    their memory. Compilers and exporters choose a format by themselves.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return x
    return x.to(memory_format=find_options(x.device).get_format())


def fold_before(norm: nn.Module, *layers: nn.Conv2d | nn.Linear) -> nn.Module:
    """Folds a norm into the 1x1 convolutions or linear layers that follow it.

    Returns:
        What takes the norm's place: itself, where it cannot be folded.
    """
    if not can_fold(norm):
        return norm
    scale, shift = compute_scale_and_shift(norm)
    for layer in layers:
        weight = to_float64(layer.weight).flatten(1)  # C' C 1 1 -> C' C
        bias = to_float64(layer.bias) + weight @ shift
        layer.bias.data = bias.to(layer.bias)
        weight = (weight * scale).reshape(layer.weight.shape)  # C' C -> C' C 1 1
        layer.weight.data = weight.to(layer.weight)
    return nn.Identity()


class ScaleShift(nn.Module):
    """``x * weight + bias`` per channel, what is left of a lone BatchNorm2d."""

    def __init__(self, scale: Tensor, shift: Tensor, like: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale.to(like))
        self.bias = nn.Parameter(shift.to(like))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (p.reshape(-1, 1, 1) for p in (self.weight, self.bias))  # C 1 1
        return x * weight + bias
