"""cuDNN's autotuning, which only shapes that come again have."""

from types import SimpleNamespace

from mmnextvit.engine.autotune import AFTER, AutotuneHook, find_batch_shape

import pytest
import torch


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', True)


def make_runner(augments=None, wrapped=False):
    preprocessor = SimpleNamespace(batch_augments=augments)
    model = SimpleNamespace(data_preprocessor=preprocessor)
    return SimpleNamespace(model=SimpleNamespace(module=model) if wrapped else model)


def batch(*sizes):
    return dict(inputs=[torch.empty(3, *size, device='meta') for size in sizes])


def run(hook, runner, batches, mode='train'):
    seen = []
    for i, each in enumerate(batches):
        getattr(hook, f'before_{mode}_iter')(runner, i, each)
        seen.append(torch.backends.cudnn.benchmark)
    return seen


def test_batches_of_one_shape_are_autotuned():
    hook, runner = AutotuneHook(), make_runner()
    full, last = batch((8, 8), (8, 8)), batch((8, 8))
    assert run(hook, runner, [full] * 4) == [False, False, True, True]
    # An epoch's last batch is smaller.
    assert run(hook, runner, [last, full, last, full, last, full])[-2:] == [True, True]


@pytest.mark.parametrize('mode', ['val', 'test'])
def test_validation_at_many_shapes_does_not_wait(mode):
    hook, runner = AutotuneHook(), make_runner()
    assert run(hook, runner, [batch((8, 8))] * (AFTER + 1))[-1]
    shapes = [batch((8, 8 + i % 40)) for i in range(400)]
    # At most two shapes are tried: those that came again first.
    tried = {i % 40 for i, on in enumerate(run(hook, runner, shapes, mode)) if on}
    assert len(tried) <= 2
    assert run(hook, runner, [batch((8, 8))]) == [True]  # training goes on with it


@pytest.mark.parametrize('wrapped', [True, False])
def test_images_that_the_model_resizes_have_no_fixed_shape(wrapped):
    runner = make_runner(['BatchSyncRandomResize'], wrapped)
    batches = [batch((8, 8))] * 9
    hook = AutotuneHook()
    assert not any(run(hook, runner, batches))
    assert run(hook, runner, batches, 'val')[-1]


def test_without_the_key_nothing_changes(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)
    hook = AutotuneHook()
    assert not any(run(hook, make_runner(), [batch((8, 8))] * 9))
    hook.after_run(make_runner())
    assert not torch.backends.cudnn.benchmark


def test_after_a_run_it_is_as_before():
    hook = AutotuneHook()
    run(hook, make_runner(), [batch((8, 8))])
    hook.after_run(make_runner())
    assert torch.backends.cudnn.benchmark


def test_the_shape_of_a_batch():
    assert find_batch_shape(dict(inputs=torch.empty(2, 3, 8, 9))) == (2, 3, 8, 9)
    assert find_batch_shape(batch((8, 4), (6, 9))) == (2, 3, 8, 9)
    for other in (None, [], dict(inputs=[]), dict(inputs=[1]), dict(x=1)):
        assert find_batch_shape(other) is None
