"""Hooks of every recipe: checkpoints must fit, weights are averaged as in YOLOv5, and
validation is faster."""

from mmengine.hooks import EMAHook, Hook
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..models.fold import copy_folded
from ..models.graphs import drop_graphs, use_graphs
from ..weights.loading import adapt, check
from .resume_state import accept_training_state
from .runner import unwrap_model


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Converts every checkpoint that the runner loads, and compares it with the model.

    For testing and resuming all tensors must fit; for training that starts from
    ``load_from`` those of the backbone, and what else does not fit is reported. There
    the head's rows are carried over by the names of the classes.

    Args:
        partial: Whether ``load_from`` may fill less than the whole backbone.

    Raises:
        UserError: Too little fits; the message is the receipt.
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
        model = unwrap_model(runner)
        loops = runner._train_loop, runner._val_loop, runner._test_loop
        loop = next(loop for loop in loops if isinstance(loop, BaseLoop))
        classes = getattr(loop.dataloader.dataset, 'metainfo', {}).get('classes')
        training = isinstance(runner._train_loop, BaseLoop)
        starts = training and not runner._resume
        receipt = adapt(checkpoint, model, runner._load_from, classes, starts)
        if starts:
            switch = 'default_hooks.checkpoint_fit.partial=True'
            check(receipt, 'backbone.', self.partial, switch)
        else:
            check(receipt, None)
            if training:
                accept_training_state(checkpoint, runner, receipt.source)


@HOOKS.register_module()
class StepEMAHook(EMAHook):
    """MMEngine's ``EMAHook``, which averages after steps of the optimizer only."""

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        if getattr(runner.optim_wrapper, 'stepped', True):
            super().after_train_iter(runner, *args, **kwargs)


@HOOKS.register_module()
class DeployHook(Hook):
    """Validates and tests a copy of the model with its BatchNorms folded, in the memory
    format that is faster on the device, on a GPU by CUDA graphs where these pay.

    Results are those of the model itself up to rounding. Training goes on with the
    model, and checkpoints are saved of it. For the copy DistributedDataParallel is
    taken off. A model stays as it is in another wrapper, where it or a layer of it has
    a ``forward`` or step of its own, as those of MMEngine's ``compile`` and
    ``activation_checkpointing``, and, with a warning, where it cannot be copied.
    """

    # After EMAHook has brought its weights, before CheckpointHook saves the best.
    priority = 'LOW'

    def __init__(self) -> None:
        self._replaced: nn.Module | None = None  # the runner's own model
        self._warned = False

    def before_val_epoch(self, runner: Runner) -> None:
        self._put_back(runner)
        if not can_be_deployed(runner):
            return
        runner.model.eval()  # as the loop would
        try:
            copied = copy_folded(unwrap_model(runner))
        except (RuntimeError, TypeError) as error:
            if not self._warned:
                runner.logger.warning(
                    'The model is validated as it is, since it cannot be copied '
                    f'({error}). default_hooks.deploy=None saves the attempt.'
                )
            self._warned = True
        else:
            use_graphs(copied, runner.cfg.get('env_cfg') or {})
            self._replaced, runner.model = runner.model, copied

    def _put_back(self, runner: Runner) -> None:
        if self._replaced is not None:
            drop_graphs(runner.model)
            runner.model, self._replaced = self._replaced, None

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        self._put_back(runner)

    def before_run(self, runner: Runner) -> None:
        self._put_back(runner)  # after a validation that was interrupted

    before_test_epoch, after_test_epoch = before_val_epoch, after_val_epoch


def can_be_deployed(runner: Runner) -> bool:
    """Whether a folded copy of the runner's model would compute what the model does."""
    model = runner.model
    if is_model_wrapper(model) and not isinstance(model, MMDistributedDataParallel):
        return False
    # In a copy these would still run the layers that they were made for.
    if {'val_step', 'test_step'} & vars(model).keys():
        return False
    if any('forward' in vars(layer) for layer in unwrap_model(runner).modules()):
        return False
    return any(True for _ in model.parameters())  # an exported file has none
