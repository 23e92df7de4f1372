"""YAML files from outside, read in bounded time, with the lines of what they hold."""

from dataclasses import dataclass
from pathlib import Path

import yaml

MAX_BYTES = 1 << 18  # the longest list of class names in use is an eighth of it
MAX_DEPTH = 10


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

    def where(self, *keys: object) -> str:
        """``file:line`` of the nearest known part of a path of keys."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.lines:
                return f'{self.path}:{self.lines[keys[:end]]}'
        return str(self.path)


def read_yaml(path: str | Path) -> YAMLFile:
    """Reads a YAML file whose top is a mapping.

    Aliases are refused: nested ones make gigabytes of a few lines, and no file of
    YOLOv5's needs them. Tags other than YAML's own are refused too.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not such a file; the message has file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist')
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(
            f'{path} has more than {MAX_BYTES >> 10} KiB: no such file has'
        )
    try:
        text = path.read_text(encoding='utf-8')
        depth = 0
        for event in yaml.parse(text):  # this alone needs no recursion
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise ValueError(f'{path}:{line}: aliases (*name) are not read: write '
                                 'it out')  # fmt: skip
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1
                raise ValueError(f'{path}:{line}: nested deeper than {MAX_DEPTH}')
        lines: dict[tuple, int] = {}
        _note_lines(yaml.compose(text, yaml.SafeLoader), (), lines, path)
        content = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not text in UTF-8: {error}') from error
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        line = f':{mark.line + 1}' if mark else ''
        problem = getattr(error, 'problem', None) or error
        raise ValueError(f'{path}{line}: not YAML: {problem}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds no keys and values, as in `nc: 80`')
    return YAMLFile(path, content, lines)


def _note_lines(node: yaml.Node | None, keys: tuple, lines: dict, path: Path) -> None:
    if node is None:
        return
    if keys not in lines:
        lines[keys] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = key.value if isinstance(key.value, str) else str(key.value)
            line = key.start_mark.line + 1
            if name in seen:
                raise ValueError(f'{path}:{line}: {name} stands here a second time')
            seen.add(name)
            lines[*keys, name] = line
            _note_lines(value, (*keys, name), lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _note_lines(item, (*keys, i), lines, path)
