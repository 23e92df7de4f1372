"""Has MMDetection's inferencer find what resizes images in MMYOLO's pipelines.

SAHI's wrapper of it looks for a transform called ``Resize``, whose ``scale`` it may
set. MMYOLO's pipelines resize by several transforms of other names.
"""

from collections.abc import Mapping
from typing import Any

from mmdet.apis import DetInferencer

RESIZE = 'Resize'
find_transform = DetInferencer._get_transform_idx  # MMDetection's own


def is_resizing(step: Mapping[str, Any]) -> bool:
    """Whether a transform of a pipeline is one of MMYOLO's that resize."""
    name = getattr(step['type'], '__name__', step['type'])
    return str(name).endswith(RESIZE) and 'scale' in step


def find_or_replace(self: DetInferencer, pipeline: list[dict], name: Any) -> int:
    """The place of a transform in a pipeline, or -1.

    Where ``Resize`` is asked for and MMYOLO's transforms resize, these give way to
    MMDetection's: to the same size, and padded on the right and below.

    Args:
        self: The inferencer.
        pipeline: Its own copy of the test pipeline, which changes then.
        name: The name of the transform, or several.
    """
    place = find_transform(self, pipeline, name)
    found = [number for number, step in enumerate(pipeline) if is_resizing(step)]
    if place >= 0 or name != RESIZE or not found:
        return place
    scale = tuple(pipeline[found[-1]]['scale'])
    pad = dict(type='mmdet.Pad', size_divisor=32, pad_val=dict(img=(114, 114, 114)))
    kept = [step for number, step in enumerate(pipeline) if number not in found]
    kept[found[0] : found[0]] = [dict(type=RESIZE, scale=scale, keep_ratio=True), pad]
    pipeline[:] = kept
    return found[0]


def let_resizing_be_found() -> None:
    """Puts it in the place of MMDetection's method, for the whole process."""
    DetInferencer._get_transform_idx = find_or_replace
