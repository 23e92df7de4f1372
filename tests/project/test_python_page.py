"""What docs/python.md shows works as it stands there."""

import re
from pathlib import Path

from mmnextvit import apis
from mmnextvit.apis import make_training_config
from mmnextvit.datasets.demo_data import make_demo_data
from mmnextvit.labels.choices import NAMES

import pytest
from mmengine.config import Config

from tests.conftest import ROOT, TINY
from tests.helpers.commands import fresh_process_state

PAGE = (ROOT / 'docs' / 'python.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE, re.S)


def test_the_page_has_what_the_tests_look_for():
    assert len(BLOCKS) == 4
    assert len(BLOCKS[0].strip().splitlines()) == 4  # three lines, and an empty one
    assert re.findall(r'^\| `labels/(\w+)/` \|', PAGE, re.M) == list(NAMES)
    assert max(len(x) for x in PAGE.splitlines() if not x.startswith('|')) <= 100


@pytest.mark.slow
def test_the_examples(tmp_path, monkeypatch):
    """With a small backbone and an epoch, which save time."""

    def make_small(cfg: Config, *args: object, **kwargs: object) -> Config:
        cfg.model.backbone.arch = dict(TINY)
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        for mode in ('train', 'val', 'test'):
            loader = cfg[f'{mode}_dataloader']
            loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        return make_training_config(cfg, *args, **kwargs)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(apis, 'make_training_config', make_small)
    make_demo_data(Path('data', 'my_images'), train=4, val=2, size=64, seed=0)
    (tmp_path / 'image.jpg').write_bytes(
        next(Path('data', 'my_images', 'val').iterdir()).read_bytes()
    )
    scope: dict = {}
    for block in BLOCKS:
        with fresh_process_state():
            exec(block, scope)
    assert Path(scope['run'].work_dir) == tmp_path / 'work_dirs' / 'slower'
    assert isinstance(scope['objects'], list)
    assert scope['objects'] == scope['same'] == scope['also']
    assert scope['drawn'].shape == (64, 64, 3)
    assert len(scope['detections']) == len(scope['first'])
    assert Path('work_dirs', 'my_images', 'config', 'my_images.py').is_file()
