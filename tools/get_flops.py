"""Sizes and times by row: tools/get_flops.py CONFIG [--shape H W] [--profile]

Parameters and operations of the backbone's stages, of the neck's rows and of the head,
for one image, in eval mode and without merging BatchNorms. Operations are the
multiply-accumulates (MACs) of convolutions, linear layers and attention; a MAC is two
FLOPs. Weights are random and none are loaded: what is counted doesn't depend on them.
"""

import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import mmnextvit  # noqa: F401  (first)
from mmnextvit.cli.arguments import load_config
from mmnextvit.engine.runner import build_model, parser, run
from mmnextvit.models.nextvit import NextViT
from mmnextvit.models.yolov5_rows import RowGraph

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

WARM_UP, REPEATS = 3, 10  # forward passes


def parse_args():
    p = parser('Parameters, operations and times by row.', launcher=False)
    p.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help="the image's height and width (the config's img_scale, or 640 640)",
    )
    p.add_argument(
        '--profile',
        action='store_true',
        help=f'time each row: the median of {REPEATS} forward passes',
    )
    p.add_argument('--device', help='cpu, cuda:0, ... (a GPU where there is one)')
    return p.parse_args()


@dataclass
class Line:
    """A line of the table: modules that belong together."""

    part: str
    name: str
    modules: list[nn.Module]
    args: str = ''
    output: str = ''
    params: int = 0
    macs: int = 0
    times: list[float] = field(default_factory=list)  # ms, one a forward pass

    @property
    def ms(self) -> float:
        return median(self.times or [0])


def image_shape(shape: list[int] | None, cfg: Config) -> tuple[int, int]:
    """Height and width in pixels.

    Raises:
        ValueError: One of them is not positive.
    """
    height, width = shape or cfg.get('img_scale', (640, 640))[::-1]  # MMYOLO's: W H
    if height < 1 or width < 1:
        raise ValueError(f'--shape {height} {width}: both must be 1 or more')
    return height, width


def lines_of(model: nn.Module) -> list[Line]:
    """The detector's lines, from the backbone to the head."""
    lines = []
    for part, module in model.named_children():
        graphs = [m for m in module.modules() if isinstance(m, RowGraph)]
        for graph in graphs:
            for row in graph.rows:
                name = f'{row.number} {row.module}'
                if row.repeats > 1:
                    name += f' x{row.repeats}'
                layer = graph[str(row.number)]
                lines.append(Line(part, name, [layer], str(row.args)))
        if isinstance(module, NextViT):
            lines += nextvit_lines(part, module)
        elif not graphs and part != 'data_preprocessor':
            lines.append(Line(part, type(module).__name__, [module]))
    return lines


def nextvit_lines(part: str, backbone: NextViT) -> list[Line]:
    """The stem and the stages; the final norm is the last stage's."""
    lines = [Line(part, 'stem', [backbone.stem])]
    start = 0
    for stage, last in enumerate(backbone.stage_out_idx, start=1):
        blocks = list(backbone.features[start : last + 1])
        lines.append(Line(part, f'stage {stage}', blocks, f'{len(blocks)} blocks'))
        start = last + 1
    if hasattr(backbone, 'norm'):
        lines[-1].modules.append(backbone.norm)
    return lines


def count_params(lines: list[Line]) -> None:
    """Fills in each line's parameters; those of two lines count for the first."""
    seen: set[nn.Parameter] = set()
    for line in lines:
        own = {p for module in line.modules for p in module.parameters()} - seen
        line.params = sum(p.numel() for p in own)
        seen |= own


def called_in(module: nn.Module, called: Container) -> Iterator[nn.Module]:
    """``module`` if it was called, else those below it that were.

    MMDetection's detectors use ``bbox_head.forward``, which no hook notices.
    """
    if module in called:
        yield module
    else:
        for child in module.children():
            yield from called_in(child, called)


@contextmanager
def growth(
    modules: Iterable[nn.Module], read: Callable[[], float]
) -> Iterator[dict[nn.Module, float]]:
    """Yields by how much ``read()`` grows in each module, in all its calls together.

    Only modules that are called while the context is open are in it.
    """
    grown: dict[nn.Module, float] = {}
    begun: dict[nn.Module, float] = {}

    def before(module: nn.Module, args: tuple) -> None:
        begun[module] = read()

    def after(module: nn.Module, args: tuple, output: object) -> None:
        grown[module] = grown.get(module, 0) + read() - begun[module]

    hooks = []
    for module in modules:
        hooks.append(module.register_forward_pre_hook(before))
        hooks.append(module.register_forward_hook(after))
    try:
        yield grown
    finally:
        for hook in hooks:
            hook.remove()


def size_of(output: object) -> str:
    """C x H x W of a map, or of each of several."""
    if isinstance(output, Tensor):
        return 'x'.join(map(str, output.shape[1:]))
    if isinstance(output, (list, tuple)):
        return ', '.join(map(size_of, output))
    return ''


