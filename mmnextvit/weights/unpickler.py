"""A reader of pickles that knows opcodes, not Python: it imports and runs nothing.

Objects become inert :class:`Record`s, and of all functions only those in :data:`CALLS`
are called, which are ours or build plain data. Every checkpoint's pickle is looked
through with it, those too that torch's ``weights_only`` reader then reads: no bomb
reaches that, and no function of torch's but those few.
"""

import pickle
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

MAX_OPCODES = 1_000_000  # YOLOv5 on Next-ViT has 50,000; this many take seconds
MAX_MODULES = 100_000
MAX_MODULE_PATH = 1_000  # characters


class Refused(pickle.UnpicklingError):
    """A file would call something that is not listed."""

    def __init__(self, called: str) -> None:
        super().__init__(f'GLOBAL {called}')


@dataclass(eq=False, slots=True)
class Global:
    """A class or function that a pickle names.

    Args:
        source: Its full name.
        call: What is called for it; ``None`` if it may not be called.
    """

    source: str
    call: Callable | None = None


@dataclass(eq=False, slots=True)
class Record:
    """An object of a class that was not imported: only what was stored of it.

    Args:
        source: Full name of its class.
        state: What ``__getstate__`` gave, as a rule the attributes in a dict. Items of
            objects that are lists, dicts or sets too are left out.
    """

    source: str
    state: object = field(default=None, repr=False)

    def __setstate__(self, state: object) -> None:
        self.state = state

    def attribute(self, name: str) -> object:
        return self.state.get(name) if isinstance(self.state, dict) else None


def named_modules(model: Record) -> Iterator[tuple[str, Record]]:
    """The modules in a pickled torch module by their paths, itself first.

    As in a state dict, the paths end with a dot, and a module that is in two places
    comes twice.

    Raises:
        ValueError: They are more, or deeper, than any model's: one may hold itself.
    """
    todo, count = [('', model)], 0
    while todo:
        path, module = todo.pop()
        yield path, module
        children = module.attribute('_modules')
        names = reversed(children) if isinstance(children, dict) else ()
        todo += [
            (f'{path}{name}.', children[name])
            for name in names
            if isinstance(name, str) and isinstance(children[name], Record)
        ]
        count += 1
        if count > MAX_MODULES or len(path) > MAX_MODULE_PATH:
            raise ValueError(f'the modules of {model.source} do not end')


