"""Where checkpoints come from: paths, http(s), timm and the Hugging Face hub.

Each function reads what an address of its scheme names, and keeps downloads in one
folder. None of them converts names, since that needs the model.
"""

import hashlib
import os
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import BinaryIO

import torch
from mmengine.dist import barrier, get_rank

from ..utils.errors import MissingFileError, MissingPackageError, UserError
from ..utils.messages import did_you_mean, shorten, show
from .reader import MapLocation, read_checkpoint


class Checkpoint(dict):
    """What a file holds, and which file it was.

    Attributes:
        source: The path or address that was asked for.
        digest: The first 16 hexadecimal digits of the file's SHA-256.
    """

    source: str
    digest: str


def read_file(
    path: str, map_location: MapLocation = None, source: str | None = None
) -> Checkpoint:
    """Reads a file.

    Args:
        path: The file.
        map_location: Device of the tensors.
        source: The address that it was fetched from.

    Raises:
        MissingFileError: There is no such file.
        UserError: It is no checkpoint, or refused, or the address has another scheme.
    """
    scheme, colon, _ = str(path).partition('://')
    if colon and not os.path.isfile(path):
        known = ', '.join(scheme for scheme in SCHEMES if scheme)
        raise UserError(
            f'nothing is known of addresses with {shorten(scheme)}://. Give a path, or '
            f'an address with {known}',
            file=path,
        )
    content = Checkpoint(read_checkpoint(path, map_location))
    content.source = source or path
    with open(os.path.expanduser(path), 'rb') as file:
        content.digest = hashlib.file_digest(file, 'sha256').hexdigest()[:16]
    return content


def read_http(
    filename: str, map_location: MapLocation = None, **_: object
) -> Checkpoint:
    """Reads the file at an address; MMEngine's other options are not needed.

    Raises:
        MissingFileError: It could not be fetched.
        UserError: It is no checkpoint, or refused.
    """
    name = filename.split('?')[0].rstrip('/').rpartition('/')[2]

    def download(path: Path) -> str:
        torch.hub.download_url_to_file(filename, str(path), progress=True)
        return str(path)

    return read_file(fetch(filename, name, download), map_location, filename)


def read_timm(filename: str, map_location: MapLocation = None) -> Checkpoint:
    """Reads pretrained weights of timm's: ``timm://nextvit_small.bd_ssld_6m_in1k``.

    Raises:
        MissingFileError: They could not be fetched.
        UserError: timm has no such weights; the message has near names.
    """
    import timm

    name = filename.removeprefix('timm://')
    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        cfg = None
    if cfg is None or not cfg.hf_hub_id:
        hint = did_you_mean(name, timm.list_pretrained())
        raise UserError(
            f'timm has no such weights{f": {hint}" if hint else ""}', file=filename
        )

    def download(path: Path) -> str:
        return download_from_hub(cfg.hf_hub_id, cfg.hf_hub_filename)

    path = fetch(filename, f'{name}.safetensors', download)
    return read_file(path, map_location, filename)


def read_hf(filename: str, map_location: MapLocation = None) -> Checkpoint:
    """Reads a file of the Hugging Face hub: ``hf://owner/name[:file]``.

    Raises:
        MissingFileError: It could not be fetched.
        UserError: The address is another, or the file is no checkpoint or refused.
    """
    match = re.fullmatch(r'hf://([\w.-]+/[\w.-]+)(?::(.+))?', filename)
    if not match:
        raise UserError('write hf://OWNER/NAME or hf://OWNER/NAME:FILE', file=filename)
    repository, file = match.groups()
    name = f'{repository}/{file or "model.safetensors"}'.replace('/', '--')
    path = fetch(filename, name, lambda _: download_from_hub(repository, file))
    return read_file(path, map_location, filename)


SCHEMES = {
    '': read_file,
    'http://': read_http,
    'https://': read_http,
    'timm://': read_timm,
    'hf://': read_hf,
}


def get_download_folder() -> Path:
    """Where downloads are kept, and looked for first."""
    return Path(torch.hub.get_dir(), 'checkpoints')


def fetch(source: str, name: str, download: Callable[[Path], str]) -> str:
    """The path of a download, from the folder of downloads if it is there.

    Args:
        source: The address.
        name: Name of the file in the folder of downloads.
        download: Downloads it, as a rule to the path that it gets, and returns where
            it is.

    Raises:
        MissingFileError: It cannot be had; the message says what was wanted, and where
            to put a file that was fetched elsewhere.
    """
    path = get_download_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    first = get_rank() == 0
    if not first:
        barrier()  # the first process fetches, the others find the file
    try:
        return str(path) if path.is_file() else download(path)
    except Exception as error:  # whatever the network or a hub's client raises
        reason = str(error).strip().partition('\n')[0][:150]
        raise MissingFileError(
            f'the file could not be fetched ({type(error).__name__}: {reason}). Fetch '
            f'it on another machine and put it at {path}, or give its path instead '
            '(init_cfg=None or load_from=None goes on without weights).',
            file=source,
        ) from error
    finally:
        if first:
            barrier()


def download_from_hub(repository: str, file: str | None) -> str:
    """Downloads a file of the Hugging Face hub, or its usual weights."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = repository.partition('@')
    files = [file] if file else ['model.safetensors', 'pytorch_model.bin']
    for name in files:
        try:
            return hf_hub_download(repository, name, revision=revision or None)
        except LocalEntryNotFoundError:  # no network: the other file isn't there either
            raise
        except EntryNotFoundError:
            if name == files[-1]:
                raise
    raise AssertionError('the last file is there or raises')


def explain(load: Callable[..., dict]) -> Callable[..., dict]:
    """One of MMEngine's other loaders, with messages that a user can do with."""

    @wraps(load)
    def read(filename: str, map_location: MapLocation = None, **kwargs: object) -> dict:
        try:
            return load(filename, map_location, **kwargs)
        except KeyError as error:
            raise UserError(
                f'MMEngine knows no weights called {show(error.args[0])}', file=filename
            ) from error
        except ImportError as error:
            raise MissingPackageError(str(error), file=filename) from error

    return read


class SafeTorch(ModuleType):
    """torch, for MMEngine's loaders: it loads by our reader, and nothing else does."""

    def __init__(self) -> None:
        super().__init__('torch')

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)

    @staticmethod
    def load(
        file: str | os.PathLike | BinaryIO,
        map_location: MapLocation = None,
        **_: object,
    ) -> dict:
        """What ``torch.load`` gives for a checkpoint.

        Raises:
            MissingFileError: There is no such file.
            UserError: It is no checkpoint, or refused.
        """
        if isinstance(file, str | os.PathLike):
            return read_file(os.fspath(file), map_location)
        with TemporaryDirectory() as folder:  # the content of a cloud's file
            path = Path(folder, 'checkpoint.pth')
            path.write_bytes(file.read())
            return read_file(str(path), map_location)
