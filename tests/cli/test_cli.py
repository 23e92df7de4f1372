"""The command line itself: what it prints, suggests and returns, whatever is run."""

import errno
import io
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import mmnextvit
from mmnextvit import cli
from mmnextvit.cli import COMMANDS, call, describe, main, package_tools
from mmnextvit.cli.arguments import add_config
from mmnextvit.utils.errors import MissingFileError, MissingPackageError, UserError

import pytest
import torch
from mmengine.logging import HistoryBuffer

from tests.conftest import ROOT


@pytest.fixture
def command(monkeypatch):
    """Makes a command ``fake`` that does what it is given."""

    def make(action, arguments=lambda parser: None):
        module = ModuleType('mmnextvit.cli.fake', 'Do as the test wants.\n\nMore.')
        module.__spec__ = ModuleSpec(module.__name__, None)
        module.add_arguments = arguments
        module.run = lambda args: action()
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(cli, 'COMMANDS', (*COMMANDS, 'fake'))

    return make


def ends(capfd, *argv):
    """The exit code, stdout and stderr of ``mmnextvit ARGV``."""
    code = 0
    try:
        main(None, argv)
    except SystemExit as error:
        code = error.code
    return code or 0, *capfd.readouterr()


# Help, the version and names


@pytest.mark.parametrize('argv', [('--help',), ('-h',), ()])
def test_help_lists_every_command_with_a_line(argv, capfd):
    code, out, err = ends(capfd, *argv)
    assert code == (0 if argv else 2)
    listed = out if argv else err
    assert not (err if argv else out)
    lines = [line.strip() for line in listed.splitlines()]
    for name in COMMANDS:
        assert f'{name:16} {describe(name)}' in lines
    assert 'train            Train a detector.' in lines
    assert all(len(line) <= 88 for line in lines)
    assert 'mmdet/analysis_tools/analyze_logs' in listed


def test_version(capfd):
    assert ends(capfd, '--version') == (0, f'mmnextvit {mmnextvit.__version__}\n', '')


@pytest.mark.parametrize(
    'name, hint',
    [
        ('trian', 'did you mean train?'),
        ('--verison', 'there are new, '),
        ('zzz', 'there are new, '),
        ('mmdet/analyze_logs', 'did you mean mmdet/analysis_tools/analyze_logs'),
        pytest.param(
            'mmyolo/zzz/zzz/zzz/zzz/zzz', 'there are mmyolo/', marks=pytest.mark.mmyolo
        ),
    ],
)
def test_wrong_names_suggest_near_ones(name, hint, capfd):
    code, out, err = ends(capfd, name)
    assert code == 2 and not out
    assert len(err.splitlines()) == 1
    assert err.startswith('mmnextvit: there is no ') and repr(name) in err
    assert hint in err


def test_a_wrong_name_in_python_is_an_error():
    with pytest.raises(UserError, match="no command 'trian': did you mean train"):
        call('trian')


def test_every_command_is_a_module_and_a_script():
    assert {path.stem for path in (ROOT / 'tools').glob('*.py')} == set(COMMANDS)
    shared = {'__init__', 'arguments', 'package_tools'}
    modules = {path.stem for path in (ROOT / 'mmnextvit' / 'cli').glob('*.py')}
    assert modules - shared == set(COMMANDS)
    for name in COMMANDS:
        module = import_module(f'mmnextvit.cli.{name}')
        assert module.__doc__ and module.add_arguments and module.run
        assert describe(name) == module.__doc__.splitlines()[0]
        assert describe(name).endswith('.') and 10 < len(describe(name)) <= 69


