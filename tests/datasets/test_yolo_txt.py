"""YOLO txt data: read as COCO's would be, and every fault with its file and line."""

import json
import os
import time
from pathlib import Path

from mmnextvit.datasets import yolo_scan
from mmnextvit.datasets.data_yaml import find_images, find_sources, read_data_yaml
from mmnextvit.datasets.images import BrokenImageError, read_image
from mmnextvit.datasets.yolo_labels import find_label_file, parse_labels
from mmnextvit.datasets.yolo_scan import load_cache, read_image_size
from mmnextvit.datasets.yolo_txt import VerifiedYOLOTxtMixin
from mmnextvit.engine.data_report import DataReportHook
from mmnextvit.utils.errors import UserError

import numpy as np
import pytest
from mmdet.datasets import BaseDetDataset
from PIL import Image

from tests.helpers.bad_data import (
    LOAD,
    build_dataset,
    fake_runner,
    list_boxes,
    list_infos,
    measure_truth,
    write_image,
)
from tests.helpers.commands import run_here
from tests.helpers.tiny_run import use_datasets, write_tiny_run

NAMES = ('cat', 'dog')

# ------------------------------------------------------------------- what it reads


def test_equals_the_same_boxes_as_coco(yolo, log):
    annotations = []
    for i, boxes in enumerate(yolo.boxes):
        w, h = yolo.sizes[i]
        for label, x, y, bw, bh in boxes:
            bbox = [(x - bw / 2) * w, (y - bh / 2) * h, bw * w, bh * h]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=i,
                    category_id=label + 1,
                    bbox=bbox,
                )
            )
    content = dict(
        images=[
            dict(id=i, file_name=p.name, width=w, height=h)
            for i, (p, (w, h)) in enumerate(zip(yolo.images, yolo.sizes))
        ],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(NAMES)],
        annotations=annotations,
    )
    (yolo.root / 'boxes.json').write_text(json.dumps(content))
    theirs = build_dataset(
        yolo.root,
        type='VerifiedCocoDataset',
        ann_file='boxes.json',
        data_prefix=dict(img='images/train'),
        metainfo=dict(classes=NAMES),
    )
    ours = yolo.build()
    assert len(ours) == len(theirs) == 8 and len(list_boxes(ours)) == 21
    for a, b in zip(list_infos(ours), list_infos(theirs)):
        for key in ('img_path', 'img_id', 'height', 'width', 'sample_idx'):
            assert a[key] == b[key]
        for x, y in zip(a['instances'], b['instances'], strict=True):
            assert x['bbox_label'] == y['bbox_label']
            assert x['ignore_flag'] == y['ignore_flag'] == 0
            np.testing.assert_allclose(x['bbox'], y['bbox'], atol=1e-9)
    assert ours[3]['img'].shape[:2] == yolo.sizes[3][::-1]
    assert ours.metainfo['classes'] == NAMES
    assert ours.label_report['images without a label file'] == [str(yolo.images[7])]
    assert not log


def test_in_mmdetection_without_mmyolo(yolo):
    class Plain(VerifiedYOLOTxtMixin, BaseDetDataset):
        pass

    plain = Plain(data_root=str(yolo.root), ann_file='data.yaml', pipeline=LOAD)
    assert list_infos(plain) == list_infos(yolo.build())
    assert plain[3]['img'].shape[:2] == yolo.sizes[3][::-1]


def test_list_files_and_lists_of_sources(yolo):
    names = [f'{path.parent.name}/{path.name}' for path in yolo.images]
    (yolo.root / 'images/first.txt').write_text(
        '\r\n'.join(f'./{n}' for n in names[:3])
    )
    (yolo.root / 'second.txt').write_text(
        '\n'.join(f'images/{n}' for n in names[3:6]) + '\n\n'
    )
    (yolo.root / 'third.txt').write_text('\n'.join(map(str, yolo.images[6:])))
    folder = yolo.build()
    yolo.yaml(
        'train: [images/first.txt, second.txt, third.txt]\nnames: {1: dog, 0: cat}\n'
    )
    assert list_infos(yolo.build()) == list_infos(folder)


