"""How a detector costs more with classes, boxes, image size, workers and processes.

The network, what follows it to the boxes (postprocessing), and a training step are
measured apart. Values of one axis take turns.

``torchrun -m mmnextvit.benchmark.costs SETTINGS`` is one of the processes that train
together.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from rich.progress import track
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from .. import config_file
from ..datasets.demo_data import make_demo_data
from ..engine.configs import read_config
from ..engine.runner import ResumableRunner, build_model
from ..models.fold import copy_folded
from ..runtime import count_cores
from ..utils.errors import UserError
from ..utils.messages import shorten
from .backbones import Settings
from .report import Table
from .timing import WARM_UP, time_call, time_in_turn

CONFIG = 'yolov5_nextvit_s'
CLASS_NAMES = ('circle', 'square', 'triangle')  # of the demo's images
CLASSES, BOXES = (1, 80, 365, 1203), (1, 10, 100, 1000)
SIZES, WORKERS, PROCESSES = (320, 480, 640, 960), (0, 1, 2), (1, 2)
BATCH = 2  # images of a training step, over all processes
IMAGES = 32  # of a loader's epoch
HIT, MISS = 6.0, -20.0  # logits of what is found, and of what is not
NETWORK, POSTPROCESSING, STEP, LOADER = (
    *('network', 'postprocessing', 'training step', 'loader'),
)
PARTS = (NETWORK, POSTPROCESSING, STEP, LOADER)

Calls = Mapping[str, Callable[[], object]]


class Cost(NamedTuple):
    """What one value of an axis costs.

    Attributes:
        axis: What grows, such as 'classes'.
        value: How many.
        seconds: Median for an image by part, of those that were measured.
    """

    axis: str
    value: int
    seconds: Mapping[str, float]


class Load(NamedTuple):
    """What a detector has to do."""

    classes: int = 80
    boxes: int = 100  # in an image
    size: int = 320  # pixels


class FixedMaps(nn.Module):
    """A head's module that gives the same maps for whatever it gets.

    Args:
        maps: Classes, boxes and objectness, each a list of levels (B, C, H, W).
    """

    def __init__(self, maps: Sequence[Sequence[Tensor]]) -> None:
        super().__init__()
        self.maps = tuple(map(list, maps))

    def forward(self, x: object) -> tuple[list[Tensor], ...]:
        return self.maps


def make_config(arch: Any, load: Load) -> Config:
    """The config of a detector for a load, without a data set.

    Args:
        arch: Of :class:`NextViT`.
        load: What it has to do.
    """
    options = {
        'model.backbone.arch': arch,
        'model.bbox_head.head_module.num_classes': load.classes,
    }
    return read_config(config_file(CONFIG), options)


def make_hits(load: Load, strides: Sequence[int], anchors: int) -> list[list[Tensor]]:
    """Maps of a head that finds as many boxes as the load has, each as one class.

    Args:
        load: What is found.
        strides: Pixels of a cell, by level.
        anchors: Boxes of a cell.

    Raises:
        UserError: There are fewer cells than boxes.
    """
    generator = torch.Generator().manual_seed(0)
    sides = [load.size // stride for stride in strides]
    cells = anchors * sum(side * side for side in sides)
    if cells < load.boxes:
        raise UserError(f'{load.boxes} boxes do not fit into {cells} cells')
    hits = torch.randperm(cells, generator=generator)[: load.boxes]
    objectness = torch.full((cells,), MISS).index_fill(0, hits, HIT)
    scores = torch.full((cells, load.classes), MISS)
    scores[hits, torch.randint(load.classes, hits.shape, generator=generator)] = HIT
    boxes = torch.randn(cells, 4, generator=generator)

    def to_levels(values: Tensor) -> list[Tensor]:
        # N c -> A H W c -> A c H W -> 1 (A c) H W
        parts = values.split([anchors * side * side for side in sides])
        shaped = (
            part.reshape(anchors, side, side, -1).permute(0, 3, 1, 2).flatten(0, 1)
            for part, side in zip(parts, sides)
        )
        return [level[None].contiguous() for level in shaped]

    return [to_levels(scores), to_levels(boxes), to_levels(objectness[:, None])]


def prepare_postprocessing(detector: nn.Module, load: Load) -> Callable[[], object]:
    """The call that makes the boxes of one image of maps that are there already."""
    head = detector.bbox_head
    strides, anchors = head.featmap_strides, head.num_base_priors
    maps = make_hits(load, [int(stride) for stride in strides], anchors)
    detector.backbone, detector.neck = nn.Identity(), nn.Identity()
    head.head_module = FixedMaps(maps)
    size = load.size, load.size
    sample = DetDataSample(
        metainfo=dict(
            img_shape=size,
            ori_shape=size,
            batch_input_shape=size,
            scale_factor=(1.0, 1.0),
            img_id=0,
        )
    )
    image = torch.zeros(1, 3, *size)

    def predict() -> object:
        with torch.inference_mode():
            return detector(image, [sample], mode='predict')

    return predict


def make_truth(load: Load, batch: int) -> Tensor:
    """Random boxes (B * N, 6): number of the image, class, x1, y1, x2, y2."""
    generator = torch.Generator().manual_seed(0)
    count = batch * load.boxes
    ends = load.size * torch.rand(count, 2, 2, generator=generator)
    labels = torch.randint(load.classes, (count,), generator=generator)
    numbers = torch.arange(batch).repeat_interleave(load.boxes)
    boxes = torch.cat((ends.amin(1), ends.amax(1)), 1)
    return torch.cat((numbers[:, None], labels[:, None], boxes), 1)


def prepare_step(
    detector: nn.Module, load: Load, batch: int, loss: Callable[..., dict] | None = None
) -> Callable[[], object]:
    """The call that makes a training step, forward and backward.

    Args:
        detector: The detector.
        load: What is in its images.
        batch: Images of a step.
        loss: What computes the losses; the detector if ``None``.
    """
    images = torch.randint(256, (batch, 3, load.size, load.size), dtype=torch.uint8)
    truth, compute = make_truth(load, batch), loss or detector
    detector.train()

    def step() -> None:
        detector.zero_grad()
        samples = dict(bboxes_labels=truth.clone(), img_metas=[])
        data = dict(inputs=images.clone(), data_samples=samples)
        data = detector.data_preprocessor(data, True)
        total, _ = detector.parse_losses(compute(**data, mode='loss'))
        total.backward()

    return step


def prepare_detector(arch: Any, load: Load, parts: Sequence[str]) -> Calls:
    """The calls of a detector's parts, by name."""
    calls: dict[str, Callable[[], object]] = {}
    model = make_config(arch, load)
    if NETWORK in parts:
        network = copy_folded(build_model(model).eval())
        image = torch.randn(1, 3, load.size, load.size)

        def forward() -> object:
            with torch.inference_mode():
                return network(image, mode='tensor')

        calls[NETWORK] = forward
    if POSTPROCESSING in parts:
        calls[POSTPROCESSING] = prepare_postprocessing(build_model(model).eval(), load)
    if STEP in parts:
        calls[STEP] = prepare_step(build_model(model), load, BATCH)
    return calls


