"""How this machine computes networks fastest: memory format, recomputed norms.

Channels-last is the faster format on most processors and on GPUs with tensor cores,
and the slower one on some. So on a CPU a probe of less than a second decides, one for
training and one for inference, and a file in the user's cache remembers what it found.
Of GPUs, and of the norms (:mod:`.recompute`), rules decide, which :data:`RULES` has.
``env_cfg`` of a config and two environment variables overrule both. Results differ by
rounding only.
"""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.logging import print_log

from ..utils.errors import UserError
from ..utils.files import atomic_write_text, find_user_cache, read_short_text
from ..utils.messages import show
from .probe import FORMATS as CHOICES
from .probe import Timing, probe

FORMATS = {**CHOICES, 'preserve': torch.preserve_format}
AUTO = 'auto'
YES_OR_NO = {'1': True, '0': False}
FORMAT_VARIABLE = 'MMNEXTVIT_MEMORY_FORMAT'
NORMS_VARIABLE = 'MMNEXTVIT_RECOMPUTE_NORMS'

# Contiguous maps must be faster by so much than channels-last, which was faster on most
# processors: a probe of a second is no more precise.
CLEARLY = 0.95


class ComputeOptions(NamedTuple):
    """How networks are computed on a device.

    Attributes:
        training: Memory format of maps, by its name in ``FORMATS``.
        inference: The same where no gradients are computed.
        recompute_norms: Whether norms before convolutions are computed again in the
            backward pass, which saves a fifth of the memory.
        reason: Who decided, for the log.
    """

    training: str
    inference: str
    recompute_norms: bool
    reason: str = 'the rule for this kind of device'

    def get_format(self) -> torch.memory_format:
        """The format of what is computed now, with gradients or without."""
        return FORMATS[self.training if torch.is_grad_enabled() else self.inference]


class Overrides(NamedTuple):
    """What a config or the environment asks for; ``None`` leaves it to the machine."""

    memory_format: str | None = None
    recompute_norms: bool | None = None

    def applied_to(self, options: ComputeOptions) -> ComputeOptions:
        """The options with what is asked for in its place."""
        if self.memory_format is not None:
            options = options._replace(
                training=self.memory_format,
                inference=self.memory_format,
                reason='the config or the environment',
            )
        if self.recompute_norms is not None:
            options = options._replace(recompute_norms=self.recompute_norms)
        return options


# On a CPU recomputed norms cost nothing that could be measured: they save passes over
# memory. On an H200 they cost 5 to 9 % of a training step (float32, NextViT-small), and
# channels-last saved 11 % there, 12 to 20 % of inference.
RULES = {
    'cpu': ComputeOptions('channels_last', 'channels_last', recompute_norms=True),
    'cuda': ComputeOptions('channels_last', 'channels_last', recompute_norms=False),
}
OTHERS = ComputeOptions('preserve', 'preserve', recompute_norms=False)
TENSOR_CORES = (7, 0)  # compute capability from which on convolutions have them

_overrides: Overrides | None = None  # of the config that the process computes for
_decided: dict[
    tuple[str, int], ComputeOptions
] = {}  # by kind of device and number of threads


def find_options(device: torch.device) -> ComputeOptions:
    """How networks are computed on a device; decided once in a process."""
    key = device.type, torch.get_num_threads()
    if key not in _decided:
        # Processes that do not decide together must not decide by the clock.
        alone = get_world_size() == 1
        _decided[key] = decide(
            device, _overrides or read_overrides({}), may_probe=alone
        )
    return _decided[key]


def set_overrides(env_cfg: Mapping[str, Any]) -> Overrides:
    """Has this process compute as a config asks; what it asks for.

    Args:
        env_cfg: The config's, with ``memory_format`` ('channels_last', 'contiguous' or
            'auto') and ``recompute_norms`` (a bool or 'auto') in it, if it has them.
            From now on they hold for the process, as its ``cudnn_benchmark`` does.

    Raises:
        UserError: The config or the environment asks for what there is not.
    """
    global _overrides
    overrides = read_overrides(env_cfg)
    if overrides != _overrides:
        _overrides = overrides
        _decided.clear()
    return overrides


def settle_options(env_cfg: Mapping[str, Any], device: torch.device) -> ComputeOptions:
    """Decides for a run, in all its processes as the first of them does.

    Args:
        env_cfg: As of :func:`set_overrides`.
        device: Where the run computes. All processes call this together.

    Raises:
        UserError: The config or the environment asks for what there is not.
    """
    overrides = set_overrides(env_cfg)
    # The others wait for the first.
    found: list[Any] = [decide(device, overrides) if get_rank() == 0 else None]
    broadcast_object_list(found)
    options = ComputeOptions(*found[0])
    _decided[device.type, torch.get_num_threads()] = options
    return options


def read_overrides(env_cfg: Mapping[str, Any]) -> Overrides:
    """What the environment asks for, and in the rest a config's ``env_cfg``.

    Raises:
        UserError: One of them asks for what there is not.
    """
    memory_format = env_cfg.get('memory_format')
    formats = ', '.join([*CHOICES, AUTO])
    if memory_format not in (*CHOICES, AUTO, None):
        raise UserError(
            f'there is no memory format {show(memory_format)}: there are {formats}',
            key='env_cfg.memory_format',
        )
    norms = env_cfg.get('recompute_norms')
    if not isinstance(norms, bool) and norms not in (AUTO, None):
        raise UserError(
            f'it is True, False or {AUTO!r}, not {show(norms)}',
            key='env_cfg.recompute_norms',
        )
    asked = os.environ.get(FORMAT_VARIABLE)
    if asked and asked not in (*CHOICES, AUTO):
        raise UserError(
            f'there is no memory format {show(asked)}: there are {formats}',
            key=FORMAT_VARIABLE,
        )
    asked_norms = os.environ.get(NORMS_VARIABLE)
    if asked_norms and asked_norms not in (*YES_OR_NO, AUTO):
        raise UserError(
            f'it is 1, 0 or {AUTO}, not {show(asked_norms)}', key=NORMS_VARIABLE
        )
    memory_format = asked or memory_format
    norms = YES_OR_NO.get(asked_norms, AUTO) if asked_norms else norms
    return Overrides(
        None if memory_format == AUTO else memory_format,
        None if norms == AUTO else norms,
    )


