"""Which memory format is faster on this processor: a block of Next-ViT, timed in both.

The block is a grouped 3x3 convolution, a norm and a 1x1 convolution, then a norm and
two 1x1 convolutions. It is always the same, draws no random numbers of torch's own
generator, and takes below a second.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FORMATS = {
    'channels_last': torch.channels_last,
    'contiguous': torch.contiguous_format,
}
# Images, channels, height and width of the block's map. Training has fewer than 16
# images, for which torch computes contiguous 1x1 convolutions without oneDNN where it
# has one thread.
SHAPES = {'training': (8, 96, 20, 20), 'inference': (1, 96, 56, 56)}
BUDGET = 0.3  # seconds for each of the two, and three times as long at most
MIN_ROUNDS, MAX_ROUNDS = 3, 12
QUIET = 0.7  # share of the time for which the process must have had its processors


class Timing(NamedTuple):
    """Seconds of a pass.

    Attributes:
        seconds: The shortest of each format.
        disturbed: Whether other work had the processor for much of the time.
    """

    seconds: dict[str, float]
    disturbed: bool


def probe(threads: int) -> dict[str, Timing]:
    """Times training and inference in both formats, which take turns.

    Args:
        threads: Number of torch's threads.
    """
    return {
        name: time_in_turn(
            {k: build_pass(name == 'training', shape, v) for k, v in FORMATS.items()},
            threads,
        )
        for name, shape in SHAPES.items()
    }


def build_pass(
    train: bool, shape: tuple[int, int, int, int], memory_format: torch.memory_format
) -> Callable[[], object]:
    """A pass through the block, with gradients or without.

    In training maps alone have the format, and weights stay contiguous; in inference
    weights have it as well. So it is with detectors.
    """
    g = torch.Generator().manual_seed(0)
    channels = shape[1]
    kernels = [
        (channels, 32, 3, 3),
        (channels, channels, 1, 1),
        (3 * channels, channels, 1, 1),
        (channels, 3 * channels, 1, 1),
    ]
    options = dict(generator=g, dtype=torch.float32, device='cpu')
    images = torch.rand(shape, **options).contiguous(memory_format=memory_format)
    weights = [torch.rand(kernel, **options) / 100 for kernel in kernels]
    norms = [torch.ones(channels, dtype=torch.float32, device='cpu') for _ in range(2)]
    if not train:
        weights = [w.contiguous(memory_format=memory_format) for w in weights]

        def infer() -> Tensor:
            with torch.inference_mode():
                return compute_block(images, weights, norms, train=False)

        return infer

    leaves = [x.requires_grad_() for x in (images, *weights, *norms)]

    def step() -> tuple[Tensor, ...]:
        y = compute_block(images, weights, norms, train=True)
        return torch.autograd.grad(y.sum(), leaves)

    return step


def compute_block(
    x: Tensor, weights: list[Tensor], norms: list[Tensor], train: bool
) -> Tensor:
    """The block: (B, C, H, W) to the same."""
    spatial, projection, widen, narrow = weights
    y = F.conv2d(x, spatial, padding=1, groups=x.shape[1] // spatial.shape[1])
    x = x + F.conv2d(normalize(y, norms[0], train).relu_(), projection)
    y = normalize(x, norms[1], train)
    return x + F.conv2d(F.conv2d(y, widen).relu_(), narrow)


def normalize(x: Tensor, scale: Tensor, train: bool) -> Tensor:
    """A BatchNorm in training; folded away in inference."""
    return F.batch_norm(x, None, None, scale, scale, training=True) if train else x


def time_in_turn(passes: dict[str, Callable[[], object]], threads: int) -> Timing:
    """The shortest time of each pass; the first round warms up.

    With one thread it is the processor's time, which other work changes least; but it
    is not unchanged, since caches are shared.
    """
    read_clock = time.perf_counter if threads > 1 else time.process_time
    start, used = time.perf_counter(), time.process_time()
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for i in range(1 + MAX_ROUNDS):
        for name, call in passes.items():
            before = read_clock()
            call()
            seconds[name].append(read_clock() - before)
        elapsed = time.perf_counter() - start
        least = MIN_ROUNDS if elapsed < 3 * BUDGET else 1
        if i >= least and elapsed > BUDGET:
            break
    share = (time.process_time() - used) / (time.perf_counter() - start)
    return Timing(
        {name: min(values[1:]) for name, values in seconds.items()},
        disturbed=share < QUIET * min(threads, 2),  # more may wait for each other
    )