def test_segments_and_boxes_in_one_file(yolo):
    yolo.write(1, '1 0.1 0.2 0.5 0.25 0.3 0.75', '0 0.5 0.5 0.5 0.5')
    w, h = yolo.sizes[1]
    segment, box = yolo.build().get_data_info(1)['instances']
    np.testing.assert_allclose(
        segment['mask'], [[0.1 * w, 0.2 * h, 0.5 * w, 0.25 * h, 0.3 * w, 0.75 * h]]
    )
    np.testing.assert_allclose(segment['bbox'], [0.1 * w, 0.2 * h, 0.5 * w, 0.75 * h])
    assert segment['bbox_label'] == 1 and 'mask' not in box
    with pytest.raises(ValueError, match=r'(?s)are boxes, but masks need .*\.txt:\d'):
        yolo.build(polygons=True)
    load = [*LOAD, dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    masks = yolo.build(pipeline=load)[1]['gt_masks']
    assert len(masks) == 1


def test_classes_of_config_and_file(yolo):
    assert (
        yolo.build(metainfo=dict(classes=['cat', 'dog'])).metainfo['classes'] == NAMES
    )
    with pytest.raises(ValueError) as error:
        yolo.build(metainfo=dict(classes=('dog', 'cat')))
    message = str(error.value)
    assert (
        "data.yaml:2: names: they are ('cat', 'dog'), the config has ('dog', 'cat')"
        in message
    )
    assert "Write metainfo=dict(classes=('cat', 'dog')), num_classes=2" in message
    with pytest.raises(ValueError, match='is one string'):
        yolo.build(metainfo=dict(classes='cat'))


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tiff'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_size_is_that_of_the_loaded_image(tmp_path, suffix, orientation):
    path = tmp_path / f'a.{suffix}'
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.new('RGB', (64, 48), 'red').save(path, exif=exif)
    assert read_image_size(str(path)) == read_image(str(path)).shape[1::-1]


def test_sizes_come_from_headers(yolo, monkeypatch):
    """Also for an image whose end is missing; loading tells of it, as for COCO."""
    monkeypatch.setattr(Image.Image, 'load', lambda *a: pytest.fail('decoded'))
    yolo.images[2].write_bytes(yolo.images[2].read_bytes()[:60])
    assert [(i['width'], i['height']) for i in list_infos(yolo.build())] == yolo.sizes
    monkeypatch.undo()
    with pytest.raises(BrokenImageError, match=r'2.png: .*\(sample 2\)'):
        yolo.build()[2]


@pytest.mark.parametrize(
    ('image', 'label'),
    [
        ('/a/images/train/b.c.jpg', '/a/labels/train/b.c.txt'),
        ('/images/x/images/b.jpg', '/images/x/labels/b.txt'),
        ('/a/myimages/b.jpg', '/a/myimages/b.txt'),
        ('/a/images.jpg', '/a/images.txt'),
    ],
)
def test_label_file(image, label):
    assert find_label_file(image) == label


@pytest.mark.slow
def test_filters_indices_and_batch_shapes(yolo):
    assert len(yolo.build(filter_cfg=dict(filter_empty_gt=True))) == 7
    min_size = sorted(min(size) for size in yolo.sizes)[4]
    assert len(yolo.build(filter_cfg=dict(min_size=min_size))) == 4
    assert len(yolo.build(filter_cfg=dict(min_size=min_size), test_mode=True)) == 8
    assert [i['img_id'] for i in list_infos(yolo.build(indices=[5, 2]))] == [5, 2]
    shapes = dict(type='BatchShapePolicy', batch_size=2, img_size=64)
    shaped = list_infos(yolo.build(test_mode=True, batch_shapes_cfg=shapes))
    ratios = [info['height'] / info['width'] for info in shaped]
    assert ratios == sorted(ratios) and all('batch_shape' in info for info in shaped)


def test_truth_as_prediction_has_map_1(yolo):
    dataset = yolo.build(test_mode=True)
    infos = list_infos(dataset)
    assert len(infos) == len(dataset)
    assert measure_truth(infos, dataset.metainfo)['coco/bbox_mAP'] == pytest.approx(1)


@pytest.mark.slow
def test_an_epoch_with_validation(tmp_path, capfd):
    config = write_tiny_run(tmp_path)
    data = tmp_path / 'data'
    for split in ('train', 'val'):
        content = json.loads((data / 'annotations' / f'{split}.json').read_text())
        (data / 'images').mkdir(exist_ok=True)
        (data / split).rename(data / 'images' / split)
        (data / 'labels' / split).mkdir(parents=True)
        for image in content['images']:
            lines = []
            for box in content['annotations']:
                if box['image_id'] == image['id']:
                    x, y, w, h = (value / 64 for value in box['bbox'])
                    label = box['category_id'] - content['categories'][0]['id']
                    lines.append(f'{label} {x + w / 2} {y + h / 2} {w} {h}\n')
            name = Path(image['file_name']).stem
            (data / 'labels' / split / f'{name}.txt').write_text(''.join(lines))
    (data / 'data.yaml').write_text(
        'train: images/train\nval: images/val\nnc: 3\nnames: [circle, square, triangle]'
    )
    use_datasets(
        config,
        "train.update(type='VerifiedYOLOTxtDataset', ann_file='data.yaml')",
        "val.update(type='VerifiedYOLOTxtDataset', ann_file='data.yaml', split='val')",
    )
    output = run_here('train', config.name, cwd=tmp_path, capfd=capfd)
    assert 'Epoch(train) [1][3/3]' in output and 'coco/bbox_mAP:' in output
    assert 'data.yaml (val): 4 images, ' in output
    assert len(list(data.glob('images/*.mmnextvit-cache.json'))) == 2


# -------------------------------------------------------------------- broken labels


def test_broken_lines(yolo, log):
    faults = {
        '0 0.5 0.5 x 0.2': 'could not convert string to float',
        '0 0.5 0.5 0.2': '4 columns: 5 ',
        '0 0.1 0.1 0.2 0.2 0.9': '6 columns: 5 ',
        '0 0.1 0.1 0.2 0.2 0.3 0.3 0.4': '8 columns',
        '0.5 0.5 0.5 0.2 0.2': 'class 0.5 is no integer',
        '2 0.5 0.5 0.2 0.2': 'class 2 is not in 0 to 1',
        '-1 0.5 0.5 0.2 0.2': 'class -1 is not in 0 to 1',
        'nan 0.5 0.5 0.2 0.2': 'NaN or infinite',
        '0 0.5 inf 0.2 0.2': 'NaN or infinite',
    }
    yolo.add(3, '', *faults)
    yolo.label(5).write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ValueError) as error:
        yolo.build()
    message = str(error.value)
    assert (error.value.file, error.value.line) == (str(yolo.label(3)), 5)
    assert '10 broken lines in the label files of' in message
    for line, reason in enumerate(faults.values(), start=5):  # three boxes, one blank
        assert f'{yolo.label(3)}:{line}: {reason}' in message
    assert f'{yolo.label(5)}:1: the file is not text' in message
    assert 'skip_broken=True' in message
    with pytest.raises(ValueError, match='10 broken lines'):  # from the cache
        yolo.build(test_mode=True)
    dataset = yolo.build(skip_broken=True)
    assert len(list_boxes(dataset)) == 18 and len(dataset) == 8
    assert len(log) == 1 and '10 broken lines' in log[0] and 'dropped' in log[0]


