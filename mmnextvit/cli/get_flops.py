"""Print parameters, operations and times of each row of a model.

Rows are the backbone's stages, the neck's rows and the head, for one image, in eval
mode and without folded BatchNorms. Operations are the multiply-accumulates (MACs) of
convolutions, linear layers and attention; a MAC is two FLOPs. Weights are random and
none are loaded, since what is counted does not depend on them.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..utils.errors import UserError, naming_file
from .arguments import add_config, load_config

if TYPE_CHECKING:
    import torch
    from mmengine.config import Config

    from ..analysis import Analysis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_config(parser)
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help="the image's height and width (the config's img_scale, or 640 640)",
    )
    parser.add_argument(
        '--profile',
        action='store_true',
        help='time each row: the median of several forward passes',
    )
    parser.add_argument('--device', help='cpu, cuda:0, ... (a GPU where there is one)')


def run(args: argparse.Namespace) -> None:
    """Prints the table and a summary."""
    from ..analysis import analyse
    from ..engine.runner import build_model, choose_device
    from ..engine.terminal import at_level

    cfg = load_config(args)
    size = choose_image_size(args.shape, cfg)
    device = choose_device(args.device)
    with at_level('WARNING'):  # row graphs print a table of their own
        model = build_model(cfg).to(device).eval()
    with naming_file(args.config):
        analysis = analyse(model, size, args.profile)
    print(format_table(analysis))
    print(describe(analysis, size, device))


def choose_image_size(shape: list[int] | None, cfg: 'Config') -> tuple[int, int]:
    """Height and width in pixels, as given or of the config's ``img_scale``.

    Raises:
        UserError: One of them is not positive, or larger than any input may be.
    """
    from ..runtime import MAX_SIDE

    height, width = shape or cfg.get('img_scale', (640, 640))[::-1]  # MMYOLO's: W H
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise UserError(
            f'--shape {height} {width}: both must be 1 or more, and {MAX_SIDE} or less'
        )
    return height, width


def format_table(analysis: 'Analysis') -> str:
    """The rows and their total as text, with times if they were measured."""
    rows, timed = analysis.rows, analysis.ms is not None
    no_times: list[list[str]] = [[]] * (len(rows) + 1)
    times = format_times([row.ms for row in rows]) if timed else no_times
    head = ['part', 'row', 'parameters', 'GMACs', *['ms', '%'] * timed]
    lines = [
        [
            *(row.part, row.name, f'{row.params:,}', f'{row.macs / 1e9:.3f}'),
            *time,
            f'{row.output}  {row.args}'.rstrip(),
        ]
        for row, time in zip(rows, times)
    ]
    total = ['total', '', f'{analysis.params:,}', f'{analysis.macs / 1e9:.3f}']
    total += times[-1]
    table = [[*head, 'output and arguments'], *lines, [*total, '']]
    return '\n'.join(align(table))


def format_times(times: Sequence[float | None]) -> list[list[str]]:
    """Times in ms and their shares of the sum in percent, and last those of the sum."""
    known = [ms or 0 for ms in times]
    total = sum(known)
    return [[f'{ms:.2f}', f'{100 * ms / total:.1f}'] for ms in (*known, total)]


def align(table: list[list[str]]) -> list[str]:
    """Lines of a table: two columns of text, numbers, and a last column of text.

    The first line is the head and the last the total, each apart from the rest.
    """
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]) - 1)]
    lines = []
    for line in table:
        texts = [cell.ljust(w) for cell, w in zip(line[:2], widths[:2])]
        numbers = [cell.rjust(w) for cell, w in zip(line[2:-1], widths[2:])]
        lines.append('  '.join([*texts, *numbers, line[-1]]).rstrip())
    rule = '-' * max(map(len, lines))
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def describe(
    analysis: 'Analysis', size: tuple[int, int], device: 'torch.device'
) -> str:
    """The summary below the table."""
    import torch

    from ..analysis import REPEATS

    gmacs = analysis.macs / 1e9
    text = (
        f'One image of {size[0]}x{size[1]} (height x width), batch 1: '
        f'{analysis.params:,} parameters, {gmacs:.2f} GMACs = {2 * gmacs:.2f} GFLOPs.\n'
        'A MAC is a multiply-accumulate of a convolution, linear layer or attention, '
        'and 2 FLOPs.'
    )
    if analysis.ms is None:
        return text
    where = f'the CPU with {torch.get_num_threads()} threads'
    if device.type == 'cuda':
        where = torch.cuda.get_device_name(device)
    return (
        f'{text}\nThe whole forward pass takes {analysis.ms:.2f} ms on {where}, '
        'without postprocessing.\nRows are timed in passes of their own, each by the '
        f'median of {REPEATS}; % is of their sum.'
    )
