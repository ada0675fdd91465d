"""What every source gives: a training and a test split with random access, class names and channel statistics."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from resnet_jax.errors import DataError
from resnet_jax.printable import printable

# Of the ILSVRC2012 training images scaled to 0..1, as in torchvision's reference training; every source without
# published statistics of its own uses them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@runtime_checkable
class Split(Protocol):
    """Examples with random access; it can be pickled, since it travels to worker processes."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int) -> tuple[np.ndarray | bytes, int]:
        """One image, as uint8 (height, width, channels) or as the bytes of its encoded file, and its label."""
        ...

    def name(self, index: int) -> str:
        """What the user knows an example by: a file's name below the data set's folder, where it has one."""
        ...


def example(split: Split, index: int) -> tuple[np.ndarray | bytes, int]:
    """Return `split[index]`. Raises DataError, without the example's name, where its file cannot be read."""
    try:
        return split[index]
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{reason[0].lower()}{reason[1:]}; restore the file, or remove it from the data.") from error


def transformed(split: Split, index: int, transform: Callable[..., np.ndarray], *rest: Any) -> tuple[np.ndarray, int]:
    """Return `transform(image, *rest)` of an example, and its label.

    Raises DataError, with the example's name, where it cannot be read or decoded.
    """
    try:
        image, label = example(split, index)
        return transform(image, *rest), label
    except DataError as error:
        raise DataError(f"{split.name(index)} cannot be read: {error}") from error


def check_dataset(source: str, dataset: Any) -> "Dataset":
    """Return what a source of the user's returned. Raises DataError for what no run can read, saying what."""

    def refuse(what: str):
        raise DataError(f"the data source {source!r} returns {what}.")

    if not isinstance(dataset, Dataset):
        refuse(f"{type(dataset).__name__}: return a resnet_jax.data.sources.Dataset")
    if not dataset.classes or not all(isinstance(name, str) for name in dataset.classes):
        refuse("no names of classes: give one text for each label")
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        if isinstance(split, Arrays):
            images, labels = split.images, split.labels
            if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
                found = f"{getattr(images, 'dtype', type(images).__name__)} {getattr(images, 'shape', '')}".strip()
                refuse(f"{name} images of {found}: give uint8 (examples, height, width, channels)")
            if not isinstance(labels, np.ndarray) or labels.dtype != np.int32 or labels.shape != images.shape[:1]:
                found = f"{getattr(labels, 'dtype', type(labels).__name__)} {getattr(labels, 'shape', '')}".strip()
                refuse(f"{name} labels of {found}: give int32 ({len(images)},)")
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(dataset.classes):
                refuse(f"{name} labels of {labels.min()} to {labels.max()}, and has {len(dataset.classes)} classes")
        elif not isinstance(split, Split):
            refuse(f"a {name} split of {type(split).__name__}: give Arrays, or __len__, __getitem__ and name")
    if not len(dataset.test):
        refuse("no test images: give at least one")
    return dataset


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """A split that fits into memory."""

    images: UInt8[np.ndarray, "examples height width channels"]
    labels: Int32[np.ndarray, " examples"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])

    def name(self, index: int) -> str:
        """The example's number: arrays have no names."""
        return f"example {index}"


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Some examples of a split."""

    split: Split
    indices: Int64[np.ndarray, " examples"]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[np.ndarray | bytes, int]:
        return self.split[int(self.indices[index])]

    def name(self, index: int) -> str:
        """The example's name in the split."""
        return self.split.name(int(self.indices[index]))


def share(split: Split, fraction: float, seed: int) -> Split:
    """Return a random share of a split's examples, in their order, and at least one of them.

    Every example has the same chance, whatever its class. The same seed draws the same examples, and with a larger
    fraction these and more.
    """
    if not len(split):
        return split
    drawn = np.random.Generator(np.random.Philox(key=[seed, 2**62])).permutation(len(split))
    indices = np.sort(drawn[: max(1, round(fraction * len(split)))])
    if isinstance(split, Arrays):
        return Arrays(split.images[indices], split.labels[indices])
    return Part(split, indices)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Two splits and what one must know to normalise their images and to name their labels.

    Attributes:
      train: what training draws from; empty where there are only examples to evaluate on.
      test: what evaluation counts; called validation in some data sets.
      classes: the name of each label.
      mean: per channel, of training images scaled to 0..1.
      std: likewise.
      places: where each split was found, for the user to read.
      skipped: what was found and not read, for the user to read.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    places: tuple[str, str] = ("the training split", "the test split")
    skipped: tuple[str, ...] = ()

    @property
    def description(self) -> tuple[str, ...]:
        """What was found, in sentences: each split with its place, its number of images and of classes."""
        found = zip(("train on", "evaluate on"), (self.train, self.test), self.places, strict=True)
        parts = [f"{what} the {len(split):,} images in {place}" for what, split, place in found if len(split)]
        lines = [f"Data: {', '.join(parts)}; {len(self.classes):,} classes.", *self.skipped]
        return tuple(printable(line, 500) for line in lines)
