"""What the tags of an image file say that OpenCV does not heed in every way of reading.

EXIF has its tags in the form of a TIFF file, so that one reader finds both.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

ORIENTATION, EXTRA_SAMPLES = 0x112, 0x152
UNASSOCIATED = 2  # of extra samples: an alpha that colours are not multiplied by yet


class Directory(NamedTuple):
    """The form of a TIFF directory: formats of `struct`, without the byte order.

    Attributes:
        first: Where the offset of the first directory stands.
        offset: That offset.
        number: How many entries a directory has.
        entry: One of them: tag, type, count and value.
    """

    first: int
    offset: str
    number: str
    entry: str


LAYOUTS = {42: Directory(4, 'I', 'H', 'HHI4s'), 43: Directory(8, 'Q', 'Q', 'HHQ8s')}
BYTE_ORDERS = {b'II': '<', b'MM': '>'}


class Tag(NamedTuple):
    """A number that a tag has.

    Attributes:
        value: The number.
        at: Where its two bytes stand.
        format: Their format of `struct`.
    """

    value: int
    at: int
    format: str


def find_tag(tiff: bytes, tag: int) -> Tag | None:
    """A tag of one short number in the first directory of a TIFF file; or ``None``."""
    order = BYTE_ORDERS.get(tiff[:2], '')
    try:
        (version,) = struct.unpack_from(f'{order or "<"}H', tiff, 2)
        layout = LAYOUTS.get(version)
        if not order or layout is None:
            return None
        (start,) = struct.unpack_from(order + layout.offset, tiff, layout.first)
        (count,) = struct.unpack_from(order + layout.number, tiff, start)
        start += struct.calcsize(order + layout.number)
        entry = order + layout.entry
        size = struct.calcsize(entry)
        for at in range(start, start + count * size, size):
            found, _, _, value = struct.unpack_from(entry, tiff, at)
            if found == tag:
                short = f'{order}H'
                at += size - len(value)
                return Tag(struct.unpack_from(short, tiff, at)[0], at, short)
    except struct.error:  # it ends before
        pass
    return None


def iterate_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each chunk of a PNG or WebP; nothing of other formats."""
    if content.startswith(b'\x89PNG'):
        at, header, end = 8, '>I4s', 4  # a checksum follows
    elif content[:4] == b'RIFF' and content[8:12] == b'WEBP':
        at, header, end = 12, '<4sI', 0
    else:
        return
    while at + 8 <= len(content):
        first, second = struct.unpack_from(header, content, at)
        size, name = (second, first) if isinstance(first, bytes) else (first, second)
        yield name, content[at + 8 : at + 8 + size]
        at += 8 + size + (end or size % 2)


def read_orientation(content: bytes) -> int:
    """How a PNG or WebP is to be turned, as EXIF has it, 1 to 8; 1 of other formats.

    OpenCV itself turns TIFF files, and JPEG has no fourth channel.
    """
    for name, chunk in iterate_chunks(content):
        if name in (b'eXIf', b'EXIF'):
            tag = find_tag(chunk.removeprefix(b'Exif\0\0'), ORIENTATION)
            return tag.value if tag and 1 <= tag.value <= 8 else 1
    return 1


def keep_colours(content: bytes) -> bytes:
    """A file as it is, or a TIFF that does not say that its fourth channel is alpha.

    Of 8 bits, OpenCV would multiply the colours by it.
    """
    tag = find_tag(content, EXTRA_SAMPLES)
    if tag is None or tag.value != UNASSOCIATED:
        return content
    changed = bytearray(content)
    struct.pack_into(tag.format, changed, tag.at, 0)  # of no known meaning
    return bytes(changed)
