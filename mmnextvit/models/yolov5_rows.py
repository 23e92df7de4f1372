"""YOLOv5's model rows ``[from, number, module, args]``, before any module is built.

A YOLOv5 YAML describes a network as a list of rows. Each is parsed by itself
(:class:`Row`) and placed among the maps before it (:class:`PlacedRow`), so that
channels and strides are known. :mod:`.yolov5_graph` builds the network from that.
"""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any, NamedTuple, cast

from ..utils.errors import UserError
from ..utils.messages import show, tell
from . import yolov5_fork_modules, yolov5_modules  # noqa: F401  (they fill ROW_RULES)
from .yolov5_row_rules import ROW_RULES, Place, Scaling, register_row
from .yolov5_unknown import describe_unknown

__all__ = ['ROW_RULES', 'PlacedRow', 'Row', 'RowError', 'place_rows', 'register_row']

OURS = dict(ROW_RULES)

# Far above every published YAML; what a slip or malice writes is refused in time.
MAX_ROWS = 500
MAX_REPEATS = 1000  # in all rows together
MAX_NUMBER = 1 << 15  # a row's argument, such as a width or a kernel
MIN_STRIDE, MAX_STRIDE = Fraction(1, 8), Fraction(1024)
MAX_TEXT = 200  # characters of a row in a message
# What our modules raise over arguments that do not fit.
ARGUMENT_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NameError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
UPSAMPLE_MODES = ('nearest', 'nearest-exact', 'bilinear', 'bicubic')


class FeatureMap(NamedTuple):
    """A map as it is known before it is computed."""

    channels: int
    stride: Fraction  # pixels of the image a cell


class RowError(UserError):
    """What is wrong with a row of YOLOv5's YAML; ``row`` is its number."""


def is_own(module: str) -> bool:
    """Whether a module is a user's, rather than ours."""
    return ROW_RULES[module] is not OURS.get(module)


def build_error(number: int, row: object, problem: str) -> RowError:
    """Builds the error about a row, with the row as it is written."""
    text = str(row)
    text = text if len(text) <= MAX_TEXT else f'{text[:MAX_TEXT]}…'
    return RowError(f'{text}: {problem}', row=number)


@dataclass(frozen=True)
class Row:
    """A row as it is written, checked by itself.

    Attributes:
        number: Its number in the YAML.
        from_: Numbers of the maps that it reads, relative ones below 0.
        repeats: Its ``number``, before it is scaled.
        module: Name in :data:`ROW_RULES`.
        args: Arguments of the module.
    """

    number: int
    from_: tuple[int, ...]
    repeats: int
    module: str
    args: list

    def error(self, problem: str) -> RowError:
        """The error about this row."""
        many = ROW_RULES[self.module].many_inputs
        from_ = list(self.from_) if many else self.from_[0]
        text = f'[{from_}, {self.repeats}, {self.module}, {self.args}]'
        return build_error(self.number, text, problem)


@dataclass(frozen=True)
class PlacedRow(Row):
    """A row among the maps before it: what its module is built from.

    Attributes:
        sources: Numbers of the maps that it reads.
        inputs: Channels and strides of these maps.
        out_channels: Channels of the map that it computes.
        copies: How often its module or the module's inner block stands one after
            another: ``repeats`` times the depth multiple.
    """

    sources: list[int]
    inputs: list[FeatureMap]
    out_channels: int
    copies: int

    @property
    def in_channels(self) -> int:
        """Channels of the first map that it reads."""
        return self.inputs[0].channels


