"""docs/first_steps.ipynb runs from its first cell to its last."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

NOTEBOOK = json.loads((ROOT / 'docs' / 'first_steps.ipynb').read_bytes())
CODE = [
    ''.join(cell['source']) for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code'
]
# As a kernel does: one cell after the other, in one namespace, by one process.
PROGRAM = """
import json, sys
scope = {'__name__': '__main__'}
for number, source in enumerate(json.load(sys.stdin), 1):
    print(f'cell {number}', flush=True)
    exec(compile(source, f'cell {number}', 'exec'), scope)
"""


def test_it_is_kept_without_outputs():
    """They would grow the repository, and nothing would keep them true."""
    assert (NOTEBOOK['nbformat'], NOTEBOOK['nbformat_minor']) == (4, 5)
    ids = [cell['id'] for cell in NOTEBOOK['cells']]
    assert len(set(ids)) == len(ids)
    for cell in NOTEBOOK['cells']:
        wanted = {'cell_type', 'id', 'metadata', 'source'}
        if cell['cell_type'] == 'code':
            assert cell['outputs'] == [] and cell['execution_count'] is None
            wanted |= {'outputs', 'execution_count'}
        assert set(cell) == wanted


@pytest.mark.slow
def test_runs_top_to_bottom(tmp_path):
    """With one epoch and fewer images, of which enough to find an object."""
    text = json.dumps(CODE)
    small, changes = re.subn(
        r'IMAGES, EPOCHS = \d+, \d+', 'IMAGES, EPOCHS = 64, 1', text
    )
    assert changes == 1
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM],
        input=small,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert f'cell {len(CODE)}\n' in done.stdout
    assert 'shapes.py: nothing to mend' in done.stdout
    assert 'Compared with torch' in done.stdout
    run = tmp_path / 'work_dirs' / 'shapes'
    assert (run / 'best.onnx').is_file() and (run / 'report' / 'index.html').is_file()
