"""The made split: what it promises, for many data sets that are drawn."""

import itertools
import os
import random
from pathlib import Path

from mmnextvit.datasets.samples import Sample
from mmnextvit.folder_import.split import (
    describe_split,
    make_relative,
    split_samples,
    write_lists,
)
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest

ROOT = '/data/cats'


def make(*labels: tuple[int, ...] | list[int], names: list[str] | None = None) -> list:
    """Samples with boxes of these classes."""
    names = names or [f'images/{i}.jpg' for i in range(len(labels))]
    return [
        Sample(f'{ROOT}/{name}', (64, 48), np.zeros((len(own), 4)), np.array(own, int))
        for name, own in zip(names, labels, strict=True)
    ]


def draw(seed: int, count: int, num_classes: int, grouped: float) -> tuple[list, list]:
    """Samples of classes of which some are rare, and groups of neighbours."""
    rng = random.Random(seed)
    weights = [1 / (i + 1) ** rng.choice([0, 1, 2]) for i in range(num_classes)]
    labels = [
        rng.choices(range(num_classes), weights, k=rng.randint(0, 3))
        for _ in range(count)
    ]
    groups, start = [], 0
    while start < count:
        size = rng.randint(2, 4) if rng.random() < grouped else 1
        groups.append([*range(start, min(start + size, count))])
        start += size
    return make(*labels), [group for group in groups if len(group) > 1]


def join(groups: list[list[int]], count: int) -> list[list[int]]:
    """All groups, with those of one image."""
    grouped = set().union(*groups)
    return groups + [[i] for i in range(count) if i not in grouped]


def classes_of(samples: list, images: list[int] | set[int]) -> set[int]:
    return {int(label) for i in images for label in samples[i].labels}


# --------------------------------------------------------------------- its promises


@pytest.mark.parametrize('seed', range(60))
def test_validation_has_as_many_classes_as_can_be(seed):
    """All ways to split are tried, and those count that leave training every class."""
    rng = random.Random(seed)
    samples, groups = draw(
        seed, rng.randint(2, 10), rng.randint(1, 6), rng.choice([0, 0.4])
    )
    units = join(groups, len(samples))
    everything = classes_of(samples, range(len(samples)))
    most = 0
    for taken in itertools.product((False, True), repeat=len(units)):
        val = {i for unit, chosen in zip(units, taken) if chosen for i in unit}
        train = {*range(len(samples))} - val
        if classes_of(samples, train) == everything:
            most = max(most, len(classes_of(samples, val)))
    train, val = split_samples(samples, ROOT, groups)
    assert sorted(train + val) == [*range(len(samples))] and train and val
    if most:
        assert classes_of(samples, train) == everything
        assert len(classes_of(samples, val)) == most
        assert all(not {*group} & {*val} or {*group} <= {*val} for group in groups)


def test_classes_that_need_each_others_images():
    """The rarest class alone would choose otherwise."""
    chain = make(*[(i, i + 1) for i in range(9)])  # each class in two images
    train, val = split_samples(chain, ROOT)
    assert classes_of(chain, train) >= {*range(1, 9)} and {*range(1, 9)} <= classes_of(
        chain, val
    )
    # An odd circle: all but one class can be on both sides.
    circle = make(*[(i, (i + 1) % 7) for i in range(7)])
    train, val = split_samples(circle, ROOT)
    assert classes_of(circle, train) == {*range(7)}
    assert len(classes_of(circle, val)) == 6


@pytest.mark.parametrize('seed', range(20))
def test_every_class_has_its_share(seed):
    rng = random.Random(seed)
    share = rng.choice([0.1, 0.2, 0.3])
    samples, groups = draw(
        seed, rng.randint(100, 400), rng.randint(1, 12), rng.choice([0, 0.1])
    )
    train, val = split_samples(samples, ROOT, groups, share)
    assert sorted(train + val) == [*range(len(samples))]
    assert all(not {*group} & {*val} or {*group} <= {*val} for group in groups)
    assert share - 0.05 <= len(val) / len(samples) <= share + 0.05
    for label in classes_of(samples, train):
        images = {i for i, sample in enumerate(samples) if label in sample.labels}
        if len(images) >= 40:
            assert share - 0.08 <= len(images & {*val}) / len(images) <= share + 0.08
    empty = {i for i, sample in enumerate(samples) if not len(sample.labels)}
    assert share - 0.1 <= len(empty & {*val}) / len(empty) <= share + 0.1


