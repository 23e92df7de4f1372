"""How images of so many channels are loaded: what mmcv calls it, and 'bgra' of ours."""

COLOR_TYPES = {1: 'grayscale', 3: 'color', 4: 'bgra'}
