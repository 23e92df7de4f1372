"""Runs what ``mmnextvit export`` wrote, without torch and without OpenMMLab's packages.

    from mmnextvit.runtime import Detector
    for detection in Detector('model.onnx')('image.jpg'):
        print(detection['class'], detection['score'], detection['box'])

It needs NumPy, OpenCV and the runtime of the file's format: ONNX Runtime, OpenVINO or,
for TorchScript, torch. ``python -m mmnextvit.runtime MODEL IMAGE...`` prints JSON.
This file imports nothing else of mmnextvit, so that it may be copied alone.
"""

import argparse
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby, islice
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, NotRequired, Protocol, Required, TypedDict, TypeVar

import cv2
import numpy as np

KEY = 'mmnextvit'  # of the metadata in every format
OUTPUTS = ('num_detections', 'boxes', 'scores', 'labels')  # with NMS inside
FORMAT = 1  # of the metadata: a file with a higher one needs a newer mmnextvit
MAX_BATCH = 8  # images, where any number fits: more is hardly faster, takes memory

# The first bytes of a JPEG or PNG file, and the bytes that end its image.
END_MARKERS = {b'\xff\xd8\xff': b'\xff\xd9', b'\x89PNG': b'IEND\xaeB`\x82'}

Image = str | os.PathLike | np.ndarray
Size = tuple[int, int]  # height, width
Number = TypeVar('Number', int, float)


class DetectorError(ValueError):
    """What this module raises where a file, an image or an option is at fault."""


class ImageError(DetectorError):
    """An image that is missing, empty, truncated, or no image at all."""


class ModelFileError(DetectorError):
    """A file that is damaged, of a newer format, or not from ``mmnextvit export``."""


class MissingModelError(ModelFileError, FileNotFoundError):
    """A file or folder that does not exist, or lacks a part."""


class OptionError(DetectorError):
    """A device or a size that the file or the machine does not have."""


# --------------------------------------------------------------------- metadata


class Input(TypedDict):
    """What the network takes."""

    name: str
    batch: int | None  # images at a time; any number if None
    size: list[int]  # height, width
    dynamic_size: bool  # whether it takes other sizes, too
    channels: str
    range: list[int]  # the lowest and the highest value


class Normalization(TypedDict):
    """How values are normalised, by channel."""

    mean: list[float]
    std: list[float]
    in_graph: bool  # whether the network does it


class ResizeStep(TypedDict, total=False):
    """A step on an image's way to the network: a key of :data:`STEPS`, and its own."""

    type: Required[str]
    scale: Sequence[int]  # of keep_ratio: the two sides to fit in, either way up
    size: Sequence[int]  # of letterbox, as what follows: height, width
    fill: float
    scale_up: bool
    mini_pad: bool


class Thresholds(TypedDict):
    """What non-maximum suppression leaves."""

    score_thr: float
    iou_threshold: float
    max_per_img: int


class NMS(Thresholds):
    """Non-maximum suppression, and where it happens."""

    in_graph: bool
    nms_pre: NotRequired[int | None]  # how many candidates to consider; all if None
    multi_label: bool  # whether a candidate counts for every class


class Metadata(TypedDict):
    """What ``mmnextvit export`` writes into a file."""

    format: int
    config: str
    classes: list[str]
    strides: list[int]
    anchors: list[list[list[float]]] | None  # (width, height) of each, by level
    precision: str
    input: Input
    normalization: Normalization
    resize: list[ResizeStep]
    nms: NMS
    versions: dict[str, str]  # by package


# ----------------------------------------------------------------------- images


def has_end(content: bytes) -> bool:
    """Whether a JPEG or PNG reaches its end marker: older OpenCV doesn't mind.

    Other formats count as whole. What follows the end, as phones append, is ignored.
    """
    end = next(
        (e for start, e in END_MARKERS.items() if content.startswith(start)), b''
    )
    if content.endswith(end):
        return True
    at = 2  # past the segments before the scan: EXIF's thumbnail has an end of its own
    while content[at : at + 1] == b'\xff' and content[at : at + 2] != b'\xff\xda':
        at += 2 + int.from_bytes(content[at + 2 : at + 4], 'big')
    return content.find(end, at) >= 0