def count_macs(lines: list[Line], model: nn.Module, forward: Callable) -> int:
    """Fills in each line's operations, output and, as modules, those that are called.

    Args:
        lines: What to fill in.
        model: In eval mode.
        forward: Runs the model.

    Returns:
        The multiply-accumulates of the whole model.
    """
    outputs: dict[nn.Module, str] = {}
    last = [line.modules[-1] for line in lines]
    hooks = [
        module.register_forward_hook(lambda m, _, y: outputs.update({m: size_of(y)}))
        for module in last
    ]
    counter = FlopCounterMode(display=False)
    # The counter has no formula for the CPU's fused attention; it has for what this is
    # made of.
    counted = growth(model.modules(), counter.get_total_flops)
    with sdpa_kernel(SDPBackend.MATH), counter, counted as flops:
        forward()
    for hook in hooks:
        hook.remove()
    for line, module in zip(lines, last):
        line.output = outputs.get(module, '')
        line.modules = [m for part in line.modules for m in called_in(part, flops)]
        line.macs = sum(flops[m] for m in line.modules) // 2
    return counter.get_total_flops() // 2


def profile(lines: list[Line], forward: Callable, device: torch.device) -> float:
    """Fills in each line's time of every pass.

    Returns:
        Milliseconds of a whole pass, in which no line is timed.
    """

    def now() -> float:
        if device.type != 'cpu':
            torch.accelerator.synchronize()
        return time.perf_counter() * 1000

    whole = []
    for i in range(WARM_UP + REPEATS):
        start = now()
        forward()
        whole.append(now() - start)
        with growth((m for line in lines for m in line.modules), now) as times:
            forward()
        if i >= WARM_UP:
            for line in lines:
                line.times.append(sum(times[m] for m in line.modules))
    return median(whole[WARM_UP:])


def table(lines: list[Line], params: int, macs: int) -> str:
    """The lines as text, with what is in none of them, and the total."""
    other = Line('other', '', [])
    other.params = params - sum(line.params for line in lines)
    other.macs = macs - sum(line.macs for line in lines)
    if other.params or other.macs:
        lines = [*lines, other]
    ms = sum(line.ms for line in lines)
    total = Line('total', '', [], params=params, macs=macs, times=[ms])
    timed = ms > 0
    parts, names = (
        max(len(getattr(line, key)) for line in lines) for key in ('part', 'name')
    )
    text = f'{{:<{parts}}}  {{:<{names}}}{{:>12}}{{:>10}}'.format
    rows = [text('part', 'row', 'parameters', 'GMACs')]
    rows[0] += f'{"ms":>10}{"%":>7}' * timed + '  output and arguments'
    for line in [*lines, total]:
        row = text(line.part, line.name, f'{line.params:,}', f'{line.macs / 1e9:.3f}')
        if timed:
            row += f'{line.ms:10.2f}{100 * line.ms / ms:7.1f}'
        rows.append(f'{row}  {line.output}  {line.args}'.rstrip())
    rule = '-' * max(map(len, rows))
    return '\n'.join([rows[0], rule, *rows[1:-1], rule, rows[-1]])


def main():
    args = parse_args()
    cfg = load_config(args)
    height, width = image_shape(args.shape, cfg)
    if (args.device or '').startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(f'--device {args.device}: torch finds no CUDA GPU here')
    device = torch.device(args.device or get_device())
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')  # row graphs print a table of their own
    model = build_model(cfg).to(device).eval()
    logger.setLevel(level)

    lines = lines_of(model)
    count_params(lines)
    image = torch.rand(1, 3, height, width, device=device)
    size = height, width
    sample = DetDataSample(
        metainfo=dict(
            img_shape=size, ori_shape=size, batch_input_shape=size, scale_factor=(1, 1)
        )
    )

    @torch.no_grad()
    def forward() -> None:
        model(image, [sample], mode='tensor')

    try:
        macs = count_macs(lines, model, forward)
    except RuntimeError as error:
        raise ValueError(
            f'{args.config} computes no image of {height}x{width} (height x width); '
            f'multiples of 32 or 64 fit most models. {error}'
        ) from error
    ms = profile(lines, forward, device) if args.profile else None
    params = sum(p.numel() for p in model.parameters())
    print(table(lines, params, macs))
    print(
        f'One image of {height}x{width} (height x width), batch 1: {params:,} '
        f'parameters, {macs / 1e9:.2f} GMACs = {2 * macs / 1e9:.2f} GFLOPs.\n'
        'A MAC is a multiply-accumulate of a convolution, linear layer or attention, '
        'and 2 FLOPs.'
    )
    if ms:
        where = f'the CPU with {torch.get_num_threads()} threads'
        if device.type == 'cuda':
            where = torch.cuda.get_device_name(device)
        print(
            f'The whole forward pass takes {ms:.2f} ms on {where}, without '
            'post-processing.\nRows are timed in passes of their own, the median of '
            f'{REPEATS} each; % is of their sum.'
        )


if __name__ == '__main__':
    run(main)
