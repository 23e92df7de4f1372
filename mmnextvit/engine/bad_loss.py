"""Stops training at the first loss that is NaN or infinite, and says why."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..utils.errors import UserError
from ..utils.files import read_short_text
from ..utils.messages import shorten
from .checkpoints import LAST, name_of
from .runner import unwrap_model

Losses = dict[str, Tensor | list[Tensor]]


class BadLossError(UserError, FloatingPointError):
    """A loss, or a parameter after an update, is NaN or infinite."""


@HOOKS.register_module()
class StopOnBadLossHook(Hook):
    """Stops training at the first loss that is NaN or infinite.

    The losses are looked at before the backward pass, so the weights keep the values
    of the iteration before; it costs one synchronisation with the GPU an iteration.
    Weights that an update made bad are not saved, and the last good checkpoint is not
    removed for them.

    Raises:
        BadLossError: Names the loss, the iteration, and the first tensor that went bad:
            a parameter, else the input, else the output of the first layer that gives
            one when the batch passes once more.
    """

    def __init__(self) -> None:
        self._stop_watching: Callable[[], None] = lambda: None

    def before_train(self, runner: Runner) -> None:
        self._stop_watching()  # after a training that was interrupted
        self._stop_watching = watch_losses(runner)

    def after_train(self, runner: Runner) -> None:
        self._stop_watching()

    def after_train_epoch(self, runner: Runner) -> None:
        # Before CheckpointHook, which removes its oldest file and then saves.
        check_parameters(runner, unwrap_model(runner).state_dict())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        check_parameters(runner, checkpoint['state_dict'])


def watch_losses(runner: Runner) -> Callable[[], None]:
    """Makes the model's forward passes raise where a loss is NaN or infinite.

    Returns:
        A function that ends this.

    Raises:
        BadLossError: By the forward passes; see :class:`StopOnBadLossHook`.
    """
    model = unwrap_model(runner)
    batches: list[tuple[tuple, dict]] = []  # the one whose pass has begun

    def keep_batch(model: nn.Module, args: tuple, kwargs: dict) -> None:
        batches[:] = [(args, copy_labels(kwargs))]

    def check_losses(model: nn.Module, args: tuple, losses: Losses) -> None:
        args, kwargs = batches.pop()
        if kwargs.get('mode') != 'loss':
            return
        bad = find_bad_loss(losses)
        if bad is None:
            return
        stop()  # the batch passes once more
        culprit = find_bad_tensor(model, args, kwargs, runner.optim_wrapper)
        raise BadLossError(
            f'{bad[0]} is {bad[1]} in epoch {runner.epoch + 1}, iteration '
            f'{runner.iter + 1}. The weights are those of the iteration before. '
            f'First bad tensor: {culprit}. {describe_last_checkpoint(runner)}'
        )

    handles = [
        model.register_forward_pre_hook(keep_batch, with_kwargs=True),
        model.register_forward_hook(check_losses),
    ]

    def stop() -> None:
        for handle in handles:
            handle.remove()

    return stop


def check_parameters(runner: Runner, state: dict[str, Tensor]) -> None:
    """
    Raises:
        BadLossError: A parameter is NaN or infinite in ``state``, by its name.
    """
    for name, _ in unwrap_model(runner).named_parameters():
        if not state[name].isfinite().all():
            raise BadLossError(
                f'Parameter {name} is NaN or infinite after {runner.iter} iterations, '
                'though no loss was. It is not saved. '
                f'{describe_last_checkpoint(runner)}'
            )


def describe_last_checkpoint(runner: Runner) -> str:
    """Where a run's last checkpoint is, in a sentence."""
    last = Path(runner.work_dir, LAST)  # written after a save
    if not last.is_file():
        return 'No checkpoint was saved.'
    path = read_short_text(last)
    # The folder may have been moved.
    moved = os.path.join(runner.work_dir, name_of(path))
    found = moved if os.path.isfile(moved) else path
    return f'The last checkpoint is {shorten(found, 400)}.'


def copy_labels(kwargs: dict[str, object]) -> dict[str, object]:
    """Arguments of a model with a copy of its labels, where MMYOLO's heads write."""
    samples = kwargs.get('data_samples')
    if not isinstance(samples, dict):
        return kwargs
    copies = {
        key: value.clone() if isinstance(value, Tensor) else value
        for key, value in samples.items()
    }
    return {**kwargs, 'data_samples': copies}


def find_bad_loss(losses: Losses) -> tuple[str, float] | None:
    """Name and value of the first loss that is NaN or infinite, if any is."""
    means = {k: compute_mean_loss(v) for k, v in losses.items() if 'loss' in k}
    if torch.stack([*means.values()]).isfinite().all():
        return None
    return next((k, v.item()) for k, v in means.items() if not v.isfinite())


def compute_mean_loss(loss: Tensor | list[Tensor]) -> Tensor:
    """The number that MMEngine adds to the total."""
    parts = [loss] if isinstance(loss, Tensor) else loss
    return torch.stack([part.detach().float().mean() for part in parts]).sum()


def find_bad_tensor(
    model: nn.Module, args: tuple, kwargs: dict, optim_wrapper: OptimWrapper
) -> str:
    """Where a model's NaN or infinity came from, in words."""
    for name, param in model.named_parameters():
        if not param.isfinite().all():
            return f'parameter {name}'
    for name, tensor in list_tensors({**dict(enumerate(args)), **kwargs}, 'batch'):
        if not tensor.isfinite().all():
            finite = torch.atleast_1d(tensor).isfinite().flatten(1).all(1)
            return f'{name}[{finite.tolist().index(False)}]'
    layer = find_bad_layer(model, args, kwargs, optim_wrapper)
    if layer is not None:
        return f'output of {layer}'
    return 'unknown, as the batch passes every layer well a second time'


def find_bad_layer(
    model: nn.Module, args: tuple, kwargs: dict, optim_wrapper: OptimWrapper
) -> str | None:
    """Name and type of the first layer whose output is bad in a second pass."""
    bad: list[nn.Module] = []

    def check_output(module: nn.Module, args: tuple, output: object) -> None:
        tensors = (tensor for _, tensor in list_tensors(output, ''))
        if not bad and not all(tensor.isfinite().all() for tensor in tensors):
            bad.append(module)

    names = {module: name for name, module in model.named_modules() if name}
    # The other processes do not take part in the second pass.
    synced = [m for m in names if isinstance(m, nn.SyncBatchNorm) and m.training]
    handles = [module.register_forward_hook(check_output) for module in names]
    try:
        for module in synced:
            module.eval()
        with torch.no_grad(), optim_wrapper.optim_context(model):
            model(*args, **kwargs)
    finally:
        for module in synced:
            module.train()
        for handle in handles:
            handle.remove()
    return f'{names[bad[0]]} ({type(bad[0]).__name__})' if bad else None


def list_tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested data, each with the path to it."""
    value = getattr(value, 'tensor', value)  # MMDetection's boxes
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (dict, BaseDataElement)):
        for key, item in value.items():
            yield from list_tensors(item, f'{name}.{key}')
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from list_tensors(item, f'{name}[{i}]')