def decode(path: str | os.PathLike) -> np.ndarray:
    """An image file as H x W x 3, BGR, uint8, turned as its EXIF says.

    Raises:
        ImageError: It names the file and what is wrong with it.
    """
    try:
        content = Path(path).read_bytes()
        if not content:
            raise ImageError(f'{path} is empty')
        if not has_end(content):
            raise ImageError(f'{path} is truncated: copy or download it again')
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise ImageError(f'{path} cannot be read: {error}') from error
    if image is None:
        raise ImageError(f'{path} is truncated, or no image that OpenCV reads')
    return image


def read(image: Image) -> np.ndarray:
    """A file or an array as H x W x 3, BGR, uint8.

    Args:
        image: Path, or array of uint8 or uint16: H x W or H x W x 1 (grey),
            H x W x 3 (BGR) or H x W x 4 (BGR and alpha, which is dropped).

    Raises:
        ImageError: The file cannot be read, or the array is none of these.
    """
    if isinstance(image, (str, os.PathLike)):
        return decode(image)
    if not isinstance(image, np.ndarray):
        raise ImageError(f'{type(image)} is neither a path nor a NumPy array')
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or not image.size:
        raise ImageError(
            f'The image is an array of shape {image.shape}: H x W, H x W x 1, '
            'H x W x 3 (BGR) or H x W x 4 (BGR and alpha) is wanted'
        )
    pixels: np.ndarray = image
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)  # as OpenCV reads PNGs
    if pixels.dtype != np.uint8:
        raise ImageError(
            f'The image is an array of {pixels.dtype}: uint8 (0 to 255) or uint16 '
            '(0 to 65535) is wanted'
        )
    to_bgr = {1: cv2.COLOR_GRAY2BGR, 4: cv2.COLOR_BGRA2BGR}.get(channels)
    return pixels if to_bgr is None else cv2.cvtColor(pixels, to_bgr)


# ------------------------------------------------------------------------- layout


class Layout(NamedTuple):
    """Where an image lies in the network's input, in pixels."""

    image: Size
    resizes: list[tuple[Size, int]]  # one after another, with OpenCV's interpolation
    canvas: Size
    pad: Size  # above and to the left
    factor: tuple[float, float]  # vertical, horizontal: size in the canvas / before
    fill: float  # of the canvas around the image


def to_pair(sides: Iterable[Number]) -> tuple[Number, Number]:
    """A number for the height and one for the width."""
    height, width = sides
    return height, width


def compute_keep_ratio(size: Size, step: ResizeStep) -> tuple[Size, int, Size]:
    """MMYOLO's ``YOLOv5KeepRatioResize``: size, interpolation and canvas after it."""
    long, short = max(step['scale']), min(step['scale'])  # either way up
    ratio = min(long / max(size), short / min(size))
    resized = to_pair(max(int(side * ratio), 1) for side in size)
    return resized, cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR, resized


def compute_letterbox(size: Size, step: ResizeStep) -> tuple[Size, int, Size]:
    """MMYOLO's ``LetterResize``: size, interpolation and canvas after it."""
    canvas = to_pair(step['size'])
    ratio = min(whole / side for whole, side in zip(canvas, size))
    ratio = ratio if step['scale_up'] else min(ratio, 1.0)
    resized = to_pair(max(round(side * ratio), 1) for side in size)
    if step['mini_pad']:
        canvas = to_pair(
            new + (whole - new) % 32 for whole, new in zip(canvas, resized)
        )
    return resized, cv2.INTER_LINEAR, canvas


STEPS = {'keep_ratio': compute_keep_ratio, 'letterbox': compute_letterbox}


