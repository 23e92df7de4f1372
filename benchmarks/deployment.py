"""Speed of exported files: benchmarks/deployment.py [--rounds N] [--imgsz H W]
[--config CONFIG --checkpoint CHECKPOINT --images FOLDER]

Times timm's backbone in torch, ours exported, and the whole detector exported with
its NMS, in turn, in one process. Without a checkpoint the weights are random, with
BatchNorm statistics unlike a fresh net's, and the images are noise. It also measures
the rate of torch's matrix product and counts the backbone's multiply-accumulates
(MACs): together they say how fast a float32 backbone can be here.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import mmnextvit  # noqa: E402, F401  (first)
from mmnextvit.apis import Predictor  # noqa: E402
from mmnextvit.benchmark.timing import (  # noqa: E402
    measure_matrix_rate,
    time_in_turn,
)
from mmnextvit.datasets.checks import read_image  # noqa: E402
from mmnextvit.datasets.sources import find_files  # noqa: E402
from mmnextvit.deploy.candidates import Candidates, metadata, resized  # noqa: E402
from mmnextvit.deploy.formats import FORMATS, Job  # noqa: E402
from mmnextvit.deploy.onnx import OPSET, exported_program, quietly  # noqa: E402
from mmnextvit.deploy.parity import batches  # noqa: E402
from mmnextvit.engine.runner import build_model  # noqa: E402
from mmnextvit.runtime import Detector  # noqa: E402

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import openvino  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.modules.batchnorm import _BatchNorm  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

TARGETS = {
    'backbone, ONNX Runtime': 0.60,
    'backbone, OpenVINO': 0.60,
    'detector, ONNX Runtime': 0.68,
    'detector, OpenVINO': 0.68,
    'detector, OpenVINO bfloat16': 0.36,
    'detector, OpenVINO int8': 0.25,
    'detector, ONNX Runtime int8': 0.25,
}


class Maps(nn.Module):
    """A backbone whose maps come out as a list, as the exporter wants them."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return list(self.backbone(images))


def random_detector(cfg: Config) -> nn.Module:
    detector = build_model(cfg).eval()
    torch.manual_seed(0)
    for m in detector.modules():
        if isinstance(m, _BatchNorm):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.1)
    return detector


def backbone_runs(
    candidates: Candidates, images: np.ndarray, folder: Path
) -> dict[str, Callable[[], object]]:
    path = folder / 'backbone.onnx'
    with torch.no_grad(), quietly():
        program = exported_program(Maps(candidates.backbone), images.shape[2:])
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


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--rounds', type=int, default=15)
    p.add_argument('--imgsz', type=int, nargs=2, default=(640, 640))
    p.add_argument('--config', default=str(ROOT / 'configs' / 'yolov5_nextvit_s.py'))
    p.add_argument('--checkpoint')
    p.add_argument('--images', help='to calibrate int8 with, and to predict on')
    args = p.parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')

    cfg = resized(Config.fromfile(args.config), args.imgsz)
    if args.checkpoint:
        detector = Predictor(cfg, args.checkpoint, 'cpu').model
    else:
        detector = random_detector(cfg)
    if args.images:
        paths = [str(path) for path in find_files(args.images)][:32]
        images = [read_image(path) for path in paths]
    else:
        noise = np.random.default_rng(0)
        images = [noise.integers(0, 255, (*args.imgsz, 3), np.uint8) for _ in range(4)]
    classes = [str(i) for i in range(detector.bbox_head.num_classes)]
    candidates = Candidates(detector)

    reference = timm.create_model('nextvit_small', features_only=True).eval()
    runs: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = metadata(cfg, detector, classes, args.imgsz)
        inputs = next(iter(batches(images, facts)))
        tensor = torch.from_numpy(inputs)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            reference(tensor)
        macs = counter.get_total_flops() / 2

        def in_torch():
            with torch.inference_mode():
                reference(tensor)

        runs['timm, torch eager'] = in_torch
        runs.update(backbone_runs(candidates, inputs, folder))
        able = openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
        for to, title in (('onnx', 'ONNX Runtime'), ('openvino', 'OpenVINO')):
            for precision in ('float32', 'half', 'int8'):
                if precision == 'half' and (to == 'onnx' or 'BF16' not in able):
                    continue  # no processor here computes in it
                facts = metadata(
                    cfg, detector, classes, args.imgsz, precision=precision
                )
                path = folder / f'{precision}{FORMATS[to].suffix}'
                FORMATS[to].write(
                    Job(candidates, facts, list(batches(images, facts))), path
                )
                start = time.perf_counter()
                exported = Detector(path)
                print(
                    f'{title} {precision}: loads in {time.perf_counter() - start:.2f} s'
                )
                kind = {'float32': '', 'half': ' bfloat16', 'int8': ' int8'}[precision]
                run = exported.session.run
                runs[f'detector, {title}{kind}'] = lambda run=run: run(inputs)
                if precision == 'float32':
                    runs[f'detector, {title}, from image to boxes'] = (
                        lambda exported=exported: exported.detect(images[:1])
                    )
        times = time_in_turn(runs, args.rounds)

    rate = measure_matrix_rate('cpu')
    base = times['timm, torch eager']
    libraries = ('torch', 'timm', 'onnxruntime', 'openvino', 'nncf')
    print(
        f'\n{platform.machine()}, {torch.get_num_threads()} threads; '
        + ', '.join(f'{name} {version(name)}' for name in libraries)
        + f'. OpenVINO computes in {", ".join(able)}.\n'
        f'Matrix product: {rate / 1e9:.0f} GMAC/s in float32. The backbone has '
        f'{macs / 1e9:.1f} GMACs: {1000 * macs / rate:.0f} ms at that rate, '
        f'{macs / rate / base:.2f} of timm.\n'
    )
    print('| what | ms | of timm eager | target |\n| --- | --- | --- | --- |')
    for name, seconds in times.items():
        print(
            f'| {name} | {1000 * seconds:.0f} | {seconds / base:.2f} '
            f'| {TARGETS.get(name, "")} |'
        )


if __name__ == '__main__':
    main()
