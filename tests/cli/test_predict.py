"""Testing and predicting as a user does, with a checkpoint of a tiny run."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from mmnextvit.apis import Predictor
from mmnextvit.benchmark.loops import measure_prediction
from mmnextvit.engine.runner import build_dataset
from mmnextvit.weights.receipt import fit

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from tests.helpers.commands import call_here, refusal, run_here
from tests.helpers.tiny_run import ROOT, run_tool

pytestmark = pytest.mark.slow

CHECKPOINT = 'work_dirs/tiny/epoch_2.pth'


@pytest.fixture(scope='module')
def tested(trained) -> SimpleNamespace:
    """The folder, and the metrics of its checkpoint."""
    options = '--show-dir', 'drawn', '--out', 'out.pkl'
    metrics = call_here('test', 'tiny.py', CHECKPOINT, *options, cwd=trained.folder)
    return SimpleNamespace(folder=trained.folder, metrics=metrics)


def test_test(tested):
    folder = tested.folder
    work_dir = folder / 'work_dirs' / 'tiny'
    (log,) = (work_dir / 'test').glob('*/*.log')
    assert re.search(r"(\d+) of the model's \1 tensors fit", log.read_text())
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    validated = json.loads(scalars.read_text().splitlines()[-1])['coco/bbox_mAP_50']
    assert round(tested.metrics['coco/bbox_mAP_50'], 4) == round(validated, 4)
    names = sorted(p.name for p in (folder / 'data' / 'val').iterdir())
    assert sorted(p.name for p in (folder / 'drawn').iterdir()) == names
    # Prediction and truth side by side.
    assert cv2.imread(str(folder / 'drawn' / names[0])).shape[:2] == (64, 128)
    assert (work_dir / 'test').is_dir()


def test_mixed_precision(tested, monkeypatch):
    folder = tested.folder
    options = ('--force-amp', '--out', 'mixed.pkl', '--work-dir', 'mixed')
    call_here('test', 'tiny.py', CHECKPOINT, *options, cwd=folder)
    exact, mixed = (
        pickle.loads((folder / name).read_bytes()) for name in ('out.pkl', 'mixed.pkl')
    )
    for a, b in zip(exact, mixed, strict=True):
        a, b = (sample['pred_instances']['scores'][:10] for sample in (a, b))
        torch.testing.assert_close(a, b, rtol=0.1, atol=1e-3)
        assert a.dtype == b.dtype == torch.float32 and not torch.equal(a, b)
    options = ('--force-amp', '--out-dir', 'mixed_images')
    call_here('predict', 'tiny.py', CHECKPOINT, 'data/val', *options, cwd=folder)
    (folder / 'a.onnx').touch()
    for command, rest in (('test', ()), ('predict', ('data/val',))):
        message = refusal(command, 'tiny.py', 'a.onnx', *rest, '--amp', cwd=folder)
        assert message.startswith('--amp: an exported file')
    # nor with MMDetection's own detectors, which would predict boxes in bfloat16
    detector = 'mmnextvit.models.detector.FittedYOLODetector'
    monkeypatch.setattr(f'{detector}.predicts_in_float32', False)
    for command, rest in (('test', ()), ('predict', ('data/val',))):
        rest = (*rest, '--force-amp')
        message = refusal(command, 'tiny.py', CHECKPOINT, *rest, cwd=folder)
        assert message.startswith('on a CPU FittedYOLODetector')


def test_mixed_precision_that_is_slower_is_left_out(tested, monkeypatch, capfd):
    """Whoever asks for it, an option or the config itself."""
    precision = 'mmnextvit.engine.precision.computes_in_bfloat16'
    monkeypatch.setattr(precision, lambda: False)
    folder = tested.folder
    for name, options in (
        ('a.pkl', ('--amp',)),
        ('b.pkl', ('--cfg-options', 'test_cfg.fp16=True')),
    ):
        options = ('--out', name, '--work-dir', name.strip('.pkl'), *options)
        said = run_here(
            *('test', 'tiny.py', CHECKPOINT, *options), cwd=folder, capfd=capfd
        )
        assert said.count('Mixed precision is left out') == 1
        exact, left = (
            pickle.loads((folder / file).read_bytes()) for file in ('out.pkl', name)
        )
        for a, b in zip(exact, left, strict=True):
            a, b = (sample['pred_instances']['scores'] for sample in (a, b))
            assert torch.equal(a, b)
    said = run_here(
        *('predict', 'tiny.py', CHECKPOINT, 'data/val', '--amp', '--out-dir', 'plain'),
        cwd=folder,
        capfd=capfd,
    )
    assert said.count('Mixed precision is left out') == 1


def test_predict(tested, capfd):
    """Images, a video and broken files; the boxes are those of the test."""
    folder = tested.folder
    source = folder / 'input'
    source.mkdir()
    names = sorted(p.name for p in (folder / 'data' / 'val').iterdir())
    images = [cv2.imread(str(folder / 'data' / 'val' / name)) for name in names]
    for name in names[:3]:
        shutil.copy(folder / 'data' / 'val' / name, source)
    whole = (folder / 'data' / 'val' / names[3]).read_bytes()
    (source / 'broken.jpg').write_bytes(whole[: len(whole) // 2])
    (source / 'broken.mp4').write_bytes(b'no video')
    (source / 'notes.txt').write_text('not an image')
    video = cv2.VideoWriter(
        str(source / 'film.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 64)
    )
    for image in images:
        video.write(image)
    video.release()

    args = ('tiny.py', CHECKPOINT, source, '--out-dir', 'predicted')
    options = ('--score-thr', '0', '--device', 'cpu')
    output = run_here('predict', *args, *options, cwd=folder, capfd=capfd, code=1)
    assert 'These files could not be read:\n' in output
    assert 'broken.jpg' in output and 'broken.mp4' in output
    result = json.loads((folder / 'predicted' / 'predictions.json').read_text())
    assert result['classes'] == ['circle', 'square', 'triangle']
    assert result['box_format'].startswith('x1, y1, x2, y2 in pixels')
    unreadable = {Path(p).name for p in result['unreadable']}
    assert unreadable == {'broken.jpg', 'broken.mp4'}
    found = result['predictions']
    assert [(Path(p['file']).name, p.get('frame')) for p in found] == [
        *((name, None) for name in names[:3]),
        *(('film.avi', i) for i in range(4)),
    ]
    assert {p['drawn'] for p in found} == {
        *(f'drawn/{name}' for name in names[:3]),
        'drawn/film.avi.mp4',
    }
    for name in names[:3]:
        drawn = cv2.imread(str(folder / 'predicted' / 'drawn' / name))
        assert drawn.shape == (64, 64, 3)
    film = cv2.VideoCapture(str(folder / 'predicted' / 'drawn' / 'film.avi.mp4'))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert film.get(cv2.CAP_PROP_FPS) == 5

    # written by our own test just now
    dumped = pickle.loads((folder / 'out.pkl').read_bytes())
    dumped = {Path(d['img_path']).name: d['pred_instances'] for d in dumped}
    for prediction in found[:3]:
        expected = dumped[Path(prediction['file']).name]
        objects = prediction['objects']
        assert len(objects) == len(expected['scores']) > 0
        for i, name in enumerate(expected['labels'].tolist()):
            assert objects[i]['class'] == result['classes'][name]
            assert objects[i]['score'] == pytest.approx(
                expected['scores'][i].item(), abs=2e-4
            )
            assert objects[i]['box'] == pytest.approx(
                expected['bboxes'][i].tolist(), abs=0.05
            )


def test_labels_to_be_corrected_and_trained_on(trained, tmp_path, capfd):
    """Read by ``new``, which finds what the JSON says; the results are the same."""
    source = tmp_path / 'source'
    shutil.copytree(trained.folder / 'data' / 'val', source)
    video = cv2.VideoWriter(
        str(source / 'film.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 64)
    )
    video.write(np.zeros((64, 64, 3), np.uint8))
    video.release()
    args = 'tiny.py', CHECKPOINT, source, '--device', 'cpu', '--score-thr', 0
    labels = '--save-labels', 'coco', '--save-labels', 'voc,labelme,yolo'
    outs = [tmp_path / name for name in ('plain', 'labelled')]
    run_here('predict', *args, '--out-dir', outs[0], cwd=trained.folder, capfd=capfd)
    printed = run_here(
        *('predict', *args, *labels, '--out-dir', outs[1]),
        cwd=trained.folder,
        capfd=capfd,
    )
    assert f'labels of 4 images: {outs[1]}/labels' in printed
    assert '1 frames of videos have no labels' in printed
    plain, labelled = (
        json.loads((out / 'predictions.json').read_text())['predictions']
        for out in outs
    )
    objects = [entry['objects'] for entry in labelled]
    assert objects == [entry['objects'] for entry in plain]
    places = {  # each once, and none under a pixel wide or high
        (entry['file'], found['class'], *np.clip(found['box'], 0, 64).tolist())
        for entry in plain
        if 'frame' not in entry
        for found in entry['objects']
    }
    sides = [(x2 - x1, y2 - y1) for *_, x1, y1, x2, y2 in places]
    count = sum(min(side) > 1 for side in sides)
    assert count > 10
    rows = (outs[1] / 'doubts.csv').read_text().splitlines()
    assert rows[0] == 'file,frame,doubt,reason' and len(rows) == 6
    call_here('new', outs[1] / 'labels' / 'yolo', cwd=tmp_path)
    cfg = Config.fromfile(tmp_path / 'yolo.py')
    read = [build_dataset(cfg, split).load_data_list() for split in ('train', 'val')]
    found = [one for part in read for image in part for one in image['instances']]
    assert len(found) == count
    only = refusal(
        *('predict', 'tiny.py', CHECKPOINT, source / 'film.avi', *labels),
        cwd=trained.folder,
    )
    assert only.startswith('labels (--save-labels) belong to image files')
    with pytest.raises(SystemExit):
        call_here('predict', *args, '--save-labels', 'kml', cwd=trained.folder)


def test_predict_as_a_script(tested):
    """Run by Python, from its path, as the README does."""
    image = sorted((tested.folder / 'data' / 'val').iterdir())[0]
    args = 'tiny.py', CHECKPOINT, image, '--device', 'cpu', '--out-dir', 'by_script'
    output = run_tool('predict.py', *args, cwd=tested.folder)
    assert re.search(r'\d+ objects in 1 files: by_script', output)
    assert (tested.folder / 'by_script' / 'drawn' / image.name).is_file()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_process_leaves_what_it_found(number, trained, tmp_path):
    """The signal comes when three drawings are there; thousands would follow."""
    image = sorted((trained.folder / 'data' / 'val').iterdir())[0]
    source = tmp_path / 'source'
    source.mkdir()
    for i in range(5000):
        (source / f'{i:04}{image.suffix}').symlink_to(image)
    out = tmp_path / 'out'
    args = 'tiny.py', CHECKPOINT, source, '--device', 'cpu', '--out-dir', out
    process = subprocess.Popen(
        [sys.executable, '-m', 'mmnextvit', 'predict', *map(str, args)],
        cwd=trained.folder,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    third = out / 'drawn' / f'0002{image.suffix}'
    while process.poll() is None and not third.is_file():
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    content = json.loads((out / 'predictions.json').read_text())
    word = {signal.SIGINT: 'interrupted', signal.SIGTERM: 'terminated'}[number]
    assert content['partial'].startswith(word)
    drawn = {entry['drawn'] for entry in content['predictions'] if 'drawn' in entry}
    assert 0 < len(content['predictions']) < 5000
    assert drawn <= {f'drawn/{p.name}' for p in out.glob('drawn/*')}
    assert not [*out.rglob('.*')]
    found = re.escape(f'found, and are in {out}/predictions.json')
    line = rf'mmnextvit predict: {word}; \d+ objects in \d+ files were {found}\n'
    assert process.returncode == 128 + number and re.fullmatch(line, errors), errors


def test_what_is_drawn(trained, monkeypatch):
    """A box that is known lands where it belongs, in the image's own colours."""
    cfg = Config.fromfile(trained.folder / 'tiny.py')
    predictor = Predictor(cfg, trained.folder / CHECKPOINT, 'cpu')
    image = np.full((100, 200, 3), (200, 0, 0), np.uint8)  # blue in OpenCV's order
    sample = predictor.detect(image)
    sample.pred_instances = type(sample.pred_instances)(
        bboxes=torch.tensor([[50.0, 20.0, 150.0, 80.0], [1.0, 1.0, 9.0, 9.0]]),
        scores=torch.tensor([0.9, 0.1]),
        labels=torch.tensor([1, 0]),
    )
    monkeypatch.setattr(predictor.model, 'test_step', lambda batch: [sample.clone()])
    assert predictor(image, 0.05)[1] == {
        'class': 'circle',
        'score': 0.1,
        'box': [1, 1, 9, 9],
    }
    sample = predictor.detect(image, 0.5)
    objects, drawn = predictor.list_objects(sample), predictor.draw(image, sample)
    assert objects == [{'class': 'square', 'score': 0.9, 'box': [50, 20, 150, 80]}]
    assert drawn[5, 5].tolist() == [200, 0, 0]  # nothing below the threshold
    changed = np.abs(drawn.astype(int) - image).sum(2) > 60
    rows, columns = np.nonzero(changed)
    assert abs(columns.max() - 150) <= 3 and abs(rows.max() - 80) <= 3
    assert abs(columns.min() - 50) <= 3


