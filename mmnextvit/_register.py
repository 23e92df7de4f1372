"""The one place where importing changes anything outside this package.

It makes mmcv usable and puts what we have into MMEngine's registries.
"""

from importlib.util import find_spec

from ._mmcv import prepare_mmcv

prepare_mmcv()  # before anything that imports mmcv.ops, mmdet or mmyolo

from .datasets import checks, yolo_txt  # noqa: E402, F401
from .engine import hooks, optim  # noqa: E402, F401
from .models import nextvit, timm_features  # noqa: E402, F401
from .visualization import predictions  # noqa: E402, F401
from .weights import loading  # noqa: E402, F401

if find_spec('mmyolo') is not None:
    from .engine import schedule  # noqa: F401
    from .models import detector, yolov5_yaml  # noqa: F401
