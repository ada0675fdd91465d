"""Packed examples, as `python -m resnet_jax pack` writes them: shards of encoded images or of pixels, and an index."""

import bisect
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Int32

from resnet_jax.data.sources.dataset import Dataset
from resnet_jax.errors import DataError
from resnet_jax.run.reading import read_file

INDEX = "index.json"
FORMAT = 1  # of the index and of all that it names
MOST_OF_AN_INDEX = 2**30  # bytes, with a million broken images in it


@dataclasses.dataclass(frozen=True)
class Shard:
    """What ArrayRecord must know of a file so that it does not open it before it is read."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        """All of them."""
        return self.take


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """What both kinds of shards have: labels and names, which are mapped into memory and not read as a whole."""

    folder: pathlib.Path
    split: str
    files: tuple[str, ...]
    counts: tuple[int, ...]

    def __reduce__(self):
        # What is open stays here: worker processes open their own.
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    @functools.cached_property
    def labels(self) -> Int32[np.ndarray, " examples"]:
        """The label of every example. Raises DataError unless there is one for each."""
        return load(self.folder / f"{self.split}-labels.npy", (sum(self.counts),), np.int32)

    def __len__(self) -> int:
        return len(self.labels) if self.counts else 0

    def name(self, index: int) -> str:
        """The name that the example had where it was packed from."""
        names = load(self.folder / f"{self.split}-names.npy", (sum(self.counts),), np.bytes_)
        return os.fsdecode(bytes(names[index]))


class Encoded(Packed):
    """A split whose examples are image files, in shards of ArrayRecord."""

    @functools.cached_property
    def shards(self) -> ArrayRecordDataSource:
        """The joined shards; each is opened when it is first read, and stays open."""
        shards = [Shard(str(self.folder / file), count) for file, count in zip(self.files, self.counts, strict=True)]
        return ArrayRecordDataSource(cast(Any, shards))  # a FileInstruction by its attributes

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        try:
            return self.shards[index], int(self.labels[index])
        except Exception as error:  # ArrayRecord raises what its C++ library says
            raise DataError(
                f"{self.folder} is damaged where {self.split} example {index} is ({error}): pack it again."
            ) from error


class Raw(Packed):
    """A split whose examples are pixels, in shards that are arrays of (examples, size, size, 3).

    They are NumPy's files and not ArrayRecord's because these can be mapped into memory: a crop then reads the pages
    that it needs, and nothing is copied.
    """

    @functools.cached_property
    def shards(self) -> list[np.ndarray]:
        """The mapped shards."""
        shapes = [(count, None, None, 3) for count in self.counts]
        return [load(self.folder / file, shape, np.uint8) for file, shape in zip(self.files, shapes, strict=True)]

    @functools.cached_property
    def ends(self) -> list[int]:
        """One past the last example of each shard."""
        return list(itertools.accumulate(self.counts))

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        shard = bisect.bisect_right(self.ends, index)
        first = self.ends[shard] - self.counts[shard]
        return self.shards[shard][index - first], int(self.labels[index])


def load(file: pathlib.Path, shape: tuple[int | None, ...], kind: type) -> np.ndarray:
    """Map an array's file into memory.

    Raises DataError if it is missing or damaged, or of another shape, in which None is any side, or another type.
    """
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, OverflowError) as error:
        raise DataError(f"{file} cannot be read ({error}): pack the data again.") from error
    fits = isinstance(array, np.ndarray) and len(array.shape) == len(shape) and np.issubdtype(array.dtype, kind)
    if not fits or any(side not in (None, found) for side, found in zip(shape, array.shape, strict=True)):
        raise DataError(f"{file} holds another array than the index says: copy it again, or pack the data again.")
    return np.asarray(array)  # an array of NumPy's own kind is several times faster to index


def open_records(path: str | None) -> Dataset:
    """Opens a folder that `python -m resnet_jax pack` wrote, after a look at the size of every file.

    Raises:
      DataError: it has not been packed, or not to the end, or a file is missing or of another size.
    """
    if not path:
        raise DataError("The source records reads a packed folder: set data.path to it.")
    folder = pathlib.Path(path).expanduser()
    index = read_index(folder)
    kind = Raw if index["form"]["pixels"] else Encoded

    for file in files_of(index):
        check_size(folder / file["file"], file["bytes"])

    def split(name: str) -> Raw | Encoded:
        shards = index["splits"].get(name, {"shards": []})["shards"]  # without train, it can only be evaluated on
        return kind(
            folder, name, tuple(shard["file"] for shard in shards), tuple(shard["examples"] for shard in shards)
        )

    classes, mean, std = (tuple(index[key]) for key in ("classes", "mean", "std"))
    places = f"{folder}, split train", f"{folder}, split test"
    return Dataset(split("train"), split("test"), classes, mean, std, places)


def read_index(folder: pathlib.Path) -> dict:
    """Return the index of a packed folder. Raises DataError if there is none that this version reads."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}: set data.path to one that `python -m resnet_jax pack` wrote.")
    try:
        index = json.loads(read_file(folder / INDEX, MOST_OF_AN_INDEX))
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} has no {INDEX}: it is not packed, or not to the end; the `python -m resnet_jax pack` that began "
            "it resumes where it was stopped."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{folder / INDEX} cannot be read ({error}): pack the data again.") from error
    if isinstance(index, dict) and index.get("format") not in (None, FORMAT):
        raise DataError(f"{folder} has format {index['format']!a} and this version reads {FORMAT}: pack it again.")
    if not is_sound(index):
        raise DataError(f"{folder / INDEX} is damaged: copy it again, or pack the data again.")
    return index


