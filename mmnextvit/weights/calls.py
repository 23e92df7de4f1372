"""What the reader of pickles calls: our own stand-ins, which build plain data only.

A pickle names functions and classes. :data:`CALLS` maps each name that a checkpoint
needs to what is called in its place; no other name is ever called.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from .records import EXPANDED, Global, Record, make_refusal

Target = TypeVar('Target')


@dataclass(frozen=True)
class StorageType:
    """What stands for a class such as ``torch.FloatStorage``."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """The numbers that one or more tensors share.

    Args:
        dtype: Their type.
        content: Their bytes.
    """

    dtype: torch.dtype
    content: torch.UntypedStorage


# -------------------------------------------------------------------- containers


def check_key(key: object) -> object:
    """Refuses tuples of tuples: Python crashes at the hash of very deep ones."""
    if isinstance(key, tuple) and any(isinstance(item, tuple) for item in key):
        raise ValueError('a tuple of tuples as a key')
    return key


def put_items(target: Target, items: list) -> Target:
    """Sets keys and values, which take turns in ``items``, and returns the target."""
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[check_key(key)] = value
    elif not isinstance(target, Record):
        raise ValueError(f'sets items of {type(target)}')
    return target


def add_items(target: object, items: list) -> None:
    """Appends to a list or adds to a set; the items of a record are left out."""
    if isinstance(target, list):
        target += items
    elif isinstance(target, set):
        target.update(map(check_key, items))
    elif not isinstance(target, Record):
        raise ValueError(f'appends to {type(target)}')


def set_state(target: object, state: Any) -> None:
    """Sets the attributes of an object, which must be one of our stand-ins.

    Of a dict's attributes only torch's ``_metadata`` is kept: others might hide its
    methods.
    """
    match target:
        case Record() | Array() | DType():
            target.__setstate__(state)
        case HistoryBuffer():
            _set_history(target, state)
        case OrderedDict():
            metadata = state.get('_metadata') if isinstance(state, dict) else None
            if isinstance(metadata, dict):
                vars(target)['_metadata'] = metadata
        case Counter():
            pass
        case _:
            raise ValueError(f'sets attributes of {type(target)}')


def new_object(cls: object, *args: object) -> object:
    """An object of a class, by any protocol's way to make it."""
    if not isinstance(cls, Global):
        raise ValueError(f'makes an object of {type(cls)}')
    return HistoryBuffer() if cls.source == HISTORY else Record(cls.source)


def _check_items(items: object) -> list | tuple:
    """Refuses a tensor, which would give one for each of its elements."""
    if not isinstance(items, list | tuple):
        raise ValueError(f'items in {type(items)}')
    return items


def _make_dict(cls: type[dict]) -> Callable[..., dict]:
    def make(content: dict | list | tuple = ()) -> dict:
        pairs = content.items() if isinstance(content, dict) else _check_items(content)
        return put_items(cls(), [x for key, value in pairs for x in (key, value)])

    return make


def _make_set(items: list | tuple = ()) -> set:
    return set(map(check_key, _check_items(items)))


def _make_size(sizes: list | tuple = ()) -> torch.Size:
    return torch.Size(_check_items(sizes))


def _encode(text: str, encoding: str = 'latin1') -> bytes:
    if encoding != 'latin1':
        raise make_refusal('_codecs.encode')
    return text.encode(encoding)


def _make_bytes() -> bytes:
    """``bytes()``, as protocol 2 has them where they are empty."""
    return b''


def _join_path(*parts: str) -> str:
    return '/'.join(parts)


# ----------------------------------------------------------------------- tensors


def _make_tensor(
    storage: Storage, offset: int, size: tuple, stride: tuple, *_: object
) -> Tensor | Record:
    content = storage.content
    flat = torch.empty(0, dtype=storage.dtype, device=content.device).set_(content)
    tensor = flat.as_strided(size, stride, offset)
    if tensor.numel() > flat.numel():
        # As YOLOv5's grids after an inference are, of which no model needs any. The
        # numbers are not given, since a copy might take more memory than there is.
        return Record(EXPANDED)
    return tensor


def _make_tensor_of_dtype(
    storage: Storage,
    offset: int,
    size: tuple,
    stride: tuple,
    grad: object,
    hooks: object,
    dtype: torch.dtype,
    *_: object,
) -> Tensor | Record:
    """A tensor of a type that has no class of storages, such as float8 and uint16."""
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f'a tensor of the type {type(dtype)}')
    return _make_tensor(Storage(dtype, storage.content), offset, size, stride)


def _make_parameter(data: Tensor, *_: object) -> Tensor:
    """A plain tensor, which is all that a state dict needs."""
    return data


# ----------------------------------------- NumPy, which would make arrays of pointers

PLAIN_DTYPE = re.compile(r'[<>=|][biufcUS]\d{1,4}')


