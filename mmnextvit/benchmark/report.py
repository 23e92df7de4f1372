"""Tables in Markdown and a plot of what was measured, and the machine in a line."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..runtime import count_cores
from ..utils.packages import FOLDERS, find_distribution
from .backbones import SIZES, Growth, Measurement, Ratio
from .startup import IMPORTS, Startup
from .timing import measure_matrix_rate

if TYPE_CHECKING:
    from .loops import LoopCost
    from .waits import Wait

Cells = list[str]


@dataclass
class Table:
    """A table with a title, whose cells are texts, and what stands below it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ''

    def to_markdown(self) -> str:
        """The table as Markdown, without a line break at its end."""
        lines = [self.columns, ['---'] * len(self.columns), *self.rows]
        body = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
        return '\n\n'.join(filter(None, (f'## {self.title}', body, self.note)))

    def to_text(self) -> str:
        """The table with aligned columns, for a terminal; numbers stand at the right.

        The first and the last column are texts.
        """
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines)]
        texts = [
            '  '.join(
                [
                    line[0].ljust(widths[0]),
                    *(x.rjust(w) for x, w in zip(line[1:-1], widths[1:-1])),
                    line[-1],
                ]
            ).rstrip()
            for line in lines
        ]
        return '\n'.join([texts[0], '-' * len(texts[0]), *texts[1:]])


def show_shape(shape: Sequence[int]) -> str:
    """The sizes of a tensor as ``1x3x640x640``."""
    return 'x'.join(map(str, shape))


def format_ratio(ratio: Ratio, first: str) -> str:
    """A ratio; another contestant than the first is named."""
    of = '' if ratio.base == first else f' of {ratio.base}'
    return f'{ratio.value:.2f}{of}'


def make_suite_table(
    suite: str, results: Sequence[Measurement], shape: Sequence[int], arch: str
) -> Table:
    """The results of :func:`~.backbones.measure_suite`.

    Args:
        suite: Name of the suite.
        results: One for each contestant; all have their memory, or none.
        shape: Of the images, (B, 3, H, W).
        arch: Of the backbone.
    """
    columns = [
        'contestant',
        'ms',
        'images/s',
        'share of the matrix rate',
        'time / base',
    ]
    if results[0].peak:
        columns += ['tensors, MB', 'tensors / base', 'process, MB', 'process / base']
    rows = [make_suite_row(result, shape[0], results[0].name) for result in results]
    title = f'{suite.capitalize()}, NextViT-{arch}, {show_shape(shape)}'
    return Table(title, columns, rows)


def make_suite_row(result: Measurement, images: int, first: str) -> Cells:
    """The cells of a contestant, in a suite whose first contestant is ``first``."""
    cells = [
        result.name,
        f'{1000 * result.seconds:.0f}',
        f'{images / result.seconds:.2f}',
        f'{result.share:.2f}',
        format_ratio(result.time, first),
    ]
    if result.peak and result.tensors and result.process:
        cells += [f'{result.peak.tensors:.0f}', format_ratio(result.tensors, first)]
        cells += [f'{result.peak.process:.0f}', format_ratio(result.process, first)]
    return cells


def make_growth_table(results: Sequence[Growth], arch: str) -> Table:
    """The results of :func:`~.backbones.measure_growth`."""
    columns = 'images', 'timm, ms an image', 'ours, deploy mode, ms an image'
    rows = [
        [
            show_shape((r.batch, 3, r.size, r.size)),
            f'{1000 * r.timm:.0f}',
            f'{1000 * r.ours:.0f}',
            f'{r.ours / r.timm:.2f}',
            f'{1e9 * r.ours / r.size**2:.0f}',
        ]
        for r in results
    ]
    return Table(
        f'Growth, NextViT-{arch}', [*columns, 'ratio', 'ours, ns a pixel'], rows
    )


def plot_growth(results: Sequence[Growth], path: Path) -> None:
    """Draws :func:`~.backbones.measure_growth` over sizes and over batches."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), dpi=80)
    over_sizes, over_batches = results[: len(SIZES)], results[len(SIZES) :]
    for key, name in (('timm', 'timm'), ('ours', 'ours, deploy mode')):
        for ax, x, part in zip(axes, ('size', 'batch'), (over_sizes, over_batches)):
            xs = [getattr(r, x) for r in part]
            ax.plot(xs, [1000 * getattr(r, key) for r in part], 'o-', label=name)
    axes[0].set(xlabel='size, pixels', ylabel='ms an image', title='1 image')
    axes[1].set(xlabel='batch', title=f'{results[-1].size} pixels')
    for ax in axes:
        ax.set_ylim(0)
        ax.grid(alpha=0.3)
        ax.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def make_loops_table(
    costs: Sequence['LoopCost'], name: str, shape: Sequence[int]
) -> Table:
    """The results of :func:`~.loops.measure_loops`.

    Args:
        costs: One for each row.
        name: The config's name.
        shape: Of the training batches, (B, 3, H, W).
    """
    rows = [
        [
            cost.what,
            f'{1000 * cost.seconds:.0f}',
            cost.beside,
            f'{1000 * cost.base_seconds:.0f}',
            f'{cost.seconds / cost.base_seconds:.2f}',
        ]
        for cost in costs
    ]
    columns = 'measured', 'ms', 'compared with', 'its ms', 'ratio'
    return Table(f'Loops, {name}, {show_shape(shape)}', columns, rows)


def make_startup_table(
    result: Startup, arch: str, waits: Sequence['Wait'] = ()
) -> Table:
    """The result of :func:`~.startup.measure_startup`.

    Args:
        result: It.
        arch: Of the backbone.
        waits: The result of :func:`~.waits.measure_waits`.
    """
    libraries = next(iter(IMPORTS))
    ratio = f'{result.package / result.libraries:.2f}'
    rows = [
        [f'import {libraries}', f'{result.libraries:.2f}', ''],
        [f'import mmnextvit, {libraries}', f'{result.package:.2f}', ratio],
        [f"NextViT('{arch}')", f'{result.build:.2f}', ''],
        *(
            [wait.what, f'{wait.seconds:.2f}', f'{wait.ratio:.2f} of {wait.base}']
            for wait in waits
        ),
    ]
    return Table('Startup', ('measured', 's', 'ratio'), rows)


def describe_machine(device: str) -> str:
    """The machine and the versions, in a line."""
    names = 'torch', 'timm', *FOLDERS['mmengine'], *FOLDERS['mmdet']
    packages = map(find_distribution, names)
    parts = [
        describe_processor(device),
        f'{torch.get_num_threads()} threads',
        f'Python {platform.python_version()}',
        *(f'{each.name} {each.version}' for each in filter(None, packages)),
    ]
    rate = measure_matrix_rate(device) / 1e9
    return f'{", ".join(parts)}. A product of float32 matrices: {rate:.0f} GMAC/s.'


def describe_processor(device: str) -> str:
    """The GPU, if that is the device, and the CPU with its cores."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text(encoding='utf-8').splitlines() if info.is_file() else []
    names = [x.partition(': ')[2] for x in lines if x.startswith('model name')]
    cpu = (
        f'{names[0] if names else platform.processor()} '
        f'({torch.backends.cpu.get_cpu_capability()}), {count_cores()} cores'
    )
    return cpu if device == 'cpu' else f'{torch.cuda.get_device_name(device)}, {cpu}'
