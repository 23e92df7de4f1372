"""A run takes from a checkpoint what it could have saved, and no foreign name."""

import copy
import math
import re
import time
from pathlib import Path
from types import SimpleNamespace

from mmnextvit.engine.hooks import CheckpointFitHook, StepEMAHook
from mmnextvit.engine.optim import AnyDeviceAmpOptimWrapper
from mmnextvit.engine.resume_state import accept_training_state, keep_own_files
from mmnextvit.utils.errors import UserError
from mmnextvit.weights.calls import Array
from mmnextvit.weights.reader import read_checkpoint

import numpy as np
import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim import (
    MultiStepLR,
    OneCycleLR,
    OptimWrapper,
    OptimWrapperDict,
    ReduceOnPlateauLR,
)
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from tests.helpers.commands import call_here, run_here
from tests.helpers.tiny_run import write_tiny_run


@pytest.fixture(autouse=True)
def scope() -> None:
    """As a Runner sets it: the averages of the weights are MMDetection's."""
    init_default_scope('mmdet')


NAN = float('nan')


def make_run(
    folder, optimizer=torch.optim.AdamW, steps=2, wrapper=OptimWrapper, **options
):
    """A run as MMEngine has it when it loads a checkpoint, and some steps later."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    groups = [
        dict(params=list(model[0].parameters()), weight_decay=0.1),
        dict(params=[*model[1].parameters(), *model[2].parameters()]),
    ]
    wrapped = wrapper(optimizer=optimizer(groups, lr=0.01, **options))
    schedulers = [
        MultiStepLR(wrapped, milestones=[1, 9]),
        OneCycleLR(wrapped, 1, total_steps=50),
    ]
    ema = StepEMAHook('ExpMomentumEMA', update_buffers=True)
    ema.src_model = model
    ema.ema_model = MODELS.build(
        dict(type='ExpMomentumEMA', update_buffers=True, model=model)
    )
    run = SimpleNamespace(
        work_dir=str(folder),
        model=model,
        train_loop=SimpleNamespace(),
        optim_wrapper=wrapped,
        param_schedulers=schedulers,
        hooks=[CheckpointFitHook(), ema, CheckpointHook(1, save_best='coco/bbox_mAP')],
    )
    for _ in range(steps):
        model(torch.randn(2, 2, 3, 3)).sum().backward()
        wrapped.optimizer.step()
        ema.ema_model.update_parameters(model)
        for scheduler in schedulers:
            scheduler.step()
    return run


def make_content(run, path) -> dict:
    """What the run's checkpoint holds when it is read."""
    hub = MessageHub('test')
    for i in range(3):
        hub.update_scalar('train/loss', float(i))
    hub.update_info('best_score', 0.5)
    hub.update_info('keep_ckpt_ids', [1, 2])
    hub.update_info('dataset_meta', dict(classes=('a', 'b')))
    content = dict(
        meta=dict(
            epoch=2, iter=6, cfg='a = 1', seed=3, dataset_meta=dict(classes=('a',))
        ),
        state_dict=run.model.state_dict(),
        message_hub=hub.state_dict(),
        optimizer=run.optim_wrapper.state_dict(),
        param_schedulers=[s.state_dict() for s in run.param_schedulers],
        ema_state_dict=run.hooks[1].ema_model.state_dict(),
    )
    CheckpointFitHook().before_save_checkpoint(None, content)
    torch.save(content, path)
    return read_checkpoint(path)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run that has begun, and the content of the checkpoint that it goes on from."""
    folder = tmp_path_factory.mktemp('run')
    content = make_content(make_run(folder), folder / 'epoch_2.pth')
    return make_run(folder, steps=0), content


def accept(run, content) -> dict:
    start = time.monotonic()
    try:
        accept_training_state(content, run, 'x.pth')
    finally:
        assert time.monotonic() - start < 5
    return content


def put(content: dict, path: str, value: object) -> None:
    """Sets what stands at a path of keys; an Ellipsis takes the last one out."""
    *keys, last = [int(k) if re.fullmatch(r'-?\d+', k) else k for k in path.split('/')]
    for key in keys:
        content = content[key]
    if value is ...:
        del content[last]
    else:
        content[last] = value


# ------------------------------------------------------------------ what is accepted


@pytest.mark.slow
@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(amsgrad=True),
        dict(optimizer=torch.optim.SGD),
        dict(optimizer=torch.optim.SGD, momentum=0.9, nesterov=True),
        dict(optimizer=torch.optim.Adam),
        dict(optimizer=torch.optim.Adadelta),
        dict(optimizer=torch.optim.Adafactor),
        dict(optimizer=torch.optim.Adagrad),
        dict(optimizer=torch.optim.NAdam),
        dict(optimizer=torch.optim.RMSprop, centered=True, momentum=0.5),
        dict(optimizer=torch.optim.Rprop),
        dict(optimizer=torch.optim.ASGD),
        dict(wrapper=AnyDeviceAmpOptimWrapper),
    ],
    ids=str,
)
def test_what_a_run_saves_is_accepted(tmp_path, options):
    """Of every optimizer of torch's, after steps and before the first."""
    for steps in (0, 2):
        content = make_content(
            make_run(tmp_path, steps=steps, **options), tmp_path / 'x'
        )
        before = copy.deepcopy(content)
        own = make_run(tmp_path, steps=0, **options)
        untouched = copy.deepcopy(own.optim_wrapper.state_dict())
        assert accept(own, content).keys() == before.keys()
        assert str(own.optim_wrapper.state_dict()) == str(untouched)
        # What passed is taken without an error, and the run goes on.
        own.optim_wrapper.load_state_dict(content['optimizer'])
        for scheduler, state in zip(own.param_schedulers, content['param_schedulers']):
            scheduler.load_state_dict(state)
        for param in own.model.parameters():
            param.grad = torch.ones_like(param)
        own.optim_wrapper.optimizer.step()
        for scheduler in own.param_schedulers:
            scheduler.step()


