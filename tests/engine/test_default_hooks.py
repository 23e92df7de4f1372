"""Hooks are taken out by None, and averaging is neither lost nor done twice."""

from operator import itemgetter

from mmnextvit.engine.default_hooks import averages_weights, settle_hooks
from mmnextvit.engine.runner import ResumableRunner
from mmnextvit.engine.training import make_training_config

import pytest
import torch
from mmengine import registry
from mmengine.config import Config
from mmengine.hooks import EMAHook
from torch.utils.data import DataLoader

from tests.conftest import ROOT
from tests.helpers.commands import call_here
from tests.helpers.scripted_run import Line, Scores
from tests.helpers.tiny_run import write_tiny_run

HOOKS = dict(
    runtime_info=dict(type='RuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    logger=dict(type='LoggerHook', interval=1),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1),
    bad_loss=dict(type='StopOnBadLossHook'),
    checkpoint_fit=dict(type='CheckpointFitHook'),
    deploy=dict(type='DeployHook'),
    ema=dict(type='StepEMAHook', ema_type='ExponentialMovingAverage', priority=49),
)
RECIPES = 'yolov5_nextvit_s', 'yolov8_nextvit_s', 'rtmdet_nextvit_s'


class Ones(Scores):
    """Without a look at the epoch, which RuntimeInfoHook tells."""

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict(score=1)


@pytest.mark.parametrize('name', [*HOOKS, 'visualization'])
def test_none_takes_a_hook_out(name, tmp_path):
    data = [dict(inputs=torch.ones(1)), dict(inputs=torch.ones(1))]
    runner = ResumableRunner(
        Line(),
        str(tmp_path),
        train_dataloader=DataLoader(data, collate_fn=itemgetter(0)),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_dataloader=DataLoader(data[:1], collate_fn=itemgetter(0)),
        val_cfg=dict(),
        val_evaluator=[Ones([])],
        optim_wrapper=dict(
            type='SummingOptimWrapper', optimizer=dict(type='SGD', lr=0.1)
        ),
        param_scheduler=dict(type='LinearLR', start_factor=0.5, end=4),
        default_hooks={**HOOKS, name: None},
        experiment_name=f'without_{name}',
    )
    kinds = [type(hook) for hook in runner.hooks]
    for other, hook in HOOKS.items():
        assert (registry.HOOKS.get(hook['type']) in kinds) == (other != name)
    runner.train()
    assert runner.epoch == 2
    saved = (tmp_path / 'epoch_2.pth').exists()
    assert saved == (name != 'checkpoint')


@pytest.mark.slow
def test_a_run_without_any_of_them(tmp_path):
    """As a config of ours names them, all at once, by the command."""
    config = write_tiny_run(tmp_path)
    names = HOOKS | dict(Config.fromfile(config).default_hooks)
    options = [f'default_hooks.{name}=None' for name in names]
    options += ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    args = 'train', 'tiny.py', '--cfg-options', *options
    runner = call_here(*args, cwd=tmp_path)
    kinds = {type(hook).__name__ for hook in runner.hooks}
    ours = 'BatchesHook BestScoresHook FinishHook InterruptHook ResumeHook TerminalHook'
    assert kinds <= {*ours.split(), 'TrainingStateHook'}
    assert runner.epoch == 1


@pytest.mark.parametrize('name', RECIPES)
def test_own_hooks_keep_the_averaging(name, tmp_path):
    own = tmp_path / 'own.py'
    own.write_text(
        f"_base_ = '{ROOT}/configs/{name}.py'\n"
        "custom_hooks = [dict(type='EmptyCacheHook')]\n"
    )
    before = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    cfg = Config.fromfile(own)
    assert cfg.default_hooks == before.default_hooks
    assert averages_weights(cfg.default_hooks.ema)
    assert ('pipeline_switch' in cfg.default_hooks) == (name != 'yolov5_nextvit_s')
    cfg.work_dir = str(tmp_path)
    kept = make_training_config(settle_hooks(cfg))
    assert averages_weights(kept.default_hooks.ema)
    assert kept.custom_hooks[0] == dict(type='EmptyCacheHook')


def test_own_averaging_replaces_ours(load_config, log):
    cfg = load_config('yolov5_nextvit_s')
    assert settle_hooks(cfg) is cfg
    cfg.custom_hooks = [dict(type='mmengine.EMAHook', momentum=0.5)]
    settled = settle_hooks(cfg)
    assert settled.default_hooks.ema is None and cfg.default_hooks.ema is not None
    assert settled.custom_hooks == cfg.custom_hooks
    cfg.custom_hooks = [EMAHook()]
    assert settle_hooks(cfg).default_hooks.ema is None
