"""What NMS costs where a model fires in nearly every cell: benchmarks/nms.py
[--rounds N] [--sizes N ...] [--formats NAME ...] [--config CONFIG]
[--cfg-options data_root=FOLDER/ ...]

Needs no checkpoint: weights are random, and scaled so that about half of all boxes are
above the minimum score. Validation and detection in torch, and exported files with NMS
inside (graph) and without it (runtime), stand beside their networks alone, in turn.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import mmnextvit  # noqa: E402, F401  (first)
from mmnextvit.benchmark.crowded import crowd  # noqa: E402
from mmnextvit.benchmark.loops import (  # noqa: E402
    measure_detection,
    measure_validation,
)
from mmnextvit.benchmark.timing import time_in_turn, time_rested  # noqa: E402
from mmnextvit.datasets.images import read_image  # noqa: E402
from mmnextvit.deploy.candidates import Candidates  # noqa: E402
from mmnextvit.deploy.formats import FORMATS, write  # noqa: E402
from mmnextvit.deploy.job import Job  # noqa: E402
from mmnextvit.deploy.metadata import (  # noqa: E402
    build_metadata,
    resize_test_pipeline,
)
from mmnextvit.deploy.parity import make_batches  # noqa: E402
from mmnextvit.engine.configs import read_config  # noqa: E402
from mmnextvit.engine.runner import build_dataset, build_model  # noqa: E402
from mmnextvit.runtime import Detector  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from mmengine.config import Config, DictAction  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from torch import nn  # noqa: E402

TITLES = {'onnx': 'ONNX Runtime', 'openvino': 'OpenVINO', 'torchscript': 'TorchScript'}
Runs = dict[str, Callable[[], object]]


def prepare_files(
    cfg: Config, detector: nn.Module, size: int, formats: Sequence[str], folder: Path
) -> Runs:
    """What is timed of exported files at a size, by title; prints how much is found.

    Of each format it is the network, the same with NMS in the graph, and the same with
    the runtime's NMS behind it.
    """
    image = read_image(build_dataset(cfg, 'val').get_data_info(0)['img_path'])
    cfg = resize_test_pipeline(cfg, (size, size))
    classes = [str(i) for i in range(detector.bbox_head.num_classes)]
    runs: Runs = {}
    for to in formats:
        files = []
        for in_graph in (False, True):
            metadata = build_metadata(
                cfg, detector, classes, (size, size), nms_in_graph=in_graph
            )
            path = folder / f'{size}_{in_graph}{FORMATS[to].suffix}'
            write(to, Job(Candidates(detector), metadata), path)
            files.append(Detector(path))
        plain, whole = files
        images = next(make_batches([image], metadata))
        scores = plain.run(images)['scores']
        count = int((scores > metadata['nms']['score_thr']).sum())
        title = f'{TITLES[to]}, {size}x{size}'
        print(f'{title}: {count} of {scores.size} boxes are above the minimum score')
        runs |= name_runs(title, plain, whole, images)
    return runs


def name_runs(title: str, plain: Detector, whole: Detector, images: np.ndarray) -> Runs:
    """The runs of one format's two files, without and with NMS inside."""

    def suppress() -> object:
        outputs = plain.run(images)
        return plain.postprocess({name: rows[0] for name, rows in outputs.items()})

    return {
        title: lambda: plain.run(images),
        f'{title}, NMS in the graph': lambda: whole.run(images),
        f'{title}, NMS in the runtime': suppress,
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--rounds', type=int, default=9)
    p.add_argument('--sizes', type=int, nargs='+', default=[320, 640])
    p.add_argument('--formats', nargs='*', default=[*TITLES], choices=[*TITLES])
    p.add_argument('--config', default=str(ROOT / 'configs/yolov5_nextvit_s_bccd.py'))
    p.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    args = p.parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')

    cfg = read_config(args.config, args.cfg_options)
    torch.manual_seed(0)
    detector = crowd(build_model(cfg))
    rows, runs = [], {}
    with tempfile.TemporaryDirectory() as name:
        cfg.work_dir, cfg.load_from = name, f'{name}/crowded.pth'
        torch.save({'state_dict': detector.state_dict()}, cfg.load_from)
        for size in args.sizes:
            predict, forward = measure_detection(cfg, size, args.rounds)
            rows.append((f'detection, {size}x{size}', median(predict), median(forward)))
        loop, forward = measure_validation(cfg, max(args.rounds // 3, 1))
        rows.append(('validation, an image', median(loop), median(forward)))
        for size in args.sizes:
            runs |= prepare_files(cfg, detector, size, args.formats, Path(name))
        times = time_in_turn(runs, args.rounds, time_rested) if runs else {}
    for title, seconds in times.items():
        network = title.partition(', NMS')[0]
        if title != network:
            rows.append((title, seconds, times[network]))
    print('\n| measured | ms | its network, ms | ratio |\n| --- | --- | --- | --- |')
    for title, seconds, base in rows:
        print(
            f'| {title} | {1000 * seconds:.0f} | {1000 * base:.0f} '
            f'| {seconds / base:.2f} |'
        )


if __name__ == '__main__':
    main()
