"""What YOLOv5's model rows do to channels and strides, module by module.

The rules are those that YOLOv5 documents for its YAML files: what scales all rows, and
how each module's arguments set the width and the stride of the map that it computes.
They are arithmetic on plain numbers; :mod:`.yolov5_rows` applies them.

:func:`register_row` puts a module with its rules into :data:`ROW_RULES`, one of ours
and one of a user's alike.
"""

import ast
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any, NamedTuple, TypeVar

from ..utils.errors import UserError

# torch.nn classes that a YAML's ``activation:`` may name: mmcv's name for each, and the
# argument that it takes.
ACTIVATIONS = {
    'SiLU': ('SiLU', None),
    'ReLU': ('ReLU', None),
    'ReLU6': ('ReLU6', None),
    'LeakyReLU': ('LeakyReLU', 'negative_slope'),
    'Hardswish': ('HSwish', None),
    'GELU': ('GELU', None),
}


@dataclass(frozen=True)
class Scaling:
    """What scales all rows alike.

    Attributes:
        depth_multiple: Scales ``number`` where it is above 1.
        width_multiple: Scales output channels, rounded up to a multiple of 8.
        num_outputs: The head's channels; a row of exactly so many is not scaled.

    Raises:
        UserError: A multiple is out of range.
    """

    depth_multiple: float = 1.0
    width_multiple: float = 1.0
    num_outputs: int | None = None

    def __post_init__(self) -> None:
        for key in ('depth_multiple', 'width_multiple'):
            check_multiple(getattr(self, key), key)


def check_multiple(multiple: Any, key: str | None = None) -> None:
    """Checks a depth or width multiple.

    Args:
        multiple: What was written.
        key: Where it was written, for the error.

    Raises:
        UserError: It is no number above 0, and at most 100.
    """
    is_number = isinstance(multiple, Real) and not isinstance(multiple, bool)
    if not is_number or not 0 < multiple <= 100:
        raise UserError(
            f'a multiple is a number above 0, not {multiple!r}, and at most 100',
            key=key,
        )


def parse_activation(text: str | None) -> dict:
    """An act_cfg from a YAML's ``activation:``, such as 'nn.LeakyReLU(0.1)'.

    The text is matched against :data:`ACTIVATIONS`, never evaluated. ``None`` is
    YOLOv5's default, SiLU.

    Raises:
        UserError: It is no call of a listed class with at most one number; ``key`` is
            'activation'.
    """
    if text is None:
        return dict(type='SiLU', inplace=True)

    def error(problem: str) -> UserError:
        return UserError(f'{text!r}: {problem}', key='activation')

    if not isinstance(text, str):
        raise error('this is no text, as in nn.SiLU()')
    match = re.fullmatch(r'\s*(?:torch\.)?(?:nn\.)?(\w+)(?:\((.*)\))?\s*', text)
    if match is None or match[1] not in ACTIVATIONS:
        raise error(f'allowed are {sorted(ACTIVATIONS)}')
    type_, keyword = ACTIVATIONS[match[1]]
    act_cfg: dict[str, Any] = dict(type=type_)
    arguments = re.sub(r'inplace=(True|False)', '', match[2] or '').strip(' ,')
    if arguments:
        if keyword is None:
            raise error(f'{match[1]} takes no {arguments!r}')
        value = arguments.removeprefix(f'{keyword}=')
        try:
            act_cfg[keyword] = float(ast.literal_eval(value))
        except (ValueError, SyntaxError, TypeError) as cause:
            raise error(f'{value!r} is no number') from cause
        if not math.isfinite(act_cfg[keyword]):
            raise error(f'{value!r} is not finite')
    return act_cfg


# Width rules: from a row's arguments, the widths that come in and the scaling to the
# channels of the row's map. Those that do not fit end in an exception, which names the
# row once it is placed.

Args = Sequence[Any]  # a row's arguments


def get_arg(args: Args, i: int, default: Any) -> Any:
    """Argument ``i``, or ``default`` where it is left out."""
    return args[i] if len(args) > i else default


def scale_width(args: Args, widths: Sequence[int], scaling: Scaling) -> int:
    """The first argument times the width multiple, rounded up to a multiple of 8.

    Unscaled where it is the number of the head's outputs, as in YOLOv5.
    """
    width = get_arg(args, 0, None)
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise UserError('the first argument is the number of output channels')
    if width == scaling.num_outputs:
        return width
    return make_divisible(width, scaling.width_multiple)


def make_divisible(width: int, multiple: float) -> int:
    """``width * multiple``, rounded up to a multiple of 8."""
    return math.ceil(width * multiple / 8) * 8


def match_width(args: Args, widths: Sequence[int], scaling: Scaling) -> int:
    """As many channels as come in, which the first argument repeats if it is there.

    Forks write it scaled as a convolution's, or as it is.
    """
    written = get_arg(args, 0, widths[0])
    if widths[0] not in (written, scale_width([written], widths, scaling)):
        raise UserError(
            f'the first argument is the width, and the {widths[0]} channels that come '
            f'in are kept: write {widths[0]}, or no arguments'
        )
    return widths[0]


