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
    from ._mmcv import prepare_mmcv

    prepare_mmcv()  # before anything that imports mmcv.ops, mmdet or mmyolo

    from . import checkpoint, datasets, hooks, optim, visualization, yolo_txt
    from .nextvit import NextViT
    from .timm_features import TimmFeatures

    __all__ += [
        'NextViT',
        'TimmFeatures',
        'checkpoint',
        'datasets',
        'hooks',
        'optim',
        'visualization',
        'yolo_txt',
    ]

    if find_spec('mmyolo') is not None:
        from . import schedule
        from .detector import FittedYOLODetector
        from .yolov5_yaml import YOLOv5YAMLBackbone, YOLOv5YAMLNeck

        __all__ += [
            'FittedYOLODetector',
            'YOLOv5YAMLBackbone',
            'YOLOv5YAMLNeck',
            'schedule',
        ]
