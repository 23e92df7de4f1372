"""Training at ten times the rate stays finite, or stops and says so.

With MMNEXTVIT_SEEDS=10 each recipe is trained with ten seeds in place of one.
"""

import json
import os
import re
from pathlib import Path

from mmnextvit import NextViT, config_file
from mmnextvit.datasets.demo_data import make_demo_data
from mmnextvit.engine.bad_loss import BadLossError

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from tests.conftest import TINY
from tests.helpers.commands import call_here

SEEDS = range(int(os.environ.get('MMNEXTVIT_SEEDS', '1')))
FASTER = 10  # than the recipe's rate
RECIPES = {
    'scratch': 'yolov5_nextvit_s_smalldata',
    'pretrained': 'yolov5_nextvit_s_smalldata_in1k',
    'sgd': 'yolov5_nextvit_s',
}
CONFIG = """
_base_ = __import__('mmnextvit').config_file('BASE')
data = dict(type='VerifiedCocoDataset', data_root='data/')
train = dict(data, ann_file='annotations/train.json', data_prefix=dict(img='train/'))
val = dict(data, ann_file='annotations/val.json', data_prefix=dict(img='val/'))
classes = ('circle', 'square', 'triangle')
num_images, image_size, max_epochs, batch_size, num_workers = 6, 64, 3, 2, 0
model = dict(backbone=dict(arch=ARCH, init_cfg=INIT))
train_cfg = dict(val_begin=9)
randomness = dict(seed=SEED)
report = None
globals().update(__import__('mmnextvit').fit_recipe(_base_, globals()))
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Some images, and weights for the backbone."""
    folder = tmp_path_factory.mktemp('stability')
    make_demo_data(folder / 'data', train=6, val=2, size=64, seed=0)
    torch.manual_seed(0)
    backbone = NextViT(TINY, norm_cfg=dict(type='BN', eps=1e-5, momentum=0.1))
    with torch.no_grad():
        for _ in range(5):  # norms with statistics of their own
            backbone(torch.randn(4, 3, 64, 64) * 2 + 1)
    torch.save(backbone.state_dict(), folder / 'backbone.pth')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('name', RECIPES)
def test_ten_times_the_rate(name, seed, folder):
    usual = Config.fromfile(config_file(RECIPES[name])).optim_wrapper.optimizer.lr
    rate = FASTER * usual
    weights = dict(type='Pretrained', checkpoint='backbone.pth')
    init = weights if name == 'pretrained' else None
    values = dict(BASE=RECIPES[name], ARCH=TINY, INIT=init, SEED=seed)
    text = CONFIG
    for key, value in values.items():
        text = text.replace(key, str(value))
    config = folder / f'{name}_{seed}.py'
    config.write_text(text)
    options = '--cfg-options', f'optim_wrapper.optimizer.lr={rate}'
    try:
        call_here('train', config.name, *options, cwd=folder)
    except BadLossError as error:  # it says so, and keeps no bad weights
        assert re.search('First bad tensor: |It is not saved', str(error))
        return
    work_dir = folder / 'work_dirs' / config.stem
    logs = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    entries = [entry for entry in map(json.loads, logs) if 'loss' in entry]
    assert entries and all(entry['loss'] == entry['loss'] for entry in entries)
    rates = [entry['lr'] for entry in entries]
    assert max(rates) > usual  # it was trained that fast
    state = CheckpointLoader.load_checkpoint(str(work_dir / 'last.pth'))['state_dict']
    assert all(tensor.isfinite().all() for tensor in state.values())