def keep_width(args: Args, widths: Sequence[int], scaling: Scaling) -> int:
    """As many channels as come in."""
    return widths[0]


def sum_widths(args: Args, widths: Sequence[int], scaling: Scaling) -> int:
    """As many channels as all inputs have together."""
    return sum(widths)


def contract_width(args: Args, widths: Sequence[int], scaling: Scaling) -> int:
    """Channels times the square of the gain."""
    return widths[0] * get_arg(args, 0, 2) ** 2


def contract_four_fold(args: Args, widths: Sequence[int], scaling: Scaling) -> int:
    """Channels times 4."""
    return 4 * widths[0]


def expand_width(args: Args, widths: Sequence[int], scaling: Scaling) -> int:
    """Channels divided by the square of the gain."""
    gain, channels = get_arg(args, 0, 2), widths[0]
    if gain < 1 or channels % gain**2:
        raise UserError(f'{channels} channels do not divide by {gain}**2')
    return channels // gain**2


# Stride rules: from a row's arguments to the factor by which it multiplies the stride.

StrideRule = Callable[[Args], Fraction | float]


def read_stride(i: int, default: int = 1, times: int = 1) -> StrideRule:
    """Argument ``i``, ``times`` over."""
    return lambda args: times * Fraction(get_arg(args, i, default))


def invert_stride(i: int, default: int = 1) -> StrideRule:
    """One over argument ``i``."""
    return lambda args: 1 / Fraction(get_arg(args, i, default))


def scale_stride(factor: float) -> StrideRule:
    """The same factor, whatever the arguments are."""
    return lambda args: Fraction(factor)


def read_upsample_stride(args: Args) -> Fraction:
    """One over the scale factor."""
    size, scale = get_arg(args, 0, None), get_arg(args, 1, None)
    if size is not None or not scale:
        raise UserError('give a scale factor, as in [None, 2, nearest], not a size')
    return 1 / Fraction(scale)


def read_pool_stride(args: Args) -> Fraction:
    """The stride, which is the kernel where it is left out."""
    stride = get_arg(args, 1, None)
    return Fraction(args[0] if stride is None else stride)


def read_inverted_stride(args: Args) -> Fraction:
    """MobileNetV3's third argument behind the width, or MobileNetV2's first."""
    return Fraction(get_arg(args, 3 if len(args) > 3 else 1, 1))


WidthRule = Callable[[Args, Sequence[int], Scaling], int]

# Width rules by name, and whether the first argument is a width, which the module then
# gets scaled, as its second argument.
CHANNELS: dict[str, tuple[WidthRule, bool]] = {
    'scaled': (scale_width, True),
    'matched': (match_width, True),
    'same': (keep_width, False),
    'sum': (sum_widths, False),
}
REPEATS = 'stack', 'inside'
HEADS = 'Detect', 'Segment'  # names that rows cannot have


class Place(NamedTuple):
    """Where a module is written: a file and a line from 1, as far as Python knows."""

    file: str
    line: int


@dataclass(frozen=True)
class RowRule:
    """A module that rows may name, and how its rows are read.

    Attributes:
        module: The class or function that builds it; see :func:`register_row`.
        width: Width rule.
        stride: Stride rule.
        many_inputs: Whether the module takes a list of maps.
        takes_repeats: Whether ``number`` repeats blocks inside the module, rather
            than the module as a whole.
        takes_widths: Whether channels in and out stand before its arguments.
        starts_with_width: Whether a row's first argument is the width.
        takes_layers: Whether it is given ``layers``, the ``norm_cfg`` and ``act_cfg``.
        names: YOLOv5's names of its parameters, or what they begin with, and ours.
    """

    module: Callable[..., Any]
    width: WidthRule
    stride: StrideRule
    many_inputs: bool
    takes_repeats: bool
    takes_widths: bool
    starts_with_width: bool
    takes_layers: bool
    names: Mapping[str, str]

    def build(
        self, widths: Sequence[int], out: int, copies: int, args: Args, layers: dict
    ) -> Any:
        """Builds the module of a row: see :func:`register_row`.

        Args:
            widths: Channels of the maps that it reads.
            out: Channels of the map that it computes.
            copies: The row's scaled ``number``.
            args: The row's arguments.
            layers: ``norm_cfg`` and ``act_cfg`` of convolutions.
        """
        call = list(args[1:] if self.starts_with_width else args)
        if self.takes_widths:
            repeats = [copies] if self.takes_repeats else []
            c1 = list(widths) if self.many_inputs else widths[0]
            call = [c1, out, *repeats, *call]
        return self.module(*call, **({'layers': layers} if self.takes_layers else {}))

    def find_place(self) -> Place | None:
        """Where the module is written, if Python knows."""
        try:
            file = inspect.getsourcefile(self.module)
            return Place(file, inspect.getsourcelines(self.module)[1]) if file else None
        except (OSError, TypeError):
            return None


