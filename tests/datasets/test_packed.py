"""Annotations in little memory: what is read is what JSON's own reader reads."""

import io
import json
import pickle
from copy import deepcopy

from mmnextvit.datasets import json_stream, packed
from mmnextvit.datasets.coco import (
    clean_coco,
    group_annotations,
    parse_coco,
    read_coco,
)
from mmnextvit.datasets.json_stream import JSONStream
from mmnextvit.datasets.packed import Chosen, PackedEntries, PackedSamples
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest

CONTENT = {
    'a': [1, 23.5, 'é"[,]', None, True, {'x': [[], {}]}, 10**30, float('inf')],
    'b': {'a': [1, 2]},
    'c': [],
    'd': 'text',
    'e': [-12, 1.5e-7, 2e20, -0.0, 1e22],
    'f': [[1, 2], [3]],
}
BROKEN = ('', '[]', '{', '{"a": [1, 2}', '{"a": [1 2]}', '{"a": [1,]}', '{"a": 1,}',
          '{"a" 1}', '{1: 2}', '{"a": [1', '{"a": "', '{} 1', '{"a": [,]}',
          '{"a": [nul]}', '\ufeff{}', '{"a": 1 "b": 2}')  # fmt: skip


def stream(text: str) -> dict:
    file = io.BytesIO(text.encode())
    return JSONStream(file).read_object(dict(a=list, c=list, f=list, e=list))


@pytest.mark.parametrize('chunk', [1, 2, 3, 7, 1 << 16])
def test_a_stream_is_what_json_reads(monkeypatch, chunk):
    monkeypatch.setattr(json_stream, 'CHUNK', chunk)
    for indent in (None, 0, 3):
        for ascii_only in (True, False):
            text = json.dumps(CONTENT, indent=indent, ensure_ascii=ascii_only)
            assert stream(f' \n{text}\t ') == CONTENT
    assert stream('{ }') == {}
    for text in BROKEN:
        with pytest.raises(ValueError):
            stream(text)


@pytest.mark.parametrize('kind', [PackedEntries, PackedSamples])
def test_packed_dicts_are_those_that_came_in(monkeypatch, kind):
    monkeypatch.setattr(packed, 'BLOCK', 4096)
    items = [{'n': i, 'x': 'é' * (i % 90), 'y': [i / 7]} for i in range(300)]
    items[7] = {'z': None}
    items[50] = {'big': 'b' * 10_000}
    entries = kind(items)
    assert len(entries) == 300 and [*entries] == items
    assert entries[-1] == items[-1] and entries[10:200:7] == items[10:200:7]
    with pytest.raises(IndexError):
        entries[300]
    assert [*kind()] == []


def test_what_is_forgotten_is_given_back(monkeypatch):
    monkeypatch.setattr(packed, 'BLOCK', 4096)
    items = [dict(n=i, x='a' * (97 * i % 1000)) for i in range(100)]
    entries = PackedEntries(items)
    blocks = len(entries._blocks)
    for count in range(len(items)):
        entries.forget(count)
        assert [*map(entries.__getitem__, range(count, 100))] == items[count:]
    entries.forget(100)
    assert sum(block.closed for block in entries._blocks) == blocks - 1 > 9
    PackedEntries().forget(0)


