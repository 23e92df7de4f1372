"""Steps for a nominal batch and the rates of YOLOv5, judged by a plain loop."""

import math

from mmnextvit.engine.hooks import StepEMAHook
from mmnextvit.engine.optim import AnyDeviceAmpOptimWrapper, SummingOptimWrapper

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner
from mmyolo.registry import MODELS, TRANSFORMS
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

IMAGES, BATCH, EPOCHS = 20, 2, 4  # 10 iterations an epoch
LR, MOMENTUM, DECAY = 0.05, 0.9, 0.99


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.double()

    def forward(self, x, y, mode='loss'):
        return dict(loss=(self.layers(x) - y).square().mean())


def data():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(IMAGES, 3, generator=g, dtype=torch.float64)
    return TensorDataset(x, x.sum(1, keepdim=True).sin())


class Seen(Hook):
    """Keeps the number of batches that each step summed, and the learning rates."""

    priority = 'LOWEST'

    def __init__(self):
        self.rates, self.sums, self._batches = [], [], 0

    def after_train_iter(self, runner, *args, **kwargs):
        self.rates.append(runner.optim_wrapper.optimizer.param_groups[0]['lr'])
        self._batches += 1
        if runner.optim_wrapper.stepped:
            self.sums.append(self._batches)
            self._batches = 0


def schedule(**kwargs):
    """At a constant rate, unless it says otherwise."""
    constant = dict(lr_factor=1.0, warmup_epochs=0, warmup_mim_iter=-1)
    return dict(type='YOLOv5ScheduleHook', max_epochs=EPOCHS) | constant | kwargs


def build(work_dir, param_scheduler, epochs=EPOCHS, batch=BATCH, **kwargs):
    init_default_scope('mmyolo')
    seen = Seen()
    optimizer = dict(type='SGD', lr=LR, momentum=MOMENTUM)
    ema = dict(type='StepEMAHook', ema_type='ExpMomentumEMA', priority=49)
    ema.update(momentum=1 - DECAY, gamma=5, update_buffers=True)
    settings = dict(
        train_dataloader=DataLoader(data(), batch_size=batch),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(type='SummingOptimWrapper', optimizer=optimizer),
        default_hooks=dict(
            param_scheduler=param_scheduler,
            checkpoint=dict(type='CheckpointHook', interval=1),
        ),
        custom_hooks=[ema, seen],
        experiment_name=f'{work_dir} {kwargs}',
        default_scope='mmyolo',
    )
    return Runner(Net(), str(work_dir), **(settings | kwargs)), seen


def plain_loop(nominal, warm_up=0):
    """The same training in plain torch; returns the model, its average and the sums."""
    model, average = Net(), Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    batches = list(DataLoader(data(), batch_size=BATCH)) * EPOCHS
    most, last, sums = max(nominal / BATCH, 1), -1, []
    for i, (x, y) in enumerate(batches):
        need = np.interp(i, [0, warm_up], [1, most]) if warm_up else most
        model(x, y)['loss'].backward()
        if i - last >= max(round(need), 1):
            sums.append(i - last)
            last = i
            optimizer.step()
            optimizer.zero_grad()
            decay = DECAY * (1 - math.exp(-len(sums) / 5)) if len(sums) > 1 else 0
            for mean, value in zip(
                average.state_dict().values(), model.state_dict().values()
            ):
                if mean.is_floating_point():
                    mean.mul_(decay).add_(value, alpha=1 - decay)
    return model, average, sums


def assert_close(a, b):
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values()):
        if x.is_floating_point():
            assert torch.allclose(x, y, rtol=1e-10, atol=1e-12), name


def ema_of(runner):
    return next(h for h in runner.hooks if isinstance(h, StepEMAHook)).ema_model


@pytest.mark.parametrize('nominal', [1, 2, 3, 8, 11, 64])
def test_equals_a_plain_loop(tmp_path, nominal):
    runner, seen = build(tmp_path, schedule(nominal_batch_size=nominal))
    runner.train()
    model, average, sums = plain_loop(nominal)
    assert seen.sums == sums and sum(sums) <= EPOCHS * IMAGES // BATCH
    assert_close(runner.model, model)
    assert_close(ema_of(runner).module, average)


@pytest.mark.parametrize('epochs, least, warm_up', [(3, 0, 30), (0.5, 17, 17)])
def test_number_of_batches_grows_in_the_warm_up(tmp_path, epochs, least, warm_up):
    runner, seen = build(
        tmp_path,
        schedule(nominal_batch_size=16, warmup_epochs=epochs, warmup_mim_iter=least),
    )
    runner.train()
    assert seen.sums == plain_loop(16, warm_up)[2]
    assert seen.sums == sorted(seen.sums)
    assert seen.sums[0] == 1 and seen.sums[-1] == 8


