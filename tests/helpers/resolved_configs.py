"""Digests of what our configs resolve to, so that no change of one goes unseen.

``python -m tests.helpers.resolved_configs`` writes tests/configs/resolved.json anew.
"""

import hashlib
import json
from pathlib import Path

import mmnextvit  # noqa: F401  (registers what the configs name)
from mmnextvit.utils.files import atomic_write_text

from mmengine.config import Config

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / 'tests' / 'configs' / 'resolved.json'
# What a Runner reads. The variables that a config computes them from may change.
PARTS = (
    'auto_scale_lr',
    'custom_hooks',
    'custom_imports',
    'default_hooks',
    'default_scope',
    'env_cfg',
    'load_from',
    'log_level',
    'log_processor',
    'model',
    'optim_wrapper',
    'param_scheduler',
    'randomness',
    'resume',
    'test_cfg',
    'test_dataloader',
    'test_evaluator',
    'train_cfg',
    'train_dataloader',
    'val_cfg',
    'val_dataloader',
    'val_evaluator',
    'visualizer',
)


def config_files(root: Path = ROOT) -> list[Path]:
    """All configs that can be trained or inherited from as a whole."""
    folder = root / 'configs'
    return sorted([*folder.glob('*.py'), *folder.glob('_base_/*_recipe.py')])


def digest(value: object) -> str:
    """The first 16 digits of the SHA-256 of a value as JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digests(path: Path) -> dict[str, str]:
    """A config's parts, each with its digest.

    Hooks of equal priority run in the order in which they stand, so that they are taken
    as a list.
    """
    cfg = Config.fromfile(path).to_dict()
    cfg['default_hooks'] = list(cfg['default_hooks'].items())
    return {part: digest(cfg[part]) for part in PARTS if part in cfg}


def main() -> None:
    resolved = {path.stem: digests(path) for path in config_files()}
    atomic_write_text(GOLDEN, json.dumps(resolved, indent=1) + '\n')


if __name__ == '__main__':
    main()