def test_commas_between_values():
    parsed = parse_labels(b'0,.5,.5,.5,.5\n0, .5, .5, .5, .5', 2)
    assert not parsed['rows'] and len(parsed['broken']) == 2
    for _, reason in parsed['broken']:
        assert reason.endswith('. Values are numbers, separated by spaces')


@pytest.mark.slow
def test_boxes_in_pixels(yolo, log):
    """Some lie outside of the image, others would be clipped to all of it."""
    for i in range(8):
        yolo.write(i, '', '0 32 24 20 20', '1 10 10 30 40', '1 1 1 30 1 30 40')
    with pytest.raises(UserError, match='fractions of .* from 0 to 1') as error:
        yolo.build()
    assert (error.value.file, error.value.line) == (str(yolo.label(0)), 2)
    assert 'no usable box' in str(error.value) and '[32.0, 24.0' in str(error.value)
    yolo.build(test_mode=True)
    assert f'{yolo.label(0)}:2: ' in log[0] and 'from 0 to 1' in log[0]
    yolo.write(3, '0 0.5 0.5 2 2')  # as fractions it has a meaning
    assert len(yolo.build()) == 8


def test_long_lists_are_cut(yolo):
    yolo.add(0, *['x'] * 100)
    with pytest.raises(ValueError, match=r'100 broken lines(.*\n){21}.* 80 more'):
        yolo.build()


def test_forgiven_spellings():
    text = b'\xef\xbb\xbf0.0\t0.5 0.5  0.5 0.5 \r\n\r\n1 .5 5e-1 0.5 0.5'
    parsed = parse_labels(text, 2)
    assert parsed['rows'] == [[1, 0, 0.5, 0.5, 0.5, 0.5], [3, 1, 0.5, 0.5, 0.5, 0.5]]
    assert not parsed['broken']


def test_duplicates_and_values_out_of_range(yolo, log):
    yolo.write(
        4,
        '0 0.5 0.5 0.25 0.25',
        '0 0.5 0.5 0.25 0.25',
        '0 0.50 0.5 0.25 0.250',  # the same again
        '1 0.5 0.5 0.25 0.25',  # another class
        '0 0.9 0.5 0.4 0.5',  # to the right of the image
        '0 1.9 0.5 0.4 0.5',  # outside
        '0 0.5 0.5 0 0.5',
        '0 0.5 0.5 0.5 -0.5',
        '1 -0.5 0.25 0.5 0.25 0.5 1.25',
        '1 0.9500004 0.5 0.1 0.5',  # rounded
    )
    dataset = yolo.build()
    w, h = yolo.sizes[4]
    np.testing.assert_allclose(
        [box['bbox'] for box in dataset.get_data_info(4)['instances']],
        [
            [0.375 * w, 0.375 * h, 0.625 * w, 0.625 * h],
            [0.375 * w, 0.375 * h, 0.625 * w, 0.625 * h],
            [0.7 * w, 0.25 * h, w, 0.75 * h],
            [0, 0.25 * h, 0.5 * w, h],
            [0.9000004 * w, 0.25 * h, w, 0.75 * h],
        ],
    )
    mask = dataset.get_data_info(4)['instances'][3]['mask']
    np.testing.assert_allclose(mask, [[0, 0.25 * h, 0.5 * w, 0.25 * h, 0.5 * w, h]])
    label = yolo.label(4)
    report = dict(dataset.label_report)
    assert report['repeated lines (dropped)'] == [f'{label}:2', f'{label}:3']
    assert report['lines with values out of range (clipped to the image)'] == [
        f'{label}:{line}' for line in (5, 6, 9)
    ]
    assert dataset.box_faults == {
        'outside the image': [f'{label}:6'],
        'of zero or negative size': [f'{label}:7', f'{label}:8'],
    }
    assert len(log) == 2
    assert f'2 repeated lines (dropped): {label}:2, {label}:3' in log[0]
    assert f'3 lines with values out of range (clipped to the image): {label}' in log[0]
    assert 'boxes dropped: 1 outside the image' in log[1]