def is_sound(index: Any) -> bool:
    """Return whether an index is such as `pack` writes, and names no file outside of its folder."""
    try:
        shards = [shard for split in index["splits"].values() for shard in split["shards"]]
        return (
            index["format"] == FORMAT
            and {"test"} <= index["splits"].keys() <= {"train", "test"}
            and type(index["form"]["pixels"]) is bool
            and all(type(shard["examples"]) is int and shard["examples"] > 0 for shard in shards)
            and all(type(file["bytes"]) is int and type(file["sha256"]) is str for file in files_of(index))
            and all(pathlib.PurePosixPath(file["file"]).name == file["file"] != ".." for file in files_of(index))
            and all(type(name) is str for name in index["classes"])
            and all(type(value) in (int, float) for key in ("mean", "std") for value in index[key])
        )
    except (LookupError, TypeError, AttributeError):
        return False


def files_of(index: dict) -> list[dict]:
    """Return each file of a packed folder, shards first: its "file", "bytes" and "sha256"."""
    return [file for kind in ("shards", "tables") for split in index["splits"].values() for file in split.get(kind, [])]


def verify(folder: pathlib.Path, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Read a packed folder once more, and return how many files it has; `progress` gets the bytes done and in all.

    Raises DataError, which names them, if files are missing or not what was packed.
    """
    files = files_of(read_index(folder))
    done, total, damaged = 0, sum(file["bytes"] for file in files), []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for file, reason in zip(files, pool.map(functools.partial(damage, folder), files), strict=True):
            damaged += [f"{file['file']} {reason}"] if reason else []
            done += file["bytes"]
            progress(done, total)
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise DataError(
            f"{folder} is damaged in {len(damaged)} of its {len(files)} files ({', '.join(damaged[:3])}{more}): copy "
            "them again, or pack the data again."
        )
    return len(files)


def damage(folder: pathlib.Path, file: dict) -> str | None:
    """Return what is wrong with a packed file, in a few words, or None if it is what was packed."""
    try:
        with open(folder / file["file"], "rb") as stream:
            same = hashlib.file_digest(stream, "sha256").hexdigest() == file["sha256"]
        return None if same else "has changed"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def check_size(file: pathlib.Path, size: int) -> None:
    """Raise DataError unless a file is there and has its size in bytes."""
    found = file.stat().st_size if file.is_file() else None
    if found != size:
        has = "is missing" if found is None else f"has {found} bytes"
        raise DataError(f"{file} {has} and should have {size}: copy it again, or pack the data again.")
