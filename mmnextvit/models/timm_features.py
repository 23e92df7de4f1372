"""Any timm model that gives feature maps, as a backbone of MMDetection."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..utils.errors import UserError
from .freezing import set_norms_to_eval
from .recompute import StatisticsGuard
from .timm_maps import plan_maps
from .timm_models import add_any_size, check_name, create, explain_size
from .timm_weights import convert_weights


def get_timm_mean_std(model_name: str) -> dict[str, list[float]]:
    """The normalisation that a timm model was trained with.

    Returns:
        ``mean`` and ``std`` of R, G and B in 0 to 255, as MMDetection's
        ``data_preprocessor`` takes them (with ``bgr_to_rgb=True``).

    Raises:
        UserError: timm has no such model.
    """
    import timm

    check_name(model_name)
    cfg = timm.get_pretrained_cfg(model_name)
    return {
        key: [round(255 * x, 3) for x in getattr(cfg, key)] for key in ('mean', 'std')
    }


@MODELS.register_module()
class TimmFeatures(BaseModule):
    """timm's ``features_only`` models as a backbone, ``mmdet.TimmFeatures``.

    Weights come through ``init_cfg=dict(type='Pretrained',
    checkpoint='timm://<model_name>')``; :func:`get_timm_mean_std` gives the mean and
    std for the config's ``data_preprocessor``. BatchNorms keep timm's constants.

    Swin and ViT are built for images of any size unless ``kwargs`` say otherwise.
    MaxViT takes multiples of 32 windows only: of its training size (224 or 256), or,
    with ``transformer_window_size=5``, of 160. What does not fit is refused with a
    size that does.

    Args:
        model_name: timm's name, with or without a tag, such as 'resnet18.a1_in1k'.
        out_indices: Maps to emit, strictly increasing indices of timm's
            ``feature_info``.
        strides: The same by stride in pixels; of several maps of a stride the last.
            Without either, those of 4, 8, 16 and 32 that the model has. Where a map
            has layers of its own, as HRNet's have, leave out what the neck does not
            read: they would get no gradient.
        frozen_stages: -1 freezes nothing, 0 the stem, k all that the k-th map of stride
            4 or more is computed from. Emitted or not, maps are counted alike.
        norm_eval: Whether BatchNorm statistics stay as they are in training.
        with_cp: Whether timm's gradient checkpointing saves memory. Gradients and
            BatchNorm statistics stay the same.
        norm_cfg: ``dict(type='BN', eps=..., momentum=...)`` for every BatchNorm2d, or
            ``None`` for timm's.
        init_std: Standard deviation of the normal distribution from which
            ``init_weights`` draws, before a training, the weights of convolutions
            without a bias; ``None`` leaves timm's. A norm follows such a convolution,
            so that its maps stay the same but for the norm's eps. AdamW's steps have
            one size whatever the size of the weights: small ones change faster.
        init_cfg: MMEngine's initialisation config, which has the last word.
        **kwargs: Other arguments of ``timm.create_model``, such as ``drop_path_rate``.

    Raises:
        UserError: The model is unknown or has no such maps, or it does not support an
            argument; the message lists what is allowed.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        norm_cfg: dict | None = None,
        init_std: float | None = None,
        init_cfg: dict | list[dict] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg)
        if 'pretrained' in kwargs:
            raise UserError(
                "pretrained is not an argument here: write init_cfg=dict(type='"
                f"Pretrained', checkpoint='timm://{model_name}')"
            )
        check_name(model_name)
        self.model_name = model_name
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.init_std = init_std
        self.kwargs = add_any_size(model_name, kwargs)

        plan = plan_maps(model_name, self.kwargs, out_indices, strides, frozen_stages)
        self.out_indices = plan.indices
        self.maps = plan.maps
        self.frozen = plan.frozen  # names of parameters
        self.model = create(model_name, out_indices=plan.indices, **self.kwargs)
        self.nhwc = getattr(self.model, 'output_fmt', None) == 'NHWC'
        trained = plan.trained
        for name, param in self.model.named_parameters():
            param.requires_grad_(name in trained)
        if norm_cfg is not None:
            set_norm_constants(self.model, norm_cfg)
        if with_cp:
            enable_checkpointing(self.model, model_name)
        self.statistics = StatisticsGuard(self.model)
        self.train()

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that ``forward`` returns."""
        return tuple(x.channels for x in self.maps)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image a cell, for the maps that ``forward`` returns."""
        return tuple(x.stride for x in self.maps)

    @property
    def mean(self) -> list[float]:
        """Mean of R, G and B in 0 to 255 that the model was trained with."""
        return get_timm_mean_std(self.model_name)['mean']

    @property
    def std(self) -> list[float]:
        """Standard deviation, likewise."""
        return get_timm_mean_std(self.model_name)['std']

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the maps.

        Args:
            x: Images (B, 3, H, W).

        Returns:
            One (B, C, H/s, W/s) a map, high to low resolution, with C and s from
            ``out_channels`` and ``strides``; fractions are rounded either way.

        Raises:
            UserError: The model takes no image of this size.
        """
        height, width = x.shape[-2:]
        self.statistics.release()
        try:
            maps = self.model(x)
        except (AssertionError, RuntimeError) as error:
            if problem := explain_size(self.model_name, self.kwargs, (height, width)):
                raise UserError(problem) from error
            raise  # another cause, such as memory
        if self.with_cp and self.training:
            self.statistics.hold()  # checkpoints compute again in backward
        if self.nhwc:
            maps = [y.permute(0, 3, 1, 2) for y in maps]  # B H W C -> B C H W
        check_map_sizes(maps, self.strides, (height, width), self.model_name)
        return tuple(maps)

    def train(self, mode: bool = True) -> 'TimmFeatures':
        """Sets the training mode; frozen parts and ``norm_eval`` stay in eval."""
        super().train(mode)
        self.statistics.release()
        # Sought anew each time: other code may have replaced modules, as SyncBatchNorm.
        for module in find_modules_within(self.model, self.frozen):
            module.eval()
        if mode and self.norm_eval:
            set_norms_to_eval(self.model)
        return self

    def init_weights(self) -> None:
        """Draws weights as ``init_std`` says, and goes on as ``init_cfg`` does."""
        if self.init_std is not None and not self.is_init:
            set_initial_weights(self.model, self.init_std)
        super().init_weights()

    def from_timm(
        self, state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[str]]:
        """A timm state dict under this backbone's names.

        Args:
            state: Of the classifier, as timm publishes it or in an older layout that
                timm converts itself, or of the ``features_only`` model.

        Returns:
            The entries that have a place here, and the names of the others, such as a
            classifier's head.
        """
        placement = convert_weights(
            state, self.state_dict(), 'model.', self.model_name, self.kwargs
        )
        return placement.state, placement.others


def find_modules_within(model: nn.Module, names: frozenset[str]) -> list[nn.Module]:
    """Modules that have parameters, all of them among those of these names."""
    params = {p for name, p in model.named_parameters() if name in names}
    return [
        module
        for module in model.modules()
        if (own := set(module.parameters())) and own <= params
    ]


def set_initial_weights(model: nn.Module, std: float) -> None:
    """Draws the weights of all convolutions without a bias anew, in place.

    Args:
        model: The model.
        std: Standard deviation of the normal distribution, whose mean is 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            nn.init.normal_(module.weight, std=std)


