"""Comparing what was written with torch, as far as this machine can run it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.device import is_cuda_available
from torch import nn

from ..runtime import Detector, Metadata
from .choices import Options, Say
from .formats import FORMATS
from .job import Written
from .metadata import STRIDE, resize_test_pipeline
from .parity import (
    Drift,
    compare_candidates,
    compare_classes,
    compare_detections,
    compare_inputs,
    make_batches,
)
from .tensorrt import EngineDetector, build_engine


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


@dataclass(frozen=True)
class Comparison:
    """What a written file is compared with, and on what.

    Args:
        options: What was asked for.
        metadata: What the file should say.
        reference: The detector in torch, as it was trained.
        cfg: Config with the file's size.
        images: H x W x 3, BGR, uint8.
        say: Gets a line for each file.
    """

    options: Options
    metadata: Metadata
    reference: nn.Module
    cfg: Config
    images: Sequence[np.ndarray]
    say: Say

    @property
    def exact(self) -> bool:
        """Whether the file must keep to the tolerances."""
        return self.options.precision == 'float32'

    def compare(self, written: Written, path: Path) -> Drift:
        """All differences of what was written to ``path`` from torch."""
        network = compare_candidates(
            written.run, self.reference, make_batches(self.images, self.metadata)
        )
        drift = network + compare_classes(written.metadata, self.reference)
        drift += compare_inputs(written.metadata['resize'], self.cfg, self.images)
        if network.list_faults(self.exact):  # then its detections say nothing more
            return drift
        return drift + self.compare_files(path, network)

    def compare_files(self, path: Path, rounding: Drift) -> Drift:
        """The differences of the detections, as far as this machine runs the file.

        Args:
            path: Exported file.
            rounding: The differences of the candidates, which are allowed.
        """
        options = self.options
        if not FORMATS[options.to].runs:
            return Drift()
        path /= FORMATS[options.to].model
        files = [] if options.efficient_nms else [Detector(path)]
        if builds_engine(options):
            engine = path.with_suffix('.engine')
            self.say(f'Building {engine.name} ...')
            build_engine(path, engine, self.metadata)
            files.append(EngineDetector(engine, self.metadata))
        total = Drift()
        for file in files:
            total += self.compare_file(file, self.cfg, rounding)
        if self.metadata['input']['dynamic_size'] and not options.efficient_nms:
            height, width = self.metadata['input']['size']
            stride = max(STRIDE, *self.metadata['strides'])
            size = height + stride, width + 2 * stride
            file = Detector(path, imgsz=size)
            cfg = resize_test_pipeline(self.cfg, size, rectangles=True)
            total += compare_inputs(file.steps, cfg, self.images)
            total += self.compare_file(file, cfg, rounding)
        return total

    def compare_file(self, file: Detector, cfg: Config, rounding: Drift) -> Drift:
        """The differences of one opened file's detections, at the size of ``cfg``."""
        self.say(f'Comparing {file.path.name} with torch ...')
        return compare_detections(file, self.reference, cfg, self.images, rounding)
