"""The frames of videos, webcams and streams, one after another."""

import math
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from .errors import ImageError
from .sources import Source, Stream

MAX_RATE = 1000  # frames a second
USUAL_RATE = 25.0  # where a video says none, or none that is possible
TIMEOUT = 10_000  # ms, to connect, and for the next frame of a stream
MAX_FAILURES = 1000  # reads in a row that give no frame, before a video counts as ended
RECONNECT = 5  # tries
FIRST_WAIT, MAX_WAIT = 0.5, 10.0  # seconds before the first try and the later ones
EXACT = ('.avi', '.mp4', '.mov', '.m4v')  # state how many frames they have

# What is said of frames that were not looked at, by why.
LEFT_OUT = {
    'broken': ('left out', 'that could not be decoded'),
    'dropped': ('dropped', 'that came while the detector was busy'),
}


class Frame(NamedTuple):
    """A frame of a video or stream.

    Attributes:
        number: From 0; those that were left out, dropped or broken are counted.
        image: (H, W, 3), BGR, uint8.
        seconds: From the beginning of a video; of a live source as of ``time.time()``.
    """

    number: int
    image: np.ndarray
    seconds: float


class Frames(Protocol):
    """The frames of a source, to be iterated over once.

    Attributes:
        live: Whether they come by the clock, so that what is late is dropped.
        rate: Frames a second, as they are given.
        count: About how many there are; 0 where nobody knows.
        left_out: How many were not given, by why; see `LEFT_OUT`.
    """

    live: bool
    rate: float
    count: int
    left_out: dict[str, int]

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...


def open_frames(
    source: Source,
    fps: float | None = None,
    reconnect: int = RECONNECT,
    tell: Callable[[str], object] | None = None,
) -> Frames:
    """The frames of a video file, a webcam or an address.

    An address may be that of a video that has an end, which is read as a file is.

    Args:
        source: Video or stream.
        fps: So many frames a second are given at most; all if ``None``.
        reconnect: How many tries in a row there are to connect again to a stream.
        tell: Gets what happens to a stream, in lines; the standard error if ``None``.

    Raises:
        ImageError: It is a FIFO or a device, or cannot be opened.
    """
    if isinstance(source, Stream):
        capture = open_capture(source.address)
        if not capture.isOpened():
            raise ImageError(explain_unopened(source))
        if (
            isinstance(source.address, str)
            and capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
        ):
            return VideoFrames(capture, source, fps)
        return LiveFrames(capture, source, fps, reconnect, tell or tell_on_stderr)
    try:
        is_regular = stat.S_ISREG(os.stat(source).st_mode)
    except OSError as error:
        raise ImageError(f'{source} cannot be read: {error.strerror}') from error
    if not is_regular:  # reading a FIFO or a device may not end
        raise ImageError(f'{source}: this is a FIFO, a folder or a device, not a file')
    capture = open_capture(str(source))
    if not capture.isOpened():
        raise ImageError(f'{source}: the file is no video that OpenCV reads')
    return VideoFrames(capture, source, fps)


def check_has_channels(source: Source, channels: str) -> None:
    """Refuses a source of frames, before it is opened, that lack a fourth channel.

    Args:
        source: Video or stream.
        channels: What a detector takes, as of :func:`~.images.read`.

    Raises:
        ImageError: It takes more than frames have.
    """
    if channels == 'RGBA':
        raise ImageError(
            f'{source}: the frames of videos, webcams and streams have 3 channels, and '
            'this detector takes images of 4: give it image files'
        )


def tell_on_stderr(text: str) -> None:
    """Prints a line beside the results."""
    print(text, file=sys.stderr, flush=True)


def explain_unopened(stream: Stream) -> str:
    """Why there is nothing to see, as far as that is known."""
    if isinstance(stream.address, int):
        return (
            f'{stream} cannot be opened: there is none of this number, or another '
            'program uses it, or its device (/dev/video*) may not be read'
        )
    return (
        f'{stream} cannot be opened: nothing answers there with a video that OpenCV '
        "reads. Check the address, the user and password in it, and the camera's state"
    )


def open_capture(address: int | str) -> cv2.VideoCapture:
    """OpenCV's reader, which may have failed to open.

    OpenCV and FFmpeg no longer print to the terminal: FFmpeg's lines hold passwords.
    """
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    if logging := getattr(cv2.utils, 'logging', None):  # not there before OpenCV 4.5
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    if isinstance(address, int) or '://' not in address:
        return cv2.VideoCapture(address)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT]
    limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)


