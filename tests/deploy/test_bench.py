"""mmnextvit bench: a run in all formats, on its own data."""

import json
import sys
from pathlib import Path

import mmnextvit  # noqa: F401  (first)
from mmnextvit.benchmark import formats
from mmnextvit.benchmark.formats import (
    Comparison,
    Failure,
    Row,
    attempt,
    check_any_worked,
    choose_names,
    list_content,
    list_names,
    make_formats_table,
    take_turns,
)
from mmnextvit.deploy.parity import predict_candidates
from mmnextvit.utils.errors import MissingPackageError, UserError

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from tests.helpers.commands import call_here, fresh_process_state, refusal, run_here
from tests.helpers.export_folder import GIVEN, names

pytestmark = pytest.mark.deploy


def read_table(printed: str) -> dict[str, str]:
    """The lines of the printed table, by format."""
    table = printed.split('\nformat ')[1].split('\n\n')[0]
    return {line.split()[0]: line for line in table.splitlines()[2:]}


@pytest.mark.slow
def test_formats_side_by_side(here, capfd, monkeypatch):
    """Three that work, two whose packages are missing, and one of another system."""
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    monkeypatch.setitem(sys.modules, 'pnnx', None)
    asked = 'torch', 'torchscript', 'pt2', 'onnx', 'coreml', 'ncnn'
    options = (
        '--formats',
        *asked[:3],
        'onnx,coreml,ncnn',
        '--images',
        3,
        '--threads',
        1,
        '-o',
        'kept',
    )
    printed = run_here('bench', 'tiny.py', 'best.pth', *options, cwd=here, capfd=capfd)
    assert names(here) == GIVEN | {'kept'}  # the run stays as it was
    kept = {'best.torchscript', 'best.pt2', 'bench.md', 'bench.json'}
    assert names(here / 'kept') == kept

    content = json.loads((here / 'kept' / 'bench.json').read_text())
    assert (content['images'], content['threads'], content['size']) == (3, 1, [64, 64])
    assert content['versions']['torch'] == torch.__version__.partition('+')[0]
    rows = {row['format']: row for row in content['formats']}
    assert (*rows,) == asked
    tested = call_here('test', 'tiny.py', 'best.pth', '--work-dir', 'run', cwd=here)
    exported = {name: f'kept/best.{name}' for name in ('torchscript', 'pt2')}
    for name, file in {'torch': 'best.pth', **exported}.items():
        row = rows[name]
        assert row['file'] == file and not row['reason']
        assert row['megabytes'] == (here / file).stat().st_size / 1e6
        assert row['ms'] == pytest.approx(1000 / row['images_per_second']) and row['ms']
        mean_ap = {
            f'coco/{n}': tested[f'coco/{n}'] for n in ('bbox_mAP', 'bbox_mAP_50')
        }
        assert row['mean_ap'] == mean_ap and 0.3 < mean_ap['coco/bbox_mAP_50'] < 1
        assert all(0 < x < 1e-2 for x in row['largest_difference'].values())
    assert 'pip install "mmnextvit[onnx]"' in rows['onnx']['reason']
    assert 'pip install "mmnextvit[ncnn]"' in rows['ncnn']['reason']
    assert 'only Apple systems run it' in rows['coreml']['reason']

    lines = read_table(printed)
    for name, row in rows.items():
        shown = [row['reason']] if row['reason'] else [f'{row["ms"]:.1f}', '0.8']
        assert all(text in lines[name] for text in shown), lines[name]
    markdown = (here / 'kept' / 'bench.md').read_text()
    assert markdown.startswith('## Formats, 3 images, 64x64\n\n| format | MB | ms |')
    assert markdown.count('\n| ') == 8 and 'torch 2.' in markdown
    assert 'torchscript: Writing best.torchscript ...' in printed
    assert 'torchscript: Measuring mAP ...' in printed


@pytest.mark.slow
def test_int8_is_calibrated_on_the_training_images(here, exported, monkeypatch):
    """The file is another here, since its making takes long."""
    seen = []

    def export(cfg, checkpoint, options, say):
        seen.append(options)
        return exported

    monkeypatch.setattr(formats, 'export', export)
    options = '--formats', 'onnx-int8', '--no-map', '--images', 1
    row = call_here('bench', 'tiny.py', 'best.pth', *options, cwd=here).rows[0]
    assert row.seconds > 0 and row.reason == '' and not row.mean_ap
    assert row.box_difference == exported.drift.largest['candidate boxes']
    assert names(here) == GIVEN
    (asked,) = seen
    assert asked.precision == 'int8' and asked.out.name == 'best_int8.onnx'
    assert not asked.out.parent.exists()  # a folder for the while
    trained_on = sorted(str(p) for p in Path('data/train').resolve().glob('*'))
    assert sorted(str(Path(p).resolve()) for p in asked.calibration) == trained_on
    message = refusal('bench', 'tiny.py', 'best.pth', '--formats', 'onxx', cwd=here)
    assert "no format 'onxx' (did you mean onnx" in message


