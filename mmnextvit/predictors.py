"""Detectors for images in memory or in files, from a run, a checkpoint or an export."""

import copy
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from PIL.Image import Image
from torch import Tensor

from .datasets.image_inputs import Input, load_input
from .datasets.images import CHANNELS_OF, convert
from .deploy.exported import (
    check_classes,
    is_exported,
    open_exported,
    to_lazy_instances,
    user_errors,
)
from .deploy.finite import check_finite
from .deploy.formats import holds_export
from .engine.configs import open_config
from .engine.precision import Amp, choose_mixed
from .engine.runner import (
    build_array_pipeline,
    check_amp,
    choose_device,
    choose_resizing,
    load_detector,
    read_color_type,
    read_test_metainfo,
)
from .engine.slicing import detect_large, with_arrays
from .models.fold import fold_batchnorms, set_memory_format
from .models.graphs import use_graphs
from .models.nms_limits import find_max_detections
from .runs import find_run, find_run_checkpoint
from .runtime import (
    BestScores,
    Layout,
    MinScores,
    Objects,
    PatchedMasks,
    Slicing,
    Threshold,
    choose_batch_size,
    dispatch,
    find_thresholds,
    fit_batch_size,
    get_channels,
    list_best_scores,
    to_slicing,
)
from .utils.errors import MissingFileError, UserError
from .utils.files import require_file
from .utils.messages import shorten
from .visualization.detections import draw_detections, list_colours
from .visualization.feature_maps import collect_feature_maps
from .visualization.predictions import keep_high

Source: TypeAlias = (
    Config | str | os.PathLike | Any
)  # or what has a work_dir, as a Runner


class Prepared(NamedTuple):
    """An image that is ready for the network; see :meth:`Predictor.prepare`."""

    inputs: Any


class Network(Protocol):
    """What finds objects in images.

    Attributes:
        classes: Names of the labels.
        palette: Their colours, as MMDetection's visualizer takes them.
        best_scores: The best minimum scores that the file has, if any.
        max_detections: How many there are at most in an image.
        file: The checkpoint or exported file, for messages.
        color_type: How images are to be read, as of
            :func:`~mmnextvit.datasets.images.load_image`.
        fixed_batch: How many images it takes at a time, if not any number.

    Any number of threads may call its methods at once.
    """

    classes: list[str]
    color_type: str
    palette: object
    best_scores: BestScores | None
    max_detections: int
    file: str
    fixed_batch: int | None

    def prepare(self, image: np.ndarray) -> Any:
        """An image (H, W, 3), BGR, uint8, as :meth:`detect` takes it."""

    def detect(
        self, prepared: Iterable[Any], min_score: float, batch_size: int
    ) -> Iterator[DetDataSample]:
        """The detections in each image, as :meth:`prepare` made it.

        There are all from a score on, and there may be lower ones.

        Args:
            prepared: Images.
            min_score: Lowest score that must be there.
            batch_size: How many images go through the network at once, at most.
        """

    def detect_with_maps(
        self, image: np.ndarray
    ) -> tuple[DetDataSample, np.ndarray, dict[str, Tensor]]:
        """As :meth:`Predictor.detect_with_maps`, with detections of all scores."""