def test_predict_beside_its_forward_passes(trained, monkeypatch):
    """A row of the benchmark, which leaves no drawings."""
    monkeypatch.chdir(trained.folder)
    cfg = Config.fromfile('tiny.py')
    cfg.load_from, cfg.work_dir = CHECKPOINT, 'work_dirs'
    before = sorted(Path('work_dirs').iterdir())
    measured = measure_prediction(cfg, rounds=2, count=3)
    assert len(measured.files) == len(measured.forward) == 2
    assert min(*measured.files, *measured.forward) > 0
    assert sorted(Path('work_dirs').iterdir()) == before


def test_another_arch(trained):
    """Read by predict; the runner's own check is tested with the hooks."""
    message = refusal(
        'predict',
        *('tiny.py', CHECKPOINT, 'data/val', '--device=cpu'),
        *('--cfg-options', 'model.backbone.arch.depths=[1,2,10,2]'),
        cwd=trained.folder,
    )
    assert message.startswith(f'{CHECKPOINT}: the weights do not fit, and all must: ')
    fits, total = map(int, re.search(r"(\d+) of the model's (\d+)", message).groups())
    checkpoint = CheckpointLoader.load_checkpoint(str(trained.folder / CHECKPOINT))
    state = checkpoint['state_dict']
    assert 0 < fits < len(fit(state, state).fitting) < total
    assert "has 10 blocks, the model's 15 blocks" in message
    assert not (trained.folder / 'predictions').exists()


