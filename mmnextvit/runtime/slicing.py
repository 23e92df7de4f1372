"""Large images in tiles, so that small objects are seen at their own size.

An image is cut into tiles that overlap, each of which is detected in by itself, and so
is the whole image, for what is larger than a tile. What several of them saw of one
object then becomes one detection again (:func:`merge`).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .errors import OptionError
from .images import Size
from .masks import Masks

MIN_SLICE, MAX_SLICE = 32, 1 << 14  # pixels
CUT_SHARE = 0.01  # of a tile's side: what ends so near to its border goes on beyond
CUT_FACTOR = 0.5  # of the score of what is cut, where whole detections are preferred

Prepared = TypeVar('Prepared')
Result = TypeVar('Result')


@dataclass(frozen=True)
class Slicing:
    """How large images are cut into tiles, and put together again.

    Args:
        size: Height and width of a tile, in pixels of the image. An image that is not
            larger is detected in as it is.
        overlap: The share of its side that a tile has in common with the next one, at
            least; 0 to 0.9, at which there are a hundred times as many tiles as at 0.
        merge: How detections of several tiles are compared: by 'ios', the share of the
            smaller box that lies in the other, or by 'iou'.
        threshold: From which on they are of one object, above 0 to 1.
        whole: Whether the whole image is detected in besides, at the network's own
            size, which finds objects that are larger than a tile.

    Raises:
        OptionError: One of them cannot be.
    """

    size: int
    overlap: float = 0.2
    merge: str = 'ios'
    threshold: float = 0.5
    whole: bool = True

    def __post_init__(self) -> None:
        size = self.size
        if type(size) is not int or not MIN_SLICE <= size <= MAX_SLICE:
            raise OptionError(
                f'slice size {size!r} (--slice): a tile has from {MIN_SLICE} to '
                f'{MAX_SLICE} pixels in height and width, as in 640'
            )
        if not is_number(self.overlap) or not 0 <= self.overlap <= 0.9:
            raise OptionError(
                f'overlap {self.overlap!r} (--overlap): it is a share of the tile from '
                '0 to 0.9, as in 0.2'
            )
        if self.merge not in MEASURES:
            raise OptionError(
                f'merge {self.merge!r} (--merge): it is {" or ".join(MEASURES)}'
            )
        if not is_number(self.threshold) or not 0 < self.threshold <= 1:
            raise OptionError(
                f'threshold {self.threshold!r} (--merge-thr): it is a share above 0, '
                'up to 1, as in 0.5'
            )

    def cuts(self, size: Size) -> bool:
        """Whether an image of that height and width is larger than a tile."""
        return max(size) > self.size


def is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(float(value))  # type: ignore[arg-type]


def to_slicing(value: Slicing | int | None) -> Slicing | None:
    """A slicing; of a size alone, with the defaults."""
    return value if value is None or isinstance(value, Slicing) else Slicing(value)


def read_slicing(given: Mapping[str, Any]) -> Slicing | None:
    """How to cut images, of the options of a command, ``None`` where it is left out.

    Raises:
        OptionError: A value cannot be, or is of no use without ``--slice``.
    """
    options = {
        name: given[name]
        for name in ('overlap', 'merge', 'threshold', 'whole')
        if given[name] is not None
    }
    if given['slice'] is not None:
        return Slicing(given['slice'], **options)
    if options:
        raise OptionError(
            '--overlap, --merge, --merge-thr and --tiles-only say how --slice SIZE '
            'cuts images: give it, too'
        )
    return None


class Tile(NamedTuple):
    """A part of an image, in its pixels; right and bottom are outside of it."""

    left: int
    top: int
    right: int
    bottom: int


class Found(NamedTuple):
    """What was found in a tile, or in an image."""

    boxes: np.ndarray  # (N, 4): x1, y1, x2, y2 in its pixels
    scores: np.ndarray  # (N,)
    labels: np.ndarray  # (N,)
    masks: Any = None  # N masks (H, W), bool; None of a detector without


class Patch(NamedTuple):
    """The part of a mask that has pixels, and where it lies in the image."""

    left: int
    top: int
    pixels: np.ndarray  # (h, w), bool


@dataclass(frozen=True)
class PatchedMasks(Masks):
    """The masks in a large image, each made when it is asked for.

    Args:
        size: The image's height and width.
        patches: The parts of each mask.
    """

    size: Size
    patches: list[list[Patch]]

    def __len__(self) -> int:
        return len(self.patches)

    def take(self, rows: np.ndarray) -> 'PatchedMasks':
        return PatchedMasks(self.size, [self.patches[row] for row in rows.tolist()])

    @staticmethod
    def cat(parts: Sequence['PatchedMasks']) -> 'PatchedMasks':
        every = [patches for one in parts for patches in one.patches]
        return PatchedMasks(parts[0].size, every)

    def make(self, row: int) -> np.ndarray:
        mask: np.ndarray = np.zeros(self.size, bool)
        for left, top, pixels in self.patches[row]:
            height, width = pixels.shape
            mask[top : top + height, left : left + width] |= pixels
        return mask


class Placed(NamedTuple):
    """Detections of all tiles in pixels of the image."""

    boxes: np.ndarray  # (N, 4), float32
    scores: np.ndarray  # (N,), float32
    labels: np.ndarray  # (N,)
    tiles: np.ndarray  # (N,): number of the tile
    cut: np.ndarray  # (N,), bool: whether they end where the tile does
    patches: list[list[Patch]] | None


def list_starts(length: int, slicing: Slicing) -> list[int]:
    """Where tiles begin along a side of an image: as few as overlap enough, evenly."""
    size, rest = slicing.size, length - slicing.size
    if rest <= 0:
        return [0]
    step = max(1, math.floor(size * (1 - slicing.overlap)))
    count = math.ceil(rest / step) + 1
    return [round(i * rest / (count - 1)) for i in range(count)]


def list_tiles(size: Size, slicing: Slicing) -> list[Tile]:
    """The tiles of an image, row by row, and last the whole image if that is asked for.

    An image that is not larger than a tile is one.

    Args:
        size: The image's height and width.
        slicing: How it is cut.
    """
    height, width = size
    side = slicing.size
    tiles = [
        Tile(left, top, min(left + side, width), min(top + side, height))
        for top in list_starts(height, slicing)
        for left in list_starts(width, slicing)
    ]
    whole = [Tile(0, 0, width, height)] if slicing.whole and len(tiles) > 1 else []
    return tiles + whole


def detect_in_tiles(
    image: np.ndarray,
    slicing: Slicing,
    detect: Callable[[Iterable[np.ndarray]], Iterable[Found]],
    limit: int,
    whole: Found | None = None,
) -> Found:
    """Detects in the tiles of an image, which are cut when they are asked for.

    Args:
        image: (H, W, 3).
        slicing: How it is cut.
        detect: Gives what is found in each of some images.
        limit: How many detections there are at most.
        whole: What was found in the whole image, if that was detected in before.

    Returns:
        What was found in the image, by falling score.
    """
    size: Size = (image.shape[0], image.shape[1])
    tiles = list_tiles(size, slicing)
    known = [] if whole is None or not slicing.whole else [whole]
    new = tiles[: len(tiles) - len(known)]
    cuts = (image[tile.top : tile.bottom, tile.left : tile.right] for tile in new)
    placed = (
        place(found, number, tile, size)
        for number, (tile, found) in enumerate(zip(tiles, chain(detect(cuts), known)))
    )
    return merge(join(placed), slicing, size, limit)


def dispatch(
    prepared: Iterable[Prepared],
    is_large: Callable[[Prepared], bool],
    detect: Callable[[Iterable[Prepared]], Iterable[Result]],
    detect_large: Callable[[Prepared], Result],
) -> Iterator[Result]:
    """Detects in images, in the order in which they come.

    Args:
        prepared: Images.
        is_large: Whether one is to be cut into tiles.
        detect: Detects in some that are not.
        detect_large: Detects in one that is.
    """
    for large, some in groupby(prepared, is_large):
        if large:
            yield from map(detect_large, some)
        else:
            yield from detect(some)


def place(found: Found, number: int, tile: Tile, size: Size) -> Placed:
    """What was found in a tile, in pixels of its image.

    Args:
        found: In pixels of the tile.
        number: The tile's.
        tile: Where it lies.
        size: The image's height and width.
    """
    left, top, right, bottom = tile
    count = len(found.scores)
    boxes = np.float32(found.boxes).reshape(-1, 4) + np.float32([left, top, left, top])
    margin = max(1.0, CUT_SHARE * max(right - left, bottom - top))
    x1, y1, x2, y2 = boxes.T
    cut: np.ndarray = np.zeros(count, bool)
    # The borders of the image cut nothing that any tile could see.
    for inside, distance in (
        (left > 0, x1 - left),
        (top > 0, y1 - top),
        (right < size[1], right - x2),
        (bottom < size[0], bottom - y2),
    ):
        cut |= inside & (distance < margin)
    patches = None
    if found.masks is not None:
        patches = [cut_patch(mask, left, top) for mask in found.masks]
    return Placed(
        boxes,
        np.asarray(found.scores, np.float32),
        np.asarray(found.labels),
        np.full(count, number),
        cut,
        patches,
    )


def cut_patch(mask: np.ndarray, left: int, top: int) -> list[Patch]:
    """The part of a tile's mask (h, w) that has pixels; none of an empty one.

    Args:
        mask: Of a tile.
        left: Where the tile begins in the image.
        top: Likewise.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    (y1, y2), (x1, x2) = rows[[0, -1]], columns[[0, -1]]
    # A copy, so that the mask of the whole tile goes.
    pixels: np.ndarray = mask[y1 : y2 + 1, x1 : x2 + 1].astype(bool)
    return [Patch(left + int(x1), top + int(y1), pixels)]


