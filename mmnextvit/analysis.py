"""What a detector computes: parameters, operations and times by row.

Rows are the backbone's stages, the neck's rows of YOLOv5's YAML, and other parts as a
whole. Operations are the multiply-accumulates (MACs) of convolutions, linear layers and
attention; a MAC is two FLOPs. Nothing is folded, and weights do not matter.
"""

import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from mmdet.structures import DetDataSample
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .models.image_channels import count_image_channels
from .models.nextvit import NextViT
from .models.yolov5_graph import RowGraph, count_parameters
from .utils.errors import UserError

WARM_UP, REPEATS = 3, 10  # forward passes


@dataclass(frozen=True)
class Layer:
    """Modules of a model that make one row of its analysis.

    Attributes:
        part: Part of the model, such as 'neck'.
        name: Name within the part, such as '9 C3'.
        modules: Its modules, in the order of computation.
        args: What they were built from, as text.
    """

    part: str
    name: str
    modules: tuple[nn.Module, ...]
    args: str = ''


@dataclass(frozen=True)
class Row:
    """What a layer costs.

    Attributes:
        part: Part of the model, such as 'neck'; 'other' for what is in no layer.
        name: Name within the part.
        args: What it was built from, as text.
        output: Its map's size as 'CxHxW'; several are separated by commas.
        params: Parameters, without those that an earlier row has.
        macs: Multiply-accumulates for one image.
        ms: Median time in milliseconds, or ``None`` if none was measured.
    """

    part: str
    name: str
    args: str
    output: str
    params: int
    macs: int
    ms: float | None = None


@dataclass(frozen=True)
class Analysis:
    """What a model costs for one image.

    Attributes:
        rows: The costs, from the backbone to the head.
        params: Parameters of the whole model.
        macs: Multiply-accumulates of the whole model.
        ms: Median time of a whole forward pass in milliseconds, without the timing
            of rows, or ``None`` if none was measured.
    """

    rows: tuple[Row, ...]
    params: int
    macs: int
    ms: float | None = None


@dataclass(frozen=True)
class Operations:
    """What a forward pass computed.

    Attributes:
        macs: Multiply-accumulates of each layer.
        outputs: Size of each layer's output, as text.
        called: Modules of each layer that were called.
        total: Multiply-accumulates of the whole model.
    """

    macs: list[int]
    outputs: list[str]
    called: list[list[nn.Module]]
    total: int


@dataclass(frozen=True)
class Times:
    """Median times in milliseconds.

    Attributes:
        groups: Of each group of modules.
        total: Of a whole forward pass, in which no group is timed.
    """

    groups: list[float]
    total: float


def analyse(model: nn.Module, size: tuple[int, int], profile: bool = False) -> Analysis:
    """Analyses a detector in eval mode on the device that it is on.

    Args:
        model: The detector.
        size: Height and width of the image in pixels.
        profile: Whether to measure times.

    Raises:
        UserError: The model computes no image of this size.
    """
    device = next(model.parameters()).device
    image = torch.rand(1, count_image_channels(model), *size, device=device)
    sample = DetDataSample(
        metainfo=dict(
            img_shape=size, ori_shape=size, batch_input_shape=size, scale_factor=(1, 1)
        )
    )

    @torch.no_grad()
    def forward() -> None:
        model(image, [sample], mode='tensor')

    layers = list_layers(model)
    try:
        operations = count_operations(layers, model, forward)
    except RuntimeError as error:
        raise UserError(
            f'the model computes no image of {size[0]}x{size[1]} (height x width); '
            f'multiples of 32 or 64 fit most models. {error}'
        ) from error
    times = measure_times(operations.called, forward, device) if profile else None
    rows = [
        Row(layer.part, layer.name, layer.args, output, params, macs, ms)
        for layer, output, params, macs, ms in zip(
            layers,
            operations.outputs,
            count_layer_parameters(layers),
            operations.macs,
            times.groups if times else [None] * len(layers),
            strict=True,
        )
    ]
    params, macs = count_parameters(model), operations.total
    other_params = params - sum(row.params for row in rows)
    other_macs = macs - sum(row.macs for row in rows)
    if other_params or other_macs:
        rows.append(Row('other', '', '', '', other_params, other_macs))
    return Analysis(tuple(rows), params, macs, times.total if times else None)


def list_layers(model: nn.Module) -> list[Layer]:
    """A detector's layers, from the backbone to the head."""
    layers = []
    for part, module in model.named_children():
        graphs = [m for m in module.modules() if isinstance(m, RowGraph)]
        if isinstance(module, NextViT):
            layers += list_nextvit_layers(part, module)
        elif graphs:
            layers += [layer for g in graphs for layer in list_row_layers(part, g)]
        elif part != 'data_preprocessor':
            layers.append(Layer(part, type(module).__name__, (module,)))
    return layers


