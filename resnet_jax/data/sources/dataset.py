"""What every source gives: a training and a test split with random access, class names and channel statistics."""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8

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
class Dataset:
    """Two splits and what one must know to normalise their images and to name their labels.

    Attributes:
      train: what training draws from.
      test: what evaluation counts; called validation in some data sets.
      classes: the name of each label.
      mean: per channel, of training images scaled to 0..1.
      std: likewise.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
