"""Runs what ``mmnextvit export`` wrote, without torch and without OpenMMLab's packages.

    from mmnextvit.runtime import Detector
    for detection in Detector('model.onnx')('image.jpg'):
        print(detection['class'], detection['score'], detection['box'])

It needs NumPy, OpenCV and the runtime of the file's format: ONNX Runtime, OpenVINO,
NCNN or, for .pt2 and TorchScript, torch. ``python -m mmnextvit.runtime MODEL IMAGE...``
prints JSON. This folder imports nothing else of mmnextvit, so that it may be copied
alone.
"""

# ruff: noqa: E402
from .packages import require_packages

require_packages()  # before what imports them

from .choices import (
    Choices,
    read_choices,
)
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
    fit_batch_size,
)
from .drawing import (
    draw_objects,
)
from .errors import (
    DetectorError,
    ImageError,
    MissingModelError,
    ModelFileError,
    OptionError,
    SourceError,
)
from .frames import (
    Frame,
    Frames,
    check_has_channels,
    open_frames,
    tell_left_out,
)
from .images import (
    CHANNELS,
    END_MARKERS,
    TURNS,
    Image,
    Size,
    check_number_of_pixels,
    convert_image,
    decode,
    decode_all_channels,
    has_end,
    iterate_segments,
    read,
    read_stated_size,
)
from .masks import (
    RLE,
    ComputedMasks,
    Masks,
    Polygon,
    encode_mask,
    outline_mask,
)
from .metadata import (
    FORMAT,
    KEY,
    MAX_METADATA,
    MAX_SIDE,
    NMS,
    BestScores,
    Input,
    MaskSettings,
    Metadata,
    Normalization,
    ResizeStep,
    Thresholds,
    check_metadata,
    count_channels,
    get_channels,
    parse_metadata,
)
from .nms import (
    find_best,
    find_overlaps,
    keep_best,
    suppress,
    widen,
)
from .outputs import (
    check_outputs,
    list_outputs,
)
from .packages import (
    import_runtime,
    name_file,
    send_nothing,
)
from .predicting import (
    Sink,
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
    NCNNSession,
    ONNXSession,
    OpenVINOSession,
    ProgramSession,
    Session,
    TorchScriptSession,
    check_inputs,
    compute_digest,
    find_model,
    read_archive_metadata,
    read_ncnn_file,
    read_openvino_metadata,
)
from .sinks import (
    Write,
    encode_image,
    name_image,
    open_kept_video,
    open_video,
    write_crops,
)
from .slicing import (
    MERGES,
    Found,
    PatchedMasks,
    Slicing,
    Tile,
    detect_in_tiles,
    dispatch,
    list_tiles,
    read_slicing,
    to_slicing,
)
from .sources import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Source,
    Stream,
    find_files,
    find_sources,
    hide_secrets,
    is_video,
    name_sources,
)
from .stopping import (
    stop_by_key,
)
from .threads import (
    count_cores,
    in_batches,
    iterate_ahead,
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
from .tracking import (
    Tracker,
)

__all__ = [
    'BEST',
    'BestScores',
    'CHANNELS',
    'Choices',
    'ComputedMasks',
    'Detections',
    'Detector',
    'DetectorError',
    'END_MARKERS',
    'FORMAT',
    'Found',
    'Frame',
    'Frames',
    'IMAGE_SUFFIXES',
    'Image',
    'ImageError',
    'Input',
    'KEY',
    'Layout',
    'MAX_BATCH',
    'MAX_METADATA',
    'MAX_SIDE',
    'MERGES',
    'MaskSettings',
    'Masks',
    'Metadata',
    'MinScores',
    'MissingModelError',
    'ModelFileError',
    'NCNNSession',
    'NMS',
    'Normalization',
    'ONNXSession',
    'Objects',
    'OpenVINOSession',
    'OptionError',
    'PatchedMasks',
    'Polygon',
    'ProgramSession',
    'RLE',
    'ResizeStep',
    'SESSIONS',
    'STEPS',
    'Session',
    'Sink',
    'Size',
    'Slicing',
    'Source',
    'SourceError',
    'Stream',
    'Threshold',
    'Thresholds',
    'Tile',
    'TURNS',
    'TorchScriptSession',
    'Tracker',
    'VIDEO_SUFFIXES',
    'Write',
    'are_high',
    'check_has_channels',
    'check_inputs',
    'check_metadata',
    'check_number_of_pixels',
    'check_outputs',
    'choose_batch_size',
    'compute_digest',
    'compute_keep_ratio',
    'compute_letterbox',
    'convert_image',
    'count_channels',
    'count_cores',
    'decode',
    'decode_all_channels',
    'detect_in_tiles',
    'dispatch',
    'draw_objects',
    'encode_image',
    'encode_mask',
    'find_best',
    'find_files',
    'find_model',
    'find_overlaps',
    'find_sources',
    'find_thresholds',
    'fit',
    'fit_batch_size',
    'get_channels',
    'group',
    'has_end',
    'hide_secrets',
    'import_runtime',
    'in_batches',
    'is_video',
    'iterate_ahead',
    'iterate_segments',
    'keep_best',
    'lay_out',
    'list_best_scores',
    'list_outputs',
    'list_tiles',
    'main',
    'map_ahead',
    'name_file',
    'name_image',
    'name_sources',
    'open_frames',
    'open_kept_video',
    'open_threads',
    'open_video',
    'outline_mask',
    'parse_metadata',
    'print_objects',
    'read',
    'read_archive_metadata',
    'read_choices',
    'read_ncnn_file',
    'read_openvino_metadata',
    'read_slicing',
    'read_stated_size',
    'resize',
    'send_nothing',
    'stack',
    'stop_by_key',
    'suppress',
    'tell_left_out',
    'to_image',
    'to_pair',
    'to_slicing',
    'widen',
    'write_crops',
]
