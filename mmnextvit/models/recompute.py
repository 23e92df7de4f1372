"""What is computed again in the backward pass, so that less memory is needed.

In training a convolution keeps its input, and a BatchNorm before it keeps its own: two
maps, of which the second follows from the first by a scale, a shift and a ReLU.
:func:`compute_norm_act_conv` keeps the first alone. :func:`checkpoint_block` keeps the
input of a whole block alone; :class:`StatisticsGuard` is for checkpoints of other
libraries.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .compute_options import find_options


def checkpoint_block(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``, whose inner maps are computed again in the backward pass.

    Running statistics move once, as without it.
    """
    return checkpoint(
        block,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), hold_running_stats(block)),
    )


@contextmanager
def hold_running_stats(module: nn.Module) -> Iterator[None]:
    """Keeps the second pass of a checkpoint from counting its batch twice."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.num_batches_tracked -= 1


class StatisticsGuard:
    """Holds running statistics where a checkpoint gives no hook for its second pass.

    That pass comes in ``backward``, of which the model is not told, so the statistics
    are held from the end of a training pass to the next pass or change of mode.

    Args:
        model: Its BatchNorms are guarded.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.momenta: list[tuple[_BatchNorm, float | None]] = []  # of what is held

    def hold(self) -> None:
        """Keeps running statistics from moving."""
        self.release()
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm)]
        self.momenta = [(norm, norm.momentum) for norm in norms]
        for norm in norms:
            norm.momentum = 0.0

    def release(self) -> None:
        """Lets them move again."""
        for norm, momentum in self.momenta:
            norm.momentum = momentum
        self.momenta = []


def compute_norm_act_conv(
    x: Tensor, norm: nn.Module, act: nn.Module | None, conv: nn.Module
) -> Tensor:
    """``conv(act(norm(x)))``, with one map less to keep where ``norm`` is in training.

    Gradients and running statistics are those of the plain layers; second derivatives
    raise torch's error. The plain layers are called in eval mode, without gradients,
    for other types such as SyncBatchNorm, where one has hooks, and under
    ``torch.compile``, which decides itself what to keep, and where the device is faster
    so.

    Args:
        x: Map (B, C, H, W); it is kept, so nothing may write into it.
        norm: Norm of C channels.
        act: What follows it, if anything does.
        conv: Convolution of C channels.

    Returns:
        The convolution's output.
    """
    if (
        type(norm) is nn.BatchNorm2d
        and type(conv) is nn.Conv2d
        and (act is None or type(act) is nn.ReLU)
        and norm.training
        and norm.track_running_stats
        and norm.momentum is not None
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and find_options(x.device).recompute_norms
        and not any(map(has_hooks, (norm, act, conv)))
    ):
        norm.num_batches_tracked.add_(1)
        return _NormActConv.apply(
            x, norm.weight, norm.bias, conv.weight, conv.bias, norm, act, conv
        )
    x = norm(x)
    return conv(x if act is None else act(x))


def has_hooks(layer: nn.Module | None) -> bool:
    """Whether anything waits for a layer's calls or gradients."""
    types = ('forward', 'forward_pre', 'backward', 'backward_pre')
    return any(getattr(layer, f'_{name}_hooks', None) for name in types)


class _NormActConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm: nn.BatchNorm2d,
        act: nn.ReLU | None,
        conv: nn.Conv2d,
    ) -> Tensor:
        y, mean, inv_std = torch.native_batch_norm(
            x, scale, shift, norm.running_mean, norm.running_var, True, norm.momentum,
            norm.eps,
        )  # fmt: skip
        if act is not None:
            y.relu_()
        ctx.save_for_backward(x, scale, shift, weight, mean, inv_std)
        ctx.eps, ctx.relu = norm.eps, act is not None
        ctx.bias_sizes = None if bias is None else bias.shape
        ctx.conv = conv.stride, conv.padding, conv.dilation, conv.groups
        return F.conv2d(y, weight, bias, *ctx.conv)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, weight, mean, inv_std = ctx.saved_tensors
        needed = ctx.needs_input_grad
        var = inv_std.pow(-2) - ctx.eps
        y = F.batch_norm(x, mean, var, scale, shift, eps=ctx.eps)
        if ctx.relu:
            y.relu_()
        # Autocast, if any, computed in the gradient's precision.
        stride, padding, dilation, groups = ctx.conv
        grad_y, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, y.to(grad.dtype), weight.to(grad.dtype), ctx.bias_sizes, stride,
            padding, dilation, False, (0, 0), groups,
            (any(needed[:3]), needed[3], needed[4]),
        )  # fmt: skip
        if any(needed[:3]):
            grad_y = grad_y.to(x.dtype)
            if ctx.relu:
                grad_y = torch.ops.aten.threshold_backward(grad_y, y, 0)
            grads = torch.ops.aten.native_batch_norm_backward(
                grad_y, x, scale, None, None, mean, inv_std, True, ctx.eps, needed[:3]
            )
        else:
            grads = None, None, None
        return *grads, grad_weight, grad_bias, None, None, None
