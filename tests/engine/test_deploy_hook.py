"""What validates and tests is a folded copy; training goes as if there were none."""

import copy
from operator import itemgetter
from unittest.mock import Mock

from mmnextvit.engine.hooks import DeployHook

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel, MMDistributedDataParallel, is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from mmengine.structures import BaseDataElement
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from tests.conftest import ROOT
from tests.helpers.tiny_run import write_tiny_run


@pytest.fixture(autouse=True)
def float64():
    """Rounding is so small there that equality says something."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Net(BaseModel):
    """Two convolutions with BatchNorms, and a lone one."""

    def __init__(self, norm_cfg=dict(type='BN')):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(
            ConvModule(3, 8, 3, norm_cfg=norm_cfg),
            ConvModule(8, 4, 3, norm_cfg=norm_cfg),
        )
        self.last = nn.Conv2d(4, 2, 3)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        maps = self.last(self.backbone(inputs))
        if mode == 'loss':
            return dict(loss=(maps - 1).square().mean())
        return [BaseDataElement(maps=maps)] if mode == 'predict' else maps


def batch(number):
    g = torch.Generator().manual_seed(number)
    return dict(inputs=torch.randn(2, 3, 9, 9, generator=g))


class Mean(BaseMetric):
    default_prefix = 'mean'

    def process(self, data_batch, data_samples):
        self.results += [sample['maps'].mean() for sample in data_samples]

    def compute_metrics(self, results):
        return dict(maps=torch.stack(results).mean().item())


class Spy(Hook):
    """Keeps what ran and what it gave, and the averaged weights of that time."""

    priority = 'LOWEST'

    def __init__(self):
        self.ran, self.gave, self.averages = [], [], []

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.ran.append(runner.model)
        self.gave += [sample.maps for sample in outputs]

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner, metrics=None):
        emas = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        self.averages += [copy.deepcopy(ema.ema_model.module) for ema in emas]


def build(work_dir, deploy=True, epochs=3, model=None, **kwargs):
    """Training with a validation after each epoch, and averaged weights."""
    loader = DataLoader([batch(i) for i in range(4)], collate_fn=itemgetter(0))
    spy = Spy()
    best = dict(save_best='mean/maps', rule='greater')
    ema = dict(type='StepEMAHook', ema_type='mmyolo.ExpMomentumEMA', gamma=5)
    ema.update(momentum=0.3, update_buffers=True, priority=49)
    optimizer = dict(type='AdamW', lr=0.02)
    settings = dict(
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        val_cfg={},
        test_cfg={},
        val_evaluator=[Mean()],
        test_evaluator=[Mean()],
        optim_wrapper=dict(optimizer=optimizer),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, **best),
            bad_loss=dict(type='StopOnBadLossHook'),
            checkpoint_fit=dict(type='CheckpointFitHook'),
            **(dict(deploy=dict(type='DeployHook')) if deploy else {}),
        ),
        custom_hooks=[ema, spy],
        experiment_name=f'{work_dir}',
    )
    runner = Runner(model or Net(), str(work_dir), **(settings | kwargs))
    return runner, spy


def norms_of(model):
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.allclose(a[key], b[key], rtol=1e-9, atol=1e-11), key


def best_of(folder):
    (path,) = folder.glob('best_*.pth')
    return path.name, CheckpointLoader.load_checkpoint(str(path))


@pytest.fixture
def alone():
    """A group of this process only, for DistributedDataParallel."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize('wrapped', [False, True])
def test_training_is_as_without(tmp_path, wrapped, request):
    def model():
        return MMDistributedDataParallel(module=Net()) if wrapped else Net()

    if wrapped:
        request.getfixturevalue('alone')
    runner, spy = build(tmp_path / 'a', model=model())
    plain, plain_spy = build(tmp_path / 'b', deploy=False, model=model())
    trained, plainly = runner.model, plain.model
    runner.train()
    plain.train()

    # What validates is a copy for each epoch without BatchNorms, of averaged weights.
    assert len(set(spy.ran)) == 3 and not any(map(norms_of, spy.ran))
    assert not any(map(is_model_wrapper, spy.ran))
    assert set(plain_spy.ran) == {plainly} and norms_of(plainly)
    for ours, theirs in zip(spy.gave, plain_spy.gave, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9)
    with torch.no_grad():
        for i, average in enumerate(spy.averages):
            expected = average.eval()(batch(2)['inputs'])
            assert torch.allclose(spy.gave[4 * i + 2], expected, rtol=1e-9)
            now = trained.eval()(batch(2)['inputs'])
            assert not torch.allclose(spy.gave[4 * i + 2], now, rtol=1e-3)

    # What trains is the model itself, with its own BatchNorms.
    assert runner.model is trained and trained.training == plainly.training
    assert all(p.requires_grad for p in trained.parameters())
    assert_same(trained.state_dict(), plainly.state_dict())
    assert norms_of(trained)[0].num_batches_tracked == 12

    # What is saved has them too, and loads.
    (name, best), (plain_name, plain_best) = map(
        best_of, (tmp_path / 'a', tmp_path / 'b')
    )
    assert name == plain_name
    for key in ('state_dict', 'ema_state_dict'):
        assert_same(best[key], plain_best[key])
    Net().load_state_dict(best['state_dict'])


