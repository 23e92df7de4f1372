"""What the import reports about a file of YOLOv5's."""

from dataclasses import dataclass
from pathlib import Path

from ..utils.render import join_lines
from ..utils.yaml_reader import YAMLFile


@dataclass(frozen=True)
class Note:
    """An entry of a file that has no counterpart here.

    Attributes:
        file: The file.
        line: The entry's line in it, from 1.
        entry: The entry, such as ``'fl_gamma: 1.5'``.
    """

    file: Path
    line: int | None
    entry: str

    @classmethod
    def about(
        cls, file: YAMLFile, key: object, value: object, more: str = ''
    ) -> 'Note':
        """A note about a key at the top of a YAML file."""
        return cls(file.path, file.find_line(str(key)), f'{key}: {value}{more}')

    def __str__(self) -> str:
        place = str(self.file) if self.line is None else f'{self.file}:{self.line}'
        return join_lines(f'{place} {self.entry}')
