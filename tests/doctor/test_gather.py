"""What the doctor reads: every fault of a data set in one run, each image once."""

import json
from pathlib import Path

from mmnextvit.doctor.checks import run_checks
from mmnextvit.doctor.facts import Facts, Resizing
from mmnextvit.doctor.findings import Finding
from mmnextvit.doctor.gather import (
    Info,
    count_checkpoints,
    find_resizing,
    list_leaves,
    look_at_image,
    look_at_images,
    measure_checkpoint,
    read_part,
    read_resizing,
)
from mmnextvit.engine.precision import has_bfloat16

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from torch import nn

from tests.helpers.bad_data import BAD_BOXES, CLASSES, LOAD, write_image
from tests.helpers.turned_images import write_turned

COCO = dict(
    type='VerifiedCocoDataset', ann_file='boxes.json', data_prefix=dict(img='images')
)
VOC = dict(
    type='VerifiedVOCDataset', ann_file='train.txt', data_prefix=dict(sub_data_root='')
)
YOLO = dict(type='VerifiedYOLOTxtDataset', ann_file='data.yaml')


def examine(root: Path, leaf: dict, split: str = 'train', **cfg: object) -> Facts:
    """What is known of one dataset, with all of its images."""
    given = dict(data_root=str(root), pipeline=LOAD)
    if leaf is not YOLO:
        given['metainfo'] = dict(classes=CLASSES)
    part, infos = read_part(split, 0, leaf | given | cfg)
    return Facts(parts=[part], looks=look_at_images(infos))


def find(facts: Facts, check: str) -> Finding:
    (finding,) = [f for f in run_checks(facts) if f.check == check]
    return finding


def summary(facts: Facts) -> dict[str, tuple[str, int]]:
    return {f.check: (f.level, f.count) for f in run_checks(facts)}


def write_coco(coco) -> None:
    (coco.root / 'boxes.json').write_text(json.dumps(coco.content))


@pytest.mark.parametrize('kind', ['VerifiedCocoDataset', 'mmdet.CocoDataset'])
def test_every_fault_of_coco_at_once(coco, kind):
    """Ours and MMDetection's own dataset, which says nothing of these."""
    coco.add_boxes(*(box for box, _ in BAD_BOXES))
    coco.truncate(1, 2)
    coco.paths[3].unlink()
    coco.content['images'][4]['width'] = 60
    coco.paths[5].write_bytes(coco.paths[6].read_bytes())
    coco.content['categories'].append(dict(id=9, name='bird'))
    coco.content['annotations'].append(coco.box(0, 9, [1, 1, 9, 9], 999))
    write_coco(coco)
    facts = examine(coco.root, COCO, type=kind)
    assert summary(facts) == {
        'missing_images': ('error', 1),
        'dropped_boxes': ('warning', len(BAD_BOXES)),
        'annotations': ('warning', 1),
        'broken_images': ('error', 2),
        'image_sizes': ('error', 1),
        'duplicates': ('warning', 1),
    }
    assert str(coco.paths[3]) in find(facts, 'missing_images').seen
    assert find(facts, 'broken_images').names == [str(p) for p in coco.paths[1:3]]
    for _, fault in BAD_BOXES:
        assert fault in find(facts, 'dropped_boxes').seen
    assert 'bird (1)' in find(facts, 'annotations').seen


def test_faults_that_the_training_skips_are_warnings(coco):
    coco.truncate(1)
    coco.paths[3].unlink()
    write_coco(coco)
    facts = examine(coco.root, COCO, skip_broken=True, decode_all=True)
    assert summary(facts) == {
        'missing_images': ('warning', 1),
        'broken_images': ('warning', 1),
    }


@pytest.mark.parametrize('split', ['train', 'val'])
def test_all_images_are_missing(coco, voc, split):
    write_coco(coco)
    for path in [*coco.paths, *(voc.root / 'JPEGImages').iterdir()]:
        path.unlink()
    mode = dict(test_mode=split == 'val')
    assert summary(examine(coco.root, COCO, split, **mode)) == {
        'missing_images': ('error', 8)
    }
    assert summary(examine(voc.root, VOC, split, **mode)) == {
        'missing_images': ('error', 4)
    }


