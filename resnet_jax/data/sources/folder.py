"""A folder of image files with a subfolder for each class: the layout of torchvision's ImageFolder."""

import dataclasses
import os
import pathlib

import numpy as np
from jaxtyping import Int32

from resnet_jax.data.sources.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset
from resnet_jax.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TEST_FOLDERS = ("val", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """A split of encoded image files, read when asked for."""

    # One array of bytes, not a million Python strings: these would be copied page by page into each worker process.
    paths: np.ndarray
    labels: Int32[np.ndarray, " examples"]
    root: bytes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        with open(self.paths[index], "rb") as file:
            return file.read(), int(self.labels[index])

    def name(self, index: int) -> str:
        """The file's path below the split's folder."""
        return os.fsdecode(os.path.relpath(self.paths[index], self.root))


def open_folder(path: str | None) -> Dataset:
    """Opens PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg (or validation/, or test/).

    Labels count the classes in the order of their names, and examples are in ImageFolder's order: by label, folder and
    name. Files in deeper folders belong to the class above them. Classes and files that start with a dot are ignored.

    Raises:
      DataError: a folder is missing, a class has no images, or the two splits have different classes.
    """
    if not path:
        raise DataError("The source folder reads image files: set data.path to the folder that holds train/ and val/.")
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"There is no folder {root}: set data.path to the folder that holds train/ and val/.")
    train = root / "train"
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if not train.is_dir() or test is None:
        raise DataError(
            f"{root} must hold train/ and val/ (or validation/, or test/), each with a folder for each class."
        )

    classes, test_classes = _classes(train), _classes(test)
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))
        raise DataError(
            f"{train} and {test} must hold folders for the same classes, but these are only in one: {_few(odd)}."
        )
    return Dataset(_files(train, classes), _files(test, classes), classes, IMAGENET_MEAN, IMAGENET_STD)


def _classes(split: pathlib.Path) -> tuple[str, ...]:
    with os.scandir(split) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(
            f"There are no images in {split}: put a folder for each class into it, with image files inside."
        )
    return tuple(names)


def _files(split: pathlib.Path, classes: tuple[str, ...]) -> Files:
    by_class = [_images(split / name) for name in classes]
    empty = [name for name, paths in zip(classes, by_class, strict=True) if not paths]
    if empty:
        raise DataError(
            f"There are no images in {split} for {_few(empty)}: add files ending in {', '.join(EXTENSIONS)}."
        )
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(paths) for paths in by_class])
    return Files(np.array([os.fsencode(path) for paths in by_class for path in paths]), labels, os.fsencode(split))


def _images(folder: pathlib.Path) -> list[str]:
    return [
        os.path.join(parent, name)
        for parent, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
    ]


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
