"""Masks in annotations, compared with what a pipeline can do with them."""

from collections.abc import Iterable

from mmengine.dataset import Compose

from ..utils.errors import UserError
from ..utils.messages import list_lines
from .faults import Fault
from .loading import list_transforms


def find_mask_fault(
    mask: object, width: int, height: int, takes_codes: bool
) -> str | None:
    """What makes a mask unusable, or ``None``.

    Args:
        mask: COCO's ``segmentation``: polygons, or a run-length code.
        width: The image's width in pixels.
        height: The image's height.
        takes_codes: Whether the pipeline can load run-length codes.
    """
    if isinstance(mask, list):
        return None  # a polygon that is useless is ignored
    if not isinstance(mask, dict):
        return 'no mask'
    if not takes_codes:
        return 'a run-length code (RLE), where polygons are needed'
    counts, size = mask.get('counts'), mask.get('size')
    if size != [height, width]:
        return f'a run-length code of size {size}, not [{height}, {width}]'
    if isinstance(counts, list):
        whole = all(type(n) is int and n >= 0 for n in counts)
        if not whole or sum(counts) != width * height:
            return 'a run-length code whose counts do not add up to its size'
        return None
    return None if isinstance(counts, str) else 'a run-length code without counts'


def describe_masks(
    data_list: Iterable[dict], pipeline: Compose, ann_file: str
) -> Fault | None:
    """Of objects whose masks the pipeline cannot load.

    Crowds, whose masks are codes in COCO, are left out in training, and MMYOLO leaves
    out objects without a mask.

    Args:
        data_list: Samples.
        pipeline: Transforms that are built.
        ann_file: What the samples stand in.
    """
    loaders = [t for t in list_transforms(pipeline) if getattr(t, 'with_mask', False)]
    if not loaders:
        return None
    takes_codes = all(getattr(t, 'poly2mask', False) for t in loaders)
    wrong = [
        f'{data["img_path"]}: {fault}'
        for data in data_list
        for instance in data['instances']
        if not instance['ignore_flag'] and (takes_codes or 'mask' in instance)
        for fault in [
            find_mask_fault(
                instance.get('mask'), data['width'], data['height'], takes_codes
            )
        ]
        if fault
    ]
    if not wrong:
        return None
    advice = (
        'Correct them, or use a detector of boxes'
        if takes_codes
        else "Write polygons into segmentation, as pycocotools and OpenCV's "
        'findContours make them; Mask R-CNN takes codes too'
    )
    return Fault(
        UserError(
            f'{len(wrong)} objects have masks that this pipeline cannot load:\n'
            f'  {list_lines(wrong)}\n{advice}',
            file=ann_file,
        )
    )
