"""Hooks that stop a run early and say why, rather than let it go on for nothing, one
that averages weights as YOLOv5 does, and one that validates and tests faster."""

from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..models.fold import deployed
from ..utils.errors import UserError
from ..weights.loading import adapt, check


class BadLossError(UserError, FloatingPointError):
    """A loss, or a parameter after an update, is NaN or infinite."""


def unwrapped(runner: Runner) -> nn.Module:
    """The runner's model, without what wraps it for several processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


@HOOKS.register_module()
class StopOnBadLossHook(Hook):
    """Stops training at the first loss that is NaN or infinite.

    The losses are looked at before the backward pass, so the weights keep the values
    of the iteration before; it costs one synchronisation with the GPU an iteration.
    Weights that an update made bad are not saved, and the last good checkpoint is not
    removed for them.

    Raises:
        BadLossError: Names the loss, the iteration, and the first tensor that
            went bad: a parameter, else the input, else the output of the first layer
            that gives one when the batch passes once more.
    """

    _handles = ()

    def before_train(self, runner: Runner) -> None:
        self.after_train(runner)  # of a training that was broken off
        self._runner = runner
        self._handles = [
            unwrapped(runner).register_forward_pre_hook(self._keep, with_kwargs=True),
            unwrapped(runner).register_forward_hook(self._check),
        ]

    def after_train(self, runner: Runner) -> None:
        for handle in self._handles:
            handle.remove()

    def after_train_epoch(self, runner: Runner) -> None:
        # Before CheckpointHook, which removes its oldest file and then saves.
        self._refuse(unwrapped(runner).state_dict())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._refuse(checkpoint['state_dict'])

    def _keep(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        """Keeps the batch; of its labels a copy, since MMYOLO's heads write there."""
        samples = kwargs.get('data_samples')
        if isinstance(samples, dict):
            samples = {
                k: v.clone() if isinstance(v, Tensor) else v for k, v in samples.items()
            }
            kwargs = {**kwargs, 'data_samples': samples}
        self._batch = args, kwargs

    def _check(self, model: nn.Module, args: tuple, losses: dict) -> None:
        (args, kwargs), self._batch = self._batch, None
        if kwargs.get('mode') != 'loss':
            return
        losses = {k: _mean(v) for k, v in losses.items() if 'loss' in k}
        if torch.stack([*losses.values()]).isfinite().all():
            return
        name, value = next((k, v) for k, v in losses.items() if not v.isfinite())
        for handle in self._handles:
            handle.remove()
        culprit = first_bad_tensor(model, args, kwargs, self._runner.optim_wrapper)
        raise BadLossError(
            f'{name} is {value.item()} in epoch {self._runner.epoch + 1}, iteration '
            f'{self._runner.iter + 1}. The weights are those of the iteration before. '
            f'First bad tensor: {culprit}. {self._last()}'
        )

    def _refuse(self, state: dict[str, Tensor]) -> None:
        for name, _ in unwrapped(self._runner).named_parameters():
            if not state[name].isfinite().all():
                raise BadLossError(
                    f'Parameter {name} is NaN or infinite after '
                    f'{self._runner.iter} iterations, though no loss was. '
                    f'It is not saved. {self._last()}'
                )

    def _last(self) -> str:
        last = Path(self._runner.work_dir, 'last_checkpoint')  # written after a save
        if not last.is_file():
            return 'No checkpoint was saved.'
        return f'The last checkpoint is {last.read_text().strip()}.'


def first_bad_tensor(model: nn.Module, args: tuple, kwargs: dict, optim_wrapper) -> str:
    """Where a model's NaN or infinity came from, in words."""
    for name, param in model.named_parameters():
        if not param.isfinite().all():
            return f'parameter {name}'
    for name, tensor in _tensors({**dict(enumerate(args)), **kwargs}, 'batch'):
        if not tensor.isfinite().all():
            finite = torch.atleast_1d(tensor).isfinite().flatten(1).all(1)
            return f'{name}[{finite.tolist().index(False)}]'

    found = []

    def look(module, args, output):
        if not found and not all(t.isfinite().all() for _, t in _tensors(output, '')):
            found.append(module)

    names = {module: name for name, module in model.named_modules() if name}
    # The other processes do not take part in the second pass.
    synced = [m for m in names if isinstance(m, nn.SyncBatchNorm) and m.training]
    handles = [module.register_forward_hook(look) for module in names]
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
    if found:
        return f'output of {names[found[0]]} ({type(found[0]).__name__})'
    return 'unknown, as the batch passes every layer well a second time'


