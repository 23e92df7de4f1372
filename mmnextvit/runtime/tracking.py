"""Which object of a frame is which of the frame before: ByteTrack, by ``trackers``."""

import math
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

LOW = 0.1  # objects from this score on keep an identity, though they are not shown
USUAL_BUFFER = 30  # at 30 frames a second: a track that is not seen for a second ends
TRAIL = 30  # frames
NO_TRACK = -1
Trail = np.ndarray  # (N, 2), int32: where an object was, in pixels, the newest last


def import_trackers() -> Any:
    """The package that tracks.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return import_module('trackers')
    except ImportError as error:
        raise ImportError(
            '--track needs trackers, which is not installed or does not start '
            f'({error}): pip install "trackers>=2.6.1,<2.7", or pip install '
            '"mmnextvit[track]"',
            name='trackers',
        ) from error


class Tracker:
    """Identities of the objects in one video or stream.

    Args:
        rate: Frames a second, as they are looked at.

    Raises:
        ImportError: The package ``trackers`` is not installed.
    """

    def __init__(self, rate: float) -> None:
        trackers = import_trackers()
        self._detections = import_module('supervision').Detections
        # Where few frames are looked at, an object may be missed in two of them.
        buffer = max(USUAL_BUFFER, math.ceil(3 * USUAL_BUFFER / rate))
        # What is shown has 1 for a score, see `update`.
        self._tracker = trackers.ByteTrackTracker(
            lost_track_buffer=buffer,
            frame_rate=rate,
            track_activation_threshold=0.5,
            high_conf_det_threshold=0.5,
        )
        self._time = -math.inf
        self._first: int | None = None
        self._trails: dict[int, deque[tuple[int, int]]] = {}

    def update(self, boxes: np.ndarray, shown: np.ndarray, seconds: float) -> list[int]:
        """The identity of each object in the next frame.

        Args:
            boxes: (N, 4): x1, y1, x2, y2 in pixels.
            shown: (N,), bool: which may begin a track. The others are too uncertain,
                and only keep one that has begun.
            seconds: When the frame was seen.

        Returns:
            From 1 on; `NO_TRACK` for what has been seen once only.
        """
        self._time = max(seconds, self._time + 1e-3)  # a broken clock must not go back
        found = self._detections(
            xyxy=np.asarray(boxes, np.float32).reshape(-1, 4),
            confidence=np.asarray(shown, np.float32),
            class_id=np.zeros(len(boxes), int),
            data={'place': np.arange(len(boxes))},
        )
        tracked = self._tracker.update(found, timestamp=self._time)
        tracks = np.full(len(boxes), NO_TRACK)
        if len(tracked):
            tracks[tracked.data['place']] = tracked.tracker_id
        return [self._count_from_one(int(track)) for track in tracks]

    def _count_from_one(self, track: int) -> int:
        if track < 0:
            return NO_TRACK
        self._first = track if self._first is None else min(track, self._first)
        return track - self._first + 1

    def follow(
        self, tracks: Sequence[int], boxes: Sequence[Sequence[float]]
    ) -> dict[int, Trail]:
        """Where the objects that are in this frame were: the middles of their boxes."""
        for track, (x1, y1, x2, y2) in zip(tracks, boxes):
            if track != NO_TRACK:
                trail = self._trails.setdefault(track, deque(maxlen=TRAIL))
                trail.append((round((x1 + x2) / 2), round((y1 + y2) / 2)))
        # Those of objects that have gone are of no use, and a stream may run for days.
        while len(self._trails) > 1000:
            del self._trails[next(iter(self._trails))]
        here = [track for track in tracks if track in self._trails]
        return {track: np.array(self._trails[track], np.int32) for track in here}
