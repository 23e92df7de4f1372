"""mAP of an exported file beside that of its checkpoint in torch."""

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config

from ..engine.hooks import DeployHook
from ..engine.runner import build_dataset, build_runner
from ..utils.errors import UserError
from .choices import Say
from .exported import use_exported


def compare_map(
    cfg: Config, path: Path, checkpoint: str, say: Say
) -> dict[str, tuple[float, float]]:
    """mAP and mAP50 on a config's test data, in torch and of a file, by their names.

    Nothing where the test data cannot be read.
    """
    try:
        build_dataset(cfg, 'test')
    except (OSError, UserError) as error:
        say(f'mAP is not measured, without the test data of {cfg.filename}: {error}')
        return {}
    return beside(measure_in_torch(cfg, checkpoint), cfg, path)


def beside(
    theirs: Mapping[str, float], cfg: Config, path: Path
) -> dict[str, tuple[float, float]]:
    """What :func:`measure_in_torch` gave, beside the same of a file."""
    ours = measure_map(use_exported(cfg, str(path)))
    return {name: (value, ours[name]) for name, value in theirs.items()}


def measure_in_torch(cfg: Config, checkpoint: str) -> dict[str, float]:
    """As :func:`measure_map`, of a checkpoint in torch, with every BatchNorm."""
    cfg = remove_deploy_hook(cfg)
    cfg.load_from = checkpoint
    return measure_map(cfg)


def remove_deploy_hook(cfg: Config) -> Config:
    """A copy of a config whose runner tests the model itself, not a folded copy."""

    def is_wanted(hook: object) -> bool:
        hook_type = hook.get('type') if isinstance(hook, Mapping) else type(hook)
        name = getattr(hook_type, '__name__', str(hook_type))
        return name.rpartition('.')[2] != DeployHook.__name__

    cfg = copy.deepcopy(cfg)
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = {name: h for name, h in hooks.items() if is_wanted(h)}
    cfg.custom_hooks = [h for h in cfg.get('custom_hooks') or [] if is_wanted(h)]
    return cfg


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
