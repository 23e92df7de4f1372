"""Where images come from: files, lists of them, videos, webcams and streams."""

import math
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np

from .errors import ImageError, SourceError

IMAGE_SUFFIXES = (
    *('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp'),
)
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
LIST_SUFFIX = '.txt'
STDIN = '-'
SECRET = re.compile(
    r'(?i)((?:pass(?:word|wd|phrase)?|pwd|token|secret|key|auth|sig(?:nature)?)=)[^&/#]*'
)
MAX_RATE = 1000  # frames a second
USUAL_RATE = 25  # where a video says none, or none that is possible
TIMEOUT = 10_000  # ms, to connect, and for the next frame of a stream
MAX_FAILURES = 100  # reads in a row, of a video that does not say how long it is
RECONNECT = 5  # tries
MAX_WAIT = 10.0  # seconds between two tries
GLANCE = 0.1  # seconds between two looks at whether to stop

Item = TypeVar('Item')
Tell = Callable[[str], None]
Stop = Callable[[], bool]


def go_on() -> bool:
    """Never stops."""
    return False


def tell_on_stderr(text: str) -> None:
    """Prints a line beside the results."""
    print(text, file=sys.stderr, flush=True)


def hide_secrets(address: str) -> str:
    """An address without the user and the password in it, and without tokens."""
    start, mark, rest = address.partition('://')
    if not mark:
        return address
    if '@' in rest:
        rest = f'***@{rest.rpartition("@")[2]}'
    return start + mark + SECRET.sub(r'\1***', rest)


class Stream(NamedTuple):
    """A live source: a webcam by its number, or an address.

    As a text it is a name without passwords, which may be printed.
    """

    address: int | str

    def __str__(self) -> str:
        if isinstance(self.address, int):
            return f'webcam {self.address}'
        return hide_secrets(self.address)

    @property
    def file_name(self) -> str:
        """The same as the name of a file."""
        return re.sub(r'[^\w.-]+', '_', str(self).replace('***@', '')).strip('_.')


Source = Path | Stream


class Frame(NamedTuple):
    """A frame of a video or stream.

    Attributes:
        number: From 0, those counted that were left out, dropped or broken.
        image: (H, W, 3), BGR, uint8.
        time: In seconds from the beginning of a video; of a live source, as
            ``time.time()`` has it.
    """

    number: int
    image: np.ndarray
    time: float


def is_video(source: Source) -> bool:
    """Whether a source is a video, by its name, or a live one."""
    return isinstance(source, Stream) or source.suffix.lower() in VIDEO_SUFFIXES


def to_stream(text: str) -> Stream | None:
    """What a number or an address stands for; ``None`` of the name of a file."""
    if '://' in text:
        return Stream(text)
    is_number = text.isascii() and text.isdigit() and len(text) < 5
    return Stream(int(text)) if is_number and not os.path.lexists(text) else None


def is_list(text: str) -> bool:
    """Whether this names many sources: standard input, or a list file."""
    return text == STDIN or ('://' not in text and text.lower().endswith(LIST_SUFFIX))


def read_list(text: str, stdin: IO[bytes] | None = None) -> list[Source]:
    """The sources in a list: a path or an address in each line.

    Paths are relative to the list's folder, or else to the current one. Empty lines
    are left out.

    Args:
        text: A file, or ``-`` for standard input, which is read to its end.
        stdin: Standard input, as bytes; that of the process if ``None``.

    Raises:
        SourceError: The list cannot be read, is empty, or has entries that do not
            exist; it has the first of their lines.
    """
    if text == STDIN:
        name, folder = 'standard input', Path()
        content = (stdin or sys.stdin.buffer).read()
    else:
        name, folder = text, Path(text).parent
        try:
            if not stat.S_ISREG(os.stat(text).st_mode):
                raise SourceError('this list is no plain file', file=text)
            content = Path(text).read_bytes()
        except OSError as error:
            problem = f'this list cannot be read: {error.strerror}'
            raise SourceError(problem, file=text) from error
    sources, missing = [], []
    for number, line in enumerate(
        content.removeprefix(b'\xef\xbb\xbf').split(b'\n'), 1
    ):
        entry = os.fsdecode(line.strip())
        if not entry:
            continue
        stream = to_stream(entry) if '://' in entry else None
        source = stream or find_entry(entry, folder)
        if source is None:
            missing.append((number, entry))
        else:
            sources.append(source)
    if missing:
        number, entry = missing[0]
        more = f', nor do {len(missing) - 1} other entries' if len(missing) > 1 else ''
        problem = f'{entry!r} does not exist{more}. Paths are relative to the list'
        raise SourceError(problem, file=name, line=number)
    if not sources:
        raise SourceError('there is no path in it: one is wanted in a line', file=name)
    return sources


