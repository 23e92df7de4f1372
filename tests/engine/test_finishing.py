"""Trainings that end early, with a last phase, at the same place in whatever pieces."""

import itertools
import json
import math
from types import SimpleNamespace

from mmnextvit.engine.finishing import (
    FinishHook,
    Phase,
    Times,
    check_training,
    plan_length,
    read_account,
    shorten_training,
)
from mmnextvit.engine.loops import ResumableEpochLoop, resumable
from mmnextvit.engine.resume import ResumeHook
from mmnextvit.engine.runner import ResumableRunner
from mmnextvit.engine.training import make_training_config
from mmnextvit.utils.errors import UserError

import pytest
import torch
from mmcv.transforms import Compose
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader
from mmengine.structures import BaseDataElement
from torch import nn

from tests.helpers.commands import fresh_process_state, run_here
from tests.helpers.random_run import find_differences

_numbers = itertools.count()


class Points(torch.utils.data.Dataset):
    """Ten points, in batches of two, whose pipeline may be switched."""

    metainfo = dict(classes=('point',))

    def __init__(self) -> None:
        self.pipeline = Compose([lambda data: dict(data, kind=torch.zeros(1))])

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict:
        return self.pipeline(dict(inputs=torch.rand(1)))


def mark(data: dict) -> dict:
    """The recipe's last pipeline."""
    return dict(data, kind=torch.ones(1))


class Line(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, inputs: list, kind: list, mode: str) -> object:
        if mode == 'loss':
            return dict(loss=self.layer(torch.stack(inputs)).square().mean())
        return [BaseDataElement()]


class Scores(BaseMetric):
    """Chosen scores, by the iteration."""

    def __init__(self, scores) -> None:
        super().__init__()
        self.scores = scores

    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict[str, float]:
        done = MessageHub.get_current_instance().get_info('iter') + 1
        return dict(mAP=self.scores(done))


