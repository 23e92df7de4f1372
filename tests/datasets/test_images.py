"""Broken and missing images: each is named, or skipped where that is wanted."""

import copy

from mmnextvit.datasets.images import BrokenImageError, read_image
from mmnextvit.engine.data_report import DataReportHook

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests.helpers.bad_data import LOAD, fake_runner, write_image

# ------------------------------------------------------------------------- images


def test_missing_images(coco):
    for i in (1, 3, 4):
        coco.paths[i].unlink()
    with pytest.raises(FileNotFoundError) as error:
        coco.build()
    message = str(error.value)
    assert '3 of the 8 images' in message and 'boxes.json names are missing' in message
    assert f'{coco.paths[1]}, {coco.paths[3]}, {coco.paths[4]}. Set data_prefix' in (
        message
    )


def test_wrong_folder_names_only_a_few(coco):
    with pytest.raises(FileNotFoundError, match='8 of the 8.*4.jpg and 3 more'):
        coco.build(data_prefix=dict(img='elsewhere'), skip_broken=True)


def test_missing_images_skipped(coco, log):
    coco.paths[1].unlink()
    assert len(coco.build(skip_broken=True)) == 7
    (line,) = log
    assert '1 of the 8 images' in line and f'{coco.paths[1]}: skipped' in line


def test_images_in_subfolders(coco):
    coco.content['images'][2]['file_name'] = 'deep/2.jpg'
    with pytest.raises(FileNotFoundError, match='1 of the 8.*images/deep/2.jpg'):
        coco.build()
    (coco.root / 'images' / 'deep').mkdir()
    write_image(coco.root / 'images' / 'deep' / '2.jpg')
    assert len(coco.build()) == 8


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_truncated_image(tmp_path, suffix):
    path = tmp_path / f'a{suffix}'
    content = write_image(path)
    np.testing.assert_array_equal(read_image(str(path)), cv2.imread(str(path)))
    path.write_bytes(content + b'\0\0trailer')  # of a camera
    assert read_image(str(path)).shape == (48, 64, 3)
    for length in (len(content) - 40, len(content) // 2, 30):
        path.write_bytes(content[:length])
        with pytest.raises(
            BrokenImageError, match=f'a{suffix}: the image is truncated'
        ):
            read_image(str(path))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'the file is empty'),
        (b'<html>404</html>', 'the image is truncated, or no image'),
    ],
)
def test_file_that_is_no_image(tmp_path, content, message):
    path = tmp_path / 'a.jpg'
    path.write_bytes(content)
    with pytest.raises(BrokenImageError, match=f'a.jpg: {message}'):
        read_image(str(path))


def test_broken_image_is_named_when_met(coco):
    coco.truncate(5)
    dataset = coco.build()
    assert dataset[4]['img'].shape == (48, 64, 3)
    with pytest.raises(BrokenImageError) as error:
        dataset[5]
    message = str(error.value)
    assert str(coco.paths[5]) in message and 'truncated' in message
    assert '(sample 5)' in message and 'skip_broken=True' in message


@pytest.mark.slow
def test_broken_image_names_itself_through_workers(coco):
    coco.truncate(0)
    loader = DataLoader(coco.build(test_mode=True), num_workers=1, collate_fn=list)
    with pytest.raises(BrokenImageError, match=f'{coco.paths[0]}.*sample 0'):
        list(loader)


def test_decode_all_names_all(coco, capfd):
    coco.truncate(2, 6)
    coco.paths[7].write_bytes(b'')
    with pytest.raises(BrokenImageError) as error:
        coco.build(decode_all=True)
    message = str(error.value)
    assert '3 of 8 images are broken' in message
    assert all(str(coco.paths[i]) in message for i in (2, 6, 7))
    assert 'Decoding the images of boxes.json' in capfd.readouterr().out


def test_decode_all_leaves_out(coco, log):
    coco.truncate(2, 6)
    dataset = coco.build(decode_all=True, skip_broken=True)
    assert len(dataset) == 6 and len(list(dataset)) == 6
    assert str(coco.paths[2]) in log[0] and '2 of 8 images are broken' in log[0]


def test_skipping_is_for_training(coco):
    with pytest.raises(ValueError, match='skip_broken=True is for training'):
        coco.build(test_mode=True, skip_broken=True)


MOSAIC = [
    *LOAD,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='Mosaic',
        img_scale=(64, 64),
        pre_transform=[*LOAD, dict(type='LoadAnnotations', with_bbox=True)],
    ),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_path',)),
]


@pytest.mark.slow
@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_skipped_and_counted_over_workers(coco, log, method):
    """Met as itself and inside a mosaic, by two workers that stay."""
    coco.truncate(1, 6)
    pipeline = copy.deepcopy(MOSAIC)
    dataset = coco.build(skip_broken=True, pipeline=pipeline)
    assert pipeline == MOSAIC  # the config is still the user's
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=method,
        collate_fn=list,
    )
    bad = {str(coco.paths[i]) for i in (1, 6)}
    for _ in range(2):
        samples = [sample for batch in loader for sample in batch]
        assert len(samples) == 8
        assert not bad & {sample['data_samples'].img_path for sample in samples}
    assert dataset.broken.nonzero().flatten().tolist() == [1, 6]

    DataReportHook().after_train_epoch(fake_runner(None, dataset))
    assert log[-1].startswith('2 of 8 images of') and log[-1].endswith(
        f'have been skipped: {coco.paths[1]}, {coco.paths[6]}'
    )


def test_skipped_is_named_once(coco, log):
    coco.truncate(1)
    dataset = coco.build(skip_broken=True)
    assert all(dataset[1]['img_path'] != str(coco.paths[1]) for _ in range(5))
    (line,) = log
    assert str(coco.paths[1]) in line and '(sample 1): skipped' in line


def test_nothing_left_to_skip_to(coco):
    coco.truncate(*range(8))
    with pytest.raises(BrokenImageError, match='No image of .*boxes.json'):
        coco.build(skip_broken=True)[0]
