"""The training state in a checkpoint that a run is to go on from.

A checkpoint may come from anywhere, and MMEngine takes its training state as it is.
Here it is compared with what the run would save itself, before anything of it is
taken; and of the files that it names, which MMEngine removes later on, only the run's
own stay.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import Tensor

from ..runs import place_checkpoints
from ..utils.errors import UserError, naming_file
from ..utils.messages import shorten, show
from .checkpoints import (
    check_training_state,
    find_ema,
    name_of,
)
from .optimizer_state import check_optimizer
from .state_checks import (
    MAX_COUNT,
    check_entries,
    check_like,
    check_mapping,
    check_plain,
    check_tensor,
    is_count,
    is_number,
    make_fault,
)

MAX_KEPT = 10_000  # checkpoints of one run
# Lists among a run's information by which files are removed.
LISTS: dict[str, tuple[Callable[[object], bool], str]] = {
    'keep_ckpt_ids': (is_count, 'epochs or iterations'),
    'outdated_ckpts': (lambda name: isinstance(name, str), 'names of checkpoints'),
}


def accept_training_state(checkpoint: dict, runner: Runner, source: str) -> None:
    """Checks what a run takes from a checkpoint, and leaves out other runs' files.

    Args:
        checkpoint: The content of the file, with the weights under our names. What
            names files outside of the run's folder is taken out of it.
        runner: The run, with everything that it trains with.
        source: The file, for messages.

    Raises:
        UserError: The training state is missing in part, or cannot be this run's.
    """
    check_training_state(checkpoint, runner, source)
    with naming_file(source):
        check_meta(checkpoint['meta'], runner.train_loop)
        info = check_message_hub(checkpoint['message_hub'])
        keep_own_files(info, find_checkpoint_folder(runner))
        check_optimizer(checkpoint['optimizer'], runner.optim_wrapper)
        if runner.param_schedulers is not None:
            check_schedulers(checkpoint['param_schedulers'], runner.param_schedulers)
        ema = find_ema(runner)
        if ema is not None:
            check_averages(
                checkpoint['ema_state_dict'],
                ema.ema_model.state_dict(),
                checkpoint['state_dict'],
            )


@HOOKS.register_module()
class TrainingStateHook(Hook):
    """Has :func:`accept_training_state` called where a run is resumed.

    ``CheckpointFitHook`` does that too. This one is for configs without it.
    """

    priority = 'VERY_HIGH'  # before EMAHook takes its part

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume and isinstance(runner._train_loop, BaseLoop):
            accept_training_state(checkpoint, runner, runner._load_from)


# --------------------------------------------------------------- progress and history


def check_meta(meta: object, loop: object) -> None:
    """Checks how far a run had come, its seed and its classes.

    Raises:
        UserError: One is missing or cannot be.
    """
    meta = check_mapping(meta, 'meta')
    check_plain(meta, 'meta')
    for name in ('epoch', 'iter'):
        if name not in meta:
            raise UserError('this is missing', key=f'meta.{name}')
        if not is_count(meta[name]):
            raise make_fault(
                f'meta.{name}', meta[name], f'a number from 0 to {MAX_COUNT}'
            )
    if isinstance(loop, IterBasedTrainLoop) and meta['iter'] > loop.max_iters:
        # It would draw that many batches before the first one.
        raise make_fault(
            'meta.iter', meta['iter'], f'at most {loop.max_iters} iterations'
        )
    seed = meta.get('seed')
    if seed is not None and not is_count(seed, 2**32 - 1):
        raise make_fault('meta.seed', seed, 'a number from 0 to 2^32 - 1')
    if meta.get('dataset_meta') is not None:
        check_mapping(meta['dataset_meta'], 'meta.dataset_meta')


def check_message_hub(hub: object) -> dict[str, Any]:
    """Checks the history of a run's logs, and returns its runtime information.

    Raises:
        UserError: It is not as MMEngine writes it.
    """
    hub = check_mapping(hub, 'message_hub')
    for name in ('log_scalars', 'runtime_info', 'resumed_keys'):
        if name not in hub:
            raise UserError('this is missing', key=f'message_hub.{name}')
        check_mapping(hub[name], f'message_hub.{name}')
    for name, history in hub['log_scalars'].items():
        check_history(history, f'message_hub.log_scalars.{name}')
    for name, value in hub['resumed_keys'].items():
        check_like(value, True, f'message_hub.resumed_keys.{name}')
    info = hub['runtime_info']
    check_plain(info, 'message_hub.runtime_info')
    for name, value in info.items():
        key = f'message_hub.runtime_info.{name}'
        if name.startswith('best_score') and not is_number(value):
            raise make_fault(key, value, 'a number')
        if name in LISTS:
            is_one, wanted = LISTS[name]
            known = isinstance(value, list) and len(value) <= MAX_KEPT
            if not known or not all(map(is_one, value)):
                raise make_fault(key, value, f'a list of {wanted}')
        elif names_file(name) and not isinstance(value, str | None):
            raise make_fault(key, value, 'the path of a checkpoint')
    return info


def check_history(history: object, key: str) -> None:
    """Checks the history of one number in the logs.

    Raises:
        UserError: It is none.
    """
    if not isinstance(history, HistoryBuffer):
        raise make_fault(key, history, 'a history of numbers')
    values, counts = history.data
    for array in (values, counts):
        if array.ndim != 1 or array.dtype.kind not in 'biuf':
            raise UserError('its history is no list of numbers', key=key)
    if not len(values) == len(counts) <= history.max_length:
        raise UserError(
            f'its history has {len(values)} values and {len(counts)} counts, of up to '
            f'{show(history.max_length)}',
            key=key,
        )


# --------------------------------------------------------------------- files of a run


def find_checkpoint_folder(runner: Runner) -> Path | None:
    """The folder of a run's checkpoints; ``None`` if it is no local one."""
    given = [hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    return place_checkpoints(runner.work_dir, given[0] if given else None)


def names_file(key: str) -> bool:
    """Whether a key of a run's information is that of a checkpoint's path."""
    return key.endswith('_ckpt') or key.startswith(('best_ckpt', 'last_ckpt'))


def keep_own_files(info: dict[str, Any], folder: Path | None) -> None:
    """Leaves no name of a file in a run's information but those of its own folder.

    MMEngine removes the best checkpoint that is named there when a better one comes. It
    may be one of the run that was resumed in another place, or any file whatever.

    Args:
        info: The runtime information of a checkpoint; changed in place. What lay in a
            folder that has been moved or copied is found by its name.
        folder: Where the run saves its checkpoints.
    """
    for key in filter(names_file, list(info)):
        name = name_of(info[key] or '')
        path = find_own_file(folder, name) if folder and name else None
        if path is not None and (name.startswith('best_') or 'best' not in key):
            info[key] = path
            continue
        foreign = info.pop(key)
        if 'best' in key and foreign:
            print_log(
                f'The best checkpoint so far, {shorten(foreign, 300)}, is not in the '
                'folder of this run: it stays where it is',
                logger='current',
            )


def find_own_file(folder: Path, name: str) -> str | None:
    """The path of a file that lies in a folder, and not behind a link out of it."""
    path = folder / name
    try:
        inside = path.is_file() and path.resolve().parent == folder.resolve()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return None
    return str(path) if inside else None


# ---------------------------------------------------------------- schedules, averages


def check_schedulers(states: Any, own: Any, key: str = 'param_schedulers') -> None:
    """Checks the states of schedules against a run's.

    Args:
        states: Of the checkpoint: a list, or one for each optimizer's name.
        own: The run's schedules, in the same way.
        key: What they are called in the checkpoint.

    Raises:
        UserError: They are not of the run's schedules.
    """
    if isinstance(own, dict):
        for name, value in check_mapping(states, key).items():
            if name in own:
                check_schedulers(value, own[name], f'{key}.{name}')
        for name in own:
            if name not in states:
                raise UserError('this is missing', key=f'{key}.{name}')
        return
    if not isinstance(states, list) or len(states) != len(own):
        raise make_fault(
            key, states, f'a list of {len(own)} schedules, as this run has'
        )
    for i, (state, scheduler) in enumerate(zip(states, own)):
        place = f'{key}[{i}]'
        check_entries(check_mapping(state, place), scheduler.state_dict(), place)


def check_averages(
    averages: object, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> None:
    """Checks the averaged weights (EMA), in whose place a file has those of training.

    Args:
        averages: Of the checkpoint.
        own: The state dict of the run's averages.
        weights: The state dict of the checkpoint, with which they are exchanged.

    Raises:
        UserError: They are not of this model.
    """
    key = 'ema_state_dict'
    averages = check_mapping(averages, key)
    for name in [*own, *averages]:
        place = f'{key}.{name}'
        if name not in own or (
            name in averages
            and name.startswith('module.')
            and name.removeprefix('module.') not in weights
        ):
            raise UserError('this model has nothing of this name', key=place)
        if name in averages:
            check_tensor(averages[name], own[name].shape, place)
        elif not name.endswith('num_batches_tracked'):
            raise UserError('this is missing', key=place)
    if 'steps' in own and not is_number(averages['steps'], 0):
        raise make_fault(f'{key}.steps', averages['steps'], 'a number from 0 on')
