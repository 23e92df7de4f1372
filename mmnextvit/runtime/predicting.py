"""Detections in sources: images and frames in, entries for JSON out."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from .choices import Choices
from .detections import Objects
from .detector import Detector, fit_batch_size
from .drawing import draw_objects, write_drawing
from .errors import ImageError
from .frames import Frame, check_has_channels, open_frames, tell_left_out
from .images import Image, convert_image, read
from .metadata import get_channels
from .resizing import Layout
from .sinks import open_kept_video, write_crops
from .sources import Source, is_video, name_sources
from .threads import in_batches, iterate_ahead, map_ahead, open_threads
from .thresholds import Threshold
from .tracking import Tracker

AHEAD = 4  # frames of a video that wait for the network
Entry = dict[str, Any]
Prepared = tuple[np.ndarray, Layout]


@dataclass(frozen=True)
class Sink:
    """Where results go.

    Args:
        choices: What was chosen of the sources.
        lines: File of the lines of JSON; the standard output if ``None``.
        drawings: Folder of what is drawn; nothing is if ``None``.
        crops: Folder of crops; there are none if ``None``.
    """

    choices: Choices = field(default_factory=Choices)
    lines: str | None = None
    drawings: Path | None = None
    crops: Path | None = None


def predict(
    detector: Detector,
    sources: Iterable[str | Source],
    score_thr: Threshold,
    sink: Sink,
) -> Iterator[Entry | ImageError]:
    """What is found on each image or frame, or why a source cannot be read, in order.

    Args:
        detector: What detects.
        sources: Images by their paths, and sources.
        score_thr: Minimum score, 0 to 1, or 'best' for each class's own.
        sink: Where what is drawn and cropped goes.
    """
    given = [Path(source) if isinstance(source, str) else source for source in sources]
    named = zip(given, name_sources(given))
    for videos, some in groupby(named, lambda pair: is_video(pair[0])):
        if not videos:
            yield from predict_images(detector, list(some), score_thr, sink)
            continue
        for source, name in some:
            try:
                yield from predict_video(detector, source, name, score_thr, sink)
            except ImageError as error:
                yield error


def predict_images(
    detector: Detector,
    named: list[tuple[Source, str]],
    score_thr: Threshold,
    sink: Sink,
) -> Iterator[Entry | ImageError]:
    """Detects in images; threads read the next ones while the network works."""
    files = [str(source) for source, _ in named]
    batch = sink.choices.batch
    size = fit_batch_size(batch, detector.metadata['input']['batch'])
    with open_threads() as threads:
        prepared = map_ahead(threads, partial(try_to_prepare, detector), files)
        shots = zip(files, (name for _, name in named), prepared)
        for some in in_batches(shots, batch):
            whole = [one for *_, one in some if not isinstance(one, ImageError)]
            found = iter(
                detector.detect_prepared(whole, score_thr, size) if whole else ()
            )
            for file, name, one in some:
                if isinstance(one, ImageError):
                    yield one
                    continue
                objects = detector.list_objects(next(found))
                entry: Entry = {'file': file, 'objects': objects.add_polygons()}
                if sink.drawings or sink.crops:
                    image = read_colours(detector, file)
                if sink.drawings:
                    drawn = draw_objects(image, objects)
                    entry['drawn'] = str(write_drawing(sink.drawings, file, drawn))
                if sink.crops:
                    write_crops(sink.crops, name, image, objects)
                yield entry


def try_to_prepare(detector: Detector, file: Image) -> Prepared | ImageError:
    """An image as :meth:`Detector.preprocess` makes it, or what is wrong with it."""
    try:
        return detector.preprocess(file)
    except ImageError as error:
        return error


def read_colours(detector: Detector, file: str) -> np.ndarray:
    """An image as H x W x 3 that lies as the one which the detector has seen."""
    channels = get_channels(detector.metadata)
    return convert_image(read(file, 'RGBA' if channels == 'RGBA' else 'RGB'))


def predict_video(
    detector: Detector, source: Source, name: str, score_thr: Threshold, sink: Sink
) -> Iterator[Entry]:
    """Detects in each frame; a thread reads the next ones, but of a live source.

    Raises:
        ImageError: It cannot be read, is lost for good, or lacks a fourth channel.
    """
    check_has_channels(source, get_channels(detector.metadata))
    choices = sink.choices
    frames = open_frames(source, choices.fps, choices.reconnect)
    tracker = Tracker(frames.rate) if choices.track else None
    size = fit_batch_size(choices.batch, detector.metadata['input']['batch'])

    def prepare(frame: Frame) -> tuple[Frame, Prepared]:
        return frame, detector.preprocess(frame.image)

    with ExitStack() as stack:
        write = None
        if sink.drawings and (choices.save_video or not frames.live):
            video = sink.drawings / f'{name}.mp4'
            write = stack.enter_context(open_kept_video(video, frames.rate))
        prepared: Iterator[tuple[Frame, Prepared]]
        if frames.live:  # what is ahead of the network would be late
            prepared = map(prepare, frames)
        else:
            thread = stack.enter_context(open_threads(1))
            prepared = iterate_ahead(thread, prepare, frames, AHEAD + choices.batch)
        stack.callback(tell_left_out, source, frames)
        stack.enter_context(closing(frames))
        for some in in_batches(prepared, 1 if frames.live else choices.batch):
            found = detector.detect_prepared([one for _, one in some], score_thr, size)
            for (frame, _), detections in zip(some, found, strict=True):
                objects = detector.list_objects(detections)
                if tracker:
                    objects[:] = tracker.update(objects, frame.seconds)
                entry = describe_frame(source, frame, frames.live, objects)
                if write:
                    drawn = draw_objects(frame.image, objects)
                    write(drawn, *([frame.seconds] if frames.live else []))
                    entry['drawn'] = str(video)
                if sink.crops:
                    place = f'{name}_{frame.number:06}'
                    write_crops(sink.crops, place, frame.image, objects)
                yield entry


def describe_frame(source: Source, frame: Frame, live: bool, objects: Objects) -> Entry:
    """The entry of a frame, without what is drawn of it."""
    return {
        'file': str(source),
        'frame': frame.number,
        **({'time': round(frame.seconds, 3)} if live else {}),
        'objects': objects.add_polygons(),
    }
