"""The step of a pipeline that loads images, and names those that cannot be used."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS

from .images import BrokenImageError, convert, load_image


@TRANSFORMS.register_module()
class LoadVerifiedImage(LoadImageFromFile):
    """Loads an image like mmcv's ``LoadImageFromFile``, and names it if it is broken.

    `VerifiedDataMixin` puts it in the place of ``LoadImageFromFile``, so that configs
    need not name it. The image comes in the orientation whose width and height the
    annotations state. If the dataset says ``skip_broken``, another image of the
    dataset takes the place of one that cannot be used, inside Mosaic or MixUp too.

    Raises:
        BrokenImageError: An image is broken, or of another size than its annotations
            say; the message has path and sample index.
    """

    def transform(self, results: dict) -> dict:
        while True:
            dataset: Any = results.get('dataset')
            index = results.get('sample_idx')
            try:
                image, remarks, _ = load_image(
                    results['img_path'],
                    self.color_type,
                    self.imdecode_backend,
                    self.backend_args,
                    stated=(results['width'], results['height'])
                    if 'width' in results and 'height' in results
                    else None,
                    measured=results.get('size_measured', False),
                )
                break
            except BrokenImageError as error:
                if not getattr(dataset, 'skip_broken', False):
                    raise type(error)(
                        f'{error.problem} (sample {index}). Repair the file or take it '
                        'out of the annotations; skip_broken=True in the training '
                        'dataset goes on without it, decode_all=True finds all such '
                        'files before training',
                        file=error.file,
                    ) from error
                results = dataset.replace_broken(index, error)
        if remarks and hasattr(dataset, 'note'):
            dataset.note(index, remarks)
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class LoadGivenImage(LoadImageFromFile):
    """Takes the image that is given, as this transform would load it from a file.

    An array of H x W (grey), H x W x 3 (BGR) or H x W x 4 (BGR and alpha) becomes grey
    or colour by ``color_type``.

    Raises:
        BrokenImageError: The image lacks a fourth channel.
    """

    def transform(self, results: dict) -> dict:
        image = convert(results['img'], self.color_type)
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_path'] = None
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


def list_transforms(node: object) -> Iterator[BaseTransform]:
    """All transforms of a pipeline that is built, those inside others too."""
    if isinstance(node, BaseTransform):
        yield node
    if isinstance(node, (BaseTransform, Compose)):
        node = vars(node)
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from list_transforms(part)


def verify_loading(pipeline: Compose) -> Compose:
    """The pipeline, in which `LoadVerifiedImage` loads the images.

    It does not matter who built it, and from what: a ``LoadImageFromFile`` that is
    there already becomes one, with all that it was built with.
    """
    for transform in list_transforms(pipeline):
        if type(transform) is LoadImageFromFile:
            transform.__class__ = LoadVerifiedImage
    return pipeline
