"""A trained detector in the formats that it can be exported to, side by side.

Formats take turns on the same images. Each is compared with the detector in torch as it
was trained, and its mAP is measured as ``mmnextvit export`` does. A format that fails
is a row with its reason.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from mmengine.config import Config
from rich.progress import track
from torch import nn

from ..deploy.candidates import Candidates
from ..deploy.choices import (
    MAX_CALIBRATION,
    MAX_COMPARED,
    Options,
    Say,
    choose_path,
    list_images,
    read_images,
)
from ..deploy.comparison import builds_engine
from ..deploy.export import export
from ..deploy.exported import use_detector, user_errors
from ..deploy.formats import FORMATS
from ..deploy.job import Run
from ..deploy.mean_ap import measure_map
from ..deploy.metadata import (
    build_metadata,
    find_version,
    read_input_size,
    resize_test_pipeline,
    round_up,
)
from ..deploy.parity import Drift, compare_candidates, make_batches
from ..deploy.tensorrt import EngineDetector
from ..engine.runner import computing_on, load_detector
from ..engine.terminal import at_level
from ..predictors import Predictor
from ..runtime import Detector
from ..utils.errors import UserError, find_user_error
from ..utils.messages import did_you_mean, first_few, tell
from .report import Table, describe_processor
from .timing import WARM_UP, time_rested

T = TypeVar('T')

TORCH = 'torch'
PRECISIONS = {'': 'float32', '-half': 'half', '-int8': 'int8'}  # endings of names
PACKAGES = ['mmnextvit', 'torch', 'onnxruntime', 'openvino', 'nncf', 'ncnn', 'tensorrt']


# ------------------------------------------------------------------------ which formats


def list_names() -> list[str]:
    """All names: 'torch', 'onnx', 'onnx-half', 'onnx-int8' and so on."""
    return [TORCH] + [
        f'{to}{ending}'
        for to, known in FORMATS.items()
        for ending in PRECISIONS
        if ending != '-int8' or known.int8
    ]


def check_names(names: Sequence[str]) -> list[str]:
    """``names``, each once.

    Raises:
        UserError: One of them is not known; the message has the near ones and all.
    """
    known = list_names()
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            hint = f' ({hint})' if hint else ''
            raise UserError(f'there is no format {name!r}{hint}: {", ".join(known)}')
    return list(dict.fromkeys(names))


def choose_names() -> list[str]:
    """torch, and every format in float32 but those that cannot run here at all."""
    return [TORCH, *(to for to in FORMATS if not explain_no_run(to))]


def explain_no_run(to: str) -> str:
    """Why a format cannot run here, whatever of Python's packages is installed."""
    if not FORMATS[to].runs:
        return (
            'only Apple systems run it, outside Python: mmnextvit export --to '
            f'{to} writes it'
        )
    if to == 'web':
        return (
            'browsers run it, and in Python its file is that of onnx: mmnextvit export '
            '--to web writes it'
        )
    if to == 'tensorrt' and not builds_engine(Options(to)):
        return (
            'it needs an NVIDIA GPU and TensorRT (pip install tensorrt) here; '
            'mmnextvit export --to tensorrt writes the file that an engine is built of'
        )
    return ''


# --------------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Row:
    """What was measured of a format; ``None`` and empty where it was not.

    Attributes:
        format: Its name.
        file: What a user would copy: the checkpoint, or the exported file or folder.
        megabytes: Its size in units of 10**6 bytes.
        seconds: Median from an image in memory to its boxes.
        mean_ap: mAP and mAP50 on the test data, by the metrics' names.
        box_difference: The largest difference from torch over all candidates, in pixels
            of the network's input.
        score_difference: Likewise of scores, from 0 to 1.
        reason: What failed.
    """

    format: str
    file: str = ''
    megabytes: float | None = None
    seconds: float | None = None
    mean_ap: Mapping[str, float] = field(default_factory=dict)
    box_difference: float | None = None
    score_difference: float | None = None
    reason: str = ''