@pytest.mark.slow
def test_differences_are_those_of_the_candidates(here):
    """Before non-maximum suppression, the largest over all images."""
    with fresh_process_state():
        cfg = Config.fromfile('tiny.py')
        comparison = formats.compare_formats(
            cfg, 'best.pth', ['torch'], here, max_images=2, with_map=False
        )
    assert comparison.images == 2 and comparison.size == (64, 64)
    (row,) = comparison.rows
    with fresh_process_state():
        detector = formats.load_detector(cfg, 'best.pth')
    folded = formats.Candidates(detector)
    differences = []
    paths = sorted(Path('data/val').glob('*'))
    for path in (paths[0], paths[2]):  # evenly spread
        rgb = cv2.imread(str(path))[..., ::-1]  # 64x64 already
        batch = np.float32(rgb.transpose(2, 0, 1)[None])
        theirs = predict_candidates(detector, batch)
        ours = formats.run_in_torch(folded)(batch)
        differences.append([np.abs(a - b).max() for a, b in zip(ours, theirs)])
    boxes, scores = np.max(differences, 0)
    # It is rounding alone, which differs with the number of threads.
    assert row.box_difference == pytest.approx(boxes, rel=0.5)
    assert row.score_difference == pytest.approx(scores, rel=0.5)


def test_none_that_works_is_an_error(here):
    options = '--formats', 'coreml', 'tensorrt'
    message = refusal('bench', 'tiny.py', 'best.pth', *options, cwd=here)
    assert message.startswith('none of the formats works here: coreml: only Apple')
    assert 'tensorrt: it needs an NVIDIA GPU' in message


def test_test_data_that_are_missing(here):
    options = '--cfg-options', 'test_dataloader.dataset.ann_file=no.json'
    message = refusal('bench', 'tiny.py', 'best.pth', *options, cwd=here)
    assert 'the test data of the config, which cannot be read' in message
    assert 'no.json' in message and '--cfg-options data_root' in message


def test_a_folder_that_is_full(here):
    message = refusal('bench', 'tiny.py', 'best.pth', '-o', 'data', cwd=here)
    assert message == 'data is not empty: choose a new folder'
    message = refusal('bench', 'tiny.py', 'no.pth', cwd=here)
    assert message == 'checkpoint no.pth does not exist'


def test_names():
    assert {'torch', 'onnx', 'openvino-int8', 'tensorrt-half'} <= set(list_names())
    without = {f'{to}-int8' for to in ('torch', 'torchscript', 'coreml', 'ncnn', 'pt2')}
    assert not without & set(list_names())
    of_all = ['torch', 'onnx', 'openvino', 'ncnn', 'pt2', 'torchscript']
    assert choose_names() == of_all


def test_formats_take_turns():
    """The first image warms up; what fails is left out from then on."""
    calls = []

    def detect(name: str, image: np.ndarray) -> None:
        calls.append((name, int(image)))
        if name == 'b' and image == 2:
            raise MissingPackageError('b is not installed:\npip install b')

    images = [np.array(i) for i in range(4)]
    runs = {x: lambda image, x=x: detect(x, image) for x in 'abc'}
    times = take_turns(runs, images)
    assert calls == [
        *((name, i) for i in (0, 0, 0, 1, 2) for name in 'abc'),
        *((name, 3) for name in 'ac'),
    ]
    assert times['b'] == Failure('b is not installed: pip install b')
    assert 0 < times['a'] < 1 and 0 < times['c'] < 1
    assert take_turns({}, images) == {}


def test_the_median_counts_without_the_rounds_before(monkeypatch):
    seconds = iter([90, 80, 3, 1, 9])  # the first two warm up
    monkeypatch.setattr(formats, 'time_rested', lambda call: next(seconds))
    assert take_turns({'a': print}, [np.zeros(1)] * 3) == {'a': 3}


def test_reasons():
    def fail(error: Exception) -> None:
        raise error

    assert attempt(lambda: 1) == 1
    assert attempt(lambda: fail(UserError('no', file='a.py'))) == Failure('a.py: no')
    found = attempt(lambda: fail(RuntimeError('bad\nthing' + 'x' * 9999)))
    assert found.reason.startswith('RuntimeError: bad thingxxx')
    assert len(found.reason) < 500
    with pytest.raises(KeyboardInterrupt):
        attempt(lambda: fail(KeyboardInterrupt()))


DIFFER = '  boxes differ, px  scores differ'
MEASURED = Comparison(
    [
        Row('torch', 'a.pth', 12.34, 0.5, {'coco/bbox_mAP': 0.25}, 1e-5, 2e-6),
        Row('onnx', 'a.onnx', 1, 0.025, {}, float('nan'), 0.5, 'no mAP: why'),
        Row('openvino', reason='not there'),
    ],
    (64, 96),
    3,
    {},
)


def test_table():
    table = make_formats_table(MEASURED)
    assert table.title == 'Formats, 3 images, 64x96'
    assert table.to_text().splitlines() == [
        f'format      MB     ms  images/s     mAP{DIFFER}  note',
        '-' * 78,
        'torch     12.3  500.0       2.0  0.2500             1e-05          2e-06',
        'onnx       1.0   25.0      40.0                       nan            0.5  '
        'no mAP: why',
        f'openvino{" " * 66}not there',
    ]


def test_json_has_no_nan():
    rows = list_content(MEASURED)['formats']
    json.dumps(rows, allow_nan=False)
    assert rows[0]['ms'] == 500 and rows[0]['images_per_second'] == 2
    assert rows[1]['largest_difference'] == {'boxes': 'nan', 'scores': 0.5}
    assert rows[2]['ms'] is None and rows[2]['reason'] == 'not there'


def test_one_that_works_is_enough():
    check_any_worked(MEASURED)
    with pytest.raises(UserError, match='openvino: not there'):
        check_any_worked(Comparison(MEASURED.rows[2:], (64, 64), 1, {}))
