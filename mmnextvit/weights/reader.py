"""Reads checkpoint files without running anything that they hold.

Two types of files: safetensors, by its own library; and pickles with tensors, of plain
data or of whole models, in torch's zip archives and in its form from before torch 1.6,
by :class:`~.unpickler.Unpickler`. ``torch.load`` reads none of them: one reader alone
decides what a file's bytes mean, and no path leads to a TorchScript program.
"""

import io
import os
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import BinaryIO, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor, UntypedStorage

from ..utils.errors import MissingFileError, UserError
from ..utils.messages import first_few, shorten
from .calls import HISTORY, PLAIN, Storage
from .records import is_expanded, make_refusal, recognise_other
from .unpickler import Unpickler

LEGACY = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # what torch.save before torch 1.6 began
LEGACY_VERSION = 1001
END, END_SIZE, MAX_COMMENT = b'PK\x05\x06', 22, 0xFFFF  # of a zip file's last record
NOT_ONE_ARCHIVE = 'the zip file is not one archive from its first byte on'
ENCODED = 0x61  # flags of an entry of a zip file: encrypted (in two ways), or a patch

MapLocation: TypeAlias = str | torch.device | Mapping[str, str] | Callable | None
Place = Callable[[UntypedStorage, str], UntypedStorage]


def read_checkpoint(path: str | os.PathLike, map_location: MapLocation = None) -> dict:
    """What a checkpoint file holds, but for configs, as :func:`read_all`."""
    content = read_all(path, map_location)
    _remove_configs(content)
    return content


def read_all(path: str | os.PathLike, map_location: MapLocation = None) -> dict:
    """All that a checkpoint file holds.

    Args:
        path: A file of either type.
        map_location: Device of the tensors, as for ``torch.load``; the CPU if ``None``,
            since few have the GPU that a file was written from.

    Returns:
        The content: a dict of tensors, or one that holds such a dict or a
        :class:`~.records.Record`.

    Raises:
        MissingFileError: There is no such file.
        UserError: It is no checkpoint, damaged, or would call something when read;
            the message says which, and what to do.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        is_folder = os.path.isdir(path)
        problem = 'this is a folder' if is_folder else 'the file does not exist'
        raise MissingFileError(problem, file=path)
    try:
        with open(path, 'rb') as file:
            read = _choose_reader(file.read(512))
            content = read(path, 'cpu' if map_location is None else map_location)
        if not isinstance(content, dict):
            type_ = getattr(content, 'source', type(content).__name__)
            raise UserError(
                f'the file holds a {shorten(type_)}, not a dict with a state dict'
            )
    except UserError as error:
        error.file = path
        raise
    except Exception as error:  # whatever the readers raise over such bytes
        reason = shorten(str(error).strip().partition('\n')[0], 200)
        raise UserError(
            f'the file is damaged or incomplete ({os.path.getsize(path):,} bytes; '
            f'{type(error).__name__}: {reason}). Copy or download it again.',
            file=path,
        ) from error
    return content


def _remove_configs(content: dict) -> None:
    """Takes a run's config out of its checkpoint, in each place that MMEngine runs.

    Its runner runs ``meta.config`` on resuming, and its inferencers the others. The
    text stays as ``meta.config_text``, which nothing runs, for what reads plain values.
    """
    meta = content.get('meta')
    text = meta.get('cfg') if isinstance(meta, dict) else None
    hub = content.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    for part, names in ((content.get('meta'), ('config', 'cfg')), (info, ('cfg',))):
        if isinstance(part, dict):
            for name in names:
                part.pop(name, None)
    if isinstance(meta, dict) and isinstance(text, str):
        meta['config_text'] = text


def _choose_reader(head: bytes) -> Callable[[str, MapLocation], object]:
    """The function that reads a file, by its first bytes.

    Raises:
        UserError: It is no checkpoint.
    """
    if not head:
        raise UserError('the file is empty. Copy or download it again.')
    if head.lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'<'):
        raise UserError(
            'the file is a web page, not a checkpoint: the server sent a page (a '
            'quota, a login, a warning) instead of the file. Download it by hand.'
        )
    if head.startswith((b'PK\x03\x04', b'PK\x05\x06')):
        return _read_zip
    if head[5:9] == b'\0\0\0{':  # a header of less than a terabyte
        return _read_safetensors
    if head.startswith(b'\x80'):
        return _read_legacy if LEGACY in head[:32] else _read_bare
    if not re.search(rb'[\x00-\x08\x0e-\x1f]', head):
        begin = head.decode('utf-8', 'replace').strip()[:40]
        hint = ' Fetch it with git lfs pull.' if 'git-lfs' in begin else ''
        raise UserError(
            f'the file is a text file, not a checkpoint: it begins {begin!r}.{hint}'
        )
    raise UserError(f'the file is no checkpoint: it begins {head[:8]!r}')


def _read_safetensors(path: str, map_location: MapLocation) -> dict[str, Tensor]:
    fixed = isinstance(map_location, str | torch.device)
    # Not mapped from the file, which may be written over while it is in use.
    return load_file(path, str(map_location) if fixed else 'cpu', backend='pread')


def _read_zip(path: str, map_location: MapLocation) -> object:
    """Content of what torch.save writes today."""
    size = os.path.getsize(path)
    if not zipfile.is_zipfile(path):
        if _has_end(path):  # which newer releases of Python compare with what it names
            raise ValueError(NOT_ONE_ARCHIVE)
        raise UserError(
            f'the file is truncated: its end is missing ({size:,} bytes are there). '
            'Copy or download it again.'
        )
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if any(name.casefold().endswith('constants.pkl') for name in names):
        raise UserError(
            'the file is a TorchScript program. Give the checkpoint that it was made '
            'from.'
        )
    pickles = [name for name in names if name.endswith('data.pkl')]
    if not pickles:
        holds = first_few(map(ascii, names), 3)[:100] or 'nothing'
        raise UserError(
            f'the file is a zip file but no checkpoint (it holds {holds}). Unpack it, '
            'and give the checkpoint that is in it.'
        )
    _check_archive(entries, size)
    folder = pickles[0].removesuffix('data.pkl')
    with open(path, 'rb') as file:
        storages = ZipStorages(
            file,
            {entry.filename.removeprefix(folder): entry for entry in entries},
            partial(_place, map_location),
        )
        pickled = storages.read_part('data.pkl')
        return _load(Unpickler(io.BytesIO(pickled), storages))


def _has_end(path: str) -> bool:
    """Whether a whole record of a zip file's end is where one may be."""
    with open(path, 'rb') as file:
        file.seek(max(0, os.path.getsize(path) - END_SIZE - MAX_COMMENT))
        tail = file.read()
    return 0 <= tail.rfind(END) <= len(tail) - END_SIZE


