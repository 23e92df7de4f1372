"""Seconds until a model is there: importing the package, and building the backbone."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.progress import track

from ..models.nextvit import NextViT
from .backbones import Settings
from .timing import time_call

PACKAGE = Path(__file__).resolve().parents[1]
STAND_IN = PACKAGE / '_mmcv' / '__init__.py'

# MMDetection and MMYOLO need a stand-in for mmcv's ops. Without our package it comes
# from its folder; with it, it is there before they are imported.
IMPORTS = {
    'mmdet.models, mmyolo.models': (
        'import sys\n'
        'from importlib.util import module_from_spec, spec_from_file_location\n'
        f'spec = spec_from_file_location("ops", {str(STAND_IN)!r})\n'
        'ops = sys.modules["ops"] = module_from_spec(spec)\n'
        'spec.loader.exec_module(ops)\n'
        'ops.prepare_mmcv()\n'
        'import mmdet.models, mmyolo.models\n'
    ),
    'mmnextvit': 'import mmnextvit\nimport mmdet.models, mmyolo.models\n',
}


class Startup(NamedTuple):
    """Median seconds."""

    libraries: float  # importing MMDetection and MMYOLO
    package: float  # the same with mmnextvit, which registers what it has
    build: float  # NextViT(arch)


def measure_startup(settings: Settings) -> Startup:
    """Times imports, each in a process of its own, and a backbone's construction."""
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    builds = []
    for _ in track(range(settings.rounds), 'Starting'):
        for name, code in IMPORTS.items():
            times[name].append(time_code(code))
        builds.append(time_call(lambda: NextViT(settings.arch)))
    libraries, package = map(median, times.values())
    return Startup(libraries, package, median(builds))


def time_code(code: str) -> float:
    """Seconds of Python code in a new process."""
    code = f'import time\nstart = time.perf_counter()\n{code}'
    code += 'print(time.perf_counter() - start)'
    env = {**os.environ, 'PYTHONPATH': str(PACKAGE.parent)}
    output = subprocess.check_output([sys.executable, '-c', code], text=True, env=env)
    return float(output.split()[-1])
