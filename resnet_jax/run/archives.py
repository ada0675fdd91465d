"""Folders of records kept as one file each: FOLDER.zip, whose files are read as `FOLDER.zip/seed0/config.json`."""

import errno
import functools
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.errors import UserError
from resnet_jax.run.reading import read_file

SUFFIX = ".zip"
MOST_BYTES = 2**28  # of an archive, and of all its files together
MOST_FILES = 20_000
ENTRY = b"PK\1\2"  # begins each entry of a ZIP file's table of contents
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first time that a ZIP file can hold
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, OverflowError, EOFError, RuntimeError, OSError)

Tree = dict[str, Any]  # files as bytes, and folders, by their names


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of files by their names below the folder, such as `seed0/config.json`.

    Equal files give equal bytes where zlib is the same.

    Raises UserError: they are more than `read_archive` reads.
    """
    if len(files) > MOST_FILES or sum(map(len, files.values())) > MOST_BYTES:
        raise UserError(f"an archive holds at most {MOST_FILES:,} files and {MOST_BYTES:,} bytes: pack fewer runs.")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, EARLIEST)
            info.create_system, info.external_attr = 3, 0o644 << 16  # Unix, and what its owner may write
            archive.writestr(info, files[name], zipfile.ZIP_DEFLATED, compresslevel=9)
    return content.getvalue()


def read_archive(path: Path) -> dict[str, bytes]:
    """Return the files in an archive by their names. It is read as a whole, and nothing is written.

    Raises UserError: it cannot be read, is damaged, or claims more than `MOST_FILES` files or `MOST_BYTES` bytes.
    """
    try:
        raw = read_file(path, MOST_BYTES)
        if raw.count(ENTRY) > MOST_FILES:
            raise ValueError(f"it has more than {MOST_FILES:,} files")
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            if sum(info.file_size for info in infos) > MOST_BYTES:
                raise ValueError(f"its files have more than {MOST_BYTES:,} bytes")
            return {_sound_name(info.filename): _content(archive, info) for info in infos}
    except DAMAGE as error:
        raise UserError(f"{path} cannot be read ({str(error) or 'it is cut'}): restore it, or leave it out.") from error


def read_stored(path: str | os.PathLike, most: int) -> bytes:
    """Return the content of a file of at most `most` bytes, in a folder or in an archive.

    Raises OSError, and UserError where the archive is damaged.
    """
    stored = _stored(Path(path))
    if stored is None:
        return read_file(path, most)
    if not isinstance(stored, bytes):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if len(stored) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return stored


def listed(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of what a folder or archive holds: folders and archives, and files; none where it is unreadable.

    Raises UserError: the archive is damaged.
    """
    stored = _stored(folder)
    if stored is None:
        try:
            inside = {entry.name: is_folder(Path(entry.path)) for entry in os.scandir(folder)}
        except OSError:
            inside = {}
    else:
        inside = {name: isinstance(each, dict) for name, each in stored.items()} if isinstance(stored, dict) else {}
    names = sorted(inside, key=lambda name: name.removesuffix(SUFFIX))
    return [name for name in names if inside[name]], [name for name in names if not inside[name]]


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, an archive, or a folder in one."""
    if path.is_dir() or _archive_of(path) == path:
        return True
    stored = _stored(path)
    return isinstance(stored, dict) and stored != {}


def shown(path: Path) -> Path:
    """Return a path without the suffix of archives: that of the folder which was packed."""
    archive = _archive_of(path)
    return path if archive is None else archive.with_suffix("") / path.relative_to(archive)


def _archive_of(path: Path) -> Path | None:
    """The archive that a path names or leads into."""
    return next((each for each in reversed((path, *path.parents)) if each.suffix == SUFFIX and each.is_file()), None)


def _stored(path: Path) -> Tree | bytes | None:
    """What an archive holds at a path, an empty folder where that is nothing; None where no archive is on the path."""
    archive = _archive_of(path)
    if archive is None:
        return None
    status = archive.stat()
    found: Any = _tree(archive, status.st_mtime_ns, status.st_size)
    for part in path.relative_to(archive).parts:
        found = found.get(part, {}) if isinstance(found, dict) else {}
    return found


@functools.lru_cache(maxsize=1)
def _tree(archive: Path, modified: int, size: int) -> Tree:
    """The files of an archive by folders; `modified` and `size` tell another archive at the same path."""
    tree: Tree = {}
    for name, content in read_archive(archive).items():
        *folders, file = name.split("/")
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
            if not isinstance(here, dict):
                break
        if not isinstance(here, dict) or file in here:
            raise UserError(f"{archive} holds two files in the place of {name}: restore it, or leave it out.")
        here[file] = content
    return tree


def _sound_name(name: str) -> str:
    if {"", ".", ".."} & set(name.split("/")):
        raise ValueError(f"{name} is no name of a file in a folder")
    return name


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A file's content; no more is decompressed than the size that it claims, and it is checked by its CRC."""
    if info.compress_type not in METHODS:
        raise ValueError(f"{info.filename} is compressed by an unknown method")
    with archive.open(info) as file:
        content = file.read(info.file_size)
    if len(content) != info.file_size:
        raise ValueError(f"{info.filename} is cut")
    return content
