"""The ops that stand in for mmcv's compiled ones, by their names and arguments there.

Whatever torchvision or torch has is taken from there. What mmcv gives as `output` or
`grad_...` is filled, as its own ops do.
"""

import math
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor


def refuse(name: str) -> NoReturn:
    """
    Raises:
        NotImplementedError: mmcv's op of this name does not stand here.
    """
    raise NotImplementedError(
        f"mmcv's op {name} needs compiled mmcv, which is not installed: mmnextvit has "
        'only NMS, soft-NMS, average RoIAlign, deformable convolution and attention, '
        'and the sigmoid focal loss without it. To compile mmcv (10 to 30 minutes, '
        'with a C++ compiler, and nvcc for the GPU): pip uninstall mmcv-lite; '
        'pip install --no-deps --no-build-isolation onedl-mmcv'
    )


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that NMS keeps, by falling score.

    Args:
        bboxes: N 4, (x1, y1, x2, y2).
        scores: N.
        iou_threshold: boxes that overlap a better one by more than this are dropped.
        offset: 0, or 1 if a box from x1 to x2 is x2 - x1 + 1 wide.
    """
    from torchvision.ops import nms

    bboxes, scores = _widen_to_float(bboxes), _widen_to_float(scores)
    if offset:
        bboxes = bboxes + bboxes.new_tensor([0, 0, offset, offset])
    # As exact as the overlaps, or an overlap of just the threshold may exceed it.
    threshold = bboxes.new_tensor(iou_threshold, device='cpu').item()
    return nms(bboxes, scores.to(bboxes.dtype), threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Indices of the boxes that soft-NMS keeps, by falling score.

    Boxes that overlap a better one are not dropped, but get lower scores (Bodla et al.,
    Soft-NMS, ICCV 2017). Of equal scores the first comes first. An empty box overlaps
    nothing.

    Args:
        boxes: N 4, (x1, y1, x2, y2), where `dets` is, as mmcv has them: on the CPU.
        scores: N.
        dets: N 5; the boxes that are kept and their new scores, to fill.
        iou_threshold: from which overlap on the scores fall, with methods 0 and 1.
        sigma: how wide the Gaussian of method 2 is.
        min_score: boxes whose scores fall below are dropped.
        method: 0 (naive: scores become 0), 1 (linear) or 2 (Gaussian).
        offset: 0, or 1 if a box from x1 to x2 is x2 - x1 + 1 wide.
    """
    corners = _widen_to_float(boxes).detach().numpy()
    x1, y1, x2, y2 = np.ascontiguousarray(corners.T)  # each by itself: twice as fast
    areas = (x2 - x1 + offset) * (y2 - y1 + offset)
    tiny = np.finfo(areas.dtype).tiny
    values = _widen_to_float(scores).detach().numpy().astype(areas.dtype)
    left: np.ndarray = np.ones(len(values), bool)
    kept: list[int] = []
    while left.any():
        best = int(np.where(left, values, -np.inf).argmax())
        kept.append(best)
        left[best] = False
        width = np.minimum(x2, x2[best]) - np.maximum(x1, x1[best]) + offset
        height = np.minimum(y2, y2[best]) - np.maximum(y1, y1[best]) + offset
        common = np.maximum(width, 0) * np.maximum(height, 0)
        overlaps = common / np.maximum(areas + areas[best] - common, tiny)
        if method == 2:
            weights = np.exp(-(overlaps**2) / sigma)
        else:
            weights = np.where(overlaps < iou_threshold, 1, (1 - overlaps) * method)
        values = np.where(left, values * weights, values)
        left &= values >= min_score
    dets[: len(kept), :4] = boxes[kept]
    dets[: len(kept), 4] = torch.from_numpy(values[kept])
    return torch.tensor(kept, dtype=torch.long)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill `output`, K C aligned_height aligned_width, from `input`, B C H W.

    Args:
        rois: K 5, (index into B, x1, y1, x2, y2) in units of 1 / spatial_scale.
        argmax_y: unused, for `pool_mode` 0 (max), which raises.
        argmax_x: the same.
        sampling_ratio: samples per bin and axis; 0 for one per map cell.
        pool_mode: 1 (average).
        aligned: whether cell centres lie at 0.5.
    """
    from torchvision.ops import roi_align

    if pool_mode != 1:
        refuse("roi_align_forward with pool_mode='max'")
    output.copy_(
        roi_align(
            _widen_to_float(input),
            _widen_to_float(rois).to(_widen_to_float(input).dtype),
            (aligned_height, aligned_width),
            spatial_scale,
            sampling_ratio,
            aligned,
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add to `grad_input`, B C H W, the gradient of `roi_align_forward`."""
    import torchvision  # noqa: F401  (defines the op)

    if pool_mode != 1:
        refuse("roi_align_backward with pool_mode='max'")
    grad_output = _widen_to_float(grad_output)
    grad_input += torch.ops.torchvision._roi_align_backward(
        grad_output,
        rois.to(grad_output.dtype),
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Fill `output`, B C' H' W', by a deformable convolution of `input`, B C H W.

    Args:
        weight: C' C/group kH kW.
        offset: B 2*kH*kW*deformable_group H' W'; y and x of every tap, in pixels.
        columns: unused, as `ones`.
        geometry: kW, kH, dW, dH (strides), padW, padH, dilationW, dilationH and others.
    """
    inputs = map(_widen_to_float, (input, offset, weight))
    output.copy_(_convolve(geometry)(*inputs))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Add to `grad_input` and `grad_offset`; see `deform_conv_forward`."""
    inputs, grads = (input, offset, weight), (grad_input, grad_offset, None)
    _add_gradients(_convolve(geometry), inputs, grad_output, grads)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float = 1,
    **geometry: int,
) -> None:
    """Add to `grad_weight`, times `scale`; see `deform_conv_forward`."""
    # Of the weight the gradient depends on the shape alone.
    inputs, grads = (input, offset, grad_weight), (None, None, grad_weight)
    _add_gradients(_convolve(geometry), inputs, grad_output * scale, grads)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """As `deform_conv_forward`, with a weight for every tap.

    Args:
        bias: C', or empty.
        mask: B kH*kW*deformable_group H' W'.
        geometry: kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h,
            dilation_w, with_bias and others.
    """
    inputs = map(_widen_to_float, (input, offset, weight, mask, bias))
    output.copy_(_modulate(geometry)(*inputs))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    **geometry: int,
) -> None:
    """Add to every `grad_...`; see `modulated_deform_conv_forward`."""
    inputs = input, offset, weight, mask, bias
    grads = grad_input, grad_offset, grad_weight, grad_mask, grad_bias
    _add_gradients(_modulate(geometry), inputs, grad_output, grads)