def list_row_layers(part: str, graph: RowGraph) -> list[Layer]:
    """A layer for each row of YOLOv5's YAML."""
    layers = []
    for row in graph.rows:
        copies = f' x{row.copies}' if row.copies > 1 else ''
        name = f'{row.number} {row.module}{copies}'
        layers.append(Layer(part, name, (graph[str(row.number)],), str(row.args)))
    return layers


def list_nextvit_layers(part: str, backbone: NextViT) -> list[Layer]:
    """The stem and the stages; the final norm belongs to the last stage."""
    layers = [Layer(part, 'stem', (backbone.stem,))]
    stages = backbone.stages
    for number, stage in enumerate(stages, start=1):
        last = number == len(stages) and hasattr(backbone, 'norm')
        modules = (*stage, backbone.norm) if last else tuple(stage)
        args = f'{len(stage)} blocks'
        layers.append(Layer(part, f'stage {number}', modules, args))
    return layers


def count_layer_parameters(layers: Iterable[Layer]) -> list[int]:
    """Parameters of each layer; those of two layers count for the first."""
    counts = []
    seen: set[nn.Parameter] = set()
    for layer in layers:
        own = {p for module in layer.modules for p in module.parameters()} - seen
        counts.append(sum(p.numel() for p in own))
        seen |= own
    return counts


def find_called(module: nn.Module, called: Container[nn.Module]) -> Iterator[nn.Module]:
    """``module`` if it was called, else those below it that were.

    MMDetection's detectors use ``bbox_head.forward``, which no hook notices.
    """
    if module in called:
        yield module
    else:
        for child in module.children():
            yield from find_called(child, called)


@contextmanager
def call_around(
    modules: Iterable[nn.Module],
    before: Callable[[nn.Module], None] | None,
    after: Callable[[nn.Module, object], None],
) -> Iterator[None]:
    """Calls ``before(module)`` and ``after(module, output)`` around modules' calls."""
    hooks = []
    for module in modules:
        if before is not None:
            hook = module.register_forward_pre_hook(lambda m, args: before(m))
            hooks.append(hook)
        hooks.append(module.register_forward_hook(lambda m, args, y: after(m, y)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure_growth(
    modules: Iterable[nn.Module],
    read: Callable[[], float],
    forward: Callable[[], object],
) -> dict[nn.Module, float]:
    """By how much a reading grows in each module, in all its calls together.

    Args:
        modules: The modules; those that are not called are not in the result.
        read: Gives the reading, such as a clock's.
        forward: Runs the model.
    """
    grown: dict[nn.Module, float] = {}
    begun: dict[nn.Module, float] = {}

    def before(module: nn.Module) -> None:
        begun[module] = read()

    def after(module: nn.Module, output: object) -> None:
        grown[module] = grown.get(module, 0) + read() - begun[module]

    with call_around(modules, before, after):
        forward()
    return grown


def describe_size(output: object) -> str:
    """'CxHxW' of a map (B, C, H, W), or of each of several."""
    if isinstance(output, Tensor):
        return 'x'.join(map(str, output.shape[1:]))
    if isinstance(output, (list, tuple)):
        return ', '.join(map(describe_size, output))
    return ''


def count_operations(
    layers: Sequence[Layer], model: nn.Module, forward: Callable[[], object]
) -> Operations:
    """Counts the multiply-accumulates of a forward pass.

    Args:
        layers: The model's layers.
        model: In eval mode.
        forward: Runs the model.
    """
    last = [layer.modules[-1] for layer in layers]
    sizes: dict[nn.Module, str] = {}

    def keep_size(module: nn.Module, output: object) -> None:
        sizes[module] = describe_size(output)

    counter = FlopCounterMode(display=False)
    # The counter has no formula for the CPU's fused attention; it has for what this is
    # made of.
    with sdpa_kernel(SDPBackend.MATH), counter, call_around(last, None, keep_size):
        flops = measure_growth(model.modules(), counter.get_total_flops, forward)
    called = [
        [m for x in layer.modules for m in find_called(x, flops)] for layer in layers
    ]
    return Operations(
        macs=[int(sum(flops[m] for m in modules)) // 2 for modules in called],
        outputs=[sizes.get(module, '') for module in last],
        called=called,
        total=counter.get_total_flops() // 2,
    )


def measure_times(
    groups: Sequence[Sequence[nn.Module]],
    forward: Callable[[], object],
    device: torch.device,
) -> Times:
    """Measures the forward pass as a whole, and groups of modules in passes of theirs.

    Args:
        groups: Modules that are timed together.
        forward: Runs the model.
        device: The device that it runs on.
    """

    def now() -> float:
        if device.type != 'cpu':
            torch.accelerator.synchronize()
        return time.perf_counter() * 1000

    modules = [m for group in groups for m in group]
    whole, by_group = [], []
    for _ in range(WARM_UP + REPEATS):
        start = now()
        forward()
        whole.append(now() - start)
        times = measure_growth(modules, now, forward)
        by_group.append([sum(times[m] for m in group) for group in groups])
    measured = by_group[WARM_UP:]
    return Times([median(x) for x in zip(*measured)], median(whole[WARM_UP:]))
