"""Many dicts in little memory: as bytes, one after another, each read when asked for.

A dict of an annotation takes five times the memory of its text. Here it takes less than
its text does. Polygons with two decimals, as COCO's have, take four bytes a number.
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
POLYGONS = 'segmentation'  # the key of COCO's
LARGEST = 2e7  # of numbers that 32 bits hold in hundredths


class Hundredths(Sequence[float]):
    """Numbers with two decimals at most, in four bytes each; pickle reads a list.

    Args:
        content: What :func:`write_hundredths` gave.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple:
        return read_hundredths, (self.content,)

    def __len__(self) -> int:
        return len(self.content) // 4

    def __getitem__(self, index: Any) -> Any:
        return read_hundredths(self.content)[index]

    def __iter__(self) -> Iterator[float]:
        return iter(read_hundredths(self.content))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]


def write_hundredths(numbers: list[float]) -> bytes:
    """Numbers with two decimals at most; nothing if one has more, or is too large.

    Nor for whole numbers alone, whose type matters: MMDetection's masks keep it.
    """
    if float not in map(type, numbers):
        return b''
    if not (min(numbers) > -LARGEST and max(numbers) < LARGEST):
        return b''
    values = np.array(numbers, float)
    hundredths = np.rint(values * 100)
    # Division rounds to the nearest float, as reading the decimals did.
    is_exact = (hundredths / 100 == values).all()
    return hundredths.astype(np.int32).tobytes() if is_exact else b''


def read_hundredths(content: bytes) -> list[float]:
    """The numbers that :func:`write_hundredths` was given."""
    return (np.frombuffer(content, np.int32) / 100).tolist()


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
        self._forgotten = 0  # blocks that are gone
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

    def __reduce__(self) -> tuple:
        return type(self), ([*self],)

    def forget(self, count: int) -> None:
        """Gives back the memory of the first dicts, which are not read again."""
        end = self._ends[count - 1] if count else 0
        for number in range(self._forgotten, bisect_right(self._starts, end) - 1):
            self._blocks[number].close()
            self._forgotten = number + 1


class PackedEntries(Packed):
    """Entries of a JSON file, whose keys, which are nearly always the same, stand once.

    Args:
        items: Dicts of what JSON has; a mask of polygons has lists of numbers.
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
        polygons = item.get(POLYGONS)
        if isinstance(polygons, list):
            small = [write_hundredths(polygon) or polygon for polygon in polygons]
            item = item | {POLYGONS: small}
        return marshal.dumps((self._keys[keys], *item.values()), 2)

    def _load(self, content: bytes) -> dict:
        layout, *values = marshal.loads(content)
        item = dict(zip(self._layouts[layout], values))
        polygons = item.get(POLYGONS)
        if isinstance(polygons, list):
            item[POLYGONS] = [
                Hundredths(polygon) if isinstance(polygon, bytes) else polygon
                for polygon in polygons
            ]
        return item


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
        numbers: (n,) which of them, ascending.
    """

    def __init__(self, items: 'Packed | Chosen', numbers: Iterable[int]) -> None:
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

    def forget(self, count: int) -> None:
        """As of `Packed`, with the dicts between them that are not chosen."""
        if count:
            self._items.forget(int(self._numbers[count - 1]) + 1)


def keep(items: Sequence[dict], is_kept: Callable[[dict], bool]) -> Sequence[dict]:
    """Those of a list's dicts for which something holds, in a list of its type."""
    if isinstance(items, PackedSamples):
        numbers = [number for number, item in enumerate(items) if is_kept(item)]
        if len(numbers) == len(items):
            return items
        return PackedSamples(items[number] for number in numbers)
    return [item for item in items if is_kept(item)]
