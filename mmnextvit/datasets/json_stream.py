"""JSON files read piece by piece, so that their text is never in memory as a whole."""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from typing import Any, BinaryIO

SPACES = ' \t\n\r'
CHUNK = 1 << 16  # bytes that are read at once

decode = json.JSONDecoder().raw_decode


class JSONStream:
    """The values of a JSON text in UTF-8, one after another.

    It is for text that is in order. What it cannot read is another reader's to judge,
    which has all of it and can say what is wrong, and where.

    Attributes:
        file: What the text is read from.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self._decoder = codecs.getincrementaldecoder('utf-8')()
        self._text = ''
        self._place = 0
        self._ended = False

    def read_object(
        self, readers: Mapping[str, Callable[[Iterator[Any]], Any]]
    ) -> dict[str, Any]:
        """The object that the text is.

        Args:
            readers: What is made of the lists at these keys, from their values.

        Raises:
            ValueError: The text is not in order, or is no object.
        """
        content: dict[str, Any] = {}
        self._expect('{')
        for _ in self._repeat('}'):
            key = self._read_value()
            if not isinstance(key, str):
                raise ValueError('a key is no text')
            self._expect(':')
            if key in readers and self._peek() == '[':
                content[key] = readers[key](self._read_list())
            else:
                content[key] = self._read_value()
        if self._peek():
            raise ValueError('something follows the object')
        return content

    def _read_list(self) -> Iterator[Any]:
        self._expect('[')
        for _ in self._repeat(']'):
            yield self._read_value()

    def _repeat(self, end: str) -> Iterator[None]:
        """Goes from comma to comma, up to what closes the list or the object."""
        if self._peek() == end:
            self._place += 1
            return
        while True:
            yield
            mark = self._peek()
            self._place += 1
            if mark == end:
                return
            if mark != ',':
                raise ValueError('a comma is missing')

    def _expect(self, mark: str) -> None:
        if self._peek() != mark:
            raise ValueError(f'{mark} is missing')
        self._place += 1

    def _peek(self) -> str:
        """The next character that is no space; empty at the end of the text."""
        mark = self._text[self._place : self._place + 1]
        if mark and mark not in SPACES:  # as most often
            return mark
        while True:
            self._place = WHITESPACE.match(self._text, self._place).end()
            if self._place < len(self._text) or not self._read_on():
                return self._text[self._place : self._place + 1]

    def _read_value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = decode(self._text, self._place)
            except ValueError:
                if not self._read_on():
                    raise
                continue
            # A number that ends with what has been read may go on, as 1 does in 1e+2.
            length = end - self._place
            if end < len(self._text) - 2 or not self._read_on():
                self._place += length
                return value

    def _read_on(self) -> bool:
        """Reads more, and drops what is done; whether there was any."""
        if self._ended:
            return False
        rest = self._text[self._place :]
        # A value that needs much text is tried again with twice as much, not a bit.
        new = self.file.read(max(CHUNK, len(rest)))
        self._ended = not new
        self._text = rest + self._decoder.decode(new, final=self._ended)
        self._place = 0
        return not self._ended


def read_lists(
    path: str, readers: Mapping[str, Callable[[Iterable[Any]], Any]]
) -> dict[str, Any]:
    """A JSON file's object, of which some lists are taken value by value.

    Args:
        path: A local file.
        readers: As of `JSONStream.read_object`.

    Raises:
        ValueError: It is no JSON object in UTF-8.
        OSError: It cannot be read.
    """
    with open(path, 'rb') as file:
        return JSONStream(file).read_object(readers)