class DType:
    """What stands for ``numpy.dtype``: numbers and text only."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, '='

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def plain(self) -> np.dtype:
        """The dtype of NumPy.

        Raises:
            UserError: It is of objects or structures.
        """
        text = isinstance(self.code, str) and isinstance(self.order, str)
        if not text or not PLAIN_DTYPE.fullmatch(self.order + self.code):
            raise make_refusal('numpy.dtype')
        return np.dtype(self.order + self.code)


class Array(np.ndarray):
    """What stands for ``numpy.ndarray``; saved again it is one."""

    def __new__(cls, *args: object) -> 'Array':
        if args:
            raise make_refusal('numpy.ndarray')
        return super().__new__(cls, (0,))

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        plain: tuple = (1, shape, dtype.plain(), bool(fortran), content)
        super().__setstate__(plain)

    def __reduce__(self) -> str | tuple:
        return self.view(np.ndarray).__reduce__()


def _make_array(*_: object) -> Array:
    return Array()


def _make_array_of_buffer(
    content: bytes, dtype: DType, shape: tuple, order: str = 'C'
) -> Array:
    """An array as protocol 5 has it."""
    flat = np.frombuffer(content, dtype.plain())
    return flat.reshape(shape, order='F' if order == 'F' else 'C').copy().view(Array)


def _make_scalar(dtype: DType, content: bytes) -> Any:
    """A scalar of NumPy's, which its types call an array."""
    return np.ndarray((), dtype.plain(), content)[()]


# ------------------------------------- the history of logs in MMEngine's checkpoints

HISTORY = f'{HistoryBuffer.__module__}.{HistoryBuffer.__qualname__}'


def _get_statistic(cls: Global, name: str) -> Global:
    """What stands for ``getattr``, by which a HistoryBuffer names its methods."""
    of_history = isinstance(cls, Global) and cls.source == HISTORY
    if not of_history or name not in ('min', 'max', 'current', 'mean'):
        raise make_refusal('builtins.getattr')
    return Global(f'{HISTORY}.{name}')


def _set_history(buffer: HistoryBuffer, state: object) -> None:
    """Fills a history with its numbers.

    Its own ``__setstate__`` would put what the file names as statistics into the class,
    for every history of the process.
    """
    if not isinstance(state, dict):
        raise ValueError('a history without its numbers')
    kept = {key: state.get(key) for key in vars(buffer)}
    for key, value in kept.items():
        wanted = int if key == 'max_length' else Array
        if not isinstance(value, wanted):
            raise ValueError(f'a history whose {key} is {type(value)}')
    vars(buffer).update(kept)


CALLS: dict[str, Callable] = {
    'collections.OrderedDict': _make_dict(OrderedDict),
    'collections.Counter': _make_dict(Counter),
    'builtins.set': _make_set,
    'builtins.bytes': _make_bytes,
    'builtins.getattr': _get_statistic,
    '_codecs.encode': _encode,
    'torch.Size': _make_size,
    'torch.device': torch.device,
    'torch._utils._rebuild_tensor': _make_tensor,
    'torch._utils._rebuild_tensor_v2': _make_tensor,
    'torch._utils._rebuild_tensor_v3': _make_tensor_of_dtype,
    'torch._utils._rebuild_parameter': _make_parameter,
    'torch._utils._rebuild_parameter_with_state': _make_parameter,
    'numpy.dtype': DType,
    'numpy.ndarray': Array,
    'numpy.core.multiarray._reconstruct': _make_array,  # numpy 1
    'numpy._core.multiarray._reconstruct': _make_array,  # numpy 2
    'numpy.core.numeric._frombuffer': _make_array_of_buffer,
    'numpy._core.numeric._frombuffer': _make_array_of_buffer,
    'numpy.core.multiarray.scalar': _make_scalar,
    'numpy._core.multiarray.scalar': _make_scalar,
    'copyreg._reconstructor': new_object,
    'pathlib.PosixPath': _join_path,
    'pathlib.WindowsPath': _join_path,
    'pathlib._local.PosixPath': _join_path,  # Python 3.13
    'pathlib._local.WindowsPath': _join_path,
}
DTYPES = {f'torch.{k}': v for k, v in vars(torch).items() if isinstance(v, torch.dtype)}
STORAGE_DTYPES = {
    'Double': torch.float64,
    'Float': torch.float32,
    'Half': torch.float16,
    'BFloat16': torch.bfloat16,
    'Long': torch.int64,
    'Int': torch.int32,
    'Short': torch.int16,
    'Char': torch.int8,
    'Byte': torch.uint8,
    'Bool': torch.bool,
    'ComplexDouble': torch.complex128,
    'ComplexFloat': torch.complex64,
    'Untyped': torch.uint8,
}
STORAGES = {
    f'{module}.{name}Storage': StorageType(dtype)
    for module in ('torch', 'torch.cuda', 'torch.storage')
    for name, dtype in STORAGE_DTYPES.items()
}
# Names that leave nothing behind of an object of a class that is not imported.
PLAIN = {
    *(name for name in CALLS if not name.startswith(('copyreg', 'pathlib'))),
    *DTYPES,
    *STORAGES,
    HISTORY,
}
