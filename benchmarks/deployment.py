"""Speed of exported files: benchmarks/deployment.py [--rounds N] [--imgsz H W]
[--config CONFIG --checkpoint CHECKPOINT --images FOLDER] [--precisions float32 ...]

Times timm's backbone in torch, ours in torch in deploy mode and exported, and the whole
detector in deploy mode (without NMS) and exported with its NMS, in turn, in one
process. Without a checkpoint the weights are random, with BatchNorm statistics unlike a
fresh net's, and the images are noise. It also measures the rate of torch's matrix
product and counts multiply-accumulates (MACs): together they say how fast a float32
network can be here.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import mmnextvit  # noqa: E402, F401  (first)
from mmnextvit.benchmark.norms import vary_norms  # noqa: E402
from mmnextvit.benchmark.timing import (  # noqa: E402
    measure_matrix_rate,
    time_in_turn,
    time_rested,
)
from mmnextvit.datasets.images import read_image  # noqa: E402
from mmnextvit.datasets.sources import find_files  # noqa: E402
from mmnextvit.deploy.candidates import Candidates  # noqa: E402
from mmnextvit.deploy.choices import take_evenly  # noqa: E402
from mmnextvit.deploy.formats import FORMATS, write  # noqa: E402
from mmnextvit.deploy.job import Job  # noqa: E402
from mmnextvit.deploy.metadata import (  # noqa: E402
    build_metadata,
    read_input_size,
    resize_test_pipeline,
)
from mmnextvit.deploy.onnx import OPSET  # noqa: E402
from mmnextvit.deploy.parity import make_batches  # noqa: E402
from mmnextvit.deploy.tracing import (  # noqa: E402
    export_program,
    silence_converters,
)
from mmnextvit.engine.runner import build_model, load_detector  # noqa: E402
from mmnextvit.models.fold import copy_folded  # noqa: E402
from mmnextvit.runtime import Detector  # noqa: E402

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import openvino  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

SUFFIXES = {'float32': '', 'half': ' bfloat16', 'int8': ' int8'}


class FeatureMaps(nn.Module):
    """A backbone whose feature maps come out as a list, as the exporter wants them."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return list(self.backbone(images))


def build_random_detector(cfg: Config) -> nn.Module:
    """A detector with random weights, whose BatchNorms do not just pass values on."""
    detector = build_model(cfg).eval()
    torch.manual_seed(0)
    vary_norms(detector)
    return detector


def prepare_backbone(
    candidates: Candidates, images: np.ndarray, folder: Path
) -> dict[str, Callable[[], object]]:
    """What is timed of the exported backbone, by title; ``images`` (B, 3, H, W)."""
    path = folder / 'backbone.onnx'
    with torch.no_grad(), silence_converters():
        program = export_program(FeatureMaps(candidates.backbone), images.shape[2:])
        torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, verbose=False
        ).save(path)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    options = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = openvino.compile_model(path, 'CPU', options)
    return {
        'backbone, ONNX Runtime': lambda: session.run(None, {name: images}),
        'backbone, OpenVINO': lambda: compiled({0: images}, share_inputs=True),
    }


