"""Many dicts in little memory: as bytes, one after another, each read when asked for.

A dict of an annotation takes five times the memory of its text. Here it takes less than
its text does.
"""

import marshal
import pickle
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from mmap import mmap
from typing import Any, overload

import numpy as np

BLOCK = 1 << 20  # bytes


class Packed(Sequence[dict]):
    """A list of dicts that is made once; every look at one makes it anew.

    Args:
        items: The dicts.
    """

    def __init__(self, items: Iterable[dict] = ()) -> None:
        # Blocks of the system's, which go back to it one by one. The heap would keep
        # what is freed, and an array that grows would be copied.
        self._blocks: list[mmap] = []
        self._starts = array('q')  # of the blocks, in the bytes of all
        self._ends = array('q')  # of the dicts
        end = stop = 0  # of what is written, and of the last block
        for item in items:
            content = self._dump(item)
            if end + len(content) > stop:
                self._blocks.append(mmap(-1, max(BLOCK, len(content))))
                self._starts.append(end)
                stop = end + len(self._blocks[-1])
            self._blocks[-1].write(content)
            end += len(content)
            self._ends.append(end)

    @abstractmethod
    def _dump(self, item: dict) -> bytes: ...

    @abstractmethod
    def _load(self, content: bytes) -> dict: ...

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> dict: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict]: ...

    def __getitem__(self, index: int | slice) -> dict | list[dict]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        begin = self._ends[place - 1] if place else 0
        number = bisect_right(self._starts, begin) - 1
        start = self._starts[number]
        return self._load(
            self._blocks[number][begin - start : self._ends[place] - start]
        )

    def __iter__(self) -> Iterator[dict]:
        return map(self.__getitem__, range(len(self)))


class PackedEntries(Packed):
    """Entries of a JSON file, whose keys, which are nearly always the same, stand once.

    Args:
        items: Dicts of what JSON has.
    """

    def __init__(self, items: Iterable[dict] = ()) -> None:
        self._keys: dict[tuple[str, ...], int] = {}
        self._layouts: list[tuple[str, ...]] = []
        super().__init__(items)

    def _dump(self, item: dict) -> bytes:
        keys = tuple(item)
        if keys not in self._keys:
            self._keys[keys] = len(self._layouts)
            self._layouts.append(keys)
        return marshal.dumps((self._keys[keys], *item.values()), 2)

    def _load(self, content: bytes) -> dict:
        layout, *values = marshal.loads(content)
        return dict(zip(self._layouts[layout], values))


class PackedSamples(Packed):
    """Samples of a dataset, in the bytes that MMEngine hands to a loader's workers."""

    def _dump(self, item: dict) -> bytes:
        return pickle.dumps(item, 4)

    def _load(self, content: bytes) -> dict:
        return pickle.loads(content)  # which this process has written

    def serialize(self) -> tuple[np.ndarray, np.ndarray]:
        """The bytes (uint8), and where each sample ends in them (int64).

        They move: the list is empty afterwards, as MMEngine leaves its own.
        """
        ends = np.array(self._ends, np.int64)
        moved: np.ndarray = np.empty(ends[-1] if len(ends) else 0, np.uint8)
        del self._ends[:]
        stop = len(moved)
        while self._blocks:
            start, block = self._starts.pop(), self._blocks.pop()
            moved[start:stop] = np.frombuffer(block, np.uint8, stop - start)
            stop = start
        return moved, ends


class Chosen(Sequence[dict]):
    """Some of a list's dicts, without a copy of any.

    Args:
        items: The list.
        numbers: (n,) which of them.
    """

    def __init__(self, items: Sequence[dict], numbers: Iterable[int]) -> None:
        self._items = items
        self._numbers = np.fromiter(numbers, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._items[int(self._numbers[index])]

    def __iter__(self) -> Iterator[dict]:
        return (self._items[number] for number in self._numbers.tolist())


def keep(items: Sequence[dict], is_kept: Callable[[dict], bool]) -> Sequence[dict]:
    """Those of a list's dicts for which something holds, in a list of its type."""
    if isinstance(items, PackedSamples):
        numbers = [number for number, item in enumerate(items) if is_kept(item)]
        if len(numbers) == len(items):
            return items
        return PackedSamples(items[number] for number in numbers)
    return [item for item in items if is_kept(item)]