def find_entry(entry: str, folder: Path) -> Path | None:
    """The path that an entry of a list stands for, if it exists."""
    try:
        return next(p for p in (folder / entry, Path(entry)) if os.path.lexists(p))
    except (StopIteration, ValueError):  # a NUL in it is the latter
        return None


def find_sources(inputs: Iterable[str], stdin: IO[bytes] | None = None) -> list[Source]:
    """What each input stands for; paths that do not exist stay as they are.

    Args:
        inputs: Images, videos, folders of them, list files (``.txt``), ``-``, numbers
            of webcams and addresses.
        stdin: As of :func:`read_list`.

    Raises:
        SourceError: A list cannot be used, or a folder holds nothing.
    """
    sources: list[Source] = []
    for text in inputs:
        if is_list(text):
            sources += read_list(text, stdin)
        elif stream := to_stream(text):
            sources.append(stream)
        elif Path(text).is_dir():
            known = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
            files = (p for p in Path(text).iterdir() if p.suffix.lower() in known)
            if not (found := sorted(files)):
                raise SourceError('there is no image or video in it', file=text)
            sources += found
        else:
            sources.append(Path(text))
    return sources


def be_quiet() -> None:
    """Keeps OpenCV and FFmpeg from printing: what is wrong is told in our messages.

    FFmpeg prints addresses with their passwords.
    """
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def open_capture(address: int | str) -> cv2.VideoCapture:
    """OpenCV's reader, which may have failed to open."""
    be_quiet()
    if isinstance(address, int) or '://' not in address:
        return cv2.VideoCapture(address)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT]
    limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)


class Frames(Protocol):
    """The frames of a video or of a live source, one after another.

    Attributes:
        live: Whether they come by the clock, so that what is late is dropped.
        rate: Frames a second, as they are given.
        count: About how many there will be; 0 where there is no end.
        lost: Why there are no more, where a live source is lost.
    """

    live: bool
    rate: float
    count: int
    lost: str

    def __iter__(self) -> Iterator[Frame]: ...

    def summarize(self) -> dict[str, int]:
        """How many frames were read and not, by words for it."""
        ...

    def close(self) -> None: ...


class VideoFrames:
    """The frames of a video that has an end; what is broken is skipped.

    OpenCV gives no frame where one is broken, and may give the next ones.

    Args:
        capture: It is open.
        name: Of the video, for messages.
        fps: So many frames a second are given at most, by the video's timestamps.
        stop: Asked before each frame.
    """

    live = False
    lost = ''

    def __init__(
        self,
        capture: cv2.VideoCapture,
        name: str,
        fps: float | None = None,
        stop: Stop = go_on,
    ) -> None:
        self._capture, self._name, self._fps, self._stop = capture, name, fps, stop
        self._own_rate = find_rate(capture)
        self.rate = min(self._own_rate, fps or math.inf)
        stated = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._stated = int(stated) if 0 < stated < 1e12 else 0
        self.count = math.ceil(self._stated * self.rate / self._own_rate)
        self._read = self._broken = 0

    def __iter__(self) -> Iterator[Frame]:
        number, failures, due = 0, 0, 0.0
        while not self._stop():
            grabbed = self._capture.grab()
            seconds = self._find_time(number) if grabbed else 0
            looks = grabbed and seconds >= due - 1e-6
            whole, image = self._capture.retrieve() if looks else (grabbed, None)
            if not whole:
                failures += 1
                limit = self._stated or number + MAX_FAILURES
                if number + failures > limit or failures > limit:
                    break
                continue
            # A broken frame counts, too: what follows keeps its number.
            number, failures, lost = number + failures, 0, failures
            self._broken += lost
            self._read += 1
            if image is not None:
                due = self._find_due(seconds)
                yield Frame(number, image, seconds)
            number += 1
        else:
            return
        missing = self._stated - number
        if missing > max(2, self._stated / 100):  # what is stated may be an estimate
            self._broken += missing
        if not self._read:
            raise ImageError(f'{self._name}: the file is no video that OpenCV reads')

    def _find_time(self, number: int) -> float:
        stated = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return stated if stated > 0 else number / self._own_rate

    def _find_due(self, seconds: float) -> float:
        """When the next frame is due: the ones that are given lie on a grid of time."""
        if not self._fps:
            return 0.0
        return (math.floor(seconds * self._fps + 1e-6) + 1) / self._fps

    def summarize(self) -> dict[str, int]:
        return {'frames': self._read, 'broken': self._broken}

    def close(self) -> None:
        self._capture.release()