@dataclass(frozen=True)
class Comparison:
    """A comparison of formats.

    Attributes:
        rows: One for each format.
        size: Height and width of the network's input.
        images: How many images each format was timed on.
        facts: The machine, the versions and what else the numbers depend on, by name.
    """

    rows: list[Row]
    size: tuple[int, int]
    images: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all formats are measured with.

    Args:
        cfg: Config of the detector, with every image at the size of the input.
        checkpoint: File of its weights.
        folder: Gets the exported files.
        images: H x W x 3, BGR, uint8.
        threads: How many threads of the CPU a format may use.
        device: 'cpu' or 'cuda'.
        calibration: Images to calibrate int8 with, a folder or a pattern.
    """

    cfg: Config
    checkpoint: str
    folder: Path
    images: list[np.ndarray]
    threads: int
    device: str = 'cpu'
    calibration: str | None = None


class Opened(NamedTuple):
    """A format that is ready to detect.

    Attributes:
        path: What it was opened from.
        detect: From an image in memory to its objects.
        cfg: Config that tests it.
        drift: Its differences from torch.
    """

    path: Path
    detect: Callable[[np.ndarray], object]
    cfg: Config
    drift: Drift


class Failure(NamedTuple):
    """Why something did not work, in a line."""

    reason: str


def attempt(call: Callable[[], T]) -> T | Failure:
    """What a call gives, or why it fails: what one library lacks ends no comparison."""
    try:
        return call()
    except Exception as error:  # each library raises types of its own
        found = find_user_error(error)
        text = f'{type(error).__name__}: {tell(error)}' if found is None else str(found)
        return Failure(' '.join(text.split()))


def compare_formats(
    cfg: Config,
    checkpoint: str,
    names: Sequence[str],
    folder: Path,
    max_images: int = 20,
    threads: int | None = None,
    device: str = 'cpu',
    calibration: str | None = None,
    with_map: bool = True,
    say: Say = lambda text: None,
) -> Comparison:
    """Measures a detector in several formats.

    Args:
        cfg: Config of the detector, which stays as it is.
        checkpoint: File of its weights.
        names: Of :func:`list_names`.
        folder: Gets the exported files.
        max_images: How many of the test data each format is timed on.
        threads: As of :class:`Bench`; torch's own choice, for all, if ``None``.
        device: As of :class:`Bench`.
        calibration: As of :class:`Bench`.
        with_map: Whether mAP is measured.
        say: Gets a line at each step that takes long.

    Raises:
        UserError: The checkpoint does not fit, or the test data cannot be read.
    """
    size = round_up(read_input_size(cfg))
    cfg = resize_test_pipeline(cfg, size)
    cfg.pop('predict_resizing', None)  # it has taken its place
    images = read_test_images(cfg, max_images, say)
    cfg.log_level = 'WARNING'  # of the runners that measure mAP
    threads = threads or torch.get_num_threads()
    bench = Bench(cfg, checkpoint, folder, images, threads, device, calibration)
    # Formats load a model often.
    with using_threads(threads), at_level('WARNING'):
        reference = load_detector(cfg, checkpoint)
        opened = {
            name: attempt(partial(open_format, name, bench, reference, say))
            for name in names
        }
        times = take_turns(
            {k: v.detect for k, v in opened.items() if isinstance(v, Opened)}, images
        )
        rows = []
        for name, one in opened.items():
            if isinstance(one, Failure):
                rows.append(Row(name, reason=one.reason))
                continue
            with computing_on(device):
                rows.append(make_row(name, one, times[name], with_map, say))
    return Comparison(rows, size, len(images), list_facts(bench))


@contextmanager
def using_threads(number: int) -> Iterator[None]:
    """Has torch use as many threads of the CPU in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_test_images(cfg: Config, max_images: int, say: Say) -> list[np.ndarray]:
    """Images of a config's test data, evenly spread (H x W x 3, BGR, uint8).

    Raises:
        UserError: There are none, or none can be read.
    """
    try:
        images = list(read_images(list_images(cfg, 'test', max_images), say))
    except (OSError, UserError) as error:
        reason = find_user_error(error) or error
        raise UserError(
            'formats are compared on the test data of the config, which cannot be '
            f'read: {reason}. Say where they are, as in --cfg-options data_root=x/',
            file=cfg.filename,
        ) from error
    if not images:
        raise UserError(
            'formats are compared on the test data of the config, and no image of '
            'these can be read',
            file=cfg.filename,
        )
    return images


