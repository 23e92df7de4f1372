"""Parts of benchmarks/gpu.sh: benchmarks/gpu.py PART --out FOLDER [--device cpu --tiny]

Each part writes its table anew after every row, so that a part that is ended leaves
what it has measured. Contestants take turns. Every network is NextViT-small or timm's;
with --tiny they are small ones and images have 64 pixels a side, to try it on a CPU.
"""

import argparse
import copy
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import mmnextvit  # noqa: E402, F401  (first)
from mmnextvit import NextViT  # noqa: E402
from mmnextvit.benchmark.loops import measure_training  # noqa: E402
from mmnextvit.benchmark.norms import vary_norms  # noqa: E402
from mmnextvit.benchmark.report import Table, describe_machine  # noqa: E402
from mmnextvit.benchmark.timing import time_call, time_in_turn  # noqa: E402
from mmnextvit.datasets.demo_data import make_demo_data  # noqa: E402
from mmnextvit.engine.batch_size import choose_batch_size  # noqa: E402
from mmnextvit.engine.training import make_training_config  # noqa: E402
from mmnextvit.models.compute_options import settle_options  # noqa: E402
from mmnextvit.models.fold import copy_folded  # noqa: E402
from mmnextvit.models.graphs import capture_cuda_graph  # noqa: E402
from mmnextvit.utils.files import atomic_write_text  # noqa: E402

import timm  # noqa: E402
import torch  # noqa: E402
from mmcv.ops import nms, roi_align  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

TINY = dict(
    depths=(1, 2, 5, 2),
    stem_channels=(32, 32, 32),
    ncb_channels=(32, 64, 64, 96),
    stage_channels=(32, 128, 128, 128),
)
TINY_TIMM = 'test_resnet.r160_in1k'
# The type of weights and maps, and whether float32 may be TF32.
PRECISIONS = {
    'float32': (torch.float32, False),
    'TF32': (torch.float32, True),
    'bfloat16': (torch.bfloat16, False),
    'float16': (torch.float16, False),
}
Run = Callable[[], object]


@dataclass
class Setting:
    """What the command line says.

    Attributes:
        device: Where everything is computed.
        tiny: Whether networks and images are small.
        out: File for the table.
        rounds: Measurements of each contestant.
    """

    device: torch.device
    tiny: bool
    out: Path
    rounds: int

    @property
    def size(self) -> int:
        return 64 if self.tiny else 640

    def pick(self, values: Sequence[Any]) -> Sequence[Any]:
        """All values, or the first of them where it is tiny."""
        return values[:1] if self.tiny else values

    def make_images(self, count: int) -> Tensor:
        """Random images (B, 3, H, W), the same each time."""
        g = torch.Generator().manual_seed(0)
        shape = count, 3, self.size, self.size
        return torch.randn(shape, generator=g).to(self.device)


@dataclass
class Report:
    """A table in a file that has every row as soon as it is there."""

    out: Path
    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        texts = [f'{c:.3g}' if isinstance(c, float) else str(c) for c in cells]
        self.rows.append(texts)
        self.write()
        print(' | '.join(texts), flush=True)

    def write(self) -> None:
        table = Table(self.title, self.columns, self.rows)
        atomic_write_text(self.out, table.to_markdown() + '\n')


@contextmanager
def in_precision(name: str) -> Iterator[torch.dtype]:
    """Lets float32 be TF32 in the block, or not, and gives the type of the maps."""
    dtype, tf32 = PRECISIONS[name]
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield dtype
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def build_networks(setting: Setting) -> dict[str, nn.Module]:
    """timm's backbone and ours, with BatchNorm statistics unlike a fresh net's."""
    torch.manual_seed(0)
    name = TINY_TIMM if setting.tiny else 'nextvit_small'
    networks = {
        'timm': timm.create_model(name, features_only=True),
        'ours': NextViT(TINY if setting.tiny else 'small'),
    }
    for network in networks.values():
        vary_norms(network)
    return {k: v.to(setting.device) for k, v in networks.items()}


