"""Mixed precision, and where it is slower than float32."""

import logging
from pathlib import Path
from typing import Literal

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

# What a processor that computes in bfloat16 has among its flags, on x86 and ARM.
BFLOAT16 = {'avx512_bf16', 'amx_bf16', 'bf16'}

# Whether mixed precision is asked for, and 'force' where it is to be slow, too.
Amp = bool | Literal['force']
FORCE: Literal['force'] = 'force'


def has_bfloat16(cpuinfo: str) -> bool:
    """Whether a processor computes in bfloat16, by Linux's ``/proc/cpuinfo``."""
    lines = (line.partition(':') for line in cpuinfo.splitlines())
    flags = (v.split() for k, _, v in lines if k.strip() in ('flags', 'Features'))
    return not BFLOAT16.isdisjoint(next(flags, []))


def computes_in_bfloat16() -> bool | None:
    """Whether this machine's processor does; ``None`` where nothing tells."""
    try:
        flags = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace')
    except OSError:  # not Linux
        return getattr(torch.cpu, '_is_avx512_bf16_supported', lambda: None)()
    return has_bfloat16(flags)


def choose_mixed(amp: Amp, device: str) -> bool:
    """Whether to compute in mixed precision that is asked for.

    On a processor without bfloat16 it would be slower than float32, with less precise
    numbers. A line says so, and float32 it is, unless it is forced.

    Args:
        amp: What is asked for.
        device: The kind of the device, as in 'cpu'.
    """
    if not amp or amp == FORCE or device != 'cpu' or computes_in_bfloat16():
        return bool(amp)
    print_log(
        'Mixed precision is left out: this processor does not compute in bfloat16, so '
        'that it would be slower. All goes on in float32 (--force-amp forces it).',
        logger='current',
        level=logging.WARNING,
    )
    return False


def settle_precision(cfg: Config) -> None:
    """Decides for the loops of a config that are in mixed precision, ``fp16``."""
    for part in ('val_cfg', 'test_cfg'):
        loop = cfg.get(part)
        if isinstance(loop, dict) and loop.get('fp16'):
            loop['fp16'] = choose_mixed(loop['fp16'], get_device())
