"""An exported file in place of a model and its checkpoint, for MMEngine's runner."""

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor, from_numpy

from ..engine.default_hooks import averages_weights
from ..engine.runner import read_test_metainfo
from ..engine.slicing import with_arrays
from ..runtime import (
    SESSIONS,
    Detections,
    Detector,
    DetectorError,
    MissingModelError,
)
from ..utils.errors import MissingFileError, MissingPackageError, UserError
from .metadata import find_resizing


def is_exported(path: str) -> bool:
    """Whether a path is an exported file or folder, by its name."""
    is_folder = bool(path) and Path(path).is_dir()  # no name is not the current folder
    return is_folder or Path(path).suffix in SESSIONS


def open_exported(
    path: str | os.PathLike, device: str = 'cpu', rect: bool | None = None
) -> Detector:
    """The runtime's detector, whose errors are those of the commands here.

    Args:
        path: Exported file or folder.
        device: As in :class:`~mmnextvit.runtime.Detector`.
        rect: As there.

    Raises:
        MissingFileError: There is no such file.
        MissingPackageError: The format's runtime is not installed.
        UserError: The file is not one that is known here, is damaged, or does not run
            on the device, or takes no rectangles.
    """
    return OpenedDetector(path, device=device, rect=rect)


class OpenedDetector(Detector):
    """The runtime's detector, whose errors are those of the commands here."""

    def __init__(
        self, path: str | os.PathLike, *, device: str, rect: bool | None = None
    ) -> None:
        with user_errors():
            super().__init__(path, device=device, rect=rect)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        with user_errors():
            return super().run(images)


@contextmanager
def user_errors(file: str | None = None) -> Iterator[None]:
    """Raises what the runtime finds wrong as what a user can mend.

    Args:
        file: What it is about, where the runtime does not know.
    """
    try:
        yield
    except MissingModelError as error:
        raise MissingFileError(str(error)) from error
    except ImportError as error:
        raise MissingPackageError(str(error)) from error
    except DetectorError as error:
        raise UserError(str(error), file=file) from error


class OpenedPath(str):
    """The path of an exported file, and the detector that has it open.

    A config that holds it copies and prints it as the path, and
    :class:`ExportedDetector` need not open the file again.
    """

    detector: Detector

    def __new__(cls, path: str, detector: Detector) -> 'OpenedPath':
        opened = super().__new__(cls, path)
        opened.detector = detector
        return opened

    def __deepcopy__(self, memo: dict) -> 'OpenedPath':
        return self


def to_instances(detections: Detections) -> InstanceData:
    """The runtime's detections, as MMDetection has them, and their masks, if any."""
    return with_arrays(to_lazy_instances(detections))


def to_lazy_instances(detections: Detections) -> InstanceData:
    """As :func:`to_instances`, with masks that are made when they are asked for."""
    boxes, scores, labels = map(from_numpy, map(np.ascontiguousarray, detections))
    found = InstanceData(bboxes=boxes, scores=scores, labels=labels.long())
    if detections.masks is not None:
        found.masks = detections.masks
    return found


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """An exported file as a model that predicts, ``mmdet.ExportedDetector``.

    Images come as they are in their files: the runtime resizes them itself.

    Args:
        path: Exported file or folder.
        device: As in :class:`~mmnextvit.runtime.Detector`; it does not matter where the
            path is open already.
    """

    def __init__(self, path: str | OpenedPath, device: str = 'cpu') -> None:
        super().__init__()
        if isinstance(path, OpenedPath):
            self.detector = path.detector
        else:
            self.detector = open_exported(path, device)

    def forward(
        self,
        inputs: Sequence[Tensor],
        data_samples: Sequence[DetDataSample],
        mode: str = 'predict',
    ) -> list[DetDataSample]:
        """Predicts.

        Args:
            inputs: Images (3, H, W), BGR, uint8, of any sizes.
            data_samples: Theirs; each gets ``pred_instances``.
            mode: 'predict': nothing else can be done with an exported file.

        Raises:
            UserError: ``mode`` is another, as in training.
        """
        if mode != 'predict':
            raise UserError('An exported file predicts only: it cannot be trained')
        images = [image.permute(1, 2, 0).cpu().numpy() for image in inputs]
        results = self.detector.detect(images)
        for sample, detections in zip(data_samples, results):
            sample.pred_instances = to_instances(detections)
        return list(data_samples)


def check_classes(cfg: Config, detector: Detector) -> dict[str, Any]:
    """The meta information of a config's test data.

    Raises:
        UserError: The file has other classes.
    """
    metainfo = read_test_metainfo(cfg)
    if tuple(metainfo['classes']) != detector.classes:
        raise UserError(
            f'{detector.path} finds the classes {list(detector.classes)}, the test '
            f'data of {cfg.filename} have {list(metainfo["classes"])}: take the config '
            'that it was exported with'
        )
    return metainfo


def use_exported(cfg: Config, path: str, device: str = 'cpu') -> Config:
    """A copy of a config that tests an exported file.

    Args:
        cfg: Config that the file was exported with.
        path: Exported file or folder.
        device: As in :class:`~mmnextvit.runtime.Detector`.

    Raises:
        UserError: The file cannot be opened, or has other classes than the test data.
    """
    return use_detector(cfg, path, open_exported(path, device), device)


def use_detector(
    cfg: Config, path: str, detector: Detector, device: str = 'cpu'
) -> Config:
    """As :func:`use_exported`, of an exported file that is open already.

    Raises:
        UserError: It has other classes than the test data.
    """
    cfg = copy.deepcopy(cfg)
    resizing = find_resizing(cfg)
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = [t for t in dataset.pipeline if t not in resizing]
    dataset.pop('batch_shapes_cfg', None)
    check_classes(cfg, detector)
    opened = OpenedPath(path, detector)
    cfg.model = dict(type='mmdet.ExportedDetector', path=opened, device=device)
    cfg.custom_hooks = []
    hooks = cfg.get('default_hooks') or {}  # EMA's are for parameters
    cfg.default_hooks = {n: h for n, h in hooks.items() if not averages_weights(h)}
    cfg.load_from = None
    return cfg
