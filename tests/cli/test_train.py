"""Training as a user starts it: from another folder, on a CPU, on tiny data."""

import json
import os
import re
import shutil
import sys

from mmnextvit.datasets.demo_data import make_demo_data
from mmnextvit.engine.lock import training_lock

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from tests.conftest import TINY
from tests.helpers.commands import call_here, refusal, run_here
from tests.helpers.full_disk import limit_file_size
from tests.helpers.kill_training import kill_training
from tests.helpers.tiny_run import ROOT, run_command, run_tool

pytestmark = pytest.mark.slow

# A backbone that takes no time.
SMALL = [f'model.backbone.arch.{key}={list(value)}' for key, value in TINY.items()]


def read(path):
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_train(trained):
    work_dir = trained.work_dir
    assert {'epoch_1.pth', 'epoch_2.pth', 'last_checkpoint', 'tiny.py'} <= {
        p.name for p in work_dir.iterdir()
    }
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [entry['loss'] for entry in entries if 'loss' in entry]
    assert len(losses) == 6 and np.isfinite(losses).all()
    assert 'coco/bbox_mAP_50' in entries[-1]
    assert not any('pin_memory' in warning for warning in trained.warnings)
    checkpoint = read(work_dir / 'epoch_2.pth')
    assert checkpoint['meta']['epoch'] == 2 and checkpoint['meta']['iter'] == 6
    assert checkpoint['meta']['dataset_meta']['classes'] == (
        'circle',
        'square',
        'triangle',
    )
    # The weight decay is that of two images a step: 64 / 64 of the config's.
    groups = checkpoint['optimizer']['param_groups']
    assert [g['weight_decay'] for g in groups[:3]] == [0.0005, 0, 0]


def test_resume_goes_on_as_if_it_had_not_stopped(copy, trained):
    """One epoch, then one more in a moved folder, with spawned workers."""
    work_dir = copy / 'work_dirs' / 'tiny'
    straight = read(work_dir / 'epoch_2.pth')
    for path in (*work_dir.glob('best*'), work_dir / 'epoch_2.pth'):
        path.unlink()
    # It names the old folder, which is still there.
    (work_dir / 'last_checkpoint').write_text(str(trained.work_dir / 'epoch_1.pth'))
    output = run_tool(
        'train.py',
        'tiny.py',
        '--resume',
        '--cfg-options',
        'env_cfg.mp_cfg.mp_start_method=spawn',
        'train_dataloader.num_workers=1',
        cwd=copy,
    )
    assert 'Load checkpoint from work_dirs/tiny/epoch_1.pth' in output
    assert 'resumed epoch: 1, iter: 3' in output
    assert 'Epoch(train) [1]' not in output and 'Epoch(train) [2]' in output
    resumed = read(work_dir / 'epoch_2.pth')
    assert resumed['meta']['iter'] == 6
    for key in ('state_dict', 'ema_state_dict'):
        for name, tensor in straight[key].items():
            assert torch.allclose(resumed[key][name], tensor, atol=1e-6), name
    states = resumed['optimizer']['state'], straight['optimizer']['state']
    assert states[0].keys() == states[1].keys() and states[0]
    for number, state in states[0].items():
        momentum = states[1][number]['momentum_buffer']
        assert torch.allclose(state['momentum_buffer'], momentum, atol=1e-5)


def test_what_is_printed_before_the_first_iteration(tmp_path):
    """In a process: what libraries say while they are imported counts."""
    data = tmp_path / 'shapes'
    make_demo_data(data, train=6, val=4, size=64, seed=0)
    call_here('new', 'shapes', '--imgsz', 64, cwd=tmp_path)
    output = run_command(
        *(sys.executable, '-m', 'mmnextvit', 'train', 'shapes.py'),
        *('--cfg-options', 'max_epochs=1', *SMALL),
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'),
        warm=False,
    )
    before, first, after = output.partition('Epoch(train) [1]')
    lines = before.splitlines()
    assert first and len(lines) <= 30, before
    assert re.search('classes +3: circle, square, triangle', before)
    assert re.search('train +6 images, [0-9]+ boxes', before)
    assert not re.search('deprecat|future|upcoming', output, re.IGNORECASE), output
    assert 'System environment' not in output and 'custom_hooks=' not in output
    assert re.search('lr: .* eta: [0-9:]+ .* loss: .* memory: [0-9]+', after)
    (log,) = tmp_path.glob('work_dirs/shapes/*/*.log')
    logged = log.read_text()
    assert 'System environment' in logged and 'custom_hooks=' in logged
    assert re.search(f'log +{log}', before)


