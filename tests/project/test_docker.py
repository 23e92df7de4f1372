"""docker/runtime.Dockerfile: what it copies and installs is all that the runtime needs.

No image is built here, which takes a daemon and a network: the folders of one are laid
out as the file says.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import cv2
import numpy as np
import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT
from tests.helpers.toy_exports import WRITERS, metadata

TEXT = (ROOT / 'docker' / 'runtime.Dockerfile').read_text().replace('\\\n', ' ')
LINES = [line for line in TEXT.splitlines() if line and not line.startswith('#')]
(PIP,) = re.findall(r'pip install (.*?)&&', TEXT)
FILES = {'onnxruntime': 'model.onnx', 'openvino': 'model_openvino'}


def find_lines(instruction: str) -> list[list[str]]:
    return [shlex.split(x)[1:] for x in LINES if x.split()[0] == instruction]


def list_packages(package: str) -> list[str]:
    """What pip is told to install."""
    words = shlex.split(PIP.replace('"$PACKAGE"', package))
    return [word for word in words if not word.startswith(('-', '/'))]


def link_packages(names: list[str], folder: Path) -> None:
    """Puts packages, and what they need, into a folder of their own."""
    for name in names:
        files = distribution(name).files
        for top in {file.parts[0] for file in files} - {'..', '__pycache__'}:
            if not (folder / top).exists():
                (folder / top).symlink_to(distribution(name).locate_file(top))
        needs = map(Requirement, distribution(name).requires or [])
        link_packages(
            [
                need.name
                for need in needs
                if need.marker is None or need.marker.evaluate({'extra': ''})
            ],
            folder,
        )


def test_it_names_what_is_there():
    stages = {line[-1] for line in find_lines('FROM') if 'AS' in line}
    copies = find_lines('COPY')
    assert len(copies) == 3
    for *options, source, _ in copies:
        if options:
            assert options == [f'--from={name}' for name in stages]
        else:
            assert (ROOT / source).exists(), source
    assert find_lines('ARG') == [['PACKAGE=onnxruntime']]
    locked = (ROOT / 'requirements' / 'lock.txt').read_text()
    assert '-c /lock.txt' in PIP
    for package in FILES:
        for name in list_packages(package):
            assert re.search(rf'^{name}==', locked, re.M), name
    guide = (ROOT / 'docs' / 'deploy' / 'runtime.md').read_text()
    assert 'docker/runtime.Dockerfile' in guide


@pytest.mark.slow
@pytest.mark.parametrize('package', FILES)
def test_the_runtime_runs_of_it_alone(package, tmp_path):
    app, venv = tmp_path / 'app', tmp_path / 'venv'
    venv.mkdir()
    link_packages(list_packages(package), venv)
    (copied,) = (line for line in find_lines('COPY') if line[0].startswith('mmnextvit'))
    source, place = copied
    shutil.copytree(ROOT / source, tmp_path / place.lstrip('/'))
    name = FILES[package]
    model = WRITERS[name](tmp_path / name, metadata())
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((64, 64, 3), 255, np.uint8))
    (environment,) = find_lines('ENV')
    assert 'PYTHONPATH=/app' in environment
    (entry,) = re.findall(r'^ENTRYPOINT (.*)$', TEXT, re.M)
    program, *arguments = json.loads(entry)
    assert program == '/venv/bin/python' and arguments[0] == '-m'
    code = (
        f'import runpy, sys; sys.path[:0] = {[str(app), str(venv)]}; '
        f'runpy.run_module({arguments[1]!r}, run_name="__main__", alter_sys=True)'
    )
    done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', code, model, 'a.png'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)['objects']) == 3
