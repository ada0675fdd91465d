"""Reading files that somebody else may have made: regular ones alone, and no more than what they may hold."""

import errno
import os
import stat

MOST_OF_AN_IMAGE = 2**30  # bytes


def read_file(path: str | bytes | os.PathLike, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    A pipe, a device or a socket, which could make the reader wait or read for ever, is refused before it is read.

    Raises OSError.
    """
    with open(path, "rb", opener=open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        content = file.read(min(status.st_size, most) + 1)
        if len(content) > status.st_size:  # it grows, or is one of the kernel's, whose size is 0
            content += file.read(most + 1 - len(content))
        if len(content) > most:
            raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
        return content


def open_without_waiting(path: str, flags: int) -> int:
    """Open a file; of a pipe, do not wait until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)