def _convolve(geometry: dict[str, int]) -> Callable[..., Tensor]:
    """The deformable convolution of (input, offset, weight)."""
    from torchvision.ops import deform_conv2d

    stride, padding, dilation = (
        (geometry[f'{name}H'], geometry[f'{name}W'])
        for name in ('d', 'pad', 'dilation')
    )
    return lambda input, offset, weight: deform_conv2d(
        input, offset, weight, None, stride, padding, dilation
    )


def _modulate(geometry: dict[str, int]) -> Callable[..., Tensor]:
    """The modulated deformable convolution of (input, offset, weight, mask, bias)."""
    from torchvision.ops import deform_conv2d

    stride, padding, dilation = (
        (geometry[f'{name}_h'], geometry[f'{name}_w'])
        for name in ('stride', 'pad', 'dilation')
    )

    def convolve(
        input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor, bias: Tensor
    ) -> Tensor:
        given = bias if geometry['with_bias'] else None
        size = [
            (input.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel - 1) - 1)
            // stride[i]
            + 1
            for i, kernel in enumerate(weight.shape[2:])
        ]
        offset, mask = (_take_first(x, size) for x in (offset, mask))
        return deform_conv2d(
            input, offset, weight, given, stride, padding, dilation, mask
        )

    return convolve


