"""The state of an optimizer in a checkpoint that a run is to go on from."""

import copy
import math
from collections import defaultdict
from typing import Any

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.optim import Optimizer

from ..utils.errors import UserError
from ..utils.messages import show
from .state_checks import (
    check_like,
    check_mapping,
    check_tensor,
    is_count,
    is_number,
    make_fault,
)

SCALER = 'scale', 'growth_factor', 'backoff_factor', 'growth_interval'
Group = dict[str, Any]


def check_optimizer(state: object, wrapper: OptimWrapper | OptimWrapperDict) -> None:
    """Checks the state of an optimizer, or of several.

    Raises:
        UserError: It is not one of this run's optimizer.
    """
    if not isinstance(wrapper, OptimWrapperDict):
        _check_one_optimizer(state, wrapper, 'optimizer')
        return
    for name, one in check_mapping(state, 'optimizer').items():
        if name not in wrapper:
            raise UserError('this run has no such optimizer', key=f'optimizer.{name}')
        _check_one_optimizer(one, wrapper[name], f'optimizer.{name}')


def _check_one_optimizer(state: object, wrapper: OptimWrapper, key: str) -> None:
    state = check_mapping(state, key)
    own = wrapper.optimizer.param_groups
    for name, type_ in (('param_groups', list), ('state', dict)):
        if not isinstance(state.get(name), type_):
            raise make_fault(f'{key}.{name}', state.get(name), f'a {type_.__name__}')
    groups = state['param_groups']
    if len(groups) != len(own):
        raise UserError(
            f'the file has {len(groups)} groups of parameters, this run has {len(own)}',
            key=f'{key}.param_groups',
        )
    params: dict[int, tuple[Tensor, Group]] = {}
    for i, (group, own_group) in enumerate(zip(groups, own)):
        place = f'{key}.param_groups[{i}]'
        check_options(group, own_group, place)
        ids = group.get('params')
        if not isinstance(ids, list) or not all(map(is_count, ids)):
            raise make_fault(f'{place}.params', ids, 'a list of numbers')
        if len(ids) != len(own_group['params']) or params.keys() & set(ids):
            raise UserError(
                f'the file has {len(ids)} parameters here, this run has '
                f'{len(own_group["params"])}, all of them different',
                key=f'{place}.params',
            )
        options = {**own_group, **group}
        params.update((n, (p, options)) for n, p in zip(ids, own_group['params']))
        if len(set(ids)) != len(ids):
            raise UserError('one stands here twice', key=f'{place}.params')
    makers: dict[tuple[int, int], dict[str, Any] | None] = {}
    for number, entries in state['state'].items():
        place = f'{key}.state[{show(number)}]'
        if not is_count(number) or number not in params:
            raise UserError('this run has no such parameter', key=place)
        param, options = params[number]
        which = id(options), param.ndim
        if which not in makers:
            makers[which] = probe_entries(wrapper.optimizer, options, param)
        check_statistics(check_mapping(entries, place), param, makers[which], place)
    _check_scaler(state.get('loss_scaler', {}), f'{key}.loss_scaler')
    if state.get('base_param_settings') is not None:
        own_settings = getattr(wrapper, 'base_param_settings', None) or own[0]
        check_options(
            state['base_param_settings'], own_settings, f'{key}.base_param_settings'
        )


def check_options(group: object, own: Group, key: str) -> None:
    """Checks the settings of a group of parameters, such as its learning rate.

    Switches may be missing, which torch fills in: its versions have different ones.

    Raises:
        UserError: One is missing or cannot be.
    """
    group = check_mapping(group, key)
    for name in [*own, *group]:
        value, place = group.get(name), f'{key}.{name}'
        if name == 'params':
            continue
        if name not in group:
            if not isinstance(own[name], bool | None):
                raise UserError('this is missing', key=place)
        elif name in own:
            check_like(value, own[name], place)
        elif name.startswith('initial_'):  # which a schedule sets when it begins
            # MMYOLO's: Adam has no momentum
            unset = value == -1 and name.removeprefix('initial_') not in own
            check_like(value, -1 if unset else 0, place)
        elif not isinstance(value, bool | str | None) and not is_number(value):
            raise make_fault(place, value, 'a setting of this optimizer')


def probe_entries(
    optimizer: Optimizer, options: Group, param: Tensor
) -> dict[str, Any] | None:
    """What an optimizer keeps for a parameter, found by a step with a small one.

    Args:
        optimizer: It stays as it is.
        options: Settings of the group.
        param: A parameter; the small one has as many dimensions.

    Returns:
        Names to ``'same'`` for a tensor of the parameter's shape, ``'one'`` for a
        single number, ``'part'`` for another. ``None`` where the optimizer takes no
        such step.
    """
    small = nn.Parameter(torch.ones([3] * param.ndim, device=param.device))
    small.grad = torch.zeros_like(small)
    try:
        twin = copy.copy(optimizer)
        twin.state = defaultdict(dict)
        twin.param_groups = [{**options, 'params': [small]}]
        twin.step()
        entries = twin.state[small]
    except Exception:  # of any class and with any settings
        return None

    def describe(value: object) -> str:
        shape = value.shape if isinstance(value, Tensor) else ()
        same = shape == small.shape and len(shape) > 0
        return 'same' if same else 'one' if math.prod(shape) == 1 else 'part'

    return {name: describe(value) for name, value in entries.items()}


def check_statistics(
    entries: dict[str, Any], param: Tensor, wanted: dict[str, str] | None, key: str
) -> None:
    """Checks what an optimizer has kept for a parameter.

    Args:
        entries: Of the checkpoint.
        param: The parameter.
        wanted: What :func:`probe_entries` gave.
        key: What they are called in the checkpoint.

    Raises:
        UserError: One is missing or cannot be.
    """
    for name in wanted if wanted and entries else ():
        if name not in entries:
            raise UserError('this is missing', key=f'{key}.{name}')
    for name, value in entries.items():
        place = f'{key}.{name}'
        entry_type = 'part' if wanted is None else wanted.get(name)
        if value is None and entry_type != 'same' and entry_type != 'one':
            continue
        if entry_type is None:
            raise UserError('this optimizer has nothing of this name', key=place)
        single = param.ndim == 0 or entry_type == 'one' or not isinstance(value, Tensor)
        if entry_type != 'same' and single:
            if not is_number(value, 0 if name == 'step' else -math.inf):
                raise make_fault(place, value, 'a number')
        elif entry_type == 'same':
            check_tensor(value, param.shape, place)
        elif value.numel() > param.numel():
            raise UserError('it is larger than its parameter', key=place)
        else:
            check_tensor(value, value.shape, place)


def _check_scaler(state: object, key: str) -> None:
    """Checks the scale of the losses in mixed precision; empty where there is none."""
    state = check_mapping(state, key)
    for name in SCALER if state else ():
        if not is_number(state.get(name), 0):
            raise make_fault(f'{key}.{name}', state.get(name), 'a number from 0 on')