class LiveFrames:
    """The newest frames of a webcam or stream: a thread reads, and late ones go.

    Args:
        capture: It is open.
        stream: What it reads.
        fps: So many frames a second are given at most, by the clock.
        reconnect: How many tries in a row to connect again, where it is lost.
        stop: Asked while a frame is waited for.
        tell: Gets what happens, in lines.
    """

    live = True
    count = 0

    def __init__(
        self,
        capture: cv2.VideoCapture,
        stream: Stream,
        fps: float | None = None,
        reconnect: int = RECONNECT,
        stop: Stop = go_on,
        tell: Tell = tell_on_stderr,
    ) -> None:
        self.rate = min(find_rate(capture), fps or math.inf)
        self.lost = ''
        self._stream, self._fps, self._stop, self._tell = stream, fps, stop, tell
        self._reconnect = reconnect
        self._closed, self._changed = threading.Event(), threading.Condition()
        self._newest: Frame | None = None
        self._ended = False
        self._read = self._left_out = self._dropped = self._connections = 0
        # What waits for a dead camera must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, args=[capture], daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        while not self._stop():
            with self._changed:
                if self._newest is None and not self._ended:
                    self._changed.wait(GLANCE)
                frame, self._newest = self._newest, None
                if frame is None and self._ended:
                    return
            if frame is not None:
                yield frame

    def _run(self, capture: cv2.VideoCapture) -> None:
        try:
            tries = 0
            while True:
                if self._read_on(capture):
                    tries = 0
                capture.release()
                if self._closed.is_set() or not self._reconnect:
                    return
                if tries == self._reconnect:
                    self.lost = (
                        f'{self._stream} was lost after {self._read} frames, and '
                        f'{tries} tries to connect again failed (--reconnect)'
                    )
                    return
                tries += 1
                self._tell(
                    f'{self._stream} gives no frames: try {tries} of '
                    f'{self._reconnect} to connect again'
                )
                if self._closed.wait(min(2.0 ** (tries - 2), MAX_WAIT)):
                    return
                capture = open_capture(self._stream.address)
                self._connections += capture.isOpened()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _read_on(self, capture: cv2.VideoCapture) -> bool:
        """Reads until nothing more comes; whether anything did."""
        due, any_read = 0.0, False
        while not self._closed.is_set() and capture.grab():
            any_read = True
            now = time.monotonic()
            number, self._read = self._read, self._read + 1
            if now < due:
                self._left_out += 1
                continue
            whole, image = capture.retrieve()
            if not whole:
                continue
            if self._fps:  # a grid of time, which begins anew after a pause
                late = now - due
                due = now - (late if late < 1 / self._fps else 0) + 1 / self._fps
            with self._changed:
                self._dropped += self._newest is not None
                self._newest = Frame(number, image, time.time())
                self._changed.notify_all()
        return any_read

    def summarize(self) -> dict[str, int]:
        return {
            'frames': self._read,
            'dropped': self._dropped,
            'left_out': self._left_out,
            'reconnected': self._connections,
        }

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=1)


def find_rate(capture: cv2.VideoCapture) -> float:
    """Frames a second, `USUAL_RATE` where none are said that are possible."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate <= MAX_RATE else USUAL_RATE


def open_frames(
    source: Source,
    fps: float | None = None,
    reconnect: int = RECONNECT,
    stop: Stop = go_on,
    tell: Tell = tell_on_stderr,
) -> Frames:
    """The frames of a video file, a webcam or an address.

    An address may be that of a video that has an end: it is read as a file is.

    Args:
        source: Video or stream.
        fps: So many frames a second are given at most; all if ``None``.
        reconnect: As of :class:`LiveFrames`.
        stop: Asked again and again; once it is true there are no more frames.
        tell: As of :class:`LiveFrames`.

    Raises:
        ImageError: It is a FIFO or a device, or cannot be opened.
    """
    if isinstance(source, Stream):
        capture = open_capture(source.address)
        if not capture.isOpened():
            raise ImageError(explain_unopened(source))
        if capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
            return VideoFrames(capture, str(source), fps, stop)
        return LiveFrames(capture, source, fps, reconnect, stop, tell)
    try:
        is_plain = stat.S_ISREG(os.stat(source).st_mode)
    except OSError as error:
        raise ImageError(f'{source} cannot be read: {error.strerror}') from error
    if not is_plain:  # reading a FIFO or a device may not end
        raise ImageError(f'{source} cannot be read: it is no regular file')
    return VideoFrames(open_capture(str(source)), str(source), fps, stop)


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


def until(stop: Stop, items: Iterable[Item]) -> Iterator[Item]:
    """The items, as long as nobody asks to stop."""
    for item in items:
        if stop():
            return
        yield item