@pytest.mark.parametrize('seed', range(10))
def test_order_and_place_do_not_matter(seed, tmp_path, monkeypatch):
    samples, groups = draw(seed, 60, 6, 0.2)
    val = {samples[i].path for i in split_samples(samples, ROOT, groups).val}
    order = random.Random(seed).sample(range(60), 60)
    random.seed(seed)
    np.random.seed(seed)
    moved = [
        samples[i]._replace(path=samples[i].path.replace(ROOT, str(tmp_path)))
        for i in order
    ]
    places = {i: place for place, i in enumerate(order)}
    turned = [[places[i] for i in group] for group in groups[::-1]]
    again = split_samples(moved, tmp_path, turned).val
    assert {moved[i].path.replace(str(tmp_path), ROOT) for i in again} == val
    # A root and paths that are relative to the working folder.
    monkeypatch.chdir(tmp_path)
    near = [s._replace(path=os.path.relpath(s.path, tmp_path)) for s in moved]
    assert split_samples(near, '.', turned).val == again


def test_accents_are_the_same_on_every_system():
    composed = make(*[(0,)] * 20, names=[f'caf\u00e9 {i}.jpg' for i in range(20)])
    other = make(*[(0,)] * 20, names=[f'cafe\u0301 {i}.jpg' for i in range(20)])
    assert split_samples(composed, ROOT) == split_samples(other, ROOT)


def test_one_more_image_changes_few():
    """Another draw would change about 64, as 40 of 200 are in validation."""
    changed = []
    for seed in range(10):
        samples, groups = draw(seed, 200, 6, 0.1)
        val = {*split_samples(samples, ROOT, groups).val}
        for extra in ([], [0], [1, 2], [5]):
            more = make(extra, names=[f'new {extra}.jpg'])
            again = {*split_samples(samples + more, ROOT, groups).val} - {200}
            changed.append(len(val ^ again))
    assert np.mean(changed) <= 3 and max(changed) <= 20


# ------------------------------------------------------------------------ small sets


@pytest.mark.parametrize(
    ('labels', 'groups', 'sizes'),
    [
        ([(0,)], [], (1, 1)),
        ([()], [], (1, 1)),
        ([(0,), (0,)], [], (1, 1)),
        ([(0,), (1,)], [], (1, 1)),
        ([(0,), (0,)], [[0, 1]], (1, 1)),
        ([(), ()], [[0, 1]], (1, 1)),
        ([(), ()], [], (1, 1)),
        ([(0,), (0,), (0,)], [], (2, 1)),
        ([(0,), (0,), (0,)], [[0, 1]], (2, 1)),
        ([(0,), (0,), (0,)], [[0, 1, 2]], (2, 1)),
        ([(0,), (1,), (2,)], [], (2, 1)),
    ],
)
def test_few_images(labels, groups, sizes):
    train, val = split_samples(make(*labels), ROOT, groups)
    assert (len(train), len(val)) == sizes
    assert {*train} | {*val} == {*range(len(labels))}
    assert len(labels) == 1 or not {*train} & {*val}


def test_a_class_with_one_image_stays_in_training():
    samples = make((0, 1), *[(0,)] * 9)
    for names in itertools.permutations([f'{i}.jpg' for i in range(3)]):
        renamed = make((0, 1), (0,), (0,), names=list(names))
        assert 0 in split_samples(renamed, ROOT).train
    assert split_samples(samples, ROOT, share=0.99).train == [0]
    # Training must have boxes, whatever validation has.
    assert split_samples(make((0,), ()), ROOT) == ([0], [1])


def test_where_each_image_has_classes_of_its_own_few_are_lost():
    samples = make((0, 1), (2,), (3, 4, 5))
    assert split_samples(samples, ROOT).val == [1]
    samples = make((0,), (1, 2), ())
    assert split_samples(samples, ROOT).val == [2]


def test_where_each_group_has_a_class_of_its_own_all_are_cut():
    names = [f'{video} {i}.jpg' for video in 'ab' for i in range(10)]
    samples = make(*[(0,)] * 10, *[(1,)] * 10, names=names)
    groups = [[*range(10)], [*range(10, 20)]]
    assert split_samples(samples, ROOT, groups).val == [8, 9, 18, 19]
    # With another image of one of them there is something to validate on.
    samples += make((1,), names=['c.jpg'])
    assert split_samples(samples, ROOT, groups).val == [20]


def test_one_group_of_all_images_is_cut_at_its_end():
    names = [f'frame_{i}.jpg' for i in range(1, 21)]  # 2 before 10
    samples = make(*[(0,)] * 20, names=names)
    everything = [[*range(20)]]
    assert split_samples(samples, ROOT, everything).val == [16, 17, 18, 19]
    assert split_samples(samples, ROOT, everything, 0.5).val == [*range(10, 20)]
    assert split_samples(samples, ROOT, everything, 0.999).train == [0]
    # A class of two frames: the last run that has one of them and leaves the other.
    for places, val in [((3, 5), [5, 6, 7, 8]), ((17, 18), [14, 15, 16, 17])]:
        labels = [(0, 1) if i in places else (0,) for i in range(20)]
        samples = make(*labels, names=names)
        assert split_samples(samples, ROOT, everything).val == val
    # Others without a box do not help.
    samples = make(*[(0,)] * 20, (), (), names=[*names, 'a.jpg', 'b.jpg'])
    train, val = split_samples(samples, ROOT, everything)
    assert {16, 17, 18, 19} <= {*val} and {*range(16)} <= {*train}


