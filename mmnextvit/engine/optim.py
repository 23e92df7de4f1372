"""YOLOv5's optimizer groups and nominal batch for any model, and AMP on any device.

MMYOLO's constructor collects what is called ``weight`` or ``bias`` and leaves the
rest untrained, and its recipe steps at every batch, however small; MMEngine's AMP
wrapper refuses to work without an accelerator.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import Tensor, nn

from ..utils.errors import UserError
from .precision import FORCE, choose_mixed


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class ThreeGroupOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Puts every trainable parameter of a model into one of YOLOv5's three groups.

    The groups are those of :func:`split_into_three_groups`, in an order that MMYOLO's
    ``YOLOv5ParamSchedulerHook`` counts on. Only the first has weight decay; it is 0
    where the optimizer's config names none. With ``batch_size_per_gpu`` in that
    config the decay follows the batch size as in YOLOv5: it is multiplied with
    ``total * accumulate / base``, where ``total`` is the batch size over all
    processes, ``base`` is ``base_total_batch_size`` and ``accumulate`` is
    ``round(base / total)``, at least 1.

    Args:
        optim_wrapper_cfg: Config of the wrapper, with an ``optimizer`` of any type.
        paramwise_cfg: ``base_total_batch_size``, 64 by default, and
            ``backbone_lr_mult``, by which the learning rate of ``model.backbone`` is
            multiplied. Then its three groups follow those of the rest.

    Raises:
        UserError: ``paramwise_cfg`` has another key.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        allowed = {'base_total_batch_size', 'backbone_lr_mult'}
        unknown = sorted(set(self.paramwise_cfg) - allowed)
        if unknown:
            raise UserError(
                f'it has {unknown}, which {type(self).__name__} does not follow: '
                f'allowed are {sorted(allowed)}. For others use constructor='
                "'DefaultOptimWrapperConstructor' and its schedule.",
                key='optim_wrapper.paramwise_cfg',
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        model = model.module if is_model_wrapper(model) else model
        groups = split_into_three_groups(model)
        optimizer_cfg = self.optimizer_cfg.copy()
        decay = optimizer_cfg.pop('weight_decay', 0)
        batch_size = optimizer_cfg.pop('batch_size_per_gpu', None)
        if batch_size is not None:
            base = self.paramwise_cfg.get('base_total_batch_size', 64)
            total = batch_size * get_world_size()
            decay *= total * max(round(base / total), 1) / base
        print_log(
            f'Optimizer groups: {len(groups[0])} weights with a decay of {decay:g}; '
            f'without decay {len(groups[1])} norm weights and others, '
            f'{len(groups[2])} biases',
            logger='current',
        )
        params = [
            dict(params=group, weight_decay=d)
            for group, d in zip(groups, (decay, 0, 0))
        ]
        lr_mult = self.paramwise_cfg.get('backbone_lr_mult')
        if lr_mult is not None:
            lr = lr_mult * optimizer_cfg['lr']
            params = split_groups(params, set(model.backbone.parameters()), lr)
        optimizer = OPTIMIZERS.build(dict(**optimizer_cfg, params=params))
        return OPTIM_WRAPPERS.build(
            self.optim_wrapper_cfg, default_args=dict(optimizer=optimizer)
        )


def split_groups(
    groups: list[dict[str, Any]], params: set[nn.Parameter], lr: float
) -> list[dict[str, Any]]:
    """Gives some parameters groups of their own, which follow those of the others.

    Args:
        groups: Parameter groups of an optimizer.
        params: The parameters that get their own groups, of the same settings.
        lr: Learning rate of those.
    """
    others = [
        dict(group, params=[p for p in group['params'] if p not in params])
        for group in groups
    ]
    own = [
        dict(group, params=[p for p in group['params'] if p in params], lr=lr)
        for group in groups
    ]
    return others + own


def split_into_three_groups(
    model: nn.Module,
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Every trainable parameter of ``model``, once, in the order of its modules.

    Returns:
        Weights (what is called ``weight`` or ``..._weight`` outside of norm layers,
        with two dimensions or more); everything else, such as norm weights,
        ConvNeXt's ``gamma``, Swin's tables, tokens and scales; and biases (called
        ``bias`` or ``..._bias``). A parameter that modules share counts where it
        comes first, one that needs no gradient nowhere.
    """
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        # By name, since libraries have norm layers of their own beside torch's.
        is_norm = any('Norm' in cls.__name__ for cls in type(module).__mro__)
        for name, param in module.named_parameters(recurse=False):
            if param in seen or not param.requires_grad:
                continue
            seen.add(param)
            last_word = name.rpartition('_')[2]
            if last_word == 'bias':
                biases.append(param)
            elif last_word == 'weight' and param.ndim > 1 and not is_norm:
                weights.append(param)
            else:
                others.append(param)
    return weights, others, biases