def lay_out(image: Size, steps: list[ResizeStep]) -> Layout:
    """Follows the metadata's ``resize`` for an image of that height and width.

    This is where the letterbox is computed; whoever needs it takes it from here. No
    side gets shorter than one pixel, where MMYOLO's transforms fail.
    """
    size, canvas, factor = image, image, (1.0, 1.0)
    resizes: list[tuple[Size, int]] = []
    for step in steps:
        resized, interpolation, canvas = STEPS[step['type']](size, step)
        if resized != size:
            resizes.append((resized, interpolation))
        factor = to_pair(f * (new / old) for f, new, old in zip(factor, resized, size))
        size = resized
    pad = to_pair((whole - side) // 2 for whole, side in zip(canvas, size))
    return Layout(image, resizes, canvas, pad, factor, steps[-1].get('fill', 0))


def resize(image: np.ndarray, layout: Layout) -> np.ndarray:
    """The image (H x W x 3) in the size that it has within the canvas."""
    for (height, width), interpolation in layout.resizes:
        image = cv2.resize(image, (width, height), interpolation=interpolation)
    return image


def fit(image: np.ndarray, steps: list[ResizeStep]) -> tuple[np.ndarray, Layout]:
    """An image (H x W x 3) resized by the metadata's ``resize``, and where it goes."""
    layout = lay_out(image.shape[:2], steps)
    return resize(image, layout), layout


def stack(prepared: list[tuple[np.ndarray, Layout]], count: int = 1) -> np.ndarray:
    """The network's input: (count, 3, H, W), float32, RGB, 0 to 255.

    Args:
        prepared: Resized images, whose layouts have the same canvas.
        count: Size of the batch. Places that no image takes are filled evenly.
    """
    _, layout = prepared[0]
    inputs: np.ndarray = np.full((count, 3, *layout.canvas), layout.fill, np.float32)
    for target, (image, layout) in zip(inputs, prepared):
        (top, left), (height, width) = layout.pad, image.shape[:2]
        # Plane by plane is the fastest: OpenCV splits, and NumPy copies whole rows.
        for plane, values in zip(target[::-1], cv2.split(image)):
            plane[top : top + height, left : left + width] = values
    return inputs


def to_image(boxes: np.ndarray, layout: Layout) -> np.ndarray:
    """Boxes (N, 4) of the network's input in the image's pixels, inside of it."""
    (top, left), (vertical, horizontal) = layout.pad, layout.factor
    boxes = boxes - np.array((left, top, left, top), np.float32)
    boxes /= np.array((horizontal, vertical, horizontal, vertical), np.float32)
    return boxes.clip(0, np.array(layout.image[::-1] * 2, np.float32))


# --------------------------------------------------------------------- detections


class Detections(NamedTuple):
    """The detections in one image, by falling score."""

    boxes: np.ndarray  # (N, 4), float32: x1, y1, x2, y2 in pixels
    scores: np.ndarray  # (N,), float32
    labels: np.ndarray  # (N,): index into the classes


class Array(Protocol):
    """An array of NumPy or a tensor of torch."""

    def tolist(self) -> list: ...


def list_objects(
    boxes: Array, scores: Array, labels: Array, classes: Sequence[str]
) -> list[dict]:
    """Detections as the ``objects`` in predictions.json.

    Args:
        boxes: (N, 4).
        scores: (N,).
        labels: (N,), integers.
        classes: Names of the labels.
    """
    return [
        {
            'class': classes[label],
            'score': round(score, 4),
            'box': [round(x, 2) for x in box],
        }
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist())
    ]


def suppress(boxes: np.ndarray, scores: np.ndarray, nms: NMS) -> Detections:
    """NMS class by class, for files that leave it to us.

    Args:
        boxes: (N, 4), of all candidates.
        scores: (N, classes).
        nms: The metadata's ``score_thr``, ``iou_threshold``, ``max_per_img``,
            ``multi_label`` and, if not all candidates get here, ``nms_pre``.
    """
    if nms['multi_label']:
        hits = np.flatnonzero(scores > nms['score_thr'])  # in 2-D it is slow
        rows, labels = np.divmod(hits, scores.shape[1])
    else:
        rows, labels = np.arange(len(scores)), scores.argmax(1)
    scores = scores[rows, labels]
    order = np.argsort(-scores, kind='stable')[: nms.get('nms_pre')]
    order = order[scores[order] > nms['score_thr']]
    boxes, scores, labels = boxes[rows[order]], scores[order], labels[order]

    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    areas = (x2 - x1) * (y2 - y1)
    kept: list[int] = []
    alive: np.ndarray = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        kept.append(i)
        if len(kept) == nms['max_per_img']:
            break
        rest = slice(i + 1, None)
        width = np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest])
        height = np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest])
        common = width.clip(min=0) * height.clip(min=0)
        union = areas[i] + areas[rest] - common
        same = (common > nms['iou_threshold'] * union) & (labels[rest] == labels[i])
        alive[rest] &= ~same
    return Detections(boxes[kept], scores[kept], labels[kept])


# ----------------------------------------------------------------------- sessions


def import_runtime(package: str, extra: str | None = None) -> ModuleType:
    """Imports a runtime, or says how to install it."""
    try:
        return import_module(package)
    except ImportError as error:
        ours = f', or pip install "mmnextvit[{extra}]"' if extra else ''
        raise ImportError(
            f'This file needs {package}, which is not installed or does not start '
            f'({error}): pip install {package}{ours}',
            name=package,
        ) from error


