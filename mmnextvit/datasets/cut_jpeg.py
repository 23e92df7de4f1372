"""JPEG files that lack their last bytes: how many of their rows can be used.

What a decoder makes of such a file does not show where the data end: a row that is
grey may be sky, and a progressive file gives a whole image of lower quality. So the
file is decoded with several endings in the place of what it lacks. Pixels that differ
between them are none of the file's own.
"""

import io
import random
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

END = b'\xff\xd9'
# A marker in or behind coded data: neither a stuffed byte nor filling.
MARKER = re.compile(rb'\xff+([^\x00\xff])', re.S)
RESTARTS = range(0xD0, 0xD8)
RESTART_INTERVAL, SCAN = 0xDD, 0xDA
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
BLOCK = 8  # pixels, high and wide
COEFFICIENTS = BLOCK * BLOCK
ENDINGS = 4  # more find no earlier difference in the tests


class Cut(NamedTuple):
    """A JPEG that has been cut off, ready to be decoded.

    Attributes:
        content: The file with an end, which decoders read without complaint.
        rows: How many rows, from the top, all data are there of, in whole blocks.
        height: How many rows the image has; both before EXIF turns it. 0 if the file
            ends before that.
    """

    content: bytes
    rows: int
    height: int = 0


class Segment(NamedTuple):
    """A marker with what belongs to it.

    Attributes:
        marker: Its second byte.
        body: What follows it, without the length.
        end: Where it ends in the file.
    """

    marker: int
    body: bytes
    end: int


def list_segments(content: bytes) -> Iterator[Segment]:
    """The complete segments of a JPEG; coded data and restart markers are skipped."""
    at = 2
    while found := MARKER.search(content, at):
        marker, at = found[1][0], found.end()
        if marker in RESTARTS or marker == 0x01:
            continue
        length = int.from_bytes(content[at : at + 2], 'big')
        if length < 2 or at + length > len(content):
            return
        yield Segment(marker, content[at + 2 : at + length], at + length)
        at += length


def is_frame(segment: Segment) -> bool:
    """Whether a segment says how large the image is and of what it consists."""
    return segment.marker in FRAMES and len(segment.body) >= 6


def has_every_scan(segments: list[Segment]) -> bool:
    """Whether the scans bring every coefficient of every component to its last bit.

    A progressive file spreads them over scans; others have one, or one a component.
    """
    missing: dict[tuple[int, int], int] = {}
    for segment in segments:
        body = segment.body
        if is_frame(segment):
            components = body[6 : 6 + 3 * body[5] : 3]
            missing = {(c, i): 1 for c in components for i in range(COEFFICIENTS)}
        elif segment.marker == SCAN and body and len(body) == 4 + 2 * body[0]:
            first, last, bits = body[-3:]
            for component in body[1:-3:2]:
                for i in range(first, min(last, COEFFICIENTS - 1) + 1):
                    missing[component, i] = bits & 15
    return bool(missing) and not any(missing.values())


def make_endings(content: bytes, segments: list[Segment]) -> Iterator[bytes]:
    """Random data in the place of what a file lacks, by which its last scan goes on.

    With restart markers, the one that is due next comes first.
    """
    restarts = any(s.marker == RESTART_INTERVAL and any(s.body[:2]) for s in segments)
    seen = re.findall(rb'\xff([\xd0-\xd7])', content[segments[-1].end :])
    due = (seen[-1][0] - RESTARTS[0] + 1) % 8 if seen else 0
    for seed in range(ENDINGS):
        chunks = [
            random.Random(f'{seed} {i}').randbytes(512).replace(b'\xff', b'')
            for i in range(32)
        ]
        if restarts:
            chunks = [
                chunk + bytes((0xFF, RESTARTS[(due + i) % 8]))
                for i, chunk in enumerate(chunks)
            ]
        yield b''.join(chunks)


def measure_cut(content: bytes) -> Cut:
    """Finds out which rows of a JPEG without an end can be used.

    Args:
        content: A JPEG file that has been cut off, or filled up with zeros.

    Raises:
        OSError, SyntaxError, ...: What Pillow raises where there is nothing to decode.
    """
    # A last byte of 0xFF may be half a marker.
    content = content.rstrip(b'\0').rstrip(b'\xff')
    segments = list(list_segments(content))
    frame = next((s.body for s in segments if is_frame(s)), b'')
    height = int.from_bytes(frame[1:3], 'big')
    if not has_every_scan(segments) or segments[-1].marker != SCAN:
        return Cut(content + END, 0, height)
    pixels = _decode(content + END)
    rows = [height]
    for ending in make_endings(content, segments):
        differs = pixels != _decode(content + ending + END)
        rows += differs.nonzero()[0][:1].tolist()
    if min(rows) == height:
        return Cut(content + END, height, height)
    block = BLOCK * max(sampling & 15 for sampling in frame[7::3])
    # Colours of half the size are smoothed with the row of blocks below.
    whole = (min(rows) + 1) // block * block
    return Cut(content + END, min(whole, height), height)


def _decode(content: bytes) -> np.ndarray:
    """Pixels as Pillow decodes them, which is silent where OpenCV prints warnings."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)
