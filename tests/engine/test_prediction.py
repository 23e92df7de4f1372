"""Predictions on files, by a predictor that needs no network."""

import json
from pathlib import Path

from mmnextvit.engine.prediction import (
    Predictions,
    new_folder,
    predict_file,
    predict_files,
    write_json,
)
from mmnextvit.utils.errors import UserError

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample


class GreyPredictor:
    """Sees one object, as large as the image, and draws in grey."""

    classes = ['thing']

    def detect(self, image: np.ndarray, score_thr: float) -> DetDataSample:
        return DetDataSample(metainfo=dict(size=image.shape[1::-1], thr=score_thr))

    def detect_with_maps(
        self, image: np.ndarray, score_thr: float
    ) -> tuple[DetDataSample, np.ndarray, dict[str, torch.Tensor]]:
        maps = {'neck P3': torch.rand(4, 2, 3)}
        return self.detect(image, score_thr), image[..., ::-1].copy(), maps

    def list_objects(self, sample: DetDataSample) -> list[dict[str, object]]:
        return [dict(box=[0, 0, *sample.size], score=sample.thr)]

    def draw(self, image: np.ndarray, sample: DetDataSample) -> np.ndarray:
        return np.full_like(image, 128)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two images, one in a folder of its own, and a video of three frames."""
    (tmp_path / 'source' / 'inner').mkdir(parents=True)
    image = np.zeros((32, 48, 3), np.uint8)
    for name in ('a.png', 'inner/b.jpg'):
        cv2.imwrite(str(tmp_path / 'source' / name), image)
    path = str(tmp_path / 'source' / 'film.avi')
    video = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'MJPG'), 5, (48, 32))
    for _ in range(3):
        video.write(image)
    video.release()
    return tmp_path / 'source'


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()}


def test_entries_and_drawings(source, tmp_path):
    (source / 'broken.png').write_bytes(b'nothing')
    names = ['a.png', 'broken.png', 'film.avi', 'inner/b.jpg']
    out = tmp_path / 'out'
    predictions = predict_files(
        *(GreyPredictor(), [source / name for name in names], out, 0.25),
        with_maps=True,
        show_progress=False,
    )
    objects = [dict(box=[0, 0, 48, 32], score=0.25)]
    film = {'file': f'{source}/film.avi', 'drawn': 'drawn/film.avi.mp4'}
    a, *frames, b = predictions.entries
    assert a == dict(
        file=f'{source}/a.png',
        drawn='drawn/a.png',
        objects=objects,
        feature_maps='feature_maps/a.png',
    )
    assert frames == [
        dict(film, frame=0, objects=objects, feature_maps='feature_maps/film.avi'),
        *(dict(film, frame=i, objects=objects) for i in (1, 2)),
    ]
    assert b['drawn'] == 'drawn/inner/b.jpg'
    assert [*predictions.unreadable] == [f'{source}/broken.png']
    assert predictions.summarize() == '5 objects in 3 files'
    maps = {'overview.png', 'neck_P3_4x2x3.png'}
    assert files(out) == {
        *('drawn/a.png', 'drawn/film.avi.mp4', 'drawn/inner/b.jpg'),
        *(f'feature_maps/{n}/{m}' for n in (*names[::2], names[3]) for m in maps),
    }
    assert (cv2.imread(str(out / 'drawn' / 'a.png')) == 128).all()
    video = cv2.VideoCapture(str(out / 'drawn' / 'film.avi.mp4'))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3

    write_json(out / 'x.json', predictions, ['thing'], 'my.py', 'my.pth', 0.25)
    assert json.loads((out / 'x.json').read_text()) == {
        'config': 'my.py',
        'checkpoint': 'my.pth',
        'score_thr': 0.25,
        'classes': ['thing'],
        'box_format': "x1, y1, x2, y2 in pixels, from the image's top left corner",
        'predictions': predictions.entries,
        'unreadable': predictions.unreadable,
    }


def test_a_drawing_is_written_whole_or_not_at_all(source, tmp_path):
    args = source / 'film.avi', 'film.avi', tmp_path / 'out', 0.3
    entries = predict_file(GreyPredictor(), *args)
    next(entries)
    entries.close()  # as where someone interrupts
    assert files(tmp_path / 'out') == set()
    assert len([*predict_file(GreyPredictor(), *args)]) == 3
    assert files(tmp_path / 'out') == {'drawn/film.avi.mp4'}


def test_no_files():
    assert Predictions().summarize() == '0 objects in 0 files'


def test_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new_folder('a/b').is_dir()
    assert new_folder('a/b') == Path('a/b')  # it is empty
    Path('a/b/mine.txt').touch()
    for path, problem in [('a/b', 'empty'), ('a/b/mine.txt', 'a folder')]:
        with pytest.raises(UserError, match=f'{path} is not {problem}: choose a new'):
            new_folder(path)
    assert new_folder(None).parent == Path('predictions')