def set_norm_constants(model: nn.Module, norm_cfg: dict) -> None:
    """Gives every BatchNorm2d the ``eps`` and ``momentum`` of a config, in place.

    Raises:
        UserError: The config says something else.
    """
    allowed = {'type', 'eps', 'momentum'}
    if norm_cfg.get('type', 'BN') != 'BN' or norm_cfg.keys() - allowed:
        raise UserError(
            f'norm_cfg={norm_cfg!r}: allowed is dict(type="BN", eps=..., momentum=...)'
        )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = norm_cfg.get('eps', module.eps)
            module.momentum = norm_cfg.get('momentum', module.momentum)


def enable_checkpointing(model: nn.Module, model_name: str) -> None:
    """Switches timm's gradient checkpointing on.

    Wrappers around ``forward_intermediates`` have the switch inside.

    Raises:
        UserError: The model has none.
    """
    for part in (model, getattr(model, 'model', None)):
        if part is not None and hasattr(part, 'set_grad_checkpointing'):
            try:
                part.set_grad_checkpointing()
                return
            except (AssertionError, NotImplementedError):
                break
    raise UserError(
        f'{model_name} has no gradient checkpointing in timm: leave with_cp out'
    )


def check_map_sizes(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    size: tuple[int, int],
    model_name: str,
) -> None:
    """Checks that maps have as many cells as their strides promise.

    Args:
        maps: (B, C, H, W) each.
        strides: Pixels of the image a cell.
        size: Height and width of the images.
        model_name: timm's name, for the message.

    Raises:
        UserError: A map has fewer or more.
    """
    for y, stride in zip(maps, strides):
        if any(
            not n // stride <= cells <= -(-n // stride)
            for n, cells in zip(size, y.shape[-2:])
        ):
            raise UserError(
                f'{model_name}: of an image of {size[0]}x{size[1]} (height x width) '
                f'the map of stride {stride} has {tuple(y.shape[-2:])} cells. '
                f'Multiples of {2 * max(strides)} may fit.'
            )