@contextmanager
def name_file(path: Path, package: str) -> Iterator[None]:
    """Names the file in whatever error a runtime raises on it.

    Raises:
        ModelFileError: In the place of any error.
    """
    try:
        yield
    except Exception as error:  # each runtime has types of its own
        raise ModelFileError(
            f'{path} is damaged, or too new for the installed {package}: export it '
            f'again with mmnextvit export. {package} says: {error}'
        ) from error


def parse_metadata(text: str, path: Path) -> Metadata:
    """The metadata of an exported file, from its text.

    Raises:
        ModelFileError: There is none, it is not ours, or it is newer than this code.
    """
    try:
        metadata = json.loads(text)
        number = metadata['format']
        newer = number > FORMAT
        complete = {'classes', 'strides', 'input', 'resize', 'nms'} <= metadata.keys()
    except (ValueError, TypeError, LookupError, AttributeError):
        complete = newer = False
    if newer:
        raise ModelFileError(
            f'{path} has metadata of format {number}, and this mmnextvit reads up to '
            f'{FORMAT}: install the mmnextvit that wrote it, or export it again'
        )
    if not complete:
        raise ModelFileError(
            f'{path} was not written by mmnextvit export: it lacks the metadata that '
            'this needs (classes, sizes, thresholds). Export the checkpoint with it'
        )
    return metadata


class Session(Protocol):
    """A file that its runtime has loaded.

    Attributes:
        metadata: What the exporter wrote into the file.
    """

    metadata: Metadata

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name, for the network's input (B, 3, H, W)."""
        ...


class ONNXSession:
    """ONNX Runtime on ``'cpu'``, ``'cuda'`` or ``'cuda:1'``."""

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        ort = import_runtime('onnxruntime', 'onnx')
        name, _, index = device.lower().partition(':')
        wanted = {'cpu': 'CPU', 'cuda': 'CUDA'}.get(name, device) + 'ExecutionProvider'
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors alone: its warnings concern no user
        options.intra_op_num_threads = threads or 0
        has = ort.get_available_providers()
        if wanted in has:
            provider = (wanted, {'device_id': index} if index else {})
            with name_file(path, 'onnxruntime'):
                self.session = ort.InferenceSession(str(path), options, [provider])
            has = self.session.get_providers()  # without those that do not start
        if wanted not in has:
            raise OptionError(
                f'device={device!r}: ONNX Runtime has no {wanted} here, or it does not '
                f'start, but {", ".join(has)}. For CUDA: pip install onnxruntime-gpu '
                'in place of onnxruntime, and the CUDA and cuDNN that it wants'
            )
        text = self.session.get_modelmeta().custom_metadata_map.get(KEY, '')
        self.metadata = parse_metadata(text, path)
        self.input = self.session.get_inputs()[0].name
        self.outputs = [output.name for output in self.session.get_outputs()]

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self.session.run(None, {self.input: images})))


class OpenVINOSession:
    """OpenVINO on ``'cpu'``, ``'gpu'``, ``'auto'``: any device that it has."""

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        ov = import_runtime('openvino', 'openvino')
        core, device, key = ov.Core(), device.upper(), [KEY]
        with name_file(path, 'openvino'):
            model = core.read_model(path)
        text = model.get_rt_info(key).value if model.has_rt_info(key) else ''
        self.metadata = parse_metadata(text, path)
        options: dict[str, str | int] = {'PERFORMANCE_HINT': 'LATENCY'}
        if self.metadata.get('precision') != 'half':
            # Unasked, it takes bfloat16 where the processor has that.
            options['INFERENCE_PRECISION_HINT'] = 'f32'
        elif device == 'CPU':
            able = core.get_property(device, 'OPTIMIZATION_CAPABILITIES')
            options['INFERENCE_PRECISION_HINT'] = 'bf16' if 'BF16' in able else 'f32'
        if threads:
            options['INFERENCE_NUM_THREADS'] = threads
        try:
            self.model = core.compile_model(model, device, options)
        except RuntimeError as error:
            raise OptionError(
                f'OpenVINO does not run {path} on device={device!r} (it has '
                f'{", ".join(core.available_devices)}): {error}'
            ) from error

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = self.model({0: images}, share_inputs=True)
        return {name: outputs[o] for o in self.model.outputs for name in o.names}


