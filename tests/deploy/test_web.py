"""The page of ``export --to web`` in Chromium, beside the runtime in Python.

It runs where Chromium is, and ONNX Runtime Web: in the user's cache, or where
``MMNEXTVIT_ONNXRUNTIME_WEB`` says (see CONTRIBUTING.md).
"""

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mmnextvit.deploy.serve import make_server
from mmnextvit.deploy.web_folder import FILES, MODEL
from mmnextvit.runtime import Detector

import cv2
import numpy as np
import pytest

from tests.helpers.chromium import Chromium, Page, find_chromium, open_chromium
from tests.helpers.lively_detectors import demo_images
from tests.helpers.toy_exports import CLASSES, steps, write_onnx
from tests.helpers.turned_images import write_turned
from tests.helpers.web_pages import (
    IDLE,
    PACKAGE,
    READY,
    find_web_runtime,
    save_json,
    serving,
    set_minimum,
    show_images,
    write_toy_page,
)

pytestmark = [pytest.mark.deploy, pytest.mark.slow]
MAX_SCORE = 0.005
MAX_PIXELS = 0.5
FIGURES = 'document.querySelectorAll("#results figure")'
BOXES = 'document.querySelectorAll("#results .box").length'


@pytest.fixture(scope='session')
def web_runtime() -> dict[str, bytes]:
    files = find_web_runtime()
    if files is None:
        pytest.skip(
            f'needs ONNX Runtime Web, by {PACKAGE} or an earlier export --to web'
        )
    return files


@pytest.fixture(scope='module')
def chromium(tmp_path_factory, web_runtime) -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        pytest.skip('needs Chromium')
    with open_chromium(program, tmp_path_factory.mktemp('chromium')) as browser:
        yield browser


@pytest.fixture
def page(chromium) -> Page:
    return Page(chromium)


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> list[Path]:
    """Small, large, grey, turned, half transparent, and one pixel wide."""
    folder = tmp_path_factory.mktemp('images')
    small, large, odd, thin = demo_images((30, 41), (420, 600), (90, 64), (70, 8))
    alpha = np.random.default_rng(0).integers(0, 256, (*odd.shape[:2], 1), np.uint8)
    pictures = {
        'small.png': small,
        'large.png': large,
        'photo.jpg': large[:211, :307],
        'grey.png': cv2.cvtColor(odd, cv2.COLOR_BGR2GRAY),
        'alpha.png': np.concatenate((odd, alpha), 2),
        'thin.png': thin[:, :1],
        'twice.png': large[:128, :128],  # OpenCV has a way of its own for halves
    }
    for name, picture in pictures.items():
        assert cv2.imwrite(str(folder / name), picture)
    return sorted(folder.iterdir())


def detect_in_python(model: Path, image: Path) -> list[tuple[str, float, list[float]]]:
    detector = Detector(model)
    (found,) = detector.detect([image])
    names = [detector.classes[label] for label in found.labels]
    return list(zip(names, found.scores.tolist(), found.boxes.tolist()))


def compare(predictions: list[dict], images: list[Path], model: Path) -> int:
    """Makes sure that a page's objects are the runtime's; says how many there are."""
    total = 0
    assert [found['file'] for found in predictions] == [path.name for path in images]
    for found, path in zip(predictions, images):
        rest = detect_in_python(model, path)
        total += len(rest)
        assert len(found['objects']) == len(rest), path
        for thing in found['objects']:
            near = [
                other
                for other in rest
                if other[0] == thing['class']
                and abs(other[1] - thing['score']) <= MAX_SCORE
                and np.abs(np.subtract(other[2], thing['box'])).max() <= MAX_PIXELS
            ]
            assert near, (path, thing, rest)
            rest.remove(near[0])
    return total


def check_is_quiet(page: Page, url: str) -> None:
    """Nothing went wrong in a page, and it asked no one else for anything."""
    assert page.errors == []
    assert {f'{url}{name}' for name in (MODEL, 'worker.js')} < {*page.requests}
    assert any(request.endswith('.wasm') for request in page.requests)
    assert [x for x in page.requests if not x.startswith((url, f'blob:{url}'))] == []


