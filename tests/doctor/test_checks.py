"""Each finding is provoked once, on facts that are made up; sound ones give none."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmnextvit.datasets.duplicates import Fingerprint
from mmnextvit.datasets.faults import Told
from mmnextvit.datasets.images import BrokenImageError, WrongSizeError
from mmnextvit.datasets.samples import Sample
from mmnextvit.doctor.checks import (
    CHECKS,
    TOLD,
    compute_possible_recall,
    run_checks,
    show_bytes,
)
from mmnextvit.doctor.facts import (
    Amp,
    Anchors,
    Disk,
    Facts,
    Look,
    ModelFacts,
    Part,
    Resizing,
)
from mmnextvit.doctor.findings import LEVELS, Finding, format_findings
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest

YOLOV5 = [(10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90),
          (156, 198), (373, 326)]  # fmt: skip
SIZE = (640, 480)


def sample(name: str, boxes: Sequence = (), labels: Sequence = ()) -> Sample:
    """An image with boxes (width, height) in its corner, or with one of each class."""
    labels = labels or [0, 1][: len(boxes) or 2]
    sides = np.array(boxes or [(50, 40)] * len(labels), float)
    boxes = np.concatenate([np.zeros_like(sides), sides], axis=1)
    return Sample(f'/data/{name}', SIZE, boxes, np.array(labels))


def fingerprint(seed: int) -> Fingerprint:
    random = np.random.default_rng(seed)
    return Fingerprint(random.bytes(32), random.bytes(16))


def part(split: str, *samples: Sample, **values: object) -> Part:
    return Part(split, f'{split}.json', ('cat', 'dog'), samples, **values)


TRAIN = [sample(f'train/{i}.jpg') for i in range(4)]
VAL = [sample(f'val/{i}.jpg') for i in range(2)]
LOOKS = {
    (s.path, s.size): Look(fingerprint=fingerprint(i))
    for i, s in enumerate([*TRAIN, *VAL])
}
SOUND = Facts(
    parts=[part('train', *TRAIN), part('val', *VAL)],
    looks=LOOKS,
    resizing=Resizing((640, 640)),
    model=ModelFacts({'bbox_head.head_module': 2}, Anchors(np.array(YOLOV5), 4.0)),
    disk=Disk(Path('work_dirs'), 10**9, 10**8, 10**7, 10),
    amp=Amp('the GPU', True),
)


def with_train(*samples: Sample, **values: object) -> Facts:
    return replace(SOUND, parts=[part('train', *samples, **values), SOUND.parts[1]])


def with_looks(looks: list[tuple[Sample, Look]]) -> Facts:
    return replace(SOUND, looks=LOOKS | {(s.path, s.size): look for s, look in looks})


def alike(seed: int, bits: int, file: int) -> Look:
    """Of a picture that differs from another one in so many of the hash's bits."""
    flips = np.zeros(256, np.uint8)
    flips[:bits] = 1
    hash_ = np.frombuffer(fingerprint(seed).bits, np.uint8) ^ np.packbits(flips)
    return Look(fingerprint=Fingerprint(hash_.tobytes(), fingerprint(file).digest))


BROKEN = Look(BrokenImageError('truncated', file=TRAIN[1].path))
SMALLER = Look(WrongSizeError('is 3 x 4', file=TRAIN[1].path))
PLACEHOLDERS = Anchors(np.zeros((9, 2)), 4.0)
MIB = 2**20

