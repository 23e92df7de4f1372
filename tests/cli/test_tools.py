"""The tools as a user runs them: from another folder, on a CPU, on tiny data."""

import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

from mmnextvit.datasets.sources import find_files
from mmnextvit.engine import runner
from mmnextvit.weights.receipt import fit

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import CheckpointLoader

from tests.helpers.tiny_run import (
    ROOT,
    load_tool,
    run_command,
    run_tool,
    write_tiny_run,
)


def read(path):
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder, of no relation to the repository, after two epochs."""
    folder = tmp_path_factory.mktemp('user')
    write_tiny_run(folder)
    output = run_tool('train.py', 'tiny.py', cwd=folder)
    (folder / 'output').write_text(output)
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    """What one test may change."""
    shutil.copytree(trained / 'work_dirs', tmp_path / 'work_dirs')
    shutil.copy(trained / 'tiny.py', tmp_path)
    return tmp_path


def call(monkeypatch, name, *args):
    """The message with which a tool refuses, in this process."""
    tool = load_tool(name)
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, args)])
    with pytest.raises(SystemExit) as error:
        tool.run(tool.main)
    assert isinstance(error.value.code, str)  # printed by Python, with exit code 1
    return error.value.code


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc is what is set')
@pytest.mark.parametrize('kept', [True, False])
def test_freed_memory_is_kept(kept):
    """Tensors as big as ones that are gone take no new pages; without, all of theirs.

    Not from the second one on: small blocks may nibble at what the first one left.
    """
    code = f"""
import resource, torch
from mmnextvit.engine.runner import keep_freed_memory
if {kept}:
    keep_freed_memory()
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    print('faults', resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / 'tools')]))
    output = run_command(sys.executable, '-c', code, cwd=ROOT, env=env)
    first, *faults = map(int, re.findall(r'faults (\d+)', output))
    assert first > 20, output  # 64 MiB are 16384 pages, or 32 huge ones
    if kept:
        assert sum(faults[-10:]) < 100, output
    else:
        assert min(faults) > 20, output


@pytest.mark.parametrize('most, asked', [(2**31, 2**31 - 1), (2**25, 2**25)])
def test_freed_memory_with_older_glibc(most, asked, monkeypatch):
    """It refuses more than 32 MiB; the other threshold alone is worse than none."""
    settings = {}

    def mallopt(key, value):
        if key == -3 and value > most:
            return 0
        settings[key] = value
        return 1

    library = SimpleNamespace(mallopt=mallopt)
    monkeypatch.setattr(runner.ctypes, 'CDLL', lambda name: library)
    runner.keep_freed_memory()
    assert settings == {-3: asked, -1: 2**31 - 1}
    settings.clear()
    library.mallopt = lambda key, value: key != -3 and mallopt(key, value)
    runner.keep_freed_memory()
    assert settings == {}


def test_train(trained):
    work_dir = trained / 'work_dirs' / 'tiny'
    assert {'epoch_1.pth', 'epoch_2.pth', 'last_checkpoint', 'tiny.py'} <= {
        p.name for p in work_dir.iterdir()
    }
    output = (trained / 'output').read_text()
    losses = [float(x) for x in re.findall(r'Epoch\(train\).* loss: (\S+)', output)]
    assert len(losses) == 6 and np.isfinite(losses).all()
    assert 'coco/bbox_mAP_50: ' in output
    assert 'pin_memory' not in output.partition('mmengine - INFO - Epoch')[2]
    checkpoint = read(work_dir / 'epoch_2.pth')
    assert checkpoint['meta']['epoch'] == 2 and checkpoint['meta']['iter'] == 6
    assert checkpoint['meta']['dataset_meta']['classes'] == (
        'circle',
        'square',
        'triangle',
    )
    # The weight decay is that of two images a step: 64 / 64 of the config's.
    groups = checkpoint['optimizer']['param_groups']
    assert [g['weight_decay'] for g in groups[:3]] == [0.0005, 0, 0]


