"""Boxes lie on what they were drawn around, or an error says that sizes differ."""

import re

from mmnextvit.datasets.images import (
    BrokenImageError,
    WrongSizeError,
    load_image,
    read_image,
)
from mmnextvit.engine.data_report import DataReportHook

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.helpers.bad_data import fake_runner, write_image
from tests.helpers.turned_images import SIDEWAYS, find_red, write_turned

EVERY = pytest.mark.parametrize('orientation', range(1, 9))


def annotate(coco, index: int, image: np.ndarray) -> None:
    """Has the annotations of a COCO data set say where the red box of an image lies."""
    x1, y1, x2, y2 = find_red(image)
    coco.content['images'][index].update(height=image.shape[0], width=image.shape[1])
    coco.content['annotations'][index]['bbox'] = [x1, y1, x2 - x1, y2 - y1]


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize('test_mode', [False, True])
def test_coco_boxes_as_stored_and_as_shown(coco, orientation, test_mode):
    as_stored, as_shown = write_turned(coco.paths[0], orientation)
    write_turned(coco.paths[1], orientation)
    annotate(coco, 0, as_stored if orientation in SIDEWAYS else as_shown)
    annotate(coco, 1, as_shown)
    dataset = coco.build(test_mode=test_mode, decode_all=True)
    for i in range(2):
        sample = dataset[i]
        (box,) = (instance['bbox'] for instance in sample['instances'])
        assert find_red(sample['img'], channel=2) == box
        assert sample['ori_shape'] == (sample['height'], sample['width'])
        assert sample['img'].shape[:2] == sample['img_shape'] == sample['ori_shape']


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize('stated', ['as stored', 'as shown', None])
def test_voc_boxes(voc, orientation, stated):
    path = voc.root / 'JPEGImages' / '0.jpg'
    as_stored, as_shown = write_turned(path, orientation)
    stored = stated == 'as stored' and orientation in SIDEWAYS
    image = as_stored if stored else as_shown
    x1, y1, x2, y2 = find_red(image)
    size = (
        ''
        if stated is None
        else (
            f'<size><width>{image.shape[1]}</width><height>{image.shape[0]}</height></size>'
        )
    )
    (voc.root / 'Annotations' / '0.xml').write_text(
        f'<annotation>{size}<object><name>cat</name><bndbox><xmin>{x1 + 1}</xmin>'
        f'<ymin>{y1 + 1}</ymin><xmax>{x2 + 1}</xmax><ymax>{y2 + 1}</ymax></bndbox>'
        '</object></annotation>'
    )
    sample = voc.build()[0]
    assert find_red(sample['img'], 2) == sample['instances'][0]['bbox']
    assert (sample['height'], sample['width']) == sample['ori_shape']


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tiff'])
def test_yolo_boxes_are_of_the_image_as_it_is_read(yolo, orientation, suffix):
    """As Ultralytics has it; whether OpenCV turns a format depends on its version."""
    path = yolo.images[0].with_suffix(f'.{suffix}')
    yolo.images[0].unlink()
    as_stored, as_shown = write_turned(path, orientation)
    for _ in range(2):  # the second time from the cache
        image = read_image(str(path))
        assert suffix != 'jpg' or image.shape == as_shown.shape
        x1, y1, x2, y2 = find_red(image, 2)
        height, width = image.shape[:2]
        yolo.write(
            0,
            f'0 {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} '
            f'{(x2 - x1) / width} {(y2 - y1) / height}',
        )
        dataset = yolo.build()
        sample = next(
            dataset[i]
            for i in range(8)
            if dataset.get_data_info(i)['img_path'] == str(path)
        )
        np.testing.assert_allclose(
            find_red(sample['img'], 2), sample['instances'][0]['bbox']
        )


@EVERY
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tiff'])
@pytest.mark.parametrize(
    'color_type', ['color', 'color_ignore_orientation', 'grayscale', 'unchanged']
)
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_every_decoder_gives_the_orientation_that_is_stated(
    tmp_path, orientation, suffix, color_type, backend
):
    if orientation not in SIDEWAYS:
        return  # sizes say nothing there
    path = tmp_path / f'a.{suffix}'
    for image in write_turned(path, orientation):
        stated = image.shape[1], image.shape[0]
        read = load_image(str(path), color_type, backend, stated=stated).image
        grey = read if read.ndim == 2 else read.max(axis=2)
        expected = (
            cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            if read.ndim == 2
            else (image.max(axis=2))
        )
        np.testing.assert_allclose(grey.astype(int), expected.astype(int), atol=6)


