"""The demo's data, and that what was there before stays."""

import filecmp
import json
import re
import shutil
from argparse import Namespace
from pathlib import Path

from mmnextvit.cli import arguments
from mmnextvit.datasets import demo_data as maker

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from pycocotools.coco import COCO

from tests.helpers.tiny_run import ROOT, load_tool, run_tool

NUMBERS = dict(train=6, val=3, size=64, seed=3)


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('demo') / 'data'
    assert maker.make_demo_data(out, **NUMBERS)
    return out


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


def test_same_arguments_give_the_same_files(data, tmp_path):
    maker.make_demo_data(tmp_path / 'again', **NUMBERS)
    names = files(data)
    assert len(names) == 6 + 3 + 2 and names == files(tmp_path / 'again')
    assert filecmp.cmpfiles(data, tmp_path / 'again', names, shallow=False)[0] == names


def test_seed_split_and_number_make_the_image(data, tmp_path):
    maker.make_demo_data(tmp_path / 'more', **{**NUMBERS, 'train': 7})
    maker.make_demo_data(tmp_path / 'other', **{**NUMBERS, 'seed': 4})
    first = (data / 'train' / '000000.jpg').read_bytes()
    assert first == (tmp_path / 'more' / 'train' / '000000.jpg').read_bytes()
    assert first != (tmp_path / 'other' / 'train' / '000000.jpg').read_bytes()
    assert first != (data / 'val' / '000000.jpg').read_bytes()


def test_boxes_hold_the_shapes(data):
    """The box is that of the pixels that differ from the ground around it."""
    coco = COCO(data / 'annotations' / 'train.json')
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == [*maker.CLASSES]
    sizes = []
    for info in coco.loadImgs(coco.getImgIds()):
        image = cv2.imread(str(data / 'train' / info['file_name']))
        assert image.shape == (info['height'], info['width'], 3) == (64, 64, 3)
        saturation = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[..., 1].astype(float)
        boxes = coco.loadAnns(coco.getAnnIds(info['id']))
        assert 1 <= len(boxes) <= 4
        for box in boxes:
            x, y, w, h = box['bbox']
            assert x >= 0 and y >= 0 and x + w <= 64 and y + h <= 64
            mask = coco.annToMask(box).astype(bool)
            ys, xs = mask.nonzero()
            assert abs(xs.min() - x) <= 1 and abs(xs.max() + 1 - x - w) <= 1
            assert abs(ys.min() - y) <= 1 and abs(ys.max() + 1 - y - h) <= 1
            assert abs(mask.sum() - box['area']) < 0.15 * box['area']
            inside = mask & (cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0)
            assert saturation[inside].mean() > 100
            sizes.append(w)
    assert max(sizes) > 1.5 * min(sizes)


def test_same_data_are_kept(data, tmp_path):
    shutil.copytree(data, tmp_path / 'data')
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'data').rglob('*')}
    assert not maker.make_demo_data(tmp_path / 'data', **NUMBERS)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / 'data').rglob('*')}


def test_anything_else_is_not_overwritten(data, tmp_path):
    shutil.copytree(data, tmp_path / 'data')
    with pytest.raises(ValueError, match='data holds something else.*--out'):
        maker.make_demo_data(tmp_path / 'data', **{**NUMBERS, 'val': 4})
    (tmp_path / 'data' / 'val' / '000001.jpg').unlink()
    with pytest.raises(ValueError, match='nothing is overwritten'):
        maker.make_demo_data(tmp_path / 'data', **NUMBERS)
    (tmp_path / 'foreign').mkdir()
    (tmp_path / 'foreign' / 'thesis.txt').write_text('years of work')
    with pytest.raises(ValueError, match='foreign holds something else'):
        maker.make_demo_data(tmp_path / 'foreign', **NUMBERS)
    assert files(tmp_path / 'foreign') == ['thesis.txt']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['data', 'foreign']


def test_empty_folder_is_filled(tmp_path):
    assert maker.make_demo_data(tmp_path, **NUMBERS)
    assert len(files(tmp_path)) == 11


@pytest.mark.parametrize('change', [dict(size=31), dict(train=0)])
def test_numbers_too_small(tmp_path, change):
    with pytest.raises(ValueError, match='train and val must be at least 1, size at'):
        maker.make_demo_data(tmp_path / 'data', **{**NUMBERS, **change})


@pytest.mark.parametrize('name', ['s', 's_demo', 's_bccd'])
@pytest.mark.parametrize('root', ['/elsewhere/', 'here'])
def test_data_root_is_the_one_thing_to_set(name, root):
    """On the command line too, though MMEngine has put it into the paths by then."""
    args = Namespace(
        config=f'{ROOT}/configs/yolov5_nextvit_{name}.py',
        cfg_options=dict(data_root=root),
    )
    cfg = arguments.load_config(args)
    before = Config.fromfile(args.config)
    for mode in ('train', 'val', 'test'):
        dataset = cfg[f'{mode}_dataloader'].dataset
        assert Path(dataset.data_root) == Path(root)
        assert dataset.ann_file == before[f'{mode}_dataloader'].dataset.ann_file
    if cfg.val_evaluator.ann_file:
        assert Path(cfg.val_evaluator.ann_file) == Path(
            root, cfg.val_dataloader.dataset.ann_file
        )
    args.cfg_options = {}
    assert arguments.load_config(args).val_evaluator == before.val_evaluator


def test_run_folders_are_new(tmp_path):
    new_folder = load_tool('demo').new_folder
    names = [new_folder(tmp_path / 'runs' / 'demo').name for _ in range(3)]
    assert names == ['demo', 'demo_2', 'demo_3']


def test_demo_from_end_to_end(tmp_path):
    """With next to nothing to learn from, beside what an earlier run left."""
    earlier = tmp_path / 'out' / 'demo' / 'epoch_1.pth'
    earlier.parent.mkdir(parents=True)
    earlier.write_text('precious')
    options = 'train_cfg.max_epochs=1', 'default_hooks.checkpoint.save_optimizer=False'
    numbers = '--train', 4, '--val', 2, '--size', 32
    text = run_tool(
        *('demo.py', '--out', 'out', *numbers, '--cfg-options', *options), cwd=tmp_path
    )
    assert files(earlier.parent) == ['epoch_1.pth']
    assert earlier.read_text() == 'precious'

    summary = text[text.rindex('\nmAP50 ') :]
    assert re.match(r'\nmAP50 [01]\.\d{3}, mAP [01]\.\d{3}\n', summary)
    places = {
        name.strip(): tmp_path / place
        for name, place in re.findall(r'^(\w.+?)  +(out/\S+)$', summary, re.M)
    }
    assert all(place.is_file() for place in places.values())
    image, checkpoint, log, curves = places.values()
    assert checkpoint == tmp_path / 'out' / 'demo_2' / 'epoch_1.pth'
    assert 'coco/bbox_mAP_50' in log.read_text()
    assert 'loss' in json.loads(curves.read_text().splitlines()[0])
    assert cv2.imread(str(image)).shape[1] > 2 * 320  # though images are of 32
    assert re.search(
        r'^Next: .*predict.py .*demo.py out/demo_2/\S+ out/', summary, re.M
    )