class TorchScriptSession:
    """torch on the CPU, on which the file was traced.

    TorchScript is a program: loading it runs what it holds, so that a file from someone
    else needs as much trust as theirs. Stray files are refused before that.
    """

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        if device.lower() != 'cpu':
            raise OptionError(f'device={device!r}: {path} was made for the CPU')
        self.torch = import_runtime('torch')
        if find_spec('torchvision') is not None:
            import_module('torchvision')  # its NMS may be in the file
        if threads:
            self.torch.set_num_threads(threads)  # of the whole process
        with name_file(path, 'torch'), zipfile.ZipFile(path) as file:
            names = [n for n in file.namelist() if n.endswith(f'/extra/{KEY}.json')]
            text = file.read(names[0]).decode() if names else ''
        self.metadata = parse_metadata(text, path)
        with name_file(path, 'torch'):
            self.model = self.torch.jit.load(str(path), 'cpu')

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        with self.torch.inference_mode():
            outputs = self.model(self.torch.from_numpy(images))
        names = OUTPUTS if len(outputs) == len(OUTPUTS) else ('boxes', 'scores')
        return {name: values.numpy() for name, values in zip(names, outputs)}


SESSIONS: dict[str, Callable[[Path, str, int | None], Session]] = {
    '.onnx': ONNXSession,
    '.xml': OpenVINOSession,
    '.torchscript': TorchScriptSession,
}


def find_model(path: Path) -> Path:
    """The file to load: ``path``, or the ``.xml`` in an OpenVINO folder.

    Raises:
        MissingModelError: There is no such file or folder, or a part of it is missing.
        ModelFileError: It is of no type that is known here.
    """
    if not path.exists():
        raise MissingModelError(f'{path} does not exist: mmnextvit export writes it')
    known = f'{", ".join(SESSIONS)} and OpenVINO folders with one .xml are known'
    models = list(path.glob('*.xml')) if path.is_dir() else [path]
    if len(models) != 1:
        raise ModelFileError(
            f'{path} is a folder with {len(models)} .xml files: {known}'
        )
    (path,) = models
    if path.suffix not in SESSIONS:
        raise ModelFileError(
            f'{path} has the suffix {path.suffix!r}: {known}. mmnextvit export makes '
            'them of a checkpoint'
        )
    if path.suffix == '.xml' and not path.with_suffix('.bin').is_file():
        raise MissingModelError(f'{path} lacks {path.stem}.bin, which lay beside it')
    return path


# ----------------------------------------------------------------------- detector


