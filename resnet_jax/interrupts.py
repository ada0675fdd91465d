"""Interrupts: Ctrl-C and the system's request to end, noticed between dispatches of training and evaluation alike."""

import signal
from types import FrameType
from typing import NoReturn


class Interrupted(Exception):
    """The run was asked to stop, and has saved what it had.

    Attributes:
      signal: the signal's number.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


class Interrupts:
    """Remembers a SIGINT or SIGTERM while it is entered; a second SIGINT ends the process as it always does."""

    def __init__(self):
        self._number = 0
        self._previous = {}

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @property
    def requested(self) -> bool:
        """Whether the run was asked to stop."""
        return bool(self._number)

    def stop(self, where: str) -> NoReturn:
        """Raise Interrupted, saying where the run stopped."""
        raise Interrupted(f"Stopped {where}; the same command goes on from there.", self._number)