# Facts, and the level, check, split, count of what they give, and parts of its text.
CASES = {
    'config': (
        replace(SOUND, faults=[UserError('must be 1', key='train_cfg.max_epochs')]),
        ('error', 'config', '', 1),
        ['train_cfg.max_epochs: must be 1'],
    ),
    'class count': (
        replace(SOUND, model=ModelFacts({'bbox_head.head_module': 80}), parts=[
            part('train', *TRAIN)]),
        ('error', 'class_count', 'train', 1),
        ['is 80', '2 classes: cat, dog', 'Set model.bbox_head.head_module.num_classes'],
    ),
    'different classes': (
        replace(SOUND, parts=[
            SOUND.parts[0], Part('val', 'val.json', ('dog', 'cat'), VAL)]),
        ('error', 'different_classes', 'val', 1),
        ['val.json has dog, cat; train.json (train) has cat, dog', 'same order'],
    ),
    'missing': (
        with_train(*TRAIN, told=[Told('missing', '2 gone: a, b', ['a', 'b'], True)]),
        ('error', 'missing_images', 'train', 2),
        ['2 gone: a, b', 'data_prefix'],
    ),
    'missing, skipped': (
        with_train(*TRAIN, told=[Told('missing', '2 gone', ['a', 'b'])]),
        ('warning', 'missing_images', 'train', 2),
        ['2 gone'],
    ),
    'dropped boxes': (
        with_train(*TRAIN, told=[Told('boxes', '1 outside (a)', ['a'])]),
        ('warning', 'dropped_boxes', 'train', 1),
        ['1 outside (a)', 'Correct these boxes'],
    ),
    'unusable data': (
        replace(SOUND, parts=[SOUND.parts[0], Part('val', 'val.json', told=[
            Told('unreadable', 'no JSON', (), True)])]),
        ('error', 'unusable_data', 'val', 1),
        ['val.json', 'no JSON'],
    ),
    'annotations': (
        with_train(*TRAIN, told=[Told('annotations', 'train.json: boxes of bird')]),
        ('warning', 'annotations', 'train', 1),
        ['boxes of bird'],
    ),
    'broken': (
        with_looks([(TRAIN[1], BROKEN)]),
        ('error', 'broken_images', 'train', 1),
        ['1 of 4 images of train.json', 'train/1.jpg: truncated', 'skip_broken'],
    ),
    'broken, skipped': (
        replace(with_looks([(TRAIN[1], BROKEN)]), parts=[
            part('train', *TRAIN, skips_broken=True), SOUND.parts[1]]),
        ('warning', 'broken_images', 'train', 1),
        ['truncated'],
    ),
    'all broken': (
        replace(with_looks([(s, BROKEN) for s in TRAIN]), parts=[
            part('train', *TRAIN, skips_broken=True), SOUND.parts[1]]),
        ('error', 'broken_images', 'train', 4),
        ['4 of 4 images'],
    ),
    'size': (
        with_looks([(TRAIN[1], SMALLER)]),
        ('error', 'image_sizes', 'train', 1),
        ['is 3 x 4', 'Correct width and height'],
    ),
    'cut': (
        with_looks([(VAL[0], LOOKS[VAL[0].path, SIZE]._replace(remarks=['cut']))]),
        ('warning', 'cut_images', 'val', 1),
        ['1 of 2 images lack their last bytes', 'val/0.jpg'],
    ),
    'exif': (
        with_looks([(VAL[0], LOOKS[VAL[0].path, SIZE]._replace(turned_by_exif=True))]),
        ('warning', 'exif_rotation', 'val', 1),
        ['EXIF orientation', 'val/0.jpg', 'exiftool'],
    ),
    'exif, square': (
        with_looks([(VAL[0], LOOKS[VAL[0].path, SIZE]._replace(remarks=['turned']))]),
        ('note', 'exif_unsettled', 'val', 1),
        ['square image', 'Look at one'],
    ),
    'filtered': (
        with_train(*TRAIN, filtered=3),
        ('note', 'filtered_images', 'train', 3),
        ['3 of the 7 images', 'filter_empty_gt=False'],
    ),
    'small boxes': (
        replace(with_train(*TRAIN, sample('train/s.jpg', [(2.9, 50), (50, 1.4)])),
                model=None),
        ('warning', 'small_boxes', 'train', 2),
        ['2 of 10 boxes are under 3 pixels', '640 x 640', 'train/s.jpg', 'P2',
         '1 would be left at 1280 x 1280'],
    ),
    'small boxes of large images': (
        replace(with_train(*TRAIN, sample('train/s.jpg', [(5.9, 50), (60, 60)])),
                resizing=Resizing((320, 320)), model=None),
        ('warning', 'small_boxes', 'train', 1),
        ['320 x 320'],
    ),
    'absent from val': (
        replace(SOUND, parts=[
            SOUND.parts[0], part('val', sample('val/0.jpg', labels=[1, 1]))]),
        ('warning', 'absent_classes', 'val', 1),
        ['1 of 2 classes: cat', 'cannot be measured'],
    ),
    'absent from train': (
        with_train(sample('train/0.jpg', labels=[0, 0])),
        ('warning', 'absent_classes', 'train', 1),
        ['dog', 'Nothing can be learnt'],
    ),
    'balance': (
        with_train(sample('train/0.jpg', labels=[0] * 101 + [1])),
        ('warning', 'balance', 'train', 1),
        ["'dog' has 1 box", "'cat' has 101", '0.99 %', 'ClassBalancedDataset'],
    ),
    'a little out of balance': (
        with_train(sample('train/0.jpg', labels=[0] * 11 + [1])),
        ('note', 'balance', 'train', 1),
        ['9.1 %'],
    ),
    'duplicates': (
        with_looks([(TRAIN[3], LOOKS[TRAIN[0].path, SIZE])]),
        ('warning', 'duplicates', 'train', 1),
        ['1 of 4 images repeat another one: train/0.jpg = train/3.jpg'],
    ),
    'near duplicates': (
        with_looks([(TRAIN[3], alike(0, 12, file=99))]),
        ('note', 'near_duplicates', 'train', 1),
        ['train/0.jpg = train/3.jpg'],
    ),
    'leak': (
        with_looks([(VAL[1], alike(2, 12, file=99))]),
        ('warning', 'leaks', 'train, val', 1),
        ['1 of the 2 images of val, 0 of them as the same file: '
         'val/1.jpg = train/2.jpg', 'split anew'],
    ),
    'all of val in train': (
        with_looks([(VAL[0], alike(1, 0, 1)), (VAL[1], alike(2, 12, 99))]),
        ('error', 'leaks', 'train, val', 2),
        ['2 of the 2 images of val, 1 of them as the same file'],
    ),
    'anchors': (
        with_train(*TRAIN, sample('train/flat.jpg', [(300, 12), (30, 30)])),
        ('warning', 'anchors', 'train', 1),
        ['1 of 10 boxes', 'flat.jpg (300 x 12)', 'never learnt', '90.00%',
         'mmnextvit compute_anchors'],
    ),
    'placeholders': (
        replace(SOUND, model=ModelFacts({}, PLACEHOLDERS)),
        ('error', 'placeholder_anchors', '', 1),
        ['compute_anchors'],
    ),
    'disk': (
        replace(SOUND, disk=Disk(Path('w'), 10**8, 2 * 10**9, 10**9, 2)),
        ('error', 'disk', '', 1),
        ['w has 100 MB free', '2 checkpoints of up to 1 GB need 2 GB', 'max_keep'],
    ),
    'amp': (
        replace(SOUND, amp=Amp('this processor', False)),
        ('note', 'amp', '', 1),
        ['this processor', 'without --amp'],
    ),
}  # fmt: skip