class Unpickler:
    """Reads one pickle, of any protocol, and imports and calls nothing by itself.

    Has what ``torch.load`` needs of a pickle module's class of this name.

    Args:
        file: Read from where it stands to the end of the pickle.
        options: Those of Python's, for texts of Python 2; not needed.
    """

    def __init__(self, file: BinaryIO, **options) -> None:
        self._file, self._position, self._spent = file, 0, 0
        self.protocol = 0

    def find_class(self, module: str, name: str) -> object:
        source = full_name(module, name)
        return DTYPES.get(source) or Global(source, CALLS.get(source))

    def persistent_load(self, pid: tuple) -> object:
        """Replaced by torch's, which gives a storage."""
        raise ValueError('a tensor outside of the file')

    def refer(self, pid: object) -> object:
        """What a persistent id stands for."""
        match pid:
            case 'storage', _, str(), str(), int():
                return self.persistent_load(pid)
            # before torch 1.6, with a storage that it is a part of
            case 'storage', _, str(), str(), int(), None | (str(), int(), int()):
                return self.persistent_load(pid)
            case 'module', cls, _, _:  # and its source, which torch would compare
                return cls
        raise ValueError('refers to something that is no tensor')

    def call(self, function: object, args: Iterable) -> object:
        if not isinstance(function, Global) or not function.call:
            if isinstance(function, Global | Record):
                raise Refused(function.source)
            raise ValueError(f'calls {type(function)}')
        if not isinstance(args, list | tuple):
            raise ValueError(f'calls with {type(args)}')
        self._spent += len(args)
        self._spent += sum(len(x) for x in args if isinstance(x, SIZED))
        if self._spent > 1000 + 10 * self._position:  # the same again and again
            raise ValueError('its calls are of more than there is in it')
        return function.call(*args)

    def load(self) -> object:
        stack, marks, memo = [], [], {}

        def pop_marked() -> list:
            start = marks.pop()
            items = stack[start:]
            del stack[start:]
            return items

        opcodes = pickletools.genops(self._file)
        for count, (op, arg, self._position) in enumerate(opcodes):
            if count > MAX_OPCODES:
                raise ValueError('the pickle is too long')
            match op.name:
                case 'BINGET' | 'LONG_BINGET' | 'GET':
                    stack.append(memo[arg])
                case 'BINPUT' | 'LONG_BINPUT' | 'PUT':
                    memo[arg] = stack[-1]
                case 'MEMOIZE':
                    memo[len(memo)] = stack[-1]
                case name if name in LITERALS:
                    stack.append(arg)
                case name if name in CONSTANTS:
                    stack.append(CONSTANTS[name]())
                case 'REDUCE':
                    args = stack.pop()
                    stack.append(self.call(stack.pop(), args))
                case 'MARK':
                    marks.append(len(stack))
                case 'TUPLE':
                    stack.append(tuple(pop_marked()))
                case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                    n = int(op.name[-1])
                    stack[-n:] = [tuple(stack[-n:])]
                case 'GLOBAL':
                    stack.append(self.find_class(*arg.split(' ', 1)))
                case 'SETITEMS':
                    items = pop_marked()
                    _put(stack[-1], items)
                case 'SETITEM':
                    value, key = stack.pop(), stack.pop()
                    _put(stack[-1], [key, value])
                case 'BUILD':
                    state = stack.pop()
                    if not isinstance(stack[-1], Record | Items | Array | DType):
                        raise ValueError(f'sets attributes of {type(stack[-1])}')
                    stack[-1].__setstate__(state)
                case 'NEWOBJ':
                    args = stack.pop()
                    stack.append(_new(stack.pop(), args))
                case 'BINPERSID':
                    stack.append(self.refer(stack.pop()))
                case 'APPENDS':
                    items = pop_marked()
                    _add(stack[-1], items)
                case 'APPEND':
                    item = stack.pop()
                    _add(stack[-1], [item])
                case 'PROTO':
                    self.protocol = arg
                case 'STOP':
                    return stack.pop()
                # not written by protocol 2, which torch.save takes by default
                case 'FRAME':
                    pass
                case 'STACK_GLOBAL':
                    name, module = stack.pop(), stack.pop()
                    if not isinstance(name, str) or not isinstance(module, str):
                        raise ValueError('a name that is no text')
                    stack.append(self.find_class(module, name))
                case 'NEWOBJ_EX':
                    _, args = stack.pop(), stack.pop()
                    stack.append(_new(stack.pop(), args))
                case 'ADDITEMS':
                    items = pop_marked()
                    _add(stack[-1], items)
                case 'FROZENSET':
                    stack.append(frozenset(map(_key, pop_marked())))
                case 'LIST':
                    stack.append(pop_marked())
                case 'DICT':
                    items = pop_marked()
                    stack.append(_put({}, items))
                case 'INST':
                    cls = self.find_class(*arg.split(' ', 1))
                    stack.append(self.call(cls, pop_marked()))
                case 'OBJ':
                    cls, *args = pop_marked()
                    stack.append(self.call(cls, args))
                case 'PERSID':
                    stack.append(self.refer(arg))
                case 'DUP':
                    stack.append(stack[-1])
                case 'POP' if marks and marks[-1] == len(stack):
                    marks.pop()
                case 'POP':
                    stack.pop()
                case 'POP_MARK':
                    pop_marked()
                case other:
                    raise ValueError(f'the pickle uses {other}')


class Survey(Unpickler):
    """Reads a pickle for the names in it; makes no tensors, and objects only inert.

    Attributes:
        names: Every class and function that it names.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.names: set[str] = set()

    def find_class(self, module: str, name: str) -> Global:
        source = full_name(module, name)
        self.names.add(source)
        tensor = source in CALLS and source.startswith('torch._utils.')
        return Global(
            source,
            CONTAINERS.get(source)
            or (lambda *args: None if tensor else Record(source)),
        )

    def persistent_load(self, pid: tuple) -> None:
        pass


def full_name(module: str, name: str) -> str:
    """Of a class or function; Python 3's where protocol 2 has Python 2's."""
    module = IMPORT_MAPPING.get(module, module)
    return '.'.join(NAME_MAPPING.get((module, name), (module, name)))


SIZED = list, tuple, dict, str, bytes
LITERALS = {  # opcodes that stand for their argument
    op.name
    for op in pickletools.opcodes
    if op.arg and not op.stack_before and op.stack_after[:1] != [pickletools.anyobject]
    if op.stack_after
}
CONSTANTS = {
    'NONE': lambda: None,
    'NEWTRUE': lambda: True,
    'NEWFALSE': lambda: False,
    'EMPTY_TUPLE': tuple,
    'EMPTY_LIST': list,
    'EMPTY_DICT': dict,
    'EMPTY_SET': set,
}


def _put(target: object, items: list) -> object:
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value
    elif not isinstance(target, Record):
        raise ValueError(f'sets items of {type(target)}')
    return target


def _new(cls: Global, *args: object) -> Record:
    """An object of a class, by any protocol's way to make it."""
    if not isinstance(cls, Global):
        raise ValueError(f'makes an object of {type(cls)}')
    return Record(cls.source)


def _add(target: object, items: list) -> None:
    if isinstance(target, list):
        target += items
    elif isinstance(target, set):
        target.update(map(_key, items))
    elif not isinstance(target, Record):
        raise ValueError(f'appends to {type(target)}')


def _key(key: object) -> object:
    """Refuses tuples of tuples: Python crashes at the hash of very deep ones."""
    if isinstance(key, tuple) and any(isinstance(item, tuple) for item in key):
        raise ValueError('a tuple of tuples as a key')
    return key


