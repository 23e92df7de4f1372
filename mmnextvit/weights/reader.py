"""Reads checkpoint files without running anything that they hold.

Three kinds of files: safetensors; pickles of tensors and plain data, by torch's
``weights_only`` reader with the few classes of MMEngine's own checkpoints; and pickles
of whole models, such as YOLOv5's, by :class:`~.unpickler.Unpickler`.
"""

import io
import os
import pickle
import re
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import Tensor

from .unpickler import ALLOWED, HISTORY, PLAIN, Refused, Survey, Unpickler

LEGACY = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # what torch.save before torch 1.6 began


class Unreadable(ValueError):
    """A file is no checkpoint; the message says what it is."""


def read_checkpoint(path: str | os.PathLike, map_location=None) -> dict:
    """What a checkpoint file holds.

    Args:
        path: A file of any of the three kinds.
        map_location: Device of the tensors, as for ``torch.load``; the CPU if None,
            since few have the GPU that a file was written from.

    Returns:
        The content: a dict of tensors, or one that holds such a dict or a
        :class:`Record`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint, damaged, or would call something when read;
            the message says which, names the file, and says what to do.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        problem = 'is a folder' if os.path.isdir(path) else 'does not exist'
        raise FileNotFoundError(f'{path} {problem}')
    with open(path, 'rb') as file:
        head = file.read(512)
    try:
        content = _reader_of(path, head)(path, map_location or 'cpu')
    except Unreadable:
        raise
    except Exception as error:  # whatever the readers raise over such bytes
        if isinstance(error, pickle.UnpicklingError) and 'GLOBAL' in str(error):
            raise refused(path, error) from None
        reason = str(error).strip().partition('\n')[0][:200]
        raise ValueError(
            f'{path} is damaged or incomplete ({os.path.getsize(path):,} bytes; '
            f'{type(error).__name__}: {reason}). Copy or download it again.'
        ) from error
    if not isinstance(content, dict):
        kind = getattr(content, 'source', type(content).__name__)
        raise ValueError(f'{path} holds a {kind}, not a dict with a state dict')
    meta = content.get('meta')
    if isinstance(meta, dict):
        # MMEngine's runner would execute this one as a Python config on resuming.
        meta.pop('config', None)
    return content


def refused(path: str, error: pickle.UnpicklingError) -> ValueError:
    """The error for a file that would call something."""
    called = re.search(r'GLOBAL (\S+)', str(error))
    name = (called[1] if called else str(error))[:100]
    if not name.isprintable():
        name = ascii(name)
    return ValueError(
        f'{path} is refused: it would call {name} when read, and a checkpoint may hold '
        'tensors and plain data only. Nothing of it was run.'
    )


def _reader_of(path: str, head: bytes) -> Callable[[str, object], object]:
    """The function that reads such a file, by its first bytes."""
    if not head:
        raise Unreadable(f'{path} is empty. Copy or download it again.')
    if head.lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'<'):
        raise Unreadable(
            f'{path} is a web page, not a checkpoint: the server sent a page (a quota, '
            'a login, a warning) instead of the file. Download it by hand.'
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
        raise Unreadable(
            f'{path} is a text file, not a checkpoint: it begins {begin!r}.{hint}'
        )
    raise Unreadable(f'{path} is no checkpoint: it begins {head[:8]!r}')


def _read_safetensors(path: str, map_location) -> dict[str, Tensor]:
    device = 'cpu' if callable(map_location) else str(map_location)
    # Not mapped from the file, which may be written over while it is in use.
    return load_file(path, device, backend='pread')


def _read_zip(path: str, map_location) -> object:
    size = os.path.getsize(path)
    if not zipfile.is_zipfile(path):
        raise Unreadable(
            f'{path} is truncated: its end is missing ({size:,} bytes are there). Copy '
            'or download it again.'
        )
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        pickles = [name for name in names if name.endswith('data.pkl')]
        if any(name.endswith('constants.pkl') for name in names):
            raise Unreadable(
                f'{path} is a TorchScript program. Give the checkpoint that it was '
                'made from.'
            )
        if not pickles:
            raise Unreadable(
                f'{path} is a zip file but no checkpoint (it holds '
                f'{ascii(names[:3])[1:-1][:100] or "nothing"}). Unpack it, and give '
                'the checkpoint that is in it.'
            )
        # As torch.save writes it, so that both readers of the zip see the same.
        if len(set(names)) < len(names) or len(pickles) > 1:
            raise ValueError('the zip file holds a name twice')
        if sum(info.file_size for info in file.infolist()) > size:
            raise ValueError('the zip file is compressed')
        survey = Survey(io.BytesIO(file.read(pickles[0])))
    survey.load()
    return _torch_load(path, map_location, [survey])


def _read_legacy(path: str, map_location) -> object:
    try:
        tarfile.open(path, 'r:').close()
    except tarfile.TarError:
        pass
    else:  # which torch would extract
        raise Unreadable(f'{path} is a tar archive of torch before 0.1.10, or forged')
    with open(path, 'rb') as file:
        surveys = [Survey(file) for _ in range(5)]
        _magic, version, _machine, _content, keys = [s.load() for s in surveys]
    if not isinstance(version, int) or any(not isinstance(k, str) for k in keys):
        raise ValueError('its parts are not those that torch.save writes')
    return _torch_load(path, map_location, surveys)


def _read_bare(path: str, map_location) -> object:
    with open(path, 'rb') as file:
        content = Unpickler(file).load()
    if isinstance(content, dict):
        raise Unreadable(f'{path} is a pickle, but not one that torch.save wrote')
    return content


def _torch_load(path: str, map_location, surveys: list[Survey]) -> object:
    unknown = set().union(*(survey.names - PLAIN for survey in surveys))
    if not unknown and all(survey.protocol <= 2 for survey in surveys):
        with forced_weights_only(True), _allowed_exactly(ALLOWED):
            content = torch.load(path, map_location)
        check_sizes(content, os.path.getsize(path))
        return content
    if any(HISTORY in survey.names for survey in surveys):
        # A run cannot go on with a record of its logs, but one can say why.
        raise Refused(min(unknown, default=HISTORY))
    module = SimpleNamespace(
        Unpickler=Unpickler,
        load=lambda file, **options: Unpickler(file, **options).load(),
        __name__=__name__,
    )
    with forced_weights_only(False):
        return torch.load(path, map_location, pickle_module=module, weights_only=False)


@contextmanager
def forced_weights_only(force: bool):
    """Whether ``torch.load`` is held to its safe reader, whatever the environment says.

    Args:
        force: Hold every call to it, those with ``weights_only=False`` too; otherwise
            calls get what they ask for.
    """
    names = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
    saved = {name: os.environ.pop(name, None) for name in names}
    if force:
        os.environ[names[0]] = '1'
    try:
        yield
    finally:
        os.environ.pop(names[0], None)
        os.environ.update({k: v for k, v in saved.items() if v is not None})


@contextmanager
def _allowed_exactly(allowed: list):
    """torch allows these, and not what others have allowed it."""
    saved = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(allowed)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(saved)


def check_sizes(content: object, size: int) -> None:
    """Looks whether the tensors in plain data can be of a file of ``size`` bytes.

    Raises:
        ValueError: A tensor shows more than is stored of it, as an expanded one does,
            or they were given more memory than the file has.
    """
    todo, seen, storages = [content], set(), {}
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            if value.nbytes > storage.nbytes():
                raise ValueError('a tensor is larger than what is stored of it')
        elif isinstance(value, dict):
            if isinstance(value, OrderedDict) and vars(value).keys() - {'_metadata'}:
                raise ValueError('a dict has attributes')  # which may hide its methods
            todo += value.values()
        elif isinstance(value, (list, tuple)):
            todo += value
    if sum(storages.values()) > size:
        raise ValueError('its tensors are larger than the file')
