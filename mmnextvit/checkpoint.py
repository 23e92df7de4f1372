"""Reads checkpoints without running their code, and tells how they fit a model.

A ``.pth`` file is a pickle, and unpickling may call anything. Importing this module
makes each of MMEngine's loaders (local files, http and the others) take tensors,
plain data and the few classes that MMEngine's own checkpoints hold, nothing else.
"""

import os
import pickle
import re
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .nextvit import ARCHS

SHOWN = 3  # names that a message lists of each kind
# What torch's reader raises over bytes that are no checkpoint.
DAMAGED = (AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError)


def _statistic(cls: type, name: str) -> Callable:
    """Stands for ``getattr``, by which a HistoryBuffer's pickle names its methods."""
    if cls is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'GLOBAL getattr({cls.__name__},{name!r})')
    return getattr(cls, name)


# What MMEngine puts into a checkpoint beside tensors: the history of the logs.
ALLOWED = [
    HistoryBuffer,
    (_statistic, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes['All'] if code != 'O'},
    *(
        (np.array(0.0).__reduce__()[0], f'numpy.{core}.multiarray._reconstruct')
        for core in ('core', '_core')  # numpy 1 and 2
    ),
    *(
        (np.float64(0.0).__reduce__()[0], f'numpy.{core}.multiarray.scalar')
        for core in ('core', '_core')
    ),
]


@contextmanager
def _weights_only():
    """Holds every ``torch.load``, explicit ``weights_only=False`` too, to ALLOWED."""
    force, trust = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
    saved = {name: os.environ.pop(name, None) for name in (force, trust)}
    os.environ[force] = '1'
    try:
        with torch.serialization.safe_globals(ALLOWED):
            yield
    finally:
        del os.environ[force]
        os.environ.update({k: v for k, v in saved.items() if v is not None})


def _safe(load: Callable) -> Callable:
    """One of MMEngine's loaders, reading nothing but what is allowed.

    It raises a ValueError that names the file, and what the file asked for.
    """

    @wraps(load)
    def read(filename: str, map_location=None, **kwargs) -> dict:
        try:
            with _weights_only():
                content = load(filename, map_location, **kwargs)
        except pickle.UnpicklingError as error:
            called = re.search(r'GLOBAL (\S+)', str(error))
            raise ValueError(
                f'{filename} is refused: it would call '
                f'{called[1] if called else "code"} when read, and a checkpoint may '
                'hold tensors and plain data only. Nothing of it was run.'
            ) from error
        except FileNotFoundError:
            raise
        except DAMAGED as error:
            reason = str(error).partition('\n')[0]
            raise ValueError(
                f'{filename} cannot be read ({type(error).__name__}: {reason}): it is '
                'damaged, or no checkpoint.'
            ) from error
        if isinstance(content, dict) and isinstance(content.get('meta'), dict):
            # On resuming, MMEngine's runner would run this text as a config file.
            content['meta'].pop('config', None)
        return content

    return read


for _prefix, _load in list(CheckpointLoader._schemes.items()):
    CheckpointLoader.register_scheme(_prefix, _safe(_load), force=True)


@dataclass
class Fit:
    """Which tensors of a file fit a model.

    Attributes:
        fitting: Names whose shapes agree.
        reshaped: Name to its shape in the file and in the model, where they differ.
        missing: Names that only the model has.
        unexpected: Names that only the file has.
        reason: The likely cause as a sentence, or an empty text.
    """

    fitting: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    missing: list[str]
    unexpected: list[str]
    reason: str

    @property
    def complete(self) -> bool:
        return not (self.reshaped or self.missing or self.unexpected)

    def fits(self, prefix: str) -> bool:
        """Whether every tensor of the model's part ``prefix`` is filled."""
        return not any(n.startswith(prefix) for n in (*self.reshaped, *self.missing))

    def __str__(self) -> str:
        total = len(self.fitting) + len(self.reshaped) + len(self.missing)
        lines = [f"{len(self.fitting)} of the model's {total} tensors fit"]
        reshaped = [
            f'{name} ({_shape(file)} in the file, {_shape(model)} in the model)'
            for name, (file, model) in self.reshaped.items()
        ]
        for title, names in (
            ('other shape', reshaped),
            ('not in the file', self.missing),
            ('not in the model', self.unexpected),
        ):
            if names:
                more = f', and {len(names) - SHOWN} more' * (len(names) > SHOWN)
                lines.append(f'  {title}: {", ".join(names[:SHOWN])}{more}')
        return '\n'.join([*lines, self.reason] if self.reason else lines)


def fit(model_state: Mapping[str, Tensor], file_state: Mapping[str, Tensor]) -> Fit:
    """Compares a model's state dict with a file's, by name and shape.

    A leading ``module.`` in the file is taken off as MMEngine does, and the batch
    counters of BatchNorm are left out: nothing depends on them.
    """

    def shapes(state):
        return {
            re.sub(r'^module\.', '', name): tuple(tensor.shape)
            for name, tensor in state.items()
            if not name.endswith('num_batches_tracked')
        }

    model, file = shapes(model_state), shapes(file_state)
    both = [name for name in model if name in file]
    reshaped = {n: (file[n], model[n]) for n in both if file[n] != model[n]}
    missing = [name for name in model if name not in file]
    unexpected = [name for name in file if name not in model]
    reason = ''
    if _blocks(file) != _blocks(model) and _blocks(file) and _blocks(model):
        reason = (
            f'The file is of another arch: its backbone has {_arch(file)}, the '
            f"model's {_arch(model)}."
        )
    elif reshaped and all(n.startswith('bbox_head.') for n in reshaped):
        reason = 'Only the head differs in shape: another number of classes or anchors.'
    fitting = [name for name in both if name not in reshaped]
    return Fit(fitting, reshaped, missing, unexpected, reason)


def _blocks(names: Mapping) -> int:
    """Blocks of a NextViT among state-dict names; 0 if there is none."""
    found = (re.match(r'(?:backbone\.)?features\.(\d+)\.', name) for name in names)
    return max((int(m[1]) + 1 for m in found if m), default=0)


def _arch(names: Mapping) -> str:
    blocks = _blocks(names)
    archs = {sum(arch['depths']): name for name, arch in ARCHS.items()}
    name = f" (arch '{archs[blocks]}')" if blocks in archs else ''
    return f'{blocks} blocks{name}'


def _shape(shape: tuple[int, ...]) -> str:
    return 'x'.join(map(str, shape)) or 'scalar'
