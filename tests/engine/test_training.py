"""Which checkpoint a run continues from, and what options make of a config."""

import copy
import os
import re
from pathlib import Path
from types import SimpleNamespace

from mmnextvit.engine.bad_loss import describe_last_checkpoint
from mmnextvit.engine.checkpoints import (
    check_sums,
    find_last_checkpoint,
)
from mmnextvit.engine.interrupt import remove_interrupted
from mmnextvit.engine.resume import read_last_validation
from mmnextvit.engine.training import find_checkpoint_to_resume, make_training_config
from mmnextvit.runs import find_checkpoint_folder
from mmnextvit.utils.errors import UserError
from mmnextvit.weights.reader import read_checkpoint

import pytest
import torch
from mmengine.config import Config


def save_state(path: Path) -> None:
    """Writes a file with every part that a run goes on from."""
    parts = ('meta', 'message_hub', 'optimizer', 'state_dict')
    torch.save(dict.fromkeys(parts, {'weight': torch.ones(1)}), path)


def test_which_checkpoint_is_resumed(tmp_path, monkeypatch, capsys):
    resume = find_checkpoint_to_resume
    run, other = tmp_path / 'run', tmp_path / 'other.pth'
    save_state(other)
    assert resume(run, None) is None  # a new folder
    assert resume(run, 'latest') is None
    assert 'holds no checkpoint: a new run begins' in capsys.readouterr().out
    assert resume(run, str(other)) == str(other)
    run.mkdir()
    save_state(run / 'epoch_3.pth')
    (run / 'last_checkpoint').write_text('/gone/run/epoch_3.pth')
    assert resume(run, 'latest') == str(run / 'epoch_3.pth')
    assert resume(run, str(run / 'epoch_3.pth')) == str(run / 'epoch_3.pth')
    message = 'holds another run, .* resume that one .--resume., .* .--work-dir.'
    with pytest.raises(ValueError, match=message):
        resume(run, None)
    monkeypatch.setenv('RANK', '1')  # only the first process looks
    assert resume(run, None) is None
    (run / 'last_checkpoint').write_text('/gone/run/epoch_4.pth')
    (run / 'epoch_3.pth').rename(tmp_path / 'epoch_3.pth')
    with pytest.raises(FileNotFoundError, match='last_checkpoint names .*epoch_4.pth'):
        resume(run, 'latest')
    (tmp_path / 'epoch_3.pth').rename(run / 'epoch_3.pth')
    assert resume(run, 'latest') == str(run / 'epoch_3.pth')
    with pytest.raises(
        FileNotFoundError, match='checkpoint nowhere.pth does not exist'
    ):
        resume(run, 'nowhere.pth')
    with pytest.raises(FileNotFoundError, match='checkpoint: its name is empty'):
        resume(tmp_path / 'new', '')  # a script's variable that is not set


def set_flag(path: Path, bit: int) -> None:
    """Sets a flag of the first entry in the central directory of a zip file."""
    content = bytearray(path.read_bytes())
    flags = content.index(b'PK\1\2') + 8
    content[flags] |= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize('bit', [0, 5, 6])
def test_a_checkpoint_whose_parts_are_flagged_as_encoded(tmp_path, capsys, bit):
    """It is read as it lies there, but `zipfile` cannot check its sums."""
    for i in (1, 2):
        save_state(tmp_path / f'epoch_{i}.pth')
    (tmp_path / 'last_checkpoint').write_text('epoch_2.pth')
    set_flag(tmp_path / 'epoch_2.pth', bit)
    message = r'epoch_2\.pth: the file is damaged'
    with pytest.raises(UserError, match=message):
        check_sums(tmp_path / 'epoch_2.pth')
    with pytest.raises(UserError, match=f'{message}.*encrypted or patched'):
        read_checkpoint(tmp_path / 'epoch_2.pth')
    found = find_checkpoint_to_resume(tmp_path, 'latest')
    assert found == str(tmp_path / 'epoch_1.pth')
    assert re.search(message, capsys.readouterr().out)


def test_the_folder_of_checkpoints(tmp_path):
    """MMEngine takes the last name of the path, not of what a link leads to."""
    (tmp_path / 'real').mkdir()
    (tmp_path / 'run').symlink_to(tmp_path / 'real')
    run, saved = tmp_path / 'run', tmp_path / 'saved'
    for out_dir, folder in [
        (None, run),
        (str(run), run),
        (f'{run}/', run / 'run'),  # MMEngine compares the texts
        (str(saved), saved / 'run'),
        ('s3://saved', None),
    ]:
        hooks = dict(checkpoint=dict(type='CheckpointHook', out_dir=out_dir))
        cfg = Config(dict(work_dir=f'{run}/', default_hooks=hooks))
        assert find_checkpoint_folder(cfg) == folder
    (saved / 'run').mkdir(parents=True)
    save_state(saved / 'run' / 'epoch_1.pth')
    message = f'^{saved / "run"} holds another run.* name of the folder .--work-dir.'
    with pytest.raises(UserError, match=message):
        find_checkpoint_to_resume(run, None, saved / 'run')


