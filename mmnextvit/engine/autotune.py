"""cuDNN's autotuning, where shapes are fixed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..models.shapes import FixedShapes

MAX_SHAPES = 2  # a loop's batches, and the last one of an epoch
AFTER = 2


class AutotuneHook(Hook):
    """Lets cuDNN try its algorithms only for shapes of batches that come again.

    ``env_cfg.cudnn_benchmark=True``, which MMYOLO's recipes have, holds for the whole
    process: every new shape waits while all algorithms are tried, which takes over a
    minute for the many shapes of a validation. Without that key, nothing is tried.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._wanted = torch.backends.cudnn.benchmark
        self._shapes: dict[str, FixedShapes] = defaultdict(
            lambda: FixedShapes(MAX_SHAPES, AFTER)
        )

    def _before_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        mode: str = 'train',
    ) -> None:
        if not self._wanted:
            return
        model = getattr(runner.model, 'module', runner.model)
        preprocessor = getattr(model, 'data_preprocessor', None)
        resizes = mode == 'train' and getattr(preprocessor, 'batch_augments', None)
        shape = find_batch_shape(data_batch)
        torch.backends.cudnn.benchmark = (
            not resizes and shape is not None and self._shapes[mode].is_fixed(shape)
        )

    def after_run(self, runner: Runner) -> None:
        if self._wanted:
            torch.backends.cudnn.benchmark = True


def find_batch_shape(data_batch: Any) -> tuple[int, ...] | None:
    """The shape of a batch as the model will see it, but for padding to a stride.

    Args:
        data_batch: What the data loader gives: a dict with ``inputs``, images
            (B, C, H, W) or a list of (C, H, W).
    """
    inputs = data_batch.get('inputs') if isinstance(data_batch, Mapping) else None
    if isinstance(inputs, torch.Tensor):
        return tuple(inputs.shape)
    if isinstance(inputs, Sequence) and inputs:
        images = [image for image in inputs if isinstance(image, torch.Tensor)]
        if len(images) == len(inputs):
            return len(images), *map(max, zip(*(image.shape for image in images)))
    return None
