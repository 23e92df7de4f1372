"""Checks of values in a checkpoint against those that a run has in their places."""

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.errors import UserError
from ..utils.messages import show
from ..weights.contents import is_finite

MAX_COUNT = 10**9  # epochs, iterations
MAX_DEPTH = 20  # of containers in containers
PLAIN = (
    *(str, bytes, Real, type(None), np.generic, np.ndarray),
    *(Tensor, torch.dtype, torch.device),
)


def make_fault(key: str, value: object, wanted: str) -> UserError:
    """The error for a value that cannot be; for all of them in one form.

    Args:
        key: What it is called in the checkpoint.
        value: The value.
        wanted: What it should be.
    """
    return UserError(f'this is {show(value)}, not {wanted}', key=key)


def check_plain(value: object, key: str) -> None:
    """Refuses what is no plain data, or nested deeper than anything a run writes.

    Python's own copying and pickling would end in an error of recursion.

    Args:
        value: Of a checkpoint.
        key: What it is called there.

    Raises:
        UserError: It is not plain.
    """
    heights: dict[int, int] = {}  # of containers, which may stand in many places

    def measure(value: object, depth: int) -> int:
        if isinstance(value, PLAIN):
            return 0
        if not isinstance(value, dict | list | tuple | set | frozenset):
            raise UserError(f'a {type(value).__name__} is no plain data', key=key)
        height = heights.get(id(value), 1)
        if depth + height > MAX_DEPTH:
            raise UserError('its data are nested too deep', key=key)
        if id(value) not in heights:
            items: Iterable = value
            if isinstance(value, dict):
                items = chain(value.keys(), value.values())
            inner = max((measure(item, depth + 1) for item in items), default=0)
            heights[id(value)] = height = inner + 1
        return height

    measure(value, 0)


def is_number(value: object, low: float = -math.inf) -> bool:
    """Whether a value is a finite number that is not below another; no truth value."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 and not value.is_complex() else None
    if not isinstance(value, Real) or isinstance(value, bool | np.bool_):
        return False
    number: Any = value  # types know no order of all numbers
    return -1e18 < number < 1e18 and number >= low


def is_count(value: object, high: int = MAX_COUNT) -> bool:
    """Whether a value is a whole number from 0 on."""
    return isinstance(value, int) and is_number(value, 0) and value <= high


def check_mapping(value: object, key: str) -> dict[str, Any]:
    """A dict whose keys are names.

    Raises:
        UserError: It is not.
    """
    if not isinstance(value, dict):
        raise make_fault(key, value, 'a dict')
    for name in value:
        if not isinstance(name, str) or not name.isprintable() or len(name) > 1000:
            raise UserError(f'{show(name)} is no name', key=key)
    return value


def check_like(value: object, own: Any, key: str) -> None:
    """Checks that a value of a checkpoint can take the place of a run's own.

    Args:
        value: Of the checkpoint.
        own: What the run has in its place. A number that is not negative stays so;
            ``None`` stands for any number or truth value, a function for anything.
        key: What it is called in the checkpoint.

    Raises:
        UserError: It cannot.
    """
    match own:
        case bool():
            if not isinstance(value, bool | None):
                raise make_fault(key, value, 'True or False')
        case Real():
            low = 0 if is_number(own, 0) else -math.inf
            unset = isinstance(value, float) and value == own  # infinity
            if not is_number(value, low) and not unset:
                raise make_fault(
                    key, value, f'a number{" from 0 on" if not low else ""}'
                )
        case str():
            if not isinstance(value, str) or value != own:
                raise make_fault(key, value, f'{own!r}, which this run has')
        case None:
            if not isinstance(value, bool | None) and not is_number(value):
                raise make_fault(key, value, 'a number')
        case list() | tuple():
            if not isinstance(value, list | tuple) or len(value) != len(own):
                raise make_fault(key, value, f'{len(own)} values')
            for i, (item, own_item) in enumerate(zip(value, own)):
                check_like(item, own_item, f'{key}[{i}]')
        case Tensor():
            check_tensor(value, own.shape, key)
        case dict() if all(isinstance(name, str) for name in own):
            check_entries(check_mapping(value, key), own, key)
        case dict():  # such as the milestones of a schedule
            if not isinstance(value, dict):
                raise make_fault(key, value, 'a dict')
            for number in chain(value.keys(), value.values()):
                if not is_number(number):
                    raise make_fault(key, number, 'a number')


def check_entries(values: dict[str, Any], own: Mapping[str, Any], key: str) -> None:
    """Checks a dict's entries by name against a run's own.

    Raises:
        UserError: One is missing, unknown, or cannot take its place.
    """
    own = {name: value for name, value in own.items() if not callable(value)}
    for name in [*own, *values]:
        if name not in values:
            raise UserError('this is missing', key=f'{key}.{name}')
        if name not in own:
            raise UserError('this run has nothing of this name', key=f'{key}.{name}')
        check_like(values[name], own[name], f'{key}.{name}')


def check_tensor(value: object, shape: Iterable[int], key: str) -> None:
    """Checks that a value is a tensor of finite numbers of this shape.

    Raises:
        UserError: It is not.
    """
    if not isinstance(value, Tensor) or value.is_complex():
        raise make_fault(key, value, 'a tensor')
    if value.shape != tuple(shape):
        raise UserError(
            f'its shape is {tuple(value.shape)}, and this run has {tuple(shape)}',
            key=key,
        )
    if not is_finite(value):
        raise UserError('it holds NaN or infinity', key=key)
