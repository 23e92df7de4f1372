"""Grey images, and images with a fourth channel, from training to an exported file.

One value of the config says so; what is found in torch and by the files is the same.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import mmnextvit  # noqa: F401  (first)
from mmnextvit.apis import Predictor
from mmnextvit.datasets.images import BrokenImageError
from mmnextvit.engine.prediction import explain_failure, predict_files
from mmnextvit.runtime import Detector, ImageError, Objects, main
from mmnextvit.runtime.sources import to_stream

import cv2
import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from tests.conftest import TINY
from tests.helpers.commands import run_here
from tests.helpers.lively_detectors import SHALLOW
from tests.helpers.tiny_run import write_tiny_run
from tests.helpers.toy_exports import metadata, write_onnx

pytestmark = pytest.mark.deploy


def write_run(folder: Path, channels: int) -> Path:
    """A tiny run on grey images, or on ones whose fourth channel is of its own."""
    config = write_tiny_run(folder)
    for file in sorted((folder / 'data').rglob('*.jpg')):
        image = cv2.imread(str(file))
        if channels == 1:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        else:
            fourth = cv2.GaussianBlur(255 - image[..., 1], (5, 5), 0)
            image = np.dstack([image, fourth])
        cv2.imwrite(str(file.with_suffix('.png')), image)
        file.unlink()
    for file in (folder / 'data' / 'annotations').glob('*.json'):
        file.write_text(file.read_text().replace('.jpg', '.png'))
    text = config.read_text()
    assert str(TINY['depths']) in text
    text = text.replace(str(TINY['depths']), str(SHALLOW['depths']))
    # The recipe's own steps for training, which have colours changed and images mixed.
    text = text.replace(
        'train_dataloader = dict(batch_size=2, dataset=train,',
        "train.pop('pipeline')\ntrain_dataloader = dict(batch_size=2, dataset=train,",
    )
    more = f'in_channels = {channels}\ntrain_cfg = dict(max_epochs=1, val_interval=1)\n'
    config.write_text(text + more)
    return config


def liven(checkpoint: Path) -> None:
    """Has a detector that has hardly learned anything find things."""
    content = torch.load(checkpoint, weights_only=False)
    generator = torch.Generator().manual_seed(0)
    for name, values in content['state_dict'].items():
        if 'convs_pred' in name and values.ndim == 4:
            values.normal_(std=0.2, generator=generator)
        elif 'convs_pred' in name:
            values.view(3, -1)[:, 4:] = -1.0
    torch.save(content, checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize('channels, to', [(1, 'onnx'), (4, 'torchscript')])
def test_from_training_to_a_file(channels, to, tmp_path, capfd):
    write_run(tmp_path, channels)

    def run(command, *args, code=0):
        return run_here(command, *args, cwd=tmp_path, capfd=capfd, code=code)

    run('train', 'tiny.py', '--work-dir', 'run')
    checkpoint = next((tmp_path / 'run').glob('best_*.pth'))
    liven(checkpoint)
    assert 'bbox_mAP' in run('test', 'tiny.py', checkpoint)
    printed = run('export', 'tiny.py', checkpoint, '--to', to, '-o', f'model.{to}')
    assert 'Compared with torch' in printed
    file = Detector(tmp_path / f'model.{to}')
    name = {1: 'GRAY', 4: 'RGBA'}[channels]
    assert file.metadata['input']['channels'] == name
    assert len(file.metadata['normalization']['mean']) == channels
    if to == 'onnx':
        graph = onnx.load(tmp_path / 'model.onnx').graph
        assert graph.input[0].type.tensor_type.shape.dim[1].dim_value == 1

    folder = tmp_path / 'data' / 'val'
    image = sorted(folder.glob('*.png'))[0]
    predictor = Predictor(tmp_path / 'run')
    wanted = predictor(image, 0.01)
    assert len(wanted) > 3
    for found in (
        file(image, 0.01),
        file(cv2.imread(str(image), cv2.IMREAD_UNCHANGED), 0.01),
        Predictor(tmp_path / f'model.{to}')(image, 0.01),
        predictor(cv2.imread(str(image), cv2.IMREAD_UNCHANGED), 0.01),
    ):
        assert_alike(found, wanted)
    for file_of_both in (checkpoint, tmp_path / f'model.{to}'):
        out = tmp_path / f'found{Path(file_of_both).suffix}'
        args = ('tiny.py', file_of_both, folder, '--out-dir', out, '--score-thr', 0.01)
        run('predict', *args)
        entries = json.loads((out / 'predictions.json').read_text())['predictions']
        assert len(entries) == 4 and all(entry['objects'] for entry in entries)
        drawn = cv2.imread(str(out / entries[0]['drawn']), cv2.IMREAD_UNCHANGED)
        assert drawn.shape == (64, 64, 3)

    colours = tmp_path / 'colours.png'
    cv2.imwrite(str(colours), cv2.imread(str(image)))
    if channels == 1:  # a grey image is made of it
        assert_alike(file(colours, 0.01), wanted)
        return
    message = 'colours.png.* has 3 channels, and this detector takes images of 4.*PNG'
    with pytest.raises(ImageError, match=message):
        file(colours)
    with pytest.raises(BrokenImageError, match='has 3 channels') as caught:
        predictor(colours)
    assert caught.value.file == str(colours)
    cv2.imwrite(
        str(sorted((tmp_path / 'data' / 'train').glob('*.png'))[0]), image_of(3)
    )
    printed = run('train', 'tiny.py', '--work-dir', 'again', code=1)
    assert 'has 3 channels' in printed and '.png' in printed


def assert_alike(found: Objects, wanted: Objects) -> None:
    """The best are the same, in whatever order of those that are as good."""
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-3)
    for label, box, score in zip(wanted.labels, wanted.boxes, wanted.scores[:50]):
        same = (found.labels == label) & (np.abs(found.scores - score) < 1e-3)
        assert (same & (np.abs(found.boxes - box).max(1) < 0.1)).any()


def image_of(channels: int) -> np.ndarray:
    """An image (64, 64, C), uint8."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (64, 64, channels), np.uint8)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A toy detector of four channels, `m.onnx`, and an image that it finds things in.

    Its fourth channel is hardly anything.
    """
    monkeypatch.chdir(tmp_path)
    about = metadata()
    about['input']['channels'] = 'RGBA'
    write_onnx(tmp_path / 'm.onnx', about)
    pixels = np.full((64, 64, 4), (250, 200, 150, 9), np.uint8)
    Image.fromarray(pixels).save('a.tiff')


def list_entries(folder: Path) -> list[dict]:
    lines = (folder / 'predictions.jsonl').read_text().splitlines()
    return list(map(json.loads, lines))


def test_drawings_and_crops_are_of_what_is_detected_in(toy):
    given = ['m.onnx', 'a.tiff', '--score-thr', '0.3', '--save-crops', '--out-dir', 'x']
    assert main(given) == 0
    (entry,) = list_entries(Path('x'))
    scores = [found['score'] for found in entry['objects']]
    assert scores[0] == pytest.approx(0.9 * (250 + 200 + 150 + 9) / 4 / 255, abs=0.01)
    drawn = cv2.imread(entry['drawn'])
    assert np.abs(drawn[60, 60].astype(int) - [150, 200, 250]).max() < 9
    crop = cv2.imread(str(next(Path('x/crops').rglob('*.jpg'))))
    assert np.abs(crop.mean((0, 1)) - [150, 200, 250]).max() < 9


@pytest.mark.parametrize('source', ['film.mp4', 'rtsp://me:pw@127.0.0.1:9/x', '7'])
def test_what_has_frames_is_refused_before_it_is_opened(source, toy, capfd):
    given = ['m.onnx', 'a.tiff', source, '--out-dir', 'x']
    assert main(given) == 1
    assert [entry['file'] for entry in list_entries(Path('x'))] == ['a.tiff']
    said = capfd.readouterr().err
    assert f'{to_stream(source) or source}: the frames of videos, webcams' in said
    assert 'save all four' not in said and 'pw' not in said
    predictor = SimpleNamespace(color_type='bgra')
    files = [to_stream(source) or Path(source)]
    (found,) = predict_files(predictor, files, Path(), show_progress=False)
    assert str(files[0]) in found.reason and 'have 3 channels' in found.reason


@pytest.mark.parametrize('error', [ImageError, BrokenImageError])
def test_failures_name_the_file(error):
    path = Path('folder', 'a.png')
    assert explain_failure(error('it is odd'), path) == f'{path}: it is odd'
    named = explain_failure(error(f'{path} is odd'), path)
    assert named == f'{path} is odd'
