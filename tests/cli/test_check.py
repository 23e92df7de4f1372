"""``mmnextvit check`` as a user calls it: the report, one JSON document, exit codes."""

import json
import shutil
from pathlib import Path

import cv2
import pytest

from tests.helpers.commands import call_here, refusal, run_here
from tests.helpers.tiny_run import write_tiny_run

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Drawn images that are sound, with more than one of each class."""
    return write_tiny_run(tmp_path)


def edit_boxes(folder: Path, split: str, boxes: dict[int, list[float]]) -> None:
    """Puts other boxes in the place of some."""
    file = folder / 'data' / 'annotations' / f'{split}.json'
    content = json.loads(file.read_text())
    for index, bbox in boxes.items():
        content['annotations'][index]['bbox'] = bbox
    file.write_text(json.dumps(content))


def spoil(folder: Path) -> None:
    """A missing and a broken image, a leak, and boxes of three useless kinds."""
    data = folder / 'data'
    (data / 'train' / '000001.jpg').unlink()
    broken = data / 'train' / '000002.jpg'
    broken.write_bytes(broken.read_bytes()[:500])
    image = cv2.imread(str(data / 'train' / '000003.jpg'))
    again = data / 'val' / '000000.jpg'
    cv2.imwrite(str(again), image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    edit_boxes(folder, 'train', {0: [5, 5, 0, 9], -1: [1, 1, 60, 2.4]})
    edit_boxes(folder, 'val', {0: [1, 1, 2, 20]})


def test_a_report_of_sound_data(config, capfd):
    printed = run_here('check', config, cwd=config.parent, capfd=capfd)
    assert f'{config}: 0 errors, 0 warnings, ' in printed or 'nothing to' in printed
    assert 'train: 6 images, 10 boxes: square 4' in printed
    assert 'val: 4 images, 9 boxes' in printed
    assert 'best possible recall 100.00%' in printed
    assert not (config.parent / 'work_dirs').exists()  # nothing is written


def test_a_report_of_all_faults(config, capfd):
    spoil(config.parent)
    printed = run_here('check', config, cwd=config.parent, capfd=capfd, code=1)
    assert printed.endswith(f'mmnextvit check: {config}: 2 errors\n')
    errors, warnings = printed.index('\nerrors\n'), printed.index('\nwarnings\n')
    for text in ('images are missing (train)', 'images cannot be used (train)'):
        assert errors < printed.index(text) < warnings
    for text in (
        'images of val are in train (train, val)',
        'val/000000.jpg = train/000003.jpg',
        'boxes are dropped (train)',
        'boxes that no anchor can match (train)',
        'boxes under 3 pixels (train)',
        'boxes under 3 pixels (val)',
    ):
        assert printed.index(text) > warnings
    report = printed[printed.rindex(f'{config}: 2 errors, ', 0, errors) :]
    assert len(report.splitlines()) < 50


def test_json_alone_on_stdout(config, capfd):
    spoil(config.parent)
    cfg = config.read_text().replace(
        'train_dataloader = dict(batch_size=2, dataset=train, **loader)',
        "train.update(type='VerifiedCocoDataset')\n"
        "wrapped = dict(type='ConcatDataset', datasets=[train])\n"
        "wrapped = dict(type='RepeatDataset', times=2, dataset=wrapped)\n"
        'train_dataloader = dict(\n'
        '    batch_size=2, dataset=dict(wrapped, _delete_=True), **loader)',
    )
    config.write_text(cfg)
    capfd.readouterr()
    message = refusal('check', config, '--json', cwd=config.parent)
    assert message == f'{config}: 2 errors'
    document = json.loads(capfd.readouterr().out)
    found = {(f['level'], f['check'], f['split']) for f in document['findings']}
    assert found - {('note', 'amp', '')} == {
        ('error', 'missing_images', 'train'),
        ('error', 'broken_images', 'train'),
        ('warning', 'dropped_boxes', 'train'),
        ('warning', 'small_boxes', 'train'),
        ('warning', 'small_boxes', 'val'),
        ('warning', 'anchors', 'train'),
        ('warning', 'leaks', 'train, val'),
    }
    assert document['counts']['error'] == 2 and document['counts']['warning'] == 5
    assert document['splits']['train']['images'] == 5  # one is missing
    assert document['image_size'] == [64, 64]
    assert all(f['advice'] and f['seen'] and f['count'] for f in document['findings'])


def test_faults_of_the_config(config, capfd):
    options = '--cfg-options'
    args = [
        options,
        'train_cfg.max_epochs=0',
        'load_from=none.pth',
        'model.bbox_head.head_module.num_classes=2',
    ]
    refusal('check', config, '--json', *args, cwd=config.parent)
    document = json.loads(capfd.readouterr().out)
    found = [f['check'] for f in document['findings'] if f['level'] == 'error']
    assert found == ['config', 'config', 'class_count', 'class_count']
    refusal('check', config, '--json', options, 'model.neck.type=No', cwd=config.parent)
    document = json.loads(capfd.readouterr().out)
    (error,) = (f for f in document['findings'] if f['level'] == 'error')
    assert error['check'] == 'config' and 'there is no such' in error['seen']
    assert document['splits']['train']['boxes'] == 10  # the rest is looked at


def test_space_on_the_disk_against_a_training(trained, tmp_path, capfd, monkeypatch):
    """What is reckoned for a checkpoint is what a training has written."""
    shutil.copytree(trained.folder / 'data', tmp_path / 'data')
    shutil.copy(trained.folder / 'tiny.py', tmp_path)
    call_here('check', 'tiny.py', '--json', cwd=tmp_path)
    disk = json.loads(capfd.readouterr().out)['disk']
    written = (trained.work_dir / 'epoch_1.pth').stat().st_size
    assert disk['checkpoint'] == pytest.approx(written, rel=0.1)
    # best.pth and last.pth are second names of two of the files.
    files = {p.stat().st_ino: p.stat() for p in trained.work_dir.glob('*.pth')}
    saved = sum(status.st_size for status in files.values())
    assert disk['needed'] == pytest.approx(saved, rel=0.1)
    assert disk['free'] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    usage = shutil.disk_usage(tmp_path)._replace(free=written)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    printed = run_here('check', 'tiny.py', cwd=tmp_path, capfd=capfd, code=1)
    assert 'the disk has no space for the checkpoints' in printed