def measure_axis(
    axis: str, loads: Mapping[int, Load], parts: Sequence[str], arch: Any, rounds: int
) -> list[Cost]:
    """Times the parts of detectors whose loads differ in one thing."""
    calls = {v: prepare_detector(arch, load, parts) for v, load in loads.items()}
    seconds: dict[int, dict[str, float]] = {value: {} for value in loads}
    for part in parts:
        runs = {str(value): calls[value][part] for value in loads}
        images = BATCH if part == STEP else 1
        for value, found in time_in_turn(runs, rounds).items():
            seconds[int(value)][part] = found / images
    return [Cost(axis, value, found) for value, found in seconds.items()]


def measure_workers(size: int, counts: Sequence[int], rounds: int) -> list[Cost]:
    """Times a loader with mosaic, alone, over epochs, for numbers of workers."""
    with tempfile.TemporaryDirectory() as folder:
        make_demo_data(Path(folder), train=IMAGES, val=1, size=size, seed=0)
        runs = {
            str(n): partial(run_epoch, make_loader(folder, size, n)) for n in counts
        }
        times = time_in_turn(runs, rounds)
    return [Cost('workers', int(n), {LOADER: s / IMAGES}) for n, s in times.items()]


def make_loader(folder: str, size: int, workers: int) -> DataLoader:
    """A loader of a folder's training images by YOLOv5's recipe."""
    prefix = 'train_dataloader.dataset'
    options = {
        f'{prefix}.data_root': f'{folder}/',
        f'{prefix}.ann_file': 'annotations/train.json',
        f'{prefix}.data_prefix.img': 'train/',
        f'{prefix}.metainfo': dict(classes=CLASS_NAMES),
        'train_dataloader.num_workers': workers,
        'train_dataloader.persistent_workers': workers > 0,
        'train_dataloader.batch_size': 8,
    }
    settings = dict(image_size=(size, size))
    cfg = read_config(config_file(CONFIG), options, settings)
    init_default_scope(cfg.default_scope)
    return ResumableRunner.build_dataloader(cfg.train_dataloader)