@pytest.mark.parametrize('kind', ['linear', 'cosine'])
def test_the_rate_is_that_of_the_epoch(tmp_path, kind):
    """From the warm-up's end to the last epoch, which has nearly the last rate."""
    settings = dict(scheduler_type=kind, lr_factor=0.01, warmup_epochs=1.5)
    runner, seen = build(tmp_path, schedule(**settings, warmup_mim_iter=0))
    runner.train()
    done = np.arange(EPOCHS) / EPOCHS
    if kind == 'cosine':
        done = (1 - np.cos(np.pi * done)) / 2
    rates = LR * (1 - 0.99 * done).repeat(10)
    warm_up = np.interp(np.arange(len(rates)), [0, 15], [0, 1])
    assert seen.rates[16:] == pytest.approx(rates[16:], rel=1e-12)
    assert seen.rates[:16] == pytest.approx((rates * warm_up)[:16], rel=1e-12)
    assert seen.sums == [1] * len(rates)  # no nominal batch


def test_a_step_equals_that_of_one_large_batch():
    """Where a loss is a mean times the batch size, as those of YOLOv5's head are."""
    model, whole = Net().eval(), Net().eval()  # so that BatchNorm is the same in both
    wrapper = SummingOptimWrapper(torch.optim.SGD(model.parameters(), lr=LR))
    wrapper.batches_per_step = IMAGES // BATCH
    for x, y in DataLoader(data(), batch_size=BATCH):
        wrapper.update_params(model(x, y)['loss'] * BATCH)
    optimizer = torch.optim.SGD(whole.parameters(), lr=LR)
    (whole(*data().tensors)['loss'] * IMAGES).backward()
    optimizer.step()
    assert_close(model, whole)


def test_a_resumed_run_begins_a_sum(tmp_path):
    """Gradients are not saved: those before the break count no more."""
    summed = schedule(nominal_batch_size=6)
    build(tmp_path, summed, epochs=1)[0].train()  # 10 iterations: 3 steps, 1 left over
    runner, seen = build(tmp_path, summed, epochs=2, resume=True)
    runner.train()
    assert seen.sums == [3, 3, 3]
    assert ema_of(runner).steps == 6


def test_batches_of_the_nominal_size_are_a_step_each(tmp_path):
    for batch in (5, 7):
        summed = schedule(nominal_batch_size=5)
        runner, seen = build(tmp_path / str(batch), summed, batch=batch)
        runner.train()
        assert set(seen.sums) == {1}


def test_gradients_are_synchronised_for_steps_only():
    wrapper = SummingOptimWrapper(torch.optim.SGD(Net().parameters(), lr=LR))
    wrapper.batches_per_step = 3
    synced = []
    for _ in range(6):
        synced.append(wrapper.should_sync())
        wrapper.update_params(torch.ones((), requires_grad=True) * 1)
        assert synced[-1] == wrapper.stepped
    assert synced == [False, False, True] * 2


def test_without_the_hook_it_is_mmengines():
    wrapper = SummingOptimWrapper(
        torch.optim.SGD(Net().parameters(), lr=LR), accumulative_counts=2
    )
    one = torch.ones((), requires_grad=True)
    assert wrapper.scale_loss(one).item() == 0.5
    assert [(wrapper.backward(one), wrapper.should_update())[1] for _ in range(4)] == [
        False, True, False, True
    ]  # fmt: skip


def test_in_mixed_precision(tmp_path, monkeypatch):
    monkeypatch.setattr('mmnextvit.engine.optim.get_device', lambda: 'cpu')
    optimizer = dict(type='SGD', lr=LR, momentum=MOMENTUM)
    wrapper = dict(type='AnyDeviceAmpOptimWrapper', optimizer=optimizer)
    summed = schedule(nominal_batch_size=8)
    runner, seen = build(tmp_path, summed, optim_wrapper=wrapper)
    runner.train()
    assert isinstance(runner.optim_wrapper, AnyDeviceAmpOptimWrapper)
    assert seen.sums == plain_loop(8)[2]


def test_a_wrapper_that_cannot_sum_is_refused(tmp_path):
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=LR))
    summed = schedule(nominal_batch_size=8)
    runner, _ = build(tmp_path, summed, optim_wrapper=wrapper)
    with pytest.raises(ValueError, match="^OptimWrapper .*'SummingOptimWrapper'"):
        runner.train()


def test_the_recipes_have_it(load_config):
    cfg = load_config('yolov5_nextvit_s')
    assert cfg.default_hooks.param_scheduler.nominal_batch_size == 64
    assert cfg.optim_wrapper.type == 'SummingOptimWrapper'
    ema = cfg.default_hooks.ema
    assert ema.type == 'StepEMAHook' and ema.momentum == 1e-4
    small = load_config('yolov5_nextvit_s_smalldata')
    assert small.default_hooks.param_scheduler.nominal_batch_size is None
    assert small.auto_scale_lr.base_batch_size == small.train_dataloader.batch_size


