"""Images in, detections out."""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock

import numpy as np

from .detections import Detections, Objects
from .errors import ImageError, ModelFileError, OptionError
from .images import Image, Size, read
from .masks import ComputedMasks
from .metadata import MAX_SIDE, ResizeStep, get_channels
from .nms import suppress
from .outputs import check_outputs
from .packages import name_file
from .resizing import Layout, fit, group, lay_out, resize, stack, to_image
from .sessions import SESSIONS, Session, find_model
from .slicing import (
    Found,
    PatchedMasks,
    Slicing,
    detect_in_tiles,
    dispatch,
    to_slicing,
)
from .thresholds import (
    MinScores,
    Threshold,
    are_high,
    find_thresholds,
    list_best_scores,
)

MAX_BATCH = 8  # images, where any number fits: more is hardly faster, takes memory
MOST_THREADS = 1024  # of the CPU: starting a hundred thousand takes minutes


def choose_batch_size(asked: int | None, fixed: int | None) -> int:
    """How many images go through a network at once.

    Args:
        asked: As many; `MAX_BATCH` if ``None``.
        fixed: The number that the network takes; any if ``None``.

    Raises:
        OptionError: It is no whole number from 1 on, or not the network's.
    """
    if asked is None:
        return fixed or MAX_BATCH
    if type(asked) is not int or asked < 1:
        raise OptionError(f'batch_size={asked!r} is not a whole number from 1 on')
    if fixed not in (None, asked):
        raise OptionError(
            f'batch_size={asked}: the file takes {fixed} at a time. Leave it out, or '
            'export with --batch dynamic'
        )
    return asked


def fit_batch_size(given: int, fixed: int | None) -> int:
    """How many images go through a network at once, where so many are given at once.

    They may be cut into tiles, of which `MAX_BATCH` go at once where images are fewer.

    Args:
        given: As many, by ``--batch``.
        fixed: As of :func:`choose_batch_size`.
    """
    return fixed or max(given, MAX_BATCH)


