"""A run's folder stands for its config and its best checkpoint."""

from pathlib import Path

from mmnextvit.runs import Run, find_run, find_run_checkpoint
from mmnextvit.utils.errors import UserError

import pytest


def write(folder: Path, *names: str) -> Path:
    """Writes files into a folder, each with its own name in it."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f'name = {name!r}')
    return folder


def test_best_then_last_then_what_is_named(tmp_path):
    folder = write(tmp_path, 'a.py', 'epoch_1.pth', 'last_checkpoint')
    (folder / 'last_checkpoint').write_text('/gone/runs/a/epoch_1.pth')
    assert find_run(folder) == Run(folder, folder / 'a.py', folder / 'epoch_1.pth')
    for name in ('last.pth', 'best_score_epoch_1.pth', 'best.pth'):
        write(folder, name)
        assert find_run(str(folder)).checkpoint == folder / name
    (folder / 'best.pth').write_text('')  # a disk was full
    assert find_run(folder).checkpoint == folder / 'best_score_epoch_1.pth'


def test_checkpoints_in_another_folder(tmp_path):
    text = f"default_hooks = dict(checkpoint=dict(out_dir='{tmp_path}/big'))"
    folder = write(tmp_path / 'run', 'a.py')
    (folder / 'a.py').write_text(text)
    with pytest.raises(UserError, match='has no checkpoint'):
        find_run(folder)
    elsewhere = write(tmp_path / 'big' / 'run', 'best.pth')
    assert find_run(folder).checkpoint == elsewhere / 'best.pth'
    assert find_run_checkpoint(folder) == elsewhere / 'best.pth'


def test_of_several_configs_the_one_of_the_last_session(tmp_path):
    folder = write(tmp_path, 'a.py', 'b.py', 'c.py', 'best.pth')
    with pytest.raises(UserError, match=r'several configs \(a.py, b.py, c.py\)'):
        find_run(folder)
    for session, config in (('20250101_000000', 'c.py'), ('20250102_000000', 'b.py')):
        write(folder, f'{session}/vis_data/config.py')
        text = (folder / config).read_text()
        (folder / session / 'vis_data/config.py').write_text(text)
    assert find_run(folder).config == folder / 'b.py'
    (folder / 'b.py').write_text('edited = True')
    with pytest.raises(UserError, match='none is that of its last session'):
        find_run(folder)
    assert find_run_checkpoint(folder) == folder / 'best.pth'


@pytest.mark.parametrize(
    'names, message',
    [
        (
            [],
            r'no config \(NAME.py\) and no checkpoint \(best.pth or last.pth\), which',
        ),
        (['a.py'], r'a run: it has no checkpoint \(best.pth or last.pth\)'),
        (['best.pth'], r'a run: it has no config \(NAME.py\), which'),
        (['m.xml', 'm.bin'], 'no config .* and no checkpoint'),  # OpenVINO's
        (['y/last_checkpoint', 'x/last_checkpoint'], 'Name a run in it: x, y'),
    ],
)
def test_a_folder_that_is_no_run(tmp_path, names, message):
    folder = write(tmp_path, *names)
    with pytest.raises(UserError, match=message):
        find_run(folder)


def test_no_folder(tmp_path):
    write(tmp_path, 'file')
    with pytest.raises(UserError, match='file is a file: name the folder of a run'):
        find_run(tmp_path / 'file')
    with pytest.raises(UserError, match='none does not exist: name the folder'):
        find_run(tmp_path / 'none')