def find_calibration(bench: Bench) -> str | list[str]:
    """What int8 is calibrated with: by default some of the training images.

    Raises:
        UserError: The config's training data cannot be listed.
    """
    if bench.calibration:
        return bench.calibration
    try:
        return list_images(bench.cfg, 'train', MAX_CALIBRATION)
    except (OSError, UserError, KeyError, TypeError) as error:
        reason = find_user_error(error) or tell(error)
        raise UserError(
            'int8 is calibrated with training images, and those of the config cannot '
            f'be listed: {reason}. Name others (--calib IMAGES)'
        ) from error


def open_format(name: str, bench: Bench, reference: nn.Module, say: Say) -> Opened:
    """Makes a format ready.

    Args:
        name: Of :func:`list_names`.
        bench: What it is measured with.
        reference: The detector in torch, as it was trained.
        say: Gets a line at each step that takes long.

    Raises:
        UserError: The format cannot be had, or differs from torch.
    """
    if name == TORCH:
        return open_torch(bench, reference)
    to, _, ending = name.partition('-')
    if reason := explain_no_run(to):
        raise UserError(reason)
    precision = PRECISIONS[f'-{ending}' if ending else '']
    options = Options(
        to,
        precision=precision,
        calibration=find_calibration(bench) if precision == 'int8' else None,
        with_map=False,  # measured of all alike
        out=bench.folder / name_export(bench.checkpoint, to, precision),
    )
    report = export(bench.cfg, bench.checkpoint, options, lambda x: say(f'{name}: {x}'))
    with user_errors():
        device = 'cpu' if to == 'tensorrt' else bench.device
        detector = Detector(report.path, device=device, threads=bench.threads)
        if to == 'tensorrt':
            engine = report.path.with_suffix('.engine')
            detector = EngineDetector(engine, detector.metadata)
    cfg = use_detector(bench.cfg, str(report.path), detector)
    return Opened(report.path, detector, cfg, report.drift)


def name_export(checkpoint: str, to: str, precision: str) -> str:
    """The name of an exported file, as an export beside the checkpoint gets it."""
    return choose_path(
        checkpoint, Options(to, precision=precision, overwrite=True)
    ).name


def open_torch(bench: Bench, reference: nn.Module) -> Opened:
    """The detector as ``mmnextvit predict`` and ``test`` run it: folded, in torch."""
    cfg = copy.deepcopy(bench.cfg)
    cfg.load_from = bench.checkpoint
    metadata = build_metadata(
        cfg, reference, reference.dataset_meta['classes'], read_input_size(cfg)
    )
    drift = compare_candidates(
        run_in_torch(Candidates(reference)),
        reference,
        make_batches(bench.images[:MAX_COMPARED], metadata),
    )
    predictor = Predictor(cfg, bench.checkpoint, bench.device)
    return Opened(Path(bench.checkpoint), predictor, cfg, drift)


def run_in_torch(candidates: Candidates) -> Run:
    """The run of a network of candidates, by torch."""

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            boxes, scores = candidates(torch.from_numpy(images))
        return boxes.numpy(), scores.numpy()

    return run


def take_turns(
    detect: Mapping[str, Callable[[np.ndarray], object]], images: Sequence[np.ndarray]
) -> dict[str, float | Failure]:
    """Median seconds of an image by each detector, which take turns on every image.

    The first image comes some times more, before any time counts. What fails once is
    not tried again.
    """
    times: dict[str, list[float]] = {name: [] for name in detect}
    failed: dict[str, Failure] = {}
    rounds = [*([images[0]] * WARM_UP if len(images) else ()), *images]
    for image in track(rounds, 'Measuring', disable=not detect):
        for name, call in detect.items():
            if name in failed:
                continue
            seconds = attempt(partial(time_rested, partial(call, image)))
            if isinstance(seconds, Failure):
                failed[name] = seconds
            else:
                times[name].append(seconds)
    return {k: failed.get(k) or median(v[WARM_UP:]) for k, v in times.items()}


