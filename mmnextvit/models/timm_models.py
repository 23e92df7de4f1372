"""What is asked of timm's models before one becomes a backbone.

What a model's maps are computed from is found by tracing it once without memory (on
torch's 'meta' device), so that no name or wrapper of timm's has to be trusted.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.messages import did_you_mean
from .freezing import check_frozen_stages

STRIDES = (4, 8, 16, 32)  # of the maps emitted by default
STEM_STRIDE = 4  # maps of a lower stride are the stem's

# What makes the models of a timm file take images of any size, where they can.
ANY_SIZE = {
    'swin_transformer': dict(strict_img_size=False),
    'swin_transformer_v2': dict(strict_img_size=False),
    'swin_transformer_v2_cr': dict(strict_img_size=False),
    'vision_transformer': dict(dynamic_img_size=True),
    'deit': dict(dynamic_img_size=True),
    'eva': dict(dynamic_img_size=True),
}

# Names


def base_name(model_name: str) -> str:
    """The architecture: the name without its tag."""
    return model_name.partition('.')[0]


def check_name(model_name: str) -> None:
    """Checks that timm has a model, and its tag if there is one.

    Raises:
        UserError: It has not; the message has near names.
    """
    import timm

    base = base_name(model_name)
    if not timm.is_model(base):
        known, word = timm.list_models(), base
    elif base != model_name and not timm.models.is_model_pretrained(model_name):
        known, word = timm.list_pretrained(f'{base}.*'), model_name
    else:
        return
    hint = did_you_mean(word, known, 5) or 'no name of its models is near'
    raise UserError(f'timm has no model {model_name!r}: {hint}')


def find_source_file(model_name: str) -> ModuleType:
    """timm's module that has the model, such as ``timm.models.swin_transformer``."""
    import timm

    return sys.modules[timm.model_entrypoint(base_name(model_name)).__module__]


def add_any_size(model_name: str, kwargs: Mapping[str, object]) -> dict[str, object]:
    """``kwargs`` with those that let the model take images of any size, if it can."""
    file = find_source_file(model_name).__name__.rpartition('.')[2]
    return {**ANY_SIZE.get(file, {}), **kwargs}


# Models on the meta device


def create(model_name: str, **kwargs: object) -> nn.Module:
    """timm's ``features_only`` model.

    Raises:
        UserError: It gives no maps.
    """
    import timm

    try:
        return timm.create_model(model_name, features_only=True, **kwargs)
    except (AssertionError, AttributeError, KeyError, RuntimeError) as error:
        raise no_maps_error(model_name, error) from error


def no_maps_error(name: str, error: Exception) -> UserError:
    """That a model gives no feature maps, and why."""
    cause = error or type(error).__name__
    return UserError(f'timm makes no feature maps of {name} that work here: {cause}')


def create_on_meta(model_name: str, kwargs: Mapping[str, object]) -> nn.Module:
    """The model that emits every map it has, without memory for its weights.

    Raises:
        UserError: It gives no maps.
    """
    with torch.device('meta'), warnings.catch_warnings(action='ignore'):
        model = create(model_name, **kwargs)
        every = tuple(range(len(model.feature_info.info)))
        if tuple(model.feature_info.out_indices) != every:
            model = create(model_name, **{**kwargs, 'out_indices': every})
    return model.eval()


def compute_meta_maps(model: nn.Module, size: tuple[int, int]) -> list[Tensor]:
    """Maps of a model on 'meta' for an image of (height, width) pixels."""
    with torch.device('meta'), warnings.catch_warnings(action='ignore'):
        return model(torch.empty(1, getattr(model, 'in_chans', 3), *size))


def list_squares(min_side: int) -> list[tuple[int, int]]:
    """Sizes to try from ``min_side`` on, multiples of 32."""
    start = -(-min_side // 32) * 32
    return [(side, side) for side in range(start, start + 512, 32)]


def find_fitting_size(
    model: nn.Module, sizes: Iterable[tuple[int, int]]
) -> tuple[int, int] | None:
    """The first of some sizes (height, width) that a model on 'meta' takes."""
    for size in sizes:
        try:
            with torch.no_grad():
                compute_meta_maps(model, size)
            return size
        except (AssertionError, RuntimeError):
            pass
    return None


def explain_size(
    model_name: str, kwargs: Mapping[str, object], size: tuple[int, int]
) -> str | None:
    """Why a model refuses images of a size, or ``None`` if it does not.

    Args:
        model_name: timm's name.
        kwargs: Other arguments that it is built with.
        size: Height and width in pixels.
    """
    model = create_on_meta(model_name, kwargs)
    if find_fitting_size(model, [size]):
        return None
    advice = []
    if better := find_fitting_size(model, list_squares(max(size))):
        advice.append(f'images of {better[0]}x{better[1]} fit')
    try:
        fixed = create_on_meta(model_name, {**kwargs, 'img_size': size})
        if find_fitting_size(fixed, [size]):
            advice.append(f'img_size={size} builds it for this size')
    except (TypeError, ValueError):  # it has no img_size, or not this one
        pass
    return (
        f'{model_name} takes no images of {size[0]}x{size[1]} (height x width): '
        f'{", and ".join(advice) or "no size near it fits either"}'
    )


# Maps and what they are computed from


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
        raise no_maps_error(model.pretrained_cfg['architecture'], error) from error
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


# Names of weights


def list_wrapped_names(name: str) -> tuple[str, ...]:
    """What a classifier's module or parameter may be called under timm's wrappers.

    As it was; with the first level flattened; inside a wrapper's ``model`` or ``body``.
    """
    return name, name.replace('.', '_', 1), f'model.{name}', f'body.{name}'


@dataclass(frozen=True)
class Placement:
    """Where the entries of a state dict go in another model.

    Attributes:
        state: Those that have a place, under their names there.
        others: Names of those that have none.
        num_fitting: How many have the shape of their place.
    """

    state: dict[str, Tensor]
    others: list[str]
    num_fitting: int


def place_weights(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], prefix: str
) -> Placement:
    """Finds the places of a timm model's entries.

    Args:
        state: The entries under timm's names, or under those of ``own``.
        own: State dict to be filled.
        prefix: What timm's names begin with there.
    """
    placed: dict[str, Tensor] = {}
    others = []
    for name, value in state.items():
        forms = name, *(f'{prefix}{form}' for form in list_wrapped_names(name))
        place = next((form for form in forms if form in own), None)
        if place is None:
            others.append(name)
        else:
            placed[place] = value
    num_fitting = sum(v.shape == own[name].shape for name, v in placed.items())
    return Placement(placed, others, num_fitting)


def convert_weights(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    prefix: str,
    model_name: str,
    kwargs: Mapping[str, object],
) -> Placement:
    """The same, with timm's own conversion of older layouts where more fits with it.

    Args:
        state: Entries of a classifier or of a ``features_only`` model.
        own: State dict to be filled.
        prefix: What timm's names begin with there.
        model_name: timm's name.
        kwargs: Other arguments that the model is built with.
    """
    direct = place_weights(state, own, prefix)
    convert: Callable | None = getattr(
        find_source_file(model_name), 'checkpoint_filter_fn', None
    )
    if direct.num_fitting == len(own) or convert is None:
        return direct
    import timm

    try:
        with torch.device('meta'), warnings.catch_warnings(action='ignore'):
            classifier = timm.create_model(model_name, **kwargs)
        converted = place_weights(convert(dict(state), classifier), own, prefix)
    except Exception:  # timm's conversions expect a file of their own model
        return direct
    return converted if converted.num_fitting > direct.num_fitting else direct
