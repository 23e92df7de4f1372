"""mAP of an exported file beside that of its checkpoint in torch."""

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config

from ..engine.runner import build_dataset, build_runner
from .choices import Say
from .exported import with_exported


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
