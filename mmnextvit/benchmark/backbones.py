"""Time and memory of the backbone beside timm's NextViT."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import timm
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..models.fold import copy_folded
from ..models.nextvit import NextViT
from .timing import measure_matrix_rate, time_in_turn

SIZES, BATCHES = (320, 480, 640, 960, 1280), (1, 2, 4, 8, 16)  # of the growth


@dataclass(frozen=True)
class Settings:
    """What the command line says about a suite.

    Args:
        arch: 'small', 'base' or 'large'.
        device: 'cpu' or 'cuda'.
        size: Height and width of the images in pixels; the suite's own if ``None``.
        batch: Number of images; the suite's own if ``None``.
        rounds: Measurements of each contestant.
    """

    arch: str = 'small'
    device: str = 'cpu'
    size: int | None = None
    batch: int | None = None
    rounds: int = 9


@dataclass(frozen=True)
class Contestant:
    """How a network computes.

    Args:
        net: 'timm', 'ours' or 'deployed', which is ours with BatchNorms folded.
        channels_last: Of timm's; ours take the device's faster format.
        dtype: bfloat16 is the whole network's in inference, autocast's in training.
        compile: Mode of torch.compile.
        with_cp: As of :class:`NextViT`.
        base: Name of the contestant of the suite that its time and memory are divided
            by.
    """

    net: str = 'ours'
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    compile: str | None = None
    with_cp: bool = False
    base: str = 'timm'

    def can_run(self, device: str) -> bool:
        """Whether the device computes so; without its hardware bfloat16 is emulated."""
        if device != 'cpu':
            return True
        has_bf16 = torch.cpu.get_capabilities().get(
            'avx512_bf16', platform.machine() != 'x86_64'
        )
        return self.compile != 'reduce-overhead' and (self.dtype != BF16 or has_bf16)


BF16 = torch.bfloat16
SUITES: dict[str, dict[str, Contestant]] = {
    'inference': {
        'timm': Contestant('timm'),
        'timm, channels-last': Contestant('timm', channels_last=True),
        'timm, bfloat16': Contestant('timm', dtype=BF16),
        'ours, as trained': Contestant(),
        'ours, deploy mode': Contestant('deployed'),
        'ours, deploy mode, bfloat16': Contestant('deployed', dtype=BF16),
    },
    'compiled': {
        'timm': Contestant('timm'),
        'timm, compiled': Contestant('timm', compile='default'),
        'timm, CUDA graphs': Contestant('timm', compile='reduce-overhead'),
        'ours, deploy mode, compiled': Contestant(
            'deployed', compile='default', base='timm, compiled'
        ),
        'ours, deploy mode, CUDA graphs': Contestant(
            'deployed', compile='reduce-overhead'
        ),
    },
    'training': {
        'timm': Contestant('timm'),
        'timm, channels-last': Contestant('timm', channels_last=True),
        'timm, bfloat16': Contestant('timm', dtype=BF16),
        'ours': Contestant(),
        'ours, with_cp': Contestant(with_cp=True, base='ours'),
        'ours, bfloat16': Contestant(dtype=BF16),
    },
}


class Ratio(NamedTuple):
    """A value divided by another contestant's, whose name is ``base``."""

    value: float
    base: str


class Peak(NamedTuple):
    """Memory in MB: of tensors at their peak, and by what the process has grown."""

    tensors: float
    process: float


class Measurement(NamedTuple):
    """A contestant's result.

    Args:
        name: The contestant's.
        seconds: Median of a call.
        share: Its share of the rate at which the machine multiplies matrices.
        time: Its time beside another's.
        peak: Its memory, if that was measured.
        tensors: Peak of its tensors beside another's.
        process: Growth of its process beside another's.
    """

    name: str
    seconds: float
    share: float
    time: Ratio
    peak: Peak | None = None
    tensors: Ratio | None = None
    process: Ratio | None = None


class Growth(NamedTuple):
    """Seconds an image for timm and for ours, for a batch of images of a size."""

    batch: int
    size: int
    timm: float
    ours: float