def run_epoch(loader: DataLoader) -> None:
    """Loads all batches once."""
    for _ in loader:
        pass


def measure_processes(arch: Any, size: int, rounds: int) -> list[Cost]:
    """Times a training step of the same images in one process, and in several.

    The processes share the threads of the CPU among them, and the images.
    """
    costs = []
    for count in track(PROCESSES, 'Processes'):
        settings = dict(
            arch=arch,
            load=Load(size=size)._asdict(),
            batch=BATCH // count,
            threads=max(torch.get_num_threads() // count, 1),
            rounds=rounds,
        )
        words = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
        words += [f'--nproc_per_node={count}', '-m', __name__, json.dumps(settings)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ['no reason was told']
            raise UserError(f'{count} processes did not train: {shorten(lines[-1])}')
        seconds = json.loads(done.stdout.splitlines()[-1])
        costs.append(Cost('processes', count, {STEP: seconds / BATCH}))
    return costs


def train_together(settings: Mapping[str, Any]) -> None:
    """What each of the processes does; the first prints the median of a step."""
    MMLogger.get_current_instance().setLevel('ERROR')
    torch.set_num_threads(settings['threads'])
    torch.distributed.init_process_group('gloo')
    torch.manual_seed(0)
    load = Load(**settings['load'])
    detector = build_model(make_config(settings['arch'], load))
    loss = DistributedDataParallel(detector, find_unused_parameters=True)
    step = prepare_step(detector, load, settings['batch'], loss)
    times = [time_call(step) for _ in range(WARM_UP + settings['rounds'])]
    if torch.distributed.get_rank() == 0:
        print(json.dumps(median(times[WARM_UP:])), flush=True)
    torch.distributed.destroy_process_group()


def measure_costs(settings: Settings, arch: Any = None) -> list[Cost]:
    """How the costs of a detector grow, on the CPU.

    Args:
        settings: The backbone's ``arch``, the rounds, and the ``size`` of the images
            where they don't grow (320 if ``None``).
        arch: Another of :class:`~mmnextvit.NextViT`'s, in the place of the settings'.
    """
    arch, size = arch or settings.arch, settings.size or 320
    loads = {
        'classes': {n: Load(classes=n, size=size) for n in CLASSES},
        'boxes': {n: Load(boxes=n, size=size) for n in BOXES},
        'size': {n: Load(size=n) for n in SIZES},
    }
    parts = {
        'classes': (NETWORK, POSTPROCESSING, STEP),
        'boxes': (POSTPROCESSING, STEP),
        'size': (NETWORK, POSTPROCESSING, STEP),
    }
    costs = []
    for axis, of_axis in loads.items():
        costs += measure_axis(axis, of_axis, parts[axis], arch, settings.rounds)
    workers = [n for n in WORKERS if n <= count_cores()]  # a loader has no more
    costs += measure_workers(size, workers, max(settings.rounds // 3, 1))
    return costs + measure_processes(arch, size, settings.rounds)


def make_costs_table(costs: Sequence[Cost], arch: str, size: int) -> Table:
    """The results of :func:`measure_costs`."""
    rows = [
        [
            f'{cost.axis}: {cost.value:,}',
            *(
                f'{1000 * cost.seconds[part]:.1f}' if part in cost.seconds else ''
                for part in PARTS
            ),
        ]
        for cost in costs
    ]
    note = (
        f'ms an image of {size}x{size}, with 80 classes and 100 boxes where another '
        f'thing grows. A training step is forward and backward, of {BATCH} images; '
        f'processes share them and the {torch.get_num_threads()} threads. The loader '
        'is timed alone, with mosaic.'
    )
    columns = ['what grows', *(f'{part}, ms' for part in PARTS)]
    return Table(f'Costs, {CONFIG}, NextViT-{arch}', columns, rows, note)


if __name__ == '__main__':
    train_together(json.loads(sys.argv[1]))