def prepare_torch(
    detector: nn.Module, images: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """What is timed in torch of ours, by title; ``images`` (B, 3, H, W)."""
    deployed = copy_folded(detector.eval())

    def run(network: Callable[[torch.Tensor], object]) -> None:
        with torch.inference_mode():
            network(images)

    return {
        'backbone, torch, deploy mode': partial(run, deployed.backbone),
        'detector, torch, deploy mode': partial(run, deployed._forward),
    }


def count_macs(run: Callable[[], object]) -> float:
    """Multiply-accumulates of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


def prepare_detectors(
    cfg: Config,
    detector: nn.Module,
    images: Sequence[np.ndarray],
    folder: Path,
    precisions: Sequence[str],
) -> dict[str, Callable[[], object]]:
    """What is timed of exported detectors, by title; prints how long each loads.

    Args:
        cfg: Config whose test pipeline has the size of the input.
        detector: The detector in torch.
        images: H x W x 3, BGR, uint8: to calibrate int8 with, and to predict on.
        folder: Gets the exported files.
        precisions: 'float32', 'half' (where the processor computes in it) or 'int8'.
    """
    size, runs = read_input_size(cfg), {}
    classes = [str(i) for i in range(detector.bbox_head.num_classes)]
    candidates = Candidates(detector)
    for to, title in (('onnx', 'ONNX Runtime'), ('openvino', 'OpenVINO')):
        for precision in precisions:
            if precision == 'half' and (
                to == 'onnx' or 'BF16' not in list_precisions()
            ):
                continue  # no processor here computes in it
            metadata = build_metadata(cfg, detector, classes, size, precision=precision)
            batches = list(make_batches(images, metadata))
            path = folder / f'{precision}{FORMATS[to].suffix}'
            write(to, Job(candidates, metadata, batches), path)
            start = time.perf_counter()
            exported = Detector(path)
            seconds = time.perf_counter() - start
            print(f'{title} {precision}: loads in {seconds:.2f} s')
            name = f'detector, {title}{SUFFIXES[precision]}'
            runs[name] = partial(exported.session.run, batches[0])
            if precision == 'float32':
                runs[f'{name}, from image to boxes'] = partial(
                    exported.detect, images[:1]
                )
    return runs


def list_precisions() -> list[str]:
    """The precisions that OpenVINO computes in on this processor."""
    return openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--rounds', type=int, default=15)
    p.add_argument('--imgsz', type=int, nargs=2, default=(640, 640))
    p.add_argument('--config', default=str(ROOT / 'configs' / 'yolov5_nextvit_s.py'))
    p.add_argument('--checkpoint')
    p.add_argument('--precisions', nargs='+', default=[*SUFFIXES], choices=SUFFIXES)
    p.add_argument('--images', help='to calibrate int8 with, and to predict on')
    args = p.parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')

    cfg = resize_test_pipeline(Config.fromfile(args.config), args.imgsz)
    if args.checkpoint:
        detector = load_detector(cfg, args.checkpoint)
    else:
        detector = build_random_detector(cfg)
    if args.images:
        paths = take_evenly(find_files(args.images), 32)
        images = [read_image(str(path)) for path in paths]
    else:
        noise = np.random.default_rng(0)
        images = [noise.integers(0, 255, (*args.imgsz, 3), np.uint8) for _ in range(4)]

    reference = timm.create_model('nextvit_small', features_only=True).eval()
    classes = [str(i) for i in range(detector.bbox_head.num_classes)]
    metadata = build_metadata(cfg, detector, classes, args.imgsz)
    inputs = next(make_batches(images, metadata))
    tensor = torch.from_numpy(inputs)

    def run_in_torch() -> None:
        with torch.inference_mode():
            reference(tensor)

    in_torch = prepare_torch(detector, tensor)
    macs = {name.partition(',')[0]: count_macs(run) for name, run in in_torch.items()}
    macs['timm'] = macs['backbone']
    with tempfile.TemporaryDirectory() as name:
        runs = {'timm, torch eager': run_in_torch} | in_torch
        runs |= prepare_backbone(Candidates(detector), inputs, Path(name))
        runs |= prepare_detectors(cfg, detector, images, Path(name), args.precisions)
        times = time_in_turn(runs, args.rounds, time_rested)

    rate = measure_matrix_rate('cpu')
    base = times['timm, torch eager']
    libraries = ('torch', 'timm', 'onnxruntime', 'openvino', 'nncf')
    print(
        f'\n{platform.machine()}, {torch.get_num_threads()} threads; '
        + ', '.join(f'{name} {version(name)}' for name in libraries)
        + f'. OpenVINO computes in {", ".join(list_precisions())}.\n'
        f'Matrix product: {rate / 1e9:.0f} GMAC/s in float32. The backbone has '
        f'{macs["backbone"] / 1e9:.1f} GMACs, the detector '
        f'{macs["detector"] / 1e9:.1f}.\n'
    )
    columns = 'share of the matrix rate', 'time relative to timm, torch eager'
    print(f'| contestant | ms | {" | ".join(columns)} |')
    print('| --- | --- | --- | --- |')
    for name, seconds in times.items():
        share = macs[name.partition(',')[0]] / rate / seconds
        print(f'| {name} | {1000 * seconds:.0f} | {share:.2f} | {seconds / base:.2f} |')


if __name__ == '__main__':
    main()
