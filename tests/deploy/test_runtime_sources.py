"""Videos, streams and lists in the command of the runtime, and options of both."""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from mmnextvit.cli import arguments
from mmnextvit.cli.predict import add_arguments
from mmnextvit.runtime import (
    ONNXSession,
    Stream,
    command,
    draw_objects,
    iterate_ahead,
    main,
    open_kept_video,
    open_threads,
    open_video,
)
from mmnextvit.runtime.detections import Objects
from mmnextvit.runtime.drawing import write_drawing

import cv2
import numpy as np
import pytest

from tests.helpers.commands import refusal
from tests.helpers.full_disk import limit_file_size
from tests.helpers.mjpeg_server import serve_mjpeg
from tests.helpers.toy_exports import metadata, write_onnx

pytestmark = pytest.mark.deploy


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> SimpleNamespace:
    """The toy detector, a grey image and a grey video of 9 frames."""
    monkeypatch.chdir(tmp_path)
    write_onnx(tmp_path / 'm.onnx', metadata())
    image = np.full((64, 64, 3), 200, np.uint8)
    cv2.imwrite('a.png', image)
    with open_video(tmp_path / 'film.mp4', 10) as write:
        for _ in range(9):
            write(image)
    return SimpleNamespace(folder=tmp_path)


def run(*args: object, code: int = 0) -> list[dict]:
    """The entries of a run into the folder `out`."""
    given = ['m.onnx', *map(str, args), '--out-dir', 'out']
    assert main(given) == code
    return [json.loads(line) for line in Path('out/predictions.jsonl').open()]


def refuse(capsys, *args: object) -> str:
    """What a run says that must end in exit code 1."""
    with pytest.raises(SystemExit, match='1'):
        main(['m.onnx', *map(str, args)])
    return capsys.readouterr().err


def test_images_and_videos_into_a_folder(here):
    a, *frames = run('film.mp4', 'a.png', '--save-crops', '--score-thr', '0.5')[::-1]
    assert (a['file'], a['drawn']) == ('a.png', 'out/drawn/a.jpg')
    assert [entry['frame'] for entry in frames[::-1]] == [*range(9)]
    assert {entry['drawn'] for entry in frames} == {'out/drawn/film.mp4.mp4'}
    video = cv2.VideoCapture('out/drawn/film.mp4.mp4')
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 9
    crops = sorted(Path('out/crops').glob('*/a.png_*.jpg'))
    assert 0 < len(crops) <= len(a['objects'])


@pytest.mark.parametrize('size', ['2', '4', '50'])
def test_batches_find_the_same(here, size, capsys):
    sources = ['a.png', 'none.png', 'a.png', 'a.png', 'film.mp4']
    assert main(['m.onnx', *sources]) == 1
    single = capsys.readouterr()
    assert main(['m.onnx', *sources, '--batch', size]) == 1
    assert capsys.readouterr() == single and single.out.count('\n') == 12
    assert 'none.png cannot be read' in single.err


@pytest.mark.parametrize('source', ['film.mp4', 'images.txt'])
def test_as_many_as_were_chosen_go_through_the_network_at_once(
    here, source, capsys, monkeypatch
):
    Path('images.txt').write_text('a.png\n' * 9)
    run_network, sizes = ONNXSession.run, []

    def count(session, images):
        sizes.append(len(images))
        return run_network(session, images)

    monkeypatch.setattr(ONNXSession, 'run', count)
    assert main(['m.onnx', source, '--batch', '9']) == 0
    assert sizes == [9] and capsys.readouterr().out.count('\n') == 9


def test_nothing_is_asked_for_beyond_the_last_item():
    with open_threads(1) as threads:
        made = list(iterate_ahead(threads, str, range(5), 10**9))
    assert made == ['0', '1', '2', '3', '4']


def test_standard_input_that_is_closed(here, capsys, monkeypatch):
    monkeypatch.setattr('sys.stdin', None)
    assert refuse(capsys, '-').startswith('standard input: there is none here')


def test_half_of_a_drawing_does_not_stay(here, monkeypatch):
    def interrupt(path, mode):
        Path(path).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, 'open', interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_drawing(here.folder / 'drawn', 'a.png', np.zeros((8, 8, 3), np.uint8))
    assert not list((here.folder / 'drawn').iterdir())


@pytest.mark.parametrize('error', [None, KeyboardInterrupt])
def test_a_video_that_a_full_disk_cuts_does_not_stay(here, error):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    raised = pytest.raises(error or OSError, match=None if error else 'disk full')
    with limit_file_size(3000), raised, open_kept_video(Path('out/x.mp4'), 10) as write:
        for _ in range(50):
            write(noise)
        if error:
            raise error
    assert not list(Path('out').iterdir())


def test_lists_and_standard_input(here, capsys, monkeypatch):
    Path('list.txt').write_text('a.png\nfilm.mp4\n')
    assert main(['m.onnx', 'list.txt', '--fps', '5']) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 1 + 5
    stdin = SimpleNamespace(buffer=io.BytesIO(b'a.png\n'), isatty=lambda: False)
    monkeypatch.setattr(sys, 'stdin', stdin)
    assert main(['m.onnx', '-']) == 0
    assert capsys.readouterr().out.splitlines() == listed[:1]


