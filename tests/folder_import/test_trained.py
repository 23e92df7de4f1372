"""The config with which a folder is trained on: where it is, and what is left."""

from pathlib import Path

from mmnextvit.apis import train
from mmnextvit.folder_import.trained import name_config, read_folder_config
from mmnextvit.utils.errors import UserError

import pytest

from tests.helpers.layouts import BUILDERS
from tests.helpers.new_configs import list_files


@pytest.fixture
def data(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    BUILDERS['voc_folders'](tmp_path / 'my images')
    return tmp_path / 'my images'


def test_each_call_has_a_run_of_its_own(data):
    before = list_files(data)
    runs = [Path(read_folder_config(data).work_dir) for _ in range(2)]
    assert list_files(data) == before
    assert runs == [Path('work_dirs/my_images'), Path('work_dirs/my_images_2')]
    configs = [run / 'config' / 'my_images.py' for run in runs]
    assert all(config.is_file() for config in configs)
    assert {path.name for path in Path().iterdir()} == {'my images', 'work_dirs'}


def test_a_named_run_keeps_the_configs_that_it_had(data):
    for name in ('config', 'config_2'):
        cfg = read_folder_config(data, 'mine')
        assert cfg.work_dir == 'mine'
        assert Path(cfg.filename) == Path('mine', name, 'my_images.py')
    before = list_files(Path('mine'))
    resumed = read_folder_config(data, 'mine', 'latest')
    assert Path(resumed.filename).parent.name == 'config_2'
    assert list_files(Path('mine')) == before
    with pytest.raises(UserError, match='say by work_dir which run goes on'):
        train(data, resume='latest')


@pytest.mark.parametrize('work_dir', [None, 'a/mine'])
def test_a_folder_that_cannot_be_read_leaves_nothing(work_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'odd').mkdir()
    (tmp_path / 'odd' / 'notes.md').write_text('nothing')
    with pytest.raises(UserError, match='no layout that is known'):
        train('odd', work_dir=work_dir)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {'odd'}


def test_names_of_configs():
    assert name_config('Blood cells/') == 'blood_cells.py'
    assert name_config('2024') == 'data_2024.py'


@pytest.mark.parametrize(
    'config, problem',
    [
        ('no.py', 'config no.py does not exist'),
        ('x.txt', 'x.txt: this is no config'),
        ('x.py', 'x.py: the file has no model'),
        (None, 'None is neither a config nor the path of one'),
    ],
)
def test_what_is_no_config(config, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('x.txt', 'x.py'):
        Path(name).write_text('a = 1')
    with pytest.raises(UserError, match=problem):
        train(config)
    assert {path.name for path in tmp_path.iterdir()} == {'x.txt', 'x.py'}
