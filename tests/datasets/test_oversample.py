"""Images of rare classes come several times in an epoch, by one line of a config."""

import json
import math
from collections import Counter
from pathlib import Path

from mmnextvit import config_file
from mmnextvit.datasets.mmyolo_datasets import VerifiedCocoDataset
from mmnextvit.engine.configs import read_config
from mmnextvit.engine.runner import build_dataset
from mmnextvit.engine.terminal import describe_data
from mmnextvit.utils.errors import UserError

import cv2
import numpy as np
import pytest
from mmengine.dataset import DefaultSampler
from mmengine.registry import init_default_scope
from mmyolo.datasets.transforms import Mosaic
from torch.utils.data import DataLoader

from tests.helpers.commands import refusal

CLASSES = ('common', 'rare', 'rarest')
# The classes of each image: of 20 images 18 have the first, 4 the second, 1 the third.
IMAGES = [[0]] * 14 + [[0, 1]] * 3 + [[0, 0, 2], [1], []]


@pytest.fixture
def folder(tmp_path):
    """Data of which some classes are rare, and a config that names them."""
    images, boxes = [], []
    for number, labels in enumerate(IMAGES):
        name = f'{number}.png'
        cv2.imwrite(str(tmp_path / name), np.full((64, 64, 3), 9 * number, np.uint8))
        images.append(dict(id=number, file_name=name, width=64, height=64))
        for label in labels:
            box = dict(bbox=[8 + label, 8, 30, 30], area=900, iscrowd=0)
            known = dict(id=len(boxes) + 1, image_id=number, category_id=label)
            boxes.append({**box, **known})
    kinds = [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=boxes, categories=kinds)
    (tmp_path / 'all.json').write_text(json.dumps(content))
    write_config(tmp_path, 'oversample = 0.5')
    return tmp_path


def write_config(folder: Path, line: str) -> None:
    (folder / 'my.py').write_text(
        "_base_ = __import__('mmnextvit').config_file('yolov5_nextvit_s_smalldata')\n"
        f"data = dict(type='VerifiedCocoDataset', data_root={str(folder)!r})\n"
        "data.update(ann_file='all.json', data_prefix=dict(img=''))\n"
        f'train, val = dict(data), dict(data)\nclasses = {CLASSES}\n'
        f'num_images = {len(IMAGES)}\nimage_size = 64\nnum_workers = 0\n{line}\n'
        "globals().update(__import__('mmnextvit').fit_recipe(_base_, globals()))\n"
    )


def build(folder: Path, share: float, **config: object) -> VerifiedCocoDataset:
    init_default_scope('mmyolo')
    known = dict(ann_file='all.json', data_prefix=dict(img=''))
    return VerifiedCocoDataset(
        data_root=str(folder),
        metainfo=dict(classes=CLASSES),
        oversample=share,
        **{**known, **config},
    )


def count_by_hand(share: float) -> list[int]:
    """How often each image comes, by the formula of arXiv:1908.03195, section 3."""
    found = Counter(label for labels in IMAGES for label in set(labels))
    factors = {c: max(1, math.sqrt(share * len(IMAGES) / found[c])) for c in found}
    return [math.ceil(max([factors[c] for c in labels] or [1])) for labels in IMAGES]


@pytest.mark.parametrize('share', [0, 0.1, 0.5, 1])
def test_images_come_as_often_as_the_formula_says(folder, share):
    dataset = build(folder, share)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    counts = Counter(int(Path(info['img_path']).stem) for info in infos)
    assert [counts[i] for i in range(len(IMAGES))] == count_by_hand(share)
    assert all(len(marks) == len(dataset) for marks in dataset.marks.values())
    assert {len(i['instances']) for i in infos} == {0, 1, 2, 3}
    once = [Path(infos[i]['img_path']).stem for i in dataset.distinct]
    assert once == [str(i) for i in range(len(IMAGES))]
    assert describe_data(dataset).startswith('20 images, 24 boxes')


def test_rare_classes_are_drawn_more_often(folder):
    """Counted in the samples of an epoch, as the config's loader draws them."""
    drawn = {}
    for line in ('', 'oversample = 0.5'):
        write_config(folder, line)
        cfg = read_config(str(folder / 'my.py'))
        init_default_scope('mmyolo')
        dataset = VerifiedCocoDataset(
            **{k: v for k, v in cfg.train_dataloader.dataset.items() if k != 'type'}
        )
        sampler = DefaultSampler(dataset, shuffle=True, seed=0)
        loader = DataLoader(dataset, 8, sampler=sampler, collate_fn=list)
        labels: Counter = Counter()
        for batch in loader:
            for sample in batch:
                found = sample['data_samples'].gt_instances.labels
                labels.update(set(found.tolist()))
        drawn[line] = labels
    plain, balanced = drawn.values()
    assert plain[1] == 4 and plain[2] == 1
    assert balanced[1] >= 1.5 * plain[1]
    assert balanced[2] >= 3 * plain[2]


def test_mosaics_take_rare_images_more_often(folder):
    """They choose their other images from the dataset as often as these come in it."""
    np.random.seed(0)
    shares = []
    for share in (0, 1):
        dataset = build(folder, share)
        mosaic = Mosaic(img_scale=(64, 64))
        chosen = [i for _ in range(300) for i in mosaic.get_indexes(dataset)]
        names = [Path(dataset.get_data_info(i)['img_path']).stem for i in chosen]
        rarest = str(IMAGES.index([0, 0, 2]))
        shares.append(names.count(rarest) / len(names))
    counts = count_by_hand(1)
    assert shares[0] == pytest.approx(1 / 20, abs=0.025)
    wanted = counts[IMAGES.index([0, 0, 2])] / sum(counts)
    assert shares[1] == pytest.approx(wanted, abs=0.04) and wanted > 0.1


def test_one_line_of_a_config_is_followed(folder):
    cfg = read_config(str(folder / 'my.py'))
    assert cfg.train_dataloader.dataset.oversample == 0.5
    assert 'oversample' not in cfg.val_dataloader.dataset
    changed = read_config(str(folder / 'my.py'), dict(oversample=0.9))
    assert changed.train_dataloader.dataset.oversample == 0.9
    plain = config_file('yolov5_nextvit_s_smalldata')
    other = read_config(plain, {'train_dataloader.dataset.oversample': 0.2})
    assert other.train_dataloader.dataset.oversample == 0.2
    # what looks at the data sees each image once
    assert len(build_dataset(cfg, 'train')) == len(IMAGES)


@pytest.mark.parametrize('share', [-0.1, 1.5, True, 'x', None, math.nan])
def test_what_is_no_share(folder, share):
    with pytest.raises(UserError, match='a number from 0'):
        build(folder, share)


def test_validation_has_each_image_once(folder):
    with pytest.raises(UserError, match='oversample is for training'):
        build(folder, 0.5, test_mode=True)
    assert len(build(folder, 0, test_mode=True)) == len(IMAGES)


@pytest.mark.slow
def test_the_check_finds_no_fault_in_it(folder, capfd):
    """Least of all images that are there several times.

    The one error is that the same images are for validation here.
    """
    assert refusal('check', 'my.py', cwd=folder) == 'my.py: 1 error'
    printed = capfd.readouterr().out
    assert 'images of val are in train' in printed
    write_config(folder, '')
    assert refusal('check', 'my.py', cwd=folder) == 'my.py: 1 error'
    assert capfd.readouterr().out == printed