@pytest.mark.parametrize('share', [0, 1, -0.1, float('nan')])
def test_wrong_arguments(share):
    with pytest.raises(UserError, match='between 0 and 1'):
        split_samples(make((0,), (0,)), ROOT, share=share)
    with pytest.raises(UserError, match='no images'):
        split_samples([], ROOT)


# ------------------------------------------------------------------- what is said


def test_what_a_split_could_not_have_is_said():
    classes = ('cat', 'dog', 'owl')
    samples = make(*[(0,)] * 8, (1,), (0, 2), (0, 2))
    groups = [[9, 10]]
    split = split_samples(samples, ROOT, groups)
    told = describe_split(samples, groups, split, classes)
    assert len(told) == 1
    assert 'no image of dog, owl' in told[0] and 'near duplicates' in told[0]
    assert (
        describe_split(samples[:8], [], split_samples(samples[:8], ROOT), classes) == []
    )

    video = make(*[(0,)] * 10)
    groups = [[*range(10)]]
    told = describe_split(video, groups, split_samples(video, ROOT, groups), classes)
    assert len(told) == 1 and '10 images that are nearly the same' in told[0]

    video += make((0,), names=['z.jpg'])
    told = describe_split(video, groups, split_samples(video, ROOT, groups), classes)
    assert len(told) == 1 and '1 of 11 images' in told[0]

    told = describe_split(video[:1], [], split_samples(video[:1], ROOT), classes)
    assert len(told) == 1 and 'only one image' in told[0]

    own = make((0,), (1,))
    told = describe_split(own, [], split_samples(own, ROOT), classes)
    assert any('training has no image of' in line for line in told)


# ------------------------------------------------------------------------ its lists


def test_lists_are_written_beside_the_config(tmp_path):
    root = tmp_path / 'my data'
    train = [
        'images/a b.jpg',
        'images/(1) [x].JPG',
        '猫/тест.png',
        '[[1].jpg',
        ' a.jpg',
        '#1.jpg',
    ]
    paths = [str(root / name) for name in train]
    sides = dict(train=paths, val=[str(tmp_path / 'b.jpg')])
    written = write_lists(tmp_path / 'out' / 'my', root, sides)
    assert written == dict(
        train=tmp_path / 'out' / 'my_train.txt',
        val=tmp_path / 'out' / 'my_val.txt',
    )
    lines = written['train'].read_bytes().decode('utf-8').split('\n')
    assert lines.pop() == ''
    assert lines[:3] == train[:3] and lines[3:] == [f'./{name}' for name in train[3:]]
    assert [os.path.normpath(root / line.strip()) for line in lines] == paths
    assert written['val'].read_text() == f'{(tmp_path / "b.jpg").as_posix()}\n'
    assert sorted(os.listdir(tmp_path / 'out')) == ['my_train.txt', 'my_val.txt']


@pytest.mark.parametrize('there', ['my_train.txt', 'my_val.txt'])
def test_nothing_is_overwritten(there, tmp_path):
    (tmp_path / there).write_text('mine')
    with pytest.raises(UserError, match=f'{there} exists, and nothing is overwritten'):
        write_lists(tmp_path / 'my', tmp_path, dict(train=['a.jpg'], val=['b.jpg']))
    assert os.listdir(tmp_path) == [there]
    assert (tmp_path / there).read_text() == 'mine'


@pytest.mark.parametrize('name', ['a\nb.jpg', 'a\r.jpg', 'a.jpg ', 'a\udcff.jpg'])
def test_names_that_no_list_can_have(name, tmp_path):
    with pytest.raises(UserError, match='line break, a space.*Rename') as error:
        sides = dict(train=['good.jpg'], val=[str(tmp_path / name)])
        write_lists(tmp_path / 'my', tmp_path, sides)
    assert 'good' not in str(error.value) and '\n' not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_paths_are_relative_to_the_root():
    assert make_relative('/data/cats/a/../b.jpg', '/data/cats/') == 'b.jpg'
    assert make_relative('/data/cats2/b.jpg', '/data/cats') == '/data/cats2/b.jpg'
    assert make_relative(Path('a', 'b.jpg'), '.') == 'a/b.jpg'