def _mean(loss: Tensor | list[Tensor]) -> Tensor:
    """The number that MMEngine adds up."""
    parts = [loss] if isinstance(loss, Tensor) else loss
    return sum(part.detach().float().mean() for part in parts)


def _tensors(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested data, each with the way to it."""
    value = getattr(value, 'tensor', value)  # MMDetection's boxes
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (dict, BaseDataElement)):
        for key, item in value.items():
            yield from _tensors(item, f'{name}.{key}')
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _tensors(item, f'{name}[{i}]')


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Converts every checkpoint that the runner loads, and compares it with the model.

    For testing and resuming all tensors must fit; for training that starts from
    ``load_from`` those of the backbone, and what else does not fit is reported.

    Args:
        partial: Whether ``load_from`` may fill less than the whole backbone.

    Raises:
        ValueError: Too little fits; the message is the receipt.
    """

    priority = 'VERY_HIGH'  # before EMAHook copies the checkpoint

    def __init__(self, partial: bool = False) -> None:
        self.partial = partial

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        # OneCycleLR keeps a method of itself, which would put its whole object into the
        # file; on resuming it has its own again.
        schedulers = checkpoint.get('param_schedulers', [])
        if isinstance(schedulers, dict):
            schedulers = [state for states in schedulers.values() for state in states]
        for state in schedulers:
            for key in [key for key, value in state.items() if callable(value)]:
                del state[key]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = unwrapped(runner)
        loops = runner._train_loop, runner._val_loop, runner._test_loop
        loop = next(loop for loop in loops if isinstance(loop, BaseLoop))
        classes = getattr(loop.dataloader.dataset, 'metainfo', {}).get('classes')
        receipt = adapt(checkpoint, model, runner._load_from, classes)
        training = isinstance(runner._train_loop, BaseLoop)
        if training and not runner._resume:
            switch = 'default_hooks.checkpoint_fit.partial=True'
            check(receipt, 'backbone.', self.partial, switch)
        else:
            if runner._resume and not {'meta', 'message_hub'} <= checkpoint.keys():
                raise ValueError(
                    f'{receipt.source} holds weights but no training state: to start '
                    'from them set load_from in the config, without --resume'
                )
            check(receipt, None)


@HOOKS.register_module()
class StepEMAHook(EMAHook):
    """MMEngine's ``EMAHook``, which averages after steps of the optimizer only."""

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if getattr(runner.optim_wrapper, 'stepped', True):
            super().after_train_iter(runner, *args, **kwargs)


@HOOKS.register_module()
class DeployHook(Hook):
    """Validates and tests a copy of the model with its BatchNorms folded, in the memory
    format that is faster on the device.

    Results are those of the model itself up to rounding. Training goes on with the
    model, and checkpoints are saved of it. For the copy DistributedDataParallel is
    taken off. A model stays as it is in another wrapper, where it or a layer of it has
    a ``forward`` or step of its own, as those of MMEngine's ``compile`` and
    ``activation_checkpointing``, and, with a warning, where it cannot be copied.
    """

    # After EMAHook has brought its weights, before CheckpointHook saves the best.
    priority = 'LOW'
    _model = None  # the runner's own, while it has a copy
    _warned = False

    def before_val_epoch(self, runner: Runner) -> None:
        self._put_back(runner)
        model, inner = runner.model, unwrapped(runner)
        spread = is_model_wrapper(model)
        spread &= not isinstance(model, MMDistributedDataParallel)
        # In a copy these would still run the layers that they were made for.
        bound = {'val_step', 'test_step'} & vars(model).keys()
        bound = bound or any('forward' in vars(layer) for layer in inner.modules())
        # An exported file has no parameters.
        if spread or bound or not [*model.parameters()]:
            return
        model.eval()  # as the loop would
        try:
            copied = deployed(inner)
        except (RuntimeError, TypeError) as error:
            if not self._warned:
                runner.logger.warning(
                    'The model is validated as it is, since it cannot be copied '
                    f'({error}). default_hooks.deploy=None saves the attempt.'
                )
            self._warned = True
        else:
            self._model, runner.model = model, copied

    def _put_back(self, runner: Runner) -> None:
        if self._model is not None:
            runner.model, self._model = self._model, None

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._put_back(runner)

    def before_run(self, runner: Runner) -> None:
        self._put_back(runner)  # after a validation that was broken off

    before_test_epoch, after_test_epoch = before_val_epoch, after_val_epoch