def parse_row(number: int, row: Sequence) -> Row:
    """Reads a row, and checks all of it that does not depend on other rows.

    Args:
        number: The row's number.
        row: ``[from, number, module, args]``.

    Raises:
        RowError: It is no such row.
    """
    try:
        from_, repeats, name, args = row
        args = list(args)
        if isinstance(row[3], (str, Mapping)):
            raise TypeError
    except (TypeError, ValueError):
        problem = 'a row is [from, number, module, args]'
        raise build_error(number, row, problem) from None

    def error(problem: str) -> RowError:
        return build_error(number, f'[{from_}, {repeats}, {name}, {args}]', problem)

    if not isinstance(name, str) or name not in ROW_RULES:
        raise error(describe_unknown({str(name): [str(number)]}, ROW_RULES, ROW_RULES))
    for arg in args:
        if (bad := find_bad_argument(name, arg)) is not None:
            raise error(bad)

    many = isinstance(from_, Sequence) and not isinstance(from_, str)
    many_wanted = ROW_RULES[name].many_inputs
    if many != many_wanted:
        wanted = 'a list of maps' if many_wanted else 'one map'
        raise error(f'{name} reads {wanted}, from is {from_}')
    sources = tuple(from_) if many else (from_,)
    if not sources:
        raise error('from is an empty list')
    for source in sources:
        if isinstance(source, bool) or not isinstance(source, int):
            raise error(f'from holds {source!r}, not a whole number')
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise error(f'number is {repeats}, not a count of 1 or more')
    if repeats > MAX_NUMBER:
        raise error(f'number is above {MAX_NUMBER}')
    return Row(number, sources, repeats, name, args)


def find_bad_argument(module: str, arg: Any) -> str | None:
    """What is wrong with an argument that no module can mean, or ``None``.

    That is a number out of range, another type, or a text other than an upsampling
    mode; a user's module may take texts, which are handed to it as they are.
    """
    if isinstance(arg, (list, tuple)):
        if len(arg) > 16:
            return f'a list of {len(arg)} arguments'
        return next(filter(None, (find_bad_argument(module, x) for x in arg)), None)
    if isinstance(arg, str) and is_own(module):
        return None
    if isinstance(arg, str):
        if module != 'nn.Upsample' or arg not in UPSAMPLE_MODES:
            text = f'the text {arg[:80]!r} is no argument of {module}'
            return f'{text}: texts are never evaluated'
    elif isinstance(arg, Real):
        if not -MAX_NUMBER <= cast(float, arg) <= MAX_NUMBER:  # nan is not either
            return f'{arg} is not within +-{MAX_NUMBER}'
    elif arg is not None:
        return f'{type(arg).__name__} is no argument of a module'
    return None


def check_modules(rows: Sequence[Sequence], first_row: int) -> None:
    """Checks that all modules are known; :func:`parse_row` says what else is wrong.

    Raises:
        RowError: Some are not; all are named, and ``row`` is the first one's number.
    """
    unknown: dict[str, list[str]] = {}
    first: tuple[int, str] | None = None
    for number, row in enumerate(rows, start=first_row):
        if not isinstance(row, (list, tuple)) or len(row) != 4:
            continue
        from_, repeats, name, args = row
        if isinstance(name, str) and name not in ROW_RULES:
            unknown.setdefault(name, []).append(str(number))
            first = first or (number, f'[{from_}, {repeats}, {name}, {args}]')
    if first:
        raise build_error(*first, describe_unknown(unknown, ROW_RULES, ROW_RULES))


def find_source(row: Row, from_: int, maps: Mapping[int, FeatureMap]) -> int:
    """The number of the map that a row's ``from`` means.

    Raises:
        RowError: There is no such map before the row.
    """
    source = from_ if from_ >= 0 else row.number + from_
    if source >= row.number:
        raise row.error(f'from {from_} points ahead: the rows before are {list(maps)}')
    if source not in maps:
        raise row.error(
            f'map {source} (from {from_}) does not exist: there are {list(maps)}'
        )
    return source


