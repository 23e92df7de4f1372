"""Nothing is sent and nothing looked up, by us or by what we import."""

import os
import subprocess
import sys
from pathlib import Path

import mmnextvit  # noqa: F401  (first)

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.helpers.toy_exports import metadata, write_onnx, write_openvino

pytestmark = [pytest.mark.deploy, pytest.mark.slow]

# Each process of Python starts with this: whatever it looks up or connects to is noted,
# and does not work. OpenVINO's reporter starts a process to send with.
WATCH = """
import os, socket
def refuse(*args, **kwargs):
    with open(os.environ['NOTES'], 'a') as notes:
        print(args, file=notes)
    raise OSError('no network here')
for name in ('getaddrinfo', 'gethostbyname', 'create_connection'):
    setattr(socket, name, refuse)
class Watched(socket.socket):
    connect = connect_ex = sendto = refuse
socket.socket = Watched
"""
PAUSE = """
import time
time.sleep(1)  # a reporter has a thread of its own
"""
# What a reporter leaves in the user's home: a number of the machine, and what waits.
LEFT = ('intel', '.cache/Microsoft', 'Library', '.onnxruntime')


def run_watched(
    code: str, *args: object, cwd: Path, home: Path, **variables: str
) -> list[str]:
    """Runs code in a process of its own; what it looked up or connected to.

    Native code, as ONNX Runtime's, is not seen. It finds no way out either: its proxy
    is a port of this machine on which nothing listens.
    """
    home.mkdir()
    watch, notes = cwd / 'watch', cwd / 'notes.txt'
    watch.mkdir()
    (watch / 'sitecustomize.py').write_text(WATCH)
    # In CI reporters are silent anyway; the tests' own process has been told already.
    told = {'CI', 'XDG_CACHE_HOME', 'ORT_DISABLE_TELEMETRY', 'HF_HUB_DISABLE_TELEMETRY'}
    environ = {name: text for name, text in os.environ.items() if name not in told}
    proxy = 'http://127.0.0.1:9'
    environ |= {'https_proxy': proxy, 'HTTPS_PROXY': proxy, 'NOTES': str(notes)}
    environ |= {'HOME': str(home), 'PYTHONPATH': f'{watch}{os.pathsep}{ROOT}'}
    environ |= {'MPLCONFIGDIR': str(watch), **variables}
    done = subprocess.run(
        [sys.executable, '-c', code + PAUSE, *map(str, args)],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return notes.read_text().splitlines() if notes.exists() else []


IMPORTS = """
import importlib, os, pkgutil
import mmnextvit
for module in pkgutil.walk_packages(mmnextvit.__path__, 'mmnextvit.'):
    importlib.import_module(module.name)
for name in ('onnxruntime', 'openvino', 'nncf', 'coremltools', 'onnxslim', 'timm'):
    importlib.import_module(name)
assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'
"""
EXPORT = """
import sys
from mmnextvit.cli import call
options = '--images', 'wide', '--int8', '--calib', 'wide', '--no-map'
call('export', 'tiny.py', 'best.pth', '--to', 'openvino', *options)
from mmnextvit.runtime import Detector
for name in ('best_int8_openvino', sys.argv[1]):
    print(Detector(name)('wide/0.png', 0)[:1])
"""
RUNTIME = """
import sys
from mmnextvit.runtime import Detector
for name in sys.argv[1:]:
    print(Detector(name)('image.png', 0)[:1])
assert not {'mmengine', 'openvino_telemetry'} & {n for n, m in sys.modules.items() if m}
"""


def test_export_with_everything_imported(here, tmp_path):
    """OpenVINO's way through ONNX Runtime, NNCF and OpenVINO's converter."""
    model = write_onnx(here / 'toy.onnx', metadata())
    home = tmp_path / 'home'
    assert run_watched(IMPORTS + EXPORT, model, cwd=here, home=home) == []
    assert not [name for name in LEFT if (home / name).exists()]


def test_runtime_alone(tmp_path):
    models = write_onnx(tmp_path / 'm.onnx', metadata()), tmp_path / 'ov'
    write_openvino(models[1], metadata())
    cv2.imwrite(str(tmp_path / 'image.png'), np.zeros((64, 64, 3), np.uint8))
    home = tmp_path / 'home'
    assert run_watched(RUNTIME, *models, cwd=tmp_path, home=home) == []
    assert not list(home.iterdir())


def test_who_wants_it_may_have_it(tmp_path):
    """Also the proof that what the tests above watch is where OpenVINO reports."""
    code = """
import os
from mmnextvit.runtime import import_runtime
import_runtime('openvino')
assert 'ORT_DISABLE_TELEMETRY' not in os.environ
"""
    asked = run_watched(
        code, cwd=tmp_path, home=tmp_path / 'home', MMNEXTVIT_TELEMETRY='1'
    )
    assert asked and (tmp_path / 'home' / 'intel').exists()
