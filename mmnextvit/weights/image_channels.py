"""Weights that were trained on images of another number of channels."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..models.image_channels import find_first_conv, get_stated_channels


def fit_image_channels(
    model: nn.Module, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict whose first convolution takes the images that the model takes.

    For grey images the weights of all channels are summed: of a grey image they give
    what they gave of the same one in colour. For more channels they are repeated, R, G,
    B, R, and for fewer the first ones are taken; they are scaled by as much, as timm
    does it. Rows that begin with YOLOv5's ``Focus`` give their convolution each channel
    four times, from neighbouring pixels.

    Args:
        model: A whole detector, or a backbone alone.
        state: Under the model's names.

    Returns:
        The state dict, and what was changed as sentences.
    """
    backbone = getattr(model, 'backbone', model)
    found = find_first_conv(backbone)
    if found is None:
        return dict(state), []
    prefix = '' if backbone is model else 'backbone.'
    name = f'{prefix}{found[0]}.weight'
    own, file = found[1].weight, state.get(name)
    if file is None or file.ndim != 4 or file.shape == own.shape:
        return dict(state), []
    if (file.shape[0], *file.shape[2:]) != (own.shape[0], *own.shape[2:]):
        return dict(state), []
    ours = get_stated_channels(backbone) or own.shape[1]
    pixels = own.shape[1] // ours  # that the convolution gets of each channel
    theirs = file.shape[1] // max(pixels, 1)
    if pixels * ours != own.shape[1] or pixels * theirs != file.shape[1]:
        return dict(state), []
    weight = file.float().unflatten(1, (pixels, theirs))
    if ours == 1:
        how, weight = 'summed', weight.sum(2, keepdim=True)
    else:
        how = 'repeated' if theirs < ours else f'cut to the first {ours}'
        times = -(-ours // theirs)
        weight = weight.repeat(1, 1, times, 1, 1)[:, :, :ours] * (theirs / ours)
        how += f', scaled by {theirs}/{ours},'
    note = (
        f'the first convolution, {name}, has weights for {describe(theirs)} in the '
        f'file: they were {how} for images of {describe(ours)}'
    )
    return {**state, name: weight.flatten(1, 2).to(file.dtype)}, [note]


def describe(channels: int) -> str:
    """A number of channels as text."""
    return f'{channels} {"channel" if channels == 1 else "channels"}'
