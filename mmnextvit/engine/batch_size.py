"""The largest batch that a machine trains with, found by training steps.

A search (:func:`find_largest`) asks what steps need; :func:`choose_batch_size` has it
ask real ones: of the config's own model, data and optimizer, which are thrown away
afterwards.
"""

import copy
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_dist_info, init_dist
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from ..models.compute_options import set_overrides
from ..utils.errors import UserError
from .default_hooks import averages_weights
from .loader_workers import count_local_processes
from .memory_faults import is_out_of_memory

GPU_SHARE = 0.9  # of its free memory, as images and fragmentation differ
CPU_SHARE = 0.8  # of the free memory, which data loaders and others want too
LEAST_GAIN = 0.05  # in images a second, for which a CPU takes twice the batch
TIMED = 1.0  # seconds of steps, where one takes so little that chance would decide
POOL = 32  # images that batches are made of
# The number of a process among those of its machine, as launchers call it.
LOCAL_RANKS = 'LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK'
GIB = 2**30


class OutOfMemory(Exception):
    """A batch does not fit."""


@dataclass(frozen=True)
class Step:
    """What training steps with a batch took.

    Attributes:
        memory: Bytes at the peak.
        seconds: Of one step, or 0 if that does not matter.
    """

    memory: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        batch_size: The largest batch, or 0 if not even one image fits.
        limit: Why it is no larger, as a sentence.
        steps: What steps took, by the batch size, of those that fitted.
    """

    batch_size: int
    limit: str
    steps: Mapping[int, Step]


def find_largest(
    try_batch: Callable[[int], Step],
    budget: int,
    most: int,
    *,
    least_gain: float | None = None,
    careful: bool = False,
    base: int = 0,
) -> Search:
    """The largest batch of 1 to ``most`` whose steps stay within a budget.

    Sizes are doubled until one does not fit, and then halved in between.

    Args:
        try_batch: Takes steps with a batch of a size. It raises :class:`OutOfMemory`
            where they do not fit.
        budget: Bytes that steps may take.
        most: The largest size that makes sense.
        least_gain: By which share of images a second the double must be faster than
            the single size, or the search ends; ``None`` counts memory alone.
        careful: Whether a size is not even tried of which smaller ones tell that it
            does not fit: where the machine would end the process.
        base: Bytes that are taken before the first step.
    """
    steps: dict[int, Step] = {}

    def fits(size: int) -> bool:
        taken = {0: base, **{n: step.memory for n, step in steps.items()}}
        if careful and steps and _predict(taken, size) > budget:
            return False
        try:
            step = try_batch(size)
        except OutOfMemory:
            return False
        if step.memory <= budget:
            steps[size] = step
        return step.memory <= budget

    best, beyond, doubling = 0, most + 1, True
    while beyond - best > 1:
        size = min(max(2 * best, 1), most) if doubling else (best + beyond) // 2
        if not fits(size):
            beyond, doubling = size, False
            continue
        if doubling and best and least_gain is not None:
            rates = [n / steps[n].seconds for n in (best, size)]
            if rates[1] < rates[0] * (1 + least_gain):
                gain = rates[1] / rates[0] - 1
                limit = f'a batch of {size} gives {gain:+.0%} images a second'
                return Search(best, limit, steps)
        best = size
    limit = (
        f'a batch of {beyond} does not fit'
        if beyond <= most
        else f'there are {most} images'
    )
    return Search(best, limit, steps)


def _predict(taken: Mapping[int, int], size: int) -> float:
    """The bytes that a batch will take, by what the two largest before it took."""
    before, last = sorted(taken)[-2:]
    slope = max(taken[last] - taken[before], 0) / (last - before)
    return taken[last] + slope * (size - last)


def choose_batch_size(cfg: Config) -> int:
    """The largest batch that a training of a config takes here, and says it.

    Each process of a launcher tries by itself, before they know of each other, so that
    none waits for one that ran out of memory. All take the smallest of what they found.

    Args:
        cfg: A config that is ready for training.

    Raises:
        UserError: Not even one image fits.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    _take_own_gpu()
    device = torch.device(get_device())
    trial = Trial(cfg, device)
    on_gpu = device.type == 'cuda'
    share = GPU_SHARE if on_gpu else CPU_SHARE
    budget = int(share * measure_free(device))
    found = find_largest(
        trial.run,
        budget,
        trial.num_images,
        least_gain=None if on_gpu else LEAST_GAIN,
        careful=not on_gpu,
        base=measure_used(device),
    )
    trial.close()
    size = _agree(cfg, found.batch_size)
    if not size:
        raise UserError(
            f'--batch auto: not even one image fits into {budget / GIB:.1f} GiB '
            f'({share:.0%} of the free memory): take smaller ones (--imgsz)'
        )
    print_log(describe_search(found, size, budget, share), logger='current')
    return size