def test_all_images_of_a_list_are_missing(yolo):
    (yolo.root / 'train.txt').write_text('images/train/x.jpg\nimages/train/y.jpg\n')
    yolo.yaml('train: train.txt\nnames: [cat, dog]\n')
    assert summary(examine(yolo.root, YOLO)) == {'missing_images': ('error', 2)}


def test_yolo_lines_and_images(yolo):
    yolo.add(0, '0 0.5 0.5 0.1', 'cat 1 1 1 1')
    yolo.add(1, '7 0.5 0.5 0.1 0.1')
    yolo.add(2, '0 0.5 0.5 0 0.1')
    yolo.images[3].write_bytes(b'no image')
    yolo.images[4].write_bytes(yolo.images[4].read_bytes()[:900])
    facts = examine(yolo.root, YOLO)
    found = summary(facts)
    assert found['unusable_data'] == ('error', 3)
    assert found['dropped_boxes'] == ('warning', 1)
    broken = [f for f in run_checks(facts) if f.check == 'broken_images']
    assert [f.count for f in broken] == [1, 1]  # a header is missing, an end
    assert str(yolo.label(1)) + ':4' in find(facts, 'unusable_data').names


def test_voc_and_its_classes(voc):
    voc.write(0, name='cat', xmin=30, xmax=20)
    voc.write(1, name='cat')
    voc.write(3, name='cat')
    facts = examine(voc.root, VOC)
    assert summary(facts) == {
        'dropped_boxes': ('warning', 1),
        'absent_classes': ('warning', 1),
    }
    assert facts.count_boxes('train').tolist() == [3, 0]
    facts = examine(voc.root, VOC, metainfo=dict(classes=('dog', 'cat', 'bird')))
    assert summary(facts)['absent_classes'] == ('warning', 2)


def test_data_that_cannot_be_read_are_one_finding(coco):
    (coco.root / 'boxes.json').write_text('{')
    assert summary(examine(coco.root, COCO)) == {'unusable_data': ('error', 1)}
    assert 'boxes.json' in find(examine(coco.root, COCO), 'unusable_data').seen
    facts = examine(coco.root, COCO, ann_file='none.json')
    assert 'none.json' in find(facts, 'unusable_data').seen
    facts = examine(coco.root, COCO, type='VerifiedCocoDatasett')
    assert 'did you mean VerifiedCocoDataset' in find(facts, 'unusable_data').seen


def test_a_dataset_that_fails_does_not_end_the_report(coco, capfd):
    """Another's code may raise anything."""
    coco.content['images'] = 3
    write_coco(coco)
    facts = examine(coco.root, COCO, type='mmdet.CrowdHumanDataset')
    (finding,) = run_checks(facts)
    assert (finding.level, finding.check) == ('error', 'unusable_data')
    assert 'Traceback' in capfd.readouterr().err


def test_every_entry_that_cannot_be_read(coco, voc):
    """One error in a training, which names the first; all of them here."""
    coco.content['annotations'][1]['category_id'] = [1]
    coco.content['annotations'][3]['image_id'] = None
    del coco.content['images'][5]['width']
    write_coco(coco)
    finding = find(examine(coco.root, COCO), 'unusable_data')
    assert (finding.level, finding.count) == ('error', 3)
    for text in ('boxes.json', 'annotations[1]', 'annotations[3]', 'images[5]'):
        assert text in finding.seen
    for index in (1, 3):
        (voc.root / 'Annotations' / f'{index}.xml').write_text('<annotation>')
    facts = examine(voc.root, VOC)
    finding = find(facts, 'unusable_data')
    assert (finding.level, finding.count) == ('error', 2)
    assert '1.xml' in finding.seen and '3.xml' in finding.seen
    assert len(facts.samples['train']) == 2


