"""Backbones under one neck and head: what they cost, and their published accuracy."""

import multiprocessing
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from rich.progress import track
from torch import nn

from .. import get_config
from ..analysis import analyse
from ..deploy.candidates import Candidates
from ..deploy.formats import require
from ..deploy.onnx import CANDIDATES, OPSET
from ..deploy.parity import PIXELS, SCORE
from ..deploy.tracing import silence_converters
from ..engine.runner import build_model
from ..models.fold import set_memory_format
from ..models.timm_models import check_name, get_base_name
from ..runtime import import_runtime
from ..utils.errors import UserError
from .formats import Failure, attempt
from .imagenet import ACCURACIES, SOURCE, Accuracy
from .norms import list_norms, settle_norms, vary_scales
from .report import Table
from .timing import time_rested

CONFIG = 'yolov5_nextvit_s'  # whose neck and head all get
OURS = {f'nextvit_{arch}': arch for arch in ('small', 'base', 'large')}
MODELS = (
    'nextvit_small.bd_in1k',
    'nextvit_base.bd_in1k',
    'nextvit_large.bd_in1k',
    'convnext_tiny.fb_in1k',
    'hgnetv2_b5.ssld_stage2_ft_in1k',
    'repvit_m2_3.dist_450e_in1k',
    'fastvit_sa24.apple_in1k',
    'efficientnet_lite0.ra_in1k',
    'mobilenetv4_conv_medium.e500_r256_in1k',
    'resnet50.a1_in1k',
    'swin_tiny_patch4_window7_224.ms_in1k',
    'regnety_032.ra_in1k',
)
TORCH, ONNX, OPENVINO = RUNTIMES = ('torch', 'ONNX Runtime', 'OpenVINO')
LIMIT = 300  # seconds for an export
FARTHEST = 32.0, 0.05  # pixels of boxes, and scores
# Where there is a server of processes, it imports all that they need once.
METHODS = multiprocessing.get_all_start_methods()
METHOD = 'forkserver' if 'forkserver' in METHODS else 'spawn'

# From images (B, 3, H, W) to boxes and scores of all candidates.
Network = Callable[[np.ndarray], Sequence[np.ndarray]]


class BackboneRow(NamedTuple):
    """What was measured of a detector with a backbone.

    Attributes:
        name: timm's name of the backbone.
        params: Parameters of the detector; 0 where it cannot be built.
        macs: Its multiply-accumulates for an image; likewise.
        seconds: Median of its network by runtime, without what failed.
        reasons: Why something failed.
    """

    name: str
    params: int
    macs: int
    seconds: Mapping[str, float]
    reasons: Sequence[str]


class Turn(NamedTuple):
    """A detector's part in a round: seconds by runtime, and why some have none."""

    seconds: dict[str, float]
    reasons: list[str]


class Export(NamedTuple):
    """A detector in ONNX, or why there is none."""

    path: Path
    reason: str


def check_models(names: Sequence[str]) -> list[str]:
    """``names``, each once.

    Raises:
        UserError: timm has no such model.
    """
    for name in names:
        check_name(name)
    return list(dict.fromkeys(names))


def build_detector(name: str) -> nn.Module:
    """A detector in eval mode, with random weights and the norms of a trained one.

    Args:
        name: timm's. NextViT is ours, other backbones are timm's own.

    Raises:
        UserError: timm's model gives no feature maps that neck and head can use.
    """
    cfg = get_config(CONFIG)
    arch = OURS.get(get_base_name(name))
    if arch:
        cfg.model.backbone.arch = arch
    else:
        backbone = dict(type='mmdet.TimmFeatures', model_name=name)
        cfg.model.backbone = ConfigDict(backbone)
    torch.manual_seed(0)
    detector = build_model(cfg)
    for norm in list_norms(detector):
        vary_scales(norm)
    # With other statistics, maps fade to numbers so small that a processor slows down.
    images = torch.randn(2, 3, 256, 256)
    settle_norms(detector, lambda: detector(images, mode='tensor'))
    return detector


