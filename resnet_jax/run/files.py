"""Files that are whole or not there, and errors of the disk in sentences."""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from resnet_jax.errors import UserError
from resnet_jax.run.archives import read_stored
from resnet_jax.run.interrupts import uninterrupted

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT}
_REFUSED |= {errno.ELOOP, errno.ENXIO}
MOST_OF_JSON = 2**26  # bytes of a JSON file


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file so that whoever reads it, at any time, finds the whole old one or the whole new one.

    Raises:
        UserError: The disk is full, or the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with uninterrupted, disk_errors(path):
        try:
            with open_own(partial, os.O_WRONLY | os.O_TRUNC) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def open_own(path: Path, flags: int) -> BinaryIO:
    """Opens a file to write, which is made where it is missing. A link to another file is refused, not followed."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    return os.fdopen(descriptor, "wb" if flags & os.O_WRONLY else "r+b")


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns a full disk or a refused write to `path` into a sentence for the user.

    Raises:
        UserError: In place of the OSErrors that are the user's to mend; other errors pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"{path} could not be written because the disk is full: make space, then start the run again with the "
                "same command."
            ) from error
        if error.errno in _REFUSED:
            raise UserError(
                f"{path} cannot be written ({os.strerror(error.errno)}): choose another folder, or make this one "
                "one that you may write to."
            ) from error
        raise


def read_json(path: Path) -> Any | None:
    """What a JSON file says, in a folder or in an archive, or None if it cannot be read."""
    try:
        return json.loads(read_stored(path, MOST_OF_JSON))
    except (OSError, ValueError, RecursionError):
        return None