class Detector:
    """A detector from an exported file. Use it from one thread at a time.

    Args:
        path: ``model.onnx``, an OpenVINO folder or its ``.xml``, or a ``.torchscript``.
        device: ``'cpu'``; for ONNX Runtime also ``'cuda'`` or ``'cuda:1'``, for
            OpenVINO whatever it calls a device.
        threads: How many the CPU may use; the runtime's own choice if ``None``.
        imgsz: Height and width to work at, if not those of the file's metadata. Only
            for files of dynamic size.

    Attributes:
        metadata: What the exporter wrote into the file.
        classes: Names of the labels.

    Raises:
        MissingModelError: There is no such file; it is a ``FileNotFoundError``, too.
        ModelFileError: The file is damaged, or not from ``mmnextvit export``.
        OptionError: There is no such device, or the size does not fit the file.
        ImportError: The format's runtime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        device: str = 'cpu',
        threads: int | None = None,
        imgsz: Size | None = None,
    ) -> None:
        self.path = find_model(Path(path))
        self._use(SESSIONS[self.path.suffix](self.path, device, threads))
        if imgsz is not None:
            self.steps = self._steps_for(*imgsz)

    def _use(self, session: Session) -> None:
        self.session = session
        self.metadata = session.metadata
        self.classes = tuple(self.metadata['classes'])
        self.steps = self.metadata['resize']

    def _steps_for(self, height: int, width: int) -> list[ResizeStep]:
        """The metadata's ``resize`` for another size of the network's input."""
        own, stride = self.metadata['input'], max(self.metadata['strides'])
        wrong = f'imgsz=({height}, {width}): {self.path}'
        if not own['dynamic_size']:
            raise OptionError(f'{wrong} has the fixed height and width {own["size"]}')
        if min(height, width) < 1 or height % stride or width % stride:
            raise OptionError(f'{wrong} takes multiples of {stride}')
        return [
            {**step, 'scale': (width, height), 'size': (height, width)}
            for step in self.steps
        ]

    def __call__(self, image: Image, score_thr: float = 0.3) -> list[dict]:
        """Detects in one image; the result is that in JSON of ``mmnextvit predict``.

        Args:
            image: Path or array, see :func:`read`.
            score_thr: Minimal score, 0 to 1.

        Returns:
            By falling score ``{'class': name, 'score': 0.9876, 'box': [x1, y1, x2,
            y2]}``, in pixels from the image's top left corner.

        Raises:
            ImageError: The image cannot be read.
        """
        (detections,) = self.detect([image], score_thr)
        return list_objects(*detections, self.classes)

    def detect(
        self, images: Iterable[Image], score_thr: float | None = None
    ) -> list[Detections]:
        """Detects in many images, which go through the network in batches.

        Args:
            images: Paths or arrays, see :func:`read`, of any sizes.
            score_thr: Minimal score. Nothing lies below the file's own, which is in
                ``metadata``.

        Returns:
            An entry for each image.

        Raises:
            ImageError: One cannot be read.
            TypeError: It is a single image.
        """
        single = isinstance(images, np.ndarray) and images.ndim < 4
        if single or isinstance(images, (str, os.PathLike)):
            raise TypeError('detect() takes a list of images: detect([image])')
        size, detections = self.metadata['input']['batch'], []
        prepared = map(self.preprocess, images)
        for _, alike in groupby(prepared, lambda one: one[1].canvas):
            while batch := list(islice(alike, size or MAX_BATCH)):
                outputs = self.session.run(stack(batch, size or len(batch)))
                for row, (_, layout) in enumerate(batch):
                    one = {name: values[row] for name, values in outputs.items()}
                    boxes, scores, labels = self.postprocess(one, score_thr)
                    boxes = to_image(boxes, layout)
                    detections.append(Detections(boxes, scores, labels))
        return detections

    def preprocess(self, image: Image) -> tuple[np.ndarray, Layout]:
        """The resized image and where it goes; :func:`stack` makes the input of it.

        Raises:
            ImageError: It cannot be read.
        """
        return fit(read(image), self.steps)

    def postprocess(
        self, outputs: dict[str, np.ndarray], score_thr: float | None = None
    ) -> Detections:
        """Detections of one image after NMS, in pixels of the network's input.

        Args:
            outputs: One image's row of every output of the session.
            score_thr: Minimal score.
        """
        nms, min_score = self.metadata['nms'], score_thr or 0
        if nms['in_graph']:
            count = int(outputs['num_detections'][0])
            boxes, scores, labels = (outputs[n][:count] for n in Detections._fields)
        else:
            # Lower scores suppress no higher ones. Those of just `min_score` must pass.
            nms = {**nms, 'score_thr': max(nms['score_thr'], min_score - 1e-6)}
            boxes, scores, labels = suppress(outputs['boxes'], outputs['scores'], nms)
        wanted = scores >= min_score
        return Detections(boxes[wanted], scores[wanted], labels[wanted])


def main(arguments: list[str] | None = None) -> int:
    """``python -m mmnextvit.runtime``; returns the exit code."""
    p = argparse.ArgumentParser('python -m mmnextvit.runtime', description='Predict.')
    p.add_argument('model', help='exported file, or OpenVINO folder')
    p.add_argument('images', nargs='+', metavar='image')
    p.add_argument('--score-thr', type=float, default=0.3, help='minimal score, 0 to 1')
    p.add_argument('--device', default='cpu', help='cpu, cuda, or as OpenVINO calls it')
    p.add_argument('--threads', type=int, help='of the CPU')
    p.add_argument('-o', metavar='FILE', help='a new file for the lines of JSON')
    args, code = p.parse_args(arguments), 0
    try:
        detector = Detector(args.model, device=args.device, threads=args.threads)
        out = open(args.o, 'x') if args.o else sys.stdout  # noqa: SIM115
    except (OSError, ValueError, ImportError) as error:
        p.exit(1, f'{error}\n')
    for file in args.images:
        try:
            line = {'file': file, 'objects': detector(file, args.score_thr)}
            print(json.dumps(line), file=out, flush=True)
        except ImageError as error:
            print(error, file=sys.stderr)
            code = 1
    return code


if __name__ == '__main__':
    sys.exit(main())
