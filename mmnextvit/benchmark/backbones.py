"""Speed beside timm's NextViT: tools/benchmark.py [SUITE ...] [--device cuda] [-o FILE]

    inference   the backbone in eval mode
    compiled    the same under torch.compile; on a GPU with CUDA graphs, too
    training    a step of the backbone, forward and backward, and its memory
    growth      inference over sizes and batches; --plot FILE.png draws it
    loops       a detector's iterations and validation beside their parts; needs
                --config, and --checkpoint of trained weights
    startup     building the model, importing the package

Contestants of a suite take turns in one process. Memory is that of a child process
each: what tensors take at their peak, and by how much the process grows (on Linux).
The tables are in Markdown; -o writes them into a file, too.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

from mmnextvit import NextViT
from mmnextvit.cli.arguments import existing_file, load_config
from mmnextvit.engine.runner import OURS, run
from mmnextvit.engine.timing import (
    measure_detection,
    measure_training,
    measure_validation,
    timed,
)
from mmnextvit.models.fold import deployed

import timm
import torch
from mmengine.config import DictAction
from mmengine.device import get_device
from mmengine.logging import MMLogger
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

ROOT = OURS[1].parent
SIZES, BATCHES = (320, 480, 640, 960, 1280), (1, 2, 4, 8, 16)  # of the growth
STEPS = 3  # a child process makes so many before its peak is read


@dataclass
class Setup:
    """How a contestant computes.

    Args:
        net: 'timm', 'ours' or 'deployed', which is ours with BatchNorms folded.
        channels_last: Of timm's; ours take the device's faster format.
        dtype: bfloat16 is the whole network's in inference, autocast's in training.
        compile: Mode of torch.compile.
        with_cp: As of :class:`NextViT`.
        time: Ratio to reach, and to whose time.
        memory: The same of its memory.
    """

    net: str = 'ours'
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    compile: str | None = None
    with_cp: bool = False
    time: tuple[float, str] | None = None
    memory: tuple[float, str] | None = None


BF16 = torch.bfloat16
SUITES = {
    'inference': {
        'timm': Setup('timm'),
        'timm, channels-last': Setup('timm', channels_last=True),
        'timm, bfloat16': Setup('timm', dtype=BF16),
        'ours, as trained': Setup(),
        'ours, deploy mode': Setup('deployed', time=(0.65, 'timm')),
        'ours, deploy mode, bfloat16': Setup(
            'deployed', dtype=BF16, time=(0.36, 'timm')
        ),
    },
    'compiled': {
        'timm': Setup('timm'),
        'timm, compiled': Setup('timm', compile='default'),
        'timm, CUDA graphs': Setup('timm', compile='reduce-overhead'),
        'ours, deploy mode, compiled': Setup(
            'deployed', compile='default', time=(0.85, 'timm, compiled')
        ),
        'ours, deploy mode, CUDA graphs': Setup('deployed', compile='reduce-overhead'),
    },
    'training': {
        'timm': Setup('timm'),
        'timm, channels-last': Setup('timm', channels_last=True),
        'timm, bfloat16': Setup('timm', dtype=BF16),
        'ours': Setup(time=(0.90, 'timm'), memory=(0.90, 'timm')),
        'ours, with_cp': Setup(
            with_cp=True, time=(1.40, 'ours'), memory=(0.45, 'ours')
        ),
        'ours, bfloat16': Setup(dtype=BF16),
    },
}


def possible(setup: Setup, device: str) -> bool:
    """Whether the device computes so; without its hardware bfloat16 is emulated."""
    if device != 'cpu':
        return True
    bf16 = torch.cpu.get_capabilities().get(
        'avx512_bf16', platform.machine() != 'x86_64'
    )
    return setup.compile != 'reduce-overhead' and (setup.dtype != BF16 or bf16)


def network(setup: Setup, arch: str, device: str) -> nn.Module:
    torch.manual_seed(0)
    if setup.net == 'timm':
        net = timm.create_model(f'nextvit_{arch}', features_only=True)
    else:
        net = NextViT(arch, with_cp=setup.with_cp)
    net = net.to(device)
    if setup.net == 'deployed':
        net = deployed(net.eval())
    return net.to(memory_format=torch.channels_last) if setup.channels_last else net


def inference(net: nn.Module, setup: Setup, images: Tensor) -> object:
    with torch.inference_mode():
        return net(images.to(setup.dtype))


def training(net: nn.Module, setup: Setup, images: Tensor) -> None:
    net.zero_grad()
    with torch.autocast(images.device.type, setup.dtype, enabled=setup.dtype == BF16):
        maps = net(images)
    sum(y.float().square().mean() for y in maps).backward()


def contestant(
    setup: Setup, args: argparse.Namespace, train: bool = False
) -> tuple[nn.Module, Callable[[], object]]:
    """A network, and what is timed of it."""
    size, batch = (320, 8) if train else (640, 1)
    size, batch = args.size or size, args.batch or batch
    net = network(setup, args.arch, args.device).train(train)
    if not train:
        net = net.to(setup.dtype)
    images = torch.randn(batch, 3, size, size, device=args.device)
    called = torch.compile(net, mode=setup.compile) if setup.compile else net
    return net, partial(training if train else inference, called, setup, images)


def in_turn(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after two rounds that warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in track(range(2 + rounds), 'Measuring'):
        for name, call in runs.items():
            with timed(times[name] if i > 1 else []):
                call()
    return {name: median(values) for name, values in times.items()}


# ------------------------------------------------------------------------- memory


def resident(key: str) -> float:
    """MB of this process, by a key of Linux's ``/proc/self/status``; elsewhere NaN."""
    status = Path('/proc/self/status')
    lines = status.read_text().splitlines() if status.is_file() else [f'{key} nan']
    return next(float(x.split()[1]) for x in lines if x.startswith(key)) / 1024


