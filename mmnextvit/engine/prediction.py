"""Predictions on files: drawings of them, and ``predictions.json``."""

import contextlib
import json
import os
import shutil
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import cv2
import numpy as np
from mmdet.structures import DetDataSample
from rich.progress import Progress
from torch import Tensor

from ..datasets.image_inputs import with_colours
from ..datasets.images import CHANNELS_OF, BrokenImageError, read_image
from ..datasets.sources import count_frames
from ..labels.doubts import Doubt, describe_doubt, format_doubts
from ..labels.images import is_of_image
from ..labels.write import write_labels
from ..runtime import (
    Choices,
    Frame,
    ImageError,
    Source,
    Stream,
    Tracker,
    Write,
    check_has_channels,
    in_batches,
    is_video,
    iterate_ahead,
    map_ahead,
    name_image,
    name_sources,
    open_frames,
    open_kept_video,
    open_threads,
    outline_mask,
    tell_left_out,
    write_crops,
)
from ..utils.errors import Terminated, UserError
from ..utils.files import (
    atomic_write,
    atomic_write_text,
    check_new_folder,
    make_numbered_folder,
    missing_folders,
    remove_empty_folders,
)
from ..utils.messages import tell
from ..visualization.writers import open_drawing, write_feature_maps

if TYPE_CHECKING:
    from ..runtime import MinScores, Threshold

BOX_FORMAT = "x1, y1, x2, y2 in pixels, from the image's top left corner"
MAX_HELD = 1 << 20  # bytes of entries in memory
AHEAD = 4  # frames of a video that wait for the network, or to be drawn
Entry = dict[str, Any]


class FramePredictor(Protocol):
    """What predicts on a frame; the predictors of :mod:`mmnextvit.apis` do."""

    classes: list[str]

    def detect(self, image: np.ndarray, score_thr: 'Threshold') -> DetDataSample: ...

    def find_thresholds(self, score_thr: 'Threshold') -> 'MinScores': ...

    def detect_prepared(
        self, prepared: Sequence[Any], score_thr: 'Threshold'
    ) -> list[DetDataSample]: ...

    def list_objects(self, sample: DetDataSample) -> list[dict[str, Any]]: ...

    def detect_with_maps(
        self, image: np.ndarray, score_thr: 'Threshold'
    ) -> tuple[DetDataSample, np.ndarray, dict[str, Tensor]]: ...

    def draw(self, image: np.ndarray, sample: DetDataSample) -> np.ndarray: ...