def _check_archive(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Checks that an archive is as torch.save writes it.

    Every program that reads the file then sees the same in it, and it cannot grow.

    Raises:
        ValueError: It is not.
    """
    if min(entry.header_offset for entry in entries) != 0:
        # Of two archives end to end some readers see the one, some the other.
        raise ValueError(NOT_ONE_ARCHIVE)
    names = [entry.filename.casefold() for entry in entries]
    pickles = [name for name in names if name.endswith('data.pkl')]
    if len(set(names)) < len(names) or len(pickles) > 1:
        raise ValueError('the zip file holds a name twice')
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > size:
        raise ValueError('the zip file is compressed')
    if any(entry.flag_bits & ENCODED for entry in entries):
        raise ValueError('the zip file is encrypted or patched')


class ZipStorages:
    """The storages in torch's zip archive.

    Args:
        file: The archive.
        entries: Its parts, by their names in its one folder.
        place: Brings a storage to its device.
    """

    def __init__(
        self,
        file: io.BufferedReader,
        entries: Mapping[str, zipfile.ZipInfo],
        place: Place,
    ) -> None:
        self._file, self._entries, self._place = file, entries, place
        self._placed: dict[str, UntypedStorage] = {}
        written = self.read_part('byteorder') if 'byteorder' in entries else b'little'
        self._swapped = written != sys.byteorder.encode()

    def read_part(self, name: str) -> bytes:
        """All bytes of a part."""
        return self._file.read(self._find_part(name))

    def _find_part(self, name: str) -> int:
        """Goes to where a part begins in the file, and returns its size in bytes."""
        entry = self._entries[name]
        self._file.seek(entry.header_offset)
        header = self._file.read(30)
        if header[:4] != b'PK\x03\x04':
            raise ValueError(f'{name} is not where the zip file has it')
        self._file.seek(sum(struct.unpack('<HH', header[26:])), os.SEEK_CUR)
        return entry.file_size

    def __call__(
        self,
        dtype: torch.dtype,
        key: str,
        location: str,
        numel: int,
        view: tuple[str, int, int] | None = None,
    ) -> Storage:
        if key not in self._placed:
            size = numel * dtype.itemsize
            if size > self._find_part(f'data/{key}'):
                raise ValueError(f'storage {key} is smaller than its tensors')
            content = _read_storage(self._file, size)
            if self._swapped:
                content.byteswap(dtype)
            self._placed[key] = self._place(content, location)
        return Storage(dtype, self._placed[key])


def _read_legacy(path: str, map_location: MapLocation) -> object:
    with open(path, 'rb') as file:
        return read_legacy(file, os.path.getsize(path), map_location)


def read_legacy(file: BinaryIO, size: int, map_location: MapLocation) -> object:
    """Content of what torch wrote before torch 1.6: pickles, then storages.

    Args:
        file: Read from where it stands.
        size: Its bytes.
        map_location: Device of the tensors, as for ``torch.load``.

    Raises:
        UserError: It would call something when read.
        Exception: It is damaged, by whatever the bytes lead to.
    """
    _magic, version, _system = (Unpickler(file).load() for _ in range(3))
    if version != LEGACY_VERSION:
        raise ValueError('its parts are not those that torch.save writes')
    storages = LegacyStorages(size, partial(_place, map_location))
    content = _load(Unpickler(file, storages))
    storages.fill(file, Unpickler(file).load())
    return content


class LegacyStorages:
    """The storages of torch's form from before torch 1.6, which follow the pickles.

    Args:
        size: Bytes of the file, which are more than those of the storages.
        place: Brings a storage to its device.
    """

    def __init__(self, size: int, place: Place) -> None:
        self._left, self._place = size, place
        self._empty: dict[str, tuple[torch.dtype, UntypedStorage]] = {}

    def __call__(
        self,
        dtype: torch.dtype,
        key: str,
        location: str,
        numel: int,
        view: tuple[str, int, int] | None = None,
    ) -> Storage:
        if key not in self._empty:
            self._left -= numel * dtype.itemsize
            if self._left < 0:
                raise ValueError('its tensors are larger than the file')
            empty = UntypedStorage(numel * dtype.itemsize)
            self._empty[key] = dtype, self._place(empty, location)
        content = self._empty[key][1]
        if view is not None:
            _, start, length = view
            end = (start + length) * dtype.itemsize
            content = content[start * dtype.itemsize : end]
        return Storage(dtype, content)

    def fill(self, file: BinaryIO, keys: object) -> None:
        """Reads the numbers of all storages.

        Args:
            file: Read from where it stands.
            keys: The storages' keys in the order of the file.

        Raises:
            ValueError: They are others than the pickle's.
        """
        if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
            raise ValueError('its parts are not those that torch.save writes')
        if sorted(keys) != sorted(self._empty):
            raise ValueError('the storages are not those of the tensors')
        for key in keys:
            dtype, storage = self._empty[key]
            (numel,) = struct.unpack('<q', file.read(8))
            if numel * dtype.itemsize != storage.nbytes():
                raise ValueError(f'storage {key} is not as large as its tensors')
            content = _read_storage(file, storage.nbytes())
            if sys.byteorder != 'little':
                content.byteswap(dtype)
            storage.copy_(content)


def _read_bare(path: str, map_location: MapLocation) -> object:
    """Content of a pickle by itself, for the message that says what it is."""
    with open(path, 'rb') as file:
        content = Unpickler(file).load()
    if isinstance(content, dict):
        raise UserError('the file is a pickle, but not one that torch.save wrote')
    return content


def _load(unpickler: Unpickler) -> object:
    """What a checkpoint's main pickle holds.

    Raises:
        UserError: It is another program's model, or a run's checkpoint with objects of
            foreign classes: as records they would be put into the run that goes on.
    """
    try:
        content = unpickler.load()
    finally:
        other = recognise_other(unpickler.names, unpickler.list_values())
        if other:
            raise UserError(f"this is {other}; YOLOv5's are read, and our own")
    _refuse_expanded(content)
    foreign = unpickler.names - PLAIN
    if HISTORY in unpickler.names and foreign:
        raise make_refusal(min(foreign))
    return content


def _refuse_expanded(content: object) -> None:
    """Raises where an expanded view is among the content's plain values.

    Inside a model that was stored whole it may be what an inference left.

    Raises:
        ValueError: There is one.
    """
    todo, seen = [content], set()
    while todo:
        value = todo.pop()
        if is_expanded(value):
            raise ValueError('a tensor is larger than what is stored of it')
        if isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            todo += value.values() if isinstance(value, dict) else value


def _read_storage(file: BinaryIO, size: int) -> UntypedStorage:
    """The next bytes of a file.

    Raises:
        ValueError: There are fewer.
    """
    storage = UntypedStorage(size)
    view = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    if file.readinto(view) != size:  # type: ignore[attr-defined]
        raise ValueError('the file ends within a tensor')
    return storage


def _place(
    map_location: MapLocation, storage: UntypedStorage, location: str
) -> UntypedStorage:
    """A storage on the device that the caller wants it on.

    Args:
        map_location: What the caller wants, as for ``torch.load``.
        storage: A storage on the CPU.
        location: The device that it was saved from.
    """
    if callable(map_location):
        placed = map_location(storage, location)
        if placed is not None:
            return placed
    elif isinstance(map_location, Mapping):
        location = map_location.get(location, location)
    else:
        location = str(map_location)
    return torch.serialization.default_restore_location(storage, location)