def find_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The largest difference, beside the largest value, of all tensors."""
    pairs = zip(found, exact, strict=True)
    return max(
        ((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()
        for a, b in pairs
    )


def measure_rate(setting: Setting, dtype: torch.dtype) -> float:
    """Multiply-accumulates a second of a product of large matrices."""
    size = 256 if setting.tiny else 8192 if setting.device.type == 'cuda' else 2048
    a, b = torch.rand(2, size, size, device=setting.device).to(dtype)
    return size**3 / time_in_turn({'product': lambda: a @ b}, 5)['product']


# --------------------------------------------------------------------------- the parts


def report_machine(setting: Setting) -> None:
    """The machine, and its matrix rate in each precision."""
    kind = setting.device.type
    title = f'The machine: {describe_machine(kind)}'
    report = Report(setting.out, title, ['precision', 'TMAC/s of a matrix product'])
    for name in PRECISIONS:
        with in_precision(name) as dtype:
            report.add(name, measure_rate(setting, dtype) / 1e12)


def check_correctness(setting: Setting) -> None:
    """Errors against float64 and plain references; exits with 1 if one is too large."""
    columns = ['what', 'error', 'at most', 'right']
    report = Report(setting.out, 'Correctness, largest errors', columns)
    failed = False

    def judge(what: str, error: float, most: float) -> None:
        nonlocal failed
        right = error <= most  # NaN is not
        failed |= not right
        report.add(what, error, most, 'yes' if right else 'NO')

    for what, error, most in list_errors(setting):
        judge(what, error, most)
    if failed:
        sys.exit(1)


def list_errors(setting: Setting) -> Iterator[tuple[str, float, float]]:
    """What is compared, its error, and how large that may be."""
    yield from list_map_errors(setting)
    yield from list_gradient_errors(setting)
    yield from list_op_errors(setting)


def list_map_errors(setting: Setting) -> Iterator[tuple[str, float, float]]:
    """Of the deployed backbone's maps, by precision and format, and of a graph."""
    network = build_networks(setting)['ours'].eval()
    images = setting.make_images(2)
    most = {'float32': 1e-3, 'TF32': 2e-2, 'bfloat16': 0.2, 'float16': 3e-2}
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(images.double())
        for memory_format in ('contiguous', 'channels_last'):
            settle_options(dict(memory_format=memory_format), setting.device)
            deployed = copy_folded(network)
            for name in PRECISIONS:
                what = f'maps, {name}, {memory_format}'
                with in_precision(name) as dtype:
                    net = copy.deepcopy(deployed).to(dtype)
                    yield what, find_error(net(images.to(dtype)), exact), most[name]
                    if setting.device.type == 'cuda':
                        replay = capture_cuda_graph(net, images.to(dtype))
                        found = replay(images.to(dtype))
                        yield f'{what}, graph', find_error(found, exact), most[name]
    settle_options({}, setting.device)


def list_gradient_errors(setting: Setting) -> Iterator[tuple[str, float, float]]:
    """Of a training step's gradients: float32, norms recomputed or not, float16 AMP."""
    network = build_networks(setting)['ours'].train()
    for m in network.modules():
        if hasattr(m, 'drop_prob'):
            m.drop_prob = 0.0
    images = setting.make_images(8)  # few leave a norm too few cells to average

    def find_gradients(net: nn.Module, x: Tensor, dtype: torch.dtype | None) -> Tensor:
        kind = x.device.type
        with torch.autocast(kind, dtype, enabled=dtype is not None):
            maps = net(x)
        scale = 2.0**10 if dtype == torch.float16 else 1.0
        loss = sum(y.to(x.dtype).square().mean() for y in maps)
        gradients = torch.autograd.grad(scale * loss, [*net.parameters()])
        return torch.cat([g.flatten().double() / scale for g in gradients])

    exact = find_gradients(copy.deepcopy(network).double(), images.double(), None)
    half = torch.float16 if setting.device.type == 'cuda' else torch.bfloat16
    for recompute in (False, True):
        settle_options(dict(recompute_norms=recompute), setting.device)
        for dtype, most in ((None, 1e-2), (half, 0.3)):
            found = find_gradients(copy.deepcopy(network), images, dtype)
            error = ((found - exact).norm() / exact.norm()).item()
            name = str(dtype or torch.float32).removeprefix('torch.')
            norms = 'recomputed' if recompute else 'kept'
            yield f'gradients, {name}, norms {norms}', error, most
    settle_options({}, setting.device)


