"""Memory of a contestant, in a process of its own.

``python -m mmnextvit.benchmark.memory SUITE NAME SETTINGS`` is that process.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from ..engine.batch_size import read_status
from .backbones import SUITES, Peak, Settings, prepare

STEPS = 3  # that are made before the peak is read


def measure_peak(suite: str, name: str, settings: Settings) -> Peak:
    """Starts a process that measures a contestant's memory."""
    words = '-m', __name__, suite, name, json.dumps(asdict(settings))
    output = subprocess.check_output([sys.executable, *words], text=True)
    return Peak(*json.loads(output.splitlines()[-1]))


def measure_peak_here(suite: str, name: str, settings: Settings) -> Peak:
    """A contestant's memory in this process, which must be a fresh one."""
    before = read_memory('VmRSS')
    net, step = prepare(SUITES[suite][name], settings, suite == 'training')
    for _ in range(STEPS):
        step()
    grown = read_memory('VmHWM') - before
    if settings.device == 'cpu':
        net.zero_grad()
        weights = sum(p.nbytes for p in net.parameters()) / 2**20
        return Peak(measure_allocated(step) + weights, grown)
    return Peak(torch.cuda.max_memory_allocated() / 2**20, grown)


def read_memory(key: str) -> float:
    """MB of this process, by a key of Linux's ``/proc/self/status``; elsewhere NaN."""
    return (read_status(key) or math.nan) / 2**20


def measure_allocated(step: Callable[[], object]) -> float:
    """MB by which torch's tensors on the CPU grow at their peak in a step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    with tempfile.TemporaryDirectory() as folder:
        record.export_chrome_trace(f'{folder}/trace.json')
        events = json.loads(Path(folder, 'trace.json').read_text(encoding='utf-8'))[
            'traceEvents'
        ]
    changes = [(e['ts'], e['args']['Bytes']) for e in events if e['name'] == '[memory]']
    now = peak = 0
    for _, change in sorted(changes, key=lambda entry: entry[0]):
        now += change
        peak = max(peak, now)
    return peak / 2**20


if __name__ == '__main__':
    torch.backends.cudnn.allow_tf32 = False  # as in the process that started this one
    suite, name, settings = sys.argv[1:]
    peak = measure_peak_here(suite, name, Settings(**json.loads(settings)))
    print(json.dumps(peak))