def test_other_sizes_are_an_error(coco):
    coco.content['images'][2].update(width=60)
    coco.content['images'][4].update(width=48, height=64)
    dataset = coco.build()
    with pytest.raises(WrongSizeError) as error:
        dataset[2]
    message = str(error.value)
    assert error.value.file == str(coco.paths[2]) and message.count('2.jpg') == 1
    assert '64 x 48 pixels (width x height)' in message and 'say 60 x 48.' in message
    assert 'Correct width and height' in message and 'decode_all=True' in message
    assert '(sample 2)' in message
    with pytest.raises(WrongSizeError, match='48 x 64, the same turned by 90 degrees'):
        dataset[4]
    with pytest.raises(BrokenImageError) as error:
        coco.build(decode_all=True, test_mode=True)
    message = str(error.value)
    assert '2 of 8 images are broken' in message
    assert str(coco.paths[2]) in message and str(coco.paths[4]) in message


def test_other_sizes_can_be_skipped(coco, log):
    coco.content['images'][2].update(width=60)
    dataset = coco.build(skip_broken=True)
    assert dataset[2]['img_path'] != str(coco.paths[2])
    assert '60 x 48' in log[0] and 'skipped' in log[0]


def test_wrong_sizes_in_voc(voc):
    voc.write(2, width=65)
    with pytest.raises(WrongSizeError, match=r'2.jpg: .*64 x 48.*65 x 48'):
        voc.build()[2]


def test_replaced_image_of_a_yolo_dataset(yolo):
    dataset = yolo.build()
    write_image(yolo.images[3], 0, (20, 30))
    with pytest.raises(WrongSizeError, match=re.escape('30 x 20 pixels')):
        dataset[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('orientation', 'size', 'unsettled'),
    [(1, (64, 64), False), (2, (64, 48), True), (3, (64, 48), True),
     (4, (64, 48), True), (6, (64, 48), False), (6, (64, 64), True)],
)  # fmt: skip
def test_what_sizes_do_not_show_is_reported(coco, log, orientation, size, unsettled):
    _, as_shown = write_turned(coco.paths[0], orientation, size)
    annotate(coco, 0, as_shown)
    dataset = coco.build()
    assert find_red(dataset[0]['img'], 2) == dataset[0]['instances'][0]['bbox']
    DataReportHook().after_val_epoch(fake_runner(None, dataset))
    coco.build(decode_all=True)
    lines = [line for line in log if 'EXIF orientation' in line]
    assert len(lines) == 2 * unsettled
    assert all(line.startswith('1 of 8 images of') for line in lines)
    assert all(line.endswith(str(coco.paths[0])) for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize('orientation', [2, 3, 4])
def test_sizes_that_were_measured_state_nothing(voc, yolo, log, orientation):
    """Nothing is told of annotations that say no size; of those that do it is."""
    for i in range(2):
        write_turned(voc.root / 'JPEGImages' / f'{i}.jpg', orientation)
    voc.write(0, width=0)
    write_turned(yolo.images[0], orientation)
    for dataset in (voc.build(decode_all=True), yolo.build(decode_all=True)):
        for i in range(2):
            dataset[i]
        assert dataset.marks['turned'].tolist()[0] is False
        DataReportHook().after_val_epoch(fake_runner(None, dataset))
    lines = [line for line in log if 'EXIF orientation' in line]
    assert len(lines) == 2 and lines[0].startswith('1 of ')
    assert all(line.endswith('1.jpg') for line in lines)


def test_limit_of_pixels(tmp_path, monkeypatch):
    path = tmp_path / 'a.png'
    Image.new('1', (3000, 3000)).save(path)
    assert path.stat().st_size < 5000
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 4_000_000)
    with pytest.raises(BrokenImageError, match='a.png: the image is too large'):
        load_image(str(path))