def allocated(step: Callable[[], object]) -> float:
    """MB by which torch's tensors on the CPU grow at their peak in a step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    with tempfile.TemporaryDirectory() as folder:
        record.export_chrome_trace(f'{folder}/trace.json')
        events = json.loads(Path(folder, 'trace.json').read_text())['traceEvents']
    changes = [(e['ts'], e['args']['Bytes']) for e in events if e['name'] == '[memory]']
    now = peak = 0
    for _, change in sorted(changes, key=lambda entry: entry[0]):
        now += change
        peak = max(peak, now)
    return peak / 2**20


def measure_peak(suite: str, name: str, args: argparse.Namespace) -> None:
    """Prints the peaks (MB) of tensors and of this process, as JSON."""
    before = resident('VmRSS')
    net, step = contestant(SUITES[suite][name], args, suite == 'training')
    for _ in range(STEPS):
        step()
    grown = resident('VmHWM') - before
    if args.device == 'cpu':
        net.zero_grad()
        tensors = allocated(step) + sum(p.nbytes for p in net.parameters()) / 2**20
    else:
        tensors = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps([tensors, grown]))


def peak(suite: str, name: str, args: argparse.Namespace) -> list[float]:
    """Peaks (MB) of a contestant, in a process of its own."""
    options = ['--arch', args.arch, '--device', args.device]
    for key in ('size', 'batch'):
        if getattr(args, key):
            options += [f'--{key}', str(getattr(args, key))]
    command = [sys.executable, __file__, suite, '--peak', name, *options]
    return json.loads(subprocess.check_output(command, text=True).splitlines()[-1])


# ------------------------------------------------------------------------- suites


def table(*columns: str, rows: list[tuple]) -> str:
    lines = [columns, ['---'] * len(columns), *rows]
    return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def against(values: dict[str, float], name: str, target: tuple | None) -> list[str]:
    """The ratio to the first of the suite, or to the target's, and the target."""
    ratio, base = target or ('', next(iter(values)))
    of = '' if base == next(iter(values)) else f' of {base}'
    return [f'{values[name] / values[base]:.2f}{of}', ratio and f'{ratio:.2f}']


def backbones(suite: str, args: argparse.Namespace) -> str:
    setups = {k: v for k, v in SUITES[suite].items() if possible(v, args.device)}
    train = suite == 'training'
    runs = {k: contestant(v, args, train)[1] for k, v in setups.items()}
    first = next(iter(runs.values()))
    images = first.args[-1]
    with FlopCounterMode(display=False) as counter:
        first()
    at_full_rate = counter.get_total_flops() / 2 / matrix_rate(args.device)
    times = in_turn(runs, args.rounds)
    columns = ['what', 'ms', 'images/s', 'of the matrix rate', 'time', 'target']
    rows = [
        [
            name,
            f'{1000 * seconds:.0f}',
            f'{len(images) / seconds:.2f}',
            f'{at_full_rate / seconds:.2f}',
            *against(times, name, setups[name].time),
        ]
        for name, seconds in times.items()
    ]
    if train:
        columns += ['tensors, MB', 'of timm', 'target', 'process, MB', 'ratio']
        peaks = {name: peak(suite, name, args) for name in track(setups, 'Memory')}
        tensors, process = (
            {name: values[i] for name, values in peaks.items()} for i in (0, 1)
        )
        for row in rows:
            name, target = row[0], setups[row[0]].memory
            row += [f'{tensors[name]:.0f}', *against(tensors, name, target)]
            row += [f'{process[name]:.0f}', against(process, name, target)[0]]
    shape = 'x'.join(map(str, images.shape))
    title = f'## {suite.capitalize()}, NextViT-{args.arch}, {shape}\n\n'
    return title + table(*columns, rows=rows)


