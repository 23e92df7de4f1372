"""Where a training is within an epoch and within a step, for its checkpoints."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from mmdet.models.data_preprocessors.data_preprocessor import BatchSyncRandomResize
from mmengine.dist import all_gather, all_reduce, get_rank, get_world_size
from mmengine.runner import Runner
from torch import Tensor, nn

from ..utils.errors import UserError
from .loops import ResumableLoop


@dataclass(frozen=True)
class Progress:
    """What a checkpoint says beside MMEngine's own: numbers, lists and tensors.

    Attributes:
        batches_done: Batches of the epoch that are behind.
        batches: All that the epoch has.
        gradients: For each process the gradients of a step that is not complete, by
            parameter; empty after a complete step.
        summed_batches: Of how many batches these are.
        input_sizes: Height and width of each of the model's modules that draw a size
            for several iterations (MMDetection's ``BatchSyncRandomResize``); empty
            before the first.
    """

    batches_done: int
    batches: int
    gradients: list[dict[str, Tensor]]
    summed_batches: int
    input_sizes: list[list[int]]


def collect_progress(runner: Runner, model: nn.Module, meta: dict) -> dict[str, Any]:
    """The :class:`Progress` of a training, as a dict. All processes take part.

    Args:
        runner: A runner that trains.
        model: Its model, without what wraps it.
        meta: ``epoch`` and ``iter`` of the checkpoint that is to be saved.
    """
    loop = runner.train_loop
    within = isinstance(loop, ResumableLoop) and meta['epoch'] == runner.epoch
    ahead = meta['iter'] - runner.iter  # in a hook that follows an iteration
    progress = Progress(
        batches_done=loop.batches_done + ahead if within else 0,
        batches=len(loop.dataloader),
        gradients=gather_gradients(model),
        summed_batches=getattr(runner.optim_wrapper, 'summed_batches', 0),
        input_sizes=[list(m._input_size or ()) for m in find_resizing(model)],
    )
    return asdict(progress)


def gather_gradients(model: nn.Module) -> list[dict[str, Tensor]]:
    """The gradients of an incomplete step, of each process, by parameter.

    Returns:
        A dict for each process; on processes other than the first, they are empty.
    """
    grads = {name: param.grad for name, param in model.named_parameters()}
    found: list[dict[str, Tensor]] = [{} for _ in range(get_world_size())]
    pending = torch.tensor(any(grad is not None for grad in grads.values())).int()
    pending = pending.to(next(model.parameters()).device)
    all_reduce(pending, 'max')
    if not pending.item():
        return found
    for name, param in model.named_parameters():
        if not param.requires_grad or (get_world_size() == 1 and param.grad is None):
            continue
        grad = torch.zeros_like(param) if param.grad is None else param.grad
        for own, gathered in zip(found, all_gather(grad.contiguous())):
            if get_rank() == 0:
                own[name] = gathered.detach().cpu().clone()
    return found


def find_resizing(model: nn.Module) -> list[BatchSyncRandomResize]:
    """The modules that keep a size that they have drawn."""
    return [m for m in model.modules() if isinstance(m, BatchSyncRandomResize)]


def read_progress(content: object) -> Progress:
    """The progress out of a checkpoint.

    Args:
        content: What :func:`collect_progress` gave, or anything else.

    Raises:
        UserError: It is anything else.
    """
    keys = {field.name for field in fields(Progress)}
    if isinstance(content, dict) and content.keys() == keys:
        progress = Progress(**content)
        if all(_list_checks(progress)):
            return progress
    raise UserError('what it says about the progress of its run cannot be')


def _list_checks(progress: Progress) -> Iterator[bool]:
    """Whether each part is what it is to be; each counts on those before it."""

    def counts(*values: object) -> bool:
        return all(type(value) is int and 0 <= value < 2**31 for value in values)

    yield counts(progress.batches_done, progress.batches, progress.summed_batches)
    yield isinstance(progress.gradients, list)
    for gradients in progress.gradients:
        yield isinstance(gradients, dict)
        for name, grad in gradients.items():
            yield isinstance(name, str) and isinstance(grad, Tensor)
            yield grad.is_floating_point()
    yield isinstance(progress.input_sizes, list)
    for size in progress.input_sizes:
        yield isinstance(size, list) and len(size) in (0, 2) and counts(*size)


def restore_progress(runner: Runner, model: nn.Module, progress: Progress) -> None:
    """Brings a runner that is about to train to where a checkpoint was.

    What counts on the number of batches and processes is left out, with a warning,
    where these have changed: then the epoch, or the step, begins anew.

    Raises:
        UserError: The gradients are not those of the model.
    """
    loop = runner.train_loop
    if progress.batches_done and isinstance(loop, ResumableLoop):
        if progress.batches == len(loop.dataloader):
            loop.batches_done = progress.batches_done
            runner.logger.info(
                f'{loop.batches_done} of {progress.batches} batches of the epoch are '
                'done'
            )
        else:
            runner.logger.warning(
                f'The epoch begins anew: it had {progress.batches} batches when the '
                f'checkpoint was saved, and has {len(loop.dataloader)} now'
            )
    for module, size in zip(find_resizing(model), progress.input_sizes):
        module._input_size = tuple(size) or None
    if not any(progress.gradients):
        return
    if len(progress.gradients) != get_world_size():
        runner.logger.warning(
            'The checkpoint was saved in the midst of a step of the optimizer by '
            f'{len(progress.gradients)} processes, not {get_world_size()}: the step '
            'begins anew'
        )
        return
    restore_gradients(model, progress.gradients[get_rank()])
    runner.optim_wrapper.summed_batches = progress.summed_batches
    runner.logger.info('The step of the optimizer that was under way goes on')


def restore_gradients(model: nn.Module, gradients: dict[str, Tensor]) -> None:
    """Gives a model's parameters their gradients.

    Raises:
        UserError: A gradient is not one of the model's.
    """
    params = dict(model.named_parameters())
    for name, grad in gradients.items():
        if name not in params or params[name].shape != grad.shape:
            raise UserError(f'it has a gradient of {name}, which the model has not')
        params[name].grad = grad.to(params[name]).clone()
