"""Packed examples, as `python -m resnet_jax pack` writes them: shards of encoded images or of pixels, and an index."""

import bisect
import dataclasses
import functools
import itertools
import json
import os
import pathlib

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Int32

from resnet_jax.data.sources.dataset import Dataset
from resnet_jax.errors import DataError

INDEX = "index.json"
FORMAT = 1  # of the index and of all that it names


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
        """The label of every example."""
        return load(self.folder / f"{self.split}-labels.npy")

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The name that the example had where it was packed from."""
        return os.fsdecode(bytes(load(self.folder / f"{self.split}-names.npy")[index]))


class Encoded(Packed):
    """A split whose examples are image files, in shards of ArrayRecord."""

    @functools.cached_property
    def shards(self) -> ArrayRecordDataSource:
        """The joined shards; each is opened when it is first read, and stays open."""
        return ArrayRecordDataSource(
            [Shard(str(self.folder / file), count) for file, count in zip(self.files, self.counts, strict=True)]
        )

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
        return [load(self.folder / file) for file in self.files]

    @functools.cached_property
    def ends(self) -> list[int]:
        """One past the last example of each shard."""
        return list(itertools.accumulate(self.counts))

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        shard = bisect.bisect_right(self.ends, index)
        first = self.ends[shard] - self.counts[shard]
        return np.asarray(self.shards[shard][index - first]), int(self.labels[index])


def load(file: pathlib.Path) -> Int32[np.ndarray, " examples"] | np.ndarray:
    """Map an array's file into memory. Raises DataError if it is missing or damaged."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} cannot be read ({error}): pack the data again.") from error


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

    def split(name: str) -> Packed:
        shards = index["splits"][name]["shards"]
        for shard in shards:
            check_size(folder / shard["file"], shard["bytes"])
        return kind(folder, name, *(tuple(shard[key] for shard in shards) for key in ("file", "examples")))

    return Dataset(split("train"), split("test"), *(tuple(index[key]) for key in ("classes", "mean", "std")))


def read_index(folder: pathlib.Path) -> dict:
    """Return the index of a packed folder. Raises DataError if there is none that this version reads."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}: set data.path to one that `python -m resnet_jax pack` wrote.")
    try:
        index = json.loads((folder / INDEX).read_text())
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} has no {INDEX}: it is not packed, or not to the end; the `python -m resnet_jax pack` that began "
            "it goes on where it was stopped."
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / INDEX} cannot be read ({error}): pack the data again.") from error
    if index.get("format") != FORMAT:
        raise DataError(f"{folder} has format {index.get('format')} and this version reads {FORMAT}: pack it again.")
    return index


def check_size(file: pathlib.Path, size: int) -> None:
    """Raise DataError unless a file is there and has its size in bytes."""
    found = file.stat().st_size if file.is_file() else None
    if found != size:
        has = "is missing" if found is None else f"has {found} bytes"
        raise DataError(f"{file} {has} and should have {size}: copy it again, or pack the data again.")
