"""What YOLOv5's model rows do to channels and strides, module by module.

The rules are those that YOLOv5 documents for its YAML files: what scales all rows, and
how each module's arguments set the width and the stride of the map that it computes.
They are arithmetic on plain numbers; :mod:`.yolov5_rows` applies them.
"""

import ast
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

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


def keep_width(args: Args, widths: Sequence[int], scaling: Scaling) -> int:
    """As many channels as come in."""
    return widths[0]


def sum_widths(args: Args, widths: Sequence[int], scaling: Scaling) -> int:
    """As many channels as all inputs have together."""
    return sum(widths)


def contract_width(args: Args, widths: Sequence[int], scaling: Scaling) -> int:
    """Channels times the square of the gain."""
    return widths[0] * get_arg(args, 0, 2) ** 2


def expand_width(args: Args, widths: Sequence[int], scaling: Scaling) -> int:
    """Channels divided by the square of the gain."""
    gain, channels = get_arg(args, 0, 2), widths[0]
    if gain < 1 or channels % gain**2:
        raise UserError(f'{channels} channels do not divide by {gain}**2')
    return channels // gain**2


# Stride rules: from a row's arguments to the factor by which it multiplies the stride.

StrideRule = Callable[[Args], Fraction]


def read_stride(i: int, default: int = 1, times: int = 1) -> StrideRule:
    """Argument ``i``, ``times`` over."""
    return lambda args: times * Fraction(get_arg(args, i, default))


def invert_stride(i: int, default: int = 1) -> StrideRule:
    """One over argument ``i``."""
    return lambda args: 1 / Fraction(get_arg(args, i, default))


def keep_stride(args: Args) -> Fraction:
    """As many cells as come in."""
    return Fraction(1)


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


@dataclass(frozen=True)
class RowRule:
    """How the rows of one module are read.

    Args:
        width: Width rule.
        stride: Stride rule.
        many_inputs: Whether the module takes a list of maps.
        takes_repeats: Whether ``number`` repeats blocks inside the module, rather
            than the module as a whole.
    """

    width: Callable[[Args, Sequence[int], Scaling], int] = scale_width
    stride: StrideRule = keep_stride
    many_inputs: bool = False
    takes_repeats: bool = False


STRIDED = RowRule(stride=read_stride(2))
TRANSPOSED = RowRule(stride=invert_stride(2))
CSP = RowRule(takes_repeats=True)

# Every module that a row may name; :mod:`.yolov5_graph` builds them.
ROW_RULES: dict[str, RowRule] = {
    'Conv': STRIDED,
    'DWConv': STRIDED,
    'GhostConv': STRIDED,
    'CrossConv': STRIDED,
    'MixConv2d': STRIDED,
    'Focus': RowRule(stride=read_stride(2, times=2)),
    'Bottleneck': RowRule(),
    'GhostBottleneck': STRIDED,
    'SPP': RowRule(),
    'SPPF': RowRule(),
    'C3SPP': RowRule(),
    'BottleneckCSP': CSP,
    'C3': CSP,
    'C3TR': CSP,
    'C3Ghost': CSP,
    'C3x': CSP,
    'nn.ConvTranspose2d': TRANSPOSED,
    'DWConvTranspose2d': TRANSPOSED,
    'nn.BatchNorm2d': RowRule(keep_width),
    'nn.MaxPool2d': RowRule(keep_width, read_pool_stride),
    'nn.ZeroPad2d': RowRule(keep_width),
    'nn.Upsample': RowRule(keep_width, read_upsample_stride),
    'Concat': RowRule(sum_widths, many_inputs=True),
    'Contract': RowRule(contract_width, read_stride(0, default=2)),
    'Expand': RowRule(expand_width, invert_stride(0, default=2)),
}
