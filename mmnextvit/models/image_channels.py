"""How many channels the images of a detector have: grey, RGB, or RGB and a fourth."""

from torch import nn

from ..utils.color_types import COLOR_TYPES


def find_first_conv(backbone: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """The convolution that a backbone gives its images to, and its name; the first."""
    convs = (
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d)
    )
    return next(convs, None)


def get_stated_channels(backbone: nn.Module) -> int | None:
    """Channels of the images as a backbone states them; ``None`` where it does not."""
    stated = (getattr(backbone, name, None) for name in ('in_channels', 'in_chans'))
    return next((count for count in stated if isinstance(count, int)), None)


def count_image_channels(detector: nn.Module) -> int:
    """Channels of a detector's images; 3 where it does not show."""
    backbone = getattr(detector, 'backbone', detector)
    if stated := get_stated_channels(backbone):
        return stated
    found = find_first_conv(backbone)
    count = found[1].in_channels * found[1].groups if found else 3
    return count if count in COLOR_TYPES else 3


def order_as_rgb(channels: int) -> list[int]:
    """Where each channel lies in the other order: of B, G, R and those after them."""
    return [2, 1, 0, *range(3, channels)] if channels >= 3 else list(range(channels))
