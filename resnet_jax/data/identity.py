"""What identifies a data set: its classes, the number of examples of each split, and a hash of what they are.

The hash covers names, labels and sizes where images are files, since reading them all takes minutes, and the
pixels of in-memory images. It does not depend on the location of the files.
"""

import functools
import hashlib
import os
from typing import Any

import numpy as np

from resnet_jax.data.sources import Arrays, Dataset, Split
from resnet_jax.data.sources.archives import Members
from resnet_jax.data.sources.dataset import Part
from resnet_jax.data.sources.folder import Files
from resnet_jax.data.sources.records import Packed, read_index
from resnet_jax.data.sources.tfds import Prepared

SIZES_TAKEN = 4096  # files of a split whose sizes are asked for, evenly spaced: a million would take minutes


def identity(dataset: Dataset) -> dict[str, Any]:
    """Return what identifies a data set, as JSON values: "classes", and of "train" and "test" the examples and hash."""
    splits = {"train": dataset.train, "test": dataset.test}
    return {"classes": list(dataset.classes)} | {
        name: {"examples": len(split), "hash": fingerprint(split)} for name, split in splits.items()
    }


@functools.singledispatch
def fingerprint(split: Split) -> str | None:
    """Return a hash of what a split holds; None for one of a kind that is not known here."""
    return None


@fingerprint.register
def _(split: Arrays) -> str:
    return _hash(np.array(split.images.shape), split.images, split.labels)


@fingerprint.register
def _(split: Files) -> str:
    width = split.paths.dtype.itemsize
    letters = split.paths.view(np.uint8).reshape(len(split), width)[:, len(split.root) :]
    taken = np.unique(np.linspace(0, len(split) - 1, min(len(split), SIZES_TAKEN), dtype=np.int64))
    return _hash(letters, split.labels, np.array([_size(bytes(split.paths[index])) for index in taken]))


@fingerprint.register
def _(split: Part) -> str | None:
    return fingerprint(split.split)  # the config says which share of it is drawn


@fingerprint.register
def _(split: Members) -> str:
    return _hash(split.names, split.labels, split.sizes)


@fingerprint.register
def _(split: Packed) -> str:
    index = read_index(split.folder)["splits"][split.split]
    return _hash(*(file["sha256"] for file in (*index["shards"], *index["tables"])))


@fingerprint.register
def _(split: Prepared) -> str | None:
    info = getattr(split.examples, "dataset_info", None)
    return _hash(info.full_name) if info is not None else None


def _size(path: bytes) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # named when it is read
        return -1


def _hash(*parts: np.ndarray | str) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
        total.update(b"\0")
    return total.hexdigest()