def test_what_a_filter_leaves_out(coco):
    coco.content['annotations'] = coco.content['annotations'][2:]
    write_coco(coco)
    facts = examine(coco.root, COCO, filter_cfg=dict(filter_empty_gt=True))
    assert summary(facts) == {'filtered_images': ('note', 2)}
    assert len(facts.samples['train']) == 6


def photo(number: int) -> np.ndarray:
    """A picture with coarse structure, as photographs have."""
    noise = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
    return cv2.resize(noise, (240, 180), interpolation=cv2.INTER_CUBIC)


def test_a_leak_of_an_image_that_was_encoded_anew(coco):
    for number, path in enumerate(coco.paths):
        cv2.imwrite(str(path), photo(number))
    again = cv2.resize(photo(5), (200, 150), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(coco.paths[2]), again, [cv2.IMWRITE_JPEG_QUALITY, 40])
    coco.paths[3].write_bytes(coco.paths[6].read_bytes())
    parts, infos = [], []
    for split, numbers in dict(train=(0, 1, 2, 3), val=(4, 5, 6, 7)).items():
        content = coco.content | dict(
            images=[
                coco.content['images'][i]
                | dict(width=200 if i == 2 else 240, height=150 if i == 2 else 180)
                for i in numbers
            ],
            annotations=[coco.content['annotations'][i] for i in numbers],
        )
        (coco.root / f'{split}.json').write_text(json.dumps(content))
        leaf = COCO | dict(ann_file=f'{split}.json', data_root=str(coco.root))
        part, listed = read_part(split, 0, leaf | dict(metainfo=dict(classes=CLASSES)))
        parts.append(part)
        infos += listed
    facts = Facts(parts=parts, looks=look_at_images(infos))
    assert summary(facts) == {'leaks': ('warning', 2)}
    leak = find(facts, 'leaks')
    assert '5.jpg = images/2.jpg' in leak.seen and '6.jpg = images/3.jpg' in leak.seen
    assert '1 of them as the same file' in leak.seen


@pytest.mark.parametrize(
    'orientation, stated, remarks, turned',
    [
        (6, (64, 48), [], True),  # as stored, while viewers show it turned
        (6, (48, 64), [], False),
        (1, (64, 48), [], False),
        (3, (64, 48), ['turned'], False),
    ],
)
def test_exif(tmp_path, orientation, stated, remarks, turned):
    path = tmp_path / 'a.jpg'
    write_turned(path, orientation)
    look = look_at_image(Info(str(path), stated, False, None))
    assert (look.error, look.remarks, look.turned_by_exif) == (None, remarks, turned)
    measured = look_at_image(Info(str(path), (48, 64), True, None))
    assert not measured.turned_by_exif


def test_an_image_is_opened_once(tmp_path, monkeypatch):
    write_image(tmp_path / 'a.jpg')
    opened = []
    read = Path.read_bytes
    monkeypatch.setattr(
        'mmnextvit.doctor.gather.read_bytes',
        lambda path, backend_args: opened.append(path) or read(Path(path)),
    )
    monkeypatch.setattr('mmnextvit.datasets.images.read_bytes', None)
    look = look_at_image(Info(str(tmp_path / 'a.jpg'), (64, 48), False, None))
    assert look.error is None and look.fingerprint is not None
    assert opened == [str(tmp_path / 'a.jpg')]


def test_what_cannot_be_opened_has_an_error(tmp_path):
    for path in (tmp_path, tmp_path / 'none.jpg'):
        look = look_at_image(Info(str(path), (64, 48), False, None))
        assert str(path) in str(look.error) and look.fingerprint is None


def test_a_format_that_has_no_fingerprint_is_sound(tmp_path):
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.ppm')
    look = look_at_image(Info(str(tmp_path / 'a.ppm'), (8, 8), False, None))
    assert look.error is None


# ------------------------------------------------------------------------- the config