def test_page_finds_what_the_runtime_finds(
    export_here, here, page, web_runtime, tmp_path, monkeypatch
):
    """A trained detector, by the command's own way, with NMS in the file."""
    from mmnextvit.deploy import export as module

    monkeypatch.setattr(module, 'read_runtime', lambda source, say: web_runtime)
    folder = export_here('web', images='wide').path
    lying = {x.relative_to(folder).as_posix() for x in folder.rglob('*') if x.is_file()}
    assert folder.name == 'best_web' and lying == {*FILES}
    images = sorted(here.glob('wide/*.png'))
    large = tmp_path / 'large.png'
    cv2.imwrite(str(large), demo_images((300, 200))[0])
    images.append(large)
    with serving(make_server(folder, 0)) as url:
        page.open(url, READY)
    # What is open works without any server.
    show_images(page, images)
    set_minimum(page, 0)
    saved = save_json(page, tmp_path / 'saved')
    check_is_quiet(page, url)
    assert saved['classes'] == ['circle', 'square', 'triangle']
    assert compare(saved['predictions'], images, folder / MODEL) > 3
    surest = [max(x['score'] for x in p['objects']) for p in saved['predictions'][:3]]
    assert max(surest) > 0.3  # what a user sees


LETTERBOX = steps((96, 64), keep_ratio=False)[0]
RESIZING = {
    'usual': steps((96, 64)),
    'up': steps((96, 64), keep_ratio=False, scale_up=True),
    'exact': [{**LETTERBOX, 'stride': 32, 'exact': True}],
    'half': [{**LETTERBOX, 'half_pad': True}],
}


@pytest.mark.parametrize('resizing', RESIZING)
def test_page_resizes_as_the_runtime(resizing, page, web_runtime, images, tmp_path):
    """Without NMS in the file; scores are the means of what the network saw."""
    toy = write_toy_page(
        tmp_path / 'toy', web_runtime, size=(64, 96), resize=RESIZING[resizing]
    )
    if resizing == 'usual':
        turned = tmp_path / 'turned.jpg'
        write_turned(turned, 6, (80, 48))
        images = [*images, turned]
    with serving(make_server(toy, 0)) as url:
        page.open(url, READY)
        show_images(page, images)
        set_minimum(page, 0)
        saved = save_json(page, tmp_path / 'saved')
        check_is_quiet(page, url)
    assert compare(saved['predictions'], images, toy / MODEL) > 100


