"""What the README and some of the pages show works as it stands there."""

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import mmnextvit
from mmnextvit.cli import COMMANDS
from mmnextvit.datasets.demo_data import make_demo_data
from mmnextvit.engine import runner

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from tests.conftest import ROOT, TINY
from tests.helpers.commands import call_here, run_here

README = (ROOT / 'README.md').read_text(encoding='utf-8')
MMDETECTION = (ROOT / 'docs' / 'mmdetection.md').read_text(encoding='utf-8')


PAGES = [p for folder in ('docs', 'benchmarks') for p in (ROOT / folder).rglob('*.md')]


def code(language: str, containing: str, page: str = README) -> str:
    blocks = re.findall(rf'```{language}\n(.*?)```', page, re.S)
    return next(block for block in blocks if containing in block)


def write_own_data(data: Path) -> None:
    """COCO data of two classes, a file a split."""
    make_demo_data(data, train=2, val=1, size=64, seed=0)
    for split in ('train', 'val'):
        content = json.loads((data / 'annotations' / f'{split}.json').read_text())
        content['categories'] = [dict(id=1, name='cat'), dict(id=2, name='dog')]
        for annotation in content['annotations']:
            annotation['category_id'] = 1 + annotation['category_id'] % 2
        (data / f'{split}.json').write_text(json.dumps(content))


@pytest.mark.slow
def test_the_commands_for_own_data(tmp_path, capfd):
    """As shown: the first lines of `new`, and a training of it.

    On other data, with a small backbone, small images and one epoch, which save time.
    """
    write_own_data(tmp_path / 'data' / 'my_data')
    shutil.rmtree(tmp_path / 'data' / 'my_data' / 'annotations')
    shown = code('console', 'mmnextvit new')
    new, train = (
        shlex.split(line)
        for line in re.findall(r'^\$ mmnextvit (.*)$', shown.replace('\\\n', ''), re.M)
    )
    assert new[:2] == ['new', 'data/bccd'] and train[:2] == ['train', 'bccd.py']
    printed = run_here('new', 'data/my_data', cwd=tmp_path, capfd=capfd)
    for line in ('  train ', '  val ', '  boxes of ', 'my_data.py: yolov5_nextvit_s_'):
        assert line in printed and line.replace('my_data', 'bccd') in shown
    train[1] = 'my_data.py'
    train[train.index('--imgsz') + 1] = '64'
    train[train.index('--epochs') + 1] = '1'
    options = [
        f'model.backbone.arch.{key}={list(value)}' for key, value in TINY.items()
    ]
    printed = run_here(*train, '--cfg-options', *options, cwd=tmp_path, capfd=capfd)
    # What the README shows of a training begins each line as ours does.
    for word in ('model ', 'train ', 'classes ', 'training ', 'run '):
        assert f'\n{word}' in printed and f'\n{word}' in shown
    assert 'coco/bbox_mAP_50' in printed
    assert (tmp_path / 'work_dirs' / 'my_data' / 'last_checkpoint').is_file()


@pytest.mark.slow
def test_a_config_by_hand_trains_as_it_stands(tmp_path, capfd):
    """That of docs/data.md, with no change but what saves time."""
    page = (ROOT / 'docs' / 'data.md').read_text()
    config = (
        page.split('## A config by hand')[1].split('```python\n')[1].split('```')[0]
    )
    path = tmp_path / 'my_data.py'
    path.write_text(config.replace("'./", f"'{ROOT}/configs/"))
    write_own_data(tmp_path / 'data' / 'my_data')
    options = [
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'train_dataloader.batch_size=2',
        *(f'model.backbone.arch.{key}={list(value)}' for key, value in TINY.items()),
    ]
    command = 'train', path, '--cfg-options', *options
    printed = run_here(*command, cwd=tmp_path, capfd=capfd)
    assert 'coco/bbox_mAP_50' in printed
    assert (tmp_path / 'work_dirs' / 'my_data' / 'last_checkpoint').is_file()


def test_a_written_config_is_as_the_page_shows(tmp_path, monkeypatch):
    """Folders, and the numbers of images and epochs, are those of the data."""
    page = (ROOT / 'docs' / 'data.md').read_text()
    shown = page.split('## The config')[1].split('```python\n')[1].split('```')[0]
    image = np.zeros((480, 640, 3), np.uint8)
    (tmp_path / 'cells' / 'JPEGImages').mkdir(parents=True)
    (tmp_path / 'cells' / 'Annotations').mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        name = ('RBC', 'WBC', 'Platelets')[number % 3]
        image[::40, ::40] = rng.integers(0, 256, (12, 16, 3))
        cv2.imwrite(str(tmp_path / 'cells' / 'JPEGImages' / f'{number}.jpg'), image)
        (tmp_path / 'cells' / 'Annotations' / f'{number}.xml').write_text(
            '<annotation><size><width>640</width><height>480</height></size><object>'
            f'<name>{name}</name><bndbox><xmin>100</xmin><ymin>100</ymin>'
            '<xmax>200</xmax><ymax>200</ymax></bndbox></object></annotation>'
        )
    call_here('new', 'cells', cwd=tmp_path)
    written = (tmp_path / 'cells.py').read_text()

    def leave_out(text: str) -> str:
        return re.sub(r"'/.*?/cells/'|in /.*|\d[\d,]*", '_', text)

    assert leave_out(written) == leave_out(shown)


def test_the_backbone_example():
    scope: dict = {}
    example = code('python', 'from mmnextvit import NextViT', MMDETECTION)
    exec(example, scope)
    backbone = scope['backbone']
    line = example.strip().splitlines()[-1]
    expected = line.split('#')[1].strip()
    assert str((backbone.out_channels, backbone.strides)) == f'({expected})'


