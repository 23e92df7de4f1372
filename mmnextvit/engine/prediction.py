"""Predictions on files: drawings of them, and ``predictions.json``."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from mmdet.structures import DetDataSample
from rich.progress import Progress
from torch import Tensor

from ..datasets.images import BrokenImageError
from ..datasets.sources import count_frames, is_video, read_frame_rate, read_frames
from ..utils.errors import UserError
from ..utils.files import atomic_write_text
from ..visualization.writers import open_drawing, write_feature_maps

BOX_FORMAT = "x1, y1, x2, y2 in pixels, from the image's top left corner"
Entry = dict[str, Any]


class FramePredictor(Protocol):
    """What predicts on a frame; the predictors of :mod:`mmnextvit.apis` do."""

    classes: list[str]

    def detect(self, image: np.ndarray, score_thr: float) -> DetDataSample: ...

    def list_objects(self, sample: DetDataSample) -> list[dict[str, object]]: ...

    def detect_with_maps(
        self, image: np.ndarray, score_thr: float
    ) -> tuple[DetDataSample, np.ndarray, dict[str, Tensor]]: ...

    def draw(self, image: np.ndarray, sample: DetDataSample) -> np.ndarray: ...


@dataclass
class Predictions:
    """Predictions on files.

    Args:
        entries: One for an image, or for each frame of a video.
        unreadable: Why a file could not be read, by its path.
    """

    entries: list[Entry] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    def summarize(self) -> str:
        """How many objects there are in how many files."""
        objects = sum(len(entry['objects']) for entry in self.entries)
        files = len({entry['file'] for entry in self.entries})
        return f'{objects} objects in {files} files'


def new_folder(path: str | os.PathLike | None) -> Path:
    """An empty folder, named by the time if ``path`` is ``None``.

    Raises:
        UserError: It is not empty, or not a folder.
    """
    folder = Path(path or Path('predictions', time.strftime('%Y%m%d_%H%M%S')))
    if folder.exists() and not folder.is_dir():
        raise UserError(f'{folder} is not a folder: choose a new folder')
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f'{folder} is not empty: choose a new folder')
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def predict_file(
    predictor: FramePredictor,
    path: Path,
    name: str,
    out_dir: Path,
    score_thr: float,
    with_maps: bool = False,
) -> Iterator[Entry]:
    """Predicts on an image, or on a video frame by frame, and draws.

    Args:
        predictor: What predicts.
        path: Image or video.
        name: Path of what is drawn, in ``drawn`` and ``feature_maps`` of ``out_dir``.
        out_dir: Folder to write into.
        score_thr: Minimum score, 0 to 1.
        with_maps: Whether to draw the feature maps of the (first) image.

    Yields:
        The entry in ``predictions.json`` of the image, or of each frame.

    Raises:
        BrokenImageError: It cannot be read.
        UserError: The predictor has no feature maps.
    """
    video = is_video(path)
    drawn = Path('drawn', name)
    if video and drawn.suffix.lower() != '.mp4':
        drawn = drawn.with_name(f'{drawn.name}.mp4')
    with open_drawing(
        out_dir / drawn, read_frame_rate(path) if video else None
    ) as write:
        for number, frame in enumerate(read_frames(path)):
            extra: dict[str, str] = {}
            if with_maps and number == 0:
                folder = Path('feature_maps', name)
                sample, seen, maps = predictor.detect_with_maps(frame, score_thr)
                write_feature_maps(out_dir / folder, seen, maps)
                extra = {'feature_maps': str(folder)}
            else:
                sample = predictor.detect(frame, score_thr)
            write(predictor.draw(frame, sample))
            yield {
                'file': str(path),
                **({'frame': number} if video else {}),
                'drawn': str(drawn),
                'objects': predictor.list_objects(sample),
                **extra,
            }


def predict_files(
    predictor: FramePredictor,
    files: Sequence[Path],
    out_dir: Path,
    score_thr: float = 0.3,
    with_maps: bool = False,
    show_progress: bool = True,
) -> Predictions:
    """Predicts on images and videos; files that cannot be read are left out.

    Args:
        predictor: What predicts.
        files: Images and videos.
        out_dir: Folder that gets what is drawn: ``drawn/`` and ``feature_maps/``, with
            the folders that the files lie in.
        score_thr: Minimum score, 0 to 1.
        with_maps: As of :func:`predict_file`.
        show_progress: Whether to show a progress bar.
    """
    root = os.path.commonpath([path.parent for path in files])
    predictions = Predictions()
    total = sum(map(count_frames, files))
    with Progress(disable=not show_progress) as progress:
        task = progress.add_task('Predicting', total=total)
        for path in files:
            name = os.path.relpath(path, root)
            try:
                for entry in predict_file(
                    predictor, path, name, out_dir, score_thr, with_maps
                ):
                    predictions.entries.append(entry)
                    progress.advance(task)
            except BrokenImageError as error:
                predictions.unreadable[str(path)] = str(error)
                progress.advance(task)
    return predictions


def write_json(
    path: Path,
    predictions: Predictions,
    classes: Sequence[str],
    config: str,
    checkpoint: str,
    score_thr: float,
) -> None:
    """Writes ``predictions.json``.

    Args:
        path: The file.
        predictions: What it is to hold.
        classes: Names of the labels.
        config: The config that the user named, and so are the others.
        checkpoint: Checkpoint or exported file.
        score_thr: Minimum score.
    """
    content = {
        'config': config,
        'checkpoint': checkpoint,
        'score_thr': score_thr,
        'classes': list(classes),
        'box_format': BOX_FORMAT,
        'predictions': predictions.entries,
        'unreadable': predictions.unreadable,
    }
    atomic_write_text(path, json.dumps(content))
