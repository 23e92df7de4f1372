"""The feature maps of a timm model, and what each is computed from.

That is found by tracing the model once without memory (on torch's 'meta' device), so
that no name or wrapper of timm's has to be trusted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.errors import UserError
from .freezing import check_frozen_stages
from .timm_models import (
    build_no_maps_error,
    compute_meta_maps,
    create_on_meta,
    find_fitting_size,
    list_squares,
    list_wrapped_names,
)

STRIDES = (4, 8, 16, 32)  # of the maps emitted by default
STEM_STRIDE = 4  # maps of a lower stride are the stem's


@dataclass(frozen=True)
class MapSource:
    """A feature map of a model, and what it is computed from.

    Attributes:
        channels: Its channels.
        stride: Pixels of the image a cell.
        module: timm's name of the module that gives it.
        params: Names of the parameters that it is computed from.
    """

    channels: int
    stride: int
    module: str
    params: frozenset[str]


def trace_maps(
    model: nn.Module, img_size: int | Sequence[int] | None = None
) -> list[MapSource]:
    """All maps of a model on 'meta', which :func:`create_on_meta` gave.

    Args:
        model: The model.
        img_size: The size that it was built for, if one was given.

    Raises:
        UserError: They cannot be computed there at any size.
    """
    names = {p: name for name, p in model.named_parameters()}
    own = img_size or model.pretrained_cfg['input_size'][-2:]
    own = (own, own) if isinstance(own, int) else tuple(own)
    size = find_fitting_size(model, [own, *list_squares(32)])
    try:
        with torch.enable_grad():
            maps = compute_meta_maps(model, size or own)
    except (AssertionError, RuntimeError) as error:
        raise build_no_maps_error(
            model.pretrained_cfg['architecture'], error
        ) from error
    return [
        MapSource(
            channels=info['num_chs'],
            stride=info['reduction'],
            module=info['module'],
            params=frozenset(names[leaf] for leaf in find_leaves(y)),
        )
        for info, y in zip(model.feature_info.info, maps, strict=True)
    ]


def find_leaves(y: Tensor) -> set[Tensor]:
    """The parameters that a tensor was computed from, by autograd's graph."""
    leaves, nodes, seen = set(), [y.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, 'variable'):
            leaves.add(node.variable)
        nodes += [following for following, _ in node.next_functions]
    return leaves


def choose_maps(
    available: Sequence[int],
    out_indices: Sequence[int] | None,
    strides: Sequence[int] | None,
) -> tuple[int, ...]:
    """Indices of the maps to emit.

    Args:
        available: Strides of the maps that the model has.
        out_indices: Indices that the user wants.
        strides: Strides that the user wants; without either, those of
            :data:`STRIDES` that the model has.

    Raises:
        UserError: The model has no such maps; the message lists those it has.
    """
    have = f'the maps 0 to {len(available) - 1} have the strides {list(available)}'
    if out_indices is not None and strides is not None:
        raise UserError(f'give out_indices or strides, not both: {have}')
    key = 'strides' if out_indices is None else 'out_indices'
    given = strides if out_indices is None else out_indices
    if out_indices is not None:
        indices = tuple(out_indices)
        missing = not set(indices) <= set(range(len(available)))
    else:
        last = {stride: i for i, stride in enumerate(available)}
        wanted = [s for s in STRIDES if s in last] if strides is None else strides
        missing = not set(wanted) <= set(last)
        indices = tuple(last.get(s, 0) for s in wanted)
    if missing or not indices or any(a >= b for a, b in zip(indices, indices[1:])):
        raise UserError(f'{key}={given!r}: allowed are increasing ones, and {have}')
    return indices


def find_frozen(
    maps: Sequence[MapSource],
    last: int,
    names: Sequence[str],
    frozen_stages: int,
    model_name: str,
) -> frozenset[str]:
    """Parameters of the stem and the first stages.

    Args:
        maps: All maps of the model.
        last: Index of the last one that is emitted.
        names: Names of all parameters of the model, in their order.
        frozen_stages: -1 for nothing, 0 for the stem, k for the stem and k stages.
        model_name: timm's name, for the message.

    Raises:
        UserError: There are not so many stages, or the maps do not follow from one
            another, as in HRNet, so that freezing one would freeze layers of all.
    """
    if frozen_stages == -1:
        return frozenset()
    stages = [i for i in range(last + 1) if maps[i].stride >= STEM_STRIDE]
    check_frozen_stages(frozen_stages, len(stages), 'emitted')
    if any(not a.params <= b.params for a, b in zip(maps, maps[1:])):
        raise UserError(
            f'frozen_stages={frozen_stages}: {model_name} does not compute its maps '
            'one after another, so that stages cannot be frozen: write '
            'frozen_stages=-1'
        )
    if frozen_stages:
        return maps[stages[frozen_stages - 1]].params
    first = stages[0] if stages else last + 1
    if first:
        return maps[first - 1].params
    return find_stem(maps[0], names, model_name)


def find_stem(
    first: MapSource, names: Sequence[str], model_name: str
) -> frozenset[str]:
    """Parameters that are registered before the first map's module, and used for it.

    Args:
        first: The first map.
        names: Names of all parameters of the model, in their order.
        model_name: timm's name, for the message.

    Raises:
        UserError: There are none.
    """
    prefixes = tuple(f'{name}.' for name in list_wrapped_names(first.module))
    start = next((i for i, n in enumerate(names) if n.startswith(prefixes)), 0)
    stem = first.params & set(names[:start])
    if not stem:
        raise UserError(f'frozen_stages=0: {model_name} has no stem that timm tells')
    return stem


@dataclass(frozen=True)
class MapPlan:
    """Which maps of a model a backbone emits, and which parameters it trains.

    Attributes:
        indices: Indices of the maps.
        maps: The maps.
        frozen: Names of the parameters that ``frozen_stages`` freezes.
    """

    indices: tuple[int, ...]
    maps: tuple[MapSource, ...]
    frozen: frozenset[str]

    @property
    def trained(self) -> frozenset[str]:
        """Names of the parameters that get a gradient.

        Layers behind the last map, or of maps that are not emitted, get none, which
        optimizers leave as it is but DistributedDataParallel refuses.
        """
        return frozenset().union(*(x.params for x in self.maps)) - self.frozen


def plan_maps(
    model_name: str,
    kwargs: Mapping[str, Any],
    out_indices: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    frozen_stages: int = -1,
) -> MapPlan:
    """Chooses the maps of a model and what is frozen, before it is built.

    Args:
        model_name: timm's name.
        kwargs: Other arguments that it is built with.
        out_indices: As in :func:`choose_maps`.
        strides: Likewise.
        frozen_stages: As in :func:`find_frozen`.

    Raises:
        UserError: The model has no such maps or stages.
    """
    model = create_on_meta(model_name, kwargs)
    maps = trace_maps(model, kwargs.get('img_size'))
    indices = choose_maps([x.stride for x in maps], out_indices, strides)
    names = [name for name, _ in model.named_parameters()]
    frozen = find_frozen(maps, indices[-1], names, frozen_stages, model_name)
    return MapPlan(indices, tuple(maps[i] for i in indices), frozen)