def test_several_optimizers_and_a_schedule_that_looks_at_metrics(tmp_path):
    one = make_run(tmp_path)
    one.hooks = []
    one.param_schedulers = {
        'a': [ReduceOnPlateauLR(one.optim_wrapper, monitor='loss')],
        'b': [],
    }
    state = one.optim_wrapper.state_dict()
    one.optim_wrapper = OptimWrapperDict(a=one.optim_wrapper)
    content = dict(
        meta=dict(epoch=0, iter=0),
        state_dict=one.model.state_dict(),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
        optimizer=dict(a=state),
        param_schedulers=dict(
            a=[
                {k: v for k, v in s.state_dict().items() if not callable(v)}
                for s in one.param_schedulers['a']
            ],
            b=[],
        ),
    )
    assert accept(one, content)
    content['param_schedulers']['a'][0]['best'] = 0.25  # was infinity
    assert accept(one, content)
    for path, value, message in (
        (
            'optimizer/a/param_groups/0/lr',
            'x',
            'optimizer.a.param_groups[0].lr: this is',
        ),
        ('optimizer/z', {}, 'optimizer.z: this run has no such optimizer'),
        ('param_schedulers/a/0/best', 'x', "param_schedulers.a[0].best: this is 'x'"),
        ('param_schedulers/a', ..., 'param_schedulers.a: this is missing'),
    ):
        wrong = copy.deepcopy(content)
        put(wrong, path, value)
        with pytest.raises(UserError) as error:
            accept(one, wrong)
        assert message in str(error.value)


def test_options_of_other_versions_of_torch(run):
    """Switches come and go; torch fills in those that are missing."""
    own, content = run
    content = copy.deepcopy(content)
    for group in content['optimizer']['param_groups']:
        for key in [
            key for key, value in group.items() if value in (True, False, None)
        ]:
            if not isinstance(group[key], (int, float)) or isinstance(group[key], bool):
                del group[key]
        group['new_switch'] = False
    accept(own, content)


# ------------------------------------------------------------------- what is refused


def test_mmyolos_schedule_with_an_optimizer_without_momentum(run):
    own, content = run
    content = copy.deepcopy(content)
    for group in content['optimizer']['param_groups']:
        group['initial_momentum'] = -1  # as its hook writes it
    accept(own, content)