class SummedGradients(OptimWrapper):
    """What an optimizer wrapper needs for steps of several summed batches.

    MMEngine's ``accumulative_counts`` averages, and its number is fixed.

    Attributes:
        batches_per_step: Batches whose gradients are summed for a step, which
            ``YOLOv5ScheduleHook`` sets and may change at any time. ``None`` leaves
            everything to MMEngine.
    """

    batches_per_step: int | None = None
    _stepped_at = 0  # batches seen at the last step

    def initialize_count_status(
        self, model: nn.Module, init_counts: int, max_counts: int
    ) -> None:
        """As MMEngine's; a run begins with a sum of none."""
        super().initialize_count_status(model, init_counts, max_counts)
        self._stepped_at = init_counts

    @property
    def summed_batches(self) -> int:
        """Batches whose gradients have been summed since the last step."""
        return self._inner_count - self._stepped_at

    @summed_batches.setter
    def summed_batches(self, number: int) -> None:
        self._stepped_at = self._inner_count - number

    @property
    def stepped(self) -> bool:
        """Whether the last batch brought a step."""
        return self.summed_batches == 0

    def scale_loss(self, loss: Tensor) -> Tensor:
        return super().scale_loss(loss) if self.batches_per_step is None else loss

    def should_update(self) -> bool:
        if self.batches_per_step is None:
            return super().should_update()
        return self.summed_batches >= self.batches_per_step

    def should_sync(self) -> bool:
        if self.batches_per_step is None:
            return super().should_sync()
        return self.summed_batches + 1 >= self.batches_per_step

    def step(self, **kwargs: object) -> None:
        super().step(**kwargs)
        self._stepped_at = self._inner_count


@OPTIM_WRAPPERS.register_module()
class SummingOptimWrapper(SummedGradients):
    """MMEngine's ``OptimWrapper``, and for ``YOLOv5ScheduleHook``."""


@OPTIM_WRAPPERS.register_module()
class AnyDeviceAmpOptimWrapper(SummedGradients, AmpOptimWrapper):
    """MMEngine's ``AmpOptimWrapper``, and on a CPU the same in bfloat16.

    bfloat16 has float32's range, so the loss is not scaled on a CPU. One that does not
    compute in it takes float32, since bfloat16 would be slower. Checkpoints of either
    device resume on the other.

    Args:
        force: Whether to take bfloat16 on such a CPU too.
        loss_scale: As in ``AmpOptimWrapper``; unused on a CPU.
        dtype: As in ``AmpOptimWrapper``; always bfloat16 on a CPU.
        **kwargs: Other arguments of ``AmpOptimWrapper``.
    """

    def __init__(
        self,
        loss_scale: str | float | dict = 'dynamic',
        dtype: str | torch.dtype | None = None,
        force: bool = False,
        **kwargs: object,
    ) -> None:
        self.mixed = choose_mixed(FORCE if force else True, get_device())
        if get_device() != 'cpu':
            super().__init__(loss_scale=loss_scale, dtype=dtype, **kwargs)
            return
        # The parent's constructor asserts an accelerator; this is the rest of it.
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
        self._scale_update_param = None
        self.cast_dtype = torch.bfloat16

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """As ``AmpOptimWrapper``'s, without its autocast where that would be slower."""
        above = AmpOptimWrapper if self.mixed else OptimWrapper
        with above.optim_context(self, model):
            yield

    def load_state_dict(self, state_dict: dict) -> None:
        """Loads what ``state_dict`` gave, of either device."""
        if not state_dict.get('loss_scaler', True):  # of a CPU, whose scaler is empty
            state_dict.pop('loss_scaler')
        super().load_state_dict(state_dict)
