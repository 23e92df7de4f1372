"""Whatever ends a run, it leaves a checkpoint to go on from, and other runs' files."""

import errno
import os
import re
import shutil
import zipfile
from pathlib import Path

from mmnextvit.engine.checkpoints import find_last_checkpoint, read_whole
from mmnextvit.engine.training import find_checkpoint_to_resume
from mmnextvit.utils.errors import UserError

import pytest
import torch
from mmengine.runner import CheckpointLoader

from tests.helpers.full_disk import limit_file_size
from tests.helpers.kills import Moment, run_until
from tests.helpers.scripted_run import build_scripted_run

pytestmark = pytest.mark.slow


def snapshot(folder: Path) -> dict[str, bytes]:
    paths = [p for p in folder.rglob('*') if p.is_file() and p.suffix != '.log']
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def names(folder: Path, pattern: str = '*.pth') -> list[str]:
    return sorted(p.name for p in folder.glob(pattern))


def read(path: Path | str) -> dict:
    return dict(CheckpointLoader.load_checkpoint(str(path), map_location='cpu'))


def check_second_names(folder: Path, best: str, last: str) -> None:
    """``best.pth`` and ``last.pth`` stand for these files, and take no space."""
    assert (folder / 'best.pth').samefile(folder / best)
    assert (folder / 'last.pth').samefile(folder / last)


# A new best after epochs 1, 2 and 4; with two files kept, one is removed from the third
# epoch on.
SCORES = [0.1, 0.2, 0.1, 0.3]


def test_files_of_a_run(tmp_path):
    run = build_scripted_run(tmp_path, SCORES, max_keep_ckpts=2)
    run.train()
    assert names(tmp_path) == [
        *('best.pth', 'best_score_epoch_4.pth', 'epoch_3.pth', 'epoch_4.pth'),
        'last.pth',
    ]
    assert (tmp_path / 'last_checkpoint').read_text() == f'{tmp_path}/epoch_4.pth'
    check_second_names(tmp_path, 'best_score_epoch_4.pth', 'epoch_4.pth')
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith('.')] == []


@pytest.mark.parametrize(
    'settings, best, last',
    [
        (dict(save_best=None), 'epoch_4.pth', 'epoch_4.pth'),
        (dict(interval=3), 'best_score_epoch_4.pth', 'epoch_4.pth'),
        (dict(interval=3, save_last=False), 'best_score_epoch_4.pth', 'epoch_4.pth'),
        (dict(interval=9), 'best_score_epoch_4.pth', 'epoch_4.pth'),
        (dict(interval=-1, save_last=False), 'best_score_epoch_4.pth', 'epoch_4.pth'),
        (dict(interval=3, by_epoch=False), 'best_score_iter_8.pth', 'iter_8.pth'),
        (
            dict(interval=9, by_epoch=False, save_best=None, save_last=False),
            *('iter_8.pth', 'iter_8.pth'),
        ),
    ],
)
def test_best_and_last_are_always_there(tmp_path, settings, best, last):
    build_scripted_run(tmp_path, SCORES, **settings).train()
    check_second_names(tmp_path, best, last)


def test_best_and_last_beside_checkpoints_elsewhere(tmp_path):
    build_scripted_run(tmp_path / 'run', SCORES, out_dir=str(tmp_path / 'big')).train()
    assert names(tmp_path / 'run') == []
    check_second_names(
        tmp_path / 'big' / 'run', 'best_score_epoch_4.pth', 'epoch_4.pth'
    )


