"""From a checkpoint to an exported file that was compared with torch."""

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.device import is_cuda_available
from torch import nn

from ..datasets.images import BrokenImageError, read_image
from ..datasets.sources import IMG_EXTENSIONS, find_files
from ..engine.runner import build_dataset, build_runner, load_detector
from ..runtime import Detector
from ..utils.errors import MissingFileError, UserError
from ..utils.files import atomic_write
from .candidates import Candidates, check_head
from .exported import with_exported
from .formats import FORMATS, check_format, require, write
from .job import Job
from .metadata import (
    STRIDE,
    build_metadata,
    read_input_size,
    resize_test_pipeline,
    round_up,
)
from .parity import (
    Drift,
    compare_candidates,
    compare_classes,
    compare_detections,
    compare_inputs,
    make_batches,
)
from .tensorrt import EngineDetector, build_engine, format_trtexec

MAX_COMPARED = 8  # images
MAX_CALIBRATION = 128  # images

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is wanted of an exported file.

    Args:
        to: A name of :data:`~mmnextvit.deploy.formats.FORMATS`.
        size: Height and width of the input, rounded up to multiples of 32; those of
            the config's test pipeline if ``None``.
        dynamic_size: Whether the file takes other sizes, too.
        batch: Images at a time, ``None`` for any number.
        precision: 'float32', 'half' or 'int8'.
        calibration: Images to calibrate int8 with: a folder or a pattern.
        nms: Whether the file suppresses overlapping boxes itself.
        efficient_nms: Whether TensorRT's plugin does, in place of ONNX's operator.
        images: Images to compare on: a folder or a pattern; some of the config's test
            data if ``None``.
        with_map: Whether mAP is measured of files that are not in float32.
        overwrite: Whether what exists is replaced.
        out: File or folder to write; beside the checkpoint if ``None``.
    """

    to: str
    size: tuple[int, int] | None = None
    dynamic_size: bool = False
    batch: int | None = 1
    precision: str = 'float32'
    calibration: str | None = None
    nms: bool = True
    efficient_nms: bool = False
    images: str | None = None
    with_map: bool = True
    overwrite: bool = False
    out: str | Path | None = None


@dataclass(frozen=True)
class Report:
    """What was written, and how it compares with torch.

    Attributes:
        path: File or folder.
        options: What was asked for.
        size: Height and width of the input.
        drift: The differences from torch.
        compared: How far this machine could compare, in words.
        float_layers: Names of the layers that int8 leaves in float.
        build_command: Builds an engine of a file for TensorRT; empty for others.
        mean_ap: mAP in torch and of the file, by the metric's name.
    """

    path: Path
    options: Options
    size: tuple[int, int]
    drift: Drift
    compared: str
    float_layers: list[str]
    build_command: str = ''
    mean_ap: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __str__(self) -> str:
        options, drift = self.options, self.drift
        height, width = self.size
        lines = [f'{self.path}: {options.to}, {options.precision}, {height}x{width}']
        if options.precision == 'int8':
            lines.append(f'Layers in float: {", ".join(self.float_layers) or "none"}')
        lines.append(f'{self.compared}: {drift}' if drift.largest else self.compared)
        if self.build_command:
            lines.append(f'Build an engine where TensorRT is: {self.build_command}')
        if drift.images and not drift.detections:
            lines.append(
                'Nothing was detected in the images: name others by --images to be sure'
            )
        for name, (torchs, ours) in self.mean_ap.items():
            change = f'{ours - torchs:+.4f}'
            lines.append(f'{name}: torch {torchs:.4f}, exported {ours:.4f} ({change})')
        return '\n'.join(lines)


def export(
    cfg: Config, checkpoint: str, options: Options, say: Say = lambda text: None
) -> Report:
    """Writes an exported file and compares it with torch; one that differs is not kept.

    Args:
        cfg: Config of the detector.
        checkpoint: File or address.
        options: What is wanted.
        say: Gets a line at each step that takes long, and for each image left out.

    Raises:
        UserError: The format, the config or the machine does not allow what is
            wanted, the images cannot be read, or the file differs from torch.
    """
    check_options(options)
    out = choose_path(checkpoint, options)
    calibration = []
    if options.precision == 'int8' and options.calibration:
        calibration = take_evenly(find_images(options.calibration), MAX_CALIBRATION)
    # What is exported is made of a copy of it. It stays as it was trained.
    reference = load_detector(cfg, checkpoint)
    check_head(reference)
    size = choose_size(cfg, options, say)
    cfg = resize_test_pipeline(cfg, size)
    paths = choose_images(cfg, options)
    metadata = build_metadata(
        cfg,
        reference,
        reference.dataset_meta['classes'],
        size,
        batch=options.batch,
        dynamic_size=options.dynamic_size,
        precision=options.precision,
        nms_in_graph=options.nms,
    )
    images = list(read_images(paths, say))
    if not images:
        raise UserError('None of the images to compare on can be read')
    batches = list(make_batches(read_images(calibration, say), metadata))
    if options.precision == 'int8' and not batches:
        raise UserError(
            f'--calib {options.calibration}: none of the images can be read'
        )
    # OpenVINO and CoreML make float16 of float32 themselves.
    in_half = options.precision == 'half' and options.to not in ('openvino', 'coreml')
    candidates = Candidates(reference, half=in_half)
    job = Job(candidates, metadata, batches, options.efficient_nms)

    with atomic_write(out, options.overwrite) as path:
        say(f'Writing {out.name} ...')
        written = write(options.to, job, path)
        exact = options.precision == 'float32'
        network = compare_candidates(
            written.run, reference, make_batches(images, metadata)
        )
        drift = compare_classes(written.metadata, reference)
        drift += compare_inputs(written.metadata['resize'], cfg, images)
        if not network.faults(exact):  # else its detections say nothing more
            drift += compare_files(
                path, job, reference, cfg, images, options, network, say
            )
        drift = network + drift
        faults = drift.faults(exact)
        if faults:
            raise UserError(
                f'{out} is not kept, since it differs from torch: {"; ".join(faults)}'
            )
    mean_ap = {}
    if options.precision != 'float32' and drift.images and options.with_map:
        mean_ap = compare_map(cfg, out, checkpoint, say)
    return Report(
        out,
        options,
        size,
        drift,
        describe_comparison(options),
        written.float_layers,
        format_trtexec(out, metadata) if options.to == 'tensorrt' else '',
        mean_ap,
    )


# --------------------------------------------------------------------------- choices


def check_options(options: Options) -> None:
    """Refuses what a format does not have, before any work is done.

    Raises:
        UserError: The format does not have it.
        MissingPackageError: A library that the format needs is not installed.
    """
    wanted = FORMATS[check_format(options.to)]
    require(wanted.libraries, wanted.extra)
    able = [name for name, f in FORMATS.items() if f.dynamic]
    if not wanted.dynamic and (options.batch is None or options.dynamic_size):
        raise UserError(
            f'{options.to} has fixed sizes here: {", ".join(able)} can be dynamic'
        )
    if options.to == 'coreml' and options.batch != 1:
        raise UserError(f'--batch {options.batch}: CoreML takes one image at a time')
    if options.efficient_nms and (options.to != 'tensorrt' or not options.nms):
        raise UserError('--efficient-nms is for --to tensorrt, without --no-nms')
    if options.precision == 'int8':
        able = [name for name, f in FORMATS.items() if f.int8]
        if not wanted.int8:
            raise UserError(f'{options.to} has no int8 here: {", ".join(able)} have')
        if not options.calibration:
            raise UserError(
                '--int8 needs images to calibrate with: --calib FOLDER, with some '
                'hundred images like those that it will see, such as training ones'
            )
        require(['nncf'], 'int8')


def choose_path(checkpoint: str, options: Options) -> Path:
    """The path to write, which is free or may be replaced.

    Raises:
        UserError: It is not, or has another ending than the format's files.
    """
    wanted = FORMATS[options.to]
    suffix = wanted.suffix
    if options.precision != 'float32':
        suffix = f'_{options.precision}{suffix}'
    source = Path(checkpoint)
    if '://' in checkpoint:
        source = Path(source.name)  # in the current folder
    out = Path(options.out or source.with_name(source.stem + suffix)).expanduser()
    targets = [out, out.with_suffix('.engine')] if options.to == 'tensorrt' else [out]
    for path in targets:
        if path.exists() and not options.overwrite:
            raise UserError(f'{path} exists, and is replaced with --force only')
    if out.suffix != wanted.ending:
        must = 'be that of a folder, without a suffix'
        if wanted.ending:
            must = f'end in {wanted.ending}'
        raise UserError(f'-o {out}: the name must {must}')
    if out.is_symlink() or (out.exists() and out.is_dir() != wanted.is_folder):
        file_type = 'folder' if wanted.is_folder else 'file'
        raise UserError(
            f'{out} is no {file_type}, and is not replaced: choose another name'
        )
    if out.is_dir():
        ours = out.suffix == '.mlpackage' and (out / 'Manifest.json').is_file()
        others = sorted({p.name for p in out.iterdir()} - {'model.xml', 'model.bin'})
        if others and not ours:
            raise UserError(
                f'{out} is a folder with {others[0]}, which is not replaced: choose '
                'another name'
            )
    return out


def choose_size(cfg: Config, options: Options, say: Say) -> tuple[int, int]:
    """Height and width of the network's input.

    Raises:
        UserError: One is not positive, or the config's pipeline is not one that
            exported files follow.
    """
    size = options.size or read_input_size(cfg)
    rounded = round_up(size)
    if rounded != tuple(size):
        say(
            f'--imgsz {size[0]} {size[1]} becomes {rounded[0]} {rounded[1]}: '
            'both must be multiples of 32'
        )
    return rounded


def choose_images(cfg: Config, options: Options) -> list[str]:
    """Some images to compare on, of the options or else of the config's test data.

    Raises:
        UserError: There is none.
    """
    if options.images:
        return take_evenly(find_images(options.images), MAX_COMPARED)
    try:
        dataset = build_dataset(cfg, 'test')
        if not len(dataset):
            raise ValueError('there are none')
        chosen = take_evenly(range(len(dataset)), MAX_COMPARED)
        return [dataset.get_data_info(i)['img_path'] for i in chosen]
    except (OSError, ValueError) as error:
        reason = str(error)
    # Raised here, it is not taken for the error that it tells of.
    raise UserError(
        'What is exported is compared with torch on real images, and the test images '
        f'cannot be read: {reason}. Name others by --images FOLDER',
        file=cfg.filename,
    )


def find_images(source: str) -> list[str]:
    """Images that a folder or a pattern names.

    Raises:
        MissingFileError: There is none.
    """
    files = [p for p in find_files(source) if p.suffix.lower() in IMG_EXTENSIONS]
    if not files:
        raise MissingFileError(f'{source} has no images ({", ".join(IMG_EXTENSIONS)})')
    return [str(p) for p in files]


def take_evenly(items: Sequence, max_items: int) -> list:
    """At most ``max_items`` of the items, evenly spread."""
    count = min(len(items), max_items)
    return [items[i * len(items) // count] for i in range(count)]


def read_images(paths: Iterable[str], say: Say) -> Iterator[np.ndarray]:
    """The images that can be read (H x W x 3, BGR, uint8)."""
    for path in paths:
        try:
            yield read_image(path)
        except BrokenImageError as error:
            say(f'left out: {error}')


# ----------------------------------------------------------------------- comparisons


def builds_engine(options: Options) -> bool:
    """Whether this machine can run what is written for TensorRT."""
    has_tensorrt = find_spec('tensorrt') is not None and is_cuda_available()
    return options.to == 'tensorrt' and has_tensorrt


def describe_comparison(options: Options) -> str:
    """How far this machine compares what is written, in words."""
    if not FORMATS[options.to].runs:
        return (
            'The network was compared with torch before it was converted, and the '
            'specification checked; only Apple systems run the file'
        )
    if options.efficient_nms and not builds_engine(options):
        return "Compared with torch, the network without TensorRT's NMS"
    return 'Compared with torch'


def compare_files(
    path: Path,
    job: Job,
    reference: nn.Module,
    cfg: Config,
    images: Sequence[np.ndarray],
    options: Options,
    rounding: Drift,
    say: Say,
) -> Drift:
    """Compares the detections of what was written, as far as this machine runs it.

    Args:
        path: Exported file.
        job: What it was written of.
        reference: The detector in torch.
        cfg: Config with the file's size.
        images: H x W x 3, BGR, uint8.
        options: What was asked for.
        rounding: The differences of the candidates, which are allowed.
        say: Gets a line for each file.

    Returns:
        The differences of the detections.
    """

    def compare(file: Detector, cfg: Config) -> Drift:
        say(f'Comparing {file.path.name} with torch ...')
        return compare_detections(file, reference, cfg, images, rounding)

    if not FORMATS[options.to].runs:
        return Drift()
    files = [] if options.efficient_nms else [Detector(path)]
    if builds_engine(options):
        engine = path.with_suffix('.engine')
        say(f'Building {engine.name} ...')
        build_engine(path, engine, job.metadata)
        files.append(EngineDetector(engine, job.metadata))
    total = sum((compare(file, cfg) for file in files), Drift())
    if job.metadata['input']['dynamic_size'] and not options.efficient_nms:
        height, width = job.metadata['input']['size']
        other = height + STRIDE, width + 2 * STRIDE
        file, cfg = Detector(path, imgsz=other), resize_test_pipeline(cfg, other)
        total += compare_inputs(file.steps, cfg, images) + compare(file, cfg)
    return total


def compare_map(
    cfg: Config, path: Path, checkpoint: str, say: Say
) -> dict[str, tuple[float, float]]:
    """mAP and mAP50 on a config's test data, in torch and of a file, by their names.

    Nothing where the test data cannot be read.
    """
    try:
        build_dataset(cfg, 'test')
    except (OSError, ValueError) as error:
        say(f'mAP is not measured, without the test data of {cfg.filename}: {error}')
        return {}
    ours = measure_map(with_exported(cfg, str(path)))
    cfg = copy.deepcopy(cfg)
    cfg.load_from = checkpoint
    theirs = measure_map(cfg)
    return {name: (value, ours[name]) for name, value in theirs.items()}


def measure_map(cfg: Config) -> dict[str, float]:
    """mAP and mAP50 on a config's test data, by the metrics' names."""
    cfg = copy.deepcopy(cfg)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir, cfg.resume, cfg.launcher = folder, False, 'none'
        cfg.visualizer = dict(type='mmdet.DetLocalVisualizer')  # writes nothing
        metrics: Mapping[str, float] = build_runner(cfg).test()
    return {
        name: value
        for name, value in metrics.items()
        if name.rpartition('/')[2].split('_')[-1] in ('mAP', '50')
    }