class Items(dict):
    """A dict without attributes, for dicts of other classes."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


def _items(content: dict | list | tuple = ()) -> Items:
    pairs = content.items() if isinstance(content, dict) else _plain(content)
    return _put(Items(), [x for key, value in pairs for x in (key, value)])


def _set(items: list | tuple = ()) -> set:
    return set(map(_key, _plain(items)))


def _size(sizes: list | tuple = ()) -> torch.Size:
    return torch.Size(_plain(sizes))


def _plain(items: list | tuple) -> list | tuple:
    """Not a tensor, which would give one for each of its elements."""
    if not isinstance(items, list | tuple):
        raise ValueError(f'items in {type(items)}')
    return items


def _tensor(storage, offset: int, size: tuple, stride: tuple, *_) -> Tensor:
    stored = storage._untyped_storage
    flat = torch.empty(0, dtype=storage.dtype, device=stored.device).set_(stored)
    tensor = flat.as_strided(size, stride, offset)
    if tensor.numel() > flat.numel():
        raise ValueError('a tensor is larger than what is stored of it')
    return tensor


def _parameter(data: Tensor, *_) -> Tensor:
    return data


def _encode(text: str, encoding: str = 'latin1') -> bytes:
    if encoding != 'latin1':
        raise Refused('_codecs.encode')
    return text.encode(encoding)


def _no_bytes() -> bytes:
    """``bytes()``, as protocol 2 has them where they are empty."""
    return b''


def _path(*parts: str) -> str:
    return '/'.join(parts)


# numpy's own would make arrays of pointers from a file's bytes.

PLAIN_DTYPE = re.compile(r'[<>=|][biufcUS]\d{1,4}')


class DType:
    """What stands for ``numpy.dtype``: of numbers and text only."""

    def __init__(self, code: str, *_) -> None:
        self.code, self.order = code, '='

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def plain(self) -> np.dtype:
        text = isinstance(self.code, str) and isinstance(self.order, str)
        if not text or not PLAIN_DTYPE.fullmatch(self.order + self.code):
            raise Refused('numpy.dtype')
        return np.dtype(self.order + self.code)


class Array(np.ndarray):
    """What stands for ``numpy.ndarray``; saved again it is one."""

    def __new__(cls, *args) -> 'Array':
        if args:
            raise Refused('numpy.ndarray')
        return super().__new__(cls, (0,))

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        super().__setstate__((1, shape, dtype.plain(), bool(fortran), content))

    def __reduce__(self) -> tuple:
        return self.view(np.ndarray).__reduce__()


def _array(*_) -> Array:
    return Array()


def _scalar(dtype: DType, content: bytes) -> np.generic:
    return np.ndarray((), dtype.plain(), content)[()]


def _statistic(cls: type, name: str) -> Callable:
    """What stands for ``getattr``, by which a HistoryBuffer names its methods."""
    if cls is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise Refused('builtins.getattr')
    return getattr(cls, name)


NUMPY = {
    'numpy.dtype': DType,
    'numpy.ndarray': Array,
    'numpy.core.multiarray._reconstruct': _array,  # numpy 1
    'numpy._core.multiarray._reconstruct': _array,  # numpy 2
    'numpy.core.multiarray.scalar': _scalar,
    'numpy._core.multiarray.scalar': _scalar,
}
# What MMEngine's checkpoints hold beside tensors, for torch's weights_only reader: the
# logs' history.
HISTORY = f'{HistoryBuffer.__module__}.{HistoryBuffer.__qualname__}'
ALLOWED = [
    HistoryBuffer,
    (_statistic, 'builtins.getattr'),
    (_no_bytes, 'builtins.bytes'),
    *((call, name) for name, call in NUMPY.items()),
]
CONTAINERS = {
    'collections.OrderedDict': _items,
    'collections.Counter': _items,
    'builtins.set': _set,
    'torch.Size': _size,
}
# What the pickle of a torch model calls.
CALLS = {
    **CONTAINERS,
    '_codecs.encode': _encode,
    'builtins.bytes': _no_bytes,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch.device': torch.device,
    **NUMPY,
    'copyreg._reconstructor': _new,
    'pathlib.PosixPath': _path,
    'pathlib.WindowsPath': _path,
    'pathlib._local.PosixPath': _path,  # Python 3.13
    'pathlib._local.WindowsPath': _path,
}
DTYPES = {f'torch.{k}': v for k, v in vars(torch).items() if isinstance(v, torch.dtype)}
STORAGES = {f'torch.{cls.__name__}' for cls in torch._storage_classes}
UNKNOWN_TO_TORCH = {n for n in CALLS if n.startswith(('copy', 'pathlib'))}
# What torch's weights_only reader may meet.
PLAIN = {
    *(CALLS.keys() - UNKNOWN_TO_TORCH),
    *DTYPES,
    *(STORAGES - {'torch.UntypedStorage', 'torch.TypedStorage'}),
    HISTORY,
    'builtins.getattr',
}