def test_where_the_file_system_has_no_hard_links(tmp_path, monkeypatch):
    """As exFAT, and many network drives: they are copies then."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, 'link', refuse)
    build_scripted_run(tmp_path, SCORES, max_keep_ckpts=1).train()
    for name, source in (
        ('best.pth', 'best_score_epoch_4.pth'),
        ('last.pth', 'epoch_4.pth'),
    ):
        assert (tmp_path / name).read_bytes() == (tmp_path / source).read_bytes()
        assert not (tmp_path / name).samefile(tmp_path / source)
    assert names(tmp_path, '.*') == []


def test_a_stopped_training_leaves_its_last_epoch(tmp_path):
    """Early stopping ends it between two checkpoints."""
    stop = dict(type='EarlyStoppingHook', monitor='score', rule='greater', patience=1)
    build_scripted_run(tmp_path, [0.3, 0.2, 0.1], hooks=(stop,), interval=3).train()
    check_second_names(tmp_path, 'best_score_epoch_1.pth', 'epoch_2.pth')


@pytest.mark.parametrize('name', ['last.pth', 'epoch_3.pth'])
def test_resume_by_either_name(copy, name):
    assert find_checkpoint_to_resume(copy, str(copy / name)) == f'{copy}/epoch_3.pth'
    assert find_checkpoint_to_resume(copy, str(copy)) == f'{copy}/epoch_3.pth'
    (copy / 'best.pth').unlink()
    build_scripted_run(copy, SCORES[:3], copy / 'epoch_3.pth').train()
    check_second_names(copy, 'best_score_epoch_2.pth', 'epoch_3.pth')
    shutil.copytree(copy, copy.with_name('again'))  # which makes files of their own
    again = copy.with_name('again')
    assert find_checkpoint_to_resume(again, str(again / name)) == str(again / name)


def test_last_is_resumed_where_nothing_else_is_left(copy):
    for path in (*copy.glob('epoch_*'), copy / 'last_checkpoint'):
        path.unlink()
    assert find_checkpoint_to_resume(copy, 'latest') == str(copy / 'last.pth')


@pytest.mark.slow
def test_a_run_that_is_killed_before_any_change_of_a_file(tmp_path):
    """Before some of all the changes that it makes: it goes on, and ends as it would.

    With KILL_EVERY=1 in the environment before each of them, which takes two minutes.
    """
    straight = tmp_path / 'straight'
    build_scripted_run(straight, SCORES, max_keep_ckpts=2).train()
    kills, step = 0, int(os.environ.get('KILL_EVERY', 25))
    for change in range(step // 2 + 1, 1000, step):
        folder = tmp_path / str(change)

        def train(resume: Path | str | None = None, folder: Path = folder) -> None:
            build_scripted_run(folder, SCORES, resume, max_keep_ckpts=2).train()

        if not run_until(Moment(change=change), train, folder):
            break
        kills += 1
        check_going_on(folder, straight, train)
        shutil.rmtree(folder)
    assert kills > 100 // step  # four epochs with up to three files each


@pytest.mark.slow
@pytest.mark.parametrize('size', [0, 100, 12_000])
def test_a_run_that_is_killed_in_the_midst_of_a_save(tmp_path, size):
    """The kernel ends the process when a file has so many bytes."""
    straight, folder = tmp_path / 'straight', tmp_path / 'run'
    build_scripted_run(straight, SCORES, max_keep_ckpts=2).train()

    def train(resume: Path | str | None = None) -> None:
        build_scripted_run(folder, SCORES, resume, max_keep_ckpts=2).train()

    build_scripted_run(folder, SCORES, epochs=2, max_keep_ckpts=2).train()
    before = (folder / 'epoch_2.pth').read_bytes()
    assert size < len(before)
    resumed = folder / 'epoch_2.pth'
    assert run_until(Moment(size=size), lambda: train(resumed), folder)
    assert resumed.read_bytes() == before
    check_going_on(folder, straight, train)


def check_going_on(folder, straight, train):
    """Every checkpoint is whole, and the run ends as one that was not killed."""
    for path in folder.glob('*.pth'):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None, path
        read(path)
    last = folder / 'last_checkpoint'
    if last.exists():
        assert Path(last.read_text()).is_file()
    if len(names(folder, 'epoch_*')) > 1:
        assert {'best.pth', 'last.pth'} <= set(names(folder))
    train(find_checkpoint_to_resume(folder, 'latest'))
    assert names(folder, '.*') == []
    assert names(folder, 'epoch_*') == names(straight, 'epoch_*')
    ended, expected = read(folder / 'epoch_4.pth'), read(straight / 'epoch_4.pth')
    best = Path(ended['message_hub']['runtime_info']['best_ckpt'])
    assert best.is_file() and best.parent == folder
    check_second_names(folder, best.name, 'epoch_4.pth')
    # MMEngine's loop does not make up a validation that was interrupted: a best file
    # that was saved just then is known to no checkpoint.
    assert len(names(folder, 'best_*')) <= 2
    assert ended['meta']['iter'] == 8
    for name, tensor in expected['state_dict'].items():
        assert torch.equal(ended['state_dict'][name], tensor), name


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def clear_middle(path: Path) -> None:
    """As a file system leaves it that has lost power: the size is right."""
    content = path.read_bytes()
    middle = content.index(b'data/0') + 2000
    path.write_bytes(content[:middle] + bytes(500) + content[middle + 500 :])


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A folder with the checkpoints of three epochs."""
    folder = tmp_path_factory.mktemp('first') / 'run'
    build_scripted_run(folder, SCORES[:3]).train()
    assert names(folder) == [
        *('best.pth', 'best_score_epoch_2.pth'),
        *(f'epoch_{i}.pth' for i in (1, 2, 3)),
        'last.pth',
    ]
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """A copy of it, of which some part may be missing or damaged."""
    folder = Path(shutil.copytree(run, tmp_path / 'copy'))
    for name, source in (('best', 'best_score_epoch_2'), ('last', 'epoch_3')):
        (folder / f'{name}.pth').unlink()
        os.link(folder / f'{source}.pth', folder / f'{name}.pth')
    return folder