def test_many_images_without_a_label_file(yolo, log):
    yolo.build()
    assert not log  # a single one is nothing odd
    for i in range(4):
        (yolo.root / 'labels' / 'train' / f'{i}.txt').unlink()
    yolo.build()
    (said,) = [line for line in log if 'no label file' in line]
    assert '5 of the 8 images' in said and '(62 %)' in said
    assert str(yolo.root / 'labels' / 'train' / '0.txt') in said
    log.clear()
    for i in range(8):
        (yolo.root / 'labels' / 'train' / f'{i}.txt').write_text('')
    yolo.build(test_mode=True)
    assert not log


@pytest.mark.parametrize('points', [4, 5])
def test_landmarks_are_no_polygons(yolo, points):
    """Those of faces and number plates, as their repositories write them."""
    box = '0 0.5 0.5 0.2 0.4 '
    seen = ' '.join(['0.45 0.55'] * (points - 1)) + ' -1 -1'
    for i in range(7):
        yolo.write(i, box + seen)
    yolo.write(1, box + ' -1.0' * (2 * points), box + seen)  # none is known of a face
    with pytest.raises(UserError, match=f'boxes with {points} landmarks') as error:
        yolo.build()
    assert error.value.line == 1 and 'Keep the first five columns' in str(error.value)
    corners = [0.1, 0.1, 0.9, 0.1, 0.9, 0.9, 0.5, 0.95, 0.1, 0.9, 0.05, 0.5]
    corners += [0.07, 0.3]
    polygon = map(str, corners[: 2 * points + 4])  # of as many columns
    yolo.write(0, f'0 {" ".join(polygon)}')
    dataset = yolo.build()
    assert all(data['instances'] for data in dataset.load_data_list()[:7])


def test_images_listed_twice(yolo, log):
    yolo.yaml('train: [images/train, images/train]\nnames: [cat, dog]')
    assert len(yolo.build()) == 8
    assert '8 images listed twice, used once' in log[0]


def test_no_label_file(yolo, log):
    for i in range(7):
        yolo.label(i).unlink()
    with pytest.raises(FileNotFoundError) as error:
        yolo.build()
    assert f'None of the 8 images of {yolo.root}/data.yaml (train)' in str(error.value)
    assert f'looked for {yolo.label(0)}' in str(error.value)
    assert len(yolo.build(test_mode=True)) == 8 and 'None of the 8' in log[0]
    yolo.write(0)
    with pytest.raises(ValueError, match='holds no usable box'):
        yolo.build()


# ------------------------------------------------------------------ broken images


def test_missing_and_broken_images(yolo, log):
    names = [*yolo.images, yolo.root / 'images/train/gone.jpg']
    (yolo.root / 'train.txt').write_text('\n'.join(map(str, names)))
    yolo.yaml('train: train.txt\nnames: [cat, dog]')
    yolo.images[1].write_bytes(b'')
    yolo.images[2].write_text('no image')
    with pytest.raises(FileNotFoundError) as error:
        yolo.build()
    message = str(error.value)
    assert '3 of the 9 images of' in message and 'skip_broken=True' in message
    assert f'{names[8]}: the image does not exist' in message
    assert f'{names[1]}: the file is empty' in message
    assert f'{names[2]}: the image is truncated, or no image' in message
    (yolo.root / 'train.txt').write_text('\n'.join(map(str, names[:8])))
    with pytest.raises(BrokenImageError, match='2 of the 8 images'):
        yolo.build()
    (yolo.root / 'train.txt').write_text('\n'.join(map(str, names)))
    dataset = yolo.build(skip_broken=True)
    assert [info['img_id'] for info in list_infos(dataset)] == list(range(6))
    assert len(dataset.broken) == 6 and 'skipped' in log[0]
    assert all(dataset[i]['img'] is not None for i in range(6))
    (yolo.root / 'train.txt').write_text(str(names[1]))
    with pytest.raises(BrokenImageError, match='1 of the 1'):
        yolo.build(skip_broken=True)


@pytest.mark.slow
def test_checks_of_the_mixin_go_on(yolo, log):
    path = yolo.images[2]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BrokenImageError, match='1 of 8 images are broken'):
        yolo.build(decode_all=True)
    assert len(yolo.build(decode_all=True, skip_broken=True)) == 7
    with pytest.raises(ValueError, match='skip_broken=True is for training'):
        yolo.build(test_mode=True, skip_broken=True)
    dataset = yolo.build(skip_broken=True)
    assert dataset[2]['img_path'] != str(path) and dataset.broken.sum() == 1
    DataReportHook().after_train_epoch(fake_runner(None, dataset))
    assert f'1 of 8 images of {yolo.root}/data.yaml are broken' in log[-1]
    with pytest.raises(
        FileNotFoundError, match='typo.yaml: the annotation file does not exist'
    ):
        yolo.build(ann_file='typo.yaml')