def find_rate(capture: cv2.VideoCapture) -> float:
    """Frames a second, `USUAL_RATE` where none are said that are possible."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate <= MAX_RATE else USUAL_RATE


def tell_left_out(source: Source, frames: Frames) -> None:
    """Prints beside the results how many frames of a source were not given, and why."""
    for why, count in frames.left_out.items():
        if count:
            noun = 'frame' if count == 1 else 'frames'
            did, which = LEFT_OUT[why]
            tell_on_stderr(f'{source}: {did} {count} {noun} {which}')


class VideoFrames:
    """The frames of a video that has an end; what is broken is left out.

    OpenCV gives no frame where one is broken, and may give the next ones; others it
    passes over in silence, which shows where the file says how many it has.

    Args:
        capture: It is open.
        source: What it reads.
        fps: So many frames a second are given at most, by the video's timestamps.
    """

    live = False

    def __init__(
        self, capture: cv2.VideoCapture, source: Source, fps: float | None = None
    ) -> None:
        self._capture, self._source, self._fps = capture, source, fps
        self._own_rate = find_rate(capture)
        self.rate = min(self._own_rate, fps or math.inf)
        stated = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._stated = int(stated) if 0 < stated < 1e9 else 0
        self.count = math.ceil(self._stated * self.rate / self._own_rate)
        self.left_out = {'broken': 0}

    def __iter__(self) -> Iterator[Frame]:
        """Each frame.

        Raises:
            ImageError: There is none.
        """
        number, read, due = 0, 0, 0.0
        failures = 0  # in a row
        limit = self._stated or math.inf
        while not failures or failures < MAX_FAILURES and number + failures <= limit:
            whole, image = self._capture.grab(), None
            seconds = self._find_time(number + failures)
            if whole and seconds > due - 1e-6:
                whole, image = self._capture.retrieve()
            if not whole:
                failures += 1
                continue
            number, failures, broken = number + failures, 0, failures
            self.left_out['broken'] += broken
            read += 1
            if image is not None:
                # The times of what is given lie on a grid.
                if self._fps:
                    due = (math.floor(seconds * self._fps + 1e-6) + 1) / self._fps
                yield Frame(number, image, seconds)
            number += 1
        if not read:
            raise ImageError(f'{self._source}: the file is no video that OpenCV reads')
        missing = self._stated - number
        exact = str(self._source).lower().endswith(EXACT)
        if missing > (0 if exact else max(2, self._stated / 100)):  # others estimate it
            self.left_out['broken'] += missing

    def _find_time(self, number: int) -> float:
        stated = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return stated if 0 < stated < math.inf else number / self._own_rate

    def close(self) -> None:
        """Nothing waits for frames of a file."""


class LiveFrames:
    """The newest frames of a webcam or stream: a thread reads, and late ones go.

    Args:
        capture: It is open.
        stream: What it reads.
        fps: So many frames a second are given at most, by the clock.
        reconnect: How many tries in a row to connect again, where it is lost; with 0
            the frames end there, without an error.
        tell: Gets what happens, in lines.
    """

    live = True
    count = 0

    def __init__(
        self,
        capture: cv2.VideoCapture,
        stream: Stream,
        fps: float | None,
        reconnect: int,
        tell: Callable[[str], object],
    ) -> None:
        self.rate = min(find_rate(capture), fps or math.inf)
        self.left_out = {'broken': 0, 'dropped': 0}
        self._stream, self._fps, self._reconnect = stream, fps, reconnect
        self._tell, self._read = tell, 0
        self._closed, self._changed = threading.Event(), threading.Condition()
        self._newest: Frame | None = None
        self._ended, self._lost = False, ''
        # What waits for a dead camera must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, args=[capture], daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        """Each frame that is the newest one when it is asked for.

        Raises:
            ImageError: The stream was lost, and connecting again failed.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest or self._ended)
                frame, self._newest = self._newest, None
            if frame is not None:
                yield frame
            elif self._lost:
                raise ImageError(self._lost)
            else:
                return

    def close(self) -> None:
        """Ends the frames, also for who waits for the next one.

        A process that ends while OpenCV reads would be aborted: the thread is waited
        for, as long as OpenCV itself waits for a frame.
        """
        self._closed.set()
        self._end()
        self._thread.join(TIMEOUT / 1000 + 1)

    def _end(self, why: str = '') -> None:
        with self._changed:
            self._lost, self._ended = self._lost or why, True
            self._changed.notify_all()

    def _run(self, capture: cv2.VideoCapture) -> None:
        """Reads until the frames are closed, or the stream is lost for good."""
        tries = 0
        while True:
            before = self._read
            self._read_on(capture)
            capture.release()
            tries = 0 if self._read > before else tries
            if self._closed.is_set() or not self._reconnect:
                return self._end()
            if tries == self._reconnect:
                return self._end(
                    f'{self._stream} was lost after {self._read} frames, and {tries} '
                    'tries to connect again failed: check the camera and the network, '
                    'or allow more (--reconnect)'
                )
            tries += 1
            self._tell(
                f'{self._stream} gives no frames: try {tries} of {self._reconnect} to '
                'connect again'
            )
            if self._closed.wait(min(FIRST_WAIT * 2 ** (tries - 1), MAX_WAIT)):
                return self._end()
            capture = open_capture(self._stream.address)

    def _read_on(self, capture: cv2.VideoCapture) -> None:
        """Reads until nothing more comes."""
        due = -math.inf
        while not self._closed.is_set() and capture.grab():
            now = time.monotonic()
            number, self._read = self._read, self._read + 1
            if now < due:
                continue
            whole, image = capture.retrieve()
            if not whole:
                self.left_out['broken'] += 1
                continue
            if self._fps:  # a grid of time, which begins anew after a pause
                step = 1 / self._fps
                due = (due if now - due < step else now) + step
            with self._changed:
                self.left_out['dropped'] += self._newest is not None
                self._newest = Frame(number, image, time.time())
                self._changed.notify_all()