def build_network(contestant: Contestant, arch: str, device: str) -> nn.Module:
    """The network of a contestant, with random weights."""
    torch.manual_seed(0)
    if contestant.net == 'timm':
        net = timm.create_model(f'nextvit_{arch}', features_only=True)
    else:
        net = NextViT(arch, with_cp=contestant.with_cp)
    net = net.to(device)
    if contestant.net == 'deployed':
        net = copy_folded(net.eval())
    if contestant.channels_last:
        net = net.to(memory_format=torch.channels_last)
    return net


def infer(net: nn.Module, contestant: Contestant, images: Tensor) -> object:
    """Passes images (B, 3, H, W) through a network."""
    with torch.inference_mode():
        return net(images.to(contestant.dtype))


def train_step(net: nn.Module, contestant: Contestant, images: Tensor) -> None:
    """Passes images (B, 3, H, W) forward, and gradients backward."""
    net.zero_grad()
    mixed = contestant.dtype == BF16
    with torch.autocast(images.device.type, contestant.dtype, enabled=mixed):
        maps = net(images)
    sum(y.float().square().mean() for y in maps).backward()


def make_images(settings: Settings, train: bool) -> Tensor:
    """Random images (B, 3, H, W) of the suite's size or of the one that was set."""
    size, batch = (320, 8) if train else (640, 1)
    size, batch = settings.size or size, settings.batch or batch
    return torch.randn(batch, 3, size, size, device=settings.device)


def prepare(
    contestant: Contestant, settings: Settings, train: bool = False
) -> tuple[nn.Module, Callable[[], object]]:
    """A network, and the call of it that is measured."""
    net = build_network(contestant, settings.arch, settings.device).train(train)
    if not train:
        net = net.to(contestant.dtype)
    mode = contestant.compile
    called = torch.compile(net, mode=mode) if mode else net
    step = train_step if train else infer
    return net, partial(step, called, contestant, make_images(settings, train))


def divide(values: Mapping[str, float], name: str, base: str) -> Ratio:
    """A contestant's value divided by the base's."""
    return Ratio(values[name] / values[base], base)


def measure_suite(
    suite: str,
    settings: Settings,
    measure_peak: Callable[[str, str, Settings], Peak] | None = None,
) -> list[Measurement]:
    """Times the contestants of a suite in turn.

    Args:
        suite: Its name in ``SUITES``.
        settings: Images, device and rounds.
        measure_peak: What measures the memory of a contestant, by suite and name;
            ``None`` where the time is enough.
    """
    contestants = {k: v for k, v in SUITES[suite].items() if v.can_run(settings.device)}
    train = suite == 'training'
    runs = {k: prepare(v, settings, train)[1] for k, v in contestants.items()}
    with FlopCounterMode(display=False) as counter:
        next(iter(runs.values()))()
    at_full_rate = counter.get_total_flops() / 2 / measure_matrix_rate(settings.device)
    times = time_in_turn(runs, settings.rounds)
    results = [
        Measurement(
            name, seconds, at_full_rate / seconds, divide(times, name, contestant.base)
        )
        for (name, seconds), contestant in zip(times.items(), contestants.values())
    ]
    if measure_peak is None:
        return results
    peaks = {k: measure_peak(suite, k, settings) for k in track(contestants, 'Memory')}
    tensors = {name: peak.tensors for name, peak in peaks.items()}
    process = {name: peak.process for name, peak in peaks.items()}
    return [
        result._replace(
            peak=peaks[result.name],
            tensors=divide(tensors, result.name, contestants[result.name].base),
            process=divide(process, result.name, contestants[result.name].base),
        )
        for result in results
    ]


def measure_growth(settings: Settings) -> list[Growth]:
    """Times inference over sizes at one image, and over batches at one size."""
    shapes = [(1, size) for size in SIZES]
    shapes += [(batch, settings.size or 320) for batch in BATCHES]
    contestants = {k: SUITES['inference'][k] for k in ('timm', 'ours, deploy mode')}
    results = []
    for batch, size in shapes:
        changed = replace(settings, batch=batch, size=size)
        runs = {k: prepare(v, changed)[1] for k, v in contestants.items()}
        times = time_in_turn(runs, max(settings.rounds // 2, 1))
        results.append(Growth(batch, size, *(s / batch for s in times.values())))
    return results