# --------------------------------------------------------------------------- cache


@pytest.fixture
def scanned(monkeypatch):
    """Names of the images whose header has been read since the last look."""
    names = []
    size = read_image_size

    def note(path: str) -> tuple:
        names.append(Path(path).name)
        return size(path)

    def look() -> list:
        changed = sorted(names)
        names.clear()
        return changed

    monkeypatch.setattr(yolo_scan, 'read_image_size', note)
    return look


@pytest.mark.slow
def test_cache(yolo, scanned, capsys):
    first = list_infos(yolo.build())
    assert len(scanned()) == 8
    assert 'Scanning data.yaml (train)' in capsys.readouterr().out
    assert list_infos(yolo.build()) == first and not scanned()
    assert 'Scanning' not in capsys.readouterr().out
    assert [p.name for p in yolo.cache.parent.iterdir() if p.is_file()] == [
        yolo.cache.name
    ]

    yolo.write(3, '0 0.5 0.5 0.5 0.5')  # edited
    yolo.write(7, '1 0.5 0.5 0.5 0.5')  # added
    yolo.label(5).unlink()  # removed
    write_image(yolo.images[1], 9, (30, 31))
    again = list_infos(yolo.build())
    assert scanned() == ['1.jpg', '3.jpg', '5.jpg', '7.jpg']
    assert [len(info['instances']) for info in again] == [3, 3, 3, 1, 3, 0, 3, 1]
    assert (again[1]['width'], again[1]['height']) == (31, 30)

    yolo.images[0].unlink()
    write_image(yolo.images[0].with_name('9.png'))
    assert len(list_infos(yolo.build())) == 8 and scanned() == ['9.png']
    yolo.images[2].unlink()
    assert len(yolo.build()) == 7 and not scanned()
    assert len(load_cache(yolo.cache, 2)) == 7

    yolo.yaml('train: images/train\nnames: [cat, dog, cow]\n')
    yolo.build()  # other classes are in range
    assert len(scanned()) == 7


@pytest.mark.slow
def test_same_size_and_a_new_time(yolo, scanned):
    yolo.build()
    scanned()
    text = yolo.label(3).read_text()
    yolo.label(3).write_text(text.replace('0', '1', 1))
    os.utime(yolo.label(3), ns=(1, 1))
    assert yolo.build().get_data_info(3)['instances'][0]['bbox_label'] == 1
    assert scanned() == ['3.jpg']