class Unreadable(NamedTuple):
    """A file that could not be read.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    path: str
    reason: str


class LeftOut(NamedTuple):
    """Frames of a source that were not looked at.

    Attributes:
        path: The source.
        counts: How many, by why: 'broken' or 'dropped'.
    """

    path: str
    counts: dict[str, int]


class Entries(Sequence[Entry]):
    """Entries of ``predictions.json``: in memory as long as they are few, then on disk.

    They are read back in order, one by one, so that the memory does not grow with the
    number of images.

    Args:
        folder: Where the file without a name is made, once there are many.
        lines: A new file that has each entry as a line as soon as it is added.

    Raises:
        FileExistsError: ``lines`` exists.
        OSError: It cannot be written.
    """

    def __init__(self, folder: Path | None = None, lines: Path | None = None) -> None:
        where = str(folder) if folder else None
        if lines:
            # Without a buffer no half of a line waits for the next one.
            file: Any = lines.open('xb+', buffering=0)
        else:
            file = SpooledTemporaryFile(MAX_HELD, dir=where)  # noqa: SIM115
        weakref.finalize(self, file.close)
        self._file, self._lines = file, lines
        self._count = 0

    def append(self, entry: Entry) -> None:
        """Adds an entry.

        Raises:
            OSError: The disk is full; half of a line does not stay.
        """
        left = memoryview(f'{json.dumps(entry)}\n'.encode())
        end = self._file.tell()
        try:
            while left:
                left = left[self._file.write(left) :]
        except BaseException:
            self._file.seek(end)
            self._file.truncate()
            raise
        self._count += 1

    def read_lines(self) -> Iterator[str]:
        """Each entry as JSON. None may be added meanwhile."""
        own = contextlib.nullcontext(self._file)
        with self._lines.open('rb') if self._lines else own as file:
            file.seek(0)
            try:
                for line in islice(file, self._count):
                    yield line.decode().rstrip('\n')
            finally:
                self._file.seek(0, os.SEEK_END)

    def __iter__(self) -> Iterator[Entry]:
        return map(json.loads, self.read_lines())

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else False

    def __repr__(self) -> str:
        return f'Entries({list(self)})'


@dataclass
class Predictions:
    """Predictions on files.

    Args:
        entries: One for an image, or for each frame of a video.
        unreadable: Why a file could not be read, by its path.
        left_out: How many frames of a source were not looked at, by why.
    """

    entries: Entries = field(default_factory=Entries)
    unreadable: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, found: Entry | Unreadable | LeftOut) -> None:
        """Adds what :func:`predict_files` found."""
        if isinstance(found, LeftOut):
            self.left_out[found.path] = found.counts
            return
        if isinstance(found, Unreadable):
            self.unreadable[found.path] = found.reason
        else:
            self.entries.append(found)

    def summarize(self) -> str:
        """How many objects there are in how many files."""
        objects, files = 0, set()
        for entry in self.entries:
            objects += len(entry['objects'])
            files.add(entry['file'])
        return f'{objects} objects in {len(files)} files'


@dataclass(frozen=True)
class Results:
    """A folder of predictions.

    Attributes:
        folder: Gets what is drawn, and ``predictions.json``.
        about: What the JSON says besides: config, checkpoint, threshold and classes.
        label_formats: Those of the labels that are written too, for which the entries
            have been made ``with_labels``.
        predictions: What was found so far.
    """

    folder: Path
    about: dict[str, Any]
    label_formats: Sequence[str] = ()
    predictions: Predictions = field(default_factory=Predictions)

    @property
    def json(self) -> Path:
        return self.folder / 'predictions.json'

    @property
    def lines(self) -> Path:
        return self.folder / 'predictions.jsonl'

    def write(self, partial: str = '', overwrite: bool = True) -> None:
        """Writes the JSON.

        Args:
            partial: Why these are not all predictions, if they are not.
            overwrite: Whether one that stands there is replaced.

        Raises:
            OSError: It cannot be written, or stands there and is not to be replaced.
        """
        about = {**({'partial': partial} if partial else {}), **self.about}
        before = json.dumps({**about, 'box_format': BOX_FORMAT, 'predictions': []})
        left_out = self.predictions.left_out
        after = json.dumps(
            {
                'unreadable': self.predictions.unreadable,
                **({'left_out': left_out} if left_out else {}),
            }
        )
        with (
            atomic_write(self.json, overwrite) as scratch,
            scratch.open('w', encoding='utf-8') as file,
        ):
            file.write(before[: -len(']}')])
            for number, line in enumerate(self._list_lines(bool(partial))):
                file.write(f', {line}' if number else line)
            file.write(f'], {after[1:]}')

    def _list_lines(self, partial: bool) -> Iterator[str]:
        """The entries as JSON; a video that was not drawn to its end has no drawing."""
        for line in self.predictions.entries.read_lines():
            entry = json.loads(line) if partial else {}
            if 'drawn' in entry and not self._has(entry.pop('drawn')):
                line = json.dumps(entry)
            yield line

    def write_labels(self) -> None:
        """Writes ``labels`` and ``doubts.csv``, each whole, if they are wanted.

        Raises:
            OSError: They cannot be written, or an image has gone.
        """
        entries = self.predictions.entries
        if self.label_formats and entries:
            atomic_write_text(self.folder / 'doubts.csv', format_doubts(entries))
            classes, formats = self.about['classes'], self.label_formats
            write_labels(self.folder / 'labels', entries, classes, formats)

    def describe_labels(self) -> list[str]:
        """What there is to say of the labels, in lines; nothing where none are."""
        entries = self.predictions.entries
        if not (self.label_formats and entries):
            return []
        images = sum(map(is_of_image, entries))
        first = max(entries, key=lambda entry: entry['doubt'])
        frame = f' frame {first["frame"]}' if 'frame' in first else ''
        name = f'{first["file"]}{frame}'
        lines = [
            f'labels of {images} images: {self.folder / "labels"}',
            f'most doubt: {name}, {first["reason"]} ({self.folder / "doubts.csv"})',
        ]
        if images < len(entries):
            frames = f'{len(entries) - images} frames of videos have no labels'
            lines.append(f'{frames}: no image file is there that these could be of')
        return lines

    def _has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def keep(self, error: BaseException) -> None:
        """Keeps what was found until an error, or removes what has no predictions.

        An interrupt gets a text that says where it is.
        """
        if not (self.predictions.entries or self.predictions.unreadable):
            self.json.unlink(missing_ok=True)
            self.lines.unlink(missing_ok=True)
            for name in ('drawn', 'crops', 'feature_maps'):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            return
        reason = f'{type(error).__name__}: {error}'
        if isinstance(error, KeyboardInterrupt):
            by_signal = isinstance(error, Terminated)
            reason = 'terminated' if by_signal else 'interrupted'
        # A full disk may be what this is about.
        with contextlib.suppress(OSError):
            self.write(f'{reason}; what would come after the last entry is missing')
            if isinstance(error, KeyboardInterrupt):
                found = self.predictions.summarize()
                error.args = (f'{found} were found, and are in {self.json}',)
            self.write_labels()


def make_new_folder(path: str | os.PathLike | None) -> Path:
    """An empty folder, named by the time if ``path`` is ``None``.

    Raises:
        UserError: It is not empty, or not a folder.
        OSError: It cannot be made, or nothing can be written into it.
    """
    if path is None:
        by_time = Path('predictions', time.strftime('%Y%m%d_%H%M%S'))
        return make_numbered_folder(by_time)
    check_new_folder(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


@contextmanager
def open_results(
    path: str | os.PathLike | None,
    about: dict[str, Any],
    label_formats: Sequence[str] = (),
    with_lines: bool = False,
) -> Iterator[Results]:
    """A new folder for predictions, whose ``predictions.json`` is whole at any time.

    The JSON is there from the start, as what claims the folder, and says that it is
    partial until the block has ended. Where the block raises, be it by Ctrl-C, the JSON
    has what was found until then. Where that is nothing, nothing is left.

    Args:
        path: As of :func:`make_new_folder`.
        about: As of :class:`Results`, and so is the other.
        label_formats: The labels are written at the block's end, however it ends.
        with_lines: Whether ``predictions.jsonl`` has each entry once it is added.

    Raises:
        UserError: The folder is not empty, or not a folder.
        FileExistsError: Another process was faster with the same folder.
        OSError: Nothing can be written into it.
    """
    made = [] if path is None else missing_folders(Path(path))
    folder = make_new_folder(path)
    results = Results(folder, about, label_formats)
    try:
        results.write('the run has not ended, or was killed', overwrite=False)
        lines = results.lines if with_lines else None
        results = replace(results, predictions=Predictions(Entries(folder, lines)))
        try:
            yield results
            results.write_labels()
        except BaseException as error:
            results.keep(error)
            raise
        results.write()
    except BaseException:
        remove_empty_folders([folder, folder.parent] if path is None else made)
        raise


def keep_sure(
    predictor: FramePredictor, sample: DetDataSample, score_thr: 'Threshold'
) -> tuple[DetDataSample, Doubt]:
    """The detections of a sample from a threshold on, and the doubt about all of them.

    Args:
        predictor: What made the sample.
        sample: With all detections, also those that are not to be drawn.
        score_thr: Minimum score, 0 to 1, or 'best' for each class's own.
    """
    found = sample.pred_instances.cpu()
    labels, scores = found.labels.numpy(), found.scores.numpy()
    lowest = np.asarray(predictor.find_thresholds(score_thr), scores.dtype)
    thresholds = np.broadcast_to(lowest, len(predictor.classes))[labels]
    names = [predictor.classes[label] for label in labels.tolist()]
    doubt = describe_doubt(names, scores, thresholds)
    sample.pred_instances = found[scores >= thresholds]
    return sample, doubt


def add_outlines(objects: Iterable[dict], sample: DetDataSample) -> list[dict]:
    """The objects of a sample with the ``polygons`` of their masks, if it has any."""
    if 'masks' not in sample.pred_instances:
        return list(objects)
    masks = map(np.asarray, sample.pred_instances.masks)
    return [
        dict(found, polygons=outline_mask(mask)) for found, mask in zip(objects, masks)
    ]


class Shot(NamedTuple):
    """An image, or a frame of a video, on its way from a file to what is written.

    Attributes:
        path: The file or stream.
        name: Path of what is drawn, in ``drawn`` and ``feature_maps``.
        number: Of the frame; ``None`` for an image.
        seconds: When the frame was seen, as of :class:`~mmnextvit.runtime.Frame`.
        image: (H, W, 3), BGR, uint8; ``None`` before it is read.
        prepared: What the predictor detects in.
        sample: What it found, on the CPU.
    """

    path: Source
    name: str
    number: int | None = None
    seconds: float = 0
    image: np.ndarray | None = None
    prepared: Any = None
    sample: DetDataSample | None = None

    @property
    def drawn(self) -> Path:
        """File of what is drawn, in the folder of the results."""
        drawn = Path('drawn', self.name)
        if is_video(self.path) and drawn.suffix.lower() != '.mp4':
            return drawn.with_name(f'{drawn.name}.mp4')
        return drawn if self.image is None else name_image(drawn, self.image)


@dataclass(frozen=True)
class Task:
    """How files are predicted on: what is done with each image, step by step.

    Only :meth:`detect` is for the thread that the network works in.

    Attributes:
        predictor: What predicts.
        out_dir: Folder to write into.
        score_thr: Minimum score, 0 to 1, or 'best' for each class's own.
        with_maps: Whether to draw the feature maps of the (first) image.
        with_labels: Whether the entries have what labels are written from.
        prepare: Makes of an image what ``predictor.detect`` takes.
        choices: How videos are read, and what is written.
    """

    predictor: FramePredictor
    out_dir: Path
    score_thr: 'Threshold'
    with_maps: bool = False
    with_labels: bool = False
    prepare: Callable[[np.ndarray], Any] | None = None
    choices: Choices = field(default_factory=Choices)

    @property
    def min_score(self) -> 'Threshold':
        """Of what is detected: doubts are about lower scores, too."""
        return 0 if self.with_labels else self.score_thr

    @property
    def color_type(self) -> str:
        """How images are read: in colour, which grey ones are made of, or 'bgra'."""
        return with_colours(getattr(self.predictor, 'color_type', 'color'))

    def read(self, shot: Shot) -> Shot:
        """Reads an image, and prepares it for the network."""
        return self.use(shot, read_image(str(shot.path), color_type=self.color_type))

    def use(self, shot: Shot, image: np.ndarray, number: int | None = None) -> Shot:
        """A shot with its image, prepared for the network."""
        prepared = self.prepare(image) if self.prepare else image
        return shot._replace(image=image, prepared=prepared, number=number)

    def detect(self, shot: Shot) -> Shot:
        """Has the network look at an image, and draws its feature maps if wanted."""
        assert shot.image is not None
        if self.draws_maps(shot):
            found = self.predictor.detect_with_maps(shot.image, self.min_score)
            sample, seen, maps = found
            write_feature_maps(self.out_dir / 'feature_maps' / shot.name, seen, maps)
        else:
            sample = self.predictor.detect(shot.prepared, self.min_score)
        return shot._replace(sample=sample.cpu(), prepared=None)

    def draws_maps(self, shot: Shot) -> bool:
        """Whether the feature maps of an image or frame are drawn."""
        return self.with_maps and not shot.number

    def detect_in_batches(
        self, shots: Iterable[Any], detect: Callable[[Any], Any]
    ) -> Iterator[Any]:
        """Has the network look at images, as many at once as were chosen.

        Args:
            shots: They may be :class:`Unreadable`.
            detect: Looks at one, where it is alone, or where looking at all at once
                fails: then it says which one is at fault.
        """
        for some in in_batches(shots, self.choices.batch):
            yield from self._detect_at_once(some) or map(detect, some)

    def _detect_at_once(self, some: Sequence[Any]) -> list[Any] | None:
        whole = [shot for shot in some if isinstance(shot, Shot)]
        if len(whole) < 2 or any(map(self.draws_maps, whole)):
            return None
        prepared = [shot.prepared for shot in whole]
        try:
            samples = self.predictor.detect_prepared(prepared, self.min_score)
        except (cv2.error, MemoryError, RuntimeError, ValueError):
            return None
        found = iter(samples)
        return [
            shot._replace(sample=next(found).cpu(), prepared=None)
            if isinstance(shot, Shot)
            else shot
            for shot in some
        ]

    def write(self, shot: Shot) -> Entry:
        """Draws an image, and writes that."""
        if self.choices.no_draw:
            return self.draw(None, shot)
        with open_drawing(self.out_dir / shot.drawn) as write:
            return self.draw(write, shot)

    def draw(
        self,
        write: Write | None,
        shot: Shot,
        tracker: Tracker | None = None,
        live: bool = False,
    ) -> Entry:
        """Draws an image, and makes its entry in ``predictions.json``.

        Args:
            write: Writes what is drawn; nothing is drawn if ``None``.
            shot: The image and what was found on it.
            tracker: Knows what was found on the frames before.
            live: Whether it is of a live source, and so was seen at a time.
        """
        image, sample = shot.image, shot.sample
        assert image is not None and sample is not None
        extra: Entry = {}
        if self.draws_maps(shot):
            extra = {'feature_maps': str(Path('feature_maps', shot.name))}
        if self.with_labels:
            sample, doubt = keep_sure(self.predictor, sample, self.score_thr)
            height, width = image.shape[:2]
            extra |= dict(width=width, height=height, **doubt._asdict())
        objects = list(self.predictor.list_objects(sample))
        if tracker:
            objects = tracker.update(objects, shot.seconds)
            sample.pred_instances.tracks = [found['track'] for found in objects]
        if write:
            drawn = self.predictor.draw(image, sample)
            write(drawn, *([shot.seconds] if live else []))
        number = {} if shot.number is None else {'frame': shot.number}
        if self.choices.save_crops:
            name = f'{shot.name}_{shot.number:06}' if number else shot.name
            write_crops(self.out_dir / 'crops', name, image[..., :3], objects)
        return {
            'file': str(shot.path),
            **number,
            **({'time': round(shot.seconds, 3)} if live else {}),
            **({'drawn': str(shot.drawn)} if write else {}),
            'objects': add_outlines(objects, sample) if self.with_labels else objects,
            **extra,
        }


def predict_images(
    task: Task, shots: Iterable[Shot]
) -> Generator[Entry | Unreadable, None, None]:
    """Predicts on images; threads read the next ones and draw the last ones meanwhile.

    Args:
        task: What is done with them.
        shots: Images that are not read yet.

    Yields:
        What was found on each, or why there is nothing, in the order of the images.
    """
    with open_threads() as threads:
        read = map_ahead(threads, partial(survive, task.read), shots)
        seen = task.detect_in_batches(read, partial(survive, task.detect))
        yield from map_ahead(threads, partial(survive, task.write), seen)


def survive(call: Callable[[Shot], Any], shot: Shot | Unreadable) -> Any:
    """A step on a shot, or why it cannot be made; what failed before stays that."""
    if isinstance(shot, Unreadable):
        return shot
    try:
        return call(shot)
    except Exception as error:
        return Unreadable(str(shot.path), explain_failure(error, shot.path))


def predict_file(
    predictor: FramePredictor,
    path: Source,
    name: str,
    out_dir: Path,
    score_thr: 'Threshold',
    with_maps: bool = False,
    with_labels: bool = False,
    prepare: Callable[[np.ndarray], Any] | None = None,
    choices: Choices | None = None,
) -> Iterator[Entry | LeftOut]:
    """Predicts on a video frame by frame, or on an image, and draws.

    A thread reads the next frames, and another one draws the last ones, meanwhile. Of
    a live source nothing is ahead of the network or behind it, since it would be late.

    Args:
        predictor: As of :class:`Task`, and so are the others.
        path: Video, stream or image.
        name: Path of what is drawn, in ``drawn`` and ``feature_maps`` of ``out_dir``.
        out_dir: Folder to write into.
        score_thr: Minimum score.
        with_maps: Whether to draw feature maps.
        with_labels: Whether the entries have what labels are written from.
        prepare: Makes of a frame what ``predictor.detect`` takes.
        choices: How videos are read, and what is written.

    Yields:
        The entry in ``predictions.json`` of the image, or of each frame, and last how
        many frames were left out, if any were.

    Raises:
        BrokenImageError: It cannot be read.
        UserError: The predictor has no feature maps.
    """
    options = with_maps, with_labels, prepare, choices or Choices()
    task, shot = Task(predictor, out_dir, score_thr, *options), Shot(path, name)
    if is_video(path):
        yield from predict_frames(task, shot)
    else:
        yield task.write(task.detect(task.read(shot)))


def predict_frames(task: Task, shot: Shot) -> Iterator[Entry | LeftOut]:
    """As :func:`predict_file`, of a video or stream.

    Args:
        task: What is done with each frame.
        shot: The video or stream, without a frame.

    Raises:
        ImageError: It cannot be read, is lost for good, or lacks a fourth channel.
    """
    check_has_channels(shot.path, CHANNELS_OF.get(task.color_type, 'RGB'))
    choices = task.choices
    frames = open_frames(shot.path, choices.fps, choices.reconnect)
    live = frames.live
    tracker = Tracker(frames.rate) if choices.track else None

    def use(frame: Frame) -> Shot:
        used = task.use(shot, frame.image, frame.number)
        return used._replace(seconds=frame.seconds)

    with contextlib.ExitStack() as stack:
        write = None
        if choices.save_video or not (live or choices.no_draw):
            path = task.out_dir / shot.drawn
            write = stack.enter_context(
                open_kept_video(path, frames.rate)
                if choices.save_video
                else open_drawing(path, frames.rate)
            )
        draw = partial(task.draw, write, tracker=tracker, live=live)
        reading, writing = (stack.enter_context(open_threads(1)) for _ in range(2))
        stack.callback(tell_left_out, shot.path, frames)
        stack.enter_context(contextlib.closing(frames))
        if live:
            yield from map(draw, map(task.detect, map(use, frames)))
        else:
            read = iterate_ahead(reading, use, frames, AHEAD + choices.batch)
            seen = task.detect_in_batches(read, task.detect)
            yield from map_ahead(writing, draw, seen, AHEAD)
    counts = {why: count for why, count in frames.left_out.items() if count}
    if counts:
        yield LeftOut(str(shot.path), counts)


def explain_failure(error: Exception, path: Source) -> str:
    """Why there are no predictions on a file, where the file is at fault.

    Images may be too long to be resized or drawn, and too large for the memory.

    Raises:
        Exception: The error, where another file would meet it too.
    """
    if isinstance(error, (BrokenImageError, ImageError)):
        reason = str(error)
        return reason if str(path) in reason else f'{path}: {reason}'
    out_of_memory = isinstance(error, RuntimeError) and 'memory' in str(error)
    of_image = (cv2.error, MemoryError, ValueError)
    if isinstance(error, UserError) or not (
        isinstance(error, of_image) or out_of_memory
    ):
        raise error
    return f'{path}: no predictions can be made on this image: {tell(error)}'


def predict_files(
    predictor: FramePredictor,
    files: Sequence[Source],
    out_dir: Path,
    score_thr: 'Threshold' = 0.3,
    with_maps: bool = False,
    show_progress: bool = True,
    with_labels: bool = False,
    prepare: Callable[[np.ndarray], Any] | None = None,
    choices: Choices | None = None,
) -> Generator[Entry | Unreadable | LeftOut, None, None]:
    """Predicts on images, videos and streams; files that cannot be read are left out.

    Args:
        predictor: What predicts.
        files: Images, videos and streams.
        out_dir: Folder that gets what is drawn: ``drawn/`` and ``feature_maps/``, with
            the folders that the files lie in.
        score_thr: Minimum score, 0 to 1, or 'best' for each class's own.
        with_maps: As of :func:`predict_file`.
        show_progress: Whether to show a progress bar.
        with_labels: As of :func:`predict_file`.
        prepare: As of :class:`Task`; it is called by other threads.
        choices: How videos are read, and what is written.

    Yields:
        As :func:`predict_file`, or what could not be read, in the order of the files.
        A drawing is complete when its image's entry comes.
    """
    options = out_dir, score_thr, with_maps, with_labels, prepare, choices or Choices()
    shots = (Shot(path, name) for path, name in zip(files, name_sources(files)))
    endless = any(isinstance(path, Stream) for path in files)
    total = None if endless else sum(map(count_frames, files))
    with Progress(disable=not show_progress) as progress:
        bar = progress.add_task('Predicting', total=total)
        for videos, some in groupby(shots, lambda shot: is_video(shot.path)):
            if videos:
                found = predict_videos(predictor, some, *options)
            else:
                found = predict_images(Task(predictor, *options), some)
            with contextlib.closing(found):
                for one in found:
                    yield one
                    progress.advance(bar, not isinstance(one, LeftOut))


def predict_videos(
    predictor: FramePredictor, shots: Iterable[Shot], *options: Any
) -> Generator[Entry | Unreadable | LeftOut, None, None]:
    """Predicts on one video after the other; options as of :func:`predict_file`."""
    for path, name, *_ in shots:
        try:
            yield from predict_file(predictor, path, name, *options)
        except Exception as error:
            yield Unreadable(str(path), explain_failure(error, path))