def deep(levels: int = 5000) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def endless() -> dict:
    value: dict = {}
    value['x'] = value
    return value


def doubling() -> list:
    """Few lists, each twice in the next: 2 to the 5,000th paths."""
    value: list = []
    for _ in range(5000):
        value = [value, value]
    return value


def history(values, counts=None, length=10):
    buffer = HistoryBuffer()
    buffer._log_history = np.array(values).view(Array)
    buffer._count_history = np.array(values if counts is None else counts).view(Array)
    buffer.max_length = length
    return buffer


G, S, M = 'optimizer/param_groups/0', 'optimizer/state/0', 'message_hub'
WRONG = [  # what is put where, and what the message says
    ('meta', 5, 'meta: this is 5, not a dict'),
    ('meta', [], r'meta: this is \[\], not a dict'),
    ('meta/epoch', ..., 'meta.epoch: this is missing'),
    ('meta/epoch', '3', "meta.epoch: this is '3', not a number from 0"),
    ('meta/epoch', -1, 'meta.epoch: this is -1'),
    ('meta/epoch', 10**30, 'meta.epoch: this is 10000'),
    ('meta/epoch', 10**5000, 'meta.epoch: this is a very long int'),
    ('meta/epoch', 1.5, 'meta.epoch: this is 1.5'),
    ('meta/epoch', True, 'meta.epoch: this is True'),
    ('meta/epoch', None, 'meta.epoch: this is None'),
    ('meta/epoch', torch.ones(2), 'meta.epoch: this is tensor'),
    ('meta/iter', ..., 'meta.iter: this is missing'),
    ('meta/iter', 'many', "meta.iter: this is 'many'"),
    ('meta/iter', -5, 'meta.iter: this is -5'),
    ('meta/iter', 10**12, 'meta.iter: this is 1000000000000'),
    ('meta/iter', NAN, 'meta.iter: this is nan'),
    ('meta/seed', 'x', "meta.seed: this is 'x'"),
    ('meta/seed', -1, 'meta.seed: this is -1'),
    ('meta/seed', 2**32, 'meta.seed: this is 4294967296'),
    ('meta/dataset_meta', [1], r'meta.dataset_meta: this is \[1\], not a dict'),
    ('meta/dataset_meta', {5: 1}, 'meta.dataset_meta: 5 is no name'),
    ('meta/x', deep(), 'meta: its data are nested too deep'),
    ('meta/x', endless(), 'meta: its data are nested too deep'),
    ('meta/x', doubling(), 'meta: its data are nested too deep'),
    ('meta/x', SimpleNamespace(), 'meta: a SimpleNamespace is no plain data'),
    ('meta/\x1b[31m', 1, r"meta: '\\x1b\[31m' is no name"),
    (M, [], r'message_hub: this is \[\], not a dict'),
    (f'{M}/log_scalars', ..., 'message_hub.log_scalars: this is missing'),
    (f'{M}/runtime_info', ..., 'message_hub.runtime_info: this is missing'),
    (f'{M}/resumed_keys', ..., 'message_hub.resumed_keys: this is missing'),
    (f'{M}/log_scalars', 5, 'message_hub.log_scalars: this is 5, not a dict'),
    (f'{M}/runtime_info', None, 'message_hub.runtime_info: this is None'),
    (f'{M}/log_scalars/x', 5, 'log_scalars.x: this is 5, not a history'),
    (f'{M}/log_scalars/x', history(['a']), 'its history is no list of numbers'),
    (f'{M}/log_scalars/x', history([[1]]), 'its history is no list of numbers'),
    (f'{M}/log_scalars/x', history([1], [1, 1]), 'has 1 values and 2 counts, of up'),
    (f'{M}/log_scalars/x', history([1, 2], length=1), 'of up to 1'),
    (f'{M}/log_scalars/x', history([1], length=-1), 'of up to -1'),
    (f'{M}/log_scalars/x\ny', history([1]), r"log_scalars: 'x\\ny' is no name"),
    (f'{M}/resumed_keys/x', 'yes', "resumed_keys.x: this is 'yes', not True or"),
    (f'{M}/runtime_info/best_score', 'x', "best_score: this is 'x', not a number"),
    (f'{M}/runtime_info/best_score', NAN, 'best_score: this is nan, not a number'),
    (f'{M}/runtime_info/best_score_coco/bbox_mAP'.replace('/bbox', '_bbox'), [], 'bes'),
    (f'{M}/runtime_info/best_ckpt', 5, 'best_ckpt: this is 5, not the path'),
    (f'{M}/runtime_info/last_ckpt', [1], r'last_ckpt: this is \[1\], not the path'),
    (f'{M}/runtime_info/keep_ckpt_ids', 'x', "keep_ckpt_ids: this is 'x', not a list"),
    (f'{M}/runtime_info/keep_ckpt_ids', ['../x'], r"keep_ckpt_ids: this is \['../x'\]"),
    (f'{M}/runtime_info/keep_ckpt_ids', [1, -1], r'keep_ckpt_ids: this is \[1, -1\]'),
    (f'{M}/runtime_info/keep_ckpt_ids', [1] * 10**6, 'keep_ckpt_ids: this is'),
    (f'{M}/runtime_info/outdated_ckpts', [5], 'outdated_ckpts: this is'),
    (f'{M}/runtime_info/x', deep(), 'runtime_info: its data are nested too deep'),
    ('optimizer', 5, 'optimizer: this is 5, not a dict'),
    ('optimizer', {}, 'optimizer.param_groups: this is None, not a list'),
    ('optimizer/state', ..., 'optimizer.state: this is None, not a dict'),
    ('optimizer/state', [1], r'optimizer.state: this is \[1\], not a dict'),
    ('optimizer/param_groups', {}, r'optimizer.param_groups: this is \{\}, not a list'),
    ('optimizer/param_groups', [], 'the file has 0 groups of parameters, .* has 2'),
    ('optimizer/param_groups/1', ..., 'the file has 1 groups of parameters'),
    (G, 5, r'optimizer.param_groups\[0\]: this is 5, not a dict'),
    (f'{G}/lr', ..., r'param_groups\[0\].lr: this is missing'),
    (f'{G}/lr', NAN, r'param_groups\[0\].lr: this is nan, not a number from 0 on'),
    (f'{G}/lr', -0.1, r'param_groups\[0\].lr: this is -0.1'),
    (f'{G}/lr', float('inf'), r'param_groups\[0\].lr: this is inf'),
    (f'{G}/lr', '0.1', r"param_groups\[0\].lr: this is '0.1'"),
    (f'{G}/betas', ..., r'param_groups\[0\].betas: this is missing'),
    (f'{G}/betas', (0.9,), r'param_groups\[0\].betas: this is \(0.9,\), not 2 values'),
    (f'{G}/betas', ('a', 0.9), r'param_groups\[0\].betas\[0\]: this is'),
    (f'{G}/amsgrad', 'x', r"param_groups\[0\].amsgrad: this is 'x', not True or False"),
    (f'{G}/foreach', 'x', r"param_groups\[0\].foreach: this is 'x'"),
    (f'{G}/initial_lr', NAN, r'param_groups\[0\].initial_lr: this is nan'),
    (f'{G}/mine', deep(), r'param_groups\[0\].mine: this is \[\[\[\[...\]\]\]\], not'),
    (f'{G}/params', ..., r'param_groups\[0\].params: this is None, not a list'),
    (f'{G}/params', [0], 'the file has 1 parameters here, this run has 2'),
    (f'{G}/params', [0, 0], r'param_groups\[0\].params: one stands here twice'),
    (f'{G}/params', ['a', 'b'], r"params: this is \['a', 'b'\], not a list of numbers"),
    ('optimizer/param_groups/1/params', [0, 1, 2, 3], 'all of them different'),
    ('optimizer/state/99', {}, r'state\[99\]: this run has no such parameter'),
    ('optimizer/state/a', {}, r"state\['a'\]: this run has no such parameter"),
    (S, 5, r'optimizer.state\[0\]: this is 5, not a dict'),
    (f'{S}/exp_avg', ..., r'optimizer.state\[0\].exp_avg: this is missing'),
    (f'{S}/exp_avg', None, r'state\[0\].exp_avg: this is None, not a tensor'),
    (f'{S}/exp_avg', 5, r'state\[0\].exp_avg: this is 5, not a tensor'),
    (f'{S}/exp_avg', torch.ones(()), r'its shape is \(\), and this run has \(4, 2, 1,'),
    (f'{S}/exp_avg', torch.ones(4, 2), r'exp_avg: its shape is \(4, 2\), and this run'),
    (f'{S}/exp_avg', torch.full((4, 2, 1, 1), NAN), 'exp_avg: it holds NaN or infinit'),
    (f'{S}/exp_avg_sq', torch.full((4, 2, 1, 1), math.inf), 'exp_avg_sq: it holds NaN'),
    (f'{S}/exp_avg', torch.ones(4, 2, 1, 1) + 1j, 'exp_avg: this is tensor.*not a ten'),
    (f'{S}/step', torch.tensor(-2.0), r'state\[0\].step: this is tensor\(-2.\), not a'),
    (f'{S}/step', torch.ones(3), r'state\[0\].step: this is tensor'),
    (f'{S}/step', 'x', r"state\[0\].step: this is 'x', not a number"),
    (f'{S}/mine', torch.ones(1), r'state\[0\].mine: this optimizer has nothing of thi'),
    ('optimizer/loss_scaler', 5, 'optimizer.loss_scaler: this is 5, not a dict'),
    ('optimizer/loss_scaler', {'scale': 1.0}, 'loss_scaler.growth_factor: this is Non'),
    ('optimizer/base_param_settings', 5, 'base_param_settings: this is 5, not a dict'),
    ('param_schedulers', 5, 'param_schedulers: this is 5, not a list of 2'),
    ('param_schedulers', [], r'param_schedulers: this is \[\], not a list of 2'),
    ('param_schedulers/0', 5, r'param_schedulers\[0\]: this is 5, not a dict'),
    ('param_schedulers/0/last_step', ..., r'schedulers\[0\].last_step: this is missin'),
    ('param_schedulers/0/last_step', 'x', r"schedulers\[0\].last_step: this is 'x'"),
    ('param_schedulers/0/gamma', NAN, r'schedulers\[0\].gamma: this is nan'),
    ('param_schedulers/0/milestones', {'a': 1}, r"milestones: this is 'a', not a numb"),
    ('param_schedulers/0/milestones', 5, r'schedulers\[0\].milestones: this is 5, not'),
    ('param_schedulers/0/base_values', [1], r'base_values: this is \[1\], not 3 value'),
    ('param_schedulers/0/param_name', 'x', r"param_name: this is 'x', not 'lr', which"),
    ('param_schedulers/0/by_epoch', 5, r'schedulers\[0\].by_epoch: this is 5, not Tru'),
    ('param_schedulers/0/step', 5, r'schedulers\[0\].step: this run has nothing of th'),
    ('param_schedulers/1/_schedule_phases', [], r'_schedule_phases: this is \[\], not'),
    ('ema_state_dict', 5, 'ema_state_dict: this is 5, not a dict'),
    ('ema_state_dict', {5: torch.ones(1)}, 'ema_state_dict: 5 is no name'),
    ('ema_state_dict/steps', ..., 'ema_state_dict.steps: this is missing'),
    ('ema_state_dict/steps', 'x', "ema_state_dict.steps: this is 'x', not a tensor"),
    ('ema_state_dict/steps', torch.tensor(-1), r'steps: this is tensor\(-1\), not a n'),
    ('ema_state_dict/module.0.weight', ..., r'module.0.weight: this is missing'),
    ('ema_state_dict/module.0.weight', torch.ones(2), r'weight: its shape is \(2,\),'),
    ('ema_state_dict/module.0.bias', torch.full((4,), NAN), 'bias: it holds NaN or in'),
    ('ema_state_dict/module.9.x', torch.ones(1), 'module.9.x: this model has nothing'),
    ('state_dict/0.weight', ..., 'ema_state_dict.module.0.weight: this model has noth'),
]  # fmt: skip