def place_row(row: Row, maps: Mapping[int, FeatureMap], scaling: Scaling) -> PlacedRow:
    """Finds the maps that a row reads, and scales it.

    Args:
        row: The row.
        maps: The maps before it, by number.
        scaling: What scales it.

    Raises:
        RowError: A map does not exist, their strides differ, or the channels cannot
            be.
    """
    sources = [find_source(row, i, maps) for i in row.from_]
    inputs = [maps[i] for i in sources]
    if len({x.stride for x in inputs}) > 1:
        strides = ', '.join(f'map {i} has {maps[i].stride}' for i in sources)
        raise row.error(f'the strides differ: {strides}')
    with name_row(row):
        widths = [x.channels for x in inputs]
        out_channels = ROW_RULES[row.module].width(row.args, widths, scaling)
        if type(out_channels) is not int or out_channels < 1:
            raise UserError(f'its channels are a count, not {show(out_channels)}')
    if out_channels > MAX_NUMBER:
        raise row.error(f'{out_channels} output channels are more than {MAX_NUMBER}')
    copies = row.repeats
    if copies > 1:
        copies = max(round(copies * scaling.depth_multiple), 1)
    return PlacedRow(
        **vars(row),
        sources=sources,
        inputs=inputs,
        out_channels=out_channels,
        copies=copies,
    )


@contextmanager
def name_row(row: Row) -> Iterator[None]:
    """Turns what a row's module raises about its arguments into a RowError."""
    try:
        yield
    except Exception as error:
        # A user's module may raise anything, as an ImportError of what it needs.
        if not is_own(row.module) and not isinstance(error, ARGUMENT_ERRORS):
            raise
        text = error if isinstance(error, UserError) else tell(error)
        problem = f'the arguments do not fit {row.module}: {text}'
        if is_own(row.module) and (place := find_place(row.module, error)):
            problem = f'{problem} ({place.file}:{place.line})'
        raise row.error(problem) from error


def find_place(module: str, error: Exception) -> Place | None:
    """The line of a user's file where an error was raised, or where its module is."""
    place = ROW_RULES[module].find_place()
    frames = reversed(traceback.extract_tb(error.__traceback__))
    lines = (
        f.lineno for f in frames if place and f.filename == place.file and f.lineno
    )
    line = next(lines, None)
    return place._replace(line=line) if place and line else place


def compute_factor(row: PlacedRow) -> Fraction:
    """By how much a row's cells are larger than those of the maps that it reads."""
    rule = ROW_RULES[row.module]
    with name_row(row):
        factor = Fraction(rule.stride(row.args))
        return factor ** (1 if rule.takes_repeats else row.copies)


def compute_stride(row: PlacedRow) -> Fraction:
    """Stride of the map that a row computes.

    Raises:
        RowError: The arguments give none, or one out of range.
    """
    stride = row.inputs[0].stride * compute_factor(row)
    if not MIN_STRIDE <= stride <= MAX_STRIDE:
        raise row.error(f'a stride of {stride} is not in {MIN_STRIDE} to {MAX_STRIDE}')
    return stride


class PlacedRows(NamedTuple):
    """Rows, and all maps that there are: those given, and one of each row."""

    rows: list[PlacedRow]
    maps: dict[int, FeatureMap]


def place_rows(
    rows: Sequence[Sequence],
    inputs: Mapping[int, FeatureMap],
    first_row: int,
    scaling: Scaling,
) -> PlacedRows:
    """Parses rows and places each among the maps before it.

    Args:
        rows: The rows as they are written.
        inputs: The maps that are given, by number.
        first_row: Number of the first row.
        scaling: What scales all rows.

    Raises:
        RowError: A row is wrong.
        UserError: There are too many; ``key`` is 'rows'.
    """
    if len(rows) > MAX_ROWS:
        raise UserError(f'{len(rows)} rows are more than {MAX_ROWS}', key='rows')
    check_modules(rows, first_row)
    placed: list[PlacedRow] = []
    maps = dict(inputs)
    copies = 0
    for number, written in enumerate(rows, start=first_row):
        row = place_row(parse_row(number, written), maps, scaling)
        copies += row.copies
        if copies > MAX_REPEATS:
            raise row.error(f'more than {MAX_REPEATS} repeats in all rows')
        placed.append(row)
        maps[number] = FeatureMap(row.out_channels, compute_stride(row))
    return PlacedRows(placed, maps)
