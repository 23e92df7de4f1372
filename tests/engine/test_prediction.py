"""Predictions on files, by a predictor that needs no network."""

import json
import multiprocessing
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

from mmnextvit.engine import prediction
from mmnextvit.engine.prediction import (
    Entries,
    Predictions,
    Unreadable,
    make_new_folder,
    open_results,
    predict_file,
    predict_files,
)
from mmnextvit.utils.errors import Terminated, UserError

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from PIL import Image


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
    about = dict(config='my.py', checkpoint='my.pth', score_thr=0.25, classes=['thing'])
    with open_results(out, about) as results:
        for found in predict_files(
            *(GreyPredictor(), [source / name for name in names], out, 0.25),
            with_maps=True,
            show_progress=False,
        ):
            results.predictions.add(found)
    predictions = results.predictions
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
    assert files(out) - {'predictions.json'} == {
        *('drawn/a.png', 'drawn/film.avi.mp4', 'drawn/inner/b.jpg'),
        *(f'feature_maps/{n}/{m}' for n in (*names[::2], names[3]) for m in maps),
    }
    assert (cv2.imread(str(out / 'drawn' / 'a.png')) == 128).all()
    video = cv2.VideoCapture(str(out / 'drawn' / 'film.avi.mp4'))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3

    assert json.loads((out / 'predictions.json').read_text()) == {
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
    assert make_new_folder('a/b').is_dir()
    assert make_new_folder('a/b') == Path('a/b')  # it is empty
    Path('a/b/mine.txt').touch()
    for path, problem in [('a/b', 'empty'), ('a/b/mine.txt', 'a folder')]:
        with pytest.raises(UserError, match=f'{path} is not {problem}: choose a new'):
            make_new_folder(path)
    assert make_new_folder(None).parent == Path('predictions')


# What ends early, and who is first


def read_json(folder: Path) -> dict:
    return json.loads((folder / 'predictions.json').read_text())


def predict_until(error: BaseException, source: Path, out: Path, count: int) -> dict:
    """What the JSON holds where an error ends predicting within an image or frame.

    Args:
        error: The error, which must come through.
        source: Files to predict on.
        out: Folder of the results.
        count: How many frames are predicted before.
    """

    class Predictor(GreyPredictor):
        frames = 0

        def detect(self, image: np.ndarray, score_thr: float) -> DetDataSample:
            self.frames += 1
            if self.frames > count:
                raise error
            return super().detect(image, score_thr)

    with pytest.raises(type(error)) as raised, open_results(out, {}) as results:
        paths = [source / name for name in ('a.png', 'film.avi', 'inner/b.jpg')]
        found = predict_files(Predictor(), paths, out, show_progress=False)
        for one in found:
            results.predictions.add(one)
    assert raised.value is error
    return read_json(out) if (out / 'predictions.json').exists() else {}


@pytest.mark.parametrize(
    'error, reason',
    [
        (KeyboardInterrupt(), 'interrupted'),
        (Terminated(), 'terminated'),
        (OSError(28, 'No space left on device'), 'No space left on device'),
        (RuntimeError('a bug'), 'RuntimeError: a bug'),
    ],
)
def test_what_was_found_so_far_is_kept(error, reason, source, tmp_path):
    out = tmp_path / 'out'
    content = predict_until(error, source, out, count=3)
    assert reason in content['partial'] and 'missing' in content['partial']
    objects = [dict(box=[0, 0, 48, 32], score=0.3)]
    a = dict(file=f'{source}/a.png', drawn='drawn/a.png', objects=objects)
    film = dict(file=f'{source}/film.avi', objects=objects)  # it was not drawn
    assert content['predictions'] == [a, dict(film, frame=0), dict(film, frame=1)]
    assert files(out) == {'predictions.json', 'drawn/a.png'}
    assert [p.name for p in out.rglob('.*')] == []
    said = f'3 objects in 2 files were found, and are in {out}/predictions.json'
    assert str(error) == (said if isinstance(error, KeyboardInterrupt) else str(error))


@pytest.mark.parametrize('error', [KeyboardInterrupt(), RuntimeError('a bug')])
@pytest.mark.parametrize('there', [False, True])
def test_where_nothing_was_found_nothing_is_left(error, there, source, tmp_path):
    """So that the same folder can be given again."""
    out = tmp_path / 'a' / 'out'
    if there:
        out.mkdir(parents=True)
    assert predict_until(error, source, out, count=0) == {}
    assert out.exists() == (tmp_path / 'a').exists() == there
    assert [*tmp_path.glob('a/out/*')] == []
    with open_results(out, {}) as results:
        results.predictions.add(Unreadable('x.png', 'broken'))
    assert read_json(out)['unreadable'] == {'x.png': 'broken'}


def test_unreadable_files_are_kept_too(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_results(tmp_path / 'out', {}) as result:
        result.predictions.add(Unreadable('x.png', 'broken'))
        raise KeyboardInterrupt
    content = read_json(tmp_path / 'out')
    assert content['partial'] and content['unreadable'] == {'x.png': 'broken'}


def test_the_json_is_valid_and_partial_while_it_is_made(tmp_path):
    """So it is after a kill."""
    with open_results(tmp_path / 'out', dict(config='my.py')) as results:
        content = read_json(tmp_path / 'out')
        assert 'not ended' in content['partial'] and content['config'] == 'my.py'
        assert content['predictions'] == []
    assert 'partial' not in read_json(results.folder)


def test_the_same_folder_at_once_is_of_the_first(tmp_path, monkeypatch):
    """The second has looked before the first claims it: the latest possible moment."""
    out = tmp_path / 'out'
    real, firsts = prediction.make_new_folder, []

    def new_folder_and_another_process(path: Path) -> Path:
        folder = real(path)
        monkeypatch.setattr(prediction, 'make_new_folder', real)
        first = open_results(path, dict(config='first.py'))
        first.__enter__().predictions.add(Unreadable('x.png', 'broken'))
        firsts.append(first)
        return folder

    monkeypatch.setattr(prediction, 'make_new_folder', new_folder_and_another_process)
    with pytest.raises(FileExistsError) as error, open_results(out, {}):
        raise AssertionError('both write into one folder')
    assert error.value.filename == str(out / 'predictions.json')
    assert 'nothing is overwritten' in str(error.value)
    firsts[0].__exit__(None, None, None)
    assert read_json(out)['config'] == 'first.py' and 'partial' not in read_json(out)


def claim(number: int, path: str | None, source: Path, start, results) -> None:
    """Predicts in a process of its own, and says how that ended."""
    start.wait()
    try:
        with open_results(path, dict(config=number)) as opened:
            files = [source / 'a.png', source / 'inner' / 'b.jpg']
            for found in predict_files(
                GreyPredictor(), files, opened.folder, show_progress=False
            ):
                opened.predictions.add(found)
        results.put(str(opened.folder))
    except (UserError, FileExistsError) as error:
        results.put(error)


def predict_at_once(path: str | None, source: Path, count: int) -> list:
    fork = multiprocessing.get_context('fork')
    start, results = fork.Barrier(count), fork.Queue()
    processes = [
        fork.Process(target=claim, args=(i, path, source, start, results))
        for i in range(count)
    ]
    for process in processes:
        process.start()
    ended = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    return ended


@pytest.mark.slow
def test_processes_with_the_same_folder_at_once(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(5):
        ended = predict_at_once(f'out{i}', source, 4)
        refused = [end for end in ended if isinstance(end, Exception)]
        assert len(refused) == 3 and f'out{i}' in ended
        assert len(read_json(Path(f'out{i}'))['predictions']) == 2
        assert files(tmp_path / f'out{i}') == {
            *('predictions.json', 'drawn/a.png', 'drawn/inner/b.jpg')
        }


@pytest.mark.slow
def test_processes_in_the_same_second(source, tmp_path, monkeypatch):
    """Without a folder, each gets one of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prediction.time, 'strftime', lambda form: '20260101_000000')
    ended = predict_at_once(None, source, 4)
    assert sorted(ended) == [
        'predictions/20260101_000000',
        *(f'predictions/20260101_000000_{i}' for i in (2, 3, 4)),
    ]
    contents = [read_json(Path(folder)) for folder in ended]
    assert sorted(content['config'] for content in contents) == [0, 1, 2, 3]
    assert all(len(content['predictions']) == 2 for content in contents)


def test_one_odd_image_costs_no_other_result(source, tmp_path, monkeypatch):
    """Each is one line; what is found on the others is kept."""

    class Fussy(GreyPredictor):
        def detect(self, image, score_thr):
            if image.shape[1] == 30000:
                cv2.resize(image, (640, 0))
            if image.shape[1] == 300:
                raise MemoryError
            if image.shape[1] == 301:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().detect(image, score_thr)

        def draw(self, image, sample):
            if image.shape[1] == 70000:
                raise ValueError('Image size of 70000x2 pixels is too large.')
            return super().draw(image, sample)

    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10**6)
    Image.new('1', (2000, 2000)).save(source / 'bits.png')
    (source / 'head.png').write_bytes((source / 'a.png').read_bytes()[:20])
    os.mkfifo(source / 'pipe.png')
    os.mkfifo(source / 'pipe.avi')
    for width in (30000, 300, 301, 70000):
        cv2.imwrite(f'{source}/{width}.png', np.zeros((2, width, 3), np.uint8))
    odd = [path for path in source.iterdir() if path.name not in ('a.png', 'inner')]
    files = [source / 'a.png', *sorted(odd), source / 'inner' / 'b.jpg']
    files.remove(source / 'film.avi')
    predictions = Predictions()
    for found in predict_files(Fussy(), files, tmp_path / 'out', show_progress=False):
        predictions.add(found)
    assert [Path(entry['file']).name for entry in predictions.entries] == [
        'a.png', 'b.jpg'
    ]  # fmt: skip
    assert [*predictions.unreadable] == [str(path) for path in files[1:-1]]
    for path, reason in predictions.unreadable.items():
        assert reason.startswith(f'{path}: ') and '\n' not in reason
        assert len(reason) < 500


@pytest.mark.parametrize('error', [TypeError('a bug'), UserError('of all files')])
def test_faults_of_no_single_image_end_the_run(source, tmp_path, error):
    class Faulty(GreyPredictor):
        def detect(self, image, score_thr):
            raise error

    with pytest.raises(type(error)):
        list(
            predict_files(
                Faulty(), [source / 'a.png'], tmp_path / 'out', show_progress=False
            )
        )


# What threads do beside the network


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    """Twelve images, whose width tells them apart; the sixth is broken."""
    folder = tmp_path / 'many'
    folder.mkdir()
    for number in range(12):
        image = np.zeros((8, 20 + number, 3), np.uint8)
        cv2.imwrite(f'{folder}/{number:02}.png', image)
    (folder / '05.png').write_bytes(b'nothing')
    return sorted(folder.iterdir())


def find_in(files: list[Path], out: Path, **kwargs) -> Iterator:
    kwargs = dict(predictor=GreyPredictor(), show_progress=False) | kwargs
    return predict_files(files=files, out_dir=out, **kwargs)


def test_order_and_results_are_those_of_one_by_one(many, tmp_path):
    """Though some images take longer to read, and others to draw."""

    class Uneven(GreyPredictor):
        def draw(self, image, sample):
            time.sleep(0.02 * (image.shape[1] % 3 == 0))
            return super().draw(image, sample)

    def prepare(image: np.ndarray) -> np.ndarray:
        time.sleep(0.02 * (image.shape[1] % 3 == 1))
        return image

    found = list(find_in(many, tmp_path / 'a', predictor=Uneven(), prepare=prepare))
    assert isinstance(found.pop(5), Unreadable)
    whole = [path for path in many if path.name != '05.png']
    alone = [
        entry
        for path in whole
        for entry in predict_file(GreyPredictor(), path, path.name, tmp_path / 'b', 0.3)
    ]
    assert found == alone
    assert [one['objects'][0]['box'][2] for one in found] == [
        20 + int(path.stem) for path in whole
    ]
    for path in whole:
        a, b = ((tmp_path / x / 'drawn' / path.name).read_bytes() for x in 'ab')
        assert a == b


def test_the_next_image_is_read_and_the_last_one_drawn_beside_the_network(
    many, tmp_path
):
    """Each of the three waits for another one: in turn, none would ever go on."""
    prepared, drawing = (threading.Semaphore(0) for _ in range(2))
    del many[5]
    here = threading.current_thread()

    class Waiting(GreyPredictor):
        def detect(self, image, score_thr):
            assert threading.current_thread() is here
            if image.shape[1] == 20:  # the second is prepared meanwhile
                assert all(prepared.acquire(timeout=60) for _ in range(2))
            if image.shape[1] == 22:  # and the first is drawn
                assert drawing.acquire(timeout=60)
            return super().detect(image, score_thr)

        def draw(self, image, sample):
            drawing.release()
            return super().draw(image, sample)

    def prepare(image: np.ndarray) -> np.ndarray:
        prepared.release()
        return image

    threads = prediction.open_threads
    prediction.open_threads = lambda: threads(2)
    try:
        found = find_in(many, tmp_path / 'o', predictor=Waiting(), prepare=prepare)
        assert len(list(found)) == 11
    finally:
        prediction.open_threads = threads


@pytest.mark.parametrize('slow', ['detect', 'draw'])
def test_few_images_are_held_at_once(slow, many, tmp_path, monkeypatch):
    """However slow the network is, or the disk that is written to."""
    del many[5]
    monkeypatch.setattr('mmnextvit.runtime.threads.MAX_THREADS', 2)
    lock, prepared, detected, drawn, held = threading.Lock(), [], [], [], []

    def note(done: list, name: str) -> None:
        time.sleep(0.02 * (name == slow))
        with lock:
            done.append(name)
            # Read and not yet looked at; looked at and not yet drawn
            held.append((len(prepared) - len(detected), len(detected) - len(drawn)))

    class Slow(GreyPredictor):
        def detect(self, image, score_thr):
            note(detected, 'detect')
            return super().detect(image, score_thr)

        def draw(self, image, sample):
            note(drawn, 'draw')
            return super().draw(image, sample)

    def prepare(image: np.ndarray) -> np.ndarray:
        note(prepared, 'prepare')
        return image

    list(find_in(many, tmp_path / 'out', predictor=Slow(), prepare=prepare))
    assert len(prepared) == len(detected) == len(drawn) == 11
    read, waiting = (max(column) for column in zip(*held))
    assert read <= 2 + 1 and waiting <= 2 + 1  # and the one that is looked at


@pytest.mark.parametrize('count', [1, 4, 8])
def test_a_signal_leaves_an_entry_for_each_whole_drawing(count, many, tmp_path):
    """Of all that the network has seen, also what was not drawn when it came."""
    out = tmp_path / 'out'
    del many[5]

    class Slow(GreyPredictor):
        frames = 0

        def detect(self, image, score_thr):
            self.frames += 1
            if self.frames > count:
                raise KeyboardInterrupt
            return super().detect(image, score_thr)

        def draw(self, image, sample):
            time.sleep(0.02)
            return super().draw(image, sample)

    with pytest.raises(KeyboardInterrupt), open_results(out, {}) as results:
        for one in find_in(many, out, predictor=Slow()):
            results.predictions.add(one)
    names = [path.name for path in many[:count]]
    entries = read_json(out)['predictions']
    assert [Path(entry['file']).name for entry in entries] == names
    assert all(entry['drawn'] == f'drawn/{n}' for entry, n in zip(entries, names))
    assert files(out) == {'predictions.json', *(f'drawn/{name}' for name in names)}


def test_who_stops_asking_finds_whole_drawings(many, tmp_path):
    out, before = tmp_path / 'out', threading.active_count()
    found = find_in(many, out)
    next(found)
    found.close()
    assert threading.active_count() == before
    names = {f'drawn/{path.name}' for path in many}
    assert 'drawn/00.png' in files(out) and files(out) < names
    assert all(cv2.imread(str(out / name)) is not None for name in files(out))


def test_a_fault_of_a_drawing_comes_in_its_place(many, tmp_path):
    """A full disk ends the run; what was found before is kept."""

    class Full(GreyPredictor):
        def draw(self, image, sample):
            if image.shape[1] == 23:
                raise OSError(28, 'No space left on device')
            return super().draw(image, sample)

    found = find_in(many, tmp_path / 'out', predictor=Full())
    names = []
    with pytest.raises(OSError, match='No space left'):
        for one in found:
            names.append(Path(one['file']).name)
    assert names == ['00.png', '01.png', '02.png']


def test_frames_of_a_video_are_read_ahead_and_drawn_in_order(source, tmp_path):
    seen = []

    class Numbering(GreyPredictor):
        def draw(self, image, sample):
            time.sleep(0.02 * (len(seen) == 0))
            seen.append(sample.number)
            return super().draw(image, sample)

        def detect(self, image, score_thr):
            sample = super().detect(image[1], score_thr)
            sample.set_metainfo(dict(number=image[0]))
            return sample

    numbers = iter(range(100))
    prepare: Callable = lambda image: (next(numbers), image)  # noqa: E731
    found = find_in(
        [source / 'film.avi'],
        tmp_path / 'out',
        predictor=Numbering(),
        prepare=prepare,
    )
    assert [entry['frame'] for entry in found] == seen == [0, 1, 2]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, monkeypatch):
    """Also where a hundred objects are found on each."""

    class Crowded(GreyPredictor):
        def list_objects(self, sample):
            return super().list_objects(sample) * 100

    image = tmp_path / 'a.png'
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(prediction, 'MAX_HELD', 1 << 14)

    peaks = []
    tracemalloc.start()
    try:
        for count in (10, 10, 60):  # the first warms up
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            with open_results(tmp_path / f'{count}{len(peaks)}', {}) as results:
                for one in find_in(
                    [image] * count, results.folder, predictor=Crowded()
                ):
                    results.predictions.add(one)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            assert (
                results.predictions.summarize() == f'{count * 100} objects in 1 files'
            )
    finally:
        tracemalloc.stop()
    # The objects of 50 images take 1.5 MB as Python has them.
    assert peaks[2] < peaks[1] + 300_000
    assert len(read_json(results.folder)['predictions']) == 60


def test_entries_go_to_disk_and_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, 'MAX_HELD', 100)
    entries = Entries(tmp_path)
    rows = [dict(file=f'{i}\n"é', objects=[dict(score=i / 7)]) for i in range(20)]
    for number, row in enumerate(rows):
        entries.append(row)
        assert len(entries) == number + 1 and entries[number] == row
    assert list(entries) == list(entries) == rows and entries == rows
    assert entries != rows[:-1] and not Entries()
    assert not [*tmp_path.iterdir()]  # the file has no name