@pytest.mark.parametrize('i', range(len(WRONG)))
def test_wrong_training_state(run, i):
    own, content = run
    path, value, message = WRONG[i]
    wrong = copy.deepcopy(content)
    put(wrong, path, value)
    with pytest.raises(UserError) as error:
        accept(own, wrong)
    said = str(error.value)
    assert said.startswith('x.pth: ') and re.search(message, said), said
    assert said.isprintable() and len(said) < 400, said
    accept(own, copy.deepcopy(content))  # nothing else was wrong


@pytest.mark.parametrize('key', ['meta', 'message_hub'])
def test_a_checkpoint_without_training_state(run, key):
    content = dict(run[1])
    del content[key]
    with pytest.raises(UserError, match='weights but no training state'):
        accept(run[0], content)


def test_an_iteration_that_a_loop_would_count_up_to(run, tmp_path):
    """MMEngine draws and drops that many batches."""
    own = copy.copy(run[0])
    own.train_loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    own.train_loop._max_iters = 100
    content = copy.deepcopy(run[1])
    content['meta']['iter'] = 100
    accept(own, content)
    content['meta']['iter'] = 101
    with pytest.raises(UserError, match='meta.iter: this is 101, not at most 100'):
        accept(own, content)


# ----------------------------------------------------------- files that a file names


