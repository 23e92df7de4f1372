"""Predictions on files: drawings of them, and ``predictions.json``."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import cv2
import numpy as np
from mmdet.structures import DetDataSample
from rich.progress import Progress
from torch import Tensor

from ..datasets.images import BrokenImageError
from ..datasets.sources import count_frames, is_video, read_frame_rate, read_frames
from ..labels.doubts import Doubt, describe_doubt, format_doubts, rank_doubts
from ..labels.images import is_of_image
from ..labels.outlines import outline_mask
from ..labels.write import write_labels
from ..utils.errors import Terminated, UserError
from ..utils.files import (
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
Entry = dict[str, Any]


class FramePredictor(Protocol):
    """What predicts on a frame; the predictors of :mod:`mmnextvit.apis` do."""

    classes: list[str]

    def detect(self, image: np.ndarray, score_thr: 'Threshold') -> DetDataSample: ...

    def find_thresholds(self, score_thr: 'Threshold') -> 'MinScores': ...

    def list_objects(self, sample: DetDataSample) -> list[dict[str, object]]: ...

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


@dataclass
class Predictions:
    """Predictions on files.

    Args:
        entries: One for an image, or for each frame of a video.
        unreadable: Why a file could not be read, by its path.
    """

    entries: list[Entry] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, found: Entry | Unreadable) -> None:
        """Adds what :func:`predict_files` found."""
        if isinstance(found, Unreadable):
            self.unreadable[found.path] = found.reason
        else:
            self.entries.append(found)

    def summarize(self) -> str:
        """How many objects there are in how many files."""
        objects = sum(len(entry['objects']) for entry in self.entries)
        files = len({entry['file'] for entry in self.entries})
        return f'{objects} objects in {files} files'


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

    def write(self, partial: str = '', overwrite: bool = True) -> None:
        """Writes the JSON.

        Args:
            partial: Why these are not all predictions, if they are not.
            overwrite: Whether one that stands there is replaced.

        Raises:
            OSError: It cannot be written, or stands there and is not to be replaced.
        """
        entries = self.predictions.entries
        if partial:  # a video that was not drawn to its end has no drawing
            entries = [
                {k: v for k, v in entry.items() if k != 'drawn' or self._has(v)}
                for entry in entries
            ]
        content = {
            **({'partial': partial} if partial else {}),
            **self.about,
            'box_format': BOX_FORMAT,
            'predictions': entries,
            'unreadable': self.predictions.unreadable,
        }
        atomic_write_text(self.json, json.dumps(content), overwrite)

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
        first = rank_doubts(entries)[0]
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
            for name in ('drawn', 'feature_maps'):
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
) -> Iterator[Results]:
    """A new folder for predictions, whose ``predictions.json`` is whole at any time.

    The JSON is there from the start, as what claims the folder, and says that it is
    partial until the block has ended. Where the block raises, be it by Ctrl-C, the JSON
    has what was found until then. Where that is nothing, nothing is left.

    Args:
        path: As of :func:`make_new_folder`.
        about: As of :class:`Results`, and so is the other.
        label_formats: The labels are written at the block's end, however it ends.

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


def predict_file(
    predictor: FramePredictor,
    path: Path,
    name: str,
    out_dir: Path,
    score_thr: 'Threshold',
    with_maps: bool = False,
    with_labels: bool = False,
) -> Iterator[Entry]:
    """Predicts on an image, or on a video frame by frame, and draws.

    Args:
        predictor: What predicts.
        path: Image or video.
        name: Path of what is drawn, in ``drawn`` and ``feature_maps`` of ``out_dir``.
        out_dir: Folder to write into.
        score_thr: Minimum score, 0 to 1, or 'best' for each class's own.
        with_maps: Whether to draw the feature maps of the (first) image.
        with_labels: Whether the entries have what labels are written from.

    Yields:
        The entry in ``predictions.json`` of the image, or of each frame.

    Raises:
        BrokenImageError: It cannot be read.
        UserError: The predictor has no feature maps.
    """
    video = is_video(path)
    min_score = 0 if with_labels else score_thr  # doubts are about lower ones, too
    drawn = Path('drawn', name)
    if video and drawn.suffix.lower() != '.mp4':
        drawn = drawn.with_name(f'{drawn.name}.mp4')
    with open_drawing(
        out_dir / drawn, read_frame_rate(path) if video else None
    ) as write:
        for number, frame in enumerate(read_frames(path)):
            extra: Entry = {}
            if with_maps and number == 0:
                folder = Path('feature_maps', name)
                sample, seen, maps = predictor.detect_with_maps(frame, min_score)
                write_feature_maps(out_dir / folder, seen, maps)
                extra = {'feature_maps': str(folder)}
            else:
                sample = predictor.detect(frame, min_score)
            if with_labels:
                sample, doubt = keep_sure(predictor, sample, score_thr)
                height, width = frame.shape[:2]
                extra |= dict(width=width, height=height, **doubt._asdict())
            objects = predictor.list_objects(sample)
            write(predictor.draw(frame, sample))
            yield {
                'file': str(path),
                **({'frame': number} if video else {}),
                'drawn': str(drawn),
                'objects': add_outlines(objects, sample) if with_labels else objects,
                **extra,
            }


def explain_failure(error: Exception, path: Path) -> str:
    """Why there are no predictions on a file, where the file is at fault.

    Images may be too long to be resized or drawn, and too large for the memory.

    Raises:
        Exception: The error, where another file would meet it too.
    """
    if isinstance(error, BrokenImageError):
        return str(error)
    out_of_memory = isinstance(error, RuntimeError) and 'memory' in str(error)
    of_image = (cv2.error, MemoryError, ValueError)
    if isinstance(error, UserError) or not (
        isinstance(error, of_image) or out_of_memory
    ):
        raise error
    return f'{path}: no predictions can be made on this image: {tell(error)}'


def predict_files(
    predictor: FramePredictor,
    files: Sequence[Path],
    out_dir: Path,
    score_thr: 'Threshold' = 0.3,
    with_maps: bool = False,
    show_progress: bool = True,
    with_labels: bool = False,
) -> Generator[Entry | Unreadable, None, None]:
    """Predicts on images and videos; files that cannot be read are left out.

    Args:
        predictor: What predicts.
        files: Images and videos.
        out_dir: Folder that gets what is drawn: ``drawn/`` and ``feature_maps/``, with
            the folders that the files lie in.
        score_thr: Minimum score, 0 to 1, or 'best' for each class's own.
        with_maps: As of :func:`predict_file`.
        show_progress: Whether to show a progress bar.
        with_labels: As of :func:`predict_file`.

    Yields:
        As :func:`predict_file`, or what could not be read.
    """
    root = os.path.commonpath([path.parent for path in files])
    total = sum(map(count_frames, files))
    with Progress(disable=not show_progress) as progress:
        task = progress.add_task('Predicting', total=total)
        for path in files:
            name = os.path.relpath(path, root)
            try:
                for entry in predict_file(
                    *(predictor, path, name, out_dir, score_thr),
                    *(with_maps, with_labels),
                ):
                    yield entry
                    progress.advance(task)
            except Exception as error:
                yield Unreadable(str(path), explain_failure(error, path))
                progress.advance(task)
