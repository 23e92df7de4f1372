"""A reader of pickles that knows opcodes, not Python: it imports and runs nothing.

Objects become inert :class:`~.records.Record`s, and of all functions only those in
:data:`~.calls.CALLS` are called, which are ours and build plain data. Every pickle of
every checkpoint is read by it, in bounded time and memory.
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Protocol

import torch

from .calls import (
    CALLS,
    DTYPES,
    STORAGES,
    Storage,
    StorageType,
    add_items,
    check_key,
    new_object,
    put_items,
    set_state,
)
from .records import Global, Record, make_refusal

MAX_OPCODES = 1_000_000  # YOLOv5 on Next-ViT has 50,000; this many take seconds
SIZED = list, tuple, dict, str, bytes


class Storages(Protocol):
    """Gives the storages of a file by what a pickle says of them."""

    def __call__(
        self,
        dtype: torch.dtype,
        key: str,
        location: str,
        numel: int,
        view: tuple[str, int, int] | None = None,
        /,
    ) -> Storage:
        """The storage of a key.

        Args:
            dtype: Type of its elements.
            key: Its name in the file.
            location: The device that it was saved from.
            numel: How many elements it has.
            view: In files from before torch 1.6, the part of it that is meant: a key,
                and the first element and the number of elements.
        """


def refuse_storages(*_: object) -> Storage:
    """What a pickle by itself has in place of storages.

    Raises:
        ValueError: Always.
    """
    raise ValueError('a tensor outside of the file')


class Unpickler:
    """Reads one pickle, of any protocol, and imports and calls nothing by itself.

    Args:
        file: Read from where it stands to the end of the pickle.
        storages: Gives the numbers of the tensors.
        calls: What is called for what a pickle names.
        max_opcodes: How long the pickle may be.

    Attributes:
        names: Every class and function that the pickle names.
    """

    def __init__(
        self,
        file: BinaryIO,
        storages: Storages = refuse_storages,
        calls: Mapping[str, Callable] = CALLS,
        max_opcodes: int | None = None,
    ) -> None:
        self.names: set[str] = set()
        self._file, self._storages, self._calls = file, storages, calls
        self._max_opcodes = max_opcodes or MAX_OPCODES
        self._stack: list = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}
        self._position: int | None = 0  # in the file
        self._spent = 0  # arguments of calls, and what is in them

    def load(self) -> object:
        """The object that the pickle holds.

        Raises:
            UserError: It would call something that is not in :data:`~.calls.CALLS`.
            Exception: It is damaged, by whatever the bytes lead to.
        """
        opcodes = pickletools.genops(self._file)
        for count, (op, arg, self._position) in enumerate(opcodes):
            if count > self._max_opcodes:
                raise ValueError('the pickle is too long')
            if op.name == 'STOP':
                break
            if op.name not in OPCODES:
                raise ValueError(f'the pickle uses {op.name}')
            OPCODES[op.name](self, arg)
        return self._stack.pop()

    def list_values(self) -> list[object]:
        """What the pickle has shared so far, among it its texts."""
        return list(self._memo.values())

    # Each of the following is what one or more opcodes do.

    def _push(self, arg: object) -> None:
        self._stack.append(arg)

    def _pop(self, _: None) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _duplicate(self, _: None) -> None:
        self._stack.append(self._stack[-1])

    def _mark(self, _: None) -> None:
        self._marks.append(len(self._stack))

    def _pop_marked(self, _: None = None) -> list:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _recall(self, arg: int) -> None:
        self._stack.append(self._memo[arg])

    def _memoize(self, arg: int | None) -> None:
        self._memo[len(self._memo) if arg is None else arg] = self._stack[-1]

    def _set_item(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        put_items(self._stack[-1], [key, value])

    def _set_items(self, _: None) -> None:
        items = self._pop_marked()
        put_items(self._stack[-1], items)

    def _add_item(self, _: None) -> None:
        item = self._stack.pop()
        add_items(self._stack[-1], [item])

    def _add_items(self, _: None) -> None:
        items = self._pop_marked()
        add_items(self._stack[-1], items)

    def _set_state(self, _: None) -> None:
        state = self._stack.pop()
        set_state(self._stack[-1], state)

    def _name_global(self, arg: str) -> None:
        self._stack.append(self._find(*arg.split(' ', 1)))

    def _name_global_from_stack(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError('a name that is no text')
        self._stack.append(self._find(module, name))

    def _reduce(self, _: None) -> None:
        args = self._stack.pop()
        self._stack.append(self._call(self._stack.pop(), args))

    def _call_named(self, arg: str) -> None:
        function = self._find(*arg.split(' ', 1))
        self._stack.append(self._call(function, self._pop_marked()))

    def _call_marked(self, _: None) -> None:
        function, *args = self._pop_marked()
        self._stack.append(self._call(function, args))

    def _new_object(self, _: None) -> None:
        args = self._stack.pop()
        self._stack.append(new_object(self._stack.pop(), args))

    def _new_object_by_keywords(self, _: None) -> None:
        _, args = self._stack.pop(), self._stack.pop()
        self._stack.append(new_object(self._stack.pop(), args))

    def _refer_to_top(self, _: None) -> None:
        self._stack.append(self._refer(self._stack.pop()))

    def _refer_to_name(self, arg: str) -> None:
        self._stack.append(self._refer(arg))

    # What they share.

    def _find(self, module: str, name: str) -> torch.dtype | StorageType | Global:
        """What stands for a class, function or dtype."""
        source = resolve_name(module, name)
        self.names.add(source)
        plain = DTYPES.get(source) or STORAGES.get(source)
        return plain or Global(source, self._calls.get(source))

    def _call(self, function: object, args: object) -> object:
        """What a call gives, if it is one that is on the list."""
        if not isinstance(function, Global) or not function.call:
            if isinstance(function, Global | Record):
                raise make_refusal(function.source)
            raise ValueError(f'calls {type(function)}')
        if not isinstance(args, list | tuple):
            raise ValueError(f'calls with {type(args)}')
        assert self._position is not None  # as in every file that has tell()
        self._spent += len(args)
        self._spent += sum(len(x) for x in args if isinstance(x, SIZED))
        if self._spent > 1000 + 10 * self._position:  # the same again and again
            raise ValueError('its calls are of more than there is in it')
        return function.call(*args)

    def _refer(self, pid: Any) -> object:
        """What a persistent id stands for: a storage, or the class of a module."""
        match pid:
            case 'storage', StorageType(), str(), str(), int():
                return self._storages(pid[1].dtype, *pid[2:])
            # before torch 1.6, with the part of the storage that is meant
            case (
                'storage',
                StorageType(),
                str(),
                str(),
                int(),
                None | (str(), int(), int()),
            ):
                return self._storages(pid[1].dtype, *pid[2:])
            case 'module', cls, _, _:  # and its source, which torch would compare
                return cls
        raise ValueError('refers to something that is no tensor')


def resolve_name(module: str, name: str) -> str:
    """Of a class or function; Python 3's where protocol 2 has Python 2's."""
    module = IMPORT_MAPPING.get(module, module)
    return '.'.join(NAME_MAPPING.get((module, name), (module, name)))


def _push_new(make: Callable[[], object]) -> Callable[[Unpickler, None], None]:
    return lambda reader, _: reader._push(make())


def _push_marked(make: Callable[[list], object]) -> Callable[[Unpickler, None], None]:
    return lambda reader, _: reader._push(make(reader._pop_marked()))


def _push_tuple(length: int) -> Callable[[Unpickler, None], None]:
    def push(reader: Unpickler, _: None) -> None:
        reader._stack[-length:] = [tuple(reader._stack[-length:])]

    return push


def _ignore(reader: Unpickler, arg: object) -> None:
    pass


OPCODES: dict[str, Callable[[Unpickler, Any], object]] = {
    # those that stand for their argument
    **{
        op.name: Unpickler._push
        for op in pickletools.opcodes
        if op.arg and not op.stack_before and op.stack_after
        if op.stack_after[0] is not pickletools.anyobject
    },
    'NONE': _push_new(lambda: None),
    'NEWTRUE': _push_new(lambda: True),
    'NEWFALSE': _push_new(lambda: False),
    'EMPTY_TUPLE': _push_new(tuple),
    'EMPTY_LIST': _push_new(list),
    'EMPTY_DICT': _push_new(dict),
    'EMPTY_SET': _push_new(set),
    'TUPLE': _push_marked(tuple),
    'LIST': _push_marked(list),
    'DICT': _push_marked(lambda items: put_items({}, items)),
    'FROZENSET': _push_marked(lambda items: frozenset(map(check_key, items))),
    'TUPLE1': _push_tuple(1),
    'TUPLE2': _push_tuple(2),
    'TUPLE3': _push_tuple(3),
    'GET': Unpickler._recall,
    'BINGET': Unpickler._recall,
    'LONG_BINGET': Unpickler._recall,
    'PUT': Unpickler._memoize,
    'BINPUT': Unpickler._memoize,
    'LONG_BINPUT': Unpickler._memoize,
    'MEMOIZE': Unpickler._memoize,
    'MARK': Unpickler._mark,
    'POP': Unpickler._pop,
    'POP_MARK': Unpickler._pop_marked,
    'DUP': Unpickler._duplicate,
    'SETITEM': Unpickler._set_item,
    'SETITEMS': Unpickler._set_items,
    'APPEND': Unpickler._add_item,
    'APPENDS': Unpickler._add_items,
    'ADDITEMS': Unpickler._add_items,
    'GLOBAL': Unpickler._name_global,
    'STACK_GLOBAL': Unpickler._name_global_from_stack,
    'REDUCE': Unpickler._reduce,
    'INST': Unpickler._call_named,
    'OBJ': Unpickler._call_marked,
    'NEWOBJ': Unpickler._new_object,
    'NEWOBJ_EX': Unpickler._new_object_by_keywords,
    'BUILD': Unpickler._set_state,
    'BINPERSID': Unpickler._refer_to_top,
    'PERSID': Unpickler._refer_to_name,
    'PROTO': _ignore,
    'FRAME': _ignore,
}