def test_datasets_inside_wrappers():
    one, two = dict(type='A', ann_file='1'), dict(type='A', ann_file='2')
    wrapped = dict(
        type='RepeatDataset',
        times=3,
        dataset=dict(
            type='ConcatDataset',
            datasets=[one, dict(type='ClassBalancedDataset', dataset=two)],
        ),
    )
    val = dict(type='A', ann_file='3', pipeline=[1])
    cfg = dict(train_dataloader=dict(dataset=wrapped), val_dataloader=dict(dataset=val))
    cfg['test_dataloader'] = dict(dataset=dict(val, pipeline=[]))
    leaves = [(split, leaf['ann_file']) for split, _, leaf in list_leaves(Config(cfg))]
    assert leaves == [('train', '1'), ('train', '2'), ('val', '3')]
    cfg['test_dataloader'] = dict(dataset=one)
    assert len(list_leaves(Config(cfg))) == 4
    assert list_leaves(Config(dict(model=dict()))) == []


@pytest.mark.parametrize(
    'step, resizing',
    [
        (dict(type='YOLOv5KeepRatioResize', scale=(640, 640)), Resizing((640, 640))),
        (dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True),
         Resizing((1333, 800))),
        (dict(type='Resize', scale=(640, 320)), Resizing((640, 320), False)),
        (dict(type='Resize', scale=512), Resizing((512, 512), False)),
        (dict(type='LetterResize', scale=(64, 64), allow_scale_up=False),
         Resizing((64, 64), True, False)),
        (dict(type='Resize', scale_factor=2.0),
         Resizing((2.0, 2.0), False, True, True)),
    ],
)  # fmt: skip
def test_resizing_of_a_pipeline(step, resizing):
    assert read_resizing(step) == resizing
    data = dict(type='A', pipeline=[dict(type='LoadImageFromFile'), step])
    cfg = Config(dict(train_dataloader=None, val_dataloader=dict(dataset=data)))
    assert find_resizing(cfg) == resizing
    assert find_resizing(Config(dict(model={}))) is None


def simulate(interval: int, keep: int, rounds: int, save_last: bool) -> int:
    """The most files there are at a time: each is saved before an older one goes."""
    files, most = 0, 0
    for number in range(1, rounds + 1):
        regular = interval > 0 and number % interval == 0
        if regular or (save_last and number == rounds):
            files += 1
            most = max(most, files)
            if 0 < keep < files:
                files -= 1
    return most


@pytest.mark.parametrize('rounds', [1, 2, 7, 12])
@pytest.mark.parametrize('interval', [-1, 1, 3, 50])
@pytest.mark.parametrize('keep', [-1, 1, 3])
@pytest.mark.parametrize('save_last', [True, False])
def test_number_of_checkpoints(rounds, interval, keep, save_last):
    hook = dict(interval=interval, max_keep_ckpts=keep, save_last=save_last)
    assert count_checkpoints(hook, rounds) == simulate(
        interval, keep, rounds, save_last
    )


@pytest.mark.parametrize(
    'optimizer, ema, save_optimizer, parameters',
    [
        (dict(type='SGD', lr=1), False, True, 1),
        (dict(type='SGD', lr=1, momentum=0.9), False, True, 2),
        (dict(type='AdamW', lr=1), False, True, 3),
        (dict(type='AdamW', lr=1), True, True, 4),
        (dict(type='AdamW', lr=1), True, False, 2),
    ],
)
def test_bytes_of_a_checkpoint(optimizer, ema, save_optimizer, parameters):
    model = nn.Linear(99, 10)  # 1000 parameters
    hooks = [dict(type='StepEMAHook')] if ema else []
    cfg = Config(dict(optim_wrapper=dict(optimizer=optimizer), custom_hooks=hooks))
    whole, best = measure_checkpoint(cfg, model, dict(save_optimizer=save_optimizer))
    assert whole == 4000 * parameters and best == 4000 * (1 + ema)


@pytest.mark.parametrize(
    'cpuinfo, known',
    [
        ('processor : 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n', True),
        ('flags : fpu amx_bf16\n', True),
        ('Features\t: fp asimd bf16 i8mm\n', True),
        ('model name : bf16\nflags\t: fpu avx2 f16c\n', False),
        ('', False),
    ],
)
def test_bfloat16(cpuinfo, known):
    assert has_bfloat16(cpuinfo) is known