def test_wrong_arguments(trained):
    folder = trained.folder
    (folder / 'nothing').mkdir()
    for name, args, message in [
        ('test', ['tiny.py', 'no.pth'], 'checkpoint no.pth does not exist'),
        (
            'test',
            ['tiny.py', CHECKPOINT, '--out', 'x.json'],
            r'--out x.json: .* in .pkl',
        ),
        ('predict', ['tiny.py', 'no.pth', 'data'], 'checkpoint no.pth does not exist'),
        (
            'predict',
            ['tiny.py', CHECKPOINT, 'nothing'],
            'no image or video in nothing',
        ),
        (
            'predict',
            ['tiny.py', CHECKPOINT, 'a*.jpg'],
            r'a\*.jpg does not exist, and matches',
        ),
    ]:
        assert re.search(message, refusal(name, *args, cwd=folder)), message
    if not torch.cuda.is_available():
        args = 'tiny.py', CHECKPOINT, 'data/val', '--device', 'cuda:0'
        assert 'finds no CUDA GPU' in refusal('predict', *args, cwd=folder)
    (folder / 'full').mkdir()
    (folder / 'full' / 'mine.txt').touch()
    args = 'tiny.py', CHECKPOINT, 'data/val', '--device=cpu', '--out-dir=full'
    assert 'full is not empty' in refusal('predict', *args, cwd=folder)