@pytest.fixture
def folders(tmp_path):
    """A run's folder and another, with checkpoints in both and links between them."""
    own, other = tmp_path / 'own', tmp_path / 'other'
    for folder in (own, other, own / 'best_folder'):
        folder.mkdir()
        for name in ('best_a.pth', 'epoch_1.pth'):
            (folder / name).write_text('kept')
    for name in ('best_b.pth', 'victim.txt'):
        (other / name).write_text('kept')
    (own / 'best_link.pth').symlink_to(other / 'victim.txt')
    (own / 'link').symlink_to(other)
    (tmp_path / 'linked').symlink_to(own)
    return own, other


KEYS = ['best_ckpt', 'best_ckpt_coco/bbox_mAP', 'last_ckpt', 'my_ckpt']


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize(
    'name',
    [
        'OTHER/best_b.pth', 'OTHER/victim.txt', 'OWN/../other/best_b.pth', 'OTHER',
        'OWN/link/best_b.pth', 'OWN/best_link.pth', 'OWN/link', 'OWN/best_folder',
        'OWN', 'OWN/missing.pth', '.', '..', '/', '', '~', 'a\0b', 'x' * 5000,
        '/dev/null', 'OWN/', 'OTHER\\best_b.pth', 's3://bucket/best_b.pth', None,
    ],
)  # fmt: skip
def test_names_of_foreign_files_do_not_survive(folders, name, key):
    own, other = folders
    name = name and name.replace('OWN', str(own)).replace('OTHER', str(other))
    info = {key: name, 'best_score': 0.5, 'keep_ckpt_ids': [1]}
    keep_own_files(info, own)
    assert info == {'best_score': 0.5, 'keep_ckpt_ids': [1]}


