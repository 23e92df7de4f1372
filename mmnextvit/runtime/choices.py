"""What can be chosen of sources, and of what is written of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from .errors import OptionError
from .frames import MAX_RATE, RECONNECT
from .sources import Source, is_video
from .tracking import import_trackers

MOST_AT_ONCE = 1024  # images, which are all in memory


@dataclass(frozen=True)
class Choices:
    """How sources are read, and what is written of them besides JSON.

    Args:
        fps: So many frames a second are looked at, at most; all if ``None``.
        reconnect: How many tries in a row there are to connect again to a stream.
        batch: How many images or frames go through the network at once. The frames of
            live sources go one by one, since the next one would have to be waited for.
        track: Whether objects keep a number from frame to frame.
        no_draw: Whether nothing is drawn.
        save_video: Whether streams are drawn, too, and videos keep what was drawn of
            them before an interrupt.
        save_crops: Whether each object gets a file of its own.

    Raises:
        OptionError: A value cannot be, or two contradict each other.
    """

    fps: float | None = None
    reconnect: int = RECONNECT
    batch: int = 1
    track: bool = False
    no_draw: bool = False
    save_video: bool = False
    save_crops: bool = False

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps <= MAX_RATE:
            raise OptionError(
                f'--fps {self.fps:g} is not above 0 and up to {MAX_RATE}, in frames '
                'a second'
            )
        if self.reconnect < 0:
            raise OptionError(f'--reconnect {self.reconnect} is not a number from 0 on')
        if not 0 < self.batch <= MOST_AT_ONCE:
            raise OptionError(
                f'--batch {self.batch} is not a whole number from 1 to {MOST_AT_ONCE}'
            )
        if self.save_video and self.no_draw:
            raise OptionError(
                '--save-video writes what is drawn, and --no-draw draws nothing: leave '
                'one out'
            )

    def check(self, sources: Iterable[Source]) -> None:
        """Refuses what the sources cannot give, before any is read.

        Raises:
            OptionError: It is about frames, and the sources are images.
            ImportError: The package that tracks is not installed.
        """
        if not any(map(is_video, sources)):
            given = {
                '--track': self.track,
                '--fps': self.fps,
                '--save-video': self.save_video,
            }
            for option in (name for name, value in given.items() if value):
                raise OptionError(
                    f'{option} is about videos, webcams and streams, and these are '
                    'images only: leave it out'
                )
        if self.track:
            import_trackers()


def read_choices(values: Mapping[str, Any]) -> Choices:
    """The choices among the values of a command's options.

    Raises:
        OptionError: As of :class:`Choices`.
    """
    return Choices(**{field.name: values[field.name] for field in fields(Choices)})
