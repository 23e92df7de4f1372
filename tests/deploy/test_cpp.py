"""The example in C++ finds what the runtime in Python finds."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mmnextvit.runtime import Detector

import cv2
import numpy as np
import pytest
from openvino.utils import get_cmake_path

from tests.conftest import ROOT
from tests.helpers.lively_detectors import demo_images
from tests.helpers.toy_exports import metadata, replace_metadata, write_openvino

LACKING = [name for name in ('cmake', 'g++') if shutil.which(name) is None] + [
    name
    for name in ('OpenVINOConfig.cmake',)
    if not Path(get_cmake_path() or '.', name).is_file()
]
pytestmark = [
    pytest.mark.deploy,
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f'lacking: {", ".join(LACKING)}'),
]


@pytest.fixture(scope='module')
def program(tmp_path_factory) -> Path:
    build = tmp_path_factory.mktemp('build')
    for command in (
        ['cmake', '-S', ROOT / 'examples' / 'cpp', '-B', build,
         f'-DOpenVINO_DIR={get_cmake_path()}'],
        ['cmake', '--build', build],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / 'detect'


def call(program: Path, model: Path, images: Sequence[np.ndarray], *options: str):
    content = b''.join(cv2.imencode('.ppm', image)[1].tobytes() for image in images)
    return subprocess.run(
        [program, model / 'model.xml', *options],
        input=content,
        capture_output=True,
        timeout=120,
    )


def compare(program: Path, model: Path, images: Sequence[np.ndarray]) -> int:
    """Compares what both find; how many objects that is."""
    done = call(program, model, images, '0.05')
    assert done.returncode == 0, done.stderr
    rows = [line.split('\t') for line in done.stdout.decode().splitlines()]
    detector = Detector(model)
    for number, image in enumerate(images):
        found = [row[1:] for row in rows if row[0] == str(number)]
        expected = detector(image, 0.05)
        assert [row[0] for row in found] == expected.names
        values = np.array([row[1:] for row in found], float).reshape(-1, 5)
        np.testing.assert_allclose(values[:, 0], expected.scores, atol=0.005)
        np.testing.assert_allclose(values[:, 1:], expected.boxes, atol=0.5)
    return len(rows)


UNLIKE = demo_images((64, 64), (40, 90), (150, 70), (30, 40), (200, 333), (1, 9))
LETTERBOX = dict(type='letterbox', size=[64, 64], fill=114.0)


@pytest.mark.parametrize(
    'more',
    [
        {},
        dict(batch=3),
        dict(dynamic=True, mini_pad=True),
        dict(resize=[dict(LETTERBOX, scale_up=True, mini_pad=False, exact=True)]),
        dict(resize=[dict(LETTERBOX, scale_up=False, mini_pad=False)]),
        dict(resize=[dict(LETTERBOX, scale_up=True, mini_pad=False, half_pad=True)]),
        dict(
            dynamic=True,
            resize=[dict(LETTERBOX, scale_up=True, mini_pad=True, stride=16)],
        ),
    ],
)
def test_the_metadata_are_followed(more, program, tmp_path):
    """Scores of the toy say how bright the input is, boxes where the image lies."""
    model = write_openvino(tmp_path / 'model', metadata(**more))
    assert compare(program, model, UNLIKE) > len(UNLIKE)


def test_boxes_of_a_detector(program, export_here, here):
    export_here('openvino', out='model', with_map=False)
    images = [cv2.imread(str(path)) for path in sorted((here / 'wide').iterdir())]
    images += [cv2.imread(str(p)) for p in sorted((here / 'data' / 'val').iterdir())]
    assert compare(program, Path('model'), images) > 4


@pytest.mark.parametrize(
    'change, problem',
    [
        (None, 'mmnextvit export did not write this file'),
        (dict(format=2), 'newer than this program'),
        (dict(classes=None), 'the metadata have no classes'),
        (dict(nms=metadata(in_graph=False)['nms']), 'export without --no-nms'),
        (dict(input={**metadata()['input'], 'channels': 'GRAY'}), 'to be GRAY'),
    ],
)
def test_files_that_it_does_not_take(change, problem, program, tmp_path):
    model = write_openvino(tmp_path / 'model', metadata())
    text = None if change is None else json.dumps({**metadata(), **change})
    replace_metadata(model, text)
    done = call(program, model, UNLIKE)
    assert done.returncode == 1 and problem in done.stderr.decode()


def test_images_that_it_does_not_take(program, tmp_path):
    model = write_openvino(tmp_path / 'model', metadata())
    command = [program, model / 'model.xml']
    for content, problem in (
        (b'\xff\xd8\xff', 'no binary PPM'),
        (b'P6 8 8 255\n123', 'truncated'),
        (b'P6 -1 8 255\n', 'no binary PPM'),
    ):
        done = subprocess.run(command, input=content, capture_output=True, timeout=60)
        assert done.returncode == 1 and problem in done.stderr.decode()
    done = subprocess.run([program], capture_output=True, timeout=60)
    assert done.returncode == 1 and b'usage' in done.stderr
    done = subprocess.run(command, input=b'', capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b'')