def describe_search(found: Search, size: int, budget: int, share: float) -> str:
    """What a search found, in a line.

    Args:
        found: It.
        size: What all processes agreed on.
        budget: Bytes that steps may take.
        share: Which of the free memory that is.
    """
    step = found.steps[found.batch_size]
    own = found.batch_size
    others = f' (of {own} for this process alone)' if size != own else ''
    return (
        f'--batch auto: a batch of {size}{others}. Steps of {own} take '
        f'{step.memory / GIB:.2f} GiB at the peak, {step.memory / budget:.0%} of '
        f'{budget / GIB:.2f} GiB; beyond that {1 - share:.0%} of the free memory stay '
        f'as a margin. {found.limit[0].upper()}{found.limit[1:]} (tried: '
        f'{", ".join(map(str, sorted(found.steps)))}).'
    )


class Trial:
    """Training steps of a config's model with its own data.

    Args:
        cfg: A config that is ready for training.
        device: Where to train.
    """

    def __init__(self, cfg: Config, device: torch.device) -> None:
        self._device = device
        set_overrides(cfg.get('env_cfg') or {})  # it counts for the memory
        workers = dict(num_workers=0, persistent_workers=False, pin_memory=False)
        settings = copy.deepcopy(cfg.train_dataloader)
        if 'prefetch_factor' in settings:
            settings.pop('prefetch_factor')
        loader = Runner.build_dataloader(dict(settings, **workers), seed=0)
        self._collate = loader.collate_fn
        self.num_images = len(loader.dataset)
        order = np.random.default_rng(0).permutation(self.num_images)[:POOL]
        pool = [loader.dataset[int(i)] for i in order]
        # The largest come first, so that small batches are no smaller than others.
        self._pool = sorted(pool, key=lambda sample: -sample['inputs'].numel())
        # It is not initialised, so that no weights are fetched.
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        self._model = model.to(device).train()
        self._averaged = copy.deepcopy(model) if has_average(cfg) else None
        self._optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)

    def run(self, size: int) -> Step:
        """Steps: the first makes the state of the optimizer, the fastest other counts.

        Raises:
            OutOfMemory: They do not fit.
        """
        samples = [copy.deepcopy(self._pool[i % len(self._pool)]) for i in range(size)]
        batch = self._collate(samples)
        _reset_peak(self._device)
        failed = False
        try:
            self._train_step(batch)
            seconds = [self._train_step(batch)]
            while sum(seconds) < TIMED and len(seconds) < 5:
                seconds.append(self._train_step(batch))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = True
        if failed:  # not in the handler, in which the error holds its tensors
            self._optim_wrapper.zero_grad()
            gc.collect()
            _empty_cache(self._device)
            raise OutOfMemory
        return Step(measure_peak(self._device), min(seconds))

    def _train_step(self, batch: dict) -> float:
        start = time.perf_counter()
        self._model.train_step(copy.copy(batch), self._optim_wrapper)
        if self._device.type == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def close(self) -> None:
        """Frees what it holds."""
        del self._model, self._optim_wrapper, self._averaged, self._pool
        gc.collect()
        _empty_cache(self._device)


