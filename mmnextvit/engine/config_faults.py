"""What is wrong with a config's values, in terms of the config.

MMEngine takes them as they come, and fails where it uses them: with a division by zero,
or with a class that is not registered.
"""

import inspect
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry, build_from_cfg

from ..utils.errors import UserError, follow_causes
from ..utils.messages import did_you_mean, first_few, shorten, show
from ..utils.packages import describe_missing_mmyolo, has_mmyolo

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
MAX_SEED = 2**32 - 1  # NumPy's


class Check(NamedTuple):
    """What the value of a key must be.

    Attributes:
        keys: The keys that it holds for; each may be missing or ``None``.
        accepts: Whether a whole number will do.
        wanted: What will do, as text.
    """

    keys: tuple[str, ...]
    accepts: Callable[[int], bool]
    wanted: str


CHECKS = (
    Check(
        (
            'train_cfg.max_epochs',
            'train_cfg.max_iters',
            'train_cfg.val_interval',
            *(f'{loader}.batch_size' for loader in LOADERS),
        ),
        lambda number: number >= 1,
        'a whole number from 1 on',
    ),
    Check(
        tuple(f'{loader}.num_workers' for loader in LOADERS),
        lambda number: number >= 0,
        'a whole number from 0 on',
    ),
    Check(
        ('randomness.seed',),
        lambda number: 0 <= number <= MAX_SEED,
        f'None or a whole number from 0 to {MAX_SEED}',
    ),
)


def check_numbers(cfg: Config) -> None:
    """Checks the numbers of a config that say how a run goes.

    Raises:
        UserError: One of them cannot be; it has the key.
    """
    for check in CHECKS:
        for key in check.keys:
            part, name = key.split('.')
            value = _read_settings(cfg, part).get(name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and check.accepts(value)):
                problem = f'{show(value)} must be {check.wanted}'
                raise UserError(problem, file=cfg.filename, key=key)
    for loader in LOADERS:
        settings = _read_settings(cfg, loader)
        if settings.get('persistent_workers') and not settings.get('num_workers'):
            raise UserError(
                'no workers (num_workers=0) cannot be kept: write '
                f'{loader}.persistent_workers=False too',
                file=cfg.filename,
                key=f'{loader}.persistent_workers',
            )


def _read_settings(cfg: Config, part: str) -> dict[str, Any]:
    """A part of a config, which in Python may be what would be built from it."""
    settings = cfg.get(part)
    return settings if isinstance(settings, dict) else {}


def explain_build_error(
    error: BaseException, file: str | None = None
) -> UserError | None:
    """What the config that MMEngine could not build something from has wrong.

    Args:
        error: What a run ended with.
        file: The config, for the message.

    Returns:
        An error that names a type that is not registered, or an argument that its
        class does not have, and similar names; ``None`` for every other error.
    """
    for link in follow_causes(error, is_followed=lambda _: False):
        frame = _find_build(link)
        problem = ''
        if frame is not None and isinstance(link, KeyError):
            problem = _explain_type(frame.f_locals)
        elif frame is not None and isinstance(link, TypeError):
            problem = _explain_argument(frame.f_locals, str(link))
        if problem:
            return UserError(problem, file=file)
    return None


def _find_build(error: BaseException) -> FrameType | None:
    """The innermost call of MMEngine's `build_from_cfg` that an error came through."""
    found = None
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code is build_from_cfg.__code__:
            found = step.tb_frame
        step = step.tb_next
    return found


def _explain_type(build: dict[str, Any]) -> str:
    """What to do about a type that is not registered; an empty text if it is.

    Args:
        build: The variables of `build_from_cfg`.
    """
    name: object = build.get('obj_type')
    registry: Registry = build['registry']
    if not isinstance(name, str) or build.get('obj_cls') is not None:
        return ''
    default = DefaultScope.get_current_instance()
    scopes = build.get('scope'), default and default.scope_name, name.partition('.')[0]
    if 'mmyolo' in scopes and not has_mmyolo():
        return f'type {show(name)}: {describe_missing_mmyolo()}'
    root = registry
    while root.parent is not None:
        root = root.parent
    known = sorted(set(_list_names(root)))
    hint = did_you_mean(name.rpartition('.')[2], known)
    return f'type {show(name)}: there is no such {registry.name}: ' + (
        hint or f'there are {first_few(known, 10)}'
    )


def _list_names(registry: Registry) -> Iterator[str]:
    yield from registry.module_dict
    for child in registry.children.values():
        yield from _list_names(child)


def _explain_argument(build: dict[str, Any], text: str) -> str:
    """What to do about an argument that a class does not have; empty for other errors.

    Args:
        build: The variables of `build_from_cfg`.
        text: The error's.
    """
    made, args = build.get('obj_cls'), build.get('args') or {}
    _, unexpected, rest = text.partition("got an unexpected keyword argument '")
    name = rest.partition("'")[0]
    if made is None or not unexpected or name not in args:
        return ''
    known = sorted(set(_list_arguments(made)))
    hint = did_you_mean(name, known) or f'there are {first_few(known, 20)}'
    made_name = getattr(made, '__name__', str(made))
    return f'{shorten(made_name)} has no argument {show(name)}: {hint}'


def _list_arguments(made: Callable) -> Iterator[str]:
    """The named arguments of a function, or of a class and those it inherits from."""
    for each in getattr(made, '__mro__', (made,))[:-1] or (made,):
        for parameter in inspect.signature(each).parameters.values():
            if parameter.kind in (
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            ):
                yield parameter.name
