"""Which object of a frame is which of the frame before: ByteTrack, by ``trackers``."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

MEMORY = 30  # thirtieths of a second that an object may be out of sight


def import_trackers() -> Any:
    """The package that tracks.

    Raises:
        ImportError: It is not installed, or does not start.
    """
    try:
        return import_module('trackers')
    except ImportError as error:
        raise ImportError(
            '--track needs trackers, which is not installed or does not start '
            f'({error}): pip install "mmnextvit[track]", or pip install '
            '"trackers>=2.6.1,<2.7"',
            name='trackers',
        ) from error


class Tracker:
    """Identities of the objects in one video or stream.

    All that is shown is followed, whatever its class and its score.

    Args:
        rate: Frames a second, as they are looked at.

    Raises:
        ImportError: The package ``trackers`` is not installed.
    """

    def __init__(self, rate: float) -> None:
        trackers = import_trackers()
        self._detections = import_module('supervision').Detections
        # Where few frames are looked at, an object may be missed in two of them.
        memory = max(MEMORY, round(3 * 30 / rate))
        self._tracker = trackers.ByteTrackTracker(memory, frame_rate=rate)
        self._seconds = -np.inf

    def update(
        self, objects: Sequence[dict[str, Any]], seconds: float
    ) -> list[dict[str, Any]]:
        """The objects of the next frame with their ``track``.

        Args:
            objects: As of :class:`~mmnextvit.runtime.Detector`.
            seconds: When the frame was seen.

        Returns:
            Dicts of the same order, with a number from 1 on, or ``None`` for what has
            been seen in one frame only.
        """
        self._seconds = max(seconds, self._seconds + 1e-3)  # clocks may be set back
        boxes = [found['box'] for found in objects]
        given = self._detections(
            xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            class_id=np.zeros(len(boxes), int),
            data={'place': np.arange(len(boxes))},
        )
        tracked = self._tracker.update(given, timestamp=self._seconds)
        numbers: dict[int, int] = {}
        if len(tracked):
            places, tracks = tracked.data['place'], tracked.tracker_id
            numbers = dict(zip(places.tolist(), tracks.tolist()))
        return [
            {
                **found,
                'track': number + 1 if (number := numbers.get(i, -1)) >= 0 else None,
            }
            for i, found in enumerate(objects)
        ]
