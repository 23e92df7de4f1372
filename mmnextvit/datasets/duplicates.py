"""Images that a data set holds twice: the same file, or nearly the same picture.

Pictures are compared by a difference hash of 256 bits: whether each of 16 x 16 parts of
an image is brighter than the part to its left. Copies that were scaled, compressed
again or changed in brightness differ in few of the bits.

Comparing n images takes n² / 2 comparisons, made as products of matrices: 20,000
images take about ten seconds of one core and 150 MB, whatever is found among them.
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import NamedTuple

import imagehash
import numpy as np
from mmengine.dist import get_rank
from PIL import Image, ImageOps
from rich.progress import track
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .files import read_bytes
from .images import find_unread_part

SIDE = 16  # of the hash
BITS = SIDE * SIDE

# In three public sets near duplicates are 0 to 22 bits apart and all other pairs 84 or
# more. The bound lies nearer to the first, with room for copies of lower quality, since
# neighbours in a group are joined: one false pair joins two groups.
MAX_BITS = 32

# Where little of an image has any structure, as of an object before a white wall, few
# bits tell it from others: those that differ must be few among these, too. In BCCD the
# near duplicates differ in a sixth of them, all other pairs in over a half.
MAX_SHARE = 0.25
# Of images with less structure (black, white, a ramp) the hash says nothing.
MIN_BITS = 16

# Width and height that a JPEG is decoded at, at the least; this takes a quarter of the
# time, and changes fewer than ten bits.
DRAFT = (8 * (SIDE + 1), 8 * SIDE)

BLOCK = 2**20  # distances that are computed at once


class Fingerprint(NamedTuple):
    """What an image is compared by.

    Attributes:
        bits: The difference hash, 32 bytes.
        digest: Of the file's bytes, equal only where these are.
    """

    bits: bytes
    digest: bytes


class Leak(NamedTuple):
    """An image of one split that is in another one too.

    Attributes:
        splits: The two.
        images: The index of the image in each.
        distance: In how many bits of their hashes they differ.
        exact: Whether their files are the same, byte for byte.
    """

    splits: tuple[str, str]
    images: tuple[int, int]
    distance: int
    exact: bool


# ------------------------------------------------------------------- fingerprints


def take_fingerprint(content: bytes) -> Fingerprint:
    """The fingerprint of an image, as it is shown: EXIF's orientation is applied.

    Args:
        content: The image file.

    Raises:
        Exception: It is no image, or not all of it is there. Pillow raises many types.
    """
    cut = find_unread_part(content)
    with Image.open(io.BytesIO(cut.content if cut else content)) as image:
        image.draft('L', DRAFT)
        bits = imagehash.dhash(_to_8_bits(ImageOps.exif_transpose(image)), SIDE).hash
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Fingerprint(np.packbits(bits).tobytes(), digest)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """The image, of whose deeper pixels Pillow would clip all above 255."""
    if not image.mode.startswith(('I', 'F')):
        return image
    small = image.convert('F').resize((SIDE + 1, SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(small)
    grey = np.interp(pixels, (pixels.min(), pixels.max()), (0, 255))
    return Image.fromarray(grey.astype(np.uint8))


def hash_image(path: str, backend_args: dict | None = None) -> Fingerprint | None:
    """The fingerprint of an image file; ``None`` if it is broken or missing.

    Args:
        path: File, local or of a backend that MMEngine knows.
        backend_args: MMEngine's file backend.
    """
    try:
        return take_fingerprint(read_bytes(path, backend_args))
    except Exception:  # what checks the images says what is wrong
        return None


def hash_images(
    paths: Sequence[str], title: str, backend_args: dict | None = None
) -> list[Fingerprint | None]:
    """The fingerprints of image files, taken by several threads.

    An image of 640 x 480 pixels takes about a millisecond of one core.

    Args:
        paths: Files, local or of a backend that MMEngine knows.
        title: What stands at the progress bar.
        backend_args: MMEngine's file backend.

    Returns:
        One for each path; ``None`` where the image is broken or missing.
    """
    with ThreadPoolExecutor() as pool:
        progress = track(
            pool.map(lambda path: hash_image(path, backend_args), paths),
            description=title,
            total=len(paths),
            disable=get_rank() != 0,
        )
        return list(progress)


# --------------------------------------------------------------------- comparison


def find_exact(fingerprints: Sequence[Fingerprint | None]) -> list[list[int]]:
    """Groups of images whose files are the same, byte for byte.

    Returns:
        The indices of each group of two or more, ascending; the groups by their first.
    """
    known = ((i, f) for i, f in enumerate(fingerprints) if f is not None)
    return _list_groups((f.digest, i) for i, f in known)


def find_near(
    fingerprints: Sequence[Fingerprint | None], max_bits: int = MAX_BITS
) -> list[list[int]]:
    """Groups of images that are nearly the same, or the same files.

    An image is in the group of each that it is near to, so that a slow video makes one
    group though its first and last frames differ. Images without structure, such as
    black frames, are near to none: their hashes would be alike by accident. They are
    grouped with files of the same bytes only.

    Args:
        fingerprints: What :func:`hash_images` gave; ``None`` is in no group.
        max_bits: The largest distance of two hashes that counts as near.

    Returns:
        The indices of each group of two or more, ascending; the groups by their first.
    """
    images, bits = _unpack(fingerprints)
    exact = [(group[0], i) for group in find_exact(fingerprints) for i in group[1:]]
    labels = np.arange(len(fingerprints))
    labels = _join(labels, *np.array(exact, int).reshape(-1, 2).T)
    for rows, columns, _ in _compare(bits, bits, max_bits):
        labels = _join(labels, images[rows], images[columns])
    return _list_groups(zip(labels.tolist(), range(len(labels))))


def find_leaks(
    by_split: Mapping[str, Sequence[Fingerprint | None]], max_bits: int = MAX_BITS
) -> list[Leak]:
    """Images of one split that are, exactly or nearly, in another one too.

    Args:
        by_split: Each split's fingerprints. Each two of them are compared.
        max_bits: The largest distance of two hashes that counts as near.

    Returns:
        For each pair of splits in their order, each image of the second one that is in
        the first, with the one there that is the same file or else the nearest.
    """
    leaks = []
    for (first, those), (second, these) in combinations(by_split.items(), 2):
        found = _find_nearest(those, these, max_bits)
        known = {f.digest: i for i, f in reversed([*enumerate(those)]) if f is not None}
        for i, f in enumerate(these):
            if f is not None and f.digest in known:
                found[i] = known[f.digest], 0, True
        leaks += [
            Leak((first, second), (there, i), distance, exact)
            for i, (there, distance, exact) in sorted(found.items())
        ]
    return leaks


def _find_nearest(
    those: Sequence[Fingerprint | None],
    these: Sequence[Fingerprint | None],
    max_bits: int,
) -> dict[int, tuple[int, int, bool]]:
    """Of each of ``these`` that is near to any of ``those``: which, and how near."""
    images_there, bits_there = _unpack(those)
    images, bits = _unpack(these)
    found = {}
    for rows, columns, distances in _compare(bits, bits_there, max_bits):
        order = np.lexsort((columns, distances, rows))
        _, firsts = np.unique(rows[order], return_index=True)
        for k in order[firsts].tolist():
            there = int(images_there[columns[k]])
            found[int(images[rows[k]])] = there, int(distances[k]), False
    return found


def _unpack(
    fingerprints: Sequence[Fingerprint | None],
) -> tuple[np.ndarray, np.ndarray]:
    """The images whose hashes say something: indices (m,), and bits (m, 256).

    The bits are -1 and 1: a product of two hashes counts exactly how many are equal.
    """
    known = [(i, f.bits) for i, f in enumerate(fingerprints) if f is not None]
    packed = np.frombuffer(b''.join(bits for _, bits in known), np.uint8)
    bits = np.unpackbits(packed.reshape(-1, BITS // 8), axis=1)
    ones = bits.sum(1, dtype=int)
    telling = np.minimum(ones, BITS - ones) >= MIN_BITS
    images = np.array([i for i, _ in known], int)
    return images[telling], 2 * bits[telling].astype(np.float32) - 1


def _compare(
    these: np.ndarray, those: np.ndarray, max_bits: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Finds the near pairs of one image of each side, some images of the first at once.

    Args:
        these: (m, 256) bits as -1 and 1.
        those: (n, 256), of the other side. Where it is ``these``, each pair is compared
            once.
        max_bits: The largest distance that counts as near.

    Yields:
        Of pairs the numbers in ``these``, those in ``those``, and the distances, (k,).
        All pairs of an image of ``these`` come together.
    """
    sums, sums_there = these.sum(1), those.sum(1)  # of -1 and 1
    step = max(1, BLOCK // max(1, len(those)))
    for start in range(0, len(these), step):
        block = these[start : start + step]
        after = start if those is these else 0
        products = block @ those[after:].T
        rows, columns = (products >= BITS - 2 * max_bits).nonzero()
        distances = (BITS - products[rows, columns]) / 2
        rows, columns = rows + start, columns + after
        # What differs is among the bits that are 1 in either, and that are 0 in either.
        excess = abs(sums[rows] + sums_there[columns])
        structure = BITS / 2 - excess / 4 + distances / 2
        near = distances <= MAX_SHARE * structure
        yield rows[near], columns[near], distances[near]


def _join(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Joins the groups of pairs of images.

    Args:
        labels: (n,) for each image the first image of its group.
        first: (k,) images.
        second: (k,) for each of them another one, which is in the same group.

    Returns:
        (n,) the new labels.
    """
    apart = labels[first] != labels[second]
    if not apart.any():
        return labels
    images = np.arange(len(labels))
    rows = np.concatenate((images, first[apart]))
    columns = np.concatenate((labels, second[apart]))
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), (len(labels),) * 2)
    _, groups = connected_components(links, directed=False)
    _, firsts = np.unique(groups, return_index=True)
    return firsts[groups]


def _list_groups(labelled: Iterable[tuple[Hashable, int]]) -> list[list[int]]:
    """Images of the same label, where there are several."""
    groups = defaultdict(list)
    for label, image in labelled:
        groups[label].append(image)
    return [group for group in groups.values() if len(group) > 1]
