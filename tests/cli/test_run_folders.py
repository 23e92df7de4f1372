"""Commands take the folder of a run for its checkpoint, or for its config as well."""

import argparse
import json
import shutil
from pathlib import Path

from mmnextvit.cli import COMMANDS
from mmnextvit.cli.arguments import add_detector, parse_arguments
from mmnextvit.utils.errors import UserError

import pytest
from safetensors.torch import load_file

from tests.helpers.commands import call_here, refusal, run_here


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a run of no size, a config, and an exported folder."""
    monkeypatch.chdir(tmp_path)
    for name in ('run/a.py', 'run/best.pth', 'run/last.pth', 'mine.py', 'mine.pth'):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text('x = 1')
    Path('a_openvino_model').mkdir()
    Path('a_openvino_model/a.xml').touch()
    Path('empty').mkdir()
    return tmp_path


def parse(*argv: str, export_alone: bool = False) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_detector(parser, 'checkpoint', export_alone)
    parser.add_argument('input', nargs='+')
    parser.add_argument('--device')
    return parse_arguments(parser, argv)


@pytest.mark.parametrize(
    'argv, config, checkpoint',
    [
        (['mine.py', 'mine.pth', 'x'], 'mine.py', 'mine.pth'),
        (['mine.py', '--device', 'cpu', 'mine.pth', 'x'], 'mine.py', 'mine.pth'),
        (['run', 'x'], 'run/a.py', 'run/best.pth'),
        (['run', '--device', 'cpu', 'x'], 'run/a.py', 'run/best.pth'),
        (['run/', 'x', '--cfg-options', 'a=1'], 'run/a.py', 'run/best.pth'),
        (['mine.py', 'run', 'x'], 'mine.py', 'run/best.pth'),
        (['run', 'mine.pth', 'x'], 'run/a.py', 'mine.pth'),
        (['run', 'run', 'x'], 'run/a.py', 'run/best.pth'),
        (['mine.py', 'a_openvino_model', 'x'], 'mine.py', 'a_openvino_model'),
        (['mine.py', 'https://a.invalid/b', 'x'], 'mine.py', 'https://a.invalid/b'),
    ],
)
def test_what_stands_for_what(folder, argv, config, checkpoint):
    args = parse(*argv)
    assert (args.config, args.checkpoint, args.input) == (config, checkpoint, ['x'])
    assert ('run_folder' in args) == argv[0].startswith('run')


@pytest.mark.parametrize(
    'argv, config, checkpoint, inputs',
    [
        (['run', 'a.jpg', 'b.jpg'], 'run/a.py', 'run/best.pth', ['a.jpg', 'b.jpg']),
        (['run', 'empty', 'b.mp4'], 'run/a.py', 'run/best.pth', ['empty', 'b.mp4']),
        (['run', '0', '1'], 'run/a.py', 'run/best.pth', ['0', '1']),
        (['run', 'mine.pth', 'a.jpg', 'b.jpg'], 'run/a.py', 'mine.pth', None),
        (['mine.py', 'mine.pth', 'a.jpg', 'b.jpg'], 'mine.py', 'mine.pth', None),
        (['run', 'timm://a', 'a.jpg', 'b.jpg'], 'run/a.py', 'timm://a', None),
        (['run', 'b.onnx', 'a.jpg', 'b.jpg'], 'run/a.py', 'b.onnx', None),
        (['a.onnx', 'x'], None, 'a.onnx', ['x']),
        (['a_openvino_model', 'x', 'y'], None, 'a_openvino_model', ['x', 'y']),
        (['mine.py', 'a.onnx', 'x', 'y'], 'mine.py', 'a.onnx', ['x', 'y']),
    ],
)
def test_several_inputs(folder, argv, config, checkpoint, inputs):
    args = parse(*argv, export_alone=True)
    assert (args.config, args.checkpoint) == (config, checkpoint)
    assert args.input == (inputs or ['a.jpg', 'b.jpg'])


def test_what_is_missing(folder, capsys):
    with pytest.raises(SystemExit):
        parse('mine.py', 'x')
    message = 'required: checkpoint (mine.py is not the folder of a run'
    assert message in capsys.readouterr().err
    for argv, missing in (
        (
            ('empty', 'x'),
            'no config (NAME.py) and no checkpoint (best.pth or last.pth)',
        ),
        (('mine.py', 'empty', 'x'), 'no checkpoint (best.pth or last.pth)'),
        (('a_openvino_model', 'x'), 'no config (NAME.py) and no checkpoint'),
    ):
        with pytest.raises(UserError) as error:
            parse(*argv)
        assert f'but not that of a run: it has {missing}' in str(error.value)


def test_every_argument_of_weights_takes_a_run(folder):
    """A command that names weights in an argument of another name would be missed."""
    for argv in (
        ('test', 'mine.py', 'empty'),
        ('predict', 'mine.py', 'empty', 'x'),
        ('export', 'mine.py', 'empty', '--to', 'onnx'),
        ('convert_weights', 'empty', 'new.pth'),
        ('bench', 'mine.py', 'empty'),
        ('benchmark', 'loops', '--config', 'mine.py', '--checkpoint', 'empty'),
        ('new', 'data', '--weights', 'empty'),
        ('train', 'mine.py', '--resume', 'empty'),
    ):
        assert argv[0] in COMMANDS
        if argv[0] != 'train':  # which looks once it has read its config
            assert 'not that of a run' in refusal(*argv, cwd=folder)


@pytest.mark.slow
def test_a_run_that_was_moved(trained, tmp_path, capfd):
    """Its config names the old folder, and was trained from a third one."""
    run = tmp_path / 'moved'
    shutil.copytree(trained.work_dir, run)
    best = next(run.glob('best_*.pth'))
    assert (run / 'best.pth').read_bytes() == best.read_bytes()

    tested = call_here('test', 'moved', cwd=tmp_path)
    args = run / 'tiny.py', best, '--work-dir', 'other'
    assert tested == call_here('test', *args, cwd=tmp_path)
    assert (run / 'test').is_dir()
    images = trained.folder / 'data' / 'val'
    run_here('predict', 'moved', images, '--out-dir', 'p', cwd=tmp_path, capfd=capfd)
    about = json.loads((tmp_path / 'p' / 'predictions.json').read_text())
    assert about['checkpoint'] == 'moved/best.pth' and about['predictions']
    call_here('convert_weights', 'moved', 'a.safetensors', cwd=tmp_path)
    call_here('convert_weights', best, 'b.safetensors', cwd=tmp_path)
    a, b = (load_file(tmp_path / f'{name}.safetensors') for name in 'ab')
    assert a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)

    message = refusal('train', 'moved', cwd=tmp_path)
    assert message.startswith('moved holds another run') and '--resume' in message
    more = 'train_cfg.max_epochs=3', 'train_cfg.val_interval=3'
    call_here('train', 'moved', '--resume', '--cfg-options', *more, cwd=tmp_path)
    assert (run / 'last.pth').samefile(run / 'epoch_3.pth')
    assert not (tmp_path / 'work_dirs').exists()
    # The config of a session that went on names what it went on from.
    message = refusal('train', 'moved', cwd=tmp_path)
    assert message.startswith('moved holds another run')
    new = '--work-dir', 'new', '--resume', 'moved', '--cfg-options'
    call_here('train', 'moved', *new, 'train_cfg.max_epochs=4', cwd=tmp_path)
    assert (tmp_path / 'new/last.pth').samefile(tmp_path / 'new/epoch_4.pth')
    assert not (run / 'epoch_4.pth').exists()