@pytest.mark.parametrize(
    'damage, wanted, told',
    [
        (lambda f: None, 'epoch_3.pth', ''),
        (lambda f: truncate(f / 'epoch_3.pth'), 'epoch_2.pth', 'epoch_3.pth: .*trunc'),
        (lambda f: (f / 'epoch_3.pth').write_bytes(b''), 'epoch_2.pth', 'is empty'),
        (
            lambda f: clear_middle(f / 'epoch_3.pth'),
            'epoch_2.pth',
            'epoch_3.pth: .*damaged: .*/data/',
        ),
        (
            lambda f: [(f / name).unlink() for name in ('epoch_3.pth', 'last.pth')],
            'epoch_2.pth',
            'names epoch_3.pth, which is not in',
        ),
        (
            lambda f: (f / 'epoch_3.pth').unlink(),
            'last.pth',
            'names epoch_3.pth, which is not in',
        ),
        (lambda f: (f / 'last_checkpoint').unlink(), 'epoch_3.pth', 'last_checkpoint:'),
        (
            lambda f: (f / 'last_checkpoint').write_text(''),
            'epoch_3.pth',
            'last_checkpoint is empty',
        ),
        (
            lambda f: (f / 'last_checkpoint').write_bytes(b'\xff\0'),
            'epoch_3.pth',
            'last_checkpoint does not name a file',
        ),
        (
            lambda f: (f / 'last_checkpoint').write_text('best_score_epoch_2.pth'),
            'epoch_3.pth',
            'best_score_epoch_2.pth holds no state of the optimizer',
        ),
        (
            lambda f: [truncate(f / f'epoch_{i}.pth') for i in (2, 3)],
            'epoch_1.pth',
            'epoch_3.pth: (?s:.*)epoch_2.pth: ',
        ),
    ],
)
def test_the_newest_whole_checkpoint_is_resumed(copy, capsys, damage, wanted, told):
    damage(copy)
    for path in sorted(copy.glob('epoch_*'), reverse=True):
        path.touch()  # a copy's times say nothing
    found = find_checkpoint_to_resume(copy, 'latest')
    assert found == str(copy / wanted)
    output = capsys.readouterr().out
    assert re.search(told, output)
    assert bool(output) == bool(told)
    if told:
        assert f'Resuming {copy / wanted}, the newest whole checkpoint' in output


def test_without_any_whole_checkpoint(copy):
    for path in copy.glob('epoch_*'):
        truncate(path)
    with pytest.raises(UserError) as error:
        find_checkpoint_to_resume(copy, 'latest')
    message = str(error.value)
    assert 'has no whole checkpoint to resume' in message and '--work-dir' in message
    assert all(f'epoch_{i}.pth: ' in message for i in (1, 2, 3))


def test_newest_is_what_was_saved_last(copy):
    """A run that went on from an earlier epoch is newer than what it left behind."""
    (copy / 'last_checkpoint').unlink()
    content = read(copy / 'epoch_2.pth')
    content['meta']['time'] = '29991231_235959'
    torch.save(content, copy / 'epoch_2.pth')
    assert find_last_checkpoint(copy, copy)[0].name == 'epoch_2.pth'


def test_what_is_empty_does_not_block_a_new_run(tmp_path):
    (tmp_path / 'epoch_1.pth').touch()
    (tmp_path / 'last_checkpoint').touch()
    assert find_checkpoint_to_resume(tmp_path, None) is None
    assert find_checkpoint_to_resume(tmp_path, 'latest') is None


@pytest.mark.parametrize('key', ['optimizer', 'message_hub', 'param_schedulers'])
def test_a_checkpoint_without_a_part_of_the_state_is_refused(copy, tmp_path, key):
    path = copy / 'epoch_3.pth'
    content = read(path)
    del content[key]
    torch.save(content, path)
    with pytest.raises(UserError, match='epoch_3.pth holds .*load_from'):
        build_scripted_run(tmp_path / 'new', SCORES, path).train()
    if key == 'param_schedulers':  # a config may have none
        read_whole(path)
    else:
        with pytest.raises(UserError, match='epoch_3.pth holds .*load_from'):
            find_checkpoint_to_resume(tmp_path / 'new', str(path))


