"""What docs/video.md shows works as it stands there."""

import re
from pathlib import Path

from mmnextvit.runtime import open_video

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.helpers.toy_exports import metadata, write_onnx

pytestmark = pytest.mark.deploy


def test_counts_of_lines_and_zones(tmp_path: Path, monkeypatch, capsys):
    """The toy detector finds the same object in each frame, which crosses no line."""
    pytest.importorskip('trackers')
    monkeypatch.chdir(tmp_path)
    write_onnx(tmp_path / 'model.onnx', metadata())
    with open_video(tmp_path / 'film.mp4', 25) as write:
        for _ in range(4):
            write(np.full((96, 128, 3), 200, np.uint8))
    page = (ROOT / 'docs' / 'video.md').read_text()
    (code,) = re.findall(r'```python\n(.*?)```', page, re.S)
    exec(compile(code, 'docs/video.md', 'exec'), {})
    lines = capsys.readouterr().out.splitlines()
    # What was seen in one frame only has no track yet.
    inside = [f'in the zone: {count}' for count in (0, 1, 1, 1)]
    assert lines == [*inside, 'crossed the line: 0 0']