class Detector:
    """A detector from an exported file, which any number of threads may share.

    What the runtime cannot do in two threads at once, one waits for. A process that is
    forked needs a detector of its own.

    Args:
        path: ``model.onnx``, a ``.pt2`` or ``.torchscript``, a folder of OpenVINO's or
            NCNN's, or the ``.xml`` or ``.param`` in it.
        device: ``'cpu'``; for ONNX Runtime also ``'cuda'`` or ``'cuda:1'``, for
            OpenVINO whatever it calls a device.
        threads: How many the CPU may use; the runtime's own choice if ``None``.
        imgsz: Height and width to work at, if not those of the file's metadata. Only
            for files of dynamic size.
        rect: Whether each image is padded to the smallest rectangle around it, as
            YOLOv5's ``detect.py`` does, or to a square; the file's own way if ``None``,
            which is YOLOv5's where the config was imported. Files of fixed size take
            images of that size alone.
        slicing: How images that are larger than a tile are cut into tiles, or the size
            of these; images are detected in as they are if ``None``.

    Attributes:
        metadata: What the exporter wrote into the file.
        classes: Names of the labels.
        best_scores: The minimum score of each class that ``score_thr='best'`` stands
            for, by name; ``None`` where the file has none.

    Raises:
        MissingModelError: There is no such file; it is a ``FileNotFoundError``, too.
        ModelFileError: The file is damaged, or not from ``mmnextvit export``.
        OptionError: There is no such device, or a size does not fit.
        ImportError: The format's runtime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        device: str = 'cpu',
        threads: int | None = None,
        imgsz: Size | None = None,
        rect: bool | None = None,
        slicing: Slicing | int | None = None,
    ) -> None:
        cut = to_slicing(slicing)
        if threads is not None and (
            type(threads) is not int or not 0 < threads <= MOST_THREADS
        ):
            raise OptionError(
                f'threads={threads!r} is not a whole number from 1 to {MOST_THREADS}'
            )
        file = find_model(Path(path))
        self._use(file, SESSIONS[file.suffix](file, device, threads), cut)
        if imgsz is not None:
            self.steps = self._list_steps(*imgsz)
        if rect is not None:
            self.steps = self._list_rectangles(rect)

    def _use(
        self, path: Path, session: Session, slicing: Slicing | None = None
    ) -> None:
        self.path = path
        self.session = session
        self.slicing = slicing
        self.metadata = session.metadata
        self.classes = tuple(self.metadata['classes'])
        self.steps = self.metadata['resize']
        self.best_scores = list_best_scores(
            self.metadata.get('best_scores'), self.classes
        )
        self._turn: AbstractContextManager = (
            nullcontext() if getattr(session, 'concurrent', False) else Lock()
        )

    def _list_steps(self, height: int, width: int) -> list[ResizeStep]:
        """The metadata's ``resize`` for another size of the network's input."""
        own, stride = self.metadata['input'], max(self.metadata['strides'])
        wrong = f'imgsz=({height}, {width}): {self.path}'
        if not own['dynamic_size']:
            raise OptionError(f'{wrong} has the fixed height and width {own["size"]}')
        if any(
            type(side) is not int or not 0 < side <= MAX_SIDE or side % stride
            for side in (height, width)
        ):
            raise OptionError(f'{wrong} takes multiples of {stride} up to {MAX_SIDE}')
        return [
            {**step, 'scale': (width, height), 'size': (height, width)}
            for step in self.steps
        ]

    def _list_rectangles(self, rect: bool) -> list[ResizeStep]:
        """The steps to rectangles, or to squares."""
        own = self.metadata['input']
        if rect and not own['dynamic_size']:
            raise OptionError(
                f'rect=True: {self.path} takes images of the fixed height and width '
                f'{own["size"]} only: export it with --imgsz dynamic'
            )
        stride = max(32, *self.metadata['strides'])
        return [
            {'stride': stride, **step, 'mini_pad': rect}
            if step['type'] == 'letterbox'
            else step
            for step in self.steps
        ]

    def __call__(self, image: Image, score_thr: Threshold = 0.3) -> Objects:
        """Detects in one image; the result is that in JSON of ``mmnextvit predict``.

        Args:
            image: Path or array, see :func:`read`.
            score_thr: Minimum score, 0 to 1, or 'best' for each class's own, or a dict
                of them by the name of the class.

        Returns:
            By falling score ``{'class': name, 'score': 0.9876, 'box': [x1, y1, x2,
            y2]}``, in pixels from the image's top left corner.

        Raises:
            ImageError: The image cannot be read.
            ModelFileError: As of :meth:`run`.
            OptionError: As of :meth:`detect`.
        """
        (detections,) = self.detect([image], score_thr)
        return self.list_objects(detections)

    def list_objects(self, detections: Detections) -> Objects:
        """Detections as calling the detector gives them, with all their masks."""
        masks = detections.masks
        if masks is not None and not isinstance(masks, PatchedMasks):
            return Objects(*detections, self.classes, masks.to_array())
        return Objects(*detections, self.classes, masks)

    def batch(
        self,
        images: Iterable[Image],
        score_thr: Threshold = 0.3,
        batch_size: int | None = None,
    ) -> list[Objects]:
        """Detects in many images, as calling the detector does in one.

        Args:
            images: Paths or arrays, see :func:`read`, of any sizes.
            score_thr: Minimum score, 0 to 1, or 'best' for each class's own, or a dict
                of them by the name of the class.
            batch_size: How many images go through the network at once; `MAX_BATCH` if
                ``None``, or what the file has. Only those do that are resized to one
                size, one after another.

        Returns:
            The objects in each image, in the order of the images.

        Raises:
            ImageError: One cannot be read; its file or its place is named.
            ModelFileError: As of :meth:`run`.
            OptionError: As of :meth:`detect` and :meth:`find_batch_size`.
            TypeError: It is a single image.
        """
        found = self.detect(images, score_thr, batch_size)
        return list(map(self.list_objects, found))

    def detect(
        self,
        images: Iterable[Image],
        score_thr: Threshold | None = None,
        batch_size: int | None = None,
    ) -> list[Detections]:
        """Detects in many images, which go through the network in batches.

        Args:
            images: Paths or arrays, see :func:`read`, of any sizes.
            score_thr: Minimum score, 0 to 1; or 'best' for each class's own, which had
                the highest F1 on the validation data; or a dict of scores by class.
                Nothing lies below the file's own, which is in ``metadata``.
            batch_size: As of :meth:`batch`.

        Returns:
            An entry for each image.

        Raises:
            ImageError: One cannot be read; its file or its place is named.
            ModelFileError: As of :meth:`run`.
            OptionError: ``score_thr`` is none, or the file has no best scores; or the
                file does not take ``batch_size`` images.
            TypeError: It is a single image.
        """
        single = isinstance(images, np.ndarray) and images.ndim < 4
        if single or isinstance(images, (str, os.PathLike)):
            raise TypeError('detect() takes a list of images: detect([image])')
        return list(
            self.detect_prepared(self._preprocess_all(images), score_thr, batch_size)
        )

    def detect_prepared(
        self,
        prepared: Iterable[tuple[np.ndarray, Layout]],
        score_thr: Threshold | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Detections]:
        """As :meth:`detect`, of what :meth:`preprocess` has made in another thread."""
        thresholds = self.find_thresholds(score_thr)
        return self._detect(prepared, thresholds, self.find_batch_size(batch_size))

    def _detect(
        self,
        prepared: Iterable[tuple[np.ndarray, Layout]],
        thresholds: MinScores,
        batch_size: int,
    ) -> Iterator[Detections]:
        return dispatch(
            prepared,
            lambda one: self._is_cut(one[1]),
            lambda some: self._detect_whole(some, thresholds, batch_size),
            lambda one: self._detect_tiles(one[0], thresholds, batch_size),
        )

    def _is_cut(self, layout: Layout) -> bool:
        return self.slicing is not None and self.slicing.cuts(layout.image)

    def _detect_tiles(
        self, image: np.ndarray, thresholds: MinScores, batch_size: int
    ) -> Detections:
        def detect(tiles: Iterable[np.ndarray]) -> Iterator[Found]:
            prepared = (fit(tile, self.steps) for tile in tiles)
            whole = self._detect_whole(prepared, thresholds, batch_size)
            return (Found(*one, one.masks) for one in whole)

        assert self.slicing is not None  # or no image is cut
        limit = self.metadata['nms']['max_per_img']
        found = detect_in_tiles(image, self.slicing, detect, limit)
        return Detections(*found)

    def _detect_whole(
        self,
        prepared: Iterable[tuple[np.ndarray, Layout]],
        thresholds: MinScores,
        batch_size: int,
    ) -> Iterator[Detections]:
        fixed = self.metadata['input']['batch']
        for batch in group(prepared, batch_size):
            outputs = self.run(stack(batch, fixed or len(batch)))
            for row, (_, layout) in enumerate(batch):
                one = {name: values[row] for name, values in outputs.items()}
                yield self.postprocess(one, thresholds, layout)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The network's outputs by name, checked; see :func:`check_outputs`.

        Args:
            images: Its input, (B, 3, H, W).

        Raises:
            ModelFileError: The runtime fails on it, or the outputs cannot be.
        """
        with self._turn, name_file(self.path, self.session.package):
            outputs = self.session.run(images)
        try:
            check_outputs(
                outputs,
                len(images),
                len(self.classes),
                self.metadata['nms']['in_graph'],
                self.metadata['masks']['channels'] if 'masks' in self.metadata else 0,
            )
        except ValueError as error:
            raise ModelFileError(
                f'{self.path} gives wrong results: {error}. Export the checkpoint again'
            ) from error
        return outputs

    def preprocess(self, image: Image) -> tuple[np.ndarray, Layout]:
        """The resized image and where it goes; :func:`stack` makes the input of it.

        One that is to be cut into tiles comes as it is.

        Raises:
            ImageError: It cannot be read.
        """
        pixels = read(image, get_channels(self.metadata))
        layout = lay_out(pixels.shape[:2], self.steps)
        return pixels if self._is_cut(layout) else resize(pixels, layout), layout

    def _preprocess_all(
        self, images: Iterable[Image]
    ) -> Iterator[tuple[np.ndarray, Layout]]:
        for number, image in enumerate(images):
            try:
                yield self.preprocess(image)
            except ImageError as error:
                if isinstance(image, (str, os.PathLike)):  # which the error names
                    raise
                raise ImageError(f'image {number} of the list: {error}') from error

    def find_batch_size(self, batch_size: int | None) -> int:
        """How many images go through the network at once.

        Raises:
            OptionError: It is no whole number from 1 on, or the file takes another.
        """
        try:
            return choose_batch_size(batch_size, self.metadata['input']['batch'])
        except OptionError as error:
            raise OptionError(f'{self.path}: {error}') from error

    def find_thresholds(self, score_thr: Threshold | None) -> MinScores:
        """The minimum score, or each label's; see :func:`find_thresholds`.

        Raises:
            OptionError: It is none, or the file has no best scores.
        """
        best = self.metadata.get('best_scores')
        return find_thresholds(
            0 if score_thr is None else score_thr, best, self.classes
        )

    def postprocess(
        self,
        outputs: dict[str, np.ndarray],
        thresholds: MinScores = 0,
        layout: Layout | None = None,
    ) -> Detections:
        """Detections of one image after NMS.

        Args:
            outputs: One image's row of every output of the session.
            thresholds: Minimum score, or each label's.
            layout: Where the image lies in the network's input.

        Returns:
            Boxes in the image's pixels, with their masks, if any; without a layout
            boxes in pixels of the network's input alone.
        """
        nms, min_score = self.metadata['nms'], float(np.min(thresholds))
        settings = self.metadata.get('masks')
        rows = outputs['boxes']
        if settings:  # what masks are made of follows the boxes through NMS
            rows = np.concatenate((rows, outputs['coefficients']), 1)
        if nms['in_graph']:
            count = int(outputs['num_detections'][0])
            found = (rows, outputs['scores'], outputs['labels'])
            rows, scores, labels = (values[:count] for values in found)
        else:
            # Lower scores suppress no higher ones. Those of just `min_score` must pass.
            nms = {**nms, 'score_thr': max(nms['score_thr'], min_score - 1e-6)}
            rows, scores, labels = suppress(rows, outputs['scores'], nms)
        high = are_high(scores, labels, thresholds)
        (boxes, coefficients), scores, labels = (
            np.split(rows[high], [4], 1),
            scores[high],
            labels[high],
        )
        if layout is None:
            return Detections(boxes, scores, labels)
        masks = None
        if settings:
            masks = ComputedMasks(
                coefficients, outputs['prototypes'], boxes, layout, settings
            )
        return Detections(to_image(boxes, layout), scores, labels, masks)
