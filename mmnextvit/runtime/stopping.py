"""Stopping by a key: in a window, or on the terminal."""

import os
import sys
from typing import IO

import cv2
import numpy as np

from .errors import OptionError

STOP_KEYS = (ord('q'), ord('Q'), 27)  # 27 is Esc
TITLE = 'mmnextvit'


class Stopping:
    """Whether somebody asks to stop: Enter or q and Enter on the terminal, q or Esc.

    Args:
        terminal: What is typed into; ``None`` if nothing is, or not by a person.

    Attributes:
        asked: Whether somebody has.
    """

    def __init__(self, terminal: IO | None = None) -> None:
        self._terminal = terminal
        self.asked = False

    def __call__(self) -> bool:
        """Whether to stop, now or already before."""
        if not self.asked and self._terminal is not None:
            self.asked = has_line(self._terminal)
        return self.asked


def find_terminal(is_used: bool = False) -> IO | None:
    """Standard input, if a person can type there.

    Args:
        is_used: Whether it is read as a list of images.
    """
    try:
        return sys.stdin if not is_used and sys.stdin.isatty() else None
    except (AttributeError, ValueError):  # it is closed, or there is none
        return None


def has_line(terminal: IO) -> bool:
    """Takes what was typed; whether a line of it is empty, or q."""
    if os.name == 'nt':
        from importlib import import_module

        keys = import_module('msvcrt')
        return keys.kbhit() and keys.getwch() in '\r\nqQ'
    from select import select

    try:
        descriptor = terminal.fileno()
        if os.tcgetpgrp(descriptor) != os.getpgrp():
            return False  # reading there would suspend a process in the background
        if not select([descriptor], [], [], 0)[0]:
            return False
        typed = os.read(descriptor, 1024)
    except (OSError, ValueError):  # the terminal has gone
        return False
    return any(line.strip().lower() in (b'', b'q') for line in typed.splitlines())


class Window:
    """Shows images, if it is asked for; q or Esc in it asks to stop.

    Args:
        stopping: Is told.

    Raises:
        OptionError: OpenCV has no windows here.
    """

    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping
        on_linux = sys.platform.startswith('linux')
        if on_linux and not {'DISPLAY', 'WAYLAND_DISPLAY'} & os.environ.keys():
            raise OptionError('--show: there is no screen here (DISPLAY is not set)')
        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise OptionError(
                '--show: this OpenCV has no windows: pip install opencv-python in the '
                'place of opencv-python-headless'
            ) from error

    def show(self, image: np.ndarray) -> None:
        """Shows an image (H, W, 3), BGR, uint8."""
        cv2.imshow(TITLE, image)
        if cv2.waitKey(1) & 0xFF in STOP_KEYS:
            self._stopping.asked = True

    def close(self) -> None:
        cv2.destroyWindow(TITLE)
