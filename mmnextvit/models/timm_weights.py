"""Where a timm model's weights go in another model."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .timm_models import find_source_file, list_wrapped_names


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
