"""Pickles and YAML files, as MMEngine reads them by their suffix: as plain data.

``mmengine.fileio.load`` reads annotations, predictions and configs. By itself it runs
what such a file names.
"""

import io
from typing import Any, BinaryIO, TextIO

import yaml
from mmengine.fileio import PickleHandler, YamlHandler

from ..utils.errors import UserError
from ..utils.messages import shorten
from .calls import CALLS, PLAIN, Storage
from .reader import read_legacy
from .records import make_refusal
from .unpickler import Unpickler

MAX_OPCODES = 100_000_000  # annotations of a million images have as many


def _load_storage(content: bytes) -> Storage:
    """The numbers of a tensor in a pickle that torch did not write, as it puts them."""
    storage = read_legacy(io.BytesIO(content), len(content), 'cpu')
    if not isinstance(storage, Storage):
        raise ValueError('a tensor without its numbers')
    return storage


OWN_CALLS = {'torch.storage._load_from_bytes': _load_storage}


class PlainPickleHandler(PickleHandler):
    """MMEngine's handler of pickles, which reads plain data, arrays and tensors."""

    def load_from_fileobj(self, file: BinaryIO, **_: object) -> Any:
        """What the pickle holds.

        Raises:
            UserError: It would call something when read, or it is damaged.
        """
        unpickler = Unpickler(
            file, calls={**CALLS, **OWN_CALLS}, max_opcodes=MAX_OPCODES
        )
        try:
            content = unpickler.load()
        except UserError:
            raise
        except Exception as error:  # whatever the bytes lead to
            raise UserError(
                f'the pickle is damaged or of another program ({shorten(error)})'
            ) from error
        if foreign := unpickler.names - PLAIN - OWN_CALLS.keys():
            raise make_refusal(min(foreign))
        return content


class PlainLoader(yaml.CSafeLoader):
    """YAML without Python's objects, except the tuples that MMEngine writes."""


PlainLoader.add_constructor(
    'tag:yaml.org,2002:python/tuple',
    lambda loader, node: tuple(loader.construct_sequence(node)),
)


class PlainYamlHandler(YamlHandler):
    """MMEngine's handler of YAML files, which makes plain data alone."""

    def load_from_fileobj(self, file: TextIO, **kwargs: Any) -> Any:
        """What the file holds.

        Raises:
            UserError: It is no YAML, or names objects of Python.
        """
        try:
            return yaml.load(file, **{'Loader': PlainLoader, **kwargs})
        except yaml.YAMLError as error:
            mark = getattr(error, 'problem_mark', None)
            line = f' in line {mark.line + 1}' if mark else ''
            problem = getattr(error, 'problem', None) or error
            raise UserError(
                f'the YAML is wrong{line}: {shorten(problem, 200)}'
            ) from error