def test_best_weights_are_no_state_to_resume(copy, tmp_path):
    message = 'best_score_epoch_2.pth holds no state of the optimizer'
    with pytest.raises(UserError, match=message):
        find_checkpoint_to_resume(copy, str(copy / 'best_score_epoch_2.pth'))
    with pytest.raises(UserError, match=message):
        best = copy / 'best_score_epoch_2.pth'
        build_scripted_run(tmp_path / 'new', SCORES, best).train()


def test_missing_averaged_weights_are_refused(copy, tmp_path):
    """MMEngine would take the weights of one iteration for them, and only warn."""
    run = build_scripted_run(
        tmp_path, SCORES, copy / 'epoch_3.pth', hooks=(dict(type='StepEMAHook'),)
    )
    with pytest.raises(UserError, match='no averaged weights .* StepEMAHook'):
        run.train()


@pytest.mark.parametrize('moved', ['moved', 'copied', 'file'])
def test_a_run_goes_on_in_another_folder(run, tmp_path, moved):
    """The first run's files stay as they are; in the new folder is one best file."""
    first, second = tmp_path / 'first', tmp_path / 'second'
    shutil.copytree(run, first)
    # A run that has its paths from where it was at first.
    build_scripted_run(first, SCORES[:3], first / 'epoch_1.pth').train()
    before = snapshot(first)
    if moved == 'copied':
        shutil.copytree(first, second)
    elif moved == 'moved':
        shutil.move(first, second)
        before = {}
    resume = (first if moved == 'file' else second) / 'epoch_3.pth'
    build_scripted_run(second, SCORES, resume, max_keep_ckpts=2).train()
    assert names(second, 'best_*') == ['best_score_epoch_4.pth']
    assert (second / 'last_checkpoint').read_text() == str(second / 'epoch_4.pth')
    assert snapshot(first) == before


def test_a_checkpoint_does_not_follow_a_link(copy, tmp_path):
    """A folder may have been copied as links to the first run's files."""
    linked = tmp_path / 'linked'
    linked.mkdir()
    for path in copy.glob('*.pth'):
        (linked / path.name).symlink_to(path)
    before = snapshot(copy)
    build_scripted_run(linked, SCORES, linked / 'epoch_2.pth').train()
    assert snapshot(copy) == before


def test_only_files_of_a_run_are_removed(copy, tmp_path):
    """Whatever a checkpoint names as outdated."""
    kept = ['tiny.py', 'weights.pth', 'last_checkpoint.txt']
    for name in kept:
        (copy / name).touch()
    (tmp_path / 'epoch_1.pth').touch()
    content = read(copy / 'epoch_3.pth')
    content['message_hub']['runtime_info']['outdated_ckpts'] = [
        *kept,
        '../epoch_1.pth',
        str(tmp_path / 'epoch_1.pth'),
        '',
        '..',
        'best_score_epoch_1.pth',
    ]
    content['message_hub']['resumed_keys']['outdated_ckpts'] = True
    torch.save(content, copy / 'epoch_3.pth')
    (copy / 'best_score_epoch_1.pth').touch()
    build_scripted_run(copy, SCORES, copy / 'epoch_3.pth').train()
    assert all((copy / name).exists() for name in kept)
    assert (tmp_path / 'epoch_1.pth').exists()
    assert names(copy, 'best_*') == ['best_score_epoch_4.pth']


def test_a_finished_run_says_so(copy, capfd):
    build_scripted_run(copy, SCORES[:3], copy / 'epoch_3.pth').train()
    output = ''.join(capfd.readouterr())
    assert 'is finished: it has trained 3 of 3 epochs' in output
    assert 'train_cfg.max_epochs=N' in output
    build_scripted_run(copy, SCORES, copy / 'epoch_3.pth').train()
    assert 'is finished' not in ''.join(capfd.readouterr())


def test_a_full_disk_leaves_what_was_there(copy):
    before = snapshot(copy)
    run = build_scripted_run(copy, SCORES, copy / 'epoch_3.pth', max_keep_ckpts=1)
    with limit_file_size(11_000), pytest.raises(OSError) as error:
        run.train()
    assert error.value.filename == str(copy / 'epoch_4.pth')
    after = snapshot(copy)
    changed = {name for name in after if after[name] != before.get(name)}
    assert not any(name.endswith('.pth') for name in changed)
    assert before.keys() <= after.keys()
    assert names(copy, '.*') == []
