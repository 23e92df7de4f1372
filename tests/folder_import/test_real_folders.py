"""Folders as they lie about: half of them, archives, and what is read of neither."""

import shutil
from pathlib import Path

from mmnextvit.utils.errors import UserError, follow_causes

import pytest
from PIL import Image

from tests.helpers.commands import refusal, run_here
from tests.helpers.layouts import (
    build_coco,
    build_labelimg,
    build_roboflow_yolo,
)


def test_data_without_the_images_end_with_a_message(tmp_path, capfd):
    build_roboflow_yolo(tmp_path / 'data')
    shutil.rmtree(tmp_path / 'data' / 'train' / 'images')
    told = run_here('new', 'data', cwd=tmp_path, capfd=capfd, code=1)
    assert 'train/images does not exist' in told
    assert 'data.yaml' in told


def test_causes_in_a_ring_are_followed_once():
    first, second = UserError('first'), UserError('second')
    first.__cause__, second.__cause__ = second, first
    assert list(follow_causes(first)) == [first, second]
    first.__cause__ = first
    assert list(follow_causes(first)) == [first]


def test_an_archive_is_to_be_unpacked(tmp_path):
    build_roboflow_yolo(tmp_path / 'data')
    shutil.make_archive(str(tmp_path / 'my'), 'zip', tmp_path / 'data')
    message = refusal('new', 'my.zip', cwd=tmp_path)
    assert 'my.zip' in message
    assert 'unpack it' in message


def test_an_empty_split_is_not_said_to_be_absent(tmp_path, capfd):
    build_roboflow_yolo(tmp_path / 'data')
    for path in (tmp_path / 'data' / 'valid' / 'images').iterdir():
        path.unlink()
    told = run_here('new', 'data', cwd=tmp_path, capfd=capfd)
    assert 'as val, which holds no image: left out' in told


def test_coco_says_nothing_of_its_index(tmp_path, capfd):
    build_coco(tmp_path / 'data')
    assert 'index' not in run_here('new', 'data', cwd=tmp_path, capfd=capfd)


@pytest.mark.slow
@pytest.mark.parametrize('build', [build_roboflow_yolo, build_labelimg])
def test_labels_without_an_image_are_told(build, tmp_path, capfd):
    build(tmp_path / 'data')
    assert 'label files' not in run_here('new', 'data', cwd=tmp_path, capfd=capfd)
    (tmp_path / 'data.py').unlink()
    gone, gif = find_images(tmp_path / 'data')[:2]
    with Image.open(gif) as image:
        image.save(gif.with_suffix('.gif'))
    for path in (gone, gif):
        path.unlink()
    for command, argument in (('new', 'data'), ('check', 'data.py')):
        if command == 'new':
            for path in tmp_path.glob('data_*.txt'):
                path.unlink()
        told = run_here(command, argument, cwd=tmp_path, capfd=capfd)
        assert '2 label files have no image' in told
        assert f'{gone.stem}.txt' in told
        assert f'{gif.stem}.gif' in told


def find_images(folder: Path) -> list[Path]:
    """Training images of which each has a box."""
    images = sorted([*folder.glob('train/images/*'), *folder.glob('images/*')])
    labels = [Path(str(p).replace('images', 'labels')) for p in images]
    return [
        image
        for image, label in zip(images, labels, strict=True)
        if (file := label.with_suffix('.txt')).is_file() and file.stat().st_size
    ]
