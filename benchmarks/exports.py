"""How long the export of each family of timm's backbones takes: benchmarks/exports.py
[--models NAME ...] [--imgsz H W] [--dynamic]

Under a narrow YOLOv5 neck and head; random weights. The processor's seconds of tracing
by torch.export, conversion to ONNX and onnxslim, and the largest differences of all
candidates from torch. A row is printed as soon as it is there.
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import mmnextvit  # noqa: E402, F401  (first)
from mmnextvit.benchmark.norms import settle_norms, vary_norms  # noqa: E402
from mmnextvit.deploy import onnx as our_onnx  # noqa: E402
from mmnextvit.deploy.candidates import Candidates  # noqa: E402
from mmnextvit.deploy.parity import compare_candidates  # noqa: E402
from mmnextvit.models.timm_features import TimmFeatures  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmyolo.registry import MODELS  # noqa: E402
from torch import nn  # noqa: E402

from tests.helpers.timm_families import DETECTORS, FAMILIES  # noqa: E402

SINGLE = set(FAMILIES) - set(DETECTORS)  # one map, which no neck of ours reads
COLUMNS = 'backbone', 'operators', 'tracing, s', 'all, s', 'boxes differ, px', 'scores'


def build(name: str, options: dict) -> nn.Module:
    """A detector with a timm backbone and `yolov5_nextvit_s`'s neck and head."""
    init_default_scope('mmyolo')
    cfg = Config.fromfile(ROOT / 'configs' / 'yolov5_nextvit_s.py')
    cfg.model.backbone = dict(type='mmdet.TimmFeatures', model_name=name, **options)
    cfg.model.bbox_head.head_module.num_classes = 3
    torch.manual_seed(0)
    detector = MODELS.build(cfg.model)
    vary_norms(detector)
    settle_norms(detector, lambda: detector(torch.rand(2, 3, 256, 256), mode='tensor'))
    return detector


class Alone(nn.Module):
    """A backbone that no neck of ours fits, with outputs named as candidates are."""

    def __init__(self, name: str, options: dict) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = TimmFeatures(name, **options).eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cells = self.backbone(images / 255)[-1].flatten(2)  # B C H W -> B C N
        return cells, cells.sigmoid()


def measure(name: str, options: dict, size: tuple[int, int], dynamic: bool) -> list:
    """A row of the table."""
    alone = Alone(name, options) if name in SINGLE else None
    detector = build(name, options) if alone is None else None
    seconds: list[float] = []
    trace = our_onnx.export_program

    def trace_and_measure(*args: object) -> torch.export.ExportedProgram:
        start = time.process_time()
        program = trace(*args)
        seconds.append(time.process_time() - start)
        return program

    our_onnx.export_program = trace_and_measure
    start = time.process_time()
    try:
        model = our_onnx.build_network(alone or Candidates(detector), size, 1, dynamic)
    finally:
        our_onnx.export_program = trace
    whole = time.process_time() - start
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, *size)).astype('float32')
    run = our_onnx.run_by_onnxruntime(model)
    if alone is None:
        largest = compare_candidates(run, detector.eval(), [images]).largest
        differences = [largest[f'candidate {x}'] for x in ('boxes', 'scores')]
    else:
        pairs = zip(run(images), alone(torch.from_numpy(images)), strict=True)
        differences = [float(np.abs(a - b.numpy()).max()) for a, b in pairs]
    return [
        *(name, len(model.graph.node), f'{seconds[0]:.0f}', f'{whole:.0f}'),
        *(f'{x:.1g}' for x in differences),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--models', nargs='+', default=[*FAMILIES], metavar='NAME')
    parser.add_argument('--imgsz', nargs=2, type=int, default=(256, 256))
    parser.add_argument('--dynamic', action='store_true', help='of any size')
    parser.add_argument(
        '--whole', action='store_true', help="timm's depths and widths, not the tests'"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    MMLogger.get_current_instance().setLevel('WARNING')
    for line in (COLUMNS, ['---'] * len(COLUMNS)):
        print(f'| {" | ".join(line)} |', flush=True)
    for name in args.models:
        options = {} if args.whole else FAMILIES.get(name, {})
        try:
            row = measure(name, options, tuple(args.imgsz), args.dynamic)
        except Exception as error:  # each library has types of its own
            row = [name, *[''] * (len(COLUMNS) - 2), ' '.join(str(error).split())[:80]]
        print(f'| {" | ".join(map(str, row))} |', flush=True)


if __name__ == '__main__':
    main()
