"""A run stops at the first bad loss, and at a checkpoint that does not fit."""

import math
from operator import itemgetter
from pathlib import Path

from mmnextvit.engine.hooks import CheckpointFitHook

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OneCycleLR
from mmengine.runner import CheckpointLoader, Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import DataLoader


class Overflow(nn.Module):
    """Passes on what comes in, but for a chosen iteration."""

    def __init__(self):
        super().__init__()
        self.bad = False

    def forward(self, x):
        return x * math.inf if self.bad else x


class Net(BaseModel):
    """Two losses; writes into its labels as MMYOLO's heads do."""

    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Overflow())
        self.bbox_head = nn.Linear(4, classes)
        self.root = nn.Parameter(torch.ones(1))
        self.steep = False

    def forward(self, inputs, data_samples, mode):
        maps = self.bbox_head(self.backbone(inputs))
        if mode == 'predict':
            return [BaseDataElement()]
        labels = data_samples['labels']
        assert (labels >= 1).all() or not labels.isfinite().all()
        labels -= 1  # a second pass over the same labels would fail
        losses = dict(loss_cls=maps.square().mean(), acc=torch.tensor(math.nan))
        losses['loss_box'] = [maps.abs().mean(), (labels * self.root).mean()]
        if self.steep:  # the value is 0, the gradient is 0 * infinity
            losses['loss_steep'] = (self.root * 0).square().sqrt().sum()
        return losses


class Data(torch.utils.data.Dataset):
    """Four batches; ``bad`` maps the number of one to what is wrong with it."""

    def __init__(self, bad=None):
        self.bad = bad or {}

    def __len__(self):
        return 4

    def __getitem__(self, number):
        g = torch.Generator().manual_seed(number)
        batch = dict(
            inputs=torch.randn(2, 4, generator=g),
            data_samples=dict(labels=torch.full((2, 1), 2.0)),
        )
        self.bad.get(number, lambda batch: None)(batch)
        return batch


class Before(Hook):
    """Does something to the model before one iteration, and keeps the weights."""

    def __init__(self, iteration, action=lambda model: None):
        self.iteration, self.action = iteration, action

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            self.action(runner.model)
        self.weights = {k: v.clone() for k, v in runner.model.named_parameters()}


def build(work_dir, data=None, hooks=(), epochs=3, model=None, **kwargs):
    settings = dict(
        train_dataloader=DataLoader(data or Data(), collate_fn=itemgetter(0)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)
        ),
        custom_hooks=[
            dict(type='StopOnBadLossHook'),
            dict(type='CheckpointFitHook'),
            *hooks,
        ],
        experiment_name=str(work_dir),
    )
    return Runner(model or Net(), str(work_dir), **(settings | kwargs))


def stopped(runner):
    """The message that ends the run."""
    with pytest.raises(FloatingPointError) as error:
        runner.train()
    return str(error.value)


def check_last(runner, message, epoch):
    """The last good checkpoint is there, whole, finite, and the message names it."""
    path = f'{runner.work_dir}/epoch_{epoch}.pth'
    assert path in message
    names = {p.name for p in Path(runner.work_dir).glob('*.pth')}
    assert names == {f'epoch_{epoch}.pth', 'best.pth', 'last.pth'}
    state = CheckpointLoader.load_checkpoint(path)['state_dict']
    assert all(tensor.isfinite().all() for tensor in state.values())
    Net().load_state_dict(state)


def spoil_input(batch):
    batch['inputs'][1, 2] = math.nan


def spoil_label(batch):
    batch['data_samples']['labels'][1] = math.inf


def spoil_parameter(model):
    model.bbox_head.weight.data[0, 0] = math.nan


def spoil_layer(model):
    model.backbone[2].bad = True


def make_steep(model):
    model.steep = True


@pytest.mark.parametrize(
    'spoilt, loss, culprit',
    [
        (spoil_input, 'loss_cls is nan', 'batch.inputs[1]'),
        (spoil_label, 'loss_box is inf', 'batch.data_samples.labels[1]'),
        (spoil_parameter, 'loss_cls is nan', 'parameter bbox_head.weight'),
        (spoil_layer, 'loss_cls is ', 'output of backbone.2 (Overflow)'),
    ],
)
def test_names_the_loss_and_the_first_bad_tensor(tmp_path, spoilt, loss, culprit):
    data = Data()
    if spoilt in (spoil_input, spoil_label):
        before = Before(4, lambda model: data.bad.update({2: spoilt}))
    else:
        before = Before(6, spoilt)
    runner = build(tmp_path, data, [before])
    message = stopped(runner)
    assert message.startswith(loss) and ' in epoch 2, iteration 7. ' in message
    assert f'First bad tensor: {culprit}. ' in message
    # The weights are those from before this iteration.
    for name, param in runner.model.named_parameters():
        assert torch.equal(param.nan_to_num(), before.weights[name].nan_to_num())
    check_last(runner, message, 1)


def test_a_value_that_is_no_loss_may_be_nan(tmp_path):
    runner = build(tmp_path, epochs=1)  # its accuracy is
    runner.train()
    assert not runner.model._forward_hooks and not runner.model._forward_pre_hooks