def test_a_stream(here, capsys):
    with serve_mjpeg(12) as address:
        entries = run(address, '--reconnect', '0', '--save-video')
    assert entries and all(entry['time'] > 0 for entry in entries)
    name = str(Stream(address))
    assert {entry['file'] for entry in entries} == {name} and '***' in name
    (video,) = Path('out/drawn').iterdir()
    assert cv2.VideoCapture(str(video)).isOpened()
    with serve_mjpeg() as address:
        assert main(['m.onnx', address, '--reconnect', '0']) == 1
    printed = capsys.readouterr().err
    assert 'Check the address' in printed and 'me:word' not in printed


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_whole_files(here, number):
    with serve_mjpeg(10_000) as address:
        process = subprocess.Popen(
            [sys.executable, '-m', 'mmnextvit.runtime', 'm.onnx', address]
            + ['--out-dir', 'out', '--save-video'],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        lines = Path('out/predictions.jsonl')
        end = time.monotonic() + 60
        while not (lines.exists() and lines.read_text().count('\n') > 5):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] in ('interrupted', 'terminated')
    assert all(json.loads(line)['drawn'] for line in lines.open())
    (video,) = Path('out/drawn').iterdir()
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) > 1


BAD = [
    (['--fps', '0'], '--fps 0 is not above 0'),
    (['--fps', 'nan'], '--fps nan is not above 0'),
    (['--reconnect', '-1'], '--reconnect -1 is not a number from 0 on'),
    (['--batch', '0'], '--batch 0 is not a whole number from 1 to 1024'),
    (['--batch', '9999999'], '--batch 9999999 is not a whole number from 1 to 1024'),
    (['--save-video', '--no-draw'], 'draws nothing: leave one out'),
    (['--track'], '--track is about videos, webcams and streams'),
    (['--fps', '5'], '--fps is about videos, webcams and streams'),
]


@pytest.mark.parametrize('options, problem', BAD)
def test_options_that_cannot_be(here, capsys, options, problem):
    assert problem in refuse(capsys, 'a.png', *options, '--out-dir', 'out')
    assert not Path('out/predictions.jsonl').exists()


@pytest.mark.parametrize('options, problem', BAD)
def test_predict_refuses_the_same(here, options, problem):
    Path('my.py').write_text('model = dict()')
    given = ['my.py', 'm.onnx', 'a.png', *options]
    assert problem in refusal('predict', *given, cwd=here.folder)
    assert not Path('predictions').exists()


def test_options_that_need_another_one(here, capsys):
    for option in ('--save-video', '--save-crops'):
        said = refuse(capsys, 'film.mp4', option)
        assert said == f'{option} needs a folder to write to: --out-dir FOLDER\n'
    assert 'contradict' in refuse(capsys, 'a.png', '--draw', 'd', '--no-draw')
    for option in ('-o', '--draw'):
        said = refuse(capsys, 'a.png', option, 'x', '--out-dir', 'out')
        assert said == f'{option} is a part of --out-dir: leave one out\n'
    os.mkdir('full')
    Path('full/mine').touch()
    said = refuse(capsys, 'a.png', '--out-dir', 'full')
    assert said == '--out-dir full is not an empty folder: choose a new one\n'
    with pytest.raises(SystemExit, match='2'):
        main(['m.onnx', 'a.png', '--fps', 'fast'])


def test_without_trackers_there_is_a_command(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'trackers', None)
    assert 'pip install "mmnextvit[track]"' in refuse(capsys, 'film.mp4', '--track')
    Path('my.py').write_text('model = dict()')
    given = ['my.py', 'm.onnx', 'film.mp4', '--track']
    assert 'pip install "mmnextvit[track]"' in refusal(
        'predict', *given, cwd=here.folder
    )


def test_tracks(here):
    pytest.importorskip('trackers')
    entries = run('film.mp4', '--track', '--score-thr', '0.5')
    assert all(found['track'] is None for found in entries[0]['objects'])
    later = {found['track'] for entry in entries[1:] for found in entry['objects']}
    assert later == {*range(1, len(entries[0]['objects']) + 1)}


def test_numbers_of_tracks_are_drawn():
    image = np.zeros((64, 200, 3), np.uint8)
    objects = Objects(np.array([[20, 30, 60, 60]]), np.ones(1), np.zeros(1, int), ['a'])
    plain = draw_objects(image, objects)
    objects[0]['track'] = None
    np.testing.assert_array_equal(draw_objects(image, objects), plain)
    objects[0]['track'] = 7
    assert (draw_objects(image, objects) != plain).any()


def test_the_commands_offer_the_same_options():
    """Ours may not import the runtime's, which brings NumPy, to show its help."""
    ours, runtimes = argparse.ArgumentParser('x'), argparse.ArgumentParser('x')
    arguments.add_sources(ours)
    command.add_sources(runtimes)
    assert ours.format_help() == runtimes.format_help()
    given = ['--fps', '5', '--track', '--save-video', '--save-crops', '--batch', '4']
    assert ours.parse_args(given) == runtimes.parse_args(given)
    whole = argparse.ArgumentParser('x')
    add_arguments(whole)
    assert '--reconnect N' in whole.format_help()
