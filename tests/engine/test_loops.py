"""Loops that go on anywhere, with random numbers that follow from the place."""

import itertools
import random

from mmnextvit.engine.loops import resumable
from mmnextvit.engine.progress import read_progress, restore_gradients
from mmnextvit.engine.randomness import PlacedBatches, Stream, seed_process
from mmnextvit.engine.resume import ResumeHook
from mmnextvit.engine.runner import ResumableRunner

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader
from mmengine.structures import BaseDataElement
from torch import nn

from tests.helpers.commands import fresh_process_state
from tests.helpers.random_run import find_differences

pytestmark = pytest.mark.slow

_numbers = itertools.count()


def draw() -> list[float]:
    return [random.random(), np.random.rand(), torch.rand(()).item()]


class RandomData(torch.utils.data.Dataset):
    """Ten points, which are never the same twice."""

    metainfo = dict(classes=('point',))

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.tensor([float(index), *draw()]))


class RandomModel(BaseModel):
    """One layer, and every kind of random number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, inputs: list[torch.Tensor], mode: str) -> object:
        outputs = self.layer(torch.stack(inputs)) * sum(draw())
        if mode == 'loss':
            return dict(loss=outputs.square().mean())
        return [BaseDataElement()]


class KeepHook(Hook):
    """Keeps each loss by its iteration, and when was validated."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.validated: list[int] = []
        self.drawn: list[float] = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs) -> None:
        self.losses[runner.iter] = outputs['loss'].item()

    def before_train_epoch(self, runner) -> None:
        self.drawn.append(random.random())

    def before_val(self, runner) -> None:
        self.validated.append(runner.iter)


class NoMetric(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict[str, float]:
        return dict(score=1.0)


def run(work_dir, train_cfg, resume=None, sampler='DefaultSampler', seed=0, **wrapper):
    """Trains, with a checkpoint after every iteration; returns what was kept."""
    kept = KeepHook()
    with fresh_process_state():
        ResumableRunner(
            RandomModel(),
            str(work_dir),
            train_dataloader=dict(
                dataset=RandomData(),
                batch_size=2,
                sampler=dict(type=sampler, shuffle=True),
            ),
            train_cfg=resumable(train_cfg),
            val_dataloader=dict(
                dataset=RandomData(), sampler=dict(type='DefaultSampler', shuffle=False)
            ),
            val_cfg=dict(),
            val_evaluator=[NoMetric()],
            optim_wrapper=dict(
                **wrapper, optimizer=dict(type='SGD', lr=1e-4, momentum=0.9)
            ),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False)
            ),
            custom_hooks=[kept, ResumeHook()],
            load_from=None if resume is None else str(resume),
            resume=resume is not None,
            experiment_name=f'loops_{next(_numbers)}',
            randomness=dict(seed=seed),
        ).train()
    return kept


def read(path) -> dict:
    return CheckpointLoader.load_checkpoint(str(path))


EPOCHS = dict(by_epoch=True, max_epochs=3)
ITERATIONS = dict(type='IterBasedTrainLoop', max_iters=15, val_interval=5)


@pytest.mark.parametrize(
    'train_cfg, options',
    [
        (EPOCHS, dict(accumulative_counts=4)),
        (EPOCHS, dict(seed=None)),
        (ITERATIONS, dict(accumulative_counts=4)),
        (ITERATIONS, dict(sampler='InfiniteSampler', seed=None)),
    ],
)
def test_a_run_goes_on_after_any_iteration(tmp_path, train_cfg, options):
    whole = run(tmp_path / 'whole', train_cfg, **options)
    assert [*whole.losses] == [*range(15)] and whole.validated == [5, 10, 15]
    assert len(set(whole.losses.values())) == 15
    end = read(tmp_path / 'whole' / 'iter_15.pth')
    for stop in (5, 8):  # after and within an epoch
        work_dir = tmp_path / f'from_{stop}'
        checkpoint = tmp_path / 'whole' / f'iter_{stop}.pth'
        resumed = run(work_dir, train_cfg, checkpoint, **options)
        assert resumed.losses == {i: whole.losses[i] for i in range(stop, 15)}
        assert resumed.validated == [i for i in (5, 10, 15) if i >= stop]
        if train_cfg is EPOCHS:
            begun = stop // 5 if stop % 5 else stop // 5 - 1  # after its last iteration
            assert resumed.drawn == whole.drawn[begun:]
        resumed_end = read(work_dir / 'iter_15.pth')
        for key in ('state_dict', 'optimizer'):
            assert find_differences(resumed_end[key], end[key]) == []