def export_here(name: str, size: int, path: Path) -> None:
    """Writes a detector's network in ONNX, without non-maximum suppression.

    It is traced, which takes seconds where ``mmnextvit export`` takes minutes, with
    every size fixed. What is timed is compared with torch all the same.
    """
    candidates = Candidates(build_detector(name))
    with torch.no_grad(), silence_converters():
        torch.onnx.export(
            candidates,
            (torch.zeros(1, 3, size, size),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=['images'],
            output_names=[CANDIDATES['boxes'], CANDIDATES['scores']],
        )


def send_export(name: str, size: int, path: Path, answer: Connection) -> None:
    """As :func:`export_here`, in a process that tells why it failed."""
    MMLogger.get_current_instance().setLevel('ERROR')
    done = attempt(partial(export_here, name, size, path))
    answer.send(done.reason if isinstance(done, Failure) else '')


def export_within(name: str, size: int, path: Path, limit: float) -> Export:
    """As :func:`export_here`, in a process that is ended after ``limit`` seconds."""
    context: Any = multiprocessing.get_context(METHOD)  # typed without Process
    ours, theirs = context.Pipe()
    process = context.Process(target=send_export, args=(name, size, path, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(limit):
            return Export(path, f'its export was ended after {limit:g} s (--limit)')
        reason = ours.recv()
    except EOFError:
        process.join()
        reason = f'the process ended with exit code {process.exitcode}'
    finally:
        process.kill()
        process.join()
        ours.close()
    return Export(path, f'not exported: {reason}' if reason else '')


def open_torch(candidates: Candidates) -> Network:
    """The network in torch, in the device's faster format."""
    network = set_memory_format(candidates)

    def run(images: np.ndarray) -> Sequence[np.ndarray]:
        with torch.inference_mode():
            return [x.numpy() for x in network(torch.from_numpy(images))]

    return run


def open_onnx(path: Path, threads: int) -> Network:
    """The file in ONNX Runtime, on the CPU."""
    ort = import_runtime('onnxruntime', 'onnx')
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, ['CPUExecutionProvider'])
    return lambda images: session.run(None, {'images': images})


def open_openvino(path: Path, threads: int) -> Network:
    """The file in OpenVINO, on the CPU and in float32."""
    ov = import_runtime('openvino', 'openvino')
    options = {
        'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_PRECISION_HINT': 'f32',
        'INFERENCE_NUM_THREADS': threads,
    }
    compiled = ov.compile_model(path, 'CPU', options)
    return lambda images: [*compiled({0: images}, share_inputs=True).values()]


def measure_backbones(
    names: Sequence[str], size: int, rounds: int, limit: float = LIMIT
) -> list[BackboneRow]:
    """Measures detectors that differ in their backbones alone, on the CPU.

    All take their turn in each round, and in it the runtimes of a detector.

    Args:
        names: timm's, as of :func:`check_models`.
        size: Height and width of the one image, a multiple of 32.
        rounds: Measurements of each.
        limit: Seconds that an export may take.

    Raises:
        UserError: The size is no multiple of 32.
        MissingPackageError: ONNX Runtime or OpenVINO is not installed.
    """
    if size < 32 or size % 32:
        raise UserError(f'--imgsz {size}: it must be a multiple of 32')
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, size, size))
    images = images.astype(np.float32)
    require(['onnx', 'onnxruntime', 'openvino'], 'openvino')
    multiprocessing.set_forkserver_preload([__name__])
    with tempfile.TemporaryDirectory() as folder:
        files = [
            export_within(name, size, Path(folder, f'{i}.onnx'), limit)
            for i, name in enumerate(track(names, 'Exporting'))
        ]
        pairs = list(zip(names, files))
        rounds_done = [
            [
                take_turn(name, file, images)
                for name, file in track(pairs, f'Round {i + 1}')
            ]
            for i in range(rounds)
        ]
    return [
        make_row(name, size, turns) for name, turns in zip(names, zip(*rounds_done))
    ]


def make_row(name: str, size: int, turns: Sequence[Turn]) -> BackboneRow:
    """The row of a detector, with its turn of each round."""
    analysis = attempt(lambda: analyse(build_detector(name), (size, size)))
    counted = (0, 0)
    if not isinstance(analysis, Failure):
        counted = analysis.params, analysis.macs
    seconds = {
        runtime: median(turn.seconds[runtime] for turn in turns)
        for runtime in RUNTIMES
        if all(runtime in turn.seconds for turn in turns)
    }
    reasons = dict.fromkeys(reason for turn in turns for reason in turn.reasons)
    return BackboneRow(name, *counted, seconds, list(reasons))