def test_resume_goes_on_as_if_it_had_not_stopped(copy, trained):
    """One epoch, then one more in a moved folder, with spawned workers."""
    work_dir = copy / 'work_dirs' / 'tiny'
    straight = read(work_dir / 'epoch_2.pth')
    for path in (*work_dir.glob('best*'), work_dir / 'epoch_2.pth'):
        path.unlink()
    # It names the old folder, which is still there.
    (work_dir / 'last_checkpoint').write_text(
        str(trained / 'work_dirs' / 'tiny' / 'epoch_1.pth')
    )
    output = run_tool(
        'train.py',
        'tiny.py',
        '--resume',
        '--cfg-options',
        'env_cfg.mp_cfg.mp_start_method=spawn',
        'train_dataloader.num_workers=1',
        cwd=copy,
    )
    assert 'Load checkpoint from work_dirs/tiny/epoch_1.pth' in output
    assert 'resumed epoch: 1, iter: 3' in output
    assert 'Epoch(train) [1]' not in output and 'Epoch(train) [2]' in output
    resumed = read(work_dir / 'epoch_2.pth')
    assert resumed['meta']['iter'] == 6
    for key in ('state_dict', 'ema_state_dict'):
        for name, tensor in straight[key].items():
            assert torch.allclose(resumed[key][name], tensor, atol=1e-6), name
    states = resumed['optimizer']['state'], straight['optimizer']['state']
    assert states[0].keys() == states[1].keys() and states[0]
    for number, state in states[0].items():
        momentum = states[1][number]['momentum_buffer']
        assert torch.allclose(state['momentum_buffer'], momentum, atol=1e-5)


def test_amp_and_a_bad_loss(copy):
    """A third epoch in bfloat16, and a fourth that an infinite loss stops."""
    work_dir = copy / 'work_dirs' / 'tiny'
    output = run_tool(
        *('train.py', 'tiny.py', '--amp', '--resume'),
        *('--cfg-options', 'train_cfg.max_epochs=4'),
        'model.bbox_head.loss_obj.loss_weight=1e39',  # infinite in float32
        cwd=copy,
        code=1,
    )
    message = output.strip().splitlines()[-1]
    assert message.startswith('train.py: loss_obj is inf in epoch 3, iteration 7. ')
    assert re.search('The last checkpoint is .*/epoch_2.pth.$', message)
    assert 'Traceback' not in output
    assert not (work_dir / 'epoch_3.pth').exists()
    state = read(work_dir / 'epoch_2.pth')['state_dict']
    assert all(tensor.isfinite().all() for tensor in state.values())

    output = run_tool(
        *('train.py', 'tiny.py', '--amp', '--resume'),
        *('--cfg-options', 'train_cfg.max_epochs=3'),
        cwd=copy,
    )
    assert "type='AnyDeviceAmpOptimWrapper'" in output
    assert 'resumed epoch: 2, iter: 6' in output
    assert read(work_dir / 'epoch_3.pth')['optimizer']['loss_scaler'] == {}


def test_a_folder_with_another_run_is_refused(copy, monkeypatch):
    monkeypatch.chdir(copy)
    before = snapshot(copy)
    message = call(monkeypatch, 'train', 'tiny.py')
    assert message.startswith('train.py: work_dirs/tiny holds another run')
    assert '--resume' in message and '--work-dir' in message
    other = copy / 'other.pth'
    shutil.copy(copy / 'work_dirs' / 'tiny' / 'epoch_1.pth', other)
    message = call(monkeypatch, 'train', 'tiny.py', '--resume', other)
    assert 'holds another run' in message
    other.unlink()
    assert snapshot(copy) == before
    (copy / 'work_dirs' / 'tiny' / 'last_checkpoint').unlink()
    message = call(monkeypatch, 'train', 'tiny.py', '--resume')
    assert 'say which of its checkpoints' in message and 'epoch_1.pth' in message


def test_which_checkpoint_is_resumed(tmp_path, monkeypatch, capsys):
    resume = load_tool('train').checkpoint_to_resume
    run, other = tmp_path / 'run', tmp_path / 'other.pth'
    other.touch()
    assert resume(run, None) is None  # a new folder
    assert resume(run, 'latest') is None
    assert 'holds no checkpoint: a new run begins' in capsys.readouterr().out
    assert resume(run, str(other)) == str(other)
    run.mkdir()
    (run / 'epoch_3.pth').touch()
    (run / 'last_checkpoint').write_text('/gone/run/epoch_3.pth')
    assert resume(run, 'latest') == str(run / 'epoch_3.pth')
    assert resume(run, str(run / 'epoch_3.pth')) == str(run / 'epoch_3.pth')
    with pytest.raises(ValueError, match='holds another run'):
        resume(run, None)
    monkeypatch.setenv('RANK', '1')  # only the first process looks
    assert resume(run, None) is None
    (run / 'last_checkpoint').write_text('/gone/run/epoch_4.pth')
    with pytest.raises(FileNotFoundError, match='last_checkpoint names .*epoch_4.pth'):
        resume(run, 'latest')
    with pytest.raises(
        FileNotFoundError, match='checkpoint nowhere.pth does not exist'
    ):
        resume(run, 'nowhere.pth')


