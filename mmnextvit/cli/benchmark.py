"""Measure backbones beside timm, for developers (your model: bench).

To compare the formats of a detector that you trained, take `mmnextvit bench RUN`.
Contestants of a suite take turns in one process. Memory is that of a child process
each: what tensors take at their peak, and by how much the process grows (on Linux).
The tables are in Markdown; -o writes them into a file, too.
"""

import argparse
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.errors import UserError
from ..utils.files import atomic_write, atomic_write_text, check_new_file, require_file
from .arguments import add_cfg_options, load_config, to_count, to_positive

if TYPE_CHECKING:
    from ..benchmark.backbones import Settings
    from ..benchmark.report import Table

SUITES = {
    'inference': 'the backbone in eval mode',
    'compiled': 'the same under torch.compile; on a GPU with CUDA graphs, too',
    'training': 'a step of the backbone, forward and backward, and its memory',
    'growth': 'inference over sizes and batches; --plot FILE.png draws it',
    'backbones': (
        "detectors that differ in timm's backbone alone, in torch, ONNX Runtime and "
        'OpenVINO; --models names others'
    ),
    'costs': (
        'how a detector costs more with classes, boxes, image size, loader workers and '
        'processes'
    ),
    'loops': (
        "a detector's iterations and validation beside their parts; needs --config, "
        'and --checkpoint of trained weights'
    ),
    'startup': "importing the package, building the model, commands' first lines",
}


# Those that change what is measured.
OPTIONS = (
    *('arch', 'size', 'batch', 'rounds', 'device', 'config', 'checkpoint'),
    *('models', 'limit'),
)

# What takes long, or needs more arguments, and is measured only where it is named.
ON_REQUEST = ('backbones', 'costs', 'loops')


def check_suite_name(name: str) -> str:
    """A suite on the command line."""
    if name not in SUITES:
        raise argparse.ArgumentTypeError(
            f'there is no suite {name!r}: there are {", ".join(SUITES)}'
        )
    return name


def parse_new_file(path: str) -> Path:
    """A file on the command line that does not exist, in a folder that does."""
    if not Path(path).resolve().parent.is_dir():
        raise argparse.ArgumentTypeError(f'{path}: there is no such folder')
    try:
        return check_new_file(path)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    suites = '; '.join(f'{name}: {text}' for name, text in SUITES.items())
    parser.add_argument(
        'suites',
        nargs='*',
        type=check_suite_name,
        metavar='SUITE',
        help=f'{suites} (all but {", ".join(ON_REQUEST)}; loops with --config, too)',
    )
    parser.add_argument(
        '--arch', default='small', choices=['small', 'base', 'large'], help='of NextViT'
    )
    parser.add_argument(
        '--size', '--imgsz', type=to_count, help='pixels (640, of training 320)'
    )
    parser.add_argument('--batch', type=to_count, help='images (1, of training 8)')
    parser.add_argument(
        '--rounds', type=to_count, default=9, help='measurements of each'
    )
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--config', help="detector of the loops, or a run's folder")
    parser.add_argument('--checkpoint', help="its trained weights, or a run's folder")
    add_cfg_options(parser)
    parser.add_argument(
        '--models', nargs='+', metavar='NAME', help="of timm's, for backbones (twelve)"
    )
    parser.add_argument(
        '--limit',
        type=to_positive,
        default=300,
        metavar='SECONDS',
        help='after which the export of one of the backbones is ended (300)',
    )
    parser.add_argument(
        '-o', '--out', type=parse_new_file, help='a new file for the tables'
    )
    parser.add_argument(
        '--plot',
        type=parse_new_file,
        metavar='FILE.png',
        help='a new image of the growth',
    )


def run(args: argparse.Namespace) -> None:
    from mmengine.logging import MMLogger

    from ..benchmark.backbones import Settings
    from ..benchmark.report import describe_machine
    from ..engine.runner import choose_device

    choose_device(args.device)
    if 'loops' in args.suites and not args.config:
        raise UserError('loops: name the detector with --config, and --checkpoint')
    MMLogger.get_current_instance().setLevel('ERROR')
    settings = Settings(args.arch, args.device, args.size, args.batch, args.rounds)
    asked = ['loops'] if args.config else []
    suites = args.suites or [x for x in SUITES if x not in ON_REQUEST or x in asked]
    with force_exact_products():
        texts = [f'    {build_command_line(args)}\n\n{describe_machine(args.device)}']
        for suite in suites:
            texts.append(measure(suite, settings, args).to_markdown())
            if args.out:  # after each: a run takes minutes
                first = len(texts) == 2
                text = '\n\n'.join(texts) + '\n'
                atomic_write_text(args.out, text, overwrite=not first)
    print('\n\n'.join(texts))


@contextmanager
def force_exact_products() -> Iterator[None]:
    """Convolutions in float32 as products are, whose rate is measured."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def build_command_line(args: argparse.Namespace) -> str:
    """The command with all that it was told to measure."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ['mmnextvit', 'benchmark', *args.suites]
    for name in OPTIONS:
        value = getattr(args, name)
        if value != parser.get_default(name):
            values = value if isinstance(value, list) else [value]
            words += [f'--{name}', *map(str, values)]
    if args.cfg_options:
        options = [f'{key}={value}' for key, value in args.cfg_options.items()]
        words += ['--cfg-options', *options]
    return shlex.join(words)


def measure(suite: str, settings: 'Settings', args: argparse.Namespace) -> 'Table':
    """Measures a suite."""
    from ..benchmark import backbones, memory, report

    if suite in backbones.SUITES:
        train = suite == 'training'
        results = backbones.measure_suite(
            suite, settings, memory.measure_peak if train else None
        )
        shape = backbones.make_images(settings, train).shape
        return report.make_suite_table(suite, results, shape, settings.arch)
    if suite == 'growth':
        growth = backbones.measure_growth(settings)
        if args.plot:
            with atomic_write(args.plot, overwrite=False) as scratch:
                report.plot_growth(growth, scratch)
        return report.make_growth_table(growth, settings.arch)
    if suite in ('backbones', 'costs') and settings.device != 'cpu':
        raise UserError(f'{suite} are measured on the CPU: leave --device out')
    if suite == 'backbones':
        from ..benchmark import backbone_table

        names = backbone_table.check_models(args.models or backbone_table.MODELS)
        size = settings.size or 640
        rows = backbone_table.measure_backbones(
            names, size, settings.rounds, args.limit
        )
        return backbone_table.make_backbone_table(rows, size)
    if suite == 'costs':
        from ..benchmark.costs import make_costs_table, measure_costs

        costs = measure_costs(settings)
        return make_costs_table(costs, settings.arch, settings.size or 320)
    if suite == 'startup':
        from ..benchmark.startup import measure_startup
        from ..benchmark.waits import measure_waits

        waits = measure_waits(settings.rounds)
        return report.make_startup_table(
            measure_startup(settings), settings.arch, waits
        )
    from ..benchmark.loops import measure_loops

    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(
            argparse.Namespace(**vars(args), work_dir=folder, launcher='none')
        )
        if args.checkpoint is not None:
            cfg.load_from = require_file(args.checkpoint, 'checkpoint')
        loops, shape = measure_loops(cfg, settings)
    return report.make_loops_table(loops, Path(args.config).stem, shape)