@pytest.mark.slow
def test_nothing_heavy_is_imported_for_help_and_first_lines(tmp_path):
    """Nor before it is seen that a file is missing."""
    for name in ('run/x.py', 'run/best.pth', 'y.py', 'empty/y.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('here')
    code = """
import sys
from mmnextvit.cli import COMMANDS, main
asked = [['--help'], ['--version'], [], ['trian'], ['mmdet/trian']]
asked += [[name, '--help'] for name in COMMANDS]
for argv in [*asked, ['compute_anchors', '--huh']]:
    try:
        main(None, argv)
    except SystemExit:
        pass
heavy = {'torch', 'mmengine', 'mmcv', 'mmdet', 'mmyolo', 'timm', 'numpy', 'cv2', 'yaml'}
print('imported:', sorted(heavy & set(sys.modules)))
# What the commands import next.
sys.modules.update({'mmnextvit.apis': None, 'mmnextvit.deploy.export': None})
for command in sys.argv[1:]:
    print('>', command)
    try:
        main(None, command.split())
    except (SystemExit, ImportError):
        pass
print('>')
print('imported:', sorted(heavy & set(sys.modules)))
import mmnextvit.runtime
print('imported:', sorted(heavy & set(sys.modules)))
"""
    run = 'config    run/x.py\nweights   run/best.pth\n'
    ways = {
        'train y.py --cfg-options data_root=x --work-dir new': 'config    y.py\n',
        'train run --resume': 'config    run/x.py\n',
        'test run': run,
        'predict run images': f'{run}images    images\n',
        'export run --to onnx': f'{run}format    onnx\n',
        'train no.py': '',
        'train empty': '',
        'train y.py --work-dir y.py': '',
        'train y.py --lr 1 --cfg-options optim_wrapper.optimizer.lr=2': '',
        'predict y.py no.pth images': '',
        'predict empty images': '',
        'test y.py no.onnx': '',
        'export y.py no.pth --to onnx': '',
    }
    result = subprocess.run(
        [sys.executable, '-c', code, *ways],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    said = [line for line in result.stdout.splitlines() if 'imported:' in line]
    assert said == ['imported: []'] * 2 + ["imported: ['cv2', 'numpy']"], result.stderr
    told = dict(re.findall('^> (.*)\n((?:[^>].*\n)*)', result.stdout, re.MULTILINE))
    assert told == ways
    reasons = 'does not exist|not that of a run|is a file|say the same'
    refused = re.findall(f'^mmnextvit .*(?:{reasons})', result.stderr, re.MULTILINE)
    assert len(refused) == list(ways.values()).count(''), result.stderr
    assert not (tmp_path / 'new').exists()


# A command's arguments


def test_a_commands_help_and_wrong_arguments(command, capfd):
    command(lambda: None, add_config)
    code, out, _ = ends(capfd, 'fake', '--help')
    assert code == 0 and 'usage: mmnextvit fake' in out
    assert 'Do as the test wants.' in out and 'More' not in out
    for wrong in ((), ('x.py', '--huh'), ('x.py', '--cfg-options', 'a=1', 'b')):
        code, out, err = ends(capfd, 'fake', *wrong)
        assert code == 2 and not out and 'usage: mmnextvit fake' in err
    assert "'b' is not KEY=VALUE" in err


def test_the_name_of_a_script_is_accepted(command, capfd):
    command(lambda: print('ran'))
    assert ends(capfd, 'fake.py') == (0, 'ran\n', '')
    assert call('fake.py') is None


def test_config_options_are_mmengines(monkeypatch, command):
    command(lambda: None, add_config)
    module = sys.modules['mmnextvit.cli.fake']
    monkeypatch.setattr(module, 'run', lambda args: args.cfg_options)
    options = '--cfg-options', 'a.b=1', 'c=[x,2]', '--cfg-options', 'd=e=f'
    assert call('fake', 'x.py', *options) == {'a.b': 1, 'c': ['x', 2], 'd': 'e=f'}
    assert call('fake', 'x.py') == {}


# How it ends


def raising(error):
    def action():
        raise error

    return action


def test_a_commands_result_is_returned(command, capfd):
    command(lambda: 'result')
    assert call('fake') == 'result'
    assert ends(capfd, 'fake') == (0, '', '')


@pytest.mark.slow
@pytest.mark.parametrize(
    'error, text',
    [
        (UserError('is wrong', file='a.yaml', line=3), 'a.yaml:3: is wrong'),
        (MissingFileError('x does not exist'), 'x does not exist'),
        (MissingPackageError('install y'), 'install y'),
        (OSError(errno.ENOSPC, 'No space left', 'a/b'), 'a/b: No space left'),
        (OSError(errno.ENOSPC, 'No space left'), 'No space left'),
        (
            OSError(errno.EROFS, 'Read-only file system', 'a'),
            'a: Read-only file system',
        ),
        (OSError(errno.EACCES, 'Permission denied', b'a'), 'a: Permission denied'),
        (OSError(errno.EXDEV, 'Invalid link', 'a', None, 'b'), 'a: b: Invalid link'),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, text, command, capfd):
    command(raising(error))
    assert ends(capfd, 'fake') == (1, '', f'mmnextvit fake: {text}\n')


@pytest.mark.slow
def test_errors_of_the_system_are_one_line(command, tmp_path, capfd):
    (tmp_path / 'file').touch()
    for path, text in [
        (tmp_path / ('a' * 300), 'File name too long'),
        (tmp_path / 'file' / 'x', 'Not a directory'),
        (tmp_path, 'Is a directory'),
        (tmp_path / 'no' / 'x', 'No such file or directory'),
    ]:
        command(lambda path=path: path.write_text(''))
        assert ends(capfd, 'fake') == (1, '', f'mmnextvit fake: {path}: {text}\n')


def meets_a_bug():
    try:
        raise UserError('is wrong')
    except UserError as error:
        return error.no_such_field


@pytest.mark.parametrize(
    'action, error',
    [
        (lambda: {}['missing'], KeyError),
        (raising(ValueError('ours, but no UserError')), ValueError),
        (raising(FileNotFoundError('no file named')), FileNotFoundError),
        (raising(BrokenPipeError(errno.EPIPE, 'a worker died')), BrokenPipeError),
        (meets_a_bug, AttributeError),
    ],
)
def test_a_bug_keeps_its_traceback(action, error, command):
    command(action)
    with pytest.raises(error):
        main('fake', [])


def test_ctrl_c(command, capfd):
    command(raising(KeyboardInterrupt()))
    assert ends(capfd, 'fake') == (130, '', 'mmnextvit fake: interrupted\n')


def test_ctrl_c_that_a_library_turned_into_another_error(command, capfd):
    def format_config():
        try:
            raise KeyboardInterrupt
        except:  # noqa: E722  (as MMEngine's pretty_text)
            raise SyntaxError('Failed to format the config file')  # noqa: B904

    command(format_config)
    assert ends(capfd, 'fake') == (130, '', 'mmnextvit fake: interrupted\n')


def keep_what_was_found():
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt as interrupt:
        interrupt.args = ('the first half is in x.json',)
        raise


@pytest.mark.slow
@pytest.mark.parametrize(
    'action, code, text',
    [
        (lambda: signal.raise_signal(signal.SIGTERM), 143, 'terminated'),
        (lambda: signal.raise_signal(signal.SIGHUP), 129, 'terminated'),
        (lambda: signal.raise_signal(signal.SIGINT), 130, 'interrupted'),
        (keep_what_was_found, 143, 'terminated; the first half is in x.json'),
    ],
)
def test_signals_end_a_command_in_one_line(action, code, text, command, capfd):
    before = signal.getsignal(signal.SIGTERM)
    command(action)
    assert ends(capfd, 'fake') == (code, '', f'mmnextvit fake: {text}\n')
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_does_not_end_the_tidying_up(command, capfd):
    tidied = []

    def action():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            tidied.append(True)

    command(action)
    assert ends(capfd, 'fake') == (143, '', 'mmnextvit fake: terminated\n')
    assert tidied


@pytest.mark.parametrize('handler', [signal.SIG_IGN, lambda number, frame: None])
def test_signals_that_a_program_ignores_or_handles_stay_so(handler, command, capfd):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        command(lambda: signal.raise_signal(signal.SIGTERM))
        assert ends(capfd, 'fake') == (0, '', '')
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_a_forked_worker_ends_as_it_always_does(command, capfd):
    """Silently, by the signal itself: pools end theirs with SIGTERM."""

    def action():
        child = os.fork()
        if not child:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    command(action)
    assert ends(capfd, 'fake') == (0, f'{-signal.SIGTERM}\n', '')


def test_a_command_in_another_thread(command, capfd):
    """Where Python sets no handlers of signals."""
    command(lambda: print('ran'))
    thread = threading.Thread(target=main, args=('fake', []))
    thread.start()
    thread.join()
    assert capfd.readouterr().out == 'ran\n'


@pytest.mark.slow
@pytest.mark.parametrize('argv', [('--help',), ('compute_anchors', '--help')])
def test_a_closed_pipe_is_silent(argv):
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, '-m', 'mmnextvit', *argv],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONUNBUFFERED': ''},  # argparse drops such an error
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, '')


def test_a_terminal_that_cannot_encode_gets_escapes(command, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', terminal)
    command(lambda: print('Häuser'))
    main('fake', [])
    assert terminal.buffer.getvalue() == b'H\\xe4user' + os.linesep.encode()


# Other packages' tools


def test_tools_of_other_packages():
    path = package_tools.find_tool('mmdet/analysis_tools/analyze_logs')
    assert path.is_file() and 'mmdet' in path.parts
    assert package_tools.find_tool('mmdet/analysis_tools/analyze_logs.py') == path


def test_a_tool_of_a_package_that_is_missing(monkeypatch, capfd):
    monkeypatch.setattr(package_tools, 'find_spec', lambda name: None)
    text = 'mmnextvit mmyolo/x: mmyolo is not installed\n'
    assert ends(capfd, 'mmyolo/x') == (1, '', text)


def test_a_script_runs_as_python_runs_it(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, 'argv', [])
    monkeypatch.setattr(sys, 'path', ['', *sys.path[1:]])
    (tmp_path / 'beside_the_script.py').write_text('name = "beside"')
    script = tmp_path / 'script.py'
    script.write_text(
        'import sys, beside_the_script as b\nprint(__name__, sys.argv, b.name)'
    )
    package_tools.run_script(script, ['a', '-b'])
    assert capfd.readouterr().out == f'__main__ {[str(script), "a", "-b"]} beside\n'


@pytest.fixture
def script_state(monkeypatch):
    monkeypatch.setattr(sys, 'argv', [])
    monkeypatch.setattr(sys, 'path', ['', *sys.path[1:]])


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """What a run saves: weights, logs of MMEngine's, and the optimizer's state."""
    history = HistoryBuffer()
    history.update(2.5)
    file = tmp_path / 'epoch_1.pth'
    torch.save(
        dict(
            meta=dict(epoch=1, cfg='x = 1'),
            state_dict={'backbone.weight': torch.arange(3.0)},
            message_hub=dict(log_scalars={'train/loss': history}),
            optimizer=dict(state={}),
        ),
        file,
    )
    return file


@pytest.mark.parametrize(
    'tool', ['mmdet/model_converters/publish_model', 'mmyolo/misc/publish_model']
)
def test_tools_that_publish_a_model_read_checkpoints(
    tool, checkpoint, tmp_path, script_state
):
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        torch.load(checkpoint)
    load, out = torch.load, tmp_path / 'published.pth'
    package_tools.run_script(package_tools.find_tool(tool), [str(checkpoint), str(out)])
    assert torch.load is load
    pattern = 'published-????????.pth'
    for _ in range(1000):  # the tool does not wait for the `mv` that it starts
        if list(tmp_path.glob(pattern)):
            break
        time.sleep(0.01)
    (published,) = tmp_path.glob(pattern)
    content = torch.load(published)
    assert content.keys() == {'meta', 'state_dict'}
    assert content['meta'] == dict(epoch=1, cfg='x = 1')
    assert content['state_dict']['backbone.weight'].tolist() == [0, 1, 2]


def test_tools_run_nothing_that_a_file_holds(tmp_path, script_state):
    script, file = tmp_path / 'script.py', tmp_path / 'bad.pth'
    made = tmp_path / 'made'
    torch.save(dict(state_dict=Calls(made)), file)
    script.write_text('import sys, torch\ntorch.load(sys.argv[1])')
    load = torch.load
    with pytest.raises(UserError, match='mkdir'):
        package_tools.run_script(script, [str(file)])
    assert torch.load is load and not made.exists()


class Calls:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


def test_tools_that_say_how_to_load_get_that(checkpoint, tmp_path, script_state):
    script = tmp_path / 'script.py'
    script.write_text('import sys, torch\ntorch.load(sys.argv[1], weights_only=True)')
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        package_tools.run_script(script, [str(checkpoint)])
