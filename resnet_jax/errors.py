"""The errors that are the user's to mend: one plain sentence each, on what is wrong and what to do."""

import contextlib
import difflib
import functools
import importlib
from collections.abc import Iterable, Iterator
from typing import Any

from resnet_jax.printable import printable

# Libraries that the base install does without, and the extra that brings each.
EXTRAS = {"cv2": "data", "simplejpeg": "data", "tensorflow_datasets": "data", "matplotlib": "lab"}

LONGEST = 2000  # characters of a message


class UserError(Exception):
    """What the user can mend: `main.py` prints it without a traceback and exits with 2.

    Names in the message may come from anywhere: the message is made printable.
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(message, LONGEST))


class ConfigError(UserError):
    """A field, a value or a combination of values that the project cannot run."""


class MissingLibrary(UserError):
    """A library that an extra of the distribution installs."""


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


@functools.cache
def library(name: str) -> Any:
    """Return a library of `EXTRAS`, imported. Raises MissingLibrary, which says what to install."""
    with named_extra():
        return importlib.import_module(name)


@contextlib.contextmanager
def named_extra() -> Iterator[None]:
    """Turn the failed import of a library of `EXTRAS` into a MissingLibrary."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRAS:
            raise
        raise MissingLibrary(f"{name} is not installed: pip install 'resnet-flax[{EXTRAS[name]}]'.") from error