@pytest.mark.slow
@pytest.mark.parametrize(
    'damage',
    [
        lambda b: b'',
        lambda b: b[: len(b) // 2],
        lambda b: b.replace(b'0.', b'1.', 1),
        lambda b: b'\x80\x04\x95' + b,
        lambda b: b'[' * 100000,
        lambda b: b.replace(b'"format": 1', b'"format": 0'),
    ],
)
def test_damaged_cache(yolo, scanned, damage, log):
    expected = list_infos(yolo.build())
    content = yolo.cache.read_bytes()
    scanned()
    yolo.cache.write_bytes(damage(content))
    assert list_infos(yolo.build()) == expected and len(scanned()) == 8
    assert yolo.cache.read_bytes() == content and not log


def test_a_forged_cache(tmp_path):
    """Its digest is right; what no scan can have kept is scanned again all the same."""
    signature = [1, 2, 3, 4]

    def keep(**changed: object) -> list:
        labels = dict(rows=[[1, 1, 0.5, 0.5, 1.0, 0.5]], broken=[[2, 'a']], repeated=[])
        return [signature, [64, 48, labels | changed]]

    row = [1, 0, 0.5, 0.5, 0.5, 0.5]
    good = dict(
        a=keep(),
        b=keep(rows=[], broken=[], repeated=[3]),
        c=keep(rows=[row, [2, 0, *[0.25] * 6]]),
        d=[[1, 2, None, None], [64, 48, None]],
    )
    bad = [
        None, 3, [], {}, 'ab', [signature], [signature, None], [signature, [64, 48]],
        [signature, [64, 48, None]], [[1, 2, None, None], keep()[1]],
        [signature, [64, 48, []]], [signature, [64, 48, {}]], [[1, 2], keep()[1]],
        *([signature, [side, 48, keep()[1][2]]]
          for side in (0, -1, 6.4, '6', True, 10**400)),
        *(keep(rows=[row]) for row in (
            [1, 7, *row[2:]], [1, -1, *row[2:]], [1, 0.0, *row[2:]],
            [1, True, *row[2:]], [None, *row[1:]], row[:-1], [*row, 0.5], [], [1, 0],
            [*row[:-1], '0'], [*row[:-1], 10**400], [*row[:-1], None], None, 'abcdef',
            [*row[:-1], float('nan')], [*row[:-1], float('inf')], [*row[:-1], []],
        )),
        *(keep(**{key: value}) for key in ('rows', 'broken', 'repeated')
          for value in (None, 3, 'a', {}, ['a'], [None], [[1]], [['a', 1]])),
    ]  # fmt: skip
    entries = good | {f'bad{i}': entry for i, entry in enumerate(bad)}
    yolo_scan.save_cache(tmp_path / 'cache', entries, 2)
    assert load_cache(tmp_path / 'cache', 2) == good
    for content in ([], [1], None, 'a', 3):
        yolo_scan.save_cache(tmp_path / 'cache', content, 2)
        assert load_cache(tmp_path / 'cache', 2) == {}


@pytest.mark.slow
def test_a_forged_label_is_read_again(yolo, scanned):
    expected = list_infos(yolo.build())
    entries = load_cache(yolo.cache, 2)
    path = str(yolo.images[0])
    entries[path][1][2]['rows'][0][1] = 7
    yolo_scan.save_cache(yolo.cache, entries, 2)
    scanned()
    assert list_infos(yolo.build()) == expected and scanned() == [yolo.images[0].name]


@pytest.mark.slow
def test_unwritable_cache(yolo, scanned, log):
    yolo.cache.mkdir()
    assert len(yolo.build()) == 8 and len(yolo.build()) == 8
    assert len(scanned()) == 16
    assert (
        len(log) == 2 and f'{yolo.cache} cannot be written (Is a directory)' in log[0]
    )
    assert len(list(yolo.cache.parent.iterdir())) == 2  # no part is left


def test_other_processes_write_nothing(yolo, monkeypatch, capsys):
    monkeypatch.setattr(yolo_scan, 'get_rank', lambda: 1)
    assert len(yolo.build()) == 8
    assert not yolo.cache.exists() and 'Scanning' not in capsys.readouterr().out


# ----------------------------------------------------------------------- data.yaml


def test_data_yaml(yolo):
    path = yolo.yaml(
        'path: .\ntrain: [a, b]\nval: c\ntest:  # none\n\nnc: 3\n'
        'names: {2: x, 0: y, 1: 7}\ndownload: rm -rf /\n'
    )
    assert read_data_yaml(path) == dict(
        classes=('y', '7', 'x'),
        splits=dict(train=['a', 'b'], val=['c']),
        path='.',
        lines=dict(path=1, train=2, val=3, test=4, nc=6, names=7, download=8),
    )


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('train: a', ': names: None is no list'),
        ('train: a\nnames: cat', ":2: names: 'cat' is no list of class names"),
        ('train: a\nnames: []', r':2: names: \[\] is no list'),
        (
            'train: a\nnames: [a, no]',
            ':2: class 1 of names is False: write it in quotes',
        ),
        ('train: a\nnames:\n  0: a\n  1:', ':4: class 1 of names is None'),
        ('train: a\nnames: [a, b, a]', ":2: names: 'a' stands here 2 times"),
        (
            'train: a\nnames: {1: a, 2: b}',
            ':2: names: the keys must be 0 to 1: 0 is missing',
        ),
        ('train: a\nnames: {x: a}', ":2: names: the keys must be.*'x' is no integer"),
        (
            'train: a\nnames: [a]\nnc: 2',
            r':3: nc: it is 2, but names \(line 2\) has 1: write nc: 1',
        ),
        ('train: a\nnames: [a]\nnc: true', ':3: nc: it is True'),
        ('names: [a]', 'none of the keys train, val, test'),
        ('train: 3\nnames: [a]', ':1: train: 3 is neither a folder'),
        ('train: [a, 3]\nnames: [a]', r":1: train: \['a', 3\] is neither a folder"),
        ('path: [a]\ntrain: a\nnames: [a]', r":1: path: \['a'\] is no folder"),
        (
            'train: a\nkpt_shape: [17, 3]\nnames: [a]',
            ':2: kpt_shape: key points are not read',
        ),
        ('train: a\ntrain: b', ':2: train stands here a second time'),
        ('train: [a', ':1: not YAML|:2: not YAML'),
        ('!!python/object/apply:os.getcwd []', 'not YAML'),
        ('a: &a [x]\nb: *a', ':2: aliases'),
        ('a: 2026-13-01', 'not YAML: month must be'),
    ],
)
def test_bad_data_yaml(yolo, text, message):
    with pytest.raises(UserError, match=f'data.yaml.*{message}') as error:
        read_data_yaml(yolo.yaml(text))
    assert error.value.file == yolo.root / 'data.yaml'


LONG = 'long' * 10_000