def has_average(cfg: Config) -> bool:
    """Whether a training keeps averaged weights beside those of the model."""
    hooks = [
        *(cfg.get('default_hooks') or {}).values(),
        *(cfg.get('custom_hooks') or []),
    ]
    return any(averages_weights(hook) for hook in hooks)


def _take_own_gpu() -> None:
    """Takes the GPU that the launcher means for this process."""
    ranks = [int(os.environ[name]) for name in LOCAL_RANKS if name in os.environ]
    if ranks and get_device() == 'cuda':
        torch.cuda.set_device(ranks[0] % torch.cuda.device_count())


def _agree(cfg: Config, size: int) -> int:
    """The smallest batch size of all processes, which then know of each other."""
    launcher = cfg.get('launcher', 'none')
    if launcher == 'none':
        return size
    if get_device() == 'cuda':
        settings: dict[str, Any] = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
        init_dist(launcher, **settings)
    else:
        torch.distributed.init_process_group('gloo')
    if get_dist_info()[1] == 1:
        return size
    sizes = torch.tensor([size])
    all_reduce(sizes, 'min')
    return int(sizes)


# Memory


def measure_free(device: torch.device) -> int:
    """Bytes that this process may have in all, with those that it has."""
    if device.type == 'cuda':
        free, _ = torch.cuda.mem_get_info()
        return free + measure_used(device)
    return read_free_memory() // count_local_processes() + measure_used(device)


def measure_used(device: torch.device) -> int:
    """Bytes that this process has now."""
    if device.type == 'cuda':
        return torch.cuda.memory_reserved()
    return read_status('VmRSS')


def measure_peak(device: torch.device) -> int:
    """Bytes at the peak since :func:`_reset_peak`."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_reserved()
    if peak := read_status('VmHWM'):
        return peak
    import resource  # not on Windows, and needed on macOS alone

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _reset_peak(device: torch.device) -> None:
    _empty_cache(device)
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):  # without it, the peak is that of the whole process
        Path('/proc/self/clear_refs').write_text('5', encoding='utf-8')


def _empty_cache(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.empty_cache()


def read_status(name: str) -> int:
    """Bytes of this process, by a key of Linux's ``/proc/self/status``; elsewhere 0."""
    with suppress(OSError):
        return _read_kibibytes(
            Path('/proc/self/status').read_text(encoding='utf-8'), name
        )
    return 0


def _read_kibibytes(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(':')
        if key == name:
            return int(value.split()[0]) * 1024
    return 0


def read_free_memory(root: Path = Path('/')) -> int:
    """Bytes that are free on this machine, and for this process' control groups.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    try:
        free = _read_kibibytes(
            (root / 'proc/meminfo').read_text(encoding='utf-8'), 'MemAvailable'
        )
    except OSError:  # not Linux: half of all, as nothing tells what others have
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2
    return max(min([free, *_list_group_memory(root)]), 0)


def _list_group_memory(root: Path) -> Iterator[int]:
    """What the control groups of this process leave, of version 2 and of version 1."""
    top = root / 'sys/fs/cgroup'
    own = ''
    with suppress(OSError):
        for line in (
            (root / 'proc/self/cgroup').read_text(encoding='utf-8').splitlines()
        ):
            number, _, path = line.partition('::')
            own = path.strip('/') if number == '0' else own
    group = top / own
    while group.is_relative_to(top):
        yield from _read_group(group, 'memory.max', 'memory.current', 'inactive_file')
        group = group.parent
    names = 'memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'
    yield from _read_group(top / 'memory', *names)


def _read_group(folder: Path, limit: str, used: str, cached: str) -> Iterator[int]:
    """What a control group leaves, if it has a limit; cached files can be dropped."""
    with suppress(OSError, ValueError):
        most = int((folder / limit).read_text(encoding='utf-8'))
        now = int((folder / used).read_text(encoding='utf-8'))
        for line in (folder / 'memory.stat').read_text(encoding='utf-8').splitlines():
            if line.split()[:1] == [cached]:
                now -= int(line.split()[1])
        yield most - now