def join(placed: Iterable[Placed]) -> Placed:
    """The detections of several tiles as one; there is one tile at least."""
    every = list(placed)
    boxes, scores, labels, tiles, cut = (
        np.concatenate([one[part] for one in every]) for part in range(5)
    )
    patches = None
    if every[0].patches is not None:
        patches = [patch for one in every for patch in one.patches or ()]
    return Placed(boxes, scores, labels, tiles, cut, patches)


def merge(found: Placed, slicing: Slicing, size: Size, limit: int) -> Found:
    """Makes what several tiles saw of one object one detection.

    The best detection takes with it what other tiles found of its class in its place,
    and so on with the best of the rest. Detections of one tile have been through the
    network's own suppression, and are not compared. A detection that ends at its
    tile's border counts half, so that one that is whole goes before it. Where there
    is none, the parts are put together: their boxes to the box around them, their
    masks to one, and so on with what lies over these parts. The score is the highest.

    Args:
        found: In pixels of the image.
        slicing: It has how they are compared.
        size: The image's height and width.
        limit: How many detections there are at most.

    Returns:
        By falling score.
    """
    measure = MEASURES[slicing.merge]
    order = np.argsort(
        -np.where(found.cut, CUT_FACTOR, 1) * found.scores, kind='stable'
    )
    rows = [values[order] for values in found[:5]]
    boxes, scores, labels, tiles, cut = rows
    free: np.ndarray = np.ones(len(order), bool)

    def take(index: int) -> np.ndarray:
        """What is left that other tiles found of the object."""
        others = np.flatnonzero(
            free & (labels == labels[index]) & (tiles != tiles[index])
        )
        shares = measure(boxes[index], boxes[others])
        others = others[shares >= slicing.threshold]
        free[others] = False
        return others

    kept: list[tuple[np.ndarray, np.float32, int, list[int]]] = []
    for best in range(len(order)):
        if not free[best]:
            continue
        if len(kept) == 2 * limit:  # halved scores are not the last word
            break
        free[best] = False
        parts, group, waiting = [best], [best], [best]
        while waiting:
            taken = take(waiting.pop()).tolist()
            group += taken
            if cut[best]:
                waiting += (more := [one for one in taken if cut[one]])
                parts += more
        low, high = boxes[parts, :2].min(0), boxes[parts, 2:].max(0)
        kept.append((np.append(low, high), scores[group].max(), labels[best], parts))
    kept = sorted(kept, key=lambda one: -one[1])[:limit]
    masks = None
    if found.patches is not None:
        of_parts = [[order[part] for part in parts] for *_, parts in kept]
        patches = [[p for i in some for p in found.patches[i]] for some in of_parts]
        masks = PatchedMasks(size, patches)
    return Found(
        np.float32([box for box, *_ in kept]).reshape(-1, 4),
        np.array([score for _, score, *_ in kept], np.float32),
        np.array([label for _, _, label, _ in kept], found.labels.dtype),
        masks,
    )


def measure_overlap(
    box: np.ndarray, others: np.ndarray, of_smaller: bool
) -> np.ndarray:
    """What a box (4,) and others (N, 4) have in common: a share of (N,), 0 to 1.

    Args:
        box: x1, y1, x2, y2.
        others: Likewise.
        of_smaller: Whether of the smaller one of the two boxes, or of their union.
    """
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(min=0).prod(1)
    area, areas = (box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1)
    whole = np.minimum(area, areas) if of_smaller else area + areas - common
    return common / np.maximum(whole, np.finfo(np.float32).tiny)


def measure_iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union."""
    return measure_overlap(box, others, of_smaller=False)


def measure_ios(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over the smaller one."""
    return measure_overlap(box, others, of_smaller=True)


MEASURES = {'ios': measure_ios, 'iou': measure_iou}
MERGES = tuple(MEASURES)