def test_sound_data_give_no_finding():
    assert run_checks(SOUND) == []
    assert run_checks(Facts()) == []


@pytest.mark.parametrize('case', CASES)
def test_each_finding(case):
    facts, expected, texts = CASES[case]
    (finding,) = run_checks(facts)
    assert (finding.level, finding.check, finding.split, finding.count) == expected
    text = format_findings([finding])
    for part_of_text in texts:
        assert part_of_text in text, text
    assert finding.advice.endswith('.') and finding.level in LEVELS


def test_every_check_is_provoked():
    found = {f.check for facts, *_ in CASES.values() for f in run_checks(facts)}
    assert {name for name, *_ in TOLD.values()} <= found
    silent = [
        check.__name__
        for check in CHECKS
        if not any(list(check(facts)) for facts, *_ in CASES.values())
    ]
    assert not silent


def test_all_findings_come_at_once():
    facts = Facts(
        parts=[
            part('train', told=[Told('unreadable', 'no JSON', (), True)]),
            part('val', *VAL, told=[Told('missing', 'gone', ['a'], True)]),
        ],
        looks={(VAL[1].path, SIZE): BROKEN},
        faults=[UserError('bad number')],
        amp=Amp('cpu', False),
    )
    found = [(f.level, f.check, f.split) for f in run_checks(facts)]
    assert sorted(found) == [
        ('error', 'broken_images', 'val'),
        ('error', 'config', ''),
        ('error', 'missing_images', 'val'),
        ('error', 'unusable_data', 'train'),
        ('note', 'amp', ''),
    ]


