"""Weights that were trained on images of another number of channels."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..models.image_channels import find_first_conv


def fit_image_channels(
    model: nn.Module, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict whose first convolution takes the images that the model takes.

    For grey images the weights of all channels are summed: of a grey image they give
    what they gave of the same one in colour. For more channels they are repeated, R, G,
    B, R, and scaled down as much, as timm does it.

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
    theirs, ours = file.shape[1], own.shape[1]
    if (file.shape[0], *file.shape[2:]) != (own.shape[0], *own.shape[2:]):
        return dict(state), []
    if ours == 1:
        how, weight = 'summed', file.float().sum(1, keepdim=True)
    else:
        how, times = 'repeated', -(-ours // theirs)
        weight = file.float().repeat(1, times, 1, 1)[:, :ours] * (theirs / ours)
    images = 'channel' if ours == 1 else 'channels'
    note = (
        f'the first convolution, {name}, has weights for {theirs} channels in the '
        f'file: they were {how} for images of {ours} {images}'
    )
    return {**state, name: weight.to(file.dtype)}, [note]
