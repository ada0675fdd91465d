"""Checksums: a list of the files of a folder, by which damage to any of them is noticed.

The list is what `sha256sum` writes: `cd FOLDER && sha256sum --check SHA256SUMS` reads it too.
"""

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from resnet_jax.run.reading import read_file

LIST = "SHA256SUMS"
LONGEST_LIST = 2**26  # bytes


def write_checksums(folder: Path, unlisted: Collection[str] = ()) -> None:
    """Write the list of the files below `folder`; `unlisted` names files that may come, change and go."""
    lines = [f"{sha256(file)}  {name}\n" for name, file in sorted(files(folder).items()) if name not in unlisted]
    (folder / LIST).write_text("".join(lines))


def damage(folder: Path, unlisted: Collection[str] = ()) -> str | None:
    """Return what is wrong with a folder, in a few words, or None if its files are those of its list."""
    try:
        found = files(folder)
        if strange := sorted(name for name, path in found.items() if not path.is_file()):
            return f"{strange[0]} is not a regular file"
        if (text := found.pop(LIST, None)) is None:
            return f"{LIST} is missing"
        listing = read_file(text, LONGEST_LIST).decode()
        lines = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in listing.splitlines()]
        listed = {line[2]: line[1] for line in lines if line}
        if None in lines:
            return f"{LIST} is damaged"
        names = found.keys() - unlisted
        if left := sorted(listed.keys() ^ names):
            return f"{left[0]} is {'not listed' if left[0] in names else 'missing'}"
        return next((f"{name} has changed" for name in sorted(names) if sha256(found[name]) != listed[name]), None)
    except (OSError, UnicodeDecodeError) as error:
        return str(error)


def files(folder: Path) -> dict[str, Path]:
    """Return what is below a folder by its relative name: files of any kind, and links to folders."""
    below = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return {str(path.relative_to(folder)): path for path in below}


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