FAULTS = {
    'a pixel aside': ('layout.js', ' * width + left;', ' * width + left + 1;'),
    'other neighbours': ('resize.js', '(i + 0.5) * scale - 0.5', 'i * scale'),
    'BGR': ('layout.js', 'image.data[from + c]', 'image.data[from + 2 - c]'),
    'corners': ('layout.js', 'const side = i % 2 ? 0 : 1', 'const side = i % 2'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_comparison_sees_faults(fault, page, web_runtime, images, tmp_path):
    toy = write_toy_page(
        tmp_path / 'toy', web_runtime, size=(64, 96), resize=[LETTERBOX]
    )
    name, right, wrong = FAULTS[fault]
    text = (toy / name).read_text(encoding='utf-8')
    assert text.count(right) == 1
    (toy / name).write_text(text.replace(right, wrong), encoding='utf-8')
    image = next(path for path in images if path.name == 'large.png')
    with serving(make_server(toy, 0)) as url:
        page.open(url, READY)
        show_images(page, [image])
        set_minimum(page, 0)
        saved = save_json(page, tmp_path / 'saved')
    with pytest.raises(AssertionError, match='large.png'):
        compare(saved['predictions'], [image], toy / MODEL)


@pytest.fixture
def white(tmp_path) -> Path:
    path = tmp_path / 'white.png'
    cv2.imwrite(str(path), np.full((64, 64, 3), 255, np.uint8))
    return path


def test_what_is_shown_is_chosen_and_saved(page, web_runtime, white, tmp_path):
    """By the slider, the classes, and each class's best; on a page without threads."""
    best = {'all': 0.5, 'classes': {CLASSES[0]: 0.65}}
    toy = write_toy_page(
        tmp_path / 'toy', web_runtime, write=write_onnx, best_scores=best
    )
    handler = partial(SimpleHTTPRequestHandler, directory=str(toy))
    handler.func.log_message = lambda *args: None
    with serving(ThreadingHTTPServer(('127.0.0.1', 0), handler)) as url:
        page.open(url, READY)
        assert page.evaluate('crossOriginIsolated') is False
        show_images(page, [white])
        check_is_quiet(page, url)

        def names() -> list[str]:
            saved = save_json(page, tmp_path / 'saved')
            (found,) = saved['predictions']
            assert page.evaluate(BOXES) == len(found['objects'])
            return [thing['class'] for thing in found['objects']]

        red, white_cell, blue = CLASSES
        set_minimum(page, 0.31)
        assert names() == [blue, red]
        set_minimum(page, 0.29)
        assert names() == [blue, red, white_cell]
        page.evaluate('document.querySelectorAll("#class-list input")[2].click()')
        assert names() == [red, white_cell]
        page.evaluate('document.getElementById("none").click()')
        assert names() == []
        page.evaluate('document.getElementById("all").click()')
        page.evaluate('document.getElementById("use-best").click()')
        assert names() == [blue]
        text = page.evaluate(
            'document.querySelector("#results figcaption").textContent'
        )
        assert 'white.png: 1 object' in text and ' ms' in text
        page.evaluate('document.getElementById("clear").click()')
        assert page.evaluate(f'{FIGURES}.length') == 0


def test_a_damaged_image_stops_no_other(page, web_runtime, white, tmp_path):
    toy = write_toy_page(tmp_path / 'toy', web_runtime, write=write_onnx)
    bad = {
        'cut.png': white.read_bytes()[:60],
        'empty.png': b'',
        'text.jpg': b'no image',
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    with serving(make_server(toy, 0)) as url:
        page.open(url, READY)
        assert page.evaluate('crossOriginIsolated') is True
        show_images(page, [*(tmp_path / name for name in bad), white])
        captions = page.evaluate(f'[...{FIGURES}].map((figure) => figure.textContent)')
        assert captions[0].startswith('cut.png: it is damaged')
        assert captions[1] == 'empty.png: the file is empty'
        assert captions[2].startswith('text.jpg: it is damaged')
        assert '3 objects' in captions[3] or '2 objects' in captions[3]
        saved = save_json(page, tmp_path / 'saved')
        assert [found['file'] for found in saved['predictions']] == ['white.png']
        check_is_quiet(page, url)


def test_what_is_cleared_while_it_is_detected_is_not_saved(
    page, web_runtime, white, tmp_path
):
    toy = write_toy_page(tmp_path / 'toy', web_runtime, write=write_onnx)
    with serving(make_server(toy, 0)) as url:
        page.open(url, READY)
        show_images(page, [white])
        page.evaluate(
            'document.getElementById("files").addEventListener("change", () => '
            'document.getElementById("clear").click())'
        )
        page.give_files('#files', [white])
        page.wait(IDLE)
        assert page.evaluate(f'{FIGURES}.length') == 0
        assert page.evaluate('document.getElementById("save").disabled')


def test_a_camera_that_opens_is_not_opened_again(page, web_runtime, tmp_path):
    toy = write_toy_page(tmp_path / 'toy', web_runtime)
    with serving(make_server(toy, 0)) as url:
        page.open(url, READY)
        page.evaluate(
            'window.asked = 0; const media = navigator.mediaDevices; '
            'const ask = media.getUserMedia.bind(media); '
            'media.getUserMedia = (wanted) => { window.asked++; return ask(wanted); }'
        )
        camera = 'document.getElementById("camera")'
        page.evaluate(f'{camera}.click(); {camera}.click()')
        page.wait('document.querySelectorAll("#live .box").length > 10')
        assert page.evaluate('window.asked') == 1
        page.evaluate(f'{camera}.click()')
        page.wait(f'{camera}.textContent === "Open the camera"')


def test_camera_on_a_phone(page, web_runtime, tmp_path):
    """Chromium's camera shows a pattern; what was found last is kept."""
    toy = write_toy_page(
        tmp_path / 'toy', web_runtime, size=(64, 96), resize=steps((96, 64))
    )
    page.call(
        'Emulation.setDeviceMetricsOverride',
        width=390,
        height=844,
        deviceScaleFactor=2,
        mobile=True,
    )
    with serving(make_server(toy, 0)) as url:
        page.open(url, READY)
        page.evaluate('document.getElementById("camera").click()')
        page.wait('document.querySelectorAll("#live .box").length > 10')
        wide = page.evaluate('document.documentElement.scrollWidth')
        assert wide <= page.evaluate('innerWidth') == 390  # nothing to scroll aside
        button = 'document.getElementById("camera").textContent'
        assert page.evaluate(button) == 'Stop the camera'
        page.evaluate('document.getElementById("camera").click()')
        page.wait(f'{button} === "Open the camera" && {FIGURES}.length === 1 && {IDLE}')
        saved = save_json(page, tmp_path / 'saved')
        assert [found['file'] for found in saved['predictions']] == ['camera']
        assert len(saved['predictions'][0]['objects']) > 10
        check_is_quiet(page, url)


def test_a_missing_part_is_named(page, web_runtime, tmp_path):
    toy = write_toy_page(tmp_path / 'toy', web_runtime, write=write_onnx)
    with serving(make_server(toy, 0)) as url:
        (toy / MODEL).unlink()
        status = 'document.getElementById("status")'
        page.open(url, f'{status}?.classList.contains("wrong")')
        assert f'{MODEL} is missing' in page.evaluate(f'{status}.textContent')
