"""Configs that a command is given: what is no config ends in one line."""

import argparse

from mmnextvit import config_file
from mmnextvit.cli.arguments import check_new_config, to_share
from mmnextvit.engine.configs import read_config
from mmnextvit.utils.errors import UserError

import pytest

from tests.helpers.commands import refusal

NEXTVIT_S = config_file('yolov5_nextvit_s')


@pytest.mark.parametrize(
    'name, content, message',
    [
        ('a.py', b'x = (\n', r"a.py:1: the file is not Python: '\(' was never closed"),
        ('a.py', b'x = 1\ny = )\n', 'a.py:2: the file is not Python: unmatched'),
        ('a.py', b'\x00\xff', 'a.py: the file is not Python'),
        ('a.py', b'x = "\xff"\n', 'a.py.*the file is not Python'),
        ('a.yaml', b'\xff\xfe\xff', 'a.yaml: the file is not text in UTF-8'),
        ('a.json', b'{\n"model": ', 'a.json:2: the file is not JSON: Expecting value'),
        ('README.md', b'# x\n', r'README\.md: .* name must end in \.py or \.yml'),
        ('a', b'model = dict()\n', 'a: this is no config'),
        ('a.yaml', b'- 1\n', 'a.yaml: the file, or .* holds no keys'),
        ('a.yaml', b'', 'a.yaml: the file, or .* holds no keys'),
        ('a.json', b'3', 'a.json: the file, or .* holds no keys'),
        ('a.py', b'', 'a.py: the file has no model'),
        ('a.py', b'x = 1\n', 'a.py: the file has no model'),
        ('a.py', b'model = 3\n', 'a.py: the file has no model'),
        pytest.param(
            'a.py',
            b'_base_ = "./a.py"\n',
            'a.py: its _base_ files inherit from each',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_no_config(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_config(str(tmp_path / name))


def test_a_missing_config():
    with pytest.raises(FileNotFoundError, match='config no.py does not exist'):
        read_config('no.py')


def test_a_config_whose_own_code_fails_keeps_its_error(tmp_path):
    (tmp_path / 'a.py').write_text('x = 1 / 0\n')
    with pytest.raises(ZeroDivisionError):
        read_config(str(tmp_path / 'a.py'))


@pytest.mark.parametrize('name', ['class.py', '1.py', 'a.txt', 'a-b.py'])
def test_names_of_new_configs(name, tmp_path):
    with pytest.raises(UserError, match='a config is called like my_config.py'):
        check_new_config(str(tmp_path / name))


@pytest.mark.parametrize('text', ['7', '-0.1', 'nan'])
def test_scores_are_shares(text):
    assert to_share('0.3') == 0.3
    with pytest.raises(argparse.ArgumentTypeError, match=f'{text} is not from 0 to 1'):
        to_share(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    'command, args, what',
    [
        ('train', (NEXTVIT_S, '--resume', ''), 'checkpoint'),
        ('test', (NEXTVIT_S, ''), 'checkpoint'),
        ('predict', (NEXTVIT_S, '', 'x.jpg'), 'checkpoint'),
        ('export', (NEXTVIT_S, '', '--to', 'onnx'), 'checkpoint'),
        ('convert_weights', ('a.pth', 'b.pth', '--config', ''), 'config'),
        ('import_yolov5', ('m.yaml', '-o', 'x.py', '--data', ''), '--data'),
        ('import_yolov5', ('m.yaml', '-o', 'x.py', '--hyp', ''), '--hyp'),
        ('import_yolov5', ('m.yaml', '-o', 'x.py', '--weights', ''), '--weights'),
    ],
)
def test_an_empty_name_of_a_file(command, args, what, tmp_path):
    """As a script's variable gives it that is not set: it does not mean none."""
    assert f'{what}: its name is empty' in refusal(command, *args, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
