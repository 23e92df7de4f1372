"""The one place where importing changes anything outside this package.

It makes mmcv usable, puts what we have into MMEngine's registries, puts what reads and
what writes checkpoints in place of MMEngine's, has MMDetection's heads tell NMS how
many boxes they keep, keeps packages that are imported later from sending data, and
leaves out what Python has to say of OpenMMLab's backslashes.
:mod:`mmnextvit._import_hook` has it imported before anything that depends on it.
"""

import warnings

from ._import_hook import OPENMMLAB
from .utils.packages import check_packages, has_mmyolo

# Python 3.12 and newer warn of them wherever an installer has compiled nothing, as uv.
theirs = rf'.*[\\/]({"|".join(OPENMMLAB)})[\\/]'
warnings.filterwarnings('ignore', '', SyntaxWarning, theirs, append=True)
check_packages()  # before any of them is imported, and torch

from ._mmcv import prepare_mmcv  # noqa: E402
from .runtime import send_nothing  # noqa: E402

send_nothing()  # before MMDetection, which imports Albumentations where that is
prepare_mmcv()  # before anything that imports mmcv.ops, mmdet or mmyolo

from .datasets import loading  # noqa: E402, F401
from .engine import (  # noqa: E402
    bad_loss,  # noqa: F401
    best_scores,  # noqa: F401
    data_report,  # noqa: F401
    finishing,  # noqa: F401
    hooks,  # noqa: F401
    loops,  # noqa: F401
    optim,  # noqa: F401
    resume,  # noqa: F401
    slicing,  # noqa: F401
    time_left,  # noqa: F401
    validation_loss,  # noqa: F401
)
from .engine.checkpoints import register_checkpoints  # noqa: E402
from .engine.inferencer import let_resizing_be_found  # noqa: E402
from .evaluation import coco_metric  # noqa: E402, F401
from .models import (  # noqa: E402
    data_preprocessors,  # noqa: F401
    nextvit,  # noqa: F401
    roi_head,  # noqa: F401
    timm_features,  # noqa: F401
)
from .models.nms_limits import tell_limits  # noqa: E402
from .visualization import predictions  # noqa: E402, F401
from .weights.loading import register_loaders  # noqa: E402

register_loaders()
register_checkpoints()
tell_limits()
let_resizing_be_found()

if has_mmyolo():
    from .datasets import mmyolo_datasets  # noqa: F401
    from .engine import schedule  # noqa: F401
    from .models import detector, yolov5_yaml  # noqa: F401
