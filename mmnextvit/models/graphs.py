"""CUDA graphs of a detector's backbone and neck, for sizes that come again.

With few images a GPU waits for Python to launch one kernel after another. A CUDA graph
launches all of them at once: a quarter of the time for an image on an H200. It is made
for a shape that has come some times, kept where it gives what the layers give and is
clearly faster, and there are few of them, since each holds memory.
"""

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from types import MethodType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..utils.messages import shorten
from .shapes import FixedShapes

MAX_GRAPHS = 4
AFTER = 3  # passes of a shape before a graph is made for it
PAYS = 0.9  # share of the layers' time that a graph may take
ROUNDS = 3  # passes that warm up, and that are timed
# Largest difference from what the layers give, beside the largest value: cuDNN may
# choose other algorithms.
TOLERANCES = {torch.float32: 1e-2, torch.float16: 3e-2, torch.bfloat16: 1e-1}

Maps = tuple[Tensor, ...]
Call = Callable[[Tensor], Maps]
Extract = Callable[[nn.Module, Tensor], Maps]


class Capture(Protocol):
    """What records the kernels of a call for images like these, and replays them."""

    def __call__(self, call: Call, images: Tensor) -> Call: ...


def capture_cuda_graph(call: Call, images: Tensor) -> Call:
    """A CUDA graph of a call.

    Args:
        call: Images (B, C, H, W) to maps.
        images: The shape, type, format and device of all images to come.

    Returns:
        What copies images to where the graph reads them, replays it, and returns copies
        of the maps, which it writes over the next time.

    Raises:
        RuntimeError: Something in the call cannot be captured, or memory is lacking.
    """
    given = images.clone()
    stream = torch.cuda.Stream(images.device)
    stream.wait_stream(torch.cuda.current_stream(images.device))
    with torch.cuda.stream(stream):
        for _ in range(ROUNDS):
            call(given)
    torch.cuda.current_stream(images.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # A loader's thread may pin memory meanwhile.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode='thread_local'):
        maps = call(given)

    def replay(images: Tensor) -> Maps:
        given.copy_(images)
        graph.replay()
        return tuple(y.clone() for y in maps)

    return replay


def wait_for_cuda() -> None:
    """Waits until the GPU has done what it was given."""
    torch.cuda.synchronize()


def can_capture(model: nn.Module, images: Tensor) -> bool:
    """Whether a pass is one that a graph may replay.

    In training statistics move, and compilers have graphs of their own.
    """
    return (
        images.is_cuda
        and not torch.is_grad_enabled()
        and not model.training
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.cuda.is_current_stream_capturing()
    )


class GraphedMaps:
    """A detector's ``extract_feat``, replayed by graphs for shapes that come again.

    Args:
        extract: The class's own, of a model and images.
        capture: What makes a graph.
        applies: Whether a pass may be replayed.
        wait: Waits until the device is ready, before the clock is read.
    """

    def __init__(
        self,
        extract: Extract,
        capture: Capture = capture_cuda_graph,
        applies: Callable[[nn.Module, Tensor], bool] = can_capture,
        wait: Callable[[], None] = wait_for_cuda,
    ) -> None:
        self._extract = extract
        self._capture = capture
        self._applies = applies
        self._wait = wait
        self._shapes = FixedShapes(MAX_GRAPHS, AFTER)
        self._replays: dict[Hashable, Call | None] = {}  # None: the layers are called
        # To list them takes longer than a graph. Copies of a model share this object.
        self._layers: WeakKeyDictionary[nn.Module, list[nn.Module]] = (
            WeakKeyDictionary()
        )

    def __call__(self, model: nn.Module, images: Tensor) -> Maps:
        if not self._applies(model, images) or self._has_hooks(model):
            return self._extract(model, images)
        key = describe_pass(model, images)
        if not self._shapes.is_fixed(key):
            return self._extract(model, images)
        if key not in self._replays:
            self._replays[key] = self._try(model, images)
        replay = self._replays[key]
        return self._extract(model, images) if replay is None else replay(images)

    def _has_hooks(self, model: nn.Module) -> bool:
        """Whether anything waits for a layer's calls, which no graph makes."""
        if model not in self._layers:
            self._layers[model] = [m for m in model.modules() if m is not model]
        return any(
            m._forward_hooks or m._forward_pre_hooks for m in self._layers[model]
        )

    def _try(self, model: nn.Module, images: Tensor) -> Call | None:
        """A graph, if it can be made, is right and pays."""

        def call(images: Tensor) -> Maps:
            kind = images.device.type
            # What autocast keeps of weights ends with the pass that cast them.
            with torch.autocast(
                kind,
                torch.get_autocast_dtype(kind),
                torch.is_autocast_enabled(kind),
                cache_enabled=False,
            ):
                return self._extract(model, images)

        size = 'x'.join(map(str, images.shape))
        try:
            replay = self._capture(call, images)
            expected, found = call(images), replay(images)
            if not is_alike(found, expected):
                raise RuntimeError('it gives other values than the layers')
        except (RuntimeError, TypeError, AttributeError) as error:
            print_log(
                f'Images {size} go without a CUDA graph: {shorten(error)}',
                logger='current',
                level=logging.INFO,
            )
            return None
        plain, graphed = (self._time(each, images) for each in (call, replay))
        kept = graphed < PAYS * plain
        print_log(
            f'A CUDA graph of images {size} takes {1000 * graphed:.2f} ms, the layers '
            f'{1000 * plain:.2f} ms: {"it is" if kept else "they are"} used.',
            logger='current',
            level=logging.INFO,
        )
        return replay if kept else None

    def _time(self, call: Call, images: Tensor) -> float:
        """The shortest seconds of a call."""
        seconds = []
        for _ in range(ROUNDS):
            self._wait()
            start = time.perf_counter()
            call(images)
            self._wait()
            seconds.append(time.perf_counter() - start)
        return min(seconds)


def describe_pass(model: nn.Module, images: Tensor) -> Hashable:
    """All that a graph takes for granted: images, precision, where weights lie."""
    kind = images.device.type
    weights = next(model.parameters(), images)
    return (
        tuple(images.shape),
        images.stride(),
        images.dtype,
        images.device,
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
        torch.is_inference_mode_enabled(),
        weights.data_ptr(),
        weights.dtype,
    )


def is_alike(found: Maps, expected: Maps) -> bool:
    """Whether maps are the same but for rounding."""
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        largest = b.abs().max().float()
        error = (a - b).abs().max().float()
        if not error <= TOLERANCES.get(b.dtype, 1e-2) * largest:
            return False
    return True


def use_graphs(
    model: nn.Module,
    env_cfg: Mapping[str, Any],
    graphed: Callable[[Extract], Extract] = GraphedMaps,
) -> nn.Module:
    """Has a detector replay its backbone and neck by CUDA graphs where that pays.

    Args:
        model: A detector in eval mode, whose weights do not change any more.
        env_cfg: The config's; ``cuda_graphs=False`` leaves the model as it is.
        graphed: What takes the place of the detector's ``extract_feat``.

    Returns:
        ``model``
    """
    extract = getattr(type(model), 'extract_feat', None)
    if extract is not None and env_cfg.get('cuda_graphs', True):
        # A copy of the model gets a method of its own.
        model.extract_feat = MethodType(graphed(extract), model)
    return model


def drop_graphs(model: nn.Module) -> None:
    """Takes off what :func:`use_graphs` put on, so that its memory is free at once."""
    vars(model).pop('extract_feat', None)
