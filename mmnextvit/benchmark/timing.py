"""How calls are timed, and how fast the machine multiplies matrices."""

import time
from collections.abc import Callable, Mapping
from functools import cache
from statistics import median

import torch
from rich.progress import track
from torch.nn import functional as F

WARM_UP = 2  # rounds that do not count
REST = 0.1  # seconds


def read_clock() -> float:
    """Seconds, when a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_call(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = read_clock()
    call()
    return read_clock() - start


def time_rested(call: Callable[[], object]) -> float:
    """Seconds of a call, begun when the threads of what ran before are at rest.

    After a call those of ONNX Runtime and of OpenVINO go on to look for work for tens
    of milliseconds. Another runtime that comes next has no core for itself, and seems
    to be up to twice as slow.
    """
    time.sleep(REST)
    return time_call(call)


def time_in_turn(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    time_one: Callable[[Callable[[], object]], float] = time_call,
) -> dict[str, float]:
    """Median seconds of each call, after two rounds that warm up.

    Args:
        runs: The calls by name.
        rounds: Measurements of each.
        time_one: What times a call; :func:`time_rested` if runtimes take turns.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in track(range(WARM_UP + rounds), 'Measuring'):
        for name, call in runs.items():
            times[name].append(time_one(call))
    return {name: median(values[WARM_UP:]) for name, values in times.items()}


@cache
def measure_matrix_rate(device: str) -> float:
    """Multiply-accumulates a second of a product of large float32 matrices.

    Also as a 1x1 convolution, since that may be another library's work: on AMD's
    processors MKL leaves AVX-512 unused, oneDNN does not. The faster one counts.
    """
    size = 2048 if device == 'cpu' else 8192
    a, b = torch.rand(2, size, size, device=device)
    maps = a.view(1, 32, -1, size).permute(0, 3, 1, 2)  # channels-last
    kernel = b.view(size, size, 1, 1)
    ways = {'product': lambda: a @ b, 'convolution': lambda: F.conv2d(maps, kernel)}
    return size**3 / min(time_in_turn(ways, 7).values())