def test_no_checkpoint_yet(tmp_path):
    message = stopped(build(tmp_path, Data({0: spoil_input})))
    assert ' in epoch 1, iteration 1. ' in message
    assert message.endswith('No checkpoint was saved.')
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('by_epoch', [True, False])
def test_weights_that_an_update_made_bad_are_not_saved(tmp_path, by_epoch):
    """The gradient is infinite though the loss is 0, in the iteration before a save."""
    hook = dict(type='CheckpointHook', interval=1 if by_epoch else 4, by_epoch=by_epoch)
    runner = build(
        tmp_path, hooks=[Before(7, make_steep)], default_hooks=dict(checkpoint=hook)
    )
    message = stopped(runner)
    assert message.startswith('Parameter root is NaN or infinite after ')
    last = 'epoch_1.pth' if by_epoch else 'iter_4.pth'
    names = {p.name for p in tmp_path.glob('*.pth')}
    assert names == {last, 'best.pth', 'last.pth'}
    assert last in message


def test_the_last_good_checkpoint_is_not_removed_for_a_bad_one(tmp_path):
    """CheckpointHook removes before it saves, and here keeps one file."""
    runner = build(
        tmp_path, hooks=[Before(7, lambda model: setattr(model, 'steep', 1))]
    )
    check_last(runner, stopped(runner), 1)


def test_with_ema_and_amp(tmp_path, monkeypatch):
    monkeypatch.setattr('mmnextvit.engine.optim.get_device', lambda: 'cpu')
    precision = 'mmnextvit.engine.precision.computes_in_bfloat16'
    monkeypatch.setattr(precision, lambda: True)
    runner = build(
        tmp_path,
        hooks=[Before(6, spoil_layer), dict(type='EMAHook')],
        optim_wrapper=dict(
            type='AnyDeviceAmpOptimWrapper', optimizer=dict(type='SGD', lr=0.01)
        ),
    )
    message = stopped(runner)
    assert 'output of backbone.2 (Overflow)' in message
    check_last(runner, message, 1)


def test_second_pass_that_finds_nothing(tmp_path):
    """Such as a random layer that went bad by chance."""

    class Once(Overflow):
        def forward(self, x):
            self.bad, bad = False, self.bad
            return x * math.inf if bad else x

    model = Net()
    model.backbone[2] = Once()
    message = stopped(build(tmp_path, hooks=[Before(1, spoil_layer)], model=model))
    assert 'First bad tensor: unknown, as the batch passes every layer' in message


@pytest.fixture
def trained(tmp_path):
    work_dir = tmp_path / 'trained'
    build(work_dir, epochs=1).train()
    return str(work_dir / 'epoch_1.pth')


def test_resume_and_test_of_the_same_model(tmp_path, trained):
    runner = build(tmp_path / 'a', epochs=2, load_from=trained, resume=True)
    runner.train()
    assert runner.epoch == 2
    build_test(tmp_path / 'b', trained).test()


def build_test(work_dir, checkpoint, model=None):
    return Runner(
        model or Net(),
        str(work_dir),
        test_dataloader=DataLoader(Data(), collate_fn=itemgetter(0)),
        test_cfg={},
        test_evaluator=[],
        custom_hooks=[dict(type='CheckpointFitHook')],
        load_from=checkpoint,
        experiment_name=str(work_dir),
    )


def test_another_head_stops_test_and_resume_but_not_training(tmp_path, trained):
    """A checkpoint with 3 classes, a model with 5."""
    for start in (
        build(tmp_path / 'a', load_from=trained, resume=True, model=Net(5)).train,
        build_test(tmp_path / 'b', trained, Net(5)).test,
    ):
        with pytest.raises(ValueError) as error:
            start()
        message = str(error.value)
        assert message.startswith(f'{trained}: the weights do not fit, and all must: ')
        assert 'bbox_head.weight (3x4 in the file, 5x4 in the model)' in message
        assert 'another number of classes' in message
    log = tmp_path / 'c'
    runner = build(log, load_from=trained, model=Net(5), epochs=1)
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.train()
    text = next(log.glob('*/*.log')).read_text()
    assert f'{trained}: ' in text and 'WARNING' in text
    assert 'bbox_head.weight (3x4 in the file, 5x4 in the model)' in text
    assert not torch.equal(before['root'], runner.model.root)


def test_another_backbone_stops_training(tmp_path, trained):
    model = Net()
    model.backbone.append(nn.Linear(4, 4))
    with pytest.raises(ValueError) as error:
        build(tmp_path / 'a', load_from=trained, model=model).train()
    message = str(error.value)
    wanted = f'{trained}: the weights do not fit, and all of the backbone must'
    assert message.startswith(wanted)
    assert 'not in the file: backbone.3.weight, backbone.3.bias' in message


def test_schedulers_are_saved_as_data(tmp_path):
    """MMEngine's OneCycleLR keeps a method, which no safe reader would read again."""

    def build():
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        scheduler = OneCycleLR(optimizer, eta_max=0.3, total_steps=9)
        return optimizer, scheduler

    def go(optimizer, scheduler, steps):
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
        return optimizer.param_groups[0]['lr']

    first = build()
    go(*first, 4)
    path = str(tmp_path / 'x.pth')
    checkpoint = dict(param_schedulers=[first[1].state_dict()])
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match='refused'):
        CheckpointLoader.load_checkpoint(path)
    CheckpointFitHook().before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, path)
    second = build()
    go(*second, 4)  # the optimizer has its own state in a checkpoint
    second[1].load_state_dict(
        CheckpointLoader.load_checkpoint(path)['param_schedulers'][0]
    )
    assert go(*first, 3) == go(*second, 3)
    # one schedule an optimizer, as MMEngine saves several
    state = first[1].state_dict()
    assert any(map(callable, state.values()))
    several = dict(param_schedulers=dict(a=[state]))
    CheckpointFitHook().before_save_checkpoint(None, several)
    assert not any(map(callable, several['param_schedulers']['a'][0].values()))
