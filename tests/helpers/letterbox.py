"""The metadata's ``resize`` of a config's usual test pipeline."""


def make_steps(
    size: tuple[int, int],
    keep_ratio: bool = True,
    scale_up: bool = False,
    mini_pad: bool = False,
) -> list[dict]:
    """The steps to images of a height and width."""
    height, width = size
    letterbox = {
        'type': 'letterbox',
        'size': [height, width],
        'fill': 114,
        'scale_up': scale_up,
        'mini_pad': mini_pad,
    }
    first = [{'type': 'keep_ratio', 'scale': [width, height]}] if keep_ratio else []
    return [*first, letterbox]