def test_amp_and_a_bad_loss(copy, capfd):
    """A third epoch in bfloat16, and a fourth that an infinite loss stops."""
    work_dir = copy / 'work_dirs' / 'tiny'
    output = run_here(
        *('train', 'tiny.py', '--force-amp', '--resume'),
        *('--cfg-options', 'train_cfg.max_epochs=4'),
        'model.bbox_head.loss_obj.loss_weight=1e39',  # infinite in float32
        cwd=copy,
        capfd=capfd,
        code=1,
    )
    message = output.strip().splitlines()[-1]
    assert message.startswith(
        'mmnextvit train: loss_obj is inf in epoch 3, iteration 7. '
    )
    assert re.search('The last checkpoint is .*/epoch_2.pth.$', message)
    assert 'Traceback' not in output
    assert not (work_dir / 'epoch_3.pth').exists()
    state = read(work_dir / 'epoch_2.pth')['state_dict']
    assert all(tensor.isfinite().all() for tensor in state.values())

    output = run_here(
        *('train', 'tiny.py', '--force-amp', '--resume'),
        *('--cfg-options', 'train_cfg.max_epochs=3'),
        cwd=copy,
        capfd=capfd,
    )
    newest = max(work_dir.glob('*/*.log'))
    assert "type='AnyDeviceAmpOptimWrapper'" in newest.read_text()
    assert 'learning rate 0.01, mixed precision' in output
    assert 'resumed epoch: 2, iter: 6' in output
    assert read(work_dir / 'epoch_3.pth')['optimizer']['loss_scaler'] == {}


def test_a_folder_with_another_run_is_refused(copy):
    before = snapshot(copy)
    message = refusal('train', 'tiny.py', cwd=copy)
    assert message.startswith('work_dirs/tiny holds another run')
    assert '--resume' in message and '--work-dir' in message
    other = copy / 'other.pth'
    shutil.copy(copy / 'work_dirs' / 'tiny' / 'epoch_1.pth', other)
    message = refusal('train', 'tiny.py', '--resume', other, cwd=copy)
    assert 'holds another run' in message
    other.unlink()
    assert snapshot(copy) == before


@pytest.mark.parametrize(
    'args, message',
    [
        (['no.py'], 'config no.py does not exist'),
        (['tiny.py', '--work-dir=n', '--resume=no.pth'], 'checkpoint no.pth'),
        (
            ['tiny.py', '--work-dir=n', '--cfg-options', 'load_from=no.pth'],
            'load_from: checkpoint no.pth does not exist',
        ),
        (
            ['tiny.py', '--work-dir=n', '--auto-scale-lr', '--cfg-options']
            + ['auto_scale_lr=None'],
            'tiny.py: .*Add auto_scale_lr = dict',
        ),
        (
            ['tiny.py', '--work-dir=n', '--cfg-options', 'train_cfg.val_interval=0'],
            r'tiny.py: train_cfg\.val_interval: 0 must be a whole number from 1 on',
        ),
    ],
)
def test_wrong_arguments(trained, args, message):
    assert re.search(message, refusal('train', *args, cwd=trained.folder))
    assert not (trained.folder / 'n').exists()


@pytest.mark.parametrize(
    'folder, message',
    [
        ('tiny.py', 'tiny.py is a file: choose another folder'),
        ('tiny.py/run', 'tiny.py/run: Not a directory'),
        ('n' * 300, 'n: File name too long'),
        ('/proc/run', '/proc/run: No such file or directory'),
    ],
)
def test_a_folder_that_cannot_be_written(trained, capfd, folder, message):
    before = snapshot(trained.folder)
    output = run_here(
        *('train', 'tiny.py', '--work-dir', folder),
        cwd=trained.folder,
        capfd=capfd,
        code=1,
    )
    assert output.startswith('mmnextvit train: ') and message in output
    assert len(output.splitlines()) == 1
    assert snapshot(trained.folder) == before


def test_a_full_disk_does_not_block_the_next_try(trained, tmp_path, capfd):
    """The files of the log fit, a checkpoint does not."""
    folder = tmp_path / 'run'
    command = ('train', 'tiny.py', '--work-dir', folder, '--cfg-options')
    options = ('train_cfg.max_epochs=1', 'train_cfg.val_interval=1')
    with limit_file_size(500_000):
        output = run_here(*command, *options, cwd=trained.folder, capfd=capfd, code=1)
    last = output.strip().splitlines()[-1]
    assert last == f'mmnextvit train: {folder}/epoch_1.pth: File too large'
    assert 'Traceback' not in output
    assert not list(folder.glob('*.pth')) and not list(folder.glob('.*'))
    assert not (folder / 'last_checkpoint').exists()
    run_here(*command, *options, cwd=trained.folder, capfd=capfd)
    assert (folder / 'epoch_1.pth').exists()


def test_best_weights_and_a_second_training_are_refused(copy):
    before = snapshot(copy)
    work_dir = copy / 'work_dirs' / 'tiny'
    (best,) = work_dir.glob('best_*.pth')
    message = refusal('train', 'tiny.py', '--resume', best, cwd=copy)
    assert 'holds no state of the optimizer' in message and 'load_from' in message
    with training_lock(Config(dict(work_dir=str(work_dir)))):
        message = refusal('train', 'tiny.py', '--resume', cwd=copy)
    assert message.startswith('work_dirs/tiny: another training writes there now')
    assert snapshot(copy) == before


def test_a_training_that_is_killed_goes_on(tmp_path):
    """At KILLS moments; ``python -m tests.helpers.kill_training`` has twenty."""
    moments = int(os.environ.get('KILLS', 2))
    torch.set_num_threads(1)  # a process with more cannot be forked
    kills = kill_training(tmp_path, moments, compare=False)
    assert sum(kills.kinds.values()) == moments