@pytest.mark.parametrize('name', ['last_checkpoint', 'last_validation'])
@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir])
def test_what_the_run_writes_is_no_file(tmp_path, name, make):
    """Reading or writing a FIFO would wait for ever."""
    save_state(tmp_path / 'epoch_1.pth')
    make(tmp_path / name)
    message = f'{name}: this is a (FIFO|folder), not a file: remove it'
    for resume in ('latest', str(tmp_path / 'epoch_1.pth')):
        with pytest.raises(UserError, match=message):
            find_checkpoint_to_resume(tmp_path, resume)
    if name == 'last_checkpoint':
        found, skipped = find_last_checkpoint(tmp_path, tmp_path)
        assert found.name == 'epoch_1.pth' and 'not a file' in skipped[0]


@pytest.mark.parametrize(
    'content, iteration',
    [(b'12\n', 12), (b'9' * 4096, 0), (b'9' * 5000, 0), (b'\xff', 0), (b'', 0)],
)
def test_what_a_run_reads_of_its_files(tmp_path, content, iteration):
    runner = SimpleNamespace(work_dir=str(tmp_path), hooks=[])
    assert read_last_validation(runner) == 0
    assert describe_last_checkpoint(runner) == 'No checkpoint was saved.'
    (tmp_path / 'last_validation').write_bytes(content)
    (tmp_path / 'last_checkpoint').write_bytes(content)
    assert read_last_validation(runner) == iteration
    described = describe_last_checkpoint(runner)
    assert described.startswith('The last checkpoint is ') and len(described) < 500
    interrupted = tmp_path / 'interrupted.pth'
    interrupted.touch()
    remove_interrupted(runner)
    assert not interrupted.exists()


@pytest.fixture
def cfg(load_config, tmp_path):
    cfg = load_config('yolov5_nextvit_s')
    cfg.work_dir = str(tmp_path / 'run')
    return cfg


def test_options_change_a_copy_of_the_config(cfg):
    before = copy.deepcopy(cfg._cfg_dict)
    changed = make_training_config(cfg, amp=True, auto_scale_lr=True)
    assert cfg._cfg_dict == before
    assert changed.optim_wrapper.type == 'AnyDeviceAmpOptimWrapper'
    batch_size = changed.optim_wrapper.optimizer.batch_size_per_gpu
    assert batch_size == cfg.train_dataloader.batch_size
    assert changed.auto_scale_lr.enable and not cfg.auto_scale_lr.enable
    assert changed.default_hooks.param_scheduler.nominal_batch_size is None
    assert 'force' not in changed.optim_wrapper
    assert make_training_config(cfg, amp='force').optim_wrapper.force
    cfg.optim_wrapper.type = 'AmpOptimWrapper'  # which works on no CPU
    own = make_training_config(cfg).optim_wrapper.type
    assert own == 'AnyDeviceAmpOptimWrapper'
    cfg.optim_wrapper.type = 'SummingOptimWrapper'
    plain = make_training_config(cfg)
    assert plain.optim_wrapper.type == 'SummingOptimWrapper'
    assert plain.default_hooks.param_scheduler.nominal_batch_size == 64
    assert plain.resume is False and not plain.auto_scale_lr.enable


def test_the_configs_own_resume_counts(cfg, tmp_path):
    (tmp_path / 'run').mkdir()
    checkpoint = tmp_path / 'run' / 'epoch_3.pth'
    save_state(checkpoint)
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(checkpoint))
    cfg.resume = True
    resumed = make_training_config(cfg)
    assert (resumed.resume, resumed.load_from) == (True, str(checkpoint))
    for name in ('resume', 'load_from'):
        empty = {name: ''}
        cfg.load_from = empty.get('load_from')
        with pytest.raises(FileNotFoundError, match='its name is empty'):
            make_training_config(cfg, empty.get('resume'))
    cfg.load_from = str(tmp_path / 'no.pth')
    with pytest.raises(FileNotFoundError, match=r'checkpoint .*no\.pth does not exist'):
        make_training_config(cfg)


def test_what_does_not_fit_is_refused(cfg):
    cfg.load_from = 'no.pth'
    message = 'load_from: checkpoint no.pth does not exist'
    with pytest.raises(FileNotFoundError, match=message):
        make_training_config(cfg)
    cfg.load_from = ''
    with pytest.raises(FileNotFoundError, match='load_from: .* its name is empty'):
        make_training_config(cfg)
    cfg.load_from = cfg.auto_scale_lr = None
    message = (
        r'yolov5_nextvit_s\.py: auto_scale_lr\.base_batch_size: the config does not '
        r'say .* Add auto_scale_lr = dict'
    )
    with pytest.raises(ValueError, match=message):
        make_training_config(cfg, auto_scale_lr=True)
