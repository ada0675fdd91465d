"""The errors that are the user's to mend: one plain sentence each, on what is wrong and what to do."""

import difflib
from collections.abc import Iterable

from resnet_jax.printable import printable

LONGEST = 2000  # characters of a message


class UserError(Exception):
    """What the user can mend: `main.py` prints it without a traceback and exits with 2.

    Names in the message may come from anywhere: the message is made printable.
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(message, LONGEST))


class ConfigError(UserError):
    """A field, a value or a combination of values that the project cannot run."""


class InUse(ConfigError):
    """The folder of a run is in use by another process."""


class DataError(UserError):
    """Examples that are missing, damaged or not of the promised kind."""


class CheckpointError(UserError):
    """Checkpoints that cannot be written, read or used for this run."""


class Diverged(Exception):
    """Training met NaN or infinite values: the run stops, and its last good checkpoint stays.

    Attributes:
      step: at which, counted from 1; None where only an evaluation has seen it.
    """

    def __init__(self, message: str, step: int | None = None):
        super().__init__(message)
        self.step = step


def nearest(word: str, words: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the closest of `words`, or nothing where none is close."""
    close = difflib.get_close_matches(word, list(words), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
