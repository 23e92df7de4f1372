"""How fast a detector is on this machine."""

import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from torch import nn

WARM_UP = 2  # images that do not count
IMAGES = 20
SECONDS = 20.0  # in which no further image is begun


class Speed(NamedTuple):
    """Times of single images.

    Attributes:
        loading: Median seconds to read an image and bring it to the model's size.
        detecting: Median seconds of the model, its postprocessing included.
        images: How many images were timed.
        device: What computed.
    """

    loading: float
    detecting: float
    images: int
    device: str


def measure_speed(model: nn.Module, dataset: BaseDataset) -> Speed:
    """Times a detector on the first images of a dataset, one by one.

    Args:
        model: The detector, in eval mode.
        dataset: It has images.
    """
    device = next(model.parameters()).device
    loading: list[float] = []
    detecting: list[float] = []
    end = time.perf_counter() + SECONDS
    for number in range(WARM_UP + IMAGES):
        if len(detecting) > WARM_UP and time.perf_counter() > end:
            break
        index = number % len(dataset)
        seconds, sample = time_call(partial(dataset.__getitem__, index), device)
        loading.append(seconds)
        batch = pseudo_collate([sample])
        with torch.no_grad():
            seconds, _ = time_call(partial(model.test_step, batch), device)
        detecting.append(seconds)
    return Speed(
        median(loading[WARM_UP:]),
        median(detecting[WARM_UP:]),
        len(detecting) - WARM_UP,
        describe_device(device),
    )


def time_call(call: Callable[[], object], device: torch.device) -> tuple[float, object]:
    """Seconds of a call, until a GPU has done what it was given; and what it gives."""
    _wait(device)
    start = time.perf_counter()
    result = call()
    _wait(device)
    return time.perf_counter() - start, result


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def describe_device(device: torch.device) -> str:
    """What computes, as the GPU's or the processor's name."""
    if device.type == 'cuda':
        return f'{torch.cuda.get_device_name(device)}, {find_processor()}'
    if device.type != 'cpu':
        return str(device)
    threads = torch.get_num_threads()
    return f'{find_processor()}, {threads} {"thread" if threads == 1 else "threads"}'


def find_processor() -> str:
    """The name of this machine's processor."""
    try:
        info = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace')
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return first_model_name(info.splitlines()) or platform.machine()


def first_model_name(lines: Sequence[str]) -> str:
    """The processor's name in the lines of Linux's ``/proc/cpuinfo``; '' if none."""
    names = (x.partition(':')[2].strip() for x in lines if x.startswith('model name'))
    return next(names, '')
