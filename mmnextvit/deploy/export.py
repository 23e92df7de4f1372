"""From a checkpoint to an exported file that was compared with torch."""

from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from ..engine.runner import load_detector
from ..utils.errors import UserError
from ..utils.files import atomic_write
from .candidates import Candidates, check_head
from .choices import (
    MAX_CALIBRATION,
    Options,
    Say,
    check_options,
    choose_images,
    choose_path,
    choose_size,
    find_images,
    read_images,
    take_evenly,
)
from .comparison import Comparison, describe_comparison
from .formats import FORMATS, write
from .job import Job
from .mean_ap import compare_map
from .metadata import build_metadata, resize_test_pipeline
from .parity import Drift, make_batches
from .space import explain_full_disk
from .tensorrt import format_trtexec
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
        if options.to == 'web':
            lines.append(f'Show it in a browser: mmnextvit serve {self.path}')
        if drift.images and not drift.detections:
            lines.append(
                'Nothing was detected in the images: name others (--images) to be sure'
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
        OSError: The file cannot be written, or the disk is full.
    """
    check_options(options)
    out = choose_path(checkpoint, options)
    web_runtime = {}
    if options.to == 'web':
        web_runtime = read_runtime(options.onnxruntime_web, say)
    calibration = []
    if options.precision == 'int8' and options.calibration:
        calibration = take_evenly(find_images(options.calibration), MAX_CALIBRATION)
    # What is exported is made of a copy of it. It stays as it was trained.
    reference = load_detector(cfg, checkpoint)
    check_head(reference)
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
        nms_in_graph=options.nms,
        best_scores=reference.best_scores,
    )
    images = list(read_images(paths, say))
    if not images:
        raise UserError('None of the images to compare on can be read')
    batches = list(make_batches(read_images(calibration, say), metadata))
    if options.precision == 'int8' and not batches:
        raise UserError(
            f'calibration {options.calibration} (--calib): none of the images can be '
            'read'
        )
    # OpenVINO and CoreML make float16 of float32 themselves.
    in_half = options.precision == 'half' and options.to not in ('openvino', 'coreml')
    candidates = Candidates(reference, half=in_half)
    job = Job(candidates, metadata, batches, options.efficient_nms, web_runtime)

    comparison = Comparison(options, metadata, reference, cfg, images, say)

    with atomic_write(out, options.overwrite) as path:
        say(f'Writing {out.name} ...')
        with explain_full_disk(path.parent, job.size):
            written = write(options.to, job, path)
            drift = comparison.compare(written, path)
        faults = drift.list_faults(comparison.exact)
        if faults:
            raise UserError(
                f'{out} is not kept, since it differs from torch: {"; ".join(faults)}'
            )
    mean_ap = {}
    if options.precision != 'float32' and drift.images and options.with_map:
        with explain_full_disk(out.parent, 1 << 20):
            model = out / FORMATS[options.to].model
            mean_ap = compare_map(cfg, model, checkpoint, say)
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