def make_row(
    name: str, opened: Opened, seconds: float | Failure, with_map: bool, say: Say
) -> Row:
    """The row of a format that was opened."""
    largest = opened.drift.largest
    row = Row(
        name,
        str(opened.path),
        megabytes=measure_size(opened.path) / 1e6,
        box_difference=largest.get('candidate boxes'),
        score_difference=largest.get('candidate scores'),
    )
    if isinstance(seconds, Failure):
        return replace(row, reason=seconds.reason)
    row = replace(row, seconds=seconds)
    if not with_map:
        return row
    say(f'{name}: Measuring mAP ...')
    mean_ap = attempt(lambda: measure_map(opened.cfg))
    if isinstance(mean_ap, Failure):
        return replace(row, reason=f'no mAP: {mean_ap.reason}')
    return replace(row, mean_ap=mean_ap)


def measure_size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [p for p in path.rglob('*') if p.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def list_facts(bench: Bench) -> dict[str, Any]:
    """What the numbers depend on, by name."""
    versions = {name: v for name in PACKAGES if (v := find_version(name))}
    return {
        'machine': describe_processor(bench.device),
        'device': bench.device,
        'threads': bench.threads,
        'versions': versions,
        'config': bench.cfg.filename,
        'checkpoint': bench.checkpoint,
    }


# -------------------------------------------------------------------------- the outcome


def show(value: float | None, form: str) -> str:
    """A number as text, and nothing where there is none."""
    return '' if value is None else format(value, form)


def make_formats_table(comparison: Comparison) -> Table:
    """The table of a comparison."""
    rows = comparison.rows
    metrics = list(dict.fromkeys(name for row in rows for name in row.mean_ap))
    height, width = comparison.size
    return Table(
        f'Formats, {comparison.images} images, {height}x{width}',
        [
            *('format', 'MB', 'ms', 'images/s'),
            *(name.rpartition('/')[2].removeprefix('bbox_') for name in metrics),
            *('boxes differ, px', 'scores differ', 'note'),
        ],
        [
            [
                row.format,
                show(row.megabytes, '.1f'),
                show(row.seconds and 1000 * row.seconds, '.1f'),
                show(row.seconds and 1 / row.seconds, '.1f'),
                *(show(row.mean_ap.get(name), '.4f') for name in metrics),
                show(row.box_difference, '.2g'),
                show(row.score_difference, '.2g'),
                row.reason,
            ]
            for row in rows
        ],
    )


def describe_comparison(comparison: Comparison) -> str:
    """What stands below the table."""
    facts = comparison.facts
    versions = ', '.join(f'{k} {v}' for k, v in facts['versions'].items())
    height, width = comparison.size
    return (
        f'{facts["machine"]}, {facts["threads"]} threads. {versions}.\n'
        f'ms: the median of {comparison.images} images at {height}x{width}, one at a '
        'time and in turn, from an image in memory to its boxes. mAP: on the test data '
        'of the config. The differences are the largest of all candidates, before '
        'non-maximum suppression, from the detector in torch as it was trained.'
    )


def list_content(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON's types."""

    def clean(value: Any) -> Any:
        broken = isinstance(value, float) and not math.isfinite(value)
        return str(value) if broken else value  # JSON has no NaN

    return {
        **comparison.facts,
        'size': list(comparison.size),
        'images': comparison.images,
        'formats': [
            {
                'format': row.format,
                'file': row.file,
                'megabytes': row.megabytes,
                'ms': row.seconds and 1000 * row.seconds,
                'images_per_second': row.seconds and 1 / row.seconds,
                'mean_ap': {k: clean(v) for k, v in row.mean_ap.items()},
                'largest_difference': {
                    'boxes': clean(row.box_difference),
                    'scores': clean(row.score_difference),
                },
                'reason': row.reason,
            }
            for row in comparison.rows
        ],
    }


def check_any_worked(comparison: Comparison) -> None:
    """
    Raises:
        UserError: No format detected anything that could be timed.
    """
    if all(row.seconds is None for row in comparison.rows):
        reasons = first_few(f'{row.format}: {row.reason}' for row in comparison.rows)
        raise UserError(f'none of the formats works here: {reasons}')