def test_the_recipe_for_small_data_is_the_same_on_any_data(load_config):
    """The blood cells' config is their data's with what makes up the recipe."""
    small, cells, data = (
        load_config(f'yolov5_nextvit_s_{name}')
        for name in ('smalldata', 'smalldata_bccd', 'bccd')
    )
    assert cells.optim_wrapper == small.optim_wrapper
    assert cells.custom_hooks == small.custom_hooks
    assert cells.default_hooks.ema == small.default_hooks.ema
    assert small.default_hooks.ema.gamma == 100
    assert cells.auto_scale_lr == small.auto_scale_lr
    assert cells.model.backbone == small.model.backbone
    assert cells.model.backbone != data.model.backbone
    assert cells.model.bbox_head == data.model.bbox_head
    schedules = [dict(c.default_hooks.param_scheduler) for c in (small, cells)]
    assert [s.pop('max_epochs') for s in schedules] == [100, 30]
    assert schedules[0] == schedules[1]
    for part in ('val_dataloader', 'test_dataloader', 'val_evaluator', 'train_cfg'):
        assert cells[part] == data[part]
    pipelines = [c.train_dataloader.dataset.pipeline for c in (small, cells)]
    for a, b in zip(*pipelines, strict=True):
        assert {**a, 'scale': 0} == {**b, 'scale': 0}
    assert [t.scale for t in pipelines[1] if 'scale' in t] == [(320, 320)] * 2


def test_blood_cells_have_the_numbers_that_yolov5_documents(load_config):
    """Part by part, for 3 classes, 3 levels, 320 pixels, batches of 8, 30 epochs."""
    cfg = load_config('yolov5_nextvit_s_bccd')
    head = cfg.model.bbox_head
    weights = [head[f'loss_{part}'].loss_weight for part in ('bbox', 'cls', 'obj')]
    assert weights == [0.05, 0.5 * 3 / 80, 1.0 * (320 / 640) ** 2]
    assert (head.prior_match_thr, head.obj_level_weights) == (4, [4, 1, 0.4])
    test = cfg.model.test_cfg
    assert (test.score_thr, test.nms.iou_threshold, test.max_per_img) == (
        1e-3,
        0.6,
        300,
    )
    assert test.multi_label
    shapes = cfg.val_dataloader.dataset.batch_shapes_cfg
    assert (shapes.img_size, shapes.size_divisor, shapes.extra_pad_ratio) == (
        320, 32, 0.5
    )  # fmt: skip
    assert cfg.val_dataloader.batch_size == shapes.batch_size == 1

    optimizer = cfg.optim_wrapper.optimizer
    optimizer.batch_size_per_gpu = cfg.train_dataloader.batch_size  # as tools/train.py
    model = MODELS.build(cfg.model)
    model.init_weights()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    settings = dict(lr=0.01, momentum=0.937, nesterov=True, weight_decay=5e-4)
    assert settings.items() <= wrapper.optimizer.param_groups[0].items()
    plan = HOOKS.build(cfg.default_hooks.param_scheduler)
    assert (plan.warmup_epochs, plan.warmup_mim_iter) == (3, 100)
    assert (plan.warmup_bias_lr, plan.warmup_momentum) == (0.1, 0.8)
    assert plan.scheduler_fn(0) == 1 and plan.scheduler_fn(30) == pytest.approx(0.01)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-3, 0.03)
    for conv, stride in zip(model.bbox_head.head_module.convs_pred, (8, 16, 32)):
        bias = conv.bias.view(3, 8)
        assert bias[:, 4].mean().item() == pytest.approx(
            math.log(8 / (640 / stride) ** 2), abs=0.2
        )
        assert bias[:, 5:].mean().item() == pytest.approx(math.log(0.6 / 2), abs=0.2)

    mosaic, affine, colours, flip = cfg.train_dataloader.dataset.pipeline[2:6]
    assert (mosaic.type, mosaic.pad_val) == ('Mosaic', 114)
    affine = TRANSFORMS.build(affine)
    assert affine.scaling_ratio_range == (0.5, 1.5)
    assert (affine.max_translate_ratio, affine.border) == (0.1, (-160, -160))
    assert (affine.max_rotate_degree, affine.max_shear_degree) == (0, 0)
    assert (affine.min_bbox_size, affine.min_area_ratio) == (2, 0.1)
    colours = TRANSFORMS.build(colours)
    assert (colours.hue_delta, colours.saturation_delta) == (0.015, 0.7)
    assert (colours.value_delta, flip.prob) == (0.4, 0.5)
