"""Masks in annotations, compared with what a pipeline can do with them."""

from collections.abc import Iterable

from mmengine.dataset import Compose

from ..utils.errors import UserError
from ..utils.messages import first_few, list_lines
from .faults import Fault
from .loading import list_transforms


def find_mask_fault(
    mask: object, width: int, height: int, takes_codes: bool
) -> str | None:
    """What a pipeline cannot do with a mask, or ``None``.

    Args:
        mask: COCO's ``segmentation``: polygons, or a run-length code.
        width: The image's width in pixels.
        height: The image's height.
        takes_codes: Whether the pipeline can load run-length codes.
    """
    if mask is None and takes_codes:  # MMYOLO leaves such objects out
        return 'no segmentation'
    if not isinstance(mask, dict):
        return None
    if not takes_codes:
        return 'a run-length code (RLE), where polygons are needed'
    size = mask.get('size')
    if size != [height, width]:
        return f'a run-length code of size {size}, not [{height}, {width}]'
    return None


def describe_lost(data_list: Iterable[dict], pipeline: Compose) -> str:
    """Of objects that are left out since they have no mask; an empty text of none."""
    if not any(getattr(t, 'with_mask', False) for t in list_transforms(pipeline)):
        return ''
    lost = [
        data['img_path']
        for data in data_list
        for instance in data['instances']
        if not instance['ignore_flag'] and not any(instance.get('mask') or ())
    ]
    if not lost:
        return ''
    return (
        f'{len(lost)} objects have no mask that can be read, and are left out: '
        f'{first_few(dict.fromkeys(lost))}'
    )


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
        if not instance['ignore_flag']
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
