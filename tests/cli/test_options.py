"""Each option of train once with its effect, and once with a wrong value."""

import re

from mmnextvit import apis
from mmnextvit.engine.configs import read_config

import pytest
from mmengine.config import Config
from mmengine.device import get_device, utils

from tests.conftest import ROOT
from tests.helpers.commands import call_here, refusal, run_here

BCCD = ROOT / 'configs' / 'yolov5_nextvit_s_bccd.py'
FITTED = """
_base_ = __import__('mmnextvit').config_file('yolov5_nextvit_s')
classes = ('RBC', 'WBC')
num_images = 64
train = dict(type='VerifiedVOCDataset', data_root='data/', ann_file='train.txt')
val = dict(type='VerifiedVOCDataset', data_root='data/', ann_file='val.txt')
globals().update(__import__('mmnextvit').fit_recipe(_base_, globals()))
"""


@pytest.fixture(params=['shipped', 'fitted'])
def config(request, tmp_path):
    """One of our configs as it is, and one that calls fit_recipe."""
    if request.param == 'shipped':
        return BCCD
    path = tmp_path / 'my.py'
    path.write_text(FITTED)
    return path


@pytest.fixture
def asked(monkeypatch):
    """What the command has trained, in place of a training."""
    calls = {}

    def train(cfg: Config, **options: object) -> None:
        calls.update(cfg=cfg, **options)

    monkeypatch.setattr(apis, 'train', train)
    monkeypatch.setattr(apis, 'find_batch_size', lambda cfg, **options: 24)
    return calls


def read_size(cfg: Config) -> set:
    scales = [t.scale for t in cfg.test_dataloader.dataset.pipeline if 'scale' in t]
    mosaic = cfg.train_dataloader.dataset.pipeline[2]
    return {tuple(scale) for scale in [*scales, mosaic.img_scale]}


OPTIONS = [
    (['--imgsz', '416'], read_size, {(416, 416)}),
    (['--imgsz', '416x352'], read_size, {(416, 352)}),
    (
        ['--epochs', '7'],
        lambda c: (c.train_cfg.max_epochs, c.default_hooks.param_scheduler.max_epochs),
        (7, 7),
    ),
    (
        ['--batch', '5'],
        lambda c: (
            c.train_dataloader.batch_size,
            c.get('train_batch_size_per_gpu'),
            c.val_dataloader.batch_size,
        ),
        (5, 5, 1),
    ),
    (['--batch', 'auto'], lambda c: c.train_dataloader.batch_size, 24),
    (
        ['--lr', '2e-3'],
        lambda c: (
            c.optim_wrapper.optimizer.lr,
            round(c.default_hooks.param_scheduler.get('warmup_bias_lr', 0), 6),
        ),
        (2e-3, 2e-2),
    ),
    (['--name', 'run 2'], lambda c: c.get('work_dir'), './work_dirs/run 2'),
]


@pytest.mark.parametrize('options, look, wanted', OPTIONS, ids=lambda v: str(v)[:20])
def test_an_option_and_its_effect(options, look, wanted, config, asked, tmp_path):
    call_here('train', config, *options, cwd=tmp_path)
    assert look(read_config(str(config))) != wanted
    assert look(asked['cfg']) == wanted
    assert not asked['amp'] and asked['device'] is None


def test_options_for_the_run(asked, tmp_path):
    call_here('train', BCCD, '--device', 'cpu', '--amp', cwd=tmp_path)
    assert (asked['device'], asked['amp']) == ('cpu', True)
    call_here('train', '--force-amp', BCCD, cwd=tmp_path)
    assert (asked['device'], asked['amp']) == (None, 'force')
    assert asked['cfg'].work_dir == './work_dirs/yolov5_nextvit_s_bccd'


@pytest.mark.parametrize(
    'options, message',
    [
        (['--imgsz', '100'], 'argument --imgsz: 100 must be a multiple of 32'),
        (['--imgsz', 'big'], "argument --imgsz: 'big' is no size in pixels"),
        (['--imgsz', '64x64x64'], r'argument --imgsz: \[64, 64, 64\] must be'),
        (['--epochs', '0'], "argument --epochs: '0' is not a whole number from 1 on"),
        (['--epochs', '2.5'], "argument --epochs: '2.5' is not a whole number"),
        (['--batch', '-4'], "argument --batch: '-4' is not a whole number from 1 on"),
        (['--batch', 'all'], "argument --batch: 'all' is not .*, and not auto"),
        (['--lr', '0'], "argument --lr: '0' is not a number above 0"),
        (['--lr', 'inf'], "argument --lr: 'inf' is not a number above 0"),
        (['--lr', 'nan'], "argument --lr: 'nan' is not a number above 0"),
        (['--name', '../x'], "argument --name: '../x' is not a plain name"),
        (['--name', ''], "argument --name: '' is not a plain name"),
        (['--name', 'a', '--work-dir', 'b'], 'argument --work-dir: not allowed with'),
    ],
)
def test_a_wrong_value(options, message, tmp_path, capfd):
    said = run_here('train', BCCD, *options, cwd=tmp_path, capfd=capfd, code=2)
    assert re.search(message, said)


@pytest.mark.parametrize(
    'options, message',
    [
        (['--device', 'cuda:77'], r'device cuda:77 \(--device\)'),
        (['--device', 'gpu'], r'device gpu \(--device\) cannot be used here'),
        (
            ['--device', 'ipu'],
            r"with arguments from the 'IPU' backend. Write cpu, cuda",
        ),
        (['--device', 'meta'], r'device meta \(--device\)'),
        (
            ['--epochs', '3', '--cfg-options', 'max_epochs=4'],
            '--epochs and --cfg-options max_epochs say the same: give one',
        ),
        (
            ['--lr', '1', '--cfg-options', 'optim_wrapper.optimizer.lr=4'],
            '--lr and --cfg-options optim_wrapper.optimizer.lr say the same',
        ),
    ],
)
def test_what_is_refused(options, message, tmp_path):
    assert re.search(message, refusal('train', BCCD, *options, cwd=tmp_path))


def test_a_cpu_on_a_machine_with_a_gpu(monkeypatch):
    from mmnextvit.engine.runner import computing_on

    monkeypatch.setattr(utils, 'DEVICE', 'cuda')
    assert get_device() == 'cuda'
    with computing_on(None):
        assert get_device() == 'cuda'
    with pytest.raises(KeyError), computing_on('cpu', 'pytorch'):
        assert get_device() == 'cpu'
        raise KeyError
    assert get_device() == 'cuda'


def test_a_gpu_where_the_launcher_gives_one(monkeypatch):
    from mmnextvit.engine import runner
    from mmnextvit.utils.errors import UserError

    import torch

    monkeypatch.setattr(runner, 'choose_device', torch.device)
    message = 'cuda:1 .--device.: the launcher gives each'
    with pytest.raises(UserError, match=message):
        runner.computing_on('cuda:1', 'pytorch').__enter__()
