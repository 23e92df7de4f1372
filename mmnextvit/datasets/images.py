"""Reading image files, with an error that names the file where one isn't whole."""

import io
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.dist import get_rank
from mmengine.registry import TRANSFORMS
from PIL import Image
from rich.progress import track

from ..runtime import END_MARKERS, has_end
from ..utils.errors import UserError


class BrokenImageError(UserError):
    """An image that is empty, truncated or no image at all."""


def read_image(
    path: str,
    color_type: str = 'color',
    imdecode_backend: str | None = None,
    backend_args: dict | None = None,
    decode_twice: bool = False,
) -> np.ndarray:
    """Reads an image and makes sure that it is whole.

    A JPEG or PNG without its end marker is refused, since OpenCV's older versions
    return it half grey. One that goes on after the marker is decoded by Pillow too,
    which refuses truncated files. Every other file costs a comparison of a few bytes.

    Args:
        path: File, local or of a backend that MMEngine knows.
        color_type: mmcv's flag: ``'color'``, ``'grayscale'``, ``'unchanged'``, ...
        imdecode_backend: mmcv's decoder; mmcv's global one if ``None``.
        backend_args: MMEngine's file backend.
        decode_twice: Have Pillow decode every JPEG and PNG.

    Returns:
        Image of H x W x C (BGR) or H x W, usually uint8 in 0..255.

    Raises:
        BrokenImageError: It names the file and what is wrong with it.
    """
    try:
        content = fileio.get(path, backend_args=backend_args)
        if not content:
            raise BrokenImageError('the file is empty', file=path)
        if not has_end(content):
            raise BrokenImageError(
                'the image is truncated: copy or download it again', file=path
            )
        for start, end in END_MARKERS.items():
            if content.startswith(start) and (
                decode_twice or not content.endswith(end)
            ):
                Image.open(io.BytesIO(content)).load()
        img = mmcv.imfrombytes(content, flag=color_type, backend=imdecode_backend)
    except (OSError, SyntaxError, cv2.error) as error:  # PNG faults are SyntaxErrors
        raise BrokenImageError(
            f'the image cannot be read: {error}', file=path
        ) from error
    if img is None:
        raise BrokenImageError('the image is truncated, or no image', file=path)
    return img


@TRANSFORMS.register_module()
class LoadVerifiedImage(LoadImageFromFile):
    """Loads an image like mmcv's ``LoadImageFromFile``, and names it if it is broken.

    `VerifiedDataMixin` puts it in the place of ``LoadImageFromFile``, so that configs
    need not name it. If that dataset says ``skip_broken``, another image of the
    dataset takes the broken one's place, inside Mosaic or MixUp too.

    Raises:
        BrokenImageError: An image is broken; the message has path and sample index.
    """

    def transform(self, results: dict) -> dict:
        while True:
            try:
                img = read_image(
                    results['img_path'],
                    self.color_type,
                    self.imdecode_backend,
                    self.backend_args,
                )
                break
            except BrokenImageError as error:
                dataset: Any = results.get('dataset')
                index = results.get('sample_idx')
                if not getattr(dataset, 'skip_broken', False):
                    raise BrokenImageError(
                        f'{error.problem} (sample {index}). Repair the file or take it '
                        'out of the annotations; skip_broken=True in the training '
                        'dataset goes on without it, decode_all=True finds all such '
                        'files before training',
                        file=error.file,
                    ) from error
                results = dataset.replace_broken(index, error)
        results['img'] = img.astype(np.float32) if self.to_float32 else img
        results['img_shape'] = results['ori_shape'] = img.shape[:2]
        return results


def use_verified_loader(node: object) -> object:
    """A copy of a pipeline's config in which `LoadVerifiedImage` loads the images."""
    if isinstance(node, dict):
        node = {key: use_verified_loader(value) for key, value in node.items()}
        loader = node.get('type')
        if isinstance(loader, str):
            loader = loader.rpartition('.')[2]  # 'mmdet.LoadImageFromFile' is the same
        if loader in ('LoadImageFromFile', LoadImageFromFile):
            node['type'] = LoadVerifiedImage
    elif isinstance(node, (list, tuple)):
        node = type(node)(use_verified_loader(value) for value in node)
    return node


def find_missing_files(paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` that don't exist; each folder is listed once."""
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for path in paths:
        folder, name = os.path.split(path)
        folders[folder][name] = path
    missing = []
    for folder, files in folders.items():
        if os.path.isdir(folder or '.'):
            with os.scandir(folder or '.') as entries:
                for entry in entries:
                    files.pop(entry.name, None)
        # Some file systems spell a name otherwise than the annotations do.
        missing += [path for path in files.values() if not os.path.exists(path)]
    return sorted(missing)


def find_broken_images(
    paths: Sequence[str], title: str, backend_args: dict | None = None
) -> dict[str, BrokenImageError]:
    """Decodes all images with a progress bar.

    Args:
        paths: Image files, local or of a backend that MMEngine knows.
        title: What stands at the progress bar.
        backend_args: MMEngine's file backend.

    Returns:
        The errors of those that are broken, by path.
    """

    def find_fault(path: str) -> BrokenImageError | None:
        try:
            read_image(path, backend_args=backend_args, decode_twice=True)
        except BrokenImageError as error:
            return error
        return None

    with ThreadPoolExecutor() as pool:
        faults = track(
            pool.map(find_fault, paths),
            description=title,
            total=len(paths),
            disable=get_rank() != 0,
        )
        return {path: f for path, f in zip(paths, faults, strict=True) if f}