def growth(suite: str, args: argparse.Namespace) -> str:
    """Inference over sizes at one image, and over batches at one size."""
    setups = {k: SUITES['inference'][k] for k in ('timm', 'ours, deploy mode')}
    shapes = [(1, size) for size in SIZES]
    shapes += [(batch, args.size or 320) for batch in BATCHES]
    found = []
    for batch, size in shapes:
        changed = argparse.Namespace(**{**vars(args), 'batch': batch, 'size': size})
        runs = {k: contestant(v, changed)[1] for k, v in setups.items()}
        times = in_turn(runs, max(args.rounds // 2, 1))
        found.append([s / batch for s in times.values()])
    if args.plot:
        draw(shapes, found, [*setups], args)
    rows = [
        [f'{batch}x3x{size}x{size}', *(f'{1000 * s:.0f}' for s in times)]
        + [f'{times[1] / times[0]:.2f}', f'{1e9 * times[1] / size**2:.0f}']
        for (batch, size), times in zip(shapes, found)
    ]
    columns = [f'{name}, ms an image' for name in setups]
    return f'## Growth, NextViT-{args.arch}\n\n' + table(
        'images', *columns, 'ratio', 'ours, ns a pixel', rows=rows
    )


def draw(shapes: list, found: list, names: list[str], args: argparse.Namespace) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), dpi=80)
    for i, name in enumerate(names):
        points = [(size, batch, t[i]) for (batch, size), t in zip(shapes, found)]
        axes[0].plot(
            *zip(*[(s, 1000 * t) for s, _, t in points[: len(SIZES)]]), 'o-', label=name
        )
        axes[1].plot(
            *zip(*[(b, 1000 * t) for _, b, t in points[len(SIZES) :]]), 'o-', label=name
        )
    axes[0].set(xlabel='size, pixels', ylabel='ms an image', title='1 image')
    axes[1].set(xlabel='batch', title=f'{shapes[-1][1]} pixels')
    for ax in axes:
        ax.set_ylim(0)
        ax.grid(alpha=0.3)
        ax.legend()
    figure.tight_layout()
    figure.savefig(args.plot)