@pytest.mark.slow
def test_the_predictor_example(tmp_path, monkeypatch, tiny):
    """With a small backbone, and a head that sees a person in every cell."""
    cfg = mmnextvit.get_config('yolov5_nextvit_s')
    cfg.model.backbone.arch = tiny
    model = runner.build_model(cfg)
    for conv in model.bbox_head.head_module.convs_pred:
        conv.bias.data.view(3, -1)[:, 4:6] = 9  # that there is an object, and its class
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'my.pth')
    cv2.imwrite(str(tmp_path / 'image.jpg'), np.full((64, 96, 3), 90, np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mmnextvit, 'get_config', {'yolov5_nextvit_s': cfg}.get)
    scope: dict = {}
    exec(code('python', 'predictor(cv2', MMDETECTION), scope)
    assert scope['objects']
    for found in scope['objects']:
        assert found['class'] == 'person' and found['score'] > 0.9
        x1, y1, x2, y2 = found['box']
        assert 0 <= x1 <= x2 <= 96 and 0 <= y1 <= y2 <= 64


@pytest.mark.slow
def test_the_backbone_in_a_config_of_mmdetection(tmp_path):
    """The lines that docs/mmdetection.md adds to one."""
    example = code('python', 'custom_imports', MMDETECTION)
    base = "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'"
    (tmp_path / 'my_config.py').write_text(f'{base}\n{example}')
    detector = runner.build_model(Config.fromfile(tmp_path / 'my_config.py'))
    assert isinstance(detector.backbone, mmnextvit.NextViT)
    maps = detector.extract_feat(torch.zeros(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [8, 4, 2, 1, 1]


def test_a_config_anywhere_inherits_in_the_line_that_is_shown(tmp_path):
    line = code('python', 'config_file(', MMDETECTION).strip()
    (tmp_path / 'my_config.py').write_text(line)
    cfg = Config.fromfile(tmp_path / 'my_config.py')
    assert cfg.model.backbone.type == 'mmdet.NextViT'


def test_python_is_that_of_its_own_page():
    """Where it is run: test_python_page.py."""
    page = (ROOT / 'docs' / 'python.md').read_text(encoding='utf-8')
    assert code('python', 'train(') == code('python', 'train(', page)


def test_it_is_short_and_begins_with_the_two_commands_that_set_it_up():
    assert len(README.splitlines()) <= 200
    first = re.search(r'```(?:bash|console)\n(.*?)```', README, re.S)[1]
    assert re.findall(r'^(\S+ \S+)', first, re.M) == ['make demo', 'make test']


def test_every_file_that_it_names_is_there():
    links = re.findall(r'\]\((?!https?:|#)([^)#]+)', README)
    scripts = re.findall(r'tools/\w+\.(?:py|sh)', README)
    assert links and scripts
    assert not [name for name in (*links, *scripts) if not (ROOT / name).is_file()]


def test_every_command_is_in_its_table():
    """Or in another place of it; what is for developers may be left out."""
    named = set(re.findall(r'`mmnextvit (\w+)', README))
    blocks = '\n'.join(re.findall(r'```(?:bash|console)\n(.*?)```', README, re.S))
    named |= set(re.findall(r'^(?:\$ )?mmnextvit (\w+)', blocks, re.M))
    assert named <= {*COMMANDS, 'mmyolo'}
    elsewhere = {
        'benchmark',
        'compute_anchors',
        'demo',
        'make_demo_data',
        'report',
        'serve',
    }
    assert set(COMMANDS) - named == elsewhere
    pages = ''.join(p.read_text(encoding='utf-8') for p in PAGES)
    assert all(f'mmnextvit {name}' in pages for name in elsewhere)


def test_every_config_is_in_its_table():
    """With its number of parameters, as the model zoo has it, where it says one."""
    rows = re.findall(r'^\| (`[^|]+\.py`) \| ([^|]*) \|', README, re.M)
    zoo = (ROOT / 'docs' / 'model_zoo.md').read_text(encoding='utf-8')
    named = {}
    for cell, parameters in rows:
        names = [
            n for pattern in re.findall(r'`([^`]+)`', cell) for n in spread(pattern)
        ]
        names = [f'{n}nextvit_s_fpn_1x_coco.py' if n[-1] == '_' else n for n in names]
        counts = parameters.split(' / ')
        if len(counts) in (1, len(names)):
            counts = counts * (len(names) // len(counts))
        else:  # one for each size, of which there are several configs
            counts = [c for c in counts for _ in range(len(names) // len(counts))]
        named.update(zip(names, counts))
    configs = {path.name for path in (ROOT / 'configs').glob('*.py')}
    assert named.keys() == configs
    for name, count in named.items():
        shown = re.findall(rf'^\| \[{name[:-3]}\].*?\| ([\d,]{{9,}}) \|', zoo, re.M)
        if count[:1].isdigit() and shown:
            assert count == shown[0], name


def spread(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for."""
    match = re.search(r'{([^}]*)}', pattern)
    if match is None:
        return [pattern]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for part in match[1].split(',') for name in spread(head + part + tail)]


def test_the_page_on_installing_has_every_extra():
    page = (ROOT / 'docs' / 'install.md').read_text(encoding='utf-8')
    table = page.partition('\n## Extras\n')[2].partition('\n## ')[0]
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))
    extras = set(project['project']['optional-dependencies'])
    assert extras <= set(re.findall(r'`(\w+)`', table))
    for named in re.findall(r'pip install "\.\[([\w,]+)\]"', page):
        assert set(named.split(',')) <= extras