@pytest.fixture(scope='module')
def tested(trained):
    output = run_tool(
        *('test.py', 'tiny.py', 'work_dirs/tiny/epoch_2.pth'),
        *('--show-dir', 'drawn', '--out', 'out.pkl'),
        cwd=trained,
    )
    return trained, output


def test_test(tested):
    folder, output = tested
    assert re.search(r"(\d+) of the model's \1 tensors fit", output)
    trained = re.findall('coco/bbox_mAP_50: (\\S+)', (folder / 'output').read_text())
    assert re.findall('coco/bbox_mAP_50: (\\S+)', output) == trained
    names = sorted(p.name for p in (folder / 'data' / 'val').iterdir())
    assert sorted(p.name for p in (folder / 'drawn').iterdir()) == names
    # Prediction and truth side by side.
    assert cv2.imread(str(folder / 'drawn' / names[0])).shape[:2] == (64, 128)
    assert (folder / 'work_dirs' / 'tiny' / 'test').is_dir()


def test_mixed_precision(tested, monkeypatch):
    folder, _ = tested
    checkpoint = 'work_dirs/tiny/epoch_2.pth'
    options = ('--amp', '--out', 'mixed.pkl', '--work-dir', 'mixed')
    run_tool('test.py', 'tiny.py', checkpoint, *options, cwd=folder)
    exact, mixed = (
        pickle.loads((folder / name).read_bytes()) for name in ('out.pkl', 'mixed.pkl')
    )
    for a, b in zip(exact, mixed, strict=True):
        a, b = (sample['pred_instances']['scores'][:10] for sample in (a, b))
        torch.testing.assert_close(a, b, rtol=0.1, atol=1e-3)
        assert a.dtype == b.dtype == torch.float32 and not torch.equal(a, b)
    options = ('--amp', '--out-dir', 'mixed_images')
    run_tool('predict.py', 'tiny.py', checkpoint, 'data/val', *options, cwd=folder)
    monkeypatch.chdir(folder)
    for tool, rest in (('test', ()), ('predict', ('data/val',))):
        message = call(monkeypatch, tool, 'tiny.py', 'a.onnx', *rest, '--amp')
        assert message.startswith(f'{tool}.py: --amp: an exported file')
    # nor with MMDetection's own detectors, which would predict boxes in bfloat16
    monkeypatch.delattr('mmnextvit.FittedYOLODetector')
    for tool, rest in (('test', ()), ('predict', ('data/val',))):
        message = call(monkeypatch, tool, 'tiny.py', checkpoint, *rest, '--amp')
        assert message.startswith(f'{tool}.py: --amp: on a CPU FittedYOLODetector')


def test_predict(tested):
    """Images, a video and broken files; the boxes are those of tools/test.py."""
    folder, _ = tested
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

    args = ('tiny.py', 'work_dirs/tiny/epoch_2.pth', source, '--out-dir', 'predicted')
    options = ('--score-thr', '0', '--device', 'cpu')
    output = run_tool('predict.py', *args, *options, cwd=folder, code=1)
    assert 'Not read:' in output and 'broken.jpg' in output and 'broken.mp4' in output
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


def test_what_is_drawn(trained, monkeypatch):
    """A box that is known lands where it belongs, in the image's own colours."""
    monkeypatch.chdir(trained)
    tool = load_tool('predict')
    monkeypatch.setattr(
        sys, 'argv', ['', 'tiny.py', 'work_dirs/tiny/epoch_2.pth', 'x', '--device=cpu']
    )
    args = tool.parse_args()
    predictor = tool.Predictor(tool.load_config(args), args.checkpoint, 'cpu')
    image = np.full((100, 200, 3), (200, 0, 0), np.uint8)  # blue in OpenCV's order
    samples = predictor(image, return_datasamples=True)
    sample = samples['predictions'][0]
    sample.pred_instances = type(sample.pred_instances)(
        bboxes=torch.tensor([[50.0, 20.0, 150.0, 80.0], [1.0, 1.0, 9.0, 9.0]]),
        scores=torch.tensor([0.9, 0.1]),
        labels=torch.tensor([1, 0]),
    )
    monkeypatch.setattr(tool.DetInferencer, '__call__', lambda *args, **kwargs: samples)
    objects, drawn = predictor.predict(image, 0.5)
    assert objects == [{'class': 'square', 'score': 0.9, 'box': [50, 20, 150, 80]}]
    assert drawn[5, 5].tolist() == [200, 0, 0]  # nothing below the threshold
    changed = np.abs(drawn.astype(int) - image).sum(2) > 60
    rows, columns = np.nonzero(changed)
    assert abs(columns.max() - 150) <= 3 and abs(rows.max() - 80) <= 3
    assert abs(columns.min() - 50) <= 3


