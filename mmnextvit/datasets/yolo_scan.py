"""Reads the label files and image sizes of a data set, and keeps what it read."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.dist import get_rank
from rich.progress import track

from ..utils.errors import MissingFileError, UserError
from ..utils.files import atomic_write_text, check_is_file
from .faults import warn
from .files import read_bytes
from .images import read_image_size
from .yolo_labels import Record, is_column_count, parse_labels

# Images that a thread looks at in one go: a task of a pool takes ten times as long as
# looking at a file whose state the system knows.
BLOCK = 256
CACHE_FORMAT = 1  # raise it with every change of what `parse_labels` returns

# Size and time of an image file and of its label file, which may be absent.
Signature = list[int | None]


class Scan(NamedTuple):
    """What `scan` read.

    Attributes:
        records: The images that can be used.
        faults: What is wrong with the others.
    """

    records: dict[str, Record]
    faults: dict[str, UserError]


def sign(image: str, label_file: str) -> Signature | None:
    """Changes with the image or its label file; ``None`` without an image."""
    try:
        of_image = os.stat(image)
    except OSError:
        return None
    signature = [of_image.st_size, of_image.st_mtime_ns]
    try:
        of_labels = os.stat(label_file)
    except OSError:
        return [*signature, None, None]
    return [*signature, of_labels.st_size, of_labels.st_mtime_ns]


def read_record(
    image: str, label_file: str, has_labels: bool, num_classes: int
) -> Record | UserError:
    """An image's size and labels, or what is wrong with its files."""
    try:
        labels = None
        if has_labels:
            labels = parse_labels(read_bytes(label_file), num_classes)
        return Record(*read_image_size(image), labels, label_file)
    except UserError as error:
        return error
    except OSError as error:
        return UserError(
            f'the file cannot be read ({error.strerror})', file=error.filename or image
        )


def scan_images(
    label_files: Mapping[str, str], num_classes: int, cache: Path, title: str
) -> Scan:
    """Reads what is new since the last scan, with a progress bar.

    Args:
        label_files: Image files, and where the labels of each lie.
        num_classes: Number of classes, which the labels lie below.
        cache: File that the scan is kept in. The first process alone writes it.
        title: What stands at the progress bar.
    """
    known = load_cache(cache, num_classes)
    images = list(label_files)
    blocks = [images[i : i + BLOCK] for i in range(0, len(images), BLOCK)]
    with ThreadPoolExecutor() as pool:
        signed = pool.map(lambda part: [sign(p, label_files[p]) for p in part], blocks)
        pairs = zip(images, chain.from_iterable(signed), strict=True)
        signatures = {p: signature for p, signature in pairs if signature is not None}
        new = [p for p, now in signatures.items() if known.get(p, [None])[0] != now]
        progress = track(
            pool.map(
                lambda path: read_record(
                    path,
                    label_files[path],
                    signatures[path][3] is not None,
                    num_classes,
                ),
                new,
            ),
            description=title,
            total=len(new),
            disable=get_rank() != 0 or not new,
        )
        read_now = dict(zip(new, progress, strict=True))
    results = {
        p: read_now[p] if p in read_now else _restore(known[p][1], label_files[p])
        for p in signatures
    }
    missing = {
        path: MissingFileError('the image does not exist', file=path)
        for path in images
        if path not in results
    }
    scan = Scan(
        {p: result for p, result in results.items() if isinstance(result, Record)},
        missing | {p: r for p, r in results.items() if isinstance(r, UserError)},
    )
    if (new or len(known) != len(scan.records)) and get_rank() == 0:
        entries = {p: [signatures[p], record[:3]] for p, record in scan.records.items()}
        save_cache(cache, entries, num_classes)
    return scan


# --------------------------------------------------------------------------- cache


def _make_header(body: str, num_classes: int) -> dict:
    digest = hashlib.sha256(body.encode()).hexdigest()
    return dict(format=CACHE_FORMAT, num_classes=num_classes, sha256=digest)


def load_cache(path: Path, num_classes: int) -> dict[str, list]:
    """What `save_cache` wrote; empty if it is absent, damaged or of another format.

    An entry that no scan can have made is left out: its image is scanned again.
    """
    try:
        header, _, body = read_bytes(path).decode().partition('\n')
        if json.loads(header) != _make_header(body, num_classes):
            return {}
        entries = json.loads(body)
    except (OSError, ValueError, RecursionError):  # UserError, of a FIFO, is one
        return {}
    if not isinstance(entries, dict):
        return {}
    known = {p: entry for p, entry in entries.items() if _is_entry(entry)}
    # All lines at once, since one image has too few to make its own checks cheap.
    if _are_rows(chain.from_iterable(map(_get_rows, known.values())), num_classes):
        return known
    return {p: e for p, e in known.items() if _are_rows(_get_rows(e), num_classes)}


def _restore(kept: list, label_file: str) -> Record:
    width, height, labels = kept
    return Record(width, height, labels, label_file)


def _is_entry(entry: object) -> bool:
    """Whether it is what a scan keeps of an image, of whose rows `_are_rows` says more.

    The file may come from anywhere.
    """
    match entry:
        case [[_, _, _, label_time], [int(width), int(height), labels]]:
            sides = all(type(s) is int and 0 < s < 2**31 for s in (width, height))
            if labels is None or label_time is None:
                return sides and labels is label_time
            return sides and _are_labels(labels)
    return False


def _are_labels(labels: object) -> bool:
    match labels:
        case {'rows': list(_), 'broken': list(broken), 'repeated': list(repeated)}:
            return all(_types_are(pair, (int, str)) for pair in broken) and set(
                map(type, repeated)
            ) <= {int}
    return False


def _types_are(values: object, types: Sequence[type]) -> bool:
    return isinstance(values, list) and [*map(type, values)] == [*types]


def _get_rows(entry: list) -> list:
    labels = entry[1][2]
    return labels['rows'] if labels else []


def _are_rows(rows: Iterable[Any], num_classes: int) -> bool:
    """Whether each is a line's number with what `parse_line` returned."""
    rows = [*rows]
    if not rows:
        return True
    if not _have_type(rows, list) or not _are_column_counts(rows):
        return False
    labels = [row[1] for row in rows]
    values = [value for row in rows for value in row[2:]]
    return (
        _have_type((row[0] for row in rows), int)
        and _have_type(labels, int)
        and _have_type(values, float)
        and min(labels) >= 0
        and max(labels) < num_classes
        and all(map(math.isfinite, values))
    )


def _have_type(values: Iterable[object], wanted: type) -> bool:
    return set(map(type, values)) == {wanted}


def _are_column_counts(rows: Iterable[list]) -> bool:
    """Whether lines may have had so many columns; a number stands before them."""
    return all(is_column_count(count - 1) for count in set(map(len, rows)))


def save_cache(path: Path, entries: dict[str, list], num_classes: int) -> None:
    """Writes each image's signature and record; warns where that is impossible.

    Args:
        path: The file.
        entries: Signature and record of each image.
        num_classes: Number of classes, which the labels lie below.
    """
    body = json.dumps(entries)
    header = json.dumps(_make_header(body, num_classes))
    try:
        if path.exists() and not path.is_dir():
            check_is_file(path)  # a FIFO would wait for a reader
        atomic_write_text(path, f'{header}\n{body}')
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.problem
        warn(
            f'The scan is not kept for the next start: {path} cannot be written '
            f'({reason})'
        )
