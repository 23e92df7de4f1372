"""The boxes that detections are compared with, of a file or of a dataset's samples."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from mmdet.datasets.api_wrappers import COCO
from mmengine import fileio

from ..datasets.coco import (
    clean_coco,
    index_coco,
    leave_out_empty_twins,
    match_categories,
    parse_coco,
)
from ..datasets.files import read_bytes
from ..datasets.values import Identifier
from ..utils.errors import MissingFileError, UserError, naming_file
from ..utils.messages import list_lines, show
from .results import decode_rle


def read_truth(
    ann_file: str, backend_args: dict | None = None, sort_categories: bool = False
) -> dict:
    """The content of an annotation file, with the boxes that something can match.

    Values are read as `VerifiedCocoDataset` reads them.

    Args:
        ann_file: COCO's annotation file.
        backend_args: MMEngine's file backend.
        sort_categories: Whether the categories are taken in the order of their ids.

    Raises:
        MissingFileError: There is no such file.
        UserError: It is no COCO detection data.
    """
    if not fileio.exists(ann_file, backend_args):
        raise MissingFileError(
            'the annotation file does not exist: set ann_file of val_evaluator and '
            'test_evaluator to the file of the dataset',
            file=ann_file,
        )
    with naming_file(ann_file):
        content = parse_coco(read_bytes(ann_file, backend_args), False)
    content, _ = clean_coco(content)
    if sort_categories:
        content['categories'].sort(key=lambda category: _rank(category['id']))
    return content


def build_truth(truths: Iterable[dict], classes: Sequence[str]) -> dict:
    """An annotation file's content from what the samples of a dataset hold.

    Args:
        truths: Id, width, height and instances (``anns``) of each image, as
            MMDetection's ``CocoMetric`` collects them.
        classes: Names, whose indices become the categories' ids.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for truth in truths:
        size = dict(width=truth['width'], height=truth['height'])
        images.append(dict(id=truth['img_id'], file_name='', **size))
        for instance in truth['anns']:
            x1, y1, x2, y2 = instance['bbox']
            annotation = dict(
                id=len(annotations) + 1,
                image_id=truth['img_id'],
                category_id=int(instance['bbox_label']),
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1),
                iscrowd=instance.get('ignore_flag', 0),
            )
            if instance.get('mask'):
                annotation['segmentation'] = decode_rle(instance['mask'])
            annotations.append(annotation)
    categories = [dict(id=i, name=name) for i, name in enumerate(classes)]
    return dict(
        info=dict(description='Written by mmnextvit from the samples of a dataset.'),
        images=images,
        categories=categories,
        annotations=annotations,
    )


def check_same_image(sample: Mapping, image: Mapping) -> None:
    """Raises where a sample and an annotation file's image with its id are two images.

    Path and file name may begin in different folders, and a loader may have turned the
    image by 90 degrees, as EXIF says.

    Args:
        sample: With ``ori_shape`` (height, width) and, if known, ``img_path``.
        image: The annotation file's entry.

    Raises:
        UserError: It names both; it lacks the file's name.
    """
    path, name = sample.get('img_path'), image.get('file_name')
    height, width = sample['ori_shape'][:2]
    sides = image['width'], image['height']
    same_size = None in sides or sorted(sides) == sorted((width, height))
    if same_size and (not path or not name or _ends_with(path, name)):
        return
    raise UserError(
        f'image {show(image["id"])} of the dataset is '
        f'{show(path) if path else "one"} of {width} x {height} pixels, but here '
        f'{show(name) if name else "one"} of {sides[0]} x {sides[1]}: the evaluator '
        'has the annotations of other images. Write the same file as ann_file of '
        'val_evaluator and of the dataset in val_dataloader, and as ann_file of '
        'test_evaluator and of the dataset in test_dataloader'
    )


def _ends_with(path: str, name: str) -> bool:
    parts, wanted = (PurePosixPath(p.replace('\\', '/')).parts for p in (path, name))
    return parts[-len(wanted) :] == wanted


def check_code_sizes(content: dict) -> None:
    """Raises where a run-length code has another size than its image.

    pycocotools compares no masks of different sizes, and counts the object as missed.

    Args:
        content: As of an annotation file.

    Raises:
        UserError: It names the first ones; it lacks the file's name.
    """
    sizes = {i['id']: [i['height'], i['width']] for i in content['images']}
    wrong = [
        f'annotation {show(annotation["id"])}: {code["size"]}, not {size}'
        for annotation in content['annotations']
        for code, size in [
            (annotation.get('segmentation'), sizes[annotation['image_id']])
        ]
        if isinstance(code, dict) and None not in size and list(code['size']) != size
    ]
    if wrong:
        raise UserError(
            f"metric='segm' of the evaluator: {len(wrong)} run-length codes have "
            'another size than their images (height, width):\n'
            f'  {list_lines(wrong)}\n'
            'Correct size and counts of the codes, or height and width of the images'
        )


def find_category_ids(
    content: dict,
    classes: Sequence[str],
    class_ids: Sequence[Identifier] | None = None,
) -> list[Identifier]:
    """The category of each label, in the order that the dataset has.

    Args:
        content: Of an annotation file.
        classes: The dataset's classes.
        class_ids: The categories that the dataset gives them. Without any, of several
            categories of one name those that own no box do not count.

    Raises:
        UserError: The classes are not the content's, or stand in another order, so that
            a label would mean another category; the error lacks the file's name.
    """
    if class_ids is None:
        content = leave_out_empty_twins(content)
    return match_categories(content, classes, class_ids)


def _rank(identifier: Identifier) -> tuple[bool, Identifier]:
    """Puts numbers before texts, and each in their own order."""
    return isinstance(identifier, str), identifier


class Numbers(NamedTuple):
    """What the ids of images and categories are while pycocotools counts.

    pycocotools sorts the ids of categories: the n-th average precision that it returns
    is that of the n-th label only where the numbers are the labels. Of detections with
    one score those come first whose image has the smaller id, hence images keep their
    order.

    Attributes:
        images: Number from 0 of each image's id.
        categories: Label of each category's id; of those that are no classes a higher
            number.
    """

    images: dict[Identifier, int]
    categories: dict[Identifier, int]


def number_ids(content: dict, category_ids: Sequence[Identifier]) -> Numbers:
    """Numbers for all the ids that a truth has.

    Args:
        content: As of an annotation file.
        category_ids: Of each label.
    """
    images = sorted({image['id'] for image in content['images']}, key=_rank)
    # A file may have boxes of a category that it does not list: recalls of proposals
    # count them.
    others = (annotation['category_id'] for annotation in content['annotations'])
    categories = dict.fromkeys((*category_ids, *others))
    return Numbers(
        {identifier: number for number, identifier in enumerate(images)},
        {identifier: number for number, identifier in enumerate(categories)},
    )


def number_truth(content: dict, classes: Sequence[str], numbers: Numbers) -> COCO:
    """MMDetection's index of a truth under other ids."""
    return index_coco(
        dict(
            images=[
                dict(
                    id=numbers.images[image['id']],
                    width=image['width'],
                    height=image['height'],
                )
                for image in content['images']
            ],
            categories=[dict(id=i, name=name) for i, name in enumerate(classes)],
            annotations=[
                dict(
                    annotation,
                    id=number,  # pycocotools takes 0 for 'no match'
                    image_id=numbers.images[annotation['image_id']],
                    category_id=numbers.categories[annotation['category_id']],
                )
                for number, annotation in enumerate(content['annotations'], start=1)
            ],
        )
    )