def test_weights_that_are_not_finite(copy, trained, capfd):
    """Nothing would be found, which looks like a bad detector."""
    content = CheckpointLoader.load_checkpoint(str(copy / CHECKPOINT), 'cpu')
    names = [name for name in content['state_dict'] if name.endswith('running_var')]
    for name in names[-2:]:
        content['state_dict'][name][0] = float('nan')
    torch.save(dict(content), copy / 'nan.pth')
    image = str(next((trained.folder / 'data/val').iterdir()))
    said = (
        rf'nan.pth: 2 of its tensors hold NaN .* first of them {re.escape(names[-2])}'
    )
    for command, *args in (
        ('test', 'tiny.py', 'nan.pth'),
        ('predict', 'tiny.py', 'nan.pth', image, '--out-dir', 'found'),
        ('export', 'tiny.py', 'nan.pth', '--to', 'onnx'),
        ('train', 'tiny.py', '--resume', 'nan.pth', '--work-dir', 'resumed'),
    ):
        printed = run_here(command, *args, cwd=copy, capfd=capfd, code=1)
        assert re.search(said, printed.strip().splitlines()[-1]), printed
        assert 'Traceback' not in printed
    assert not (copy / 'found').exists()


@pytest.mark.parametrize('classes', [['a'], ['a'] * 4, 'abc', [1, 2, 3]])
def test_classes_of_a_checkpoint_that_cannot_be(copy, trained, classes):
    """Each label has a name, or none has."""
    content = CheckpointLoader.load_checkpoint(str(copy / CHECKPOINT), 'cpu')
    content['meta']['dataset_meta']['classes'] = classes
    torch.save(dict(content), copy / 'x.pth')
    image = str(next((trained.folder / 'data/val').iterdir()))
    said = refusal('predict', 'tiny.py', 'x.pth', image, cwd=copy)
    counted = f'x.pth: the file names {len(classes)} classes, the config'
    assert said.startswith('x.pth: meta.dataset_meta.classes: ') or counted in said
