"""NextViT backbones and YOLOv5 detectors for MMDetection and MMYOLO.

Importing this package registers everything it has.
"""

from importlib.util import find_spec

from .hub import config_file, get_config, get_model

__version__ = '0.1.0'
__all__ = ['__version__', 'config_file', 'get_config', 'get_model']

# The deployment runtime works without torch, and beside a torch that is alone; nothing
# else does.
if find_spec('torch') and any(map(find_spec, ('mmengine', 'mmcv', 'mmdet'))):
    from . import _register  # noqa: F401
    from .models.nextvit import NextViT
    from .models.timm_features import TimmFeatures

    __all__ += ['NextViT', 'TimmFeatures']

    if find_spec('mmyolo') is not None:
        from .models.detector import FittedYOLODetector
        from .models.yolov5_yaml import YOLOv5YAMLBackbone, YOLOv5YAMLNeck

        __all__ += ['FittedYOLODetector', 'YOLOv5YAMLBackbone', 'YOLOv5YAMLNeck']