def list_op_errors(setting: Setting) -> Iterator[tuple[str, float, float]]:
    """Of NMS and RoIAlign, against plain loops in float64."""
    g = torch.Generator().manual_seed(0)
    corners = torch.rand(200, 2, generator=g) * 60
    boxes = torch.cat([corners, corners + 4 + 30 * torch.rand(200, 2, generator=g)], 1)
    scores = torch.rand(200, generator=g)
    _, kept = nms(boxes.to(setting.device), scores.to(setting.device), 0.5)
    differ = kept.cpu().tolist() != suppress_plainly(boxes, scores, 0.5)
    yield 'NMS, other boxes kept', float(differ), 0.0

    maps = torch.randn(2, 3, 12, 15, generator=g)
    rois = torch.tensor([[0, 4.0, 6, 60, 50], [1, 10, 2, 100, 90], [1, 0, 0, 9, 7]])
    exact = align_plainly(maps.double(), rois.double(), 4, 1 / 8, 2)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = maps.to(setting.device).contiguous(memory_format=memory_format)
        # mmcv's own takes any map as contiguous, as the backbone gives it.
        found = roi_align(given.contiguous(), rois.to(setting.device), 4, 1 / 8, 2)
        yield f'RoIAlign, {memory_format}', find_error([found.cpu()], [exact]), 1e-4