@pytest.mark.parametrize('through', ['OWN', 'LINKED', 'OTHER', 'C:\\gone'])
def test_own_files_are_found_by_name(folders, tmp_path, through):
    """Also where the folder has been moved or copied, and where a link leads to it."""
    own, other = folders
    places = {'OWN': own, 'LINKED': tmp_path / 'linked', 'OTHER': other}
    place = str(places.get(through, through))
    separator = '\\' if '\\' in place else '/'
    info = dict.fromkeys(KEYS, f'{place}{separator}best_a.pth')
    keep_own_files(info, own)
    assert info == dict.fromkeys(KEYS, str(own / 'best_a.pth'))
    # That a checkpoint is the best one makes no other one be removed.
    info = {key: str(own / 'epoch_1.pth') for key in KEYS}
    keep_own_files(info, own)
    assert info.keys() == {'last_ckpt', 'my_ckpt'}
    keep_own_files(info, None)  # a run that saves in a cloud
    assert not info


@pytest.mark.parametrize('out_dir', [None, 'elsewhere'])
def test_the_folder_is_the_one_of_the_checkpoints(run, tmp_path, out_dir):
    """MMEngine puts them into a folder of the run's name there."""
    own = copy.copy(run[0])
    own.work_dir = str(tmp_path / 'run')
    where = Path(own.work_dir) if out_dir is None else tmp_path / out_dir / 'run'
    own.hooks = [CheckpointHook(1, out_dir=out_dir and str(tmp_path / out_dir))]
    where.mkdir(parents=True)
    (where / 'best_a.pth').write_text('')
    content = copy.deepcopy(run[1])
    content['message_hub']['runtime_info'].update(best_ckpt='/gone/best_a.pth')
    accept(own, content)
    info = content['message_hub']['runtime_info']
    assert info['best_ckpt'] == str(where / 'best_a.pth')