@pytest.mark.parametrize('threshold', [2.0, 4.0])
def test_recall_against_brute_force(threshold):
    """YOLOv5's rule, box by box and anchor by anchor, at the size that is trained."""
    random = np.random.default_rng(0)
    samples = []
    for i in range(60):
        width, height = (int(side) for side in random.integers(200, 1500, 2))
        corners = random.uniform(0, 100, (5, 2))
        sides = np.exp(random.uniform(0.5, 6, (5, 2)))
        boxes = np.concatenate([corners, corners + sides], axis=1)
        samples.append(Sample(f'{i}.jpg', (width, height), boxes, np.zeros(5, int)))
    matched = []
    for _, (width, height), boxes, _ in samples:
        factor = 416 / max(width, height)
        for x1, y1, x2, y2 in boxes.tolist():
            w, h = (x2 - x1) * factor, (y2 - y1) * factor
            matched.append(
                any(
                    max(w / aw, aw / w, h / ah, ah / h) < threshold for aw, ah in YOLOV5
                )
            )
    facts = Facts(
        parts=[Part('train', 't', ('a',), samples)],
        resizing=Resizing((416, 416)),
        model=ModelFacts({}, Anchors(np.array(YOLOV5), threshold)),
    )
    assert compute_possible_recall(facts) == pytest.approx(sum(matched) / len(matched))
    (finding,) = [f for f in run_checks(facts) if f.check == 'anchors']
    assert finding.count == matched.count(False) > 20
    assert 0.2 < sum(matched) / len(matched) < 0.95


@pytest.mark.parametrize(
    'resizing, size, factors',
    [
        (Resizing((640, 640)), (1280, 960), (0.5, 0.5)),
        (Resizing((1333, 800)), (400, 200), (1333 / 400,) * 2),
        (Resizing((1333, 800)), (500, 400), (2, 2)),
        (Resizing((1333, 800)), (400, 500), (2, 2)),
        (Resizing((640, 320), keep_ratio=False), (320, 320), (2, 1)),
        (Resizing((640, 640), enlarges=False), (320, 320), (1, 1)),
        (Resizing((640, 640), enlarges=False), (1280, 640), (0.5, 0.5)),
        (Resizing((2, 3), is_factor=True), (10, 10), (2, 3)),
    ],
)
def test_factors(resizing, size, factors):
    assert resizing.compute_factors(size) == pytest.approx(factors)


def test_text_is_short_and_safe():
    names = [f'/data/\x1b[2J{i}.jpg' for i in range(10_000)]
    seen = '\n'.join(names)
    finding = Finding('error', 'x', 'broken', seen, 'Mend it.', 'val', 10_000, names)
    text = format_findings([finding])
    assert len(text.splitlines()) < 10 and '\x1b' not in text
    assert len(finding.as_dict()['names']) == 20 and finding.as_dict()['count'] == 10**4


@pytest.mark.parametrize(
    'number, text',
    [(0, '0 bytes'), (999, '999 bytes'), (1500, '1.5 kB'), (2.5e9, '2.5 GB'),
     (3e15, '3e+03 TB')],
)  # fmt: skip
def test_bytes(number, text):
    assert show_bytes(number) == text


def test_leaks_are_named_from_where_their_folders_part():
    from mmnextvit.doctor.checks import _shorten_paths

    pair = ['/data/test/images/1.jpg', '/data/valid/images/2.jpg']
    assert _shorten_paths(pair) == ['test/images/1.jpg', 'valid/images/2.jpg']
    assert _shorten_paths(['/data/a/1.jpg', '/data/a/2.jpg']) == ['a/1.jpg', 'a/2.jpg']
    assert _shorten_paths([]) == []