def loops(suite: str, args: argparse.Namespace) -> str:
    """A detector's loops, and timm's step in the shape of the config's batches."""
    if not args.config:
        raise ValueError('loops: name the detector with --config, and --checkpoint')
    if args.device != get_device():
        raise ValueError(f'loops run on {get_device()}: say --device {get_device()}')
    folder = tempfile.TemporaryDirectory()
    args.work_dir, args.launcher = folder.name, 'none'
    cfg = load_config(args)
    cfg.load_from = args.checkpoint and existing_file(args.checkpoint, 'checkpoint')
    *times, shape = measure_training(cfg, args.rounds)
    whole, waiting, model, loader = map(median, times)
    timm_net = network(Setup('timm'), args.arch, args.device).train()
    images = torch.randn(shape, device=args.device)
    timm_step = partial(training, timm_net, Setup('timm'), images)
    step = in_turn({'timm': timm_step}, args.rounds)['timm']
    rows = [
        ['training iteration', whole, "timm's backbone step", step, 1.12],
        ['training iteration', whole, 'model and loader alone', model + loader, 1.10],
        ['waiting for the loader', waiting, 'training iteration', whole, ''],
    ]
    whole, forward = map(median, measure_validation(cfg, max(args.rounds // 3, 1)))
    rows.append(['validation, an image', whole, 'its forward pass', forward, 1.25])
    size = args.size or 640
    whole, forward = map(median, measure_detection(cfg, size, args.rounds))
    rows.append([f'detection, {size}x{size}', whole, 'its forward pass', forward, 1.10])
    rows = [
        [a, f'{1000 * x:.0f}', b, f'{1000 * y:.0f}', f'{x / y:.2f}', target]
        for a, x, b, y, target in rows
    ]
    shape = 'x'.join(map(str, shape))
    return f'## Loops, {Path(args.config).stem}, {shape}\n\n' + table(
        'what', 'ms', 'beside', 'ms', 'ratio', 'target', rows=rows
    )


IMPORTS = {  # MMDetection and MMYOLO need a stand-in for mmcv's ops, which ours brings
    'mmdet.models, mmyolo.models': (
        'from importlib.util import module_from_spec, spec_from_file_location\n'
        f'spec = spec_from_file_location("ops", {str(OURS[0] / "_mmcv.py")!r})\n'
        'ops = module_from_spec(spec)\n'
        'spec.loader.exec_module(ops)\n'
        'ops.prepare_mmcv()\n'
        'import mmdet.models, mmyolo.models\n'
    ),
    'mmnextvit': 'import mmnextvit\n',
}


def startup(suite: str, args: argparse.Namespace) -> str:
    def call(code: str) -> float:
        code = f'import time\nstart = time.perf_counter()\n{code}'
        code += 'print(time.perf_counter() - start)'
        command = [sys.executable, '-c', code]
        env = {**os.environ, 'PYTHONPATH': str(ROOT)}
        return float(subprocess.check_output(command, text=True, env=env).split()[-1])

    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    builds = []
    for _ in track(range(args.rounds), 'Starting'):
        for name, code in IMPORTS.items():
            times[name].append(call(code))
        start = time.perf_counter()
        NextViT(args.arch)
        builds.append(time.perf_counter() - start)
    base, ours = map(median, times.values())
    rows = [
        [f'import {[*IMPORTS][0]}', f'{base:.2f}', '', ''],
        ['import mmnextvit', f'{ours:.2f}', f'{ours / base:.2f}', '1.10'],
        [f"NextViT('{args.arch}')", f'{median(builds):.2f}', '', '1.00 s'],
    ]
    return '## Startup\n\n' + table('what', 's', 'ratio', 'target', rows=rows)


RUN = {**dict.fromkeys(SUITES, backbones)}
RUN.update(growth=growth, loops=loops, startup=startup)


def machine(device: str) -> str:
    """The machine and the versions, in a line."""
    info = Path('/proc/cpuinfo')
    names = [x for x in info.read_text().splitlines() if x.startswith('model name')] \
        if info.is_file() else []  # fmt: skip
    name = names[0].partition(': ')[2] if names else platform.processor()
    parts = [
        f'{name} ({torch.backends.cpu.get_cpu_capability()}), '
        f'{torch.get_num_threads()} threads',
        f'Python {platform.python_version()}',
        *(f'{p} {version(p)}' for p in ('torch', 'timm', 'mmengine', 'mmdet')),
    ]
    if device != 'cpu':
        parts.insert(0, torch.cuda.get_device_name(device))
    rate = matrix_rate(device) / 1e9
    return f'{", ".join(parts)}. A product of float32 matrices: {rate:.0f} GMAC/s.'


@cache
def matrix_rate(device: str) -> float:
    """Multiply-accumulates a second of a product of large float32 matrices.

    Also as a 1x1 convolution, since that may be another library's work: on AMD's
    processors MKL leaves AVX-512 unused, oneDNN does not. The faster one counts.
    """
    size = 2048 if device == 'cpu' else 8192
    a, b = torch.rand(2, size, size, device=device)
    maps = a.view(1, 32, -1, size).permute(0, 3, 1, 2)  # channels-last
    kernel = b.view(size, size, 1, 1)
    ways = {'product': lambda: a @ b, 'convolution': lambda: F.conv2d(maps, kernel)}
    return size**3 / min(in_turn(ways, 7).values())


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    p.add_argument('suites', nargs='*', metavar='SUITE', help=', '.join(RUN))
    p.add_argument('--arch', default='small', choices=['small', 'base', 'large'])
    p.add_argument('--size', type=int, help='pixels (640, of training 320)')
    p.add_argument('--batch', type=int, help='images (1, of training 8)')
    p.add_argument('--rounds', type=int, default=9, help='measurements of each')
    p.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    p.add_argument('--config', help='detector of the loops')
    p.add_argument('--checkpoint', help='its trained weights')
    p.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    p.add_argument('-o', '--out', help='a new file for the tables')
    p.add_argument('--plot', metavar='FILE.png', help='image of the growth')
    p.add_argument('--peak', help=argparse.SUPPRESS)
    args = p.parse_args()
    unknown = sorted(set(args.suites) - set(RUN))
    if unknown:
        p.error(f'unknown suites {unknown}: there are {", ".join(RUN)}')
    if args.out and Path(args.out).exists():
        p.error(f'-o {args.out} exists, and nothing is overwritten: choose another')
    if args.out and not Path(args.out).resolve().parent.is_dir():
        p.error(f'-o {args.out}: there is no such folder')
    if args.device != 'cpu' and not torch.cuda.is_available():
        p.error(f'--device {args.device}: torch finds no CUDA GPU here')
    return args


def main() -> None:
    args = parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    torch.backends.cudnn.allow_tf32 = False  # as of products, whose rate is measured
    if args.peak:
        measure_peak(args.suites[0], args.peak, args)
        return
    command = shlex.join(['python', 'tools/benchmark.py', *sys.argv[1:]])
    texts = [f'    {command}\n\n{machine(args.device)}']
    wanted = args.suites or [name for name in RUN if name != 'loops' or args.config]
    for suite in wanted:
        texts.append(RUN[suite](suite, args))
        if args.out:  # after each: a run takes minutes
            Path(args.out).write_text('\n\n'.join(texts) + '\n')
    print('\n\n'.join(texts))


if __name__ == '__main__':
    run(main)