# ------------------------------------------------------------------- through `train`


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
    """A tiny run of one epoch, to go on from, in a folder with its config."""
    folder = tmp_path_factory.mktemp('begun')
    config = write_tiny_run(folder)
    one_epoch = 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1'
    call_here(
        'train', config, '--work-dir', 'run', '--cfg-options', *one_epoch, cwd=folder
    )
    return folder, config


VALIDATED = '--cfg-options', 'train_cfg.val_interval=1'


@pytest.mark.slow
@pytest.mark.parametrize('guarded_by', ['CheckpointFitHook', 'TrainingStateHook'])
def test_resuming_removes_nothing_that_a_file_names(begun, tmp_path, capfd, guarded_by):
    """The next best checkpoint would have taken its place."""
    folder, config = begun
    victims = [tmp_path / name for name in ('best_victim.pth', 'folder/best_file.pth')]
    for victim in victims:
        victim.parent.mkdir(exist_ok=True)
        victim.write_text('kept')
    (tmp_path / 'run').mkdir()
    content = read_checkpoint(folder / 'run/epoch_1.pth')
    info = content['message_hub']['runtime_info']
    file = tmp_path / 'run/epoch_1.pth'
    options = list(VALIDATED)
    if guarded_by == 'TrainingStateHook':  # a config without ours
        options.append('default_hooks.checkpoint_fit.type=EmptyCacheHook')
    for target in (victims[0], victims[1].parent):
        info.update(best_ckpt=str(target), best_score=-1.0)
        torch.save(dict(content), file)
        printed = run_here('train', config, '--work-dir', tmp_path / 'run', '--resume',
                           file, *options, cwd=folder, capfd=capfd)  # fmt: skip
        assert 'is not in the folder of this run: it stays where it is' in printed
        assert all(victim.read_text() == 'kept' for victim in victims)
        (best,) = (tmp_path / 'run').glob('best_*')
        # It is this run's own, which a better one replaces.
        last = read_checkpoint(tmp_path / 'run/epoch_2.pth')
        assert last['message_hub']['runtime_info']['best_ckpt'] == str(best)
        best.unlink()


@pytest.mark.slow
def test_resuming_a_wrong_file_is_one_message(begun, tmp_path, capfd):
    folder, config = begun
    content = read_checkpoint(folder / 'run/epoch_1.pth')
    file = tmp_path / 'x.pth'
    for path, value, message in (
        ('meta/epoch', 'x', "meta.epoch: this is 'x', not a number"),
        (
            'optimizer/param_groups/0/lr',
            NAN,
            r'optimizer.param_groups\[0\].lr: this is n',
        ),
        ('ema_state_dict/steps', 'x', "ema_state_dict.steps: this is 'x'"),
    ):
        wrong = copy.deepcopy(content)
        put(wrong, path, value)
        torch.save(dict(wrong), file)
        printed = run_here('train', config, '--work-dir', tmp_path / 'new', '--resume',
                           file, cwd=folder, capfd=capfd, code=1)  # fmt: skip
        last = printed.strip().splitlines()[-1]
        assert re.fullmatch(rf'mmnextvit train: {file}: .*{message}.*', last), printed
        assert 'Traceback' not in printed