def test_a_validation_is_made_up_for_once(tmp_path):
    """It is where the run was killed before it had validated, in its own folder."""
    cfg = dict(ITERATIONS, max_iters=5)
    run(tmp_path, cfg)
    checkpoint = tmp_path / 'iter_5.pth'
    assert (tmp_path / 'last_validation').read_text() == '5\n'
    assert run(tmp_path, cfg, checkpoint).validated == []
    (tmp_path / 'last_validation').unlink()
    assert run(tmp_path, cfg, checkpoint).validated == [5]
    assert run(tmp_path, cfg, checkpoint).validated == []


def test_an_epoch_of_another_length_begins_anew(tmp_path):
    run(tmp_path / 'whole', EPOCHS)
    checkpoint = read(tmp_path / 'whole' / 'iter_7.pth')
    checkpoint['meta']['progress']['batches'] = 6
    torch.save(dict(checkpoint), tmp_path / 'other.pth')
    resumed = run(tmp_path / 'resumed', EPOCHS, tmp_path / 'other.pth')
    assert [*resumed.losses] == [*range(7, 17)]  # two epochs of five


def test_places_give_numbers():
    drawn = []
    for place in [(0, 1), (1, 0), (1, 1)]:
        for stream in (Stream.SAMPLE, Stream.ITERATION):
            seed_process(7, stream, *place)
            drawn.append(draw())
            draw()
            seed_process(7, stream, *place)
            assert draw() == drawn[-1]
    for numbers in zip(*drawn):
        assert len(set(numbers)) == len(drawn)


def test_batches_are_skipped():
    data = RandomData()
    batches = PlacedBatches(DefaultSampler(data, seed=3), 4)
    batches.begin(5, 2, 0)
    every = [*batches]
    assert [batch.number for batch in every] == [0, 1, 2] and len(batches) == 3
    assert sorted(i for batch in every for i in batch.indices) == [*range(10)]
    batches.begin(5, 2, 1)
    assert [*batches] == every[1:]
    batches.begin(5, 1, 0)
    assert [*batches] != every

    endless = PlacedBatches(DefaultSampler(data, seed=3), 4, endless=True)
    endless.begin(5, 0, 0)
    first = [*itertools.islice(endless, 8)]
    assert [batch.number for batch in first] == [*range(8)]
    assert first[0].indices != first[3].indices  # of the next epoch
    endless.begin(5, 0, 5)
    assert [*itertools.islice(endless, 3)] == first[5:]
    assert len(PlacedBatches(InfiniteSampler(data), 3, drop_last=True)) == 3


def test_loops_take_the_place_of_mmengines():
    for name in ('EpochBasedTrainLoop', 'mmengine.EpochBasedTrainLoop'):
        cfg = resumable(dict(type=name, max_epochs=2))
        assert cfg == dict(type='mmengine.ResumableEpochLoop', max_epochs=2)
    cfg = resumable(dict(by_epoch=False, max_iters=2))
    assert cfg == dict(type='mmengine.ResumableIterLoop', max_iters=2)
    assert resumable(dict(type='MyLoop', a=1)) == dict(type='MyLoop', a=1)


GOOD = dict(
    batches_done=1,
    batches=2,
    gradients=[dict(weight=torch.ones(2))],
    summed_batches=1,
    input_sizes=[[32, 64], []],
)


@pytest.mark.parametrize(
    'key, value',
    [
        ('batches_done', -1),
        ('batches_done', 1.0),
        ('batches', True),
        ('batches', None),
        ('summed_batches', 2**40),
        ('gradients', {}),
        ('gradients', [[]]),
        ('gradients', [{1: torch.ones(1)}]),
        ('gradients', [dict(weight=1)]),
        ('gradients', [dict(weight=torch.ones(2, dtype=torch.int64))]),
        ('input_sizes', [32, 64]),
        ('input_sizes', [[32]]),
        ('input_sizes', [['a', 'b']]),
        ('more', 1),
    ],
)
def test_progress_that_cannot_be_is_refused(key, value):
    assert read_progress(dict(GOOD)).batches == 2
    with pytest.raises(ValueError, match='the progress of its run cannot be'):
        read_progress(dict(GOOD, **{key: value}))
    with pytest.raises(ValueError, match='the progress of its run cannot be'):
        read_progress([key])


def test_gradients_of_another_model_are_refused():
    model = nn.Linear(2, 1)
    for name, shape in [('weight', (2, 1)), ('other', (1, 2))]:
        with pytest.raises(ValueError, match=f'gradient of {name}, which the model'):
            restore_gradients(model, {name: torch.ones(shape)})
