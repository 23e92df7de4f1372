"""Detectors that find something without having been trained, for the tests of exports.

Random weights let maps fade or explode, and nothing is found or everything alike. Here
BatchNorms have the statistics of what they see, and the head's last convolutions give
logits and boxes of a usual size.
"""

from collections.abc import Iterator

from mmnextvit.datasets.demo_data import draw_image

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmyolo.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.conftest import ROOT, TINY

SHALLOW = dict(depths=(1, 1, 5, 1))  # as few blocks as there may be


def small_config(name: str, classes: int | None = None) -> Config:
    """A config of ours with a small backbone, and its neck and head as they are."""
    init_default_scope('mmyolo')
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    derived = 'in_channels' not in cfg.model.neck  # else the widths are written there
    cfg.model.backbone.update(
        arch=(TINY if derived else {}) | SHALLOW, drop_path_rate=0.0, init_cfg=None
    )
    if classes:
        cfg.model.bbox_head.head_module.num_classes = classes
    return cfg


def small_masks_config(classes: int = 3) -> Config:
    """The detector of :func:`small_config` with YOLOv5's head for masks."""
    cfg, recipe = small_config('yolov5_nextvit_s'), 'yolov5_ins_recipe'
    masks = Config.fromfile(ROOT / 'configs' / '_base_' / f'{recipe}.py')
    module = dict(masks.model.bbox_head.head_module, num_classes=classes)
    for key in ('in_channels', 'widen_factor'):  # the neck gives the channels
        module.pop(key)
    for key in ('backbone', 'neck'):
        masks.model.pop(key)
        masks.model[key] = cfg.model[key]
    masks.model.type = 'FittedYOLODetector'
    masks.model.bbox_head.head_module = module
    return masks


def last_convs(head: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """The head's last convolutions, with the name of the list that they are in."""
    for name, levels in head.head_module.named_children():
        if name in ('convs_pred', 'cls_preds', 'reg_preds', 'rtm_cls', 'rtm_reg'):
            for level in levels:
                yield name, level[-1] if isinstance(level, nn.Sequential) else level


def wanted(
    name: str, conv: nn.Conv2d, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard deviations and means (C,) of what a last convolution gives."""
    spread, mean = torch.full((2, conv.out_channels), 2.0)
    mean -= 5
    if name == 'convs_pred':  # x, y, w, h, objectness and classes of each anchor
        for values, box, rest in ((spread, 0.6, 1.5), (mean, 0.0, -1.5)):
            each = values.reshape(3, -1)
            each[:, :4], each[:, 4:] = box, rest
        spread.reshape(3, -1)[:, 5 + classes :] = 1.0  # the coefficients of masks
        mean.reshape(3, -1)[:, 5 + classes :] = 0.0
    elif name == 'reg_preds':  # 16 bins of a distance: rather the near ones
        spread[:], mean[:] = 1.0, -0.4 * (torch.arange(conv.out_channels) % 16)
    elif name == 'rtm_reg':
        spread[:], mean[:] = 0.5, 1.5
    return spread, mean


def preprocessed(model: nn.Module, images: list[np.ndarray]) -> torch.Tensor:
    """What the backbone gets of images of one size."""
    inputs = [torch.from_numpy(p).permute(2, 0, 1) for p in images]  # BGR, uint8
    data = dict(inputs=inputs, data_samples=[DetDataSample() for _ in images])
    return model.data_preprocessor(data, False)['inputs']


@torch.no_grad()
def enliven(
    model: nn.Module, seed: int = 0, images: list[np.ndarray] | None = None
) -> nn.Module:
    """Makes a detector find things in any image; returns it, in eval mode."""
    g = torch.Generator().manual_seed(seed)
    images = images or demo_images(*[(64, 96)] * 12, seed=seed + 1)
    inputs = preprocessed(model, images)

    def maps() -> None:
        model.bbox_head(model.neck(model.backbone(inputs)))

    def set_statistics(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        channels = inputs[0].transpose(0, 1).flatten(1)
        variance, mean = torch.var_mean(channels, 1)
        norm.running_mean.copy_(mean)
        # A channel that is all but dead would shout at another image.
        norm.running_var.copy_(variance + 4 * variance.mean())
        n = norm.num_features
        norm.weight.copy_(0.7 + torch.rand(n, generator=g))
        norm.bias.copy_(0.8 * torch.randn(n, generator=g))

    model.eval()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    hooks = [m.register_forward_pre_hook(set_statistics) for m in norms]
    maps()
    for hook in hooks:
        hook.remove()
    seen = {}
    convs = [*last_convs(model.bbox_head)]
    hooks = [
        conv.register_forward_hook(lambda m, _, out: seen.update({m: out}))
        for _, conv in convs
    ]
    maps()
    for hook in hooks:
        hook.remove()
    for name, conv in convs:
        spread, centre = wanted(name, conv, model.bbox_head.num_classes)
        has_std, has_mean = torch.std_mean(seen[conv], (0, 2, 3))
        factor = spread / has_std
        conv.weight *= factor.reshape(-1, 1, 1, 1)
        conv.bias.copy_((conv.bias - has_mean) * factor + centre)
    return model


def lively_detector(
    cfg: Config, seed: int = 0, images: list[np.ndarray] | None = None
) -> nn.Module:
    """The config's detector, that finds things; in demo images, if not in others."""
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model)
    model.cfg = cfg  # as MMDetection's API wants it
    return enliven(model, seed, images)


def demo_images(*sizes: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Images (H x W x 3, BGR, uint8) of shapes, in the given sizes."""
    rng = np.random.default_rng(seed)
    return [
        draw_image(rng, max(size))[0][: size[0], : size[1]].copy() for size in sizes
    ]


def as_input(images: list[np.ndarray]) -> torch.Tensor:
    """Images of one size as the exported networks take them: (B, 3, H, W), RGB."""
    inputs = torch.from_numpy(np.stack(images)).flip(3)
    return inputs.permute(0, 3, 1, 2).float()
