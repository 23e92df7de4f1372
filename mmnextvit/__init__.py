"""NextViT backbones and YOLOv5 detectors for MMDetection and MMYOLO.

Importing this package is quick: it imports neither torch nor OpenMMLab's packages. What
the package has is registered before any of those is used; see
:mod:`mmnextvit._import_hook`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import _import_hook
from .hub import config_file, get_config, get_model
from .recipes import fit_recipe, tune_recipe
from .utils.packages import NEEDED, has_mmyolo, list_missing, require_mmyolo

if TYPE_CHECKING:
    from .models.detector import FittedYOLODetector
    from .models.nextvit import NextViT
    from .models.timm_features import TimmFeatures
    from .models.yolov5_rows import register_row
    from .models.yolov5_yaml import YOLOv5YAMLBackbone, YOLOv5YAMLNeck

__version__ = '0.1.0'
__all__ = [
    '__version__',
    'config_file',
    'fit_recipe',
    'get_config',
    'get_model',
    'tune_recipe',
]

# Public names and the modules that have them, which are imported at the first use.
_OF_MMYOLO = {
    'FittedYOLODetector': 'models.detector',
    'YOLOv5YAMLBackbone': 'models.yolov5_yaml',
    'YOLOv5YAMLNeck': 'models.yolov5_yaml',
}
_MODULES: dict[str, str] = {
    'NextViT': 'models.nextvit',
    'TimmFeatures': 'models.timm_features',
    'register_row': 'models.yolov5_rows',
    **_OF_MMYOLO,
}
_import_hook.register_when_needed()
# Where something that they need is missing, each of them says so when it is used.
if not list_missing('torch') and len(list_missing(*NEEDED)) < len(NEEDED):
    __all__ += ['NextViT', 'TimmFeatures', 'register_row']
    if has_mmyolo():
        __all__ += ['FittedYOLODetector', 'YOLOv5YAMLBackbone', 'YOLOv5YAMLNeck']


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    _import_hook.register()  # raises until it succeeds
    if name in _OF_MMYOLO:
        require_mmyolo()
    return getattr(import_module(f'.{_MODULES[name]}', __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