def test_another_arch(trained, monkeypatch):
    """Read by predict.py; the runner's own check is tested with the hooks."""
    monkeypatch.chdir(trained)
    message = call(
        monkeypatch,
        'predict',
        *('tiny.py', 'work_dirs/tiny/epoch_2.pth', 'data/val', '--device=cpu'),
        *('--cfg-options', 'model.backbone.arch.depths=[1,2,10,2]'),
    )
    assert message.startswith(
        'predict.py: work_dirs/tiny/epoch_2.pth: the weights do not fit, and all must: '
    )
    fits, total = map(int, re.search(r"(\d+) of the model's (\d+)", message).groups())
    state = read('work_dirs/tiny/epoch_2.pth')['state_dict']
    assert 0 < fits < len(fit(state, state).fitting) < total
    assert "has 10 blocks, the model's 15 blocks" in message
    assert not Path('predictions').exists()


def test_wrong_arguments(trained, monkeypatch):
    monkeypatch.chdir(trained)
    (trained / 'nothing').mkdir()
    last = 'work_dirs/tiny/epoch_2.pth'
    for name, args, message in [
        ('train', ['no.py'], 'train.py: config no.py does not exist'),
        ('test', ['tiny.py', 'no.pth'], 'test.py: checkpoint no.pth does not exist'),
        ('test', ['tiny.py', last, '--out', 'x.json'], r'--out x.json: .* in .pkl'),
        ('train', ['tiny.py', '--work-dir=n', '--resume=no.pth'], 'checkpoint no.pth'),
        (
            'train',
            ['tiny.py', '--work-dir=n', '--cfg-options', 'load_from=no.pth'],
            'load_from: checkpoint no.pth does not exist',
        ),
        (
            'train',
            ['tiny.py', '--work-dir=n', '--auto-scale-lr', '--cfg-options']
            + ['auto_scale_lr=None'],
            'Add auto_scale_lr = dict',
        ),
        ('predict', ['tiny.py', 'no.pth', 'data'], 'checkpoint no.pth does not exist'),
        ('predict', ['tiny.py', last, 'nothing'], 'no image or video in nothing'),
        (
            'predict',
            ['tiny.py', last, 'a*.jpg'],
            r'a\*.jpg does not exist, and matches',
        ),
    ]:
        assert re.search(message, call(monkeypatch, name, *args)), message
    if not torch.cuda.is_available():
        args = 'tiny.py', last, 'data/val', '--device', 'cuda:0'
        assert 'finds no CUDA GPU' in call(monkeypatch, 'predict', *args)
    (trained / 'full').mkdir()
    (trained / 'full' / 'mine.txt').touch()
    args = 'tiny.py', last, 'data/val', '--device=cpu', '--out-dir=full'
    assert 'full is not empty' in call(monkeypatch, 'predict', *args)
    assert not Path('n').exists()


def test_files_of_folder_and_pattern(tmp_path):
    (tmp_path / 'a' / 'b').mkdir(parents=True)
    files = [tmp_path / 'a' / '1.JPG', tmp_path / 'a' / 'b' / '[2].png']
    for path in (*files, tmp_path / 'a' / 'x.txt'):
        path.touch()
    assert find_files(str(tmp_path / 'a')) == files[:1]
    assert find_files(str(tmp_path / '**' / '*.[pJ]*')) == files
    assert find_files(str(files[1])) == files[1:]


def test_an_error_of_someone_else_keeps_its_traceback():
    def main():
        json.loads('{')  # a ValueError, but not one of our checks

    with pytest.raises(ValueError):
        runner.run(main)