def decide(
    device: torch.device, overrides: Overrides, may_probe: bool = True
) -> ComputeOptions:
    """The options of a device, by the overrides, the rule, and on a CPU the probe.

    Args:
        device: The device.
        overrides: What is asked for.
        may_probe: Whether the machine may be measured where nothing is remembered.
    """
    options = RULES.get(device.type, OTHERS)
    if device.type == 'cuda' and not _has_tensor_cores(device):
        options = options._replace(training='contiguous', inference='contiguous')
    elif device.type == 'cpu' and overrides.memory_format is None:
        options = measure_or_remember(options, may_probe)
    return overrides.applied_to(options)


def _has_tensor_cores(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= TENSOR_CORES


# ---------------------------------------------------------------- the remembered probe


def measure_or_remember(options: ComputeOptions, may_probe: bool) -> ComputeOptions:
    """A options with the formats that are faster on this processor.

    What was measured before in the same circumstances is taken. A file that is broken,
    or cannot be written, only means that the probe is made again.

    Args:
        options: What holds where nothing can be measured.
        may_probe: As of :func:`decide`.
    """
    machine = describe_machine()
    file = get_cache_file(machine)
    known = load_formats(file, machine)
    measured = f'a probe of this machine, kept in {file}'
    if known is not None:
        return options._replace(
            training=known['training'], inference=known['inference'], reason=measured
        )
    if not may_probe:
        return options
    # In a thread of its own no autocast, counter of operations or grad mode is on.
    with ThreadPoolExecutor(1) as clean:
        timings = clean.submit(probe, machine['threads']).result()
    if any(timing.disturbed for timing in timings.values()):
        reason = 'the rule, as the machine is too busy to be measured'
        return options._replace(reason=reason)
    found = {name: choose_format(timing) for name, timing in timings.items()}
    seconds = {name: timing.seconds for name, timing in timings.items()}
    entry = dict(machine=machine, formats=found, seconds=seconds)
    with suppress(OSError):
        atomic_write_text(file, json.dumps(entry, indent=1) + '\n')
    print_log(describe_probe(timings), logger='current', level=logging.INFO)
    return options._replace(
        training=found['training'], inference=found['inference'], reason=measured
    )


def choose_format(timing: Timing) -> str:
    """The faster format; channels-last, where they are about as fast."""
    seconds = timing.seconds
    faster = seconds['contiguous'] < CLEARLY * seconds['channels_last']
    return 'contiguous' if faster else 'channels_last'


def describe_machine() -> dict[str, Any]:
    """All that the faster format depends on."""
    return dict(
        device='cpu',
        processor=read_processor(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
    )


@cache
def read_processor(cpuinfo: Path = Path('/proc/cpuinfo')) -> str:
    """The processor's model; virtual machines may give several the same name."""
    wanted = ('vendor_id', 'cpu family', 'model', 'model name', 'CPU part')
    try:
        text = cpuinfo.read_text(encoding='utf-8', errors='replace')
    except OSError:  # not Linux
        return f'{platform.machine()} {platform.processor()}'.strip()
    first = text.partition('\n\n')[0].splitlines()
    pairs = (line.partition(':') for line in first)
    values = {key.strip(): value.strip() for key, _, value in pairs}
    known = ' '.join(values[key] for key in wanted if key in values)
    return f'{platform.machine()} {known}'.strip()


def get_cache_file(machine: Mapping[str, Any]) -> Path:
    """The file that remembers a machine, in the user's cache."""
    text = json.dumps(machine, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return find_user_cache() / f'memory-format-{digest}.json'


def load_formats(file: Path, machine: Mapping[str, Any]) -> dict[str, str] | None:
    """The formats that a file remembers of a machine; ``None`` if it does not."""
    try:
        entry = json.loads(read_short_text(file))
        formats = {name: entry['formats'][name] for name in ('training', 'inference')}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    right = entry.get('machine') == machine and set(formats.values()) <= {*CHOICES}
    return formats if right else None


# ------------------------------------------------------------------------ for the log


def describe_probe(timings: Mapping[str, Timing]) -> str:
    """One line about what was measured."""
    parts = [
        f'{name} '
        + ', '.join(f'{k} {1000 * v:.1f} ms' for k, v in timing.seconds.items())
        for name, timing in timings.items()
    ]
    return f'Measured which memory format is faster here: {"; ".join(parts)}.'


def describe_options(options: ComputeOptions, device: torch.device) -> str:
    """One line about a options."""
    formats = (
        f'{options.training} maps'
        if options.training == options.inference
        else f'{options.training} maps in training and {options.inference} ones in '
        'inference'
    )
    norms = 'computed again in the backward pass' if options.recompute_norms else 'kept'
    return (
        f'On {device.type} networks compute with {formats}, and norms are {norms}: '
        f'decided by {options.reason}. env_cfg.memory_format and '
        'env_cfg.recompute_norms overrule it.'
    )