class Clock(Hook):
    """A second for an iteration, two for a validation; and what a run did."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.time = 1000.0
        self.rates, self.kinds, self.validated = {}, {}, []

    def __call__(self) -> float:
        return self.time

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.time += 1
        self.rates[runner.iter] = runner.optim_wrapper.get_lr()['lr'][0]
        self.kinds[runner.iter] = data_batch['kind'][0].item()
        logged = runner.message_hub.get_scalar('train/lr').current()
        assert logged == self.rates[runner.iter]

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        if batch_idx == 0:
            self.time += 2
            self.validated.append(runner.iter)


EPOCHS = dict(by_epoch=True, max_epochs=20)
COSINE = dict(
    type='CosineAnnealingLR',
    by_epoch=True,
    convert_to_iter_based=True,
    T_max=20,
    eta_min=0.002,
)


def run(
    work_dir,
    resume=None,
    train_cfg=EPOCHS,
    scores=lambda done: done,
    schedule=COSINE,
    hooks=(),
    schedule_hook=None,
    constructor='DefaultOptimWrapperConstructor',
    **options,
):
    """Trains, with a checkpoint after every iteration; returns what was kept."""
    clock = Clock()
    data = dict(dataset=Points(), batch_size=2, num_workers=0)
    with fresh_process_state():
        runner = ResumableRunner(
            Line(),
            str(work_dir),
            train_dataloader=dict(data, sampler=dict(type='DefaultSampler')),
            train_cfg=resumable(train_cfg),
            val_dataloader=dict(
                data, sampler=dict(type='DefaultSampler', shuffle=False)
            ),
            val_cfg=dict(),
            val_evaluator=[Scores(scores)],
            optim_wrapper=dict(
                type='OptimWrapper',
                optimizer=dict(type='SGD', lr=0.1),
                constructor=constructor,
            ),
            param_scheduler=schedule,
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False),
                **(dict(param_scheduler=schedule_hook) if schedule_hook else {}),
            ),
            custom_hooks=[
                *(h() for h in hooks),
                FinishHook(clock=clock, **options),
                clock,
                ResumeHook(),
            ],
            load_from=None if resume is None else str(resume),
            resume=resume is not None,
            experiment_name=f'finishing_{next(_numbers)}',
            randomness=dict(seed=0),
        )
        runner.train()
    return clock


def stagnate(best_at):
    """Scores that do not get better after so many iterations."""
    return lambda done: min(done, best_at) / 100


def switch_late():
    return PipelineSwitchHook(18, [mark])


YOLOV5 = dict(
    type='mmyolo.YOLOv5ScheduleHook', max_epochs=20, warmup_epochs=1, warmup_mim_iter=0
)
THREE = 'ThreeGroupOptimWrapperConstructor'
ITERATIONS = dict(type='IterBasedTrainLoop', max_iters=100, val_interval=5)
STEPS = dict(type='MultiStepLR', by_epoch=True, milestones=[12, 16], gamma=0.1)
CASES = {
    'patience': dict(patience=2, scores=stagnate(30), hooks=[switch_late]),
    'hours': dict(
        hours=60 / 3600, hooks=[switch_late], schedule=STEPS, constructor=THREE
    ),
    'short': dict(hours=5 / 3600, hooks=[switch_late]),
    'yolov5': dict(
        patience=3,
        scores=stagnate(15),
        schedule=None,
        schedule_hook=YOLOV5,
        constructor=THREE,
    ),
    'iterations': dict(
        train_cfg=ITERATIONS, patience=2, scores=stagnate(30), schedule=None
    ),
    'hours of iterations': dict(train_cfg=ITERATIONS, hours=60 / 3600, schedule=None),
}
# Iterations before the last phase and in all, and the rate at the end.
ENDS = {
    # As the recipe's last iteration: MMEngine takes no step after it.
    'patience': (40, 50, 0.002 + 0.098 * (1 + math.cos(math.pi * 0.99)) / 2),
    'yolov5': (30, 40, 0.001),
    'iterations': (40, 50, None),
}


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_a_run_ends_alike_in_whatever_pieces(tmp_path, case):
    settings = CASES[case]
    whole = run(tmp_path / 'whole', **settings)
    end = len(whole.rates)
    last = CheckpointLoader.load_checkpoint(str(tmp_path / 'whole' / f'iter_{end}.pth'))
    phase = last['meta']['finish']['phase']
    begin = phase['begin']
    assert phase['end'] == end < 100
    assert whole.validated[-1] == end
    # In a straight line, from where it was to the end.
    final = whole.rates[end - 1]
    start = phase['first_rates'][0]
    assert start == pytest.approx(whole.rates[begin - 1], rel=0.1)
    for i in range(begin, end):
        share = (i + 1 - begin) / (end - begin)
        assert whole.rates[i] == pytest.approx(start + (final - start) * share)
    if case in ENDS:
        assert (begin, end) == ENDS[case][:2]
        assert final == pytest.approx(ENDS[case][2] or start / 100)
    else:
        if settings.get('schedule') is STEPS:
            assert final == pytest.approx(0.001)
        budget = settings['hours'] * 3600
        used = whole.time - 1000
        assert budget - 4 < used <= budget or case == 'short'
    if 'hooks' in settings:  # what the recipe does in its last two epochs
        first = max(begin, (math.ceil(end / 5) - 2) * 5)
        assert [i for i, kind in whole.kinds.items() if kind] == [*range(first, end)]

    stops = {begin - 1, begin, (begin + end) // 2, end}
    for stop in sorted(stop for stop in stops if 0 < stop <= end):
        work_dir = tmp_path / f'from_{stop}'
        checkpoint = tmp_path / 'whole' / f'iter_{stop}.pth'
        left_out = {'patience', 'hours'}  # they need not be given again
        again = {k: v for k, v in settings.items() if k not in left_out}
        resumed = run(work_dir, checkpoint, **again)
        assert resumed.rates == {i: whole.rates[i] for i in range(stop, end)}, stop
        assert resumed.kinds == {i: whole.kinds[i] for i in range(stop, end)}, stop
        assert resumed.validated == [i for i in whole.validated if i >= stop], stop
        if stop == end:
            continue
        path = work_dir / f'iter_{end}.pth'
        resumed_end = CheckpointLoader.load_checkpoint(str(path))
        for key in ('state_dict', 'optimizer'):
            assert find_differences(resumed_end[key], last[key]) == [], stop


@pytest.mark.slow
def test_a_validation_whose_score_is_lost_is_made_again(tmp_path):
    """Killed after the validation of epoch 8, whose checkpoint was saved before it."""
    settings = CASES['patience']
    whole = run(tmp_path, **settings)
    (tmp_path / 'last_validation').write_text('40\n')
    again = {k: v for k, v in settings.items() if k != 'patience'}
    resumed = run(tmp_path, tmp_path / 'iter_40.pth', **again)
    assert resumed.validated[0] == 40
    assert resumed.rates == {i: whole.rates[i] for i in range(40, 50)}


@pytest.mark.slow
def test_other_values_hold_from_a_resumption_on(tmp_path, capfd):
    settings = CASES['patience']
    run(tmp_path / 'whole', **settings)
    before, within = (tmp_path / 'whole' / f'iter_{i}.pth' for i in (32, 42))
    capfd.readouterr()
    later = run(tmp_path / 'later', before, **{**settings, 'patience': 4})
    printed = ''.join(capfd.readouterr())
    assert '--patience 4 holds from here on, in the place of 2' in printed
    # After 10 epochs the last phase has two.
    assert max(later.rates) + 1 == 60
    assert 'since mAP has not got better for 4 epochs (best: 0.3000): in 10' in printed
    assert 'has ended with its last phase, after 60 iterations' in printed
    same = run(tmp_path / 'same', within, **{**settings, 'patience': 9})
    printed = ''.join(capfd.readouterr())
    assert '--patience 9 changes nothing, since the last phase has begun' in printed
    assert max(same.rates) + 1 == 50


@pytest.mark.slow
def test_what_ends_soon_or_gets_better_is_left_alone(tmp_path):
    short = dict(train_cfg=dict(by_epoch=True, max_epochs=4))
    plain = run(tmp_path / 'plain', **short)
    for name, options in {
        'better': dict(patience=1),
        'time': dict(hours=1),
        'nothing yet': dict(patience=1, scores=lambda done: 0.0),
        'last': dict(patience=3, scores=stagnate(1)),
    }.items():
        found = run(tmp_path / name, **short, **options)
        assert found.rates == plain.rates, name


def test_options_reach_the_hook(tmp_path, load_config):
    cfg = load_config('yolov5_nextvit_s')
    cfg.work_dir = str(tmp_path / 'run')
    trained = make_training_config(cfg, patience=3, hours=1.5)
    hooks = [hook for hook in trained.custom_hooks if hook['type'] == 'FinishHook']
    assert hooks == [dict(type='FinishHook', patience=3, hours=1.5)]
    # Without them it goes on with those of a run that is resumed.
    plain = make_training_config(cfg)
    assert dict(type='FinishHook', patience=None, hours=None) in plain.custom_hooks


def test_trainings_that_cannot_end_early_are_refused():
    loop = ResumableEpochLoop.__new__(ResumableEpochLoop)
    wrapper = OptimWrapper(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1))
    good = dict(train_loop=loop, optim_wrapper=wrapper, val_loop=object())
    check_training(SimpleNamespace(**good), True)
    for part, value, text in [
        ('train_loop', SimpleNamespace(), "a training loop of MMEngine's"),
        ('optim_wrapper', SimpleNamespace(), 'a single optimizer'),
        ('val_loop', None, 'this config has no validation'),
    ]:
        with pytest.raises(UserError, match=text):
            check_training(SimpleNamespace(**{**good, part: value}), True)
    check_training(SimpleNamespace(**{**good, 'val_loop': None}), False)


def test_the_length_of_the_last_phase():
    assert [plan_length(n, 10) for n in (1, 50, 400, 5000)] == [1, 10, 80, 200]
    times = Times(100, 60, 1, 2, 10, 10, 1000)
    assert times.fit(5) == 5
    assert times.fit(100) == max(n for n in range(100) if times.estimate(n) <= 40)
    assert Times(100, 120, 1, 2, 10, 10, 1000).fit(5) == 1
    # 61 + 13 + 2 validations fit, so that there is time for another batch.
    assert not Times(100, 60, 1, 2, 10, 10, 1000).is_due(60)
    assert Times(100, 82, 1, 2, 10, 10, 1000).is_due(82)
    assert not Times(100, 82, 1, 2, 10, 10, 90).is_due(82)  # the recipe ends in time


def test_what_a_recipe_does_last_moves_with_the_end():
    loop = ResumableEpochLoop.__new__(ResumableEpochLoop)
    loop._max_epochs, loop._max_iters, loop.dynamic_milestones = 300, 3000, [0, 280]
    switch = SimpleNamespace(switch_epoch=280)
    mode = SimpleNamespace(num_last_epochs=15)
    runner = SimpleNamespace(train_loop=loop, hooks=[switch, mode])
    shorten_training(runner, Phase(1000, 1205, 10, 1000, [1.0], [0.1]))
    assert (loop.max_epochs, loop.max_iters, loop.end) == (121, 1205, 1205)
    assert loop.dynamic_milestones == [0, 101]
    assert switch.switch_epoch == 101 and mode.num_last_epochs == 15
    loop._max_epochs, switch.switch_epoch, mode.num_last_epochs = 300, 280, 150
    shorten_training(runner, Phase(1000, 1100, 10, 1000, [1.0], [0.1]))
    assert switch.switch_epoch == 100  # the whole phase
    assert mode.num_last_epochs == 9


def test_an_epoch_of_another_length_has_the_same_phase():
    phase = Phase(100, 150, 10, 100, [1.0], [0.0]).with_epochs_of(5)
    assert (phase.begin, phase.end, phase.epoch_length) == (50, 75, 5)
    assert phase.compute_rates(49) == [1.0] and phase.compute_rates(74) == [0.0]


GOOD = dict(
    patience=3,
    hours=None,
    seconds=5.0,
    batches=10,
    val_seconds=1.0,
    validations=2,
    best=0.5,
    best_epoch=2.0,
    judged=10,
    phase=dict(
        begin=10,
        end=20,
        epoch_length=5,
        iteration=10,
        first_rates=[0.1],
        last_rates=[0.01],
    ),
)


@pytest.mark.parametrize(
    'key, value',
    [
        ('patience', -1),
        ('patience', 1.5),
        ('hours', 'two'),
        ('seconds', math.nan),
        ('judged', None),
        ('best', []),
        ('phase', {}),
        ('phase', dict(GOOD['phase'], end=5)),
        ('phase', dict(GOOD['phase'], epoch_length=0)),
        ('phase', dict(GOOD['phase'], last_rates=[math.inf])),
        ('phase', dict(GOOD['phase'], last_rates=[0.1, 0.1])),
        ('more', 1),
    ],
)
def test_an_account_that_cannot_be_is_refused(key, value):
    assert read_account(json.loads(json.dumps(GOOD))).phase.end == 20
    with pytest.raises(UserError, match='the end of its run cannot be'):
        read_account(dict(GOOD, **{key: value}))


@pytest.mark.parametrize('option', ['patience', 'hours'])
@pytest.mark.parametrize('value', ['0', '-1', 'nan', 'inf', 'two'])
def test_wrong_values_are_usage_errors(tmp_path, capfd, option, value):
    printed = run_here(
        'train', 'no.py', f'--{option}={value}', cwd=tmp_path, capfd=capfd, code=2
    )
    assert f'--{option}' in printed and value in printed
    if value != 'two':
        with pytest.raises(UserError, match=f'--{option}'):
            FinishHook(**{option: float(value)})
