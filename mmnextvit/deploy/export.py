"""From a checkpoint to an exported file that was compared with torch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.config import Config

from ..engine.runner import build_dataset, load_detector, read_color_type
from ..runtime import ModelFileError
from ..utils.errors import UserError, find_user_error
from ..utils.files import atomic_write
from .candidates import Candidates, check_head
from .choices import (
    MAX_CALIBRATION,
    Options,
    Say,
    check_detector,
    check_options,
    choose_images,
    choose_path,
    choose_size,
    find_images,
    read_images,
    take_evenly,
)
from .comparison import Comparison, describe_comparison
from .elapsed import telling_time
from .formats import FORMATS, write
from .job import Job
from .mean_ap import beside, compare_map, measure_in_torch
from .metadata import build_metadata, resize_test_pipeline
from .onnx import quantize_job
from .parity import Drift, make_batches
from .quantization import quantize
from .sensitivity import (
    MeanAP,
    Try,
    compute_drop,
    format_costs,
    measure_costs,
    search_layers,
)
from .space import explain_full_disk
from .tensorrt import QUANTIZER, format_trtexec
from .web_runtime import read_runtime


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
        costs: Which layers cost int8 its mAP, in lines, if it fell.
    """

    path: Path
    options: Options
    size: tuple[int, int]
    drift: Drift
    compared: str
    float_layers: list[str]
    build_command: str = ''
    mean_ap: dict[str, tuple[float, float]] = field(default_factory=dict)
    costs: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        options, drift = self.options, self.drift
        height, width = self.size
        lines = [f'{self.path}: {options.to}, {options.precision}, {height}x{width}']
        if options.precision == 'int8':
            lines.append(f'Layers in float: {", ".join(self.float_layers) or "none"}')
        lines.append(f'{self.compared}: {drift}' if drift.largest else self.compared)
        if self.build_command:
            lines.append(f'Build an engine where TensorRT is: {self.build_command}')
        if options.to == 'web':
            lines.append(f'Show it in a browser: mmnextvit serve {self.path}')
        if drift.images and not drift.detections:
            lines.append(
                'Nothing was detected in the images: name others (--images) to be sure'
            )
        for name, (torchs, ours) in self.mean_ap.items():
            change = f'{ours - torchs:+.4f}'
            lines.append(f'{name}: torch {torchs:.4f}, exported {ours:.4f} ({change})')
        lines += self.costs
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
        OSError: The file cannot be written, or the disk is full.
    """
    check_options(options)
    known = FORMATS[options.to]
    out = choose_path(checkpoint, options)
    if known.note:
        say(f'{options.to}: {known.note}')
    calibration = []
    if options.precision == 'int8' and options.calibration:
        calibration = take_evenly(find_images(options.calibration), MAX_CALIBRATION)
    # What is exported is made of a copy of it. It stays as it was trained.
    reference = load_detector(cfg, checkpoint)
    check_head(reference)
    check_detector(options.to, reference)
    web_runtime = {}
    if options.to == 'web':
        web_runtime = read_runtime(options.onnxruntime_web, say)
    size = choose_size(cfg, options, say)
    cfg = resize_test_pipeline(cfg, size, options.dynamic_size)
    paths = choose_images(cfg, options)
    metadata = build_metadata(
        cfg,
        reference,
        reference.dataset_meta['classes'],
        size,
        batch=options.batch,
        dynamic_size=options.dynamic_size,
        precision=options.precision,
        nms_in_graph=options.nms and known.nms,
        best_scores=reference.best_scores,
    )
    color_type = read_color_type(cfg)
    images = list(read_images(paths, say, color_type))
    if not images:
        raise UserError('None of the images to compare on can be read')
    calibrating = read_images(calibration, say, color_type)
    batches = list(make_batches(calibrating, metadata))
    if options.precision == 'int8' and not batches:
        raise UserError(
            f'calibration {options.calibration} (--calib): none of the images can be '
            'read'
        )
    in_half = options.precision == 'half' and not known.halves
    candidates = Candidates(reference, half=in_half)
    job = Job(
        candidates, metadata, batches, options.efficient_nms, web_runtime=web_runtime
    )
    if options.precision == 'int8':
        quantizer = QUANTIZER if options.to == 'tensorrt' else quantize
        job = replace(job, int8=quantize_job(job, quantizer))
    costs: list[str] = []
    if options.max_drop is not None:
        job, costs = leave_costly_layers(job, options, cfg, checkpoint, say)

    comparison = Comparison(options, metadata, reference, cfg, images, say)

    with atomic_write(out, options.overwrite) as path:
        say(f'Writing {out.name} ...')
        with explain_full_disk(path.parent, job.size):
            with telling_time(say, f'Writing {out.name}'):
                written = write(options.to, job, path)
            with explaining_refusal(out):
                drift = comparison.compare(written, path)
        faults = drift.list_faults(comparison.exact)
        if faults:
            raise UserError(
                f'{out} is not kept, since it differs from torch: {"; ".join(faults)}'
            )
    mean_ap = {}
    if options.precision != 'float32' and drift.images and options.with_map:
        with explain_full_disk(out.parent, 1 << 20):
            model = out / known.model
            mean_ap = compare_map(cfg, model, checkpoint, say)
    if job.int8 and compute_drop(mean_ap) and not costs:
        costs = format_costs(job.int8, measure_costs(job.int8, batches))
    return Report(
        out,
        options,
        size,
        drift,
        describe_comparison(options),
        written.float_layers,
        format_trtexec(out, metadata) if options.to == 'tensorrt' else '',
        mean_ap,
        costs,
    )


@contextmanager
def explaining_refusal(out: Path) -> Iterator[None]:
    """Has the runtime's refusal of what was just written end in one message.

    Raises:
        UserError: It was refused.
    """
    try:
        yield
    except ModelFileError as error:
        raise UserError(
            f'{out} is not kept, since the runtime does not read it: '
            f'{error.__cause__ or error}. That is a fault of mmnextvit, not of the '
            'model: please report it, and take another format (--to) until it is mended'
        ) from error


def leave_costly_layers(
    job: Job, options: Options, cfg: Config, checkpoint: str, say: Say
) -> tuple[Job, list[str]]:
    """A job for int8 that leaves as many layers in float as mAP asks for.

    Returns:
        The job, and what layers cost, in lines, if it was measured.

    Raises:
        UserError: There are no test data to measure mAP on; or half of the layers in
            float are not enough, or the time was: the message has the best that was
            found.
    """
    int8, max_drop = job.int8, options.max_drop
    assert int8 is not None and max_drop is not None
    end = time.monotonic() + 60 * options.max_minutes
    try:
        build_dataset(cfg, 'test')
    except (OSError, UserError) as error:
        raise UserError(
            'max_drop (--max-drop) has mAP measured on the test data, which cannot be '
            f'read: {find_user_error(error) or error}',
            file=cfg.filename,
        ) from error
    theirs = measure_in_torch(cfg, checkpoint)

    def measure(layers: tuple[str, ...]) -> MeanAP:
        with TemporaryDirectory() as folder:
            file = Path(folder, f'model{FORMATS[options.to].suffix}')
            write(options.to, replace(job, in_float=layers), file)
            return beside(theirs, cfg, file)

    say('Measuring the mAP of int8 ...')
    first = Try((), measure(()))
    if first.drop <= max_drop:
        return job, []
    say(f'All layers in int8: mAP falls by {first.drop:.4f}')
    costs = measure_costs(int8, job.calibration or (), (end - time.monotonic()) / 2)
    seconds = end - time.monotonic()
    layers = len(int8.list_layers())
    search = search_layers(
        [*costs], measure, max_drop, seconds, first, say, layers=layers
    )
    if search.chosen is None:
        best, why = search.best, 'with half of the layers in float it falls by more'
        if search.ended:
            why = search.tell_end(layers)
        raise UserError(
            f'max_drop {max_drop:g} (--max-drop) is not reached: {why}. The best that '
            f'was found falls by {best.drop:.4f}, with {len(best.layers)} of {layers} '
            'layers in float. Allow as much'
            f'{" or more minutes" if search.ended else ""}, or take --half'
        )
    if search.ended:
        say(f'Fewer layers in float may do: {search.tell_end(layers)}')
    return replace(job, in_float=search.chosen.layers), format_costs(int8, costs)