def take_turn(name: str, file: Export, images: np.ndarray) -> Turn:
    """Times each runtime of a detector once, after a pass that warms it up.

    Nothing of it stays in memory. A runtime counts only if it gives what torch gives.
    """
    openers: dict[str, Callable[[], Network]] = {
        TORCH: lambda: open_torch(Candidates(build_detector(name)))
    }
    if not file.reason:
        threads = torch.get_num_threads()
        openers[ONNX] = partial(open_onnx, file.path, threads)
        openers[OPENVINO] = partial(open_openvino, file.path, threads)
    networks = {runtime: attempt(opener) for runtime, opener in openers.items()}
    outputs = {
        runtime: network
        if isinstance(network, Failure)
        else attempt(partial(network, images))
        for runtime, network in networks.items()
    }
    again = cache(lambda: run_without_onednn(networks[TORCH], images))
    reasons = {
        runtime: explain_difference(output, outputs[TORCH], again)
        for runtime, output in outputs.items()
    }
    seconds = {
        runtime: time_rested(partial(network, images))
        for runtime, network in networks.items()
        if not isinstance(network, Failure) and not reasons[runtime]
    }
    told = [f'{runtime}: {reason}' for runtime, reason in reasons.items() if reason]
    return Turn(seconds, [file.reason, *told] if file.reason else told)


def run_without_onednn(
    network: Network | Failure, images: np.ndarray
) -> Sequence[np.ndarray] | Failure:
    """What torch gives where it adds up in another order."""
    if isinstance(network, Failure):
        return network
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it tells of Intel's GPUs
        with torch.backends.mkldnn.flags(enabled=False):
            return attempt(partial(network, images))


def explain_difference(
    output: Sequence[np.ndarray] | Failure,
    reference: Sequence[np.ndarray] | Failure,
    again: Callable[[], Sequence[np.ndarray] | Failure],
) -> str:
    """Why a runtime's boxes and scores do not count, beside those of torch.

    Args:
        output: Of the runtime.
        reference: Of torch.
        again: Gives those of torch in another way. Some networks with random weights
            make much of the last bits; a runtime may differ as far as twice these two,
            but not by more than :data:`FARTHEST`.
    """
    if isinstance(output, Failure):
        return output.reason
    if isinstance(reference, Failure):
        return ''
    limits = (('boxes', PIXELS, FARTHEST[0]), ('scores', SCORE, FARTHEST[1]))
    parts = zip(limits, output, reference, strict=True)
    for i, ((name, limit, farthest), ours, theirs) in enumerate(parts):
        difference = float(np.abs(ours - theirs).max())
        if difference <= limit:
            continue
        other = again()
        if not isinstance(other, Failure):
            limit = min(2 * float(np.abs(other[i] - theirs).max()), farthest)
        if not difference <= limit:  # NaN, too
            return f'{name} differ from those of torch by {difference:.2g}'
    return ''


def find_accuracy(name: str) -> Accuracy | None:
    """The published accuracy of timm's weights: those of a bare name are its first."""
    import timm

    tag = timm.get_pretrained_cfg(name).tag
    return ACCURACIES.get(f'{get_base_name(name)}.{tag}')


def make_backbone_table(rows: Sequence[BackboneRow], size: int) -> Table:
    """The rows of :func:`measure_backbones`."""
    cells = []
    for row in rows:
        accuracy = find_accuracy(row.name)
        cells.append(
            [
                row.name,
                f'{row.params / 1e6:.1f}' if row.params else '',
                f'{row.macs / 1e9:.1f}' if row.macs else '',
                *(
                    f'{1000 * row.seconds[x]:.0f}' if x in row.seconds else ''
                    for x in RUNTIMES
                ),
                f'{accuracy.top1:.1f} ({accuracy.size})' if accuracy else '',
                '; '.join(row.reasons),
            ]
        )
    columns = [
        *('backbone', 'parameters, M', 'GMACs'),
        *(f'{runtime}, ms' for runtime in RUNTIMES),
        *('ImageNet top-1, % (pixels)', 'note'),
    ]
    title = f'Backbones under the neck and head of {CONFIG}, 1x3x{size}x{size}'
    return Table(title, columns, cells, f'Top-1 is published, not measured: {SOURCE}')
