"""What reading costs: counted, not timed. Each file is opened once, and no more."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mmnextvit.datasets import yolo_labels
from mmnextvit.datasets.yolo_labels import Record, build_samples
from mmnextvit.utils import yaml_reader

import numpy as np
import pytest

from tests.helpers.bad_data import build_dataset, write_image

_opened: list[str] | None = None


def _hear(event: str, arguments: tuple) -> None:
    if _opened is not None and event == 'open' and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_hear)  # which nothing takes away again


@contextmanager
def count_opened(suffix: str) -> Iterator[Counter[str]]:
    """How often each file of a suffix is opened in the block, known after it."""
    global _opened
    _opened, counts = [], Counter()
    try:
        yield counts
    finally:
        counts.update(path for path in _opened if path.endswith(suffix))
        _opened = None


def write_yolo(root: Path, count: int) -> None:
    for i in range(count):
        for folder in ('images/train', 'labels/train'):
            (root / folder).mkdir(parents=True, exist_ok=True)
        write_image(root / 'images' / 'train' / f'{i}.jpg')
        label = root / 'labels' / 'train' / f'{i}.txt'
        label.write_text('0 0.5 0.5 0.25 0.25\n' * (1 + i % 3))
    (root / 'data.yaml').write_text('train: images/train\nnames: [cat, dog]\n')


def build(root: Path) -> object:
    return build_dataset(root, type='VerifiedYOLOTxtDataset', ann_file='data.yaml')


@pytest.mark.parametrize('count', [4, 12])
def test_each_file_of_yolo_is_opened_once(tmp_path, count):
    write_yolo(tmp_path, count)
    for suffix in ('.jpg', '.txt'):
        (tmp_path / 'images' / 'train.train.mmnextvit-cache.json').unlink(True)
        with count_opened(suffix) as opened:
            build(tmp_path)
        assert [*opened.values()] == [1] * count


def test_the_second_start_opens_no_image_and_no_label_file(tmp_path):
    write_yolo(tmp_path, 5)
    first = build(tmp_path)
    with count_opened('') as opened:
        second = build(tmp_path)
    names = [Path(path).suffix for path in opened]
    assert '.json' in names and not {'.jpg', '.txt'} & {*names}
    assert [second.get_data_info(i) for i in range(5)] == [
        first.get_data_info(i) for i in range(5)
    ]


def test_a_yaml_file_is_parsed_once(tmp_path, monkeypatch):
    write_yolo(tmp_path, 2)
    yaml_reader._parse.cache_clear()
    build(tmp_path)
    build(tmp_path)
    assert yaml_reader._parse.cache_info().misses == 1
    one, other = (yaml_reader.read_yaml(tmp_path / 'data.yaml') for _ in range(2))
    one.content['names'].append('bird')
    assert other.content['names'] == ['cat', 'dog']


def make_records() -> dict[str, Record]:
    """Boxes inside and outside of their images, turned over, and polygons."""
    random = np.random.default_rng(0)
    records = {}
    for i in range(60):
        rows = []
        for line in range(1 + i % 9):
            width = 4 if random.random() < 0.8 else 8
            values = random.uniform(-0.1, 1.1, width)
            if random.random() < 0.5:
                values = 0.3 + values / 3  # inside
            if random.random() < 0.2:
                values = np.round(values)  # sides that touch those of the image
            rows.append([line + 1, int(random.integers(3)), *values.tolist()])
        labels = dict(rows=rows, broken=[], repeated=[])
        records[f'{i}.jpg'] = Record(
            *random.integers(1, 900, 2).tolist(), labels, f'{i}.txt'
        )
    records['none.jpg'] = Record(5, 5, None, 'none.txt')
    return records


def test_boxes_together_are_those_taken_one_by_one(monkeypatch):
    records: Mapping[str, Record] = make_records()
    together = build_samples(records, {0: 0, 2: 1})
    scaled = yolo_labels._scale_boxes(records.values())
    inside = sum(box is not None for box in scaled)
    assert inside > 40 and len(scaled) - inside > 100
    monkeypatch.setattr(
        yolo_labels,
        '_scale_boxes',
        lambda records: [None for record in records for _ in record.rows],
    )
    assert build_samples(records, {0: 0, 2: 1}) == together
    assert any('mask' in box for s in together for box in s.info['instances'])
