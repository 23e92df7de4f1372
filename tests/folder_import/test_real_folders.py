"""Folders as they lie about: half of them, archives, and what is read of neither."""

import shutil
from pathlib import Path

from mmnextvit.utils.errors import UserError, follow_causes

import pytest
from PIL import Image

from tests.helpers.commands import refusal, run_here
from tests.helpers.layouts import (
    build_coco,
    build_roboflow_yolo,
    build_voc_annots,
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


def test_images_that_no_split_has_are_told(tmp_path, capfd):
    build_voc_annots(tmp_path / 'data')
    told = run_here('new', 'data', cwd=tmp_path, capfd=capfd)
    assert 'beside these' not in told
    gone = sorted((tmp_path / 'data').glob('annots/*.xml'))[0]
    gone.unlink()
    (tmp_path / 'data' / '.DS_Store').write_bytes(b'\0')
    told = run_here('new', 'data', '-o', 'less.py', cwd=tmp_path, capfd=capfd)
    assert f'images beside these that no split has: 1 ({gone.stem}.' in told


def test_images_without_any_label_file_say_where_it_was_looked_for(tmp_path):
    build_roboflow_yolo(tmp_path / 'data')
    for path in (tmp_path / 'data' / 'train' / 'labels').iterdir():
        path.unlink()
    message = refusal('new', 'data', cwd=tmp_path)
    assert 'has a label file' in message
    assert 'train/labels' in message


@pytest.mark.slow
def test_check_tells_of_labels_without_an_image(tmp_path, capfd):
    build_roboflow_yolo(tmp_path / 'data')
    run_here('new', 'data', cwd=tmp_path, capfd=capfd)
    run_here('check', 'data.py', '--json', cwd=tmp_path, capfd=capfd)
    gone, gif = find_labelled_images(tmp_path / 'data' / 'train')[:2]
    with Image.open(gif) as image:
        image.save(gif.with_suffix('.gif'))
    for path in (gone, gif):
        path.unlink()
    told = run_here('check', 'data.py', cwd=tmp_path, capfd=capfd)
    assert '2 label files have no image' in told
    assert f'{gone.stem}.txt' in told
    assert f'of another type: {gif.stem}.gif' in told


def find_labelled_images(folder: Path) -> list[Path]:
    """The images that have a box each."""
    return [
        image
        for image in sorted((folder / 'images').iterdir())
        if (folder / 'labels' / f'{image.stem}.txt').read_text().strip()
    ]
