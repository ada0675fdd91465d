"""Interrupts: Ctrl-C and the system's request to end.

While nothing is to be saved, during start, compilation and a bare evaluation, they do what they do to any program: it
ends at once, even within the compiler, which keeps Python's own handlers waiting. From the first step on they are
noticed between dispatches of training and evaluation alike.
"""

import signal
from types import FrameType
from typing import NoReturn

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """The run was asked to stop, and has saved what it had.

    Attributes:
      signal: the signal's number.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


class Interrupts:
    """Remembers a SIGINT or SIGTERM between `hold` and the end of the `with` block; a second SIGINT ends the process.

    On many hosts a signal to any of them asks all: JAX's preemption service, which has its own handler for SIGTERM,
    lets all of them hear of it at the same look.
    """

    def __init__(self):
        self._number = 0
        self._previous = {}
        self._looks = 0

    def __enter__(self) -> "Interrupts":
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def hold(self) -> None:
        """From here on there is something to save."""
        for number in (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGINT, signal.SIGTERM):
            if number not in self._previous:
                self._previous[number] = signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if jax.process_count() > 1:
            signal.raise_signal(signal.SIGTERM)
        else:
            self._number = number

    @property
    def requested(self) -> bool:
        """Whether the run was asked to stop. All hosts look equally often, and get the same answer."""
        if jax.process_count() > 1 and not self._number:
            self._looks += 1
            if multihost_utils.reached_preemption_sync_point(self._looks):
                self._number = signal.SIGTERM
        return bool(self._number)

    def stop(self, where: str) -> NoReturn:
        """Raise Interrupted, saying where the run stopped."""
        raise Interrupted(f"Stopped {where}; the same command goes on from there.", self._number)