@pytest.mark.parametrize('kept', ['all', 'some'])
@pytest.mark.parametrize('order', ['images', 'others'])
def test_annotations_in_the_order_of_images_are_given_back(monkeypatch, order, kept):
    monkeypatch.setattr(packed, 'BLOCK', 4096)
    owners = [number // 9 for number in range(900)]
    if order == 'others':
        owners[5], owners[-5] = owners[-5], owners[5]
    annotations = [dict(id=n, image_id=i) for n, i in enumerate(owners)]
    images = [dict(id=i) for i in range(101)]  # the last has none
    given = entries = PackedEntries(annotations)
    if kept == 'some':  # of some, as of a list without broken boxes of listed images
        given = Chosen(Chosen(entries, range(1, 900)), range(1, 898))
        annotations = annotations[2:899]
    grouped = list(group_annotations(dict(images=images, annotations=given)))
    assert [image for image, _ in grouped] == images
    for image, found in grouped:
        assert found == [a for a in annotations if a['image_id'] == image['id']]
    given_back = [block.closed for block in entries._blocks]
    assert len(given_back) > 3 and any(given_back) == (order == 'images')


@pytest.mark.parametrize(
    'polygon, is_small',
    [
        ([0.1 * 3, 1.5, 2, 239.97, 0.29, -4.35, 1.15, 1999999.99], False),
        ([1.5, 2, 239.97, 0.29, -4.35, 1.15, -0.0, 19999999.99], True),
        ([1, 2, 3, 4, 5, 6], False),  # MMDetection keeps whole numbers
        ([1, 2, 3, 4, 5, 6.0], True),
        ([1.5, 2, 3, 4, 5, 20000000.0], False),
        ([1.005, 2, 3, 4, 5, 6], False),
        ([1.5, 10**400, 3, 4, 5, 6], False),
        ([1.5, float('inf'), 3, 4, 5, 6], False),
        ([], False),
    ],
)
def test_polygons_of_two_decimals_take_four_bytes_a_number(polygon, is_small):
    mask = [polygon, [1.25] * 600]
    entry = dict(id=1, segmentation=mask, bbox=[1, 2.5, 3, 4])
    entries = PackedEntries([entry, dict(segmentation=dict(size=[1, 2]))])
    assert bool(packed.write_hundredths(polygon)) == is_small
    assert entries[0] == entry
    assert entries[1] == dict(segmentation=dict(size=[1, 2]))
    assert entries._ends[0] < 3000
    content = pickle.dumps(entries[0])
    assert len(content) < 3000
    back = pickle.loads(content)['segmentation']
    assert [*map(type, back)] == [list, list] and repr(back[1]) == repr(mask[1])
    assert back[0] == polygon


def test_random_decimals_come_back_to_the_bit():
    random = np.random.default_rng(0)
    for numbers in random.uniform(-9999, 9999, (100, 500)).round(2).tolist():
        content = packed.write_hundredths(numbers)
        assert len(content) == 4 * len(numbers)
        assert packed.read_hundredths(content) == numbers


@pytest.mark.parametrize('kind', [PackedEntries, PackedSamples])
def test_packed_dicts_can_be_copied_and_pickled(kind):
    items = [dict(n=1, segmentation=[[1.25] * 6]), dict(n=2)]
    for copied in (pickle.loads(pickle.dumps(kind(items))), deepcopy(kind(items))):
        assert type(copied) is kind and [*copied] == items


def test_samples_move_in_mmengines_layout(monkeypatch):
    monkeypatch.setattr(packed, 'BLOCK', 4096)
    items = [{'n': i, 'x': 'a' * (97 * i % 1000)} for i in range(100)]
    samples = PackedSamples(items)
    content, ends = samples.serialize()
    starts = [0, *ends[:-1]]
    assert [pickle.loads(content[a:b]) for a, b in zip(starts, ends)] == items
    assert not len(samples)


def make_coco() -> dict:
    polygon = [1.5, 2, 30.25, 2, 30, 40]
    return dict(
        annotations=[
            dict(id=i, image_id=i % 3, category_id=1 + i % 2, bbox=[1, 2, 3.5, 4])
            | (dict(segmentation=[polygon]) if i % 4 else dict(iscrowd='1', area=None))
            for i in range(40)
        ],
        images=[dict(id=i, file_name=f'{i}', width=64, height=48) for i in range(3)],
        categories=[dict(id=1, name='a'), dict(id='2', name='b')],
        info=dict(year=2017),
    )


def test_coco_in_pieces_is_coco_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, 'CHUNK', 64)
    content = make_coco()
    content['annotations'][3]['bbox'] = 'none'
    content['annotations'][4]['id'] = 'text'
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(content, indent=1))
    read = read_coco(str(path))
    assert isinstance(read['annotations'], PackedEntries)
    expected = clean_coco(parse_coco(path.read_bytes()))
    cleaned, faults = clean_coco(read)
    assert len(cleaned['annotations']) == 39 and faults == expected[1]
    cleaned['annotations'] = [*cleaned['annotations']]
    assert cleaned == expected[0]


@pytest.mark.parametrize(
    'change',
    [
        lambda c: c['annotations'][5].pop('image_id'),
        lambda c: c['annotations'].append(3),
        lambda c: c['annotations'][5].update(id=6),
        lambda c: c['annotations'][5].update(id='6'),
        lambda c: c['annotations'][5].update(id=10**30) or c['images'].append(3),
        lambda c: c['annotations'][5].update(area='x'),
        lambda c: c.pop('annotations'),
        lambda c: c.update(annotations=3),
        lambda c: c.update(images='none'),
        lambda c: c.pop('images'),
        lambda c: c['images'].append(c['images'][0]),
        lambda c: c['categories'][0].pop('name'),
    ],
)
def test_faults_are_told_as_of_a_whole_file(tmp_path, change):
    content = make_coco()
    change(content)
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as expected:
        parse_coco(path.read_bytes())
    with pytest.raises(UserError) as told:
        read_coco(str(path))
    assert str(told.value) == str(expected.value)
