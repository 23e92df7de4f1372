"""The minimum scores with the highest F1, in the checkpoints that they belong to."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ..evaluation.curves import find_best_scores, to_metadata
from ..evaluation.matching import Matching
from ..utils.errors import UserError
from ..utils.files import atomic_write
from ..weights.contents import BEST_SCORES, read_best_scores
from ..weights.conversion import save_checkpoint
from ..weights.reader import read_all
from .checkpoints import LAST

# What MMEngine's runner says of every checkpoint of a run.
OF_RUNS = 'epoch', 'iter', 'experiment_name', 'mmengine_version'


@HOOKS.register_module()
class BestScoresHook(Hook):
    """Puts the best scores of a validation into checkpoints of the same weights.

    The best checkpoint is saved after the validation that found it best, and gets that
    validation's scores; so does an epoch's own where that is saved again then. What is
    saved before its validation, or trained after one, has none.
    """

    priority = 'NORMAL'  # before CheckpointHook saves the best

    def __init__(self) -> None:
        self._scores: dict[str, Any] | None = None  # of the weights as they are

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        matching = find_matching(runner)
        self._scores = to_metadata(find_best_scores(matching)) if matching else None

    def before_train_iter(
        self, runner: Runner, *args: object, **kwargs: object
    ) -> None:
        self._scores = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._scores is not None:
            checkpoint['meta'][BEST_SCORES] = self._scores


def find_matching(runner: Runner, mode: str = 'val') -> Matching | None:
    """The matching of a runner's last evaluation, ``None`` where there is none.

    Args:
        runner: With one metric of boxes, or more, of which the first counts.
        mode: 'val' or 'test'.
    """
    loop = getattr(runner, f'_{mode}_loop')
    metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', ())
    found = (getattr(metric, 'matching', None) for metric in metrics)
    return next((matching for matching in found if matching is not None), None)


def store_best_scores(path: str | os.PathLike, scores: Mapping[str, Any]) -> bool:
    """Writes best scores into a run's checkpoint, which else stays what it was.

    The file is written anew beside itself, compared, and takes its own place only then,
    under all its names in the folder, such as ``best.pth``.

    Args:
        path: A checkpoint in the folder of a run, or a link to another one there.
        scores: As :func:`~mmnextvit.evaluation.curves.to_metadata` gives them.

    Returns:
        Whether it was written; it is not where it has these scores already.

    Raises:
        UserError: It is no checkpoint of a run, or it holds what cannot be written as
            it was; or the scores cannot be.
        OSError: It cannot be written, or what was written differs.
    """
    real = Path(path).resolve()
    if real.parent != Path(path).absolute().parent.resolve():
        raise UserError(
            'the file lies in another folder, which stays as it is', file=path
        )
    content = read_all(real)
    meta = content.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    is_of_run = all(key in meta for key in OF_RUNS)
    if not is_of_run or not (real.parent / LAST).is_file():
        problem = 'this is no checkpoint in the folder of a run: it stays as it is'
        raise UserError(problem, file=path)
    if (unknown := next(find_differences(content, content), None)) is not None:
        problem = 'this cannot be written as it was read: the file stays as it is'
        raise UserError(problem, file=path, key=unknown)
    changed = {**content, 'meta': {**meta, BEST_SCORES: dict(scores)}}
    wanted = read_best_scores(changed, str(path))
    if meta.get(BEST_SCORES) == wanted:
        return False
    names = [p for p in real.parent.glob('*.pth') if p != real and not p.is_symlink()]
    names = [other for other in names if other.samefile(real)]
    with atomic_write(real) as scratch:
        save_checkpoint(changed, scratch)
        if any(find_differences(changed, read_all(scratch))):
            raise OSError(f'{real} could not be written: what was written differs')
    for other in names:
        with atomic_write(other) as scratch:
            os.link(real, scratch)
    return True


def find_differences(one: Any, other: Any, key: str = '') -> Iterator[str]:
    """The keys under which the contents of two checkpoints differ.

    Only what plain checkpoints hold is ever equal: tensors, numbers, texts and so on.
    """
    if type(one) is not type(other):
        yield key
    elif isinstance(one, Mapping):
        if list(one) != list(other):
            yield key
            return
        for name in one:
            yield from find_differences(
                one[name], other[name], f'{key}.{name}'.strip('.')
            )
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield key
            return
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from find_differences(left, right, f'{key}[{i}]')
    elif not _is_same(one, other):
        yield key


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values of one type are equal, NaN to NaN."""
    match one:
        case Tensor():
            return _read_bytes(one) == _read_bytes(other)
        case np.ndarray():
            same_kind = one.dtype == other.dtype and one.shape == other.shape
            return same_kind and one.tobytes() == other.tobytes()
        case HistoryBuffer():
            parts = zip(one.data, other.data, strict=True)
            return one.max_length == other.max_length and all(
                left.tobytes() == right.tobytes() for left, right in parts
            )
        case np.generic():
            return one.tobytes() == other.tobytes()
        case float():
            return one == other or (math.isnan(one) and math.isnan(other))
        case None | bool() | int() | str() | bytes() | set():
            return one == other
        case torch.dtype() | torch.device():
            return one == other
    return False


def _read_bytes(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    values = tensor.detach().cpu().contiguous().reshape(-1)
    return tensor.dtype, tensor.shape, values.view(torch.uint8).numpy().tobytes()
