"""timm's models by name: whether there is one, how it is built, which images it takes.

Models are tried out without memory for them, on torch's 'meta' device.
"""

import sys
import warnings
from collections.abc import Iterable, Mapping
from types import ModuleType

import torch
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.messages import did_you_mean

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


def get_base_name(model_name: str) -> str:
    """The architecture: the name without its tag."""
    return model_name.partition('.')[0]


def check_name(model_name: str) -> None:
    """Checks that timm has a model, and its tag if there is one.

    Raises:
        UserError: It has not; the message has near names.
    """
    import timm

    base = get_base_name(model_name)
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

    return sys.modules[timm.model_entrypoint(get_base_name(model_name)).__module__]


def add_any_size(model_name: str, kwargs: Mapping[str, object]) -> dict[str, object]:
    """``kwargs`` with those that let the model take images of any size, if it can."""
    file = find_source_file(model_name).__name__.rpartition('.')[2]
    return {**ANY_SIZE.get(file, {}), **kwargs}


def list_wrapped_names(name: str) -> tuple[str, ...]:
    """What a classifier's module or parameter may be called under timm's wrappers.

    As it was; with the first level flattened; inside a wrapper's ``model`` or ``body``.
    """
    return name, name.replace('.', '_', 1), f'model.{name}', f'body.{name}'


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
        raise build_no_maps_error(model_name, error) from error


def build_no_maps_error(name: str, error: Exception) -> UserError:
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
