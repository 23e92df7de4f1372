"""The report of a run, as the commands write it."""

import csv
import json
import shutil
from types import SimpleNamespace

from mmnextvit.report import after_training
from mmnextvit.runs import find_run
from mmnextvit.utils.errors import Terminated

import pytest
from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader

from tests.helpers.commands import call_here, refusal, run_here
from tests.helpers.report_pages import read_page
from tests.helpers.tiny_run import write_tiny_run

EVERY_EPOCH = 'report=True', 'train_cfg.val_interval=1'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with a run of an epoch, which was resumed for a second one."""
    folder = tmp_path_factory.mktemp('reported')
    write_tiny_run(folder)
    first = '--no-report', '--cfg-options', *EVERY_EPOCH, 'train_cfg.max_epochs=1'
    call_here('train', 'tiny.py', *first, cwd=folder)
    assert not (folder / 'work_dirs' / 'tiny' / 'report').exists()
    resumed = '--resume', '--cfg-options', *EVERY_EPOCH
    call_here('train', 'tiny.py', *resumed, cwd=folder)
    return folder


def read_rows(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def read_whole(report):
    """The page of a report, whose files are all there and named."""
    page = read_page((report / 'index.html').read_text(encoding='utf-8'))
    assert not page.scripts and not page.outside
    files = {path.name: path for path in report.iterdir()}
    summary = json.loads(files.pop('report.json').read_text())
    assert sorted(files) == summary['files']
    anchors = {link for link in page.links if link.startswith('#')}
    assert {link[1:] for link in anchors} <= page.ids
    assert page.links - anchors == {n for n in files if n.endswith('.csv')}
    drawn = {path.read_bytes() for path in files.values() if path.suffix in PICTURES}
    assert set(page.images) == drawn and all(page.alts)
    return page, summary


PICTURES = '.png', '.jpg'


@pytest.mark.slow
def test_a_resumed_run_has_its_whole_curve(folder):
    run = folder / 'work_dirs' / 'tiny'
    page, summary = read_whole(run / 'report')
    rows = read_rows(run / 'report' / 'training.csv')
    assert [int(row['iter']) for row in rows] == [1, 2, 3, 4, 5, 6]
    logged = [
        json.loads(line)
        for file in sorted(run.glob('*/vis_data/scalars.json'))
        for line in file.read_text().splitlines()
    ]
    losses = [entry['loss'] for entry in logged if 'loss' in entry and 'iter' in entry]
    assert [float(row['loss']) for row in rows] == pytest.approx(losses, rel=1e-5)
    rows = read_rows(run / 'report' / 'validation.csv')
    assert [row['step'] for row in rows] == ['1', '2']
    maps = [entry['coco/bbox_mAP'] for entry in logged if 'coco/bbox_mAP' in entry]
    assert [float(row['coco/bbox_mAP']) for row in rows] == pytest.approx(maps)
    assert any('resumed once' in text for text in page.texts)
    assert 'Left out' not in page.texts
    assert {'training', 'scores', 'errors', 'labels', 'batches', 'speed'} <= page.ids
    # The first batches are those of the first start.
    assert len(list((run / 'batches').iterdir())) == 3
    assert (run / 'batches' / 'batch_1.jpg').read_bytes() in page.images
    rows = read_rows(run / 'report' / 'labels.csv')
    data = json.loads((folder / 'data/annotations/train.json').read_text())
    assert sum(int(row['boxes']) for row in rows if row['split'] == 'train') == len(
        data['annotations']
    )
    # What is evaluated is the best checkpoint.
    best = max(maps)
    assert summary['metrics']['coco/bbox_mAP'] == pytest.approx(best, abs=2e-3)


@pytest.mark.slow
def test_the_command_takes_a_run_or_a_checkpoint(folder, tmp_path, capfd):
    run = folder / 'work_dirs' / 'tiny'
    printed = run_here('report', run, '--out', 'new', cwd=folder, capfd=capfd)
    assert printed.strip().splitlines()[-1] == 'The report is in new/index.html'
    page, summary = read_whole(folder / 'new')
    assert 'training' in page.ids and 'Left out' not in page.texts
    best = find_run(run).checkpoint
    meta = CheckpointLoader.load_checkpoint(str(best), 'cpu')['meta']
    assert meta['best_scores'] == summary['best_scores']

    alone = tmp_path / 'alone.pth'
    shutil.copy(run / 'epoch_1.pth', alone)
    call_here(
        *('report', 'tiny.py', alone, '--out', tmp_path / 'other'),
        *('--cfg-options', 'val_evaluator.type=mmdet.CocoMetric'),
        cwd=folder,
    )
    page, summary = read_whole(tmp_path / 'other')
    left_out = page.texts[page.texts.index('Left out') + 1 :][:2]
    assert left_out[0].startswith('Curves, confusion matrix, best scores')
    assert left_out[1].startswith('There are no curves of the training')
    assert {'precision', 'batches', 'labels'} <= page.ids
    assert 'coco/bbox_mAP' in summary['metrics'] and 'best_scores' not in summary
    assert not {'scores', 'errors', 'training'} & page.ids


@pytest.mark.slow
def test_what_cannot_be_reported_is_said(folder, tmp_path, capfd):
    (tmp_path / 'precious').write_text('')
    said = refusal('report', 'work_dirs/tiny', '--out', tmp_path, cwd=folder)
    assert said.endswith('choose another folder (--out)')
    assert [path.name for path in tmp_path.iterdir()] == ['precious']
    said = run_here('report', 'tiny.py', cwd=folder, capfd=capfd, code=2)
    assert 'required: checkpoint' in said
    said = refusal('report', 'tiny.py', 'no.pth', cwd=folder)
    assert said == 'checkpoint no.pth does not exist'
    said = refusal('report', 'data', cwd=folder)
    assert said.startswith('data is a folder, but not that of a run')


@pytest.mark.parametrize('broken', [True, False])
def test_a_failing_report_is_a_warning(tmp_path, monkeypatch, log, broken):
    best = tmp_path / 'best.pth'
    monkeypatch.setattr(after_training, 'find_run_checkpoint', lambda folder: best)
    asked = []

    def write(cfg, checkpoint, out, run):
        asked.append((checkpoint, out, run))
        if broken:
            raise ZeroDivisionError('by nought')

    monkeypatch.setattr(after_training, 'write_report', write)
    logger = MMLogger.get_current_instance()
    runner = SimpleNamespace(work_dir=str(tmp_path), logger=logger)
    after_training.report_training(runner, None)
    assert asked == [(str(tmp_path / 'best.pth'), tmp_path / 'report', tmp_path)]
    warnings = [
        f'The training is done, but its report could not be made: by nought. '
        f'Make it by: mmnextvit report {tmp_path}'
    ]
    assert log == (warnings if broken else [])


@pytest.mark.parametrize('error', [KeyboardInterrupt(), Terminated('', 15)])
def test_a_signal_that_ends_the_report_says_that_the_training_is_done(
    tmp_path, monkeypatch, error
):
    def wait(*args):
        raise error

    monkeypatch.setattr(after_training, 'find_run_checkpoint', wait)
    with pytest.raises(type(error)) as caught:
        after_training.report_training(SimpleNamespace(work_dir=tmp_path), None)
    assert str(caught.value) == (
        f'the training is done, and mmnextvit report {tmp_path} makes its report'
    )
    assert getattr(caught.value, 'number', 2) in (2, 15)


@pytest.mark.parametrize('code', [0, 1])
def test_of_several_processes_the_first_starts_one(tmp_path, monkeypatch, log, code):
    """As the others have ended by then, it knows nothing of them."""
    started = []

    def start(command, env, **given):
        started.append((command[1:], env))
        return SimpleNamespace(returncode=code, stdout='a line\nmmnextvit: broken\n')

    monkeypatch.setattr(after_training, 'get_world_size', lambda: 2)
    monkeypatch.setattr(after_training.subprocess, 'run', start)
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    logger = MMLogger.get_current_instance()
    runner = SimpleNamespace(work_dir=str(tmp_path), logger=logger)
    after_training.report_training(runner, None)
    ((command, environment),) = started
    assert command == ['-m', 'mmnextvit', 'report', str(tmp_path)]
    assert not {'RANK', 'WORLD_SIZE'} & environment.keys() and 'PATH' in environment
    assert len(log) == code and all('made: mmnextvit: broken. ' in x for x in log)
    monkeypatch.setattr(after_training, 'is_main_process', lambda: False)
    after_training.report_training(runner, None)
    assert len(started) == 1