def suppress_plainly(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Indices of the boxes (N, 4) that NMS keeps, by falling score."""
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(find_overlap(boxes[i], boxes[k]) <= threshold for k in kept):
            kept.append(i)
    return kept


def find_overlap(a: Tensor, b: Tensor) -> float:
    """Intersection of two boxes over their union."""
    ax1, ay1, ax2, ay2 = a.tolist()
    bx1, by1, bx2, by2 = b.tolist()
    width = max(min(ax2, bx2) - max(ax1, bx1), 0)
    height = max(min(ay2, by2) - max(ay1, by1), 0)
    both = width * height
    return both / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both)


def align_plainly(
    maps: Tensor, rois: Tensor, bins: int, scale: float, samples: int
) -> Tensor:
    """Aligned RoIAlign of maps (B, C, H, W) and rois (N, 5), point by point.

    Returns:
        (N, C, bins, bins)
    """
    channels, height, width = maps.shape[1:]
    result = maps.new_zeros(len(rois), channels, bins, bins)
    for n, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (scale * v - 0.5 for v in box)
        for row in range(bins):
            for column in range(bins):
                for i in range(samples * samples):
                    down, right = divmod(i, samples)
                    y = y1 + (row + (down + 0.5) / samples) * (y2 - y1) / bins
                    x = x1 + (column + (right + 0.5) / samples) * (x2 - x1) / bins
                    if -1 <= y <= height and -1 <= x <= width:
                        point = interpolate(maps[int(image)], y, x)
                        result[n, :, row, column] += point / samples**2
    return result


def interpolate(feature_map: Tensor, y: float, x: float) -> Tensor:
    """A map's (C, H, W) values at a point, from its four nearest cells."""
    height, width = feature_map.shape[1:]
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, h = y - top, x - left
    return (
        feature_map[:, top, left] * (1 - v) * (1 - h)
        + feature_map[:, top, right] * (1 - v) * h
        + feature_map[:, bottom, left] * v * (1 - h)
        + feature_map[:, bottom, right] * v * h
    )


def measure_inference(setting: Setting) -> None:
    """timm and ours: eager, compiled, graph; batches; precisions; formats."""
    columns = ['images', 'precision', 'how', 'contestant', 'ms', 'share', 'of timm']
    report = Report(setting.out, f'Inference, {setting.size} px', columns)
    hows = (
        ['eager', 'graph', 'compiled'] if setting.device.type == 'cuda' else ['eager']
    )
    networks = {k: v.eval() for k, v in build_networks(setting).items()}
    for how in hows:
        # Compiling takes most of a minute each: one precision, one batch.
        few = setting.tiny or how == 'compiled'
        for name in ['float16'] if how == 'compiled' else setting.pick([*PRECISIONS]):
            with in_precision(name) as dtype:
                rate = measure_rate(setting, dtype)
                for count in [1] if few else [1, 8, 64]:
                    images = setting.make_images(count).to(dtype)
                    runs = build_passes(networks, images, dtype, how, setting)
                    macs = count_macs(networks['ours'], images[:1].float()) * count
                    times = time_passes(runs, setting)
                    for contestant, seconds in times.items():
                        report.add(
                            *(count, name, how, contestant, 1000 * seconds),
                            *(macs / rate / seconds, seconds / times['timm']),
                        )


def build_passes(
    networks: Mapping[str, nn.Module],
    images: Tensor,
    dtype: torch.dtype,
    how: str,
    setting: Setting,
) -> dict[str, Run]:
    """What is timed, by name: timm's and ours in both formats."""
    nets, runs = {}, {}
    for memory_format in ('contiguous', 'channels_last'):
        last = ', channels-last' if memory_format == 'channels_last' else ''
        timms = copy.deepcopy(networks['timm']).to(dtype)
        nets[f'timm{last}'] = (
            timms.to(memory_format=torch.channels_last) if last else timms,
            memory_format,
        )
        settle_options(dict(memory_format=memory_format), setting.device)
        ours = copy_folded(networks['ours']).to(dtype)
        nets[f'ours, deployed{last}'] = ours, memory_format
    for name, (net, memory_format) in nets.items():
        settle = partial(
            settle_options, dict(memory_format=memory_format), setting.device
        )
        settle()
        with torch.no_grad():
            if how == 'compiled':
                call = torch.compile(net)
            elif how == 'graph':
                call = capture_cuda_graph(net, images)
            else:
                call = net
        runs[name] = partial(run_without_gradients, settle, call, images)
    settle_options({}, setting.device)
    return runs


def run_without_gradients(settle: Run, call: Callable, images: Tensor) -> None:
    settle()
    with torch.no_grad():
        call(images)


def time_passes(runs: Mapping[str, Run], setting: Setting) -> dict[str, float]:
    """Median seconds, in turn; fewer rounds of what takes long."""
    slow = max(time_call(run) for run in runs.values()) > 0.5
    return time_in_turn(runs, 1 if setting.tiny or slow else setting.rounds)


def count_macs(network: nn.Module, images: Tensor) -> float:
    """Multiply-accumulates of a pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return counter.get_total_flops() / 2


def measure_steps(setting: Setting) -> None:
    """A training step of the backbone beside timm's, its formats, norms and memory."""
    columns = ['precision', 'contestant', 'ms', 'of timm', 'peak, MB']
    count = 2 if setting.tiny else 16
    title = f'Training step, {count}x3x{setting.size}x{setting.size}'
    report = Report(setting.out, title, columns)
    half = torch.float16 if setting.device.type == 'cuda' else torch.bfloat16
    networks = {k: v.train() for k, v in build_networks(setting).items()}
    networks['timm, channels-last'] = copy.deepcopy(networks['timm']).to(
        memory_format=torch.channels_last
    )
    ways = {
        'timm': ('timm', {}),
        'timm, channels-last': ('timm, channels-last', {}),
        'ours, by default': ('ours', {}),
        'ours, contiguous': ('ours', dict(memory_format='contiguous')),
        'ours, norms recomputed': ('ours', dict(recompute_norms=True)),
        'ours, norms kept': ('ours', dict(recompute_norms=False)),
    }
    images = setting.make_images(count)
    for precision, dtype in (('TF32', None), (f'{half}, autocast', half)):
        with in_precision('TF32'):
            runs = {
                name: partial(step, networks[net], env_cfg, images, dtype)
                for name, (net, env_cfg) in ways.items()
            }
            times = time_passes(runs, setting)
            for name, seconds in times.items():
                report.add(
                    *(precision.removeprefix('torch.'), name, 1000 * seconds),
                    *(seconds / times['timm'], measure_peak_mb(runs[name], setting)),
                )
    settle_options({}, setting.device)


def step(
    net: nn.Module, env_cfg: dict, images: Tensor, dtype: torch.dtype | None
) -> None:
    """Forward and backward."""
    settle_options(env_cfg, images.device)
    net.zero_grad()
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        maps = net(images)
    sum(y.float().square().mean() for y in maps).backward()


def measure_peak_mb(run: Run, setting: Setting) -> float:
    """MB of torch's tensors at the peak of a call; NaN on a CPU."""
    if setting.device.type != 'cuda':
        return math.nan
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / 2**20


@contextmanager
def demo_config(setting: Setting) -> Iterator[Config]:
    """A config for a training on drawn shapes, with mosaic where it is not tiny."""
    MMLogger.get_current_instance().setLevel('ERROR')
    with tempfile.TemporaryDirectory() as folder:
        images = 8 if setting.tiny else 512
        make_demo_data(Path(folder), train=images, val=4, size=setting.size, seed=0)
        name = 'yolov5_nextvit_s_demo' if setting.tiny else 'yolov5_nextvit_s'
        cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
        cfg.work_dir = str(Path(folder, 'run'))
        cfg.load_from = cfg.model.backbone.init_cfg = None
        if setting.tiny:
            cfg.model.backbone.arch = TINY
        classes = ('circle', 'square', 'triangle')
        cfg.model.bbox_head.head_module.num_classes = len(classes)
        for mode in ('train', 'val', 'test'):
            loader = cfg[f'{mode}_dataloader']
            split = 'train' if mode == 'train' else 'val'
            loader.dataset.update(
                data_root=f'{folder}/',
                metainfo=dict(classes=classes),
                ann_file=f'annotations/{split}.json',
                data_prefix=dict(img=f'{split}/'),
            )
            if mode != 'train':
                cfg[f'{mode}_evaluator'].ann_file = f'{folder}/annotations/val.json'
        yield cfg


def measure_loader(setting: Setting) -> None:
    """Training iterations with the loader and without, by its workers."""
    columns = [
        'workers',
        'images/s',
        'of the step alone',
        'waiting',
        'loader, images/s',
    ]
    report = Report(setting.out, 'Training with the loader', columns)
    with demo_config(setting) as cfg:
        if setting.device.type == 'cuda':
            cfg.optim_wrapper.type = 'AnyDeviceAmpOptimWrapper'
        for workers in [0] if setting.tiny else [4, 8, 16]:
            loader = cfg.train_dataloader
            loader.update(
                batch_size=2 if setting.tiny else 16,
                num_workers=workers,
                persistent_workers=workers > 0,
            )
            found = measure_training(cfg, 1 if setting.tiny else 8)
            mean = {
                name: sum(values) / len(values)
                for name, values in found._asdict().items()
                if name != 'shape'
            }
            images = found.shape[0]
            report.add(
                *(workers, images / mean['iterations']),
                *(mean['iterations'] / mean['model'],),
                *(mean['waiting'] / mean['iterations'], images / mean['loader']),
            )


def measure_largest_batch(setting: Setting) -> None:
    """The largest batch of a step, timm's and ours, and what --batch auto takes."""
    columns = ['contestant', 'largest batch', 'peak, MB']
    report = Report(setting.out, f'Largest batch, {setting.size} px, TF32', columns)
    most = 2 if setting.tiny else 4096
    networks = {k: v.train() for k, v in build_networks(setting).items()}
    contestants = {
        'timm': (networks['timm'], {}),
        'ours, by default': (networks['ours'], {}),
        'ours, norms recomputed': (networks['ours'], dict(recompute_norms=True)),
    }
    for name, (net, env_cfg) in contestants.items():
        largest, peak = 0, math.nan
        count = 1
        while count <= most:
            try:
                run = partial(step, net, env_cfg, setting.make_images(count), None)
                run()
                peak, largest = measure_peak_mb(run, setting), count
            except torch.OutOfMemoryError:
                break
            count *= 2
        net.zero_grad()
        report.add(name, f'{largest} (of powers of 2)', peak)
    del networks, contestants, net
    if setting.device.type == 'cuda':
        torch.cuda.empty_cache()
    with demo_config(setting) as cfg:
        init_default_scope('mmyolo')
        ready = make_training_config(cfg, None, False)
        report.add('detector, --batch auto', choose_batch_size(ready), math.nan)


PARTS: dict[str, Callable[[Setting], None]] = {
    'machine': report_machine,
    'correctness': check_correctness,
    'inference': measure_inference,
    'steps': measure_steps,
    'loader': measure_loader,
    'batch': measure_largest_batch,
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('part', nargs='+', choices=PARTS)
    p.add_argument('--out', type=Path, required=True, help='folder for PART.md')
    p.add_argument('--device', default='cuda')
    p.add_argument('--tiny', action='store_true')
    p.add_argument('--rounds', type=int, default=9)
    args = p.parse_args()
    for name in args.part:
        out = args.out / f'{name}.md'
        device = torch.device(args.device)
        PARTS[name](Setting(device, args.tiny, out, args.rounds))


if __name__ == '__main__':
    main()