# Every module that a row may name. The files that import :func:`register_row` fill it,
# of which :mod:`.yolov5_rows` imports ours.
ROW_RULES: dict[str, RowRule] = {}

Module = TypeVar('Module', bound=Callable[..., Any])


def register_row(
    name: str | None = None,
    *,
    channels: str | WidthRule = 'scaled',
    stride: float | StrideRule = 1,
    repeats: str = 'stack',
    many_inputs: bool | None = None,
    takes_widths: bool = True,
    names: Mapping[str, str] = {},
    force: bool = False,
) -> Callable[[Module], Module]:
    """Makes a class, or a function that builds a module, a row by its name.

    It is called as YOLOv5 calls its own: ``Module(c1, c2, *arguments)``, with the
    channels in and out before what its row has behind the width. With
    ``repeats='inside'`` the row's scaled ``number`` follows as third argument.
    Parameters keep the names that the class gives them, which are YOLOv5's too unless
    ``names`` says otherwise. Every BatchNorm2d in it gets the ``eps`` and ``momentum``
    of the other rows. A keyword argument ``layers`` is given ``norm_cfg`` and
    ``act_cfg``, for mmcv's ``ConvModule``.

    Args:
        name: Name in rows; that of the class is the default.
        channels: The rule for the channels out. 'scaled': the first argument of the
            row, times the width multiple, as for YOLOv5's convolutions. 'matched': as
            many as come in, which the first argument says again if it is there.
            'same': as many as come in; all arguments are the module's. 'sum': as many
            as all maps together. Or a function of the row's arguments, the widths that
            come in and the :class:`Scaling`.
        stride: By how much a map's cells are larger than those that come in, or a
            function of the row's arguments that says so.
        repeats: What a row's ``number`` repeats: 'stack' the module, 'inside' its
            inner blocks.
        many_inputs: Whether the module takes a list of maps, and ``c1`` is a list;
            ``None`` is for 'sum' alone.
        takes_widths: Whether ``c1`` and ``c2`` are given at all.
        names: YOLOv5's names of parameters, or of the modules that they are in, and
            the names here.
        force: Whether another module of that name is replaced.

    Raises:
        UserError: There is another module of the name, or an argument is wrong; the
            error has the module's file and line.
    """
    if not (name is None or isinstance(name, str)):
        raise UserError('write @register_row() with its parentheses')

    def register(module: Module) -> Module:
        key = name or module.__name__
        width, starts_with_width = _find_width_rule(channels)
        rule = RowRule(
            module=module,
            width=width,
            stride=stride if callable(stride) else scale_stride(stride),
            many_inputs=width is sum_widths if many_inputs is None else many_inputs,
            takes_repeats=repeats == 'inside',
            takes_widths=takes_widths,
            starts_with_width=starts_with_width,
            takes_layers=_has_parameter(module, 'layers'),
            names=dict(names),
        )
        if problem := _find_problem(key, rule, force):
            raise UserError(f'{key}: {problem}', **_get_place(rule))
        ROW_RULES[key] = rule
        return module

    if repeats not in REPEATS:
        raise UserError(f'repeats={repeats!r}: write {" or ".join(REPEATS)}')
    return register


def _find_width_rule(channels: str | WidthRule) -> tuple[WidthRule, bool]:
    """A width rule, and whether the first argument is a width."""
    if callable(channels):
        return channels, False
    if channels not in CHANNELS:
        raise UserError(
            f'channels={channels!r}: write {", ".join(CHANNELS)}, or give a function'
        )
    return CHANNELS[channels]


def _find_problem(name: str, rule: RowRule, force: bool) -> str | None:
    """Why a module cannot be registered under a name, or ``None``."""
    if name in HEADS:
        return 'this is the name of a head, which is no row'
    known = ROW_RULES.get(name)
    if known is None or force or _are_same(known.module, rule.module):
        return None
    place = known.find_place()
    where = f' at {place.file}:{place.line}' if place else ''
    return (
        f'there is a module of this name{where}: take another name, as in '
        f"@register_row('My{name}'), or replace it with force=True"
    )


def _are_same(one: Callable, other: Callable) -> bool:
    """Whether two modules are one that was imported twice, or changed in a notebook."""
    if one.__qualname__ != other.__qualname__:
        return False
    if one.__module__ == other.__module__:
        return True
    try:
        files = {inspect.getsourcefile(module) for module in (one, other)}
    except (OSError, TypeError):
        return False
    return len(files) == 1


def _get_place(rule: RowRule) -> dict[str, Any]:
    place = rule.find_place()
    return place._asdict() if place else {}


def _has_parameter(function: Callable, name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # of C
        return False