def _take_first(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first numbers of each image, as many as maps of a size, H W, have.

    mmcv checks no sizes here, and reads the maps as if they had those of the output.
    MMDetection's DyHead gives larger ones, and has learnt with what is read.
    """
    count = x.shape[1] * math.prod(size)
    if math.prod(x.shape[1:]) <= count:  # as a rule; of too few torchvision says so
        return x
    return x.flatten(1)[:, :count].reshape(*x.shape[:2], *size)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention by mmcv's own function for CPUs: B Q heads*C.

    Args:
        value: B K heads C, the cells of all maps one after another.
        value_spatial_shapes: L 2, the heights and widths of the maps.
        value_level_start_index: unused.
        sampling_locations: B Q heads L P 2, (x, y) from 0 to 1.
        attention_weights: B Q heads L P.
        im2col_step: unused.
    """
    return _attend(value_spatial_shapes)(value, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add to every `grad_...`; see `ms_deform_attn_forward`."""
    inputs = value, sampling_locations, attention_weights
    grads = grad_value, grad_sampling_loc, grad_attn_weight
    _add_gradients(_attend(value_spatial_shapes), inputs, grad_output, grads)


def _attend(shapes: Tensor) -> Callable[..., Tensor]:
    """The attention to (value, sampling_locations, attention_weights)."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    sizes = shapes.tolist()  # once, or a GPU is waited for again and again
    return lambda value, locations, weights: multi_scale_deformable_attn_pytorch(
        value, sizes, locations, weights
    )


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill `output`, N C, with the focal loss of `input`, N C, before the sigmoid.

    Args:
        target: N, labels; C is the background.
        weight: C, the weight of the rows of each class; or empty.
        gamma: how much less what is right already counts.
        alpha: the weight of what is to be found; 1 - alpha that of all else.
    """
    output.copy_(_compute_focal_loss(target, weight, gamma, alpha)(input))


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Add to `grad_input` the gradient of the sum of `sigmoid_focal_loss_forward`."""
    compute = _compute_focal_loss(target, weight, gamma, alpha)
    _add_gradients(compute, [input], torch.ones_like(input), [grad_input])


def _compute_focal_loss(
    target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Callable[[Tensor], Tensor]:
    """The focal loss of N C logits, as torchvision has it."""
    from torchvision.ops import sigmoid_focal_loss

    def compute(input: Tensor) -> Tensor:
        input = _widen_to_float(input)
        classes = torch.arange(input.shape[1], device=input.device)
        truth = (target[:, None] == classes).to(input)
        loss = sigmoid_focal_loss(input, truth, alpha, gamma)
        if not weight.numel():
            return loss
        return loss * torch.cat([weight, weight.new_ones(1)])[target, None]

    return compute


def _add_gradients(
    compute: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    grad_output: Tensor,
    grads: Sequence[Tensor | None],
) -> None:
    """Add to `grads` the gradients of `compute(*inputs)`, where there is one."""
    leaves = [_widen_to_float(x).detach() for x in inputs]
    chosen = [(x.requires_grad_(), g) for x, g in zip(leaves, grads) if g is not None]
    with torch.enable_grad():
        output = compute(*leaves)
    found = torch.autograd.grad(
        output,
        [leaf for leaf, _ in chosen],
        grad_output.to(output.dtype),
        allow_unused=True,  # the bias, where there is none
    )
    for (_, grad), value in zip(chosen, found):
        if value is not None:
            grad += value


def _widen_to_float(x: Tensor) -> Tensor:
    """`x`, in float32 if it is narrower: torchvision's CPU ops have no half."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


OPS = (
    nms,
    softnms,
    roi_align_forward,
    roi_align_backward,
    deform_conv_forward,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    modulated_deform_conv_forward,
    modulated_deform_conv_backward,
    ms_deform_attn_forward,
    ms_deform_attn_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
)
