"""Interrupts: Ctrl-C and the system's request to end, SIGINT and SIGTERM.

A command blocks both signals in all of its threads, and one thread waits for them (`watch`). So a signal is noticed at
once, even while XLA compiles, which keeps Python's own handlers waiting; and the processes that a command starts
inherit the block, so that a signal to the whole process group, as a terminal and most schedulers send it, stops the
command and leaves the stopping of its workers to it.

While there is nothing to save, the command ends at once with a sentence. From `Interrupts.hold` on a signal is
remembered, and noticed between dispatches of training and evaluation alike. A second signal ends the process.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# `timeout` and some schedulers send one request twice, to the process and to its group: what follows within this time
# is no second request.
REPEAT_SECONDS = 1.0
PATIENCE_SECONDS = 5.0  # for a file that is being written, and for output that nobody reads

uninterrupted = threading.RLock()  # held where the process must not end: while it writes a file, or starts others

_state = threading.Lock()
_watched = False  # whether a thread waits for the signals
_joined = False  # whether this is one of many hosts, which stop together
_holder = None  # the Interrupts that has something to save


class Interrupted(Exception):
    """The run was asked to stop, and has saved what it had.

    Attributes:
      signal: the signal's number.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number


def watch() -> None:
    """Take over SIGINT and SIGTERM for the rest of the process: the first thing that a command does."""
    global _watched
    _watched = True
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_wait, name="signals", daemon=True).start()


def join_hosts() -> None:
    """From here on this is one of many hosts, and JAX's preemption service has its own handler of SIGTERM."""
    global _joined
    _joined = True


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Start processes in this block, and they ignore SIGINT and SIGTERM to the process group."""
    with uninterrupted:  # a process that is given half of what it needs would say so
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        resource_tracker.ensure_running()  # which unblocks both signals as it starts its process
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Interrupts:
    """Remembers a SIGINT or SIGTERM between `hold` and the end of the `with` block.

    On many hosts a signal to any of them stops all: JAX's preemption service, which has its own handler for SIGTERM,
    lets all of them notice it at the same step. Outside of a command, as in a notebook, handlers take the place of the
    thread that `watch` starts.
    """

    def __init__(self):
        self._number = 0
        self._previous = {}
        self._looks = 0

    def __enter__(self) -> "Interrupts":
        return self

    def __exit__(self, *exception) -> None:
        global _holder
        with _state:
            _holder = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def hold(self) -> None:
        """From here on there is something to save."""
        global _holder
        with _state:
            _holder = self
        if not _watched and not self._previous:
            for number in SIGNALS[: 1 if _joined else 2]:
                self._previous[number] = signal.signal(number, self._handle)

    def remember(self, number: int) -> None:
        """Note that the run was asked to stop."""
        self._number = number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if _joined:
            signal.raise_signal(signal.SIGTERM)
        else:
            self.remember(number)

    @property
    def requested(self) -> bool:
        """Whether the run was asked to stop. All hosts look equally often, and get the same answer."""
        if _joined and not self._number:
            from jax.experimental import multihost_utils  # takes seconds to import: a signal is watched for before

            self._looks += 1
            if multihost_utils.reached_preemption_sync_point(self._looks):
                self._number = signal.SIGTERM
        return bool(self._number)

    def stop(self, where: str) -> NoReturn:
        """Raise Interrupted, saying where the run stopped."""
        raise Interrupted(f"Stopped {where}; the same command resumes there.", self._number)


def _wait() -> None:
    """Wait for a first signal and act on it; a second one is left to the system, which ends the process."""
    number = signal.sigwait(SIGNALS)
    with _state:
        if _holder is None and not (_joined and number == signal.SIGTERM):
            end(number)
        if not _joined and _holder is not None:
            _holder.remember(number)
    if not _joined:
        time.sleep(REPEAT_SECONDS)
        while signal.sigpending() & set(SIGNALS):
            signal.sigwait(SIGNALS)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if _joined:
        signal.raise_signal(signal.SIGTERM)  # to JAX's handler, in this thread
    while True:  # the only thread that signals can reach
        signal.pause()


def end(number: int) -> NoReturn:
    """End the process, which has nothing to save, with a sentence."""
    uninterrupted.acquire(timeout=PATIENCE_SECONDS)
    for process in multiprocessing.active_children():
        process.kill()
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # a progress bar hides the cursor
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    flush.start()
    flush.join(PATIENCE_SECONDS)
    with contextlib.suppress(OSError):
        errors, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        for output in (1, 2):  # the thread of a progress bar would write on
            os.dup2(nowhere, output)
        os.write(errors, b"Stopped before there was anything to save: start the same command again.\n")
    os._exit(128 + number)
