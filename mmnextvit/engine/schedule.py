"""YOLOv5's schedule: MMYOLO's, on time, and with steps for a nominal batch."""

from mmengine.dist import get_world_size
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmyolo.engine.hooks import YOLOv5ParamSchedulerHook

from ..utils.errors import UserError


@HOOKS.register_module()
class YOLOv5ScheduleHook(YOLOv5ParamSchedulerHook):
    """MMYOLO's ``YOLOv5ParamSchedulerHook``, closer to what YOLOv5 does.

    After the warm-up MMYOLO's learning rate comes an epoch late, which counts where
    there are few. And YOLOv5 steps once for so many images over all processes:
    gradients of smaller batches are summed. While it warms up the number of batches
    grows from 1. Batches of the nominal size or more are a step each.

    Args:
        nominal_batch_size: Images for a step. ``None``: every batch is a step.
        **kwargs: Arguments of MMYOLO's hook.

    Raises:
        UserError: The optimizer wrapper is none of those that sum gradients.
    """

    def __init__(self, nominal_batch_size: int | None = None, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.nominal_batch_size = nominal_batch_size
        self._batches = 1.0  # that are summed for a step after the warm-up
        self._warm_up = 0  # iterations

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if self.nominal_batch_size is None:
            return
        if not hasattr(runner.optim_wrapper, 'batches_per_step'):
            raise UserError(
                f'{type(runner.optim_wrapper).__name__} cannot sum gradients up to '
                f'nominal_batch_size={self.nominal_batch_size}: set optim_wrapper.type '
                "to 'SummingOptimWrapper', or "
                'default_hooks.param_scheduler.nominal_batch_size to None'
            )
        loader = runner.train_dataloader
        self._batches = 1
        if hasattr(loader, 'batch_sampler'):  # not where MMYOLO draws a schedule
            total = loader.batch_sampler.batch_size * get_world_size()
            self._batches = max(self.nominal_batch_size / total, 1)
        warm_up = round(self.warmup_epochs * len(loader))
        self._warm_up = max(warm_up, self.warmup_mim_iter)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        super().before_train_iter(runner, batch_idx, data_batch)
        if self._warmup_end:
            factor = self.scheduler_fn(runner.epoch)
            for group, lr in zip(
                runner.optim_wrapper.optimizer.param_groups, self._base_lr
            ):
                group['lr'] = lr * factor
        if self.nominal_batch_size is not None:
            done = min(runner.iter / self._warm_up, 1) if self._warm_up else 1
            batches = round(1 + (self._batches - 1) * done)
            runner.optim_wrapper.batches_per_step = batches

    def after_train_epoch(self, runner: Runner) -> None:
        """Nothing: MMYOLO sets the rate here, when the epoch is not yet counted."""