def test_test_and_val(tmp_path):
    build(tmp_path, epochs=1)[0].train()
    checkpoint = str(tmp_path / 'epoch_1.pth')
    model = Net().eval()
    model.load_state_dict(CheckpointLoader.load_checkpoint(checkpoint)['state_dict'])
    for method in ('test', 'val'):
        spy, hooks = Spy(), dict(deploy=dict(type='DeployHook'))
        runner, _ = build(
            tmp_path / method,
            load_from=checkpoint,
            default_hooks=hooks,
            custom_hooks=[spy],
        )
        getattr(runner, method)()
        assert not norms_of(spy.ran[0]) and norms_of(runner.model)
        with torch.no_grad():
            for i, found in enumerate(spy.gave):
                expected = model(batch(i)['inputs'])
                assert torch.allclose(found, expected, rtol=1e-9)


def test_nothing_to_fold(tmp_path):
    model = Net(norm_cfg=dict(type='GN', num_groups=2))
    runner, _ = build(tmp_path, model=model)
    DeployHook().before_val_epoch(runner)
    with torch.no_grad():
        expected = model(batch(0)['inputs'])
        found = runner.model(batch(0)['inputs'])
    assert runner.model is not model and torch.allclose(found, expected, rtol=1e-9)


def test_a_model_without_parameters(tmp_path):
    """Such as an exported file, whose session cannot be copied."""

    class Exported(BaseModel):
        def __deepcopy__(self, memo):
            raise AssertionError

        def forward(self, inputs, data_samples=None, mode='predict'):
            return [BaseDataElement(maps=inputs)]

    runner, _ = build(tmp_path, model=Exported(), custom_hooks=[])
    spy = Spy()
    runner.register_hook(spy)
    runner.test()
    assert set(spy.ran) == {runner.model}


@pytest.mark.parametrize('how', ['layer', 'step'])
def test_what_runs_its_own_layers_is_left_alone(tmp_path, how):
    """A copy would run the original's layers, of which it has folded the neighbours."""
    runner, hook = build(tmp_path)[0], DeployHook()
    model = runner.model
    if how == 'layer':
        turn_on_activation_checkpointing(model, ['backbone.0.conv'])
    else:
        model.val_step = model.val_step  # as compiled by MMEngine's Runner
    hook.before_val_epoch(runner)
    assert runner.model is model and norms_of(model)
    hook.after_val_epoch(runner)
    assert runner.model is model


def test_what_cannot_be_copied_is_validated_itself(tmp_path, monkeypatch):
    runner, hook = build(tmp_path)[0], DeployHook()
    model = runner.model
    model.seen = model(batch(0)['inputs'])  # with its graph, which torch won't copy
    warn = Mock()
    monkeypatch.setattr(runner.logger, 'warning', warn)
    for _ in range(2):
        hook.before_val_epoch(runner)
        assert runner.model is model and norms_of(model)
        hook.after_val_epoch(runner)
    ((warning,),) = (call.args for call in warn.call_args_list)
    assert 'graph leaves' in warning and 'default_hooks.deploy=None' in warning


def test_training_after_a_validation_that_was_broken_off(tmp_path):
    """As in a notebook, where one interrupts and goes on."""

    class BreakOff(Hook):
        done = False

        def after_val_iter(self, runner, *args, **kwargs):
            if not self.done:
                self.done = True
                raise KeyboardInterrupt

    runner, _ = build(tmp_path, epochs=2, custom_hooks=[BreakOff()])
    model = runner.model
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    before = copy.deepcopy(model.last.weight)
    runner.train()
    assert runner.model is model and norms_of(model)
    assert not torch.equal(model.last.weight, before)


def test_other_wrappers_are_left_alone(tmp_path):
    """DataParallel stands for those that spread a model."""
    runner, hook = build(tmp_path)[0], DeployHook()
    wrapper = runner.model = nn.DataParallel(Net())
    hook.before_val_epoch(runner)
    assert runner.model is wrapper and norms_of(wrapper)
    assert wrapper.module.last.weight.is_contiguous()
    hook.after_val_epoch(runner)
    assert runner.model is wrapper


RECIPES = sorted(p.stem for p in (ROOT / 'configs').glob('*.py'))


@pytest.mark.slow
@pytest.mark.parametrize('name', RECIPES)
def test_every_config_has_it(name):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    init_default_scope(cfg.default_scope)
    assert cfg.default_hooks.deploy == dict(type='DeployHook')


@pytest.mark.slow
def test_a_run_of_a_recipe(tmp_path):
    torch.set_default_dtype(torch.float32)
    cfg = Config.fromfile(write_tiny_run(tmp_path))
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.work_dir = str(tmp_path / 'run')
    runner = Runner.from_cfg(cfg)
    ran = []

    class See(Hook):
        def before_val_iter(self, runner, batch_idx, data_batch=None):
            ran.append(runner.model)

    runner.register_hook(See())
    runner.train()
    assert len(set(ran)) == 1 and not norms_of(ran[0]) and norms_of(runner.model)
    kept = CheckpointLoader.load_checkpoint(f'{cfg.work_dir}/epoch_1.pth')
    assert kept['state_dict'].keys() == runner.model.state_dict().keys()
