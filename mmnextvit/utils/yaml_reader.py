"""YAML files from outside, read in bounded time, with the lines of what they hold."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from .errors import MissingFileError, UserError
from .files import check_is_file
from .messages import shorten

MAX_BYTES = 1 << 18  # the longest list of class names in use is an eighth of it
MAX_DEPTH = 10
UNREADABLE = '\ufffd'  # what Python puts in the place of bytes that are not UTF-8


@dataclass(frozen=True)
class YAMLFile:
    """A YAML file's content.

    Attributes:
        path: The file.
        content: The mapping at its top.
        lines: Line numbers, from 1, of what stands at a path of keys and indices, as
            in ``lines['backbone', 3]``.
    """

    path: Path
    content: dict
    lines: dict[tuple, int]

    def find_line(self, *keys: object) -> int | None:
        """The line of the nearest known part of a path of keys."""
        ends = range(len(keys), 0, -1)
        known = (self.lines[keys[:end]] for end in ends if keys[:end] in self.lines)
        return next(known, None)

    def describe_place(self, *keys: object) -> str:
        """``file:line`` of the nearest known part of a path of keys."""
        line = self.find_line(*keys)
        return str(self.path) if line is None else f'{self.path}:{line}'

    def error(self, problem: str, *keys: object) -> UserError:
        """An error about what stands at a path of keys, to be raised."""
        key = str(keys[0]) if len(keys) == 1 else None
        return UserError(problem, file=self.path, line=self.find_line(*keys), key=key)


class Loader(yaml.SafeLoader):
    """YAML's safe loader, which loses nothing where two keys are one value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):  # such as 8, 0x8 and 010
            line = node.start_mark.line + 1
            raise UserError('two of the keys mean the same', line=line)
        return mapping


def read_yaml(path: str | Path) -> YAMLFile:
    """Reads a YAML file whose top is a mapping.

    Aliases are refused: nested ones make gigabytes of a few lines, and no file of
    YOLOv5's needs them. Tags other than YAML's own are refused too. Comments may be in
    any encoding, all else is UTF-8.

    Raises:
        MissingFileError: There is no such file.
        UserError: It is not such a file; the error has file and line.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError('the file does not exist', file=path)
    check_is_file(path)
    if path.stat().st_size > MAX_BYTES:
        raise UserError(
            f'files of more than {MAX_BYTES >> 10} KiB are not read', file=path
        )
    try:
        content, lines = copy.deepcopy(_parse(path.read_bytes()))
    except UserError as error:
        error.file = path
        raise
    except UnicodeDecodeError as error:
        raise UserError(f'the file is not text in UTF-8: {error}', file=path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        problem = getattr(error, 'problem', None) or error
        line = mark.line + 1 if mark else None
        raise UserError(
            f'not YAML: {shorten(problem)}', file=path, line=line
        ) from error
    except ValueError as error:  # such as the 31st of February
        raise UserError(f'not YAML: {shorten(error)}', file=path) from error
    if not isinstance(content, dict):
        raise UserError('the file holds no keys and values, as in `nc: 80`', file=path)
    return YAMLFile(path, content, lines)


@lru_cache(maxsize=8)
def _parse(content: bytes) -> tuple[object, dict[tuple, int]]:
    """What a file holds, and the lines of `YAMLFile`.

    A dataset asks for names and for the images of a split, and train and val name the
    same file, while 1,203 names take PyYAML half a second.
    """
    text = content.decode('utf-8', errors='replace')
    _check_events(text)
    if UNREADABLE in _join_scalars(text):  # not in comments alone
        content.decode('utf-8')
    loader = Loader(text)
    node = loader.get_single_node()
    lines = dict(_find_lines(node))
    return None if node is None else loader.construct_document(node), lines


def _check_events(text: str) -> None:
    """Refuses aliases and deep nesting.

    Events are read without recursion, so that no file can exhaust the stack.
    """
    depth = 0
    for event in yaml.parse(text):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise UserError('aliases (*name) are not read: write it out', line=line)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UserError(f'nested deeper than {MAX_DEPTH}', line=line)


def _join_scalars(text: str) -> str:
    """All keys and values."""
    events = yaml.parse(text)
    return '\n'.join(e.value for e in events if isinstance(e, yaml.ScalarEvent))


def _find_lines(
    node: yaml.Node | None, keys: tuple = (), line: int | None = None
) -> Iterator[tuple[tuple, int]]:
    """The line of every path of keys and indices below a node.

    Args:
        node: A part of the file.
        keys: The path that leads to it.
        line: The line of its key, if it has one.
    """
    if node is None:
        return
    yield keys, line or node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = key.value if isinstance(key.value, str) else str(key.value)
            line = key.start_mark.line + 1
            if name in seen:
                raise UserError(f'{shorten(name)} stands here a second time', line=line)
            seen.add(name)
            yield from _find_lines(value, (*keys, name), line)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _find_lines(item, (*keys, i))
