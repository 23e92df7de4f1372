"""What ``export --to web`` refuses before it writes anything."""

from pathlib import Path

from mmnextvit.deploy.choices import (
    Options,
    check_detector,
    check_options,
    choose_path,
)
from mmnextvit.deploy.formats import holds_export
from mmnextvit.deploy.web_folder import FILES, RUNTIME
from mmnextvit.utils.errors import UserError

import pytest
from torch import nn

pytestmark = pytest.mark.deploy


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(batch=2), r'batch 2 \(--batch\): web takes one image at a time'),
        (dict(batch=None), r'batch dynamic \(--batch\): web takes one image at a time'),
        (
            dict(to='onnx', onnxruntime_web='x.tgz'),
            r'onnxruntime_web \(--onnxruntime-web\) is for web only, not for onnx',
        ),
        (dict(efficient_nms=True), 'efficient_nms.* is for tensorrt'),
    ],
)
def test_options_that_a_page_has_not(options, message):
    with pytest.raises(UserError, match=message):
        check_options(Options(**{'to': 'web', **options}))
    check_options(Options('web', dynamic_size=True, onnxruntime_web='x.tgz'))


@pytest.mark.parametrize('channels', [1, 4])
def test_images_that_are_not_in_colour(channels):
    detector = nn.Module()
    detector.backbone = nn.Module()
    detector.backbone.in_channels = channels
    with pytest.raises(
        UserError, match=f'web takes images of 3 channels.* have {channels}: onnx,'
    ):
        check_detector('web', detector)


def test_a_detector_that_finds_masks():
    detector = nn.Module()
    detector.bbox_head = nn.Module()
    detector.bbox_head.head_module = nn.Module()
    detector.bbox_head.head_module.mask_channels = 32
    with pytest.raises(UserError, match='web has no masks here.*: onnx, openvino'):
        check_detector('web', detector)


@pytest.fixture
def folder(tmp_path) -> Path:
    """An exported folder, of empty files."""
    folder = tmp_path / 'best_web'
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_folder_is_replaced_only_by_force(folder):
    checkpoint = str(folder.with_name('best.pth'))
    with pytest.raises(UserError, match=r'best_web exists, and is replaced only'):
        choose_path(checkpoint, Options('web'))
    assert choose_path(checkpoint, Options('web', overwrite=True)) == folder


@pytest.mark.parametrize('name', ['notes.txt', f'{RUNTIME}/mine.js', 'mine/x'])
def test_a_users_file_in_it_is_kept(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text('mine')
    first = name.partition('/')[0] if name.startswith('mine') else name
    with pytest.raises(UserError, match=f'best_web is a folder with {first}, which is'):
        choose_path('best.pth', Options('web', overwrite=True, out=folder))
    assert (folder / name).read_text() == 'mine'


def test_a_page_among_images_is_no_exported_file(tmp_path):
    """The command ``predict`` takes such a folder for one of images."""
    (tmp_path / 'index.html').touch()
    assert not holds_export(tmp_path)
