"""Runs what ``mmnextvit export`` wrote, without torch and without OpenMMLab's packages.

    from mmnextvit.runtime import Detector
    for detection in Detector('model.onnx')('image.jpg'):
        print(detection['class'], detection['score'], detection['box'])

It needs NumPy, OpenCV and the runtime of the file's format: ONNX Runtime, OpenVINO or,
for TorchScript, torch. ``python -m mmnextvit.runtime MODEL IMAGE...`` prints JSON.
This folder imports nothing else of mmnextvit, so that it may be copied alone.
"""

from .command import (
    main,
    print_objects,
)
from .detections import (
    Detections,
    Objects,
)
from .detector import (
    MAX_BATCH,
    Detector,
    choose_batch_size,
)
from .errors import (
    DetectorError,
    ImageError,
    MissingModelError,
    ModelFileError,
    OptionError,
)
from .images import (
    END_MARKERS,
    Image,
    Size,
    check_number_of_pixels,
    decode,
    has_end,
    iterate_segments,
    read,
    read_stated_size,
)
from .metadata import (
    FORMAT,
    KEY,
    MAX_METADATA,
    MAX_SIDE,
    NMS,
    BestScores,
    Input,
    Metadata,
    Normalization,
    ResizeStep,
    Thresholds,
    check_metadata,
    parse_metadata,
)
from .nms import (
    find_best,
    find_overlaps,
    keep_best,
    suppress,
)
from .outputs import (
    OUTPUTS,
    check_outputs,
)
from .packages import (
    import_runtime,
    name_file,
    send_nothing,
)
from .resizing import (
    STEPS,
    Layout,
    compute_keep_ratio,
    compute_letterbox,
    fit,
    group,
    lay_out,
    resize,
    stack,
    to_image,
    to_pair,
)
from .sessions import (
    SESSIONS,
    ONNXSession,
    OpenVINOSession,
    Session,
    TorchScriptSession,
    check_inputs,
    find_model,
    read_openvino_metadata,
    read_torchscript_metadata,
)
from .threads import (
    map_ahead,
    open_threads,
)
from .thresholds import (
    BEST,
    MinScores,
    Threshold,
    are_high,
    find_thresholds,
    list_best_scores,
)

__all__ = [
    'BEST',
    'BestScores',
    'Detections',
    'Detector',
    'DetectorError',
    'END_MARKERS',
    'FORMAT',
    'Image',
    'ImageError',
    'Input',
    'KEY',
    'Layout',
    'MAX_BATCH',
    'MAX_METADATA',
    'MAX_SIDE',
    'Metadata',
    'MinScores',
    'MissingModelError',
    'ModelFileError',
    'NMS',
    'Normalization',
    'ONNXSession',
    'OUTPUTS',
    'Objects',
    'OpenVINOSession',
    'OptionError',
    'ResizeStep',
    'SESSIONS',
    'STEPS',
    'Session',
    'Size',
    'Threshold',
    'Thresholds',
    'TorchScriptSession',
    'are_high',
    'check_inputs',
    'check_metadata',
    'check_number_of_pixels',
    'check_outputs',
    'choose_batch_size',
    'compute_keep_ratio',
    'compute_letterbox',
    'decode',
    'find_best',
    'find_model',
    'find_overlaps',
    'find_thresholds',
    'fit',
    'group',
    'has_end',
    'import_runtime',
    'iterate_segments',
    'keep_best',
    'lay_out',
    'list_best_scores',
    'main',
    'map_ahead',
    'name_file',
    'open_threads',
    'parse_metadata',
    'print_objects',
    'read',
    'read_openvino_metadata',
    'read_stated_size',
    'read_torchscript_metadata',
    'resize',
    'send_nothing',
    'stack',
    'suppress',
    'to_image',
    'to_pair',
]
