"""A folder of image files with a subfolder for each class: the layout of torchvision's ImageFolder."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int32

from resnet_jax.data.sources.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset
from resnet_jax.errors import DataError
from resnet_jax.run.reading import MOST_OF_AN_IMAGE, read_file

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
VALIDATION_FOLDERS = ("val", "valid", "validation")
LAYOUT = "train/ and val/ (or valid/, validation/, test/), each with a folder for each class"

Identity = tuple[int, int]  # a folder's device and inode, the same through any link


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
        return read_file(self.paths[index], MOST_OF_AN_IMAGE), int(self.labels[index])

    def name(self, index: int) -> str:
        """The file's path below the data set's folder: SPLIT/CLASS/FILE."""
        return os.fsdecode(os.path.relpath(self.paths[index], self.root))


def open_folder(path: str | None) -> Dataset:
    """Opens PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg (or valid/, validation/, and else test/).

    Labels count the classes in the order of their names, and examples are in ImageFolder's order: by label, folder and
    name. Files in deeper folders belong to the class above them. Names that start with a dot are ignored, of folders
    and of files. Links are followed, except those that lead to a folder above, to a class, or to a folder that the
    class already has. Without train/, the data set can only be evaluated on.

    Raises:
      DataError: a folder is missing, ambiguous or unreadable, a class has no images, or the two splits have different
        classes.
    """
    if not path:
        raise DataError("The source folder reads image files: set data.path to the folder that holds train/ and val/.")
    root = pathlib.Path(path).expanduser()
    if not os.path.isdir(root):
        raise DataError(f"There is no folder {root}: set data.path to the folder that holds train/ and val/.")
    train, test = root / "train", _test_folder(root)
    if test is None:
        raise DataError(f"{root} must hold {LAYOUT}; it holds {_few(_folders(root)) or 'no folders'}.")

    classes = _classes(train if os.path.isdir(train) else test)
    if classes != _classes(test):
        odd = sorted(set(classes) ^ set(_classes(test)))
        raise DataError(
            f"{train} and {test} must hold folders for the same classes, but these are only in one: {_few(odd)}."
        )
    skipped: list[str] = []
    splits = _files(root, train, classes, skipped), _files(root, test, classes, skipped)
    notes = (f"Not followed, since they lead to folders that are read already: {_few(skipped)}.",) if skipped else ()
    return Dataset(*splits, classes, IMAGENET_MEAN, IMAGENET_STD, (f"{train}", f"{test}"), notes)


def _test_folder(root: pathlib.Path) -> pathlib.Path | None:
    found = [name for name in VALIDATION_FOLDERS if os.path.isdir(root / name)]
    if len(found) > 1:
        raise DataError(f"{root} holds {_few(found)}, any of which may be for validation: keep one, rename the others.")
    found += ["test"] if os.path.isdir(root / "test") else []
    return root / found[0] if found else None


def _folders(folder: pathlib.Path) -> list[str]:
    """Return the names of the folders in a folder, except the hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise _unreadable(error) from error


def _classes(split: pathlib.Path) -> tuple[str, ...]:
    names = _folders(split)
    if dangling := [name for name in os.listdir(split) if not os.path.exists(split / name)]:
        raise DataError(f"Links in {split} lead nowhere: {_few(sorted(dangling))}; mend or remove them.")
    if not names:
        raise DataError(
            f"There are no images in {split}: put a folder for each class into it, with image files inside."
        )
    return tuple(names)


def _files(root: pathlib.Path, split: pathlib.Path, classes: tuple[str, ...], skipped: list[str]) -> Files:
    """Return the images of a split, none where its folder is missing; links not followed are added to `skipped`."""
    folders = [split / name for name in classes] if os.path.isdir(split) else []
    above = {_identity(folder) for folder in [*folders, *([split, *split.resolve().parents] if folders else [])]}
    by_class = [_images(folder, above, skipped) for folder in folders]
    empty = [name for name, paths in zip(classes, by_class, strict=False) if not paths]
    if empty:
        raise DataError(
            f"There are no images in {split} for {_few(empty)}: add files ending in {', '.join(EXTENSIONS)}."
        )
    labels = np.repeat(np.arange(len(by_class), dtype=np.int32), [len(paths) for paths in by_class])
    return Files(np.array([os.fsencode(path) for paths in by_class for path in paths]), labels, os.fsencode(root))


def _images(folder: pathlib.Path, above: set[Identity], skipped: list[str]) -> list[str]:
    """Return the paths of the images in a class's folder, each folder once, and none of `above` but itself."""
    read, found = set(above), []

    def is_new(inner: str) -> bool:
        identity = _identity(inner)
        if identity in read:
            skipped.append(inner)
            return False
        read.add(identity)
        return True

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        folders[:] = [name for name in sorted(folders) if name[0] != "." and is_new(os.path.join(parent, name))]
        found.append((parent, sorted(name for name in names if name[0] != "." and name.lower().endswith(EXTENSIONS))))
    return [os.path.join(parent, name) for parent, names in sorted(found) for name in names]


def _identity(folder: str | os.PathLike) -> Identity:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _unreadable(error) from error
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> None:
    raise _unreadable(error) from error


def _unreadable(error: OSError) -> DataError:
    return DataError(f"The folder {error.filename} cannot be read ({error.strerror}): mend it, or leave it out.")


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