@pytest.mark.parametrize(
    'text',
    [
        "train: a\nnames: {'0': cat, '1': dog}",
        "train: a\nnames: {0: cat, '1': dog}\nnc: '2'",
        '\ufefftrain: a\nnames: [cat, dog]\nnc: 2',
        '{"train": "a", "names": ["cat", "dog"]}',
    ],
)
def test_plain_data_yaml(yolo, text):
    assert read_data_yaml(yolo.yaml(text))['classes'] == NAMES


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('train: a\nnames: {0: a, 00: b, 1: c}', 'two of the keys mean the same'),
        ('train: a\nnames: {0: a, 0x0: b, 1: c}', 'two of the keys mean the same'),
        ('train: a\nnames: {0: a, 1.0: b}', '1.0 is no integer'),
        ('train: a\nnames: {true: a}', 'True is no integer'),
        ('train: a\nnames: {null: a}', 'None is no integer'),
        ('train: a\nnames: {-1: a, 0: b}', '1 is missing'),
        ('train: a\nnames: {? [0] : a}', 'not YAML'),
        ('train: a\nnames: [[a]]', r"class 0 of names is \['a'\]"),
        ('train: a\nnames: [1.5]', 'class 0 of names is 1.5'),
        ("train: a\nnames: [a]\nnc: '1.0'", "nc: it is '1.0', but"),
        ('train: a\nnames: [a]\nnc:', 'nc: it is None, but'),
        ('train: a\nnames: [a]\nnc: [1]', r'nc: it is \[1\], but'),
        (f'train: a\nnames: {LONG}', "'longlong.*long' is no list of class names"),
        (f'train: a\nnames: {{{LONG[:1000]}: a}}', "'longlong.*long' is no integer"),
        (f'train: a\nnames: [{LONG}, {LONG}]', "'longlong.*long' stands here 2 times"),
        (f'train: a\nnames: [a]\nnc: {LONG}', "nc: it is 'longlong"),
        (f'train: {{{LONG[:1000]}: a}}\nnames: [a]', 'train: .* is neither a folder'),
        (f'train: a\npath: [{LONG}]\nnames: [a]', 'path: .* is no folder'),
        (f'{LONG[:1000]}: a\n{LONG[:1000]}: b', 'longlong.* stands here a second time'),
        (f'a: !{LONG} b', 'not YAML: could not determine'),
    ],
)
def test_odd_data_yaml(yolo, text, message):
    with pytest.raises(UserError, match=f'data.yaml.*{message}') as error:
        read_data_yaml(yolo.yaml(text))
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (json.dumps(dict(images=[LONG])).encode(), 'a list .* JSON or XML: \'{"images'),
        (b'images/train/0.png\nimages/\x00.png', 'the file is not text: it holds NUL'),
        (b'\xff', 'the file is not text in UTF-8'),
        (LONG.encode(), '(?s)1 of the 1 images .*long: the image does not exist'),
        (b'\x1b[31m.png', r'(?s)x1b\[31m.png: the image does not exist'),
    ],
)
def test_what_is_no_list_of_images(yolo, content, message):
    (yolo.root / 'list.txt').write_bytes(content)
    yolo.yaml('train: list.txt\nnames: [cat, dog]')
    with pytest.raises(ValueError, match=message) as error:
        yolo.build()
    assert len(str(error.value)) < 1200 and '\x1b' not in str(error.value)


@pytest.mark.slow
def test_messages_about_sources_and_labels_are_bounded(yolo):
    yolo.yaml(f'train: "{LONG}\\x1b"\nnames: [cat, dog]')
    with pytest.raises(FileNotFoundError, match='longlong.* does not exist') as source:
        yolo.build()
    yolo.yaml(
        f'train: images/train\nnames: [{", ".join(f"n{i}" for i in range(9999))}]'
    )
    with pytest.raises(UserError, match='names: they are') as names:
        yolo.build(metainfo=dict(classes=NAMES))
    yolo.yaml()
    yolo.add(3, *[f'0 0.5 0.5 0.5 {LONG}\x1b[31m'] * 30)
    with pytest.raises(UserError, match='30 broken lines') as lines:
        yolo.build()
    texts = [str(error.value) for error in (source, names, lines)]
    assert max(map(len, texts)) < 13_000 and not any('\x1b' in text for text in texts)


def test_bombs_end_soon(yolo):
    bomb = 'a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n' + ''.join(
        f'a{i + 1}: &a{i + 1} [{", ".join([f"*a{i}"] * 10)}]\n' for i in range(20)
    )
    for text in (bomb, '[' * 100000, 'names: [' + 'a, ' * 1000000 + 'a]'):
        start = time.monotonic()
        with pytest.raises(ValueError, match='data.yaml'):
            yolo.build(ann_file=str(yolo.yaml(text)))
        assert time.monotonic() - start < 5