class CheckpointNetwork:
    """A config's detector with the weights of a checkpoint.

    Its BatchNorms are folded, which changes results by rounding only.

    One thread after another goes through the network: heads of MMYOLO and MMDetection
    keep the priors of the last images on themselves, graphs of CUDA write into the same
    memory, and hooks for feature maps see whatever passes. Torch's own threads have all
    cores busy meanwhile.

    Args:
        cfg: Config of the detector. Its test data give the names of the classes where
            the checkpoint has none.
        checkpoint: Checkpoint, all of which must fit.
        device: 'cpu', 'cuda:0', ...; by default a GPU where there is one.
        amp: Whether to compute in mixed precision (bfloat16 on a CPU).
        rect: As of :func:`~mmnextvit.engine.runner.choose_resizing`.

    Raises:
        UserError: The checkpoint does not fit, or the device is not there.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str,
        device: str | None,
        amp: Amp,
        rect: bool | None,
    ) -> None:
        require_file(checkpoint, 'checkpoint')
        model = load_detector(copy.deepcopy(cfg), checkpoint, choose_device(device))
        self.amp = choose_mixed(amp, next(model.parameters()).device.type)
        if self.amp:
            check_amp(model)
        meta = model.dataset_meta
        palette = read_test_metainfo(cfg).get('palette') or meta.get('palette')
        self.classes = list(meta['classes'])
        self.palette = palette or 'random'
        self.best_scores = model.best_scores
        self.max_detections = find_max_detections(cfg.model)
        self.file = checkpoint
        self.fixed_batch: int | None = None
        self._turn = threading.Lock()
        model = set_memory_format(fold_batchnorms(revert_sync_batchnorm(model)))
        self.model = use_graphs(model, cfg.get('env_cfg') or {})
        self.pipeline = build_array_pipeline(choose_resizing(cfg, rect))
        self.color_type = read_color_type(cfg)

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        """The image as the test pipeline makes it."""
        return self.pipeline(dict(img=image, img_id=0))

    def detect(
        self, prepared: Iterable[Any], min_score: float, batch_size: int
    ) -> Iterator[DetDataSample]:
        """Images that come out of the pipeline alike go through the network at once."""
        for _, alike in groupby(prepared, lambda one: one['inputs'].shape):
            while batch := list(islice(alike, batch_size)):
                with self._turn:
                    found = self._run(batch)
                yield from found

    def detect_with_maps(
        self, image: np.ndarray
    ) -> tuple[DetDataSample, np.ndarray, dict[str, Tensor]]:
        one = self.prepare(image)
        resized = one['inputs'].to('cpu', torch.uint8).permute(1, 2, 0).numpy()
        with self._turn, collect_feature_maps(self.model) as maps:
            (sample,) = self._run([one])
        seen = convert(np.ascontiguousarray(resized), 'color')
        return sample, cv2.cvtColor(seen, cv2.COLOR_BGR2RGB), maps

    def _run(self, batch: Sequence[dict[str, Any]]) -> list[DetDataSample]:
        device = next(self.model.parameters()).device.type
        with torch.no_grad(), torch.autocast(device, enabled=self.amp):
            return self.model.test_step(pseudo_collate(batch))


class ExportedNetwork:
    """A file or folder that ``mmnextvit export`` wrote.

    Args:
        cfg: Config that it was exported with, if that is at hand.
        path: Exported file or folder.
        device: As of :class:`mmnextvit.runtime.Detector`.
        rect: As of the same.

    Raises:
        UserError: The file cannot be used, holds NaN, or has other classes than the
            test data.
    """

    def __init__(
        self, cfg: Config | None, path: str, device: str | None, rect: bool | None
    ) -> None:
        self.detector = open_exported(path, device or 'cpu', rect)
        check_finite(path)
        metainfo = {} if cfg is None else check_classes(cfg, self.detector)
        self.classes = list(self.detector.classes)
        self.palette = metainfo.get('palette', 'random')
        self.best_scores = self.detector.metadata.get('best_scores')
        self.max_detections = self.detector.metadata['nms']['max_per_img']
        channels = get_channels(self.detector.metadata)
        self.color_type = next(k for k, v in CHANNELS_OF.items() if v == channels)
        self.file = path
        self.fixed_batch = self.detector.metadata['input']['batch']

    def prepare(self, image: np.ndarray) -> tuple[np.ndarray, Layout]:
        return self.detector.preprocess(image)

    def detect(
        self, prepared: Iterable[Any], min_score: float, batch_size: int
    ) -> Iterator[DetDataSample]:
        for detections in self.detector.detect_prepared(
            prepared, min_score, batch_size
        ):
            yield DetDataSample(pred_instances=to_lazy_instances(detections))

    def detect_with_maps(
        self, image: np.ndarray
    ) -> tuple[DetDataSample, np.ndarray, dict[str, Tensor]]:
        raise UserError(
            'feature maps (--feature-maps) need a checkpoint: exported files keep none'
        )


class Uncut(NamedTuple):
    """A large image (H, W, C), uint8, that is to be cut into tiles."""

    image: np.ndarray


class SlicedNetwork:
    """A network that detects in large images tile by tile.

    Args:
        network: What detects in the tiles, and in images that are not larger.
        slicing: How images are cut.
        one_by_one: Whether masks in large images are what makes one when it is asked
            for, in place of a tensor of all, which may take gigabytes.
    """

    def __init__(
        self, network: Network, slicing: Slicing, one_by_one: bool = False
    ) -> None:
        self.network = network
        self.one_by_one = one_by_one
        self.slicing = slicing
        self.classes = network.classes
        self.palette = network.palette
        self.best_scores = network.best_scores
        self.max_detections = network.max_detections
        self.file = network.file
        self.fixed_batch = network.fixed_batch

    @property
    def color_type(self) -> str:
        return self.network.color_type

    def prepare(self, image: np.ndarray) -> Any:
        """As the network, or a large image as it is: its tiles are cut one by one."""
        if self.slicing.cuts(image.shape[:2]):
            return Uncut(image)
        return self.network.prepare(image)

    def detect(
        self, prepared: Iterable[Any], min_score: float, batch_size: int
    ) -> Iterator[DetDataSample]:
        return dispatch(
            prepared,
            lambda one: isinstance(one, Uncut),
            lambda some: self.network.detect(some, min_score, batch_size),
            lambda one: self._detect_large(one.image, min_score, batch_size),
        )

    def _detect_large(
        self, image: np.ndarray, min_score: float, batch_size: int
    ) -> DetDataSample:
        def detect(tiles: Iterable[np.ndarray]) -> Iterator[DetDataSample]:
            prepared = map(self.network.prepare, tiles)
            return self.network.detect(prepared, min_score, batch_size)

        limit = self.network.max_detections
        found = detect_large(image, self.slicing, detect, limit, min_score)
        if not self.one_by_one:
            found = with_arrays(found)
        return DetDataSample(pred_instances=found)

    def detect_with_maps(
        self, image: np.ndarray
    ) -> tuple[DetDataSample, np.ndarray, dict[str, Tensor]]:
        raise UserError(
            'feature maps (--feature-maps) are those of a whole image, and slicing '
            '(--slice) cuts it into tiles: leave one out'
        )


def open_network(
    source: Source,
    checkpoint: str | os.PathLike | None,
    device: str | None,
    amp: Amp,
    rect: bool | None = None,
) -> Network:
    """What :class:`Predictor` predicts with; its arguments."""
    if checkpoint is None:
        source, checkpoint = find_parts(source)
    if is_run(source):
        source = find_run(source).config
    if is_run(checkpoint):
        checkpoint = find_run_checkpoint(checkpoint)
    checkpoint = os.fspath(checkpoint)
    cfg = None if source is None else open_config(source)
    if cfg is None or is_exported(checkpoint):
        if amp:
            raise UserError('--amp: an exported file computes as it was exported')
        return ExportedNetwork(cfg, checkpoint, device, rect)
    return CheckpointNetwork(cfg, checkpoint, device, amp, rect)


def find_parts(source: Source) -> tuple[Source | None, str | os.PathLike]:
    """The config and the checkpoint that one thing stands for.

    Returns:
        No config for an exported file.

    Raises:
        UserError: It does not stand for both.
    """
    place = source
    if not isinstance(source, Config):
        place = getattr(source, 'work_dir', source)
    if is_run(place):
        run = find_run(place)
        return run.config, run.checkpoint
    if isinstance(place, (str, os.PathLike)):
        path = os.fspath(place)
        if not Path(path).exists():
            raise MissingFileError(f'{path} does not exist')
        if is_exported(path):
            return None, path
    named = 'a config' if isinstance(source, Config) else shorten(source)
    raise UserError(
        f'{named} alone does not say both the model and its weights: give the folder '
        "of a run, as in Predictor('work_dirs/my_data'), an exported file, or a config "
        "and a checkpoint, as in Predictor('my_data.py', 'my.pth')"
    )


def is_run(path: Any) -> bool:
    """Whether this is the path of a folder, and of none that was exported."""
    if not isinstance(path, (str, os.PathLike)) or not Path(path).is_dir():
        return False
    return not holds_export(path)


class Predictor:
    """A detector for images: paths, arrays, Pillow's images, and lists of them.

    Any number of threads may share one. They prepare images and draw at once, and pass
    the network as it allows: a checkpoint's one after another.

    Args:
        source: The folder of a run, whose best checkpoint is taken, or what
            :func:`mmnextvit.apis.train` returned; or a file or folder that ``mmnextvit
            export`` wrote; or, with a checkpoint, a config or the path of one.
        checkpoint: Checkpoint, all of which must fit; or an exported file, or the
            folder of a run.
        device: 'cpu', 'cuda:0', ...; by default a GPU where there is one, and the CPU
            for an exported file.
        amp: Whether to compute in mixed precision (bfloat16 on a CPU); not with
            exported files.
        rect: Whether each image is padded to the smallest rectangle around it, or to a
            square; as the config or the exported file has it if ``None``.
        slicing: How images that are larger than a tile are cut into tiles, or the size
            of these; images are detected in as they are if ``None``.

    Attributes:
        classes: Names of the labels.
        best_scores: The minimum score of each class that ``score_thr='best'`` stands
            for, by name; ``None`` where the file has none.

    Raises:
        UserError: A file is missing or does not fit, or the arguments do not go
            together, or the device is not there.
    """

    def __init__(
        self,
        source: Source,
        checkpoint: str | os.PathLike | None = None,
        device: str | None = None,
        amp: Amp = False,
        rect: bool | None = None,
        slicing: Slicing | int | None = None,
    ) -> None:
        with user_errors():
            slicing = to_slicing(slicing)
        network = open_network(source, checkpoint, device, amp, rect)
        self.network = (
            SlicedNetwork(network, slicing, one_by_one=True) if slicing else network
        )
        self.classes = self.network.classes
        self.best_scores = list_best_scores(self.network.best_scores, self.classes)
        self.color_type = self.network.color_type
        self.colours = list_colours(self.network.palette, len(self.classes))

    @property
    def model(self) -> torch.nn.Module | None:
        """The detector, its BatchNorms folded; ``None`` for an exported file."""
        network = self.network
        if isinstance(network, SlicedNetwork):
            network = network.network
        return getattr(network, 'model', None)

    def __call__(
        self, images: Input | Sequence[Input], score_thr: Threshold = 0.3
    ) -> Objects | list[Objects]:
        """The objects in an image, or in each of a list, which is faster than each.

        Args:
            images: An image or a list of images, as of
                :func:`mmnextvit.datasets.image_inputs.load_input`: paths, arrays
                (H, W, 3) in BGR and uint8, images of Pillow's.
            score_thr: Minimum score, 0 to 1, or 'best' for each class's own, or a dict
                of them by the name of the class.

        Returns:
            By falling score ``{'class': name, 'score': 0.9876, 'box': [x1, y1, x2,
            y2]}``, in pixels from the image's top left corner; the list of these has
            arrays and ``to_supervision()``, too. For a list a list of such lists.

        Raises:
            BrokenImageError: An image cannot be used; of a list, it says which.
            UserError: The list is empty, or ``score_thr`` is not as it is to be.
        """
        if isinstance(images, (list, tuple)):
            return self.batch(images, score_thr)
        return self.list_objects(self.detect(images, score_thr))

    def batch(
        self,
        images: Iterable[Input],
        score_thr: Threshold = 0.3,
        batch_size: int | None = None,
    ) -> list[Objects]:
        """The objects in each of many images, as calling the predictor gives them.

        Args:
            images: As of :meth:`__call__`, of any sizes.
            score_thr: Minimum score, 0 to 1, or 'best' for each class's own, or a dict
                of them by the name of the class.
            batch_size: How many images go through the network at once; `MAX_BATCH` if
                ``None``, or what an exported file has. Only those do that are resized
                to one size, one after another.

        Raises:
            BrokenImageError: An image cannot be used; it says which.
            UserError: There are none, it is a single image, or ``score_thr`` or
                ``batch_size`` is not as it is to be.
        """
        samples = self.detect_all(images, score_thr, batch_size)
        return list(map(self.list_objects, samples))

    def prepare(self, image: Input) -> Prepared:
        """An image that is ready for the network, which :meth:`detect` takes as well.

        Threads may prepare the next images while this one is detected in.

        Raises:
            BrokenImageError: It cannot be used.
        """
        return Prepared(self.network.prepare(load_input(image, self.color_type)))

    def detect(
        self, image: Input | Prepared, score_thr: Threshold = 0.3
    ) -> DetDataSample:
        """The same as MMDetection's data sample, with ``pred_instances``.

        Its ``masks`` are a tensor (N, H, W), bool; of an image that was cut into tiles
        they are :class:`mmnextvit.runtime.PatchedMasks`, which make one at a time.
        """
        prepared = image if isinstance(image, Prepared) else self.prepare(image)
        (sample,) = self._detect([prepared.inputs], score_thr)
        return sample

    def detect_prepared(
        self, prepared: Sequence[Prepared], score_thr: Threshold = 0.3
    ) -> list[DetDataSample]:
        """As :meth:`detect`, of several images that :meth:`prepare` made ready.

        Those that are resized to one size, one after another, go through the network
        at once, however many they are, or as many as an exported file takes.
        """
        size = fit_batch_size(len(prepared), self.network.fixed_batch)
        return list(self._detect((one.inputs for one in prepared), score_thr, size))

    def detect_all(
        self,
        images: Iterable[Input],
        score_thr: Threshold = 0.3,
        batch_size: int | None = None,
    ) -> list[DetDataSample]:
        """As :meth:`detect`, for many images; its arguments are :meth:`batch`'s."""
        single = isinstance(images, np.ndarray) and images.ndim < 4
        if single or isinstance(images, (str, os.PathLike, Image)):
            raise UserError('this is a single image: give a list, as in batch([image])')
        given = load_inputs(images, self.color_type)
        prepared = map(self.network.prepare, given)
        samples = list(self._detect(prepared, score_thr, batch_size))
        if not samples:
            raise UserError('the list of images is empty: there is nothing to predict')
        return samples

    def detect_with_maps(
        self, image: Input, score_thr: Threshold = 0.3
    ) -> tuple[DetDataSample, np.ndarray, dict[str, Tensor]]:
        """As :meth:`detect`, with what the network computes on the way.

        Returns:
            The sample; the image as the network sees it (h, w, 3), RGB, uint8; and the
            feature maps of :func:`~mmnextvit.visualization.predictions.feature_maps`.

        Raises:
            UserError: The predictor does not see the network's inside.
        """
        thresholds = self.find_thresholds(score_thr)
        given = load_input(image, self.color_type)
        sample, seen, maps = self.network.detect_with_maps(given)
        sample.pred_instances = keep_high(sample.pred_instances, thresholds)
        return sample, seen, maps

    def find_thresholds(self, score_thr: Threshold) -> MinScores:
        """The minimum score, or with 'best' each label's.

        Raises:
            UserError: It is neither a number from 0 to 1 nor 'best', or the file has no
                best scores.
        """
        with user_errors(self.network.file):
            return find_thresholds(score_thr, self.network.best_scores, self.classes)

    def _detect(
        self,
        prepared: Iterable[Any],
        score_thr: Threshold,
        batch_size: int | None = None,
    ) -> Iterator[DetDataSample]:
        thresholds = self.find_thresholds(score_thr)
        with user_errors(self.network.file):
            size = choose_batch_size(batch_size, self.network.fixed_batch)
        lowest = float(np.min(thresholds))
        for sample in self.network.detect(prepared, lowest, size):
            found = keep_high(sample.pred_instances, thresholds)
            if not isinstance(found.get('masks'), PatchedMasks):
                found = with_arrays(found)
            sample.pred_instances = found
            yield sample

    def list_objects(self, sample: DetDataSample) -> Objects:
        """The detections of a sample, as calling the predictor gives them."""
        found = sample.pred_instances
        masks = found.masks if 'masks' in found else None
        if isinstance(masks, Tensor):
            masks = masks.cpu().numpy()
        return Objects(found.bboxes, found.scores, found.labels, self.classes, masks)

    def draw(self, image: np.ndarray, sample: DetDataSample) -> np.ndarray:
        """The image, BGR and uint8, with the detections of a sample: (H, W, 3)."""
        found = sample.pred_instances.cpu()
        rgb = cv2.cvtColor(convert(image, 'color'), cv2.COLOR_BGR2RGB)
        drawn = draw_detections(rgb, found, self.classes, self.colours)
        return cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)


def load_inputs(
    images: Iterable[Input], color_type: str = 'color'
) -> Iterator[np.ndarray]:
    """The images of a list, each when it is needed.

    Raises:
        BrokenImageError: One cannot be used; its file or its place is named.
    """
    for number, image in enumerate(images):
        try:
            yield load_input(image, color_type)
        except UserError as error:
            if error.file is None:
                error.problem = f'image {number} of the list: {error.problem}'
            raise
