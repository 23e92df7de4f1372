"""Which hooks of a config a run has: some are taken out, and none is there twice."""

import copy
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

# Those that MMEngine's runner has where a config does not name them, and takes out
# where it says None.
MMENGINE_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)


def settle_hooks(cfg: Config) -> Config:
    """A config in which a hook of ``custom_hooks`` replaces our averaging.

    Our recipes average weights in ``default_hooks.ema``, where a config with hooks of
    its own keeps it. A second one would swap the weights that the first has swapped.

    Args:
        cfg: The config, which stays as it is.
    """
    hooks = cfg.get('default_hooks') or {}
    own = [hook for hook in cfg.get('custom_hooks') or [] if averages_weights(hook)]
    replaced = [name for name, hook in hooks.items() if averages_weights(hook)]
    if not own or not replaced:
        return cfg
    print_log(
        f'{name_type(own[0])} of custom_hooks averages the weights in place of '
        f'default_hooks.{replaced[0]}',
        logger='current',
    )
    cfg = copy.deepcopy(cfg)
    for name in replaced:
        cfg.default_hooks[name] = None
    return cfg


def averages_weights(hook: Any) -> bool:
    """Whether a hook, or a config of one, is an ``EMAHook``."""
    return name_type(hook).endswith('EMAHook')


def name_type(hook: Any) -> str:
    """The name of the class of a hook, or of a config of one."""
    kind = hook.get('type') if isinstance(hook, dict) else type(hook)
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]