@pytest.mark.slow
def test_paths(yolo, monkeypatch, tmp_path_factory):
    expected = list_infos(yolo.build())
    tail = 'names: [cat, dog]'
    for text in (
        f'path: images\ntrain: train\n{tail}',
        f'path: {yolo.root}\ntrain: images/train\n{tail}',
        f'path: /moved/away\ntrain: images/train\n{tail}',
        f'path: ../datasets/x  # of another folder\ntrain: images/train\n{tail}',
        f'train: ../images/train\n{tail}',  # Roboflow's
    ):
        yolo.yaml(text)
        assert list_infos(yolo.build()) == expected, text
    elsewhere = tmp_path_factory.mktemp('elsewhere') / 'cats.yaml'
    elsewhere.write_text(f'path: images\ntrain: train\n{tail}')
    assert list_infos(yolo.build(ann_file=str(elsewhere))) == expected
    monkeypatch.chdir(yolo.root)
    yolo.yaml(f'path: .\ntrain: images/train\n{tail}')
    assert list_infos(yolo.build(data_root='')) == expected
    assert list_infos(yolo.build(data_root='.')) == expected


def test_places_of_real_data_yamls(tmp_path, monkeypatch, capsys):
    """The file in YOLOv5's own folder, in a sibling, and from another machine."""
    parent = tmp_path / 'parent'
    code, work = parent / 'yolov5', tmp_path / 'work'
    images = {
        name: parent / 'datasets' / name / 'images' / 'train'
        for name in ('coco128', 'mine')
    }
    images['beside'] = code / 'data' / 'images' / 'train'
    images['working'] = work / 'cells' / 'train'
    for folder in images.values():
        folder.mkdir(parents=True)
        write_image(folder / '0.png')
    file = code / 'data' / 'x.yaml'
    monkeypatch.chdir(work)
    for text, name in (
        ('path: ../datasets/coco128\ntrain: images/train', 'coco128'),
        ('path: mine\ntrain: images/train', 'mine'),
        ('train: ../datasets/mine/images/train', 'mine'),
        ('train: data/images/train', 'beside'),  # from YOLOv5's folder
        ('train: /content/yolov5/data/images/train', 'beside'),
        ('train: C:\\Users\\me\\data\\images\\train', 'beside'),
        ('path: /kaggle/input/datasets/mine\ntrain: images/train', 'beside'),
        ('path: /kaggle/working/cells\ntrain: train', 'working'),
        ('train: cells/train', 'working'),
        ('path: ~/cells\ntrain: train', 'working'),
    ):
        monkeypatch.setenv('HOME', str(work))
        file.write_text(f'{text}\nnames: [cat]')
        found = find_sources(file, 'train')
        assert found.paths == [str(images[name])], text
        assert all(str(images[name]) in note for note in found.notes)
    file.write_text('train: nowhere/at/all\nnames: [cat]')
    with pytest.raises(UserError) as error:
        find_sources(file, 'train', str(tmp_path))
    for folder in (code / 'data', code, tmp_path, work):
        assert f'\n  {folder}/nowhere/at/all\n' in str(error.value)


def test_the_first_place_is_taken(tmp_path, monkeypatch):
    """And nothing is said of it; of another one is said which."""
    names = 'a/b', 'root', 'a', 'work'
    folders = [tmp_path / name for name in names]
    for folder in folders:
        (folder / 'x' / 'train').mkdir(parents=True)
    (folders[0] / 'data.yaml').write_text('path: x\ntrain: train\nnames: [cat]')
    monkeypatch.chdir(folders[3])
    for i, folder in enumerate(folders):
        paths, _, notes = find_sources(
            folders[0] / 'data.yaml', 'train', str(tmp_path / 'root')
        )
        assert paths == [str(folder / 'x' / 'train')]
        assert notes == ([f'train: train is {paths[0]}'] if i else [])
        (folder / 'x' / 'train').rmdir()


def test_missing_folders(yolo):
    yolo.yaml('path: x\ntrain: y\nnames: [cat, dog]\ndownload: touch /tmp/no')
    with pytest.raises(FileNotFoundError) as error:
        yolo.build()
    message = str(error.value)
    place = f'data.yaml:2: train: y does not exist, looked for\n  {yolo.root}/x/y\n'
    assert place in message
    assert f'{yolo.root}/y' in message and f"data_root (now '{yolo.root}')" in message
    assert 'download: is not run' in message
    with pytest.raises(
        ValueError, match="data.yaml: the file has no 'val'.*one of train"
    ):
        yolo.build(split='val')
    (yolo.root / 'empty').mkdir()
    (yolo.root / 'empty.txt').write_text('\n')
    (yolo.root / 'boxes.json').write_text('{}')
    for source, message in (
        ('empty', 'empty: the folder holds no image'),
        ('empty.txt', 'empty.txt: the file lists no images'),
        ('boxes.json', 'boxes.json: this is neither a folder nor'),
    ):
        yolo.yaml(f'train: {source}\nnames: [cat, dog]')
        with pytest.raises(ValueError, match=message):
            yolo.build()


def test_folders_are_searched_below_and_links_end(yolo):
    folder = yolo.root / 'images'
    (folder / 'train' / 'circle').symlink_to(folder, target_is_directory=True)
    (folder / 'train' / '.hidden').mkdir()
    write_image(folder / 'train' / '.hidden' / 'a.png')
    write_image(folder / 'train' / '._a.png')
    (folder / 'train' / 'notes.md').write_text('x')
    assert sorted(find_images(str(folder))) == [str(p) for p in yolo.images]
